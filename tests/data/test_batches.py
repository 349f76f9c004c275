"""Batches: who gets which clip, in which order, and that the number of workers changes nothing."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slowfast_ray.data import augment, clips, dataset
from slowfast_ray.data.batches import Batch, Batches, draw_weights
from slowfast_ray.data.config import DataConfig
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.data.samples import Split
from tests.data.conftest import pictures, write_dataset

# Shapes: B clips of a worker, S samples, N frames.

CPU = torch.device("cpu")
PLAIN = DataConfig(
    clip_len=4, flip_prob=0, max_shift=0, min_crop=1, gain_jitter=0, offset_jitter_celsius=0, erase_prob=0
)
"""Nothing varies, so that a clip tells which sample it is."""

VARIED = DataConfig(clip_len=4, height=12, width=10, erase_prob=0.5)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 samples that train and 11 that validate, one at every second frame; a frame's temperature is its number."""
    noise_HW = np.random.default_rng(0).random((8, 9))
    frames_NHW = (15 + 0.1 * np.arange(2 * (23 + 11))[:, None, None] + noise_HW).astype(np.float32)
    times = (170 * np.arange(len(frames_NHW))).tolist()
    return write_dataset(
        tmp_path_factory.mktemp("data") / "numbers",
        {"a": (frames_NHW[:46], times[:46]), "b": (frames_NHW[46:], times[46:])},
        train=[("a", 2 * i, [i]) for i in range(23)],  # each label is the sample's number
        val=[("b", 2 * i, [i]) for i in range(11)],
        classes=[str(i) for i in range(23)],
    )


@pytest.fixture(scope="module")
def data(root: Path) -> Dataset:
    return dataset.load(DataConfig(root=str(root)))


def first_of(split: Split) -> Split:
    """A split of one sample only."""
    tensors = {name: getattr(split, name)[:1] for name in ("ids", "keyframes_S", "firsts_S", "lasts_S", "labels_S")}
    return replace(split, **tensors, blocks_S=split.blocks_S[:1])


def batches(data: Dataset, config: DataConfig = VARIED, **changes: Any) -> Batches:
    return Batches(data, config, **{"batch_size": 6, "seed": 0, "device": CPU, **changes})


def labels(found: list[Batch]) -> list[list[int]]:
    return [batch.label_B.tolist() for batch in found]


def order(reader: Batches, epoch: int) -> list[int]:
    """The samples of an epoch, one after the other."""
    return [label for batch in labels(list(reader.train(epoch))) for label in batch]


def assert_equal(found: list[Batch], expected: list[Batch]) -> None:
    assert labels(found) == labels(expected)
    assert [batch.index_B.tolist() for batch in found] == [batch.index_B.tolist() for batch in expected]
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.clip_B1THW, theirs.clip_B1THW, rtol=0, atol=1e-5)


def joined(per_worker: list[list[Batch]]) -> list[Batch]:
    """The batches of all workers, put together step by step."""
    return [
        Batch(
            torch.cat([share.clip_B1THW for share in step]),
            torch.cat([share.label_B for share in step]),
            torch.cat([share.index_B for share in step]),
        )
        for step in zip(*per_worker, strict=True)
    ]


def test_an_epoch_takes_each_sample_once_at_most_and_full_batches_only(data: Dataset) -> None:
    reader = batches(data)
    assert reader.num_train_steps == 3
    for epoch in (1, 2, 3):
        found = list(reader.train(epoch))
        assert [len(batch.label_B) for batch in found] == [6, 6, 6]
        assert [batch.clip_B1THW.shape for batch in found] == [(6, 1, 4, 12, 10)] * 3
        assert len(set(order(reader, epoch))) == 18
    # A batch size that divides the set: a permutation.
    (whole,) = labels(list(batches(data, batch_size=23).train(1)))
    assert sorted(whole) == list(range(23))
    assert whole != sorted(whole)


