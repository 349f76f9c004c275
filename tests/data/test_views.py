"""Views: which looks there are, which frames and which part of them each shows, and what shifted clips leak."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from slowfast_ray.data import augment, clips, dataset, views
from slowfast_ray.data.batches import Batches
from slowfast_ray.data.clips import Clock
from slowfast_ray.data.config import DataConfig
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.data.views import View
from tests.data.conftest import write_dataset

# Shapes: B clips, S samples, T frames of a clip, H and W height and width.

CPU = torch.device("cpu")
CONFIG = DataConfig(clip_len=4, frame_interval=2, height=8, width=10)
"""A window of 8 frames, of which a quarter is 2."""


def moved(
    shift: float, keyframes: list[int], last: int, config: DataConfig = CONFIG, clock: Clock | None = None
) -> list[int]:
    keyframes_B = torch.tensor(keyframes)
    bounds = torch.zeros_like(keyframes_B), torch.full_like(keyframes_B, last)
    return View(shift).moved(keyframes_B, *bounds, clock, config).tolist()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Two recordings of 100 frames, an hour apart. Frame 40 of each validates; 28 and 60, or 10, train."""
    frames_NHW = (15 + 10 * np.random.default_rng(0).random((200, 8, 10))).astype(np.float32)
    times = np.arange(200) * 170 + np.repeat([0, 3_600_000], 100)
    root = write_dataset(
        tmp_path_factory.mktemp("data") / "two",
        {"a": (frames_NHW[:100], times[:100].tolist()), "b": (frames_NHW[100:], times[100:].tolist())},
        train=[("a", 28, [0]), ("a", 60, [1]), ("b", 10, [0])],
        val=[("a", 40, [0]), ("b", 40, [1])],
    )
    return dataset.load(replace(CONFIG, root=str(root)))


def test_clips_lie_evenly_around_the_keyframe_and_crops_along_the_side() -> None:
    assert views.views(1, 1) == (View(),)
    assert [view.clip_shift for view in views.views(5, 1)] == [-0.25, -0.125, 0.0, 0.125, 0.25]
    assert [view.clip_shift for view in views.views(2, 1)] == [-0.25, 0.25]
    assert [(view.clip_shift, view.crop) for view in views.views(2, 3)] == [
        (shift, crop) for shift in (-0.25, 0.25) for crop in (-1.0, 0.0, 1.0)
    ]
    assert len(views.views(10, 3)) == len(set(views.views(10, 3))) == 30


@pytest.mark.parametrize(
    ("num_clips", "num_crops", "law"),
    [
        (0, 1, r"`clips` \(=0\) must be within 1\.\.10"),
        (11, 1, r"`clips` \(=11\)"),
        (-1, 3, r"`clips`"),
        (3, 2, r"`crops` \(=2\) must be 1 .* or 3"),
        (3, 0, "`crops`"),
    ],
)
def test_other_numbers_are_refused(num_clips: int, num_crops: int, law: str) -> None:
    with pytest.raises(ValueError, match=law):
        views.views(num_clips, num_crops)


def test_a_shift_counts_frames_of_the_window_and_stays_in_the_recording() -> None:
    assert moved(0.25, [0, 10, 18, 19], last=19) == [2, 12, 19, 19]
    assert moved(-0.25, [0, 1, 10, 19], last=19) == [0, 0, 8, 17]
    assert moved(0.0, [0, 10], last=19) == [0, 10]


def test_by_the_clock_a_shift_counts_milliseconds() -> None:
    # A quarter of 4 x 100 ms; frames come slowly at first, and two of them at one time.
    times_N = torch.tensor([0, 300, 400, 500, 500, 560, 600])
    clock = Clock.of(times_N, torch.tensor([0]))
    config = replace(CONFIG, frame_interval_ms=100.0)
    assert moved(0.25, [1, 2, 6], last=6, config=config, clock=clock) == [2, 3, 6]
    assert moved(-0.25, [2, 1, 0], last=6, config=config, clock=clock) == [1, 1, 0]
    assert moved(0.0, [3, 4], last=6, config=config, clock=clock) == [3, 4]


def clip_of(data: Dataset, view: View | None, config: DataConfig) -> torch.Tensor:
    (batch,) = Batches(data, config, batch_size=2, seed=0, device=CPU).val(view)
    assert batch.index_B.tolist() == [0, 1]
    assert batch.label_B.tolist() == [0, 1]
    return batch.clip_B1THW


