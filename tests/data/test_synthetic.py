"""The made-up dataset: its format, its determinism, and that its actions are told by motion."""

import itertools
import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from slowfast_ray.data import scenes, synthetic

# Legend: N frames of a recording, H rows, W columns.

Frames = dict[str, tuple[np.ndarray, np.ndarray]]  # recording -> frames N x H x W, timestamps N


def read_frames(root: Path) -> Frames:
    recordings = {}
    for path in sorted((root / "frames").glob("*.h5")):
        with h5py.File(path) as file:
            recordings[path.stem] = file["frames"][()], file["timestamps"][()]
    return recordings


def read_annotations(root: Path) -> dict[str, dict[str, list[dict[str, Any]]]]:
    folder = root / "annotations"
    return {split: json.loads((folder / f"{split}.json").read_text()) for split in ("train", "val")}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "dataset"
    synthetic.write(root)
    return root


@pytest.fixture(scope="module")
def frames(root: Path) -> Frames:
    return read_frames(root)


@pytest.fixture(scope="module")
def annotations(root: Path) -> dict[str, dict[str, list[dict[str, Any]]]]:
    return read_annotations(root)


def test_equal_seeds_give_equal_files_and_others_do_not(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        synthetic.write(tmp_path / name, seed=seed, num_recordings=2, num_frames=60)
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*")]
    assert len(files) == 4 + 3
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    a, c = read_frames(tmp_path / "a"), read_frames(tmp_path / "c")
    assert not any(np.array_equal(a[name][0], c[name][0]) for name in a)
    assert read_annotations(tmp_path / "a") != read_annotations(tmp_path / "c")


def test_recordings_have_the_real_format(root: Path) -> None:
    paths = sorted((root / "frames").iterdir())
    assert len(paths) == 8
    for path in paths:
        with h5py.File(path) as file:
            assert set(file) == {"frames", "timestamps", "frame_seqs"}
            assert (file["frames"].shape, file["frames"].dtype) == ((400, 40, 60), np.float32)
            assert file["frames"].compression == "gzip"
            for name in ("timestamps", "frame_seqs"):
                assert (file[name].shape, file[name].dtype) == ((400,), np.int64)
            assert dict(file.attrs) == {
                "sensor_id": path.stem,
                "frame_height": 40,
                "frame_width": 60,
                "total_frames": 400,
            }


def test_annotations_have_the_real_format(root: Path, frames: Frames, annotations: dict) -> None:
    ids: list[int] = []
    for content in annotations.values():
        assert content["categories"] == [{"id": i, "name": name} for i, name in enumerate(scenes.CLASSES)]
        image_ids = [image["id"] for image in content["images"]]
        assert len(set(image_ids)) == len(image_ids)
        assert {a["image_id"] for a in content["annotations"]} == set(image_ids)
        for image in content["images"]:
            assert set(image) == {"id", "sensor_id", "timestamp", "width", "height", "frame_idx"}
            assert (image["width"], image["height"]) == (60, 40)
            timestamps = frames[image["sensor_id"]][1]
            assert 0 <= image["frame_idx"] < len(timestamps)
            assert image["timestamp"] == timestamps[image["frame_idx"]]
        for annotation in content["annotations"]:
            assert annotation["category_name"] == scenes.CLASSES[annotation["category_id"]]
            assert set(annotation) == {
                *("id", "image_id", "category_id", "category_name"),
                *("object_id", "bbox", "attribute_obscured"),
            }
            ids.append(annotation["id"])
    assert ids == list(range(len(ids)))
    mapping = json.loads((root / "annotations" / "class_mapping.json").read_text())
    assert mapping["classes"] == list(scenes.CLASSES)
    assert mapping["class_to_id"] == {name: i for i, name in enumerate(scenes.CLASSES)}


def test_boxes_lie_inside_the_picture_and_hold_warm_pixels(frames: Frames, annotations: dict) -> None:
    for content in annotations.values():
        images = {image["id"]: image for image in content["images"]}
        for annotation in content["annotations"]:
            cx, cy, w, h = annotation["bbox"]
            edges = np.array((cx - w / 2, cx + w / 2, cy - h / 2, cy + h / 2))
            assert (edges > -1e-9).all()
            assert (edges < 1 + 1e-9).all()
            left, right, top, bottom = np.round(edges * (60, 60, 40, 40)).astype(int)
            image = images[annotation["image_id"]]
            frame = frames[image["sensor_id"]][0][image["frame_idx"]]
            inside = frame[top:bottom, left:right]
            if (frame > -200).all():  # else a lost packet may hide the body
                assert np.mean(inside > np.median(frame) + 5) > 0.25
                assert np.median(frame) < 22


def test_frames_follow_each_other_and_recordings_share_no_moment(frames: Frames) -> None:
    for _, timestamps in frames.values():
        intervals_ms = np.diff(timestamps)
        assert intervals_ms.min() > 0
        assert intervals_ms.std() > 30
        assert intervals_ms.mean() == pytest.approx(170, abs=15)
    spans = sorted((timestamps[0], timestamps[-1]) for _, timestamps in frames.values())
    gaps_ms = [start - end for (_, end), (start, _) in itertools.pairwise(spans)]
    assert min(gaps_ms) > 10_000
    assert sum(gap > 86_400_000 for gap in gaps_ms) == 1  # two sessions, a day and more apart


def test_validation_recordings_do_not_train_and_come_from_each_session(annotations: dict) -> None:
    recordings = {split: {image["sensor_id"] for image in content["images"]} for split, content in annotations.items()}
    assert recordings["val"] == {"SYN1_R4", "SYN2_R4"}
    assert recordings["train"] == {f"SYN{s}_R{r}" for s in (1, 2) for r in (1, 2, 3)}


def test_classes_are_imbalanced_and_occur_in_both_splits(annotations: dict) -> None:
    for split, num_samples in (("train", 156), ("val", 50)):
        content = annotations[split]
        assert len(content["images"]) == num_samples
        counts = Counter(annotation["category_id"] for annotation in content["annotations"])
        assert set(counts) == set(range(6))
        dominant = counts[scenes.STANDING] + counts[scenes.LYING]
        assert dominant > 0.5 * counts.total()
        assert counts[scenes.FALLING] >= (8 if split == "train" else 3)
        assert counts[scenes.FALLING] < 0.15 * counts.total()


def test_a_few_keyframes_show_two_people(annotations: dict) -> None:
    for content in annotations.values():
        people = Counter(annotation["image_id"] for annotation in content["annotations"])
        num_pairs = sum(num == 2 for num in people.values())
        assert max(people.values()) == 2
        assert 0.01 < num_pairs / len(people) < 0.12


def test_only_the_first_session_has_dead_pixels(frames: Frames) -> None:
    for name, (pictures, _) in frames.items():
        dead = pictures < -200
        assert dead.any(axis=(1, 2)).sum() == (15 if name.startswith("SYN1") else 0)
        assert (pictures[dead] == np.float32(-273.2)).all()
        assert pictures[~dead].min() > 10
        assert pictures[~dead].max() < 40


def test_sessions_are_different_rooms(frames: Frames) -> None:
    rooms = [np.median(frames[name][0], axis=0) for name in ("SYN1_R1", "SYN1_R2", "SYN2_R1")]
    within, between = np.abs(rooms[0] - rooms[1]).mean(), np.abs(rooms[0] - rooms[2]).mean()
    assert between > 3 * within


def still_pictures(frames: Frames) -> dict[str, np.ndarray]:
    """What stays where it is in each recording."""
    return {name: np.median(pictures, axis=0) for name, (pictures, _) in frames.items()}


def body_changes(frames: Frames, stills: dict[str, np.ndarray], content: dict, action: int) -> np.ndarray:
    """Pixels that a lone body moves, and its area's change in per cent, from 4 frames before to 4 after."""
    people = Counter(annotation["image_id"] for annotation in content["annotations"])
    images = {image["id"]: image for image in content["images"] if people[image["id"]] == 1}
    changes = []
    for annotation in content["annotations"]:
        if annotation["image_id"] not in images or annotation["category_id"] != action:
            continue
        image = images[annotation["image_id"]]
        pictures, keyframe = frames[image["sensor_id"]][0], image["frame_idx"]
        pair = pictures[np.clip((keyframe - 4, keyframe + 4), 0, len(pictures) - 1)]
        # What never changes in a recording, such as the radiator, is no body
        warm = (pair > stills[image["sensor_id"]] + 5) & (pair > -200)
        areas = warm.sum(axis=(1, 2))
        centres = [np.argwhere(mask).mean(axis=0) for mask in warm if mask.any()]
        if len(centres) == 2:
            changes.append((np.hypot(*(centres[1] - centres[0])), 100 * (areas[1] / areas[0] - 1)))
    return np.median(changes, axis=0)


def test_motion_tells_the_actions_apart(frames: Frames, annotations: dict) -> None:
    content = annotations["train"]
    stills = still_pictures(frames)
    moved_px, grown = np.transpose([body_changes(frames, stills, content, action) for action in range(6)])
    assert moved_px[scenes.WALKING] > 3 * moved_px[scenes.STANDING]
    assert moved_px[scenes.STANDING] > 2 * moved_px[scenes.SITTING]
    assert moved_px[scenes.LYING] < 0.5
    assert grown[scenes.FALLING] > 30
    assert grown[scenes.SITTING_DOWN] < -15
    for action in (scenes.STANDING, scenes.WALKING, scenes.SITTING, scenes.LYING):
        assert abs(grown[action]) < 10


def test_a_folder_that_holds_something_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(FileExistsError, match="not empty"):
        synthetic.write(tmp_path)
    assert (tmp_path / "mine").read_text() == "keep"


@pytest.mark.parametrize("sizes", [{"num_sessions": 0}, {"num_recordings": 1}, {"num_frames": 1}])
def test_sizes_that_make_no_dataset_are_refused(tmp_path: Path, sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(sizes))):
        synthetic.write(tmp_path / "dataset", **sizes)
    assert list(tmp_path.iterdir()) == []


def test_the_loser_of_a_race_leaves_the_winners_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "dataset"
    write_files = synthetic._write_files

    def lose(*args: Any) -> None:
        write_files(*args)
        assert not root.exists()  # nothing half-written is ever seen
        root.mkdir()
        (root / "winner").touch()

    monkeypatch.setattr(synthetic, "_write_files", lose)
    with caplog.at_level(logging.INFO):
        synthetic.write(root, num_recordings=2, num_frames=40)
    assert "discarded" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]
    assert [path.name for path in root.iterdir()] == ["winner"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(synthetic, "write_annotations", fail)
    with pytest.raises(OSError, match="disk full"):
        synthetic.write(tmp_path / "dataset", num_recordings=2, num_frames=40)
    assert list(tmp_path.iterdir()) == []


def test_cached_makes_the_dataset_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic.platformdirs, "user_cache_path", lambda app: tmp_path / app)
    roots = []

    def write(root: Path) -> None:
        root.mkdir(parents=True)
        roots.append(root)

    monkeypatch.setattr(synthetic, "write", write)
    assert synthetic.cached() == synthetic.cached() == tmp_path / "slowfast_ray" / f"synthetic-v{synthetic.VERSION}"
    assert len(roots) == 1