def test_each_epoch_has_its_own_order_and_leaves_others_out(data: Dataset) -> None:
    orders = [order(batches(data), epoch) for epoch in range(1, 13)]
    assert len({tuple(each) for each in orders}) == 12
    # Five samples of 23 are left out of each epoch: over twelve of them nobody is forgotten or preferred much.
    taken = Counter(label for each in orders for label in each)
    assert set(taken) == set(range(23))
    assert min(taken.values()) >= 5


def test_clips_belong_to_their_labels(data: Dataset) -> None:
    # Epochs, shares and splits through the plain way: keyframe -> indices -> frames -> evaluation's preparation.
    reader = batches(data, PLAIN, rank=1, num_workers=2)
    for part, found in ((data.train, list(reader.train(4))), (data.val, list(reader.val()))):
        assert found
        for batch in found:
            assert batch.index_B.tolist() == batch.label_B.tolist()  # each label is the sample's number
            assert torch.equal(part.labels_S[batch.index_B], batch.label_B)
            expected_BT = clips.frame_indices(
                part.keyframes_S[batch.label_B], part.firsts_S[batch.label_B], part.lasts_S[batch.label_B],
                clip_len=4, frame_interval=PLAIN.frame_interval,
            )  # fmt: skip
            expected = augment.prepare(clips.gather(data.frames_NHW, expected_BT), PLAIN)
            torch.testing.assert_close(batch.clip_B1THW, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("num_workers", [2, 3])
def test_workers_share_exactly_the_batches_of_a_single_one(data: Dataset, num_workers: int) -> None:
    alone = list(batches(data).train(3))
    shares = [list(batches(data, rank=rank, num_workers=num_workers).train(3)) for rank in range(num_workers)]
    assert {len(batch.label_B) for share in shares for batch in share} == {6 // num_workers}
    assert_equal(joined(shares), alone)


@pytest.mark.parametrize("num_workers", [1, 2, 3, 4, 11])
def test_validation_takes_every_sample_exactly_once_over_all_workers(data: Dataset, num_workers: int) -> None:
    shares = [
        [label for batch in batches(data, rank=rank, num_workers=num_workers).val() for label in batch.label_B.tolist()]
        for rank in range(num_workers)
    ]
    assert sorted(label for share in shares for label in share) == list(range(11))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_validation_varies_nothing_and_keeps_its_order(data: Dataset) -> None:
    reader = batches(data)
    first, again = list(reader.val()), list(reader.val())
    assert_equal(first, again)
    assert labels(first) == [list(range(6)), list(range(6, 11))]
    assert_equal(list(batches(data, seed=5).val()), first)


def test_equal_seeds_give_equal_batches(data: Dataset) -> None:
    for epoch in (1, 7):
        for mine, theirs in zip(batches(data, seed=4).train(epoch), batches(data, seed=4).train(epoch), strict=True):
            assert torch.equal(mine.clip_B1THW, theirs.clip_B1THW)
            assert torch.equal(mine.label_B, theirs.label_B)


def test_an_epoch_depends_on_no_epoch_before_it(data: Dataset) -> None:
    # A run that goes on after a stop reads what it would have read.
    reader = batches(data)
    for epoch in (1, 2):
        list(reader.train(epoch))
    torch.rand(5)  # nor on the global generator
    assert_equal(list(reader.train(3)), list(batches(data).train(3)))


def test_seeds_epochs_and_steps_vary_a_clip_apart(data: Dataset) -> None:
    # The same clip under many (seed, epoch, step): no two see it alike, neighbouring numbers included.
    one = replace(data, train=first_of(data.train))
    still = replace(VARIED, erase_prob=0, min_crop=0.5)
    seen = [
        next(iter(batches(one, still, batch_size=1, seed=seed).train(epoch))).clip_B1THW
        for seed in range(5)
        for epoch in range(1, 6)
    ]
    repeated = replace(data.train, keyframes_S=torch.zeros(23, dtype=torch.int64))
    steps = [batch.clip_B1THW for batch in batches(replace(data, train=repeated), still, batch_size=1).train(1)]
    torch.testing.assert_close(steps[0], seen[0], rtol=0, atol=1e-5)  # seed 0, epoch 1, step 1: the one that is there
    seen += steps[1:]
    flat = torch.stack([clip.flatten() for clip in seen])
    distances = (flat[:, None] - flat[None]).abs().amax(dim=2)
    distances.fill_diagonal_(1)
    assert distances.min() > 1e-4


def test_seeds_give_other_orders(data: Dataset) -> None:
    orders = {tuple(order(batches(data, seed=seed), 1)) for seed in range(20)}
    assert len(orders) == 20
    assert list(batches(data, seed=2**80).train(1))  # any whole number is a seed


def test_a_batch_larger_than_the_training_set_has_no_step(data: Dataset) -> None:
    reader = batches(data, batch_size=24)
    assert reader.num_train_steps == 0
    assert list(reader.train(1)) == []


def test_the_made_up_dataset_passes_through(made_up_root: Path) -> None:
    config = DataConfig(root=str(made_up_root), clip_len=8, frame_interval=2, height=20, width=30)
    data = dataset.load(config)
    reader = batches(data, config, batch_size=8)
    batch = next(reader.train(1))
    assert batch.clip_B1THW.shape == (8, 1, 8, 20, 30)
    assert batch.clip_B1THW.isfinite().all()
    # Normalised grey values reach from (0 - 0.45) / 0.225 to (1 - 0.45) / 0.225.
    assert -2 - 1e-5 <= batch.clip_B1THW.min() < batch.clip_B1THW.max() <= 0.55 / 0.225 + 1e-5
    assert batch.label_B.dtype == torch.int64
    assert sum(len(each.label_B) for each in reader.val()) == len(data.val)


# Clips by the clock


def test_clips_by_the_clock_show_the_frames_of_their_times(root: Path) -> None:
    config = replace(PLAIN, root=str(root), clip_len=4, frame_interval_ms=340.0)
    data = dataset.load(config)
    assert data.clock is not None
    for mine, theirs in zip(
        batches(data, config).train(1), batches(data, replace(PLAIN, frame_interval=2)).train(1), strict=True
    ):
        torch.testing.assert_close(mine.clip_B1THW, theirs.clip_B1THW)  # frames are 170 ms apart


# Classes drawn alike


def test_draw_weights_agree_with_a_calculation_by_hand() -> None:
    labels_S = torch.tensor([0, 0, 0, 0, 2, 2, 3])  # 4, 0, 2 and 1 samples
    for balance, expected in (
        (0.0, [1, 1, 1, 1, 1, 1, 1]),
        (1.0, [1 / 4, 1 / 4, 1 / 4, 1 / 4, 1 / 2, 1 / 2, 1]),
        (0.5, [1 / 2, 1 / 2, 1 / 2, 1 / 2, 2**-0.5, 2**-0.5, 1]),
    ):
        found_S = draw_weights(labels_S, 4, balance)
        assert found_S.dtype == torch.float64
        torch.testing.assert_close(found_S, torch.tensor(expected, dtype=torch.float64))


def test_a_sample_of_several_labels_weighs_as_they_do_on_average() -> None:
    # Class 0 three times, class 1 twice, class 2 once, class 3 never.
    labels_SK = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]])
    for balance, expected in (
        (0.0, [1, 1, 1]),
        (1.0, [1 / 3, (1 / 3 + 1 / 2) / 2, (1 / 3 + 1 / 2 + 1) / 3]),
        (0.5, [3**-0.5, (3**-0.5 + 2**-0.5) / 2, (3**-0.5 + 2**-0.5 + 1) / 3]),
    ):
        torch.testing.assert_close(draw_weights(labels_SK, 4, balance), torch.tensor(expected, dtype=torch.float64))