def test_a_shifted_clip_is_the_clip_around_the_shifted_keyframe(data: Dataset) -> None:
    split = data.val
    expected_BT = clips.frame_indices(
        split.keyframes_S + 2, split.firsts_S, split.lasts_S, clip_len=4, frame_interval=2
    )
    expected = augment.prepare(clips.gather(data.frames_NHW, expected_BT), data.config)
    assert torch.equal(clip_of(data, View(0.25), data.config), expected)
    assert torch.equal(clip_of(data, View(), data.config), clip_of(data, None, data.config))


@pytest.mark.parametrize("place", [-1, 0, 1])
@pytest.mark.parametrize(("height", "width"), [(8, 10), (10, 8)])
def test_a_crop_is_cut_along_the_longer_side_of_what_the_model_sees(
    data: Dataset, place: int, height: int, width: int
) -> None:
    # Half of each side (min_crop near 0): 4 of 8 rows and 5 of 10 columns.
    config = replace(data.config, min_crop=1e-9, height=height, width=width)
    native = clip_of(data, None, replace(config, height=8, width=10))
    top, left = (2.0, 2.5 * (place + 1)) if width > height else (2.0 * (place + 1), 2.5)
    y_H = (top + 4 * (torch.arange(height) + 0.5) / height) / 8
    x_W = (left + 5 * (torch.arange(width) + 0.5) / width) / 10
    grid_HW2 = 2 * torch.stack(torch.meshgrid(x_W, y_H, indexing="xy"), dim=2) - 1
    expected = F.grid_sample(
        native[:, 0], grid_HW2.expand(2, height, width, 2), align_corners=False, padding_mode="border"
    )[:, None]
    found = clip_of(data, View(crop=place), config)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_crops_of_everything_are_the_whole(data: Dataset) -> None:
    config = replace(data.config, min_crop=1.0)
    for place in (-1.0, 0.0, 1.0):
        found = clip_of(data, View(crop=place), config)
        torch.testing.assert_close(found, clip_of(data, None, config), rtol=0, atol=1e-4)


def test_views_of_a_person_move_inside_their_crop(made_up_root: Path) -> None:
    config = DataConfig(root=str(made_up_root), labels="person", clip_len=4, height=16, width=16)
    size = (1 + config.min_crop) / 2
    # A middle crop is the region of a smaller margin.
    smaller = replace(config, person_margin=(1 + config.person_margin) * size - 1)
    people = dataset.load(config)
    wanted = next(Batches(people, smaller, batch_size=4, seed=0, device=CPU).val()).clip_B1THW
    reader = Batches(people, config, batch_size=4, seed=0, device=CPU)
    left, middle, right, later = (
        next(reader.val(view)).clip_B1THW for view in (View(crop=-1), View(crop=0), View(crop=1), View(0.25))
    )
    torch.testing.assert_close(middle, wanted, rtol=0, atol=1e-4)
    # From left to right the crop moves by a fifth of the side of the whole: what it shows moves to its left.
    step = round(2 * (1 - size) / size / 2 * 16)
    near = (right[..., :-step] - left[..., step:]).abs().mean()
    assert float(near) < 0.5 * float((right[..., step:] - left[..., :-step]).abs().mean())
    assert not torch.equal(later, next(reader.val()).clip_B1THW)


def test_one_plain_view_leaks_what_the_split_leaks(data: Dataset) -> None:
    assert np.array_equal(views.leaks_of(data, views.views(1, 3)), data.leaks_S)


def test_shifted_clips_leak_where_they_reach_a_training_clip(data: Dataset) -> None:
    # Clips of 7 frames, 4 before and 2 after: at 28, 24 to 30; at 40, 36 to 42, shifted 34 to 44. Nothing touches.
    assert views.leaks_of(data, views.views(3, 1)).tolist() == [False, False]
    near = replace(data.config, frame_interval=3)  # a window of 12: 22 to 31 trains; 34 to 43, shifted 31 to 46
    wider = dataset.load(near)
    assert wider.leaks_S.tolist() == [False, False]
    assert views.leaks_of(wider, views.views(3, 1)).tolist() == [True, False]
    # A shift to later moves away from the clip at 28, and the one at 60 shows 48 and later.
    assert views.leaks_of(wider, (View(0.25),)).tolist() == [False, False]


def test_a_purged_split_leaks_only_by_shifts(made_up_root: Path) -> None:
    purged = dataset.load(DataConfig(root=str(made_up_root), split="purged", clip_len=16, num_folds=3, fold=1))
    assert not purged.leaks_S.any()
    assert not views.leaks_of(purged, views.views(1, 1)).any()
    assert views.leaks_of(purged, views.views(5, 1)).any()
