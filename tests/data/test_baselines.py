"""The baselines by hand: whose label is copied, what ties do, when the majority is said; and the real figures."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slowfast_ray.data import baselines, dataset
from slowfast_ray.data.config import DataConfig
from slowfast_ray.data.dataset import Dataset
from tests.data.conftest import Image, pictures, write_dataset

DAY_MS = 86_400_000
SECOND_APART = [1000 * i for i in range(40)]
SITTING, STANDING, LYING = range(3)


def load(
    root: Path,
    train: Sequence[Image],
    val: Sequence[Image],
    times: Sequence[Sequence[int] | None] = (SECOND_APART,),
    **settings: Any,
) -> Dataset:
    """A dataset of the recordings A, B, ..., whose frames all differ."""
    films = {
        name: (pictures(range(100 * i, 100 * i + 40)), each)
        for i, (name, each) in enumerate(zip("ABC", times, strict=False))
    }
    write_dataset(root, films, train, val)
    return dataset.load(DataConfig(root=str(root), clip_len=8, frame_interval=1, height=2, width=2, **settings))


def test_the_majority_is_that_of_train_and_a_tie_goes_to_the_lowest_class(tmp_path: Path) -> None:
    train = [("A", 1, [LYING]), ("A", 2, [STANDING]), ("A", 3, [LYING]), ("A", 4, [STANDING])]
    data = load(tmp_path, train, [("A", 9, [LYING]), ("A", 10, [LYING])])
    assert baselines.majority_class(data).tolist() == [STANDING, STANDING]


def test_under_multi_the_majority_is_the_share_of_each_class(tmp_path: Path) -> None:
    train = [("A", 1, [LYING]), ("A", 2, [STANDING, LYING]), ("A", 3, [LYING]), ("A", 4, [STANDING])]
    data = load(tmp_path, train, [("A", 9, [LYING]), ("A", 10, [LYING])], labels="multi")
    np.testing.assert_array_equal(baselines.majority_class(data), [[0, 0.5, 0.75]] * 2)


def test_nearest_in_time_goes_by_the_clock_and_nearest_in_frames_does_not(tmp_path: Path) -> None:
    # Two frames and 2.5 s before the keyframe, or five frames and half a second after it.
    times = [0, 1000, 2000, *range(4500, 40_000, 100)][:40]
    data = load(tmp_path, [("A", 1, [SITTING]), ("A", 8, [LYING])], [("A", 3, [LYING])], [times])
    assert baselines.nearest_in_time(data).tolist() == [LYING]
    assert baselines.nearest_in_frames(data).tolist() == [SITTING]


BOTH: list[Callable[[Dataset], np.ndarray]] = [baselines.nearest_in_time, baselines.nearest_in_frames]


@pytest.mark.parametrize("nearest", BOTH)
@pytest.mark.parametrize("turn", [1, -1])
def test_at_one_distance_the_earlier_keyframe_is_copied_whatever_the_order_of_the_file(
    tmp_path: Path, nearest: Callable[[Dataset], np.ndarray], turn: int
) -> None:
    train = [("A", 8, [LYING]), ("A", 12, [SITTING]), ("A", 30, [STANDING])]
    assert nearest(load(tmp_path, train[::turn], [("A", 10, [STANDING])])).tolist() == [LYING]


@pytest.mark.parametrize("nearest", BOTH)
def test_of_two_samples_at_one_keyframe_the_first_in_the_file_is_copied(
    tmp_path: Path, nearest: Callable[[Dataset], np.ndarray]
) -> None:
    train = [("A", 8, [LYING]), ("A", 8, [SITTING])]
    assert nearest(load(tmp_path, train, [("A", 10, [STANDING])])).tolist() == [LYING]


def test_another_recording_of_the_session_counts_by_the_clock_and_where_the_own_one_has_no_sample(
    tmp_path: Path,
) -> None:
    times = [SECOND_APART, [500 + each for each in SECOND_APART]]
    train = [("B", 10, [LYING]), ("A", 13, [SITTING]), ("A", 14, [SITTING])]
    data = load(tmp_path, train, [("A", 10, [LYING])], times)
    assert data.source.timeline.num_sessions == 1
    assert baselines.nearest_in_time(data).tolist() == [LYING]  # half a second away
    assert baselines.nearest_in_frames(data).tolist() == [SITTING]
    data = load(tmp_path / "elsewhere", [("B", 10, [LYING]), ("B", 30, [SITTING])], [("A", 12, [LYING])], times)
    assert baselines.nearest_in_frames(data).tolist() == [LYING]


@pytest.mark.parametrize("nearest", BOTH)
@pytest.mark.parametrize("times", [[SECOND_APART, [DAY_MS + each for each in SECOND_APART]], [None, None]])
def test_in_a_session_without_training_samples_the_majority_is_said(
    tmp_path: Path, nearest: Callable[[Dataset], np.ndarray], times: list[list[int] | None]
) -> None:
    # Without timestamps, recordings that share no frame cannot be compared in time.
    train = [("B", 10, [LYING]), ("B", 20, [STANDING]), ("B", 30, [STANDING])]
    data = load(tmp_path, train, [("A", 10, [LYING]), ("B", 11, [LYING])], times)
    assert nearest(data).tolist() == [STANDING, LYING]


def test_under_multi_the_whole_set_of_labels_is_copied(tmp_path: Path) -> None:
    train = [("A", 9, [STANDING, LYING]), ("A", 20, [SITTING])]
    data = load(tmp_path, train, [("A", 10, [LYING])], labels="multi")
    for nearest in BOTH:
        np.testing.assert_array_equal(nearest(data), [[0, 1, 1]])


def test_of_several_people_at_one_keyframe_the_nearest_one_is_copied(tmp_path: Path) -> None:
    def someone(category: int, x: float) -> dict[str, Any]:
        return {"category_id": category, "bbox": [x, 0.5, 0.2, 0.2]}

    train = [("A", 9, [someone(SITTING, 0.2), someone(LYING, 0.8)]), ("A", 20, [someone(STANDING, 0.7)])]
    data = load(tmp_path, train, [("A", 10, [someone(LYING, 0.7), someone(LYING, 0.3)])], labels="person")
    for nearest in BOTH:
        assert nearest(data).tolist() == [LYING, SITTING]


def warm_and_cold(root: Path, labels: str = "majority") -> Dataset:
    """Who stands is warm and who lies is cold, in blocks that tell nothing else."""
    film = pictures([200 + 30 * (i // 64 % 2) for i in range(640)]) / 10
    film += np.random.default_rng(0).normal(0, 0.2, film.shape).astype(np.float32)
    write_dataset(
        root,
        {"A": (film, None)},
        [("A", frame, [LYING if frame // 64 % 2 else STANDING]) for frame in range(20, 500, 12)],
        [("A", frame, [LYING if frame // 64 % 2 else STANDING]) for frame in (540, 560, 600, 620)],
    )
    config = DataConfig(root=str(root), clip_len=8, frame_interval=1, height=4, width=4)
    return dataset.load(replace(config, labels=labels))  # pyright: ignore


def test_regression_learns_what_temperature_tells(tmp_path: Path) -> None:
    data = warm_and_cold(tmp_path)
    predicted = baselines.mean_frame_regression(data)
    assert predicted.tolist() == data.val.labels_S.tolist() == [STANDING, STANDING, LYING, LYING]
    np.testing.assert_array_equal(baselines.mean_frame_regression(data), predicted)


def test_under_multi_regression_tells_each_class_from_the_rest(tmp_path: Path) -> None:
    score_SK = baselines.mean_frame_regression(warm_and_cold(tmp_path, "multi"))
    assert (score_SK[:, SITTING] == 0).all(), "it never trained"
    assert ((score_SK > 0.5) == [[0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]).all()


def test_regression_looks_at_the_frames_of_the_clip_and_at_no_other(tmp_path: Path) -> None:
    data = warm_and_cold(tmp_path)
    before = baselines.mean_frame_regression(data)
    shown_N = np.zeros(640, dtype=bool)
    for split in (data.train, data.val):
        for keyframe in split.keyframes_S.tolist():
            shown_N[keyframe - 4 : keyframe + 4] = True
    data.frames_NHW[~shown_N] = 50.0
    np.testing.assert_array_equal(baselines.mean_frame_regression(data), before)


def test_regression_with_one_class_or_one_stretch_of_time_says_what_it_can(tmp_path: Path) -> None:
    one_class = load(tmp_path / "class", [("A", 5, [LYING]), ("A", 9, [LYING])], [("A", 7, [SITTING])])
    assert baselines.mean_frame_regression(one_class).tolist() == [LYING]
    one_stretch = load(tmp_path / "stretch", [("A", 15, [LYING]), ("A", 19, [SITTING])], [("A", 18, [SITTING])])
    assert len(np.unique(one_stretch.train.blocks_S)) == 1
    assert baselines.mean_frame_regression(one_stretch).tolist() == [SITTING]


def test_a_model_that_sees_frames_enlarged_changes_nothing(tmp_path: Path) -> None:
    data = warm_and_cold(tmp_path)
    enlarged = dataset.load(replace(data.config, height=64, width=64))
    np.testing.assert_array_equal(baselines.mean_frame_regression(enlarged), baselines.mean_frame_regression(data))


@pytest.mark.parametrize(
    ("name", "top1", "mean_class"),
    [
        ("majority", 0.5068, 0.1429),
        ("nearest_in_time", 0.8767, 0.5342),
        ("nearest_in_frames", 0.8493, 0.4570),  # the regression's figures: tests/running/test_auditing.py
    ],
)
def test_on_the_real_data(real_root: Path, name: str, top1: float, mean_class: float) -> None:
    data = dataset.load(DataConfig(root=str(real_root)))
    predicted, label_S = baselines.ALL[name](data), data.val.labels_S.numpy()
    assert (predicted == label_S).mean() == pytest.approx(top1, abs=5e-5)
    recalls = [(predicted[label_S == label] == label).mean() for label in np.unique(label_S)]
    assert np.mean(recalls) == pytest.approx(mean_class, abs=5e-5)


def test_no_rule_for_ties_changes_a_figure_on_the_real_data(real_root: Path) -> None:
    data = dataset.load(DataConfig(root=str(real_root)))
    times_N = data.source.timeline.times_N
    num_tied = {}
    for name, place_of in (
        ("time", lambda split: times_N[split.keyframes_S]),
        ("frames", lambda s: s.keyframes_S.numpy()),
    ):
        num_tied[name] = 0
        for at, first in zip(place_of(data.val), data.val.firsts_S, strict=True):
            # Nearest by time always lies in the same recording here, or at another distance.
            distance_S = np.abs(place_of(data.train) - at).astype(float)
            distance_S[(data.train.firsts_S != first).numpy() & (name == "frames")] = np.inf
            tied = np.flatnonzero(distance_S == distance_S.min())
            num_tied[name] += len(tied) > 1
            assert len(set(data.train.labels_S[tied].tolist())) == 1
    assert num_tied == {"time": 0, "frames": 5}