def rare(data: Dataset) -> Dataset:
    """18 samples of class 0, 4 of class 1, 1 of class 2."""
    labels_S = torch.tensor([0] * 18 + [1] * 4 + [2])
    return replace(data, train=replace(data.train, labels_S=labels_S))


@pytest.mark.parametrize("balance", [0.5, 1.0])
def test_classes_come_as_often_as_the_balance_asks(data: Dataset, balance: float) -> None:
    config = replace(PLAIN, height=2, width=2, class_balance=balance)
    reader = batches(rare(data), config, batch_size=23)
    indices = torch.cat([batch.index_B for epoch in range(1, 401) for batch in reader.train(epoch)])
    assert len(indices) == 400 * 23  # an epoch stays as long as it was
    expected_K = torch.tensor([18.0, 4.0, 1.0]) ** (1 - balance)
    expected_K = expected_K / expected_K.sum()
    found_K = torch.bincount(rare(data).train.labels_S[indices], minlength=3) / len(indices)
    torch.testing.assert_close(found_K, expected_K, rtol=0, atol=0.025)
    # And within a class, all its samples alike.
    found_S = torch.bincount(indices, minlength=23)[:18] / len(indices)
    torch.testing.assert_close(found_S, expected_K[0].expand(18) / 18, rtol=0, atol=0.012)


