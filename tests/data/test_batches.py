"""Batches: who gets which clip, in which order, and that the number of workers changes nothing."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from slowfast_ray.data import augment, clips, dataset
from slowfast_ray.data.batches import Batch, Batches
from slowfast_ray.data.config import DataConfig
from slowfast_ray.data.dataset import Dataset, Split

# Shapes: B clips of a worker, S samples, N frames.

CPU = torch.device("cpu")
PLAIN = DataConfig(
    clip_len=4, flip_prob=0, max_shift=0, min_crop=1, gain_jitter=0, offset_jitter_celsius=0, erase_prob=0
)
"""Nothing varies, so that a clip tells which sample it is."""

VARIED = DataConfig(clip_len=4, height=12, width=10, erase_prob=0.5)


def split(num_samples: int, first_frame: int) -> Split:
    """Samples at every second frame of one recording; each label is the sample's number."""
    ones_S = torch.ones(num_samples, dtype=torch.int64)
    return Split(
        ids=tuple(str(i) for i in range(num_samples)),
        keyframes_S=first_frame + 2 * torch.arange(num_samples),
        firsts_S=first_frame * ones_S,
        lasts_S=(first_frame + 2 * num_samples - 1) * ones_S,
        labels_S=torch.arange(num_samples),
    )


@pytest.fixture(scope="module")
def data() -> Dataset:
    """23 samples that train and 11 that validate; a frame's temperature is its number."""
    num_frames = 2 * (23 + 11)
    celsius_N = 15 + 0.1 * torch.arange(num_frames, dtype=torch.float32)
    noise_HW = torch.rand(8, 9, generator=torch.Generator().manual_seed(0))
    return Dataset(
        root=Path("made up"),
        classes=tuple(str(i) for i in range(23)),
        frames_NHW=celsius_N[:, None, None] + noise_HW,
        train=split(23, 0),
        val=split(11, 2 * 23),
        num_recordings=2,
        num_dead_pixels=0,
        num_ties=0,
    )


def batches(data: Dataset, config: DataConfig = VARIED, **changes: Any) -> Batches:
    return Batches(data, config, **{"batch_size": 6, "seed": 0, "device": CPU, **changes})


def labels(found: list[Batch]) -> list[list[int]]:
    return [batch.label_B.tolist() for batch in found]


def order(reader: Batches, epoch: int) -> list[int]:
    """The samples of an epoch, one after the other."""
    return [label for batch in labels(list(reader.train(epoch))) for label in batch]


def assert_equal(found: list[Batch], expected: list[Batch]) -> None:
    assert labels(found) == labels(expected)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.clip_B1THW, theirs.clip_B1THW, rtol=0, atol=1e-5)


def joined(per_worker: list[list[Batch]]) -> list[Batch]:
    """The batches of all workers, put together step by step."""
    return [
        Batch(torch.cat([share.clip_B1THW for share in step]), torch.cat([share.label_B for share in step]))
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
    one = replace(data, train=split(1, 0))
    still = replace(VARIED, erase_prob=0, min_crop=0.5)
    seen = [
        next(iter(batches(one, still, batch_size=1, seed=seed).train(epoch))).clip_B1THW
        for seed in range(5)
        for epoch in range(1, 6)
    ]
    repeated = replace(data.train, keyframes_S=torch.zeros(23, dtype=torch.int64))
    seen += [batch.clip_B1THW for batch in batches(replace(data, train=repeated), still, batch_size=1).train(1)]
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
    data = dataset.load(str(made_up_root))
    reader = batches(data, DataConfig(clip_len=8, frame_interval=2, height=20, width=30), batch_size=8)
    batch = next(reader.train(1))
    assert batch.clip_B1THW.shape == (8, 1, 8, 20, 30)
    assert batch.clip_B1THW.isfinite().all()
    # Normalised grey values reach from (0 - 0.45) / 0.225 to (1 - 0.45) / 0.225.
    assert -2 - 1e-5 <= batch.clip_B1THW.min() < batch.clip_B1THW.max() <= 0.55 / 0.225 + 1e-5
    assert batch.label_B.dtype == torch.int64
    assert sum(len(each.label_B) for each in reader.val()) == len(data.val)
