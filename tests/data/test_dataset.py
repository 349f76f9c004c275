"""The dataset in memory: tensors that agree with the files, one error for all that is missing, and the real facts."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from slowfast_ray.data import annotations, dataset, recordings
from slowfast_ray.data.dataset import Dataset, Split

# Legend: N frames of all recordings, S samples of a split.


@pytest.fixture
def root(made_up_root: Path, tmp_path: Path) -> Path:
    """A copy of the made-up dataset that a test may break; under its own path, since a dataset is read once a path."""
    return Path(shutil.copytree(made_up_root, tmp_path / "copy"))


@pytest.fixture(scope="module")
def real(real_root: Path) -> Dataset:
    return dataset.load(str(real_root))


def edit(root: Path, split: str, change: Callable[[dict[str, Any]], None]) -> None:
    path = root / "annotations" / f"{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def splits(data: Dataset) -> dict[str, Split]:
    return {"train": data.train, "val": data.val}


def test_every_sample_points_at_its_own_frame(made_up_root: Path) -> None:
    data = dataset.load(str(made_up_root))
    film = {path.stem: recordings.read(path).frames_NHW for path in (made_up_root / "frames").glob("*.h5")}
    for name, split in splits(data).items():
        read = annotations.read(made_up_root / "annotations" / f"{name}.json")
        assert split.ids == tuple(sample.id for sample in read.samples)
        assert split.labels_S.tolist() == [sample.label for sample in read.samples]
        for i, sample in enumerate(read.samples):
            frames_NHW = film[sample.recording]
            first, last, keyframe = (int(each[i]) for each in (split.firsts_S, split.lasts_S, split.keyframes_S))
            assert (last - first + 1, keyframe - first) == (len(frames_NHW), sample.keyframe)
            # Neither one frame too early nor too late: noise makes every frame another.
            for found, expected in ((keyframe, sample.keyframe), (first, 0), (last, -1)):
                np.testing.assert_array_equal(data.frames_NHW[found], frames_NHW[expected])


def test_tensors_have_one_length_and_the_stated_types(made_up_root: Path) -> None:
    data = dataset.load(str(made_up_root))
    assert data.frames_NHW.dtype == torch.float32
    assert data.frames_NHW.shape == (4 * 260, 40, 60)
    assert data.num_recordings == 4
    for split in splits(data).values():
        for each in (split.keyframes_S, split.firsts_S, split.lasts_S, split.labels_S):
            assert (each.dtype, each.shape) == (torch.int64, (len(split),))
        assert ((split.firsts_S <= split.keyframes_S) & (split.keyframes_S <= split.lasts_S)).all()
        assert 0 <= split.labels_S.min() <= split.labels_S.max() < len(data.classes)
    # Both splits share no recording here: their spans of frames are apart.
    assert set(data.train.firsts_S.tolist()).isdisjoint(data.val.firsts_S.tolist())


def test_what_was_repaired_and_decided_is_added_up(made_up_root: Path) -> None:
    data = dataset.load(str(made_up_root))
    read = [recordings.read(path) for path in (made_up_root / "frames").glob("*.h5")]
    files = [annotations.read(made_up_root / "annotations" / f"{split}.json") for split in ("train", "val")]
    assert data.num_dead_pixels == sum(recording.num_dead_pixels for recording in read) > 0
    assert data.num_ties == sum(file.num_ties for file in files) > 0
    assert data.frames_NHW.min() > 0  # no dead pixel is left
    for number in (len(data.train), len(data.val), data.num_dead_pixels, data.num_ties):
        assert re.search(rf"\b{number}\b", data.summary())


def test_a_dataset_is_read_once(made_up_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset.load(str(made_up_root))
    monkeypatch.chdir(made_up_root.parent)  # under another spelling as well
    assert dataset.load(made_up_root.name) is data


def test_recordings_that_no_sample_needs_are_not_read(root: Path) -> None:
    (root / "frames" / "SYN9_R9.h5").write_text("not even HDF5")
    assert dataset.load(str(root)).num_recordings == 4


def test_all_missing_recordings_stand_in_one_error(root: Path) -> None:
    (root / "frames" / "SYN1_R1.h5").unlink()
    (root / "frames" / "SYN2_R2.h5").unlink()
    expected = r"2 of 4 recordings .* SYN1_R1\.h5 \(train\.json\), SYN2_R2\.h5 \(val\.json\)"
    with pytest.raises(FileNotFoundError, match=expected):
        dataset.load(str(root))


@pytest.mark.parametrize("frame", [260, -1])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_keyframe_outside_its_recording_is_refused(root: Path, split: str, frame: int) -> None:
    # -1 would silently be the last frame of the recording before.
    edit(root, split, lambda content: content["images"][3].update(frame_idx=frame))
    with pytest.raises(ValueError, match=rf"{split}\.json has frame_idx {frame}, and SYN\d_R\d has 260 frames"):
        dataset.load(str(root))


def test_the_last_frame_is_inside(root: Path) -> None:
    edit(root, "val", lambda content: content["images"][3].update(frame_idx=259))
    split = dataset.load(str(root)).val
    assert split.keyframes_S[3] == split.lasts_S[3]


def test_frames_of_another_size_are_refused_with_both_sizes(root: Path) -> None:
    with h5py.File(root / "frames" / "SYN2_R1.h5", "r+") as file:
        narrower = file["frames"][()][:, :, :-1]  # pyright: ignore
        del file["frames"]
        file["frames"] = narrower
    with pytest.raises(ValueError, match=r"SYN2_R1\.h5 has \(40, 59\) and SYN1_R1\.h5 has \(40, 60\)"):
        dataset.load(str(root))


def rename(content: dict[str, Any]) -> None:
    content["categories"][0]["name"] = "hopping"


def swap(content: dict[str, Any]) -> None:
    first, second = content["categories"][:2]
    first["name"], second["name"] = second["name"], first["name"]


def lengthen(content: dict[str, Any]) -> None:
    content["categories"].append({"id": 99, "name": "flying"})


@pytest.mark.parametrize(
    ("change", "says"), [(rename, "hopping, standing"), (swap, "in another order"), (lengthen, "flying")]
)
def test_splits_that_list_other_categories_are_refused(
    root: Path, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    edit(root, "val", change)
    with pytest.raises(ValueError, match=f"same categories.*{says}"):
        dataset.load(str(root))


def test_one_category_is_no_classification(root: Path) -> None:
    def keep_one(content: dict[str, Any]) -> None:
        del content["categories"][1:]
        content["annotations"] = [each for each in content["annotations"] if each["category_id"] == 0]

    for split in ("train", "val"):
        edit(root, split, keep_one)
    with pytest.raises(ValueError, match=r"2 categories or more.*lists 1"):
        dataset.load(str(root))


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(FileNotFoundError, match=rf"{re.escape(str(path))}.*`data\.root`"):
            dataset.load(str(path))


def test_a_folder_without_annotations_is_refused_by_the_missing_file(root: Path) -> None:
    (root / "annotations" / "val.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"val\.json"):
        dataset.load(str(root))


# The facts of the real dataset, from its README: whoever changes the reading sees which of them moves.


def test_the_real_dataset_has_its_size(real: Dataset) -> None:
    assert (len(real.train), len(real.val)) == (314, 73)
    assert real.frames_NHW.shape == (3976, 40, 60)
    assert real.num_recordings == 8
    assert len(real.classes) == 14


def test_the_real_labels_are_those_of_its_table(real: Dataset) -> None:
    counts = Counter(real.classes[label] for label in real.train.labels_S.tolist())
    assert sorted(counts.values()) == sorted([162, 102, 11, 11, 8, 5, 5, 5, 3, 1, 1])
    (lying, num_lying), (standing, num_standing) = counts.most_common(2)
    assert (num_lying, num_standing) == (162, 102)
    assert "lying" in lying
    assert "risk" in lying
    assert "standing" in standing
    assert real.num_ties == 72 + 22


def test_the_real_majority_class_gets_half_of_val(real: Dataset) -> None:
    counts = Counter(real.val.labels_S.tolist())
    assert len(counts) == 7
    (most,) = counts.most_common(1)
    assert most[1] == 37  # 50.68 % of 73: what any model has to beat


def test_the_real_sensor_lost_pixels_in_one_session_only(real_root: Path) -> None:
    for path in sorted((real_root / "frames").glob("*.h5")):
        recording = recordings.read(path)
        share = recording.num_dead_pixels / recording.frames_NHW.size
        if path.stem.startswith("SL14"):
            assert 0.0265 < share < 0.0465, path.stem
            assert 39 <= recording.num_dead_frames <= 63, path.stem
        else:
            assert path.stem.startswith("SL18")
            assert share == 0, path.stem
        # What was put in their place is a room's temperature.
        assert recording.frames_NHW.min() > 3
        assert recording.frames_NHW.max() < 46