def test_without_balance_every_sample_comes_once(data: Dataset) -> None:
    (batch,) = batches(rare(data), PLAIN, batch_size=23).train(1)
    assert sorted(batch.index_B.tolist()) == list(range(23))


def test_balanced_draws_are_shared_among_workers_and_repeat(data: Dataset) -> None:
    config = replace(VARIED, class_balance=0.7)
    alone = list(batches(rare(data), config).train(3))
    shares = [list(batches(rare(data), config, rank=rank, num_workers=2).train(3)) for rank in range(2)]
    assert_equal(joined(shares), alone)
    assert_equal(list(batches(rare(data), config).train(3)), alone)
    assert order(batches(rare(data), config), 4) != [label for batch in labels(alone) for label in batch]


# Several labels


def test_all_labels_of_a_keyframe_stand_in_the_batch(tmp_path: Path) -> None:
    people = [[0], [1, 0, 1], [2], [0, 2]]
    root = write_dataset(
        tmp_path / "data",
        {"a": (pictures(range(40)), None), "b": (pictures(range(100, 140)), None)},
        train=[("a", 10 * i, everybody) for i, everybody in enumerate(people)],
        val=[("b", 5, [1, 2])],
    )
    config = replace(PLAIN, root=str(root), labels="multi", class_balance=0.5)
    reader = batches(dataset.load(config), config, batch_size=2)
    (val,) = reader.val()
    assert val.label_B.dtype == torch.float32
    assert val.label_B.tolist() == [[0, 1, 1]]
    for batch in reader.train(1):
        expected = [[float(k in people[i]) for k in range(3)] for i in batch.index_B.tolist()]
        assert batch.label_B.tolist() == expected


# People


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warm dot of 3 x 3 pixels that crosses a picture of 40 x 60, and another that stays in a corner."""
    num_frames = 41
    frames_NHW = np.full((num_frames, 40, 60), 15, np.float32)
    for n in range(num_frames):
        frames_NHW[n, 19:22, 9 + n : 12 + n] = 34  # its middle at (10.5 + n, 20.5) pixels
        frames_NHW[n, 2:5, 52:55] = 25
        frames_NHW[n, 39, 0] = 15.1 + 0.01 * n  # every frame another
    boxes = [[(10.5 + n) / 60, 20.5 / 40, 6 / 60, 4 / 40] for n in (0, 40)]
    stays = {"category_id": 1, "object_id": 2, "bbox": [53.5 / 60, 3.5 / 40, 3 / 60, 4 / 40]}
    train = [
        ("a", n, [{"category_id": 0, "object_id": 1, "bbox": box}, stays])
        for n, box in zip((0, 40), boxes, strict=True)
    ]
    frames_b = frames_NHW + np.float32(0.5)
    val = [("b", 20, [{"category_id": 0, "bbox": [30.5 / 60, 20.5 / 40, 6 / 60, 4 / 40]}])]  # cannot be followed
    films = {"a": (frames_NHW, None), "b": (frames_b, None)}
    return write_dataset(tmp_path_factory.mktemp("data") / "walk", films, train, val)


def warm(clip_BTHW: torch.Tensor) -> torch.Tensor:
    """bool, as the clip: what is nearer to the warmest pixel of its frame than to the coldest."""
    return clip_BTHW > (clip_BTHW.amax(dim=(2, 3), keepdim=True) + clip_BTHW.amin(dim=(2, 3), keepdim=True)) / 2


def middle_of_warmth(clip_BTHW: torch.Tensor) -> torch.Tensor:
    """[B, T, 2]: x and y of the mean of the warm pixels, as fractions of the picture."""
    is_bright = warm(clip_BTHW)
    height, width = clip_BTHW.shape[2:]
    x_W, y_H = (torch.arange(width) + 0.5) / width, (torch.arange(height) + 0.5) / height
    total = is_bright.sum(dim=(2, 3))
    return torch.stack(
        [(is_bright * x_W).sum(dim=(2, 3)) / total, (is_bright * y_H[:, None]).sum(dim=(2, 3)) / total], dim=2
    )


def test_a_crop_follows_its_person_and_keeps_them_in_the_middle(walk: Path) -> None:
    config = replace(
        PLAIN, root=str(walk), labels="person", clip_len=8, frame_interval=5, height=32, width=32, person_margin=1.0
    )
    data = dataset.load(config)
    assert data.train.ids == ("0#0", "0#1", "1#0", "1#1")
    (batch,) = batches(data, config, batch_size=4).train(1)
    middle_BT2 = middle_of_warmth(batch.clip_B1THW[:, 0])
    assert (middle_BT2 - 0.5).abs().max() < 0.03  # a pixel of 32
    for size_T, index in zip(warm(batch.clip_B1THW[:, 0]).sum(dim=(2, 3)), batch.index_B.tolist(), strict=True):
        # The longer side of the box, 6 pixels, and as much again make 12 on 32, so that the dot of 3 x 3 covers 8 x 8.
        # The other's box is 4 high, its crop is of 8, and the dot covers 12 x 12.
        side = (8, 12)[index % 2]
        assert ((side - 1) ** 2 <= size_T).all()
        assert (size_T <= (side + 1) ** 2).all()


def test_a_crop_of_somebody_without_a_number_stays(walk: Path) -> None:
    config = replace(
        PLAIN, root=str(walk), labels="person", clip_len=8, frame_interval=1, height=32, width=32, person_margin=1.0
    )
    (val,) = batches(dataset.load(config), config, batch_size=4).val()
    # The dot goes a pixel of 12 a frame, and stands in the middle at the keyframe.
    expected_T2 = torch.stack([0.5 + (torch.arange(8) - 4) / 12, torch.full((8,), 0.5)], dim=1)
    torch.testing.assert_close(middle_of_warmth(val.clip_B1THW[:, 0])[0], expected_T2, rtol=0, atol=0.02)


def test_a_crop_has_the_shape_that_the_model_sees(walk: Path) -> None:
    # Twice as wide as high: the box with its margin fills the height, and the dot stays square.
    config = replace(
        PLAIN, root=str(walk), labels="person", clip_len=2, height=24, width=48, person_margin=1.0, frame_interval=1
    )
    (batch,) = batches(dataset.load(config), config, batch_size=4).val()
    rows, columns = warm(batch.clip_B1THW[:, 0])[0, 1].nonzero().T
    assert int(rows.max() - rows.min()) == pytest.approx(int(columns.max() - columns.min()), abs=1)
    assert int(rows.max() - rows.min()) + 1 == pytest.approx(3 / 12 * 24, abs=2)


@pytest.mark.parametrize("config", [PLAIN, VARIED])
def test_workers_share_the_crops_of_people(walk: Path, config: DataConfig) -> None:
    config = replace(config, root=str(walk), labels="person")
    data = dataset.load(config)
    shares = [list(batches(data, config, batch_size=4, rank=rank, num_workers=2).train(2)) for rank in range(2)]
    assert_equal(joined(shares), list(batches(data, config, batch_size=4).train(2)))
