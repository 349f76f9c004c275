"""The dataset in memory: tensors that agree with the files, one error for all that lacks, fingerprints, real facts."""

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from slowfast_ray.data import annotations, dataset, labels, recordings
from slowfast_ray.data.config import DataConfig, Labels
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.data.samples import BLOCK_FRAMES, BLOCK_MS, Split
from tests.data.conftest import Image, pictures, write_annotations, write_dataset, write_recording

# Legend: N frames of all recordings, S samples of a split.


@pytest.fixture
def root(made_up_root: Path, tmp_path: Path) -> Path:
    """A copy of the made-up dataset that a test may break; under its own path, since a dataset is read once a path."""
    return Path(shutil.copytree(made_up_root, tmp_path / "copy"))


@pytest.fixture(scope="module")
def real(real_root: Path) -> Dataset:
    return dataset.load(DataConfig(root=str(real_root)))


def edit(root: Path, split: str, change: Callable[[dict[str, Any]], None]) -> None:
    path = root / "annotations" / f"{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def both(data: Dataset) -> dict[str, Split]:
    return {"train": data.train, "val": data.val}


def test_every_sample_points_at_its_own_frame(made_up_root: Path) -> None:
    data = dataset.load(DataConfig(root=str(made_up_root)))
    film = {path.stem: recordings.read(path).frames_NHW for path in (made_up_root / "frames").glob("*.h5")}
    for name, split in both(data).items():
        read = annotations.read(made_up_root / "annotations" / f"{name}.json")
        assert split.ids == tuple(image.id for image in read.images)
        samples = labels.apply(read.images, "majority", "lowest", []).samples
        assert split.labels_S.tolist() == [sample.label for sample in samples]
        for i, sample in enumerate(samples):
            frames_NHW = film[sample.recording]
            first, last, keyframe = (int(each[i]) for each in (split.firsts_S, split.lasts_S, split.keyframes_S))
            assert (last - first + 1, keyframe - first) == (len(frames_NHW), sample.keyframe)
            # Neither one frame too early nor too late: noise makes every frame another.
            for found, expected in ((keyframe, sample.keyframe), (first, 0), (last, -1)):
                np.testing.assert_array_equal(data.frames_NHW[found], frames_NHW[expected])


def test_tensors_have_one_length_and_the_stated_types(made_up_root: Path) -> None:
    data = dataset.load(DataConfig(root=str(made_up_root)))
    assert data.frames_NHW.dtype == torch.float32
    assert data.frames_NHW.shape == (4 * 260, 40, 60)
    assert len(data.source.timeline.recordings) == 4
    for split in both(data).values():
        for each in (split.keyframes_S, split.firsts_S, split.lasts_S, split.labels_S):
            assert (each.dtype, each.shape) == (torch.int64, (len(split),))
        assert ((split.firsts_S <= split.keyframes_S) & (split.keyframes_S <= split.lasts_S)).all()
        assert 0 <= split.labels_S.min() <= split.labels_S.max() < len(data.classes)
        assert (split.blocks_S.dtype, split.blocks_S.shape) == (np.int64, (len(split),))
        assert split.tracks is None
    # Both splits share no recording here: their spans of frames are apart.
    assert set(data.train.firsts_S.tolist()).isdisjoint(data.val.firsts_S.tolist())


def test_what_was_repaired_and_decided_is_added_up(made_up_root: Path) -> None:
    data = dataset.load(DataConfig(root=str(made_up_root)))
    read = [recordings.read(path) for path in (made_up_root / "frames").glob("*.h5")]
    files = [annotations.read(made_up_root / "annotations" / f"{split}.json") for split in ("train", "val")]
    found = [labels.apply(file.images, "majority", "lowest", []) for file in files]
    assert data.source.num_dead_pixels == sum(recording.num_dead_pixels for recording in read) > 0
    assert data.labelled == found[0] + found[1]
    assert data.labelled.num_ties > 0
    assert data.source.num_people_K() == [
        sum(person.label == k for file in files for image in file.images for person in image.people) for k in range(6)
    ]
    assert data.frames_NHW.min() > 0  # no dead pixel is left
    for number in (len(data.train), len(data.val), data.source.num_dead_pixels, data.labelled.num_ties):
        assert re.search(rf"\b{number}\b", data.summary())


def test_a_dataset_is_read_once(made_up_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset.load(DataConfig(root=str(made_up_root)))
    monkeypatch.chdir(made_up_root.parent)  # under another spelling as well
    assert dataset.load(DataConfig(root=made_up_root.name)).source is data.source
    assert dataset.load(DataConfig(root=str(made_up_root), split="purged", labels="person")).source is data.source
    assert dataset.load(DataConfig(root=str(made_up_root))) is data


def test_recordings_that_no_sample_needs_are_not_read(root: Path) -> None:
    (root / "frames" / "SYN9_R9.h5").write_text("not even HDF5")
    assert len(dataset.load(DataConfig(root=str(root))).source.timeline.recordings) == 4


def test_all_missing_recordings_stand_in_one_error(root: Path) -> None:
    (root / "frames" / "SYN1_R1.h5").unlink()
    (root / "frames" / "SYN2_R2.h5").unlink()
    expected = r"2 of 4 recordings .* SYN1_R1\.h5 \(train\.json\), SYN2_R2\.h5 \(val\.json\)"
    with pytest.raises(FileNotFoundError, match=expected):
        dataset.load(DataConfig(root=str(root)))


@pytest.mark.parametrize("frame", [260, -1])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_keyframe_outside_its_recording_is_refused(root: Path, split: str, frame: int) -> None:
    # -1 would silently be the last frame of the recording before.
    edit(root, split, lambda content: content["images"][3].update(frame_idx=frame))
    with pytest.raises(ValueError, match=rf"{split}\.json has frame_idx {frame}, and SYN\d_R\d has 260 frames"):
        dataset.load(DataConfig(root=str(root)))


def test_the_last_frame_is_inside(root: Path) -> None:
    edit(root, "val", lambda content: content["images"][3].update(frame_idx=259))
    split = dataset.load(DataConfig(root=str(root))).val
    assert split.keyframes_S[3] == split.lasts_S[3]


def test_frames_of_another_size_are_refused_with_both_sizes(root: Path) -> None:
    with h5py.File(root / "frames" / "SYN2_R1.h5", "r+") as file:
        narrower = file["frames"][()][:, :, :-1]  # pyright: ignore
        del file["frames"]
        file["frames"] = narrower
    with pytest.raises(ValueError, match=r"SYN2_R1\.h5 has \(40, 59\) and SYN1_R1\.h5 has \(40, 60\)"):
        dataset.load(DataConfig(root=str(root)))


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
        dataset.load(DataConfig(root=str(root)))


def test_one_category_is_no_classification(root: Path) -> None:
    def keep_one(content: dict[str, Any]) -> None:
        del content["categories"][1:]
        content["annotations"] = [each for each in content["annotations"] if each["category_id"] == 0]

    for split in ("train", "val"):
        edit(root, split, keep_one)
    with pytest.raises(ValueError, match=r"2 categories or more.*lists 1"):
        dataset.load(DataConfig(root=str(root)))


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(FileNotFoundError, match=rf"{re.escape(str(path))}.*`data\.root`"):
            dataset.load(DataConfig(root=str(path)))


def test_a_folder_without_annotations_is_refused_by_the_missing_file(root: Path) -> None:
    (root / "annotations" / "val.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"val\.json"):
        dataset.load(DataConfig(root=str(root)))


# Policies


def test_people_and_several_labels_through_the_dataset(made_up_root: Path) -> None:
    plain = DataConfig(root=str(made_up_root))
    person, multi = (dataset.load(replace(plain, labels=policy)) for policy in ("person", "multi"))
    assert len(person.labelled.samples) == sum(person.source.num_people_K()) == len(person.train) + len(person.val)
    for split in both(person).values():
        assert split.tracks is not None
        assert split.tracks.rows_S.shape == split.labels_S.shape
        assert split.tracks.sizes_S2.shape == (len(split), 2)
    for name, split in both(multi).items():
        read = annotations.read(made_up_root / "annotations" / f"{name}.json")
        assert split.tracks is None
        assert split.labels_S.dtype == torch.float32
        for image, row in zip(read.images, split.labels_S.tolist(), strict=True):
            assert {k for k, each in enumerate(row) if each == 1} == {person.label for person in image.people}
            assert set(row) <= {0, 1}
        assert split.num_per_class_K(6).tolist() == split.labels_S.sum(dim=0).tolist()
    assert person.train.num_per_class_K(7).tolist() == [*np.bincount(person.train.labels_S, minlength=6), 0]


def test_dropped_ties_are_no_samples(made_up_root: Path) -> None:
    plain = DataConfig(root=str(made_up_root))
    kept, dropped = dataset.load(plain), dataset.load(replace(plain, ties="drop"))
    assert len(kept.train) + len(kept.val) - len(dropped.train) - len(dropped.val) == kept.labelled.num_ties
    assert set(dropped.train.ids) < set(kept.train.ids)


FILMS = {
    "a": (pictures(range(100)), [100 * i for i in range(100)]),
    "b": (pictures(range(500, 600)), [50_000 + 100 * i for i in range(100)]),
}


def small(root: Path, train: list[Image], val: list[Image], **changes: Any) -> Path:
    return write_dataset(root, {**FILMS, **changes.pop("films", {})}, train, val, **changes)


TRAIN: list[Image] = [("a", 10 * i, [i % 2]) for i in range(10)]
VAL: list[Image] = [("b", 10 * i, [i % 2]) for i in range(10)]


def test_nothing_left_to_train_or_to_validate_is_refused(tmp_path: Path) -> None:
    tie: list[Image] = [("a", 5, [0, 1])]
    for name, train, val in (("train", tie, VAL), ("val", TRAIN, tie)):
        config = DataConfig(root=str(small(tmp_path / name, train, val)), ties="drop")
        with pytest.raises(ValueError, match=rf"No {name} sample is left under `data\.ties` \(=drop\)"):
            dataset.load(config)
    root = small(tmp_path / "none", tie, tie)
    for split in ("provided", "purged"):
        with pytest.raises(ValueError, match=r"`data\.ties` \(=drop\) leaves no sample of .*every keyframe is a tie"):
            dataset.load(DataConfig(root=str(root), split=split, ties="drop"))


def test_a_class_that_is_never_trained_is_named(tmp_path: Path) -> None:
    root = small(tmp_path / "data", TRAIN, [*VAL, ("b", 5, [2]), ("b", 15, [2, 2, 0])])
    (warning,) = dataset.load(DataConfig(root=str(root))).warnings()
    assert re.search(r"No training sample.*: lying \(2 val\)\.$", warning)
    multi = dataset.load(DataConfig(root=str(root), labels="multi"))
    assert [re.search(r"lying \(2 val\)", each) is not None for each in multi.warnings()] == [True]
    # The other way round is no harm, nor is a class that nobody carries.
    root = small(tmp_path / "other", [*TRAIN, ("a", 5, [2])], VAL)
    assert dataset.load(DataConfig(root=str(root))).warnings() == []
    root = small(tmp_path / "third", TRAIN, VAL)
    assert dataset.load(DataConfig(root=str(root))).warnings() == []


def test_settings_without_effect_are_named() -> None:
    found = DataConfig(fold=2, labels="multi", ties="drop").without_effect()
    assert [re.findall(r"`data\.(\w+)`", each)[0] for each in found] == ["fold", "ties"]


# What a summary and a list of members say


def test_a_purged_split_says_what_it_dropped(tmp_path: Path) -> None:
    root = small(tmp_path / "data", TRAIN, VAL)
    config = DataConfig(root=str(root), split="purged", num_folds=2, fold=1, clip_len=8, frame_interval=2)
    data = dataset.load(config)
    assert data.split_name == "purged, fold 1 of 2"
    assert len(data.dropped_ids) > 0
    assert f"({len(data.dropped_ids)} dropped" in data.summary()
    members = json.loads(data.members_json())
    assert sorted(members["train"] + members["val"] + members["dropped"]) == sorted(
        [str(i) for i in range(10)] + [str(1000 + i) for i in range(10)]
    )
    assert (tuple(members["train"]), tuple(members["val"])) == (data.train.ids, data.val.ids)
    assert members["split"] == data.split_name
    assert members["split_fingerprint"] == data.fingerprint
    assert members["dataset_fingerprint"] == data.source.fingerprint


def test_the_share_of_leaks_is_that_of_the_clips(tmp_path: Path) -> None:
    # Train at frame 50 of `a`, so that its clip of 8 shows 46 to 53; val at 52, 57, 58 and 80, the third from 54 on.
    root = small(tmp_path / "data", [("a", 50, [0])], [("a", frame, [1]) for frame in (52, 57, 58, 80)])
    data = dataset.load(DataConfig(root=str(root), clip_len=8, frame_interval=1))
    assert data.leaks_S.tolist() == [True, True, False, False]
    assert data.leak_share == 0.5
    assert dataset.load(DataConfig(root=str(root), clip_len=64, frame_interval=1)).leak_share == 1


def test_samples_of_one_stretch_of_time_are_one_block(tmp_path: Path) -> None:
    # `a` is from 0 to 9900 ms, `b` from 50000 to 59900; `c`, without times, is 100 frames long.
    films = {"c": (pictures(range(900, 1000)), None), "d": (FILMS["a"][0] + 7, [5_000 + 100 * i for i in range(100)])}
    val: list[Image] = [("a", 0, [1]), ("a", 99, [1]), ("b", 0, [1]), ("c", 0, [1]), ("c", 63, [1]), ("c", 64, [1])]
    val += [("d", 49, [1]), ("d", 50, [1]), ("b", 99, [1])]
    assert (BLOCK_MS, BLOCK_FRAMES) == (10_000, 64)
    blocks = dataset.load(DataConfig(root=str(small(tmp_path / "data", TRAIN, val, films=films)))).val.blocks_S.tolist()
    a, later_a, b, c, still_c, later_c, d, later_d, later_b = blocks
    assert a == later_a == d  # in one session, at one time: whatever the recording
    assert c == still_c
    assert b == later_b
    assert len({a, b, c, later_c, later_d}) == 5


# Fingerprints


def fingerprints(root: Path, **changes: Any) -> tuple[str, str]:
    """Of the dataset and of the split."""
    data = dataset.load(DataConfig(root=str(root), **changes))
    return data.source.fingerprint, data.fingerprint


def test_fingerprints_do_not_depend_on_the_folder(tmp_path: Path) -> None:
    root = small(tmp_path / "data", TRAIN, VAL)
    copy = shutil.copytree(root, tmp_path / "elsewhere" / "copy")
    for path in copy.rglob("*.*"):
        os.utime(path, (0, 0))
    assert fingerprints(root) == fingerprints(copy)
    assert [len(each) for each in fingerprints(root)] == [12, 12]


def test_whatever_a_dataset_says_changes_both_fingerprints(tmp_path: Path) -> None:
    before = fingerprints(small(tmp_path / "before", TRAIN, VAL))
    frames_NHW, times = FILMS["a"]
    warmer_NHW = frames_NHW.copy()
    warmer_NHW[37, 1, 1] += 0.1  # nobody's keyframe
    blank_NHW, other_blank_NHW = (frames_NHW.copy() for _ in range(2))
    blank_NHW[37], other_blank_NHW[37] = 20, 21
    later = [*times[:-1], times[-1] + 1]
    box = {"category_id": 0, "bbox": [0.5, 0.5, 0.1, 0.1], "object_id": 1}
    found = {
        "frame": small(tmp_path / "frame", TRAIN, VAL, films={"a": (warmer_NHW, times)}),
        "blank": small(tmp_path / "blank", TRAIN, VAL, films={"a": (blank_NHW, times)}),
        "other blank": small(tmp_path / "other blank", TRAIN, VAL, films={"a": (other_blank_NHW, times)}),
        "time": small(tmp_path / "time", TRAIN, VAL, films={"a": (frames_NHW, later)}),
        "no times": small(tmp_path / "no times", TRAIN, VAL, films={"a": (frames_NHW, None)}),
        "label": small(tmp_path / "label", [("a", 0, [1]), *TRAIN[1:]], VAL),
        "keyframe": small(tmp_path / "keyframe", [("a", 1, [0]), *TRAIN[1:]], VAL),
        "box": small(tmp_path / "box", [("a", 0, [box]), *TRAIN[1:]], VAL),
        "number": small(tmp_path / "number", [("a", 0, [{**box, "object_id": 2}]), *TRAIN[1:]], VAL),
        "people": small(tmp_path / "people", [("a", 0, [0, 0]), *TRAIN[1:]], VAL),
        "fewer": small(tmp_path / "fewer", TRAIN[1:], VAL),
        "ids": small(tmp_path / "ids", TRAIN, VAL, first_val_id=2000),
        "swapped": small(tmp_path / "swapped", VAL, TRAIN),
        "names": small(tmp_path / "names", TRAIN, VAL, classes=("sitting", "standing", "flying")),
    }
    all_of_them = [before, *(fingerprints(root) for root in found.values())]
    for one in zip(*all_of_them, strict=True):
        assert len(set(one)) == len(found) + 1, dict(zip(["before", *found], one, strict=True))


def test_a_split_has_its_own_fingerprint(tmp_path: Path) -> None:
    root = small(tmp_path / "data", [("a", 5, [0, 1, 1, 0]), ("a", 15, [0]), *TRAIN], VAL)
    split = {"split": "purged", "num_folds": 3, "clip_len": 4, "frame_interval": 1}
    apart = [
        {},
        split,
        {**split, "fold": 1},
        {**split, "num_folds": 4},
        {**split, "clip_len": 48},  # drops some
        {"labels": "multi"},
        {"ties": "drop"},
        {"ties": "rarest"},
    ]
    found = [fingerprints(root, **each) for each in apart]
    assert len({of_dataset for of_dataset, _ in found}) == 1
    assert len({of_split for _, of_split in found}) == len(apart)
    # Other clips and other augmentation see the same samples.
    for same in ({"clip_len": 16}, {"height": 20}, {"flip_prob": 0.0}, {"split_seed": 5}, {"class_balance": 0.5}):
        assert fingerprints(root, **same) == found[0]


def test_files_that_number_their_images_alike_are_told_apart(tmp_path: Path) -> None:
    # Keyframes 0 to 9 in both files: the ids of a fold are the same whichever recording they are of.
    late = {"c": (FILMS["b"][0], [10**9 + 100 * i for i in range(100)])}
    root = small(tmp_path / "apart", TRAIN, [("c", 10 * i, [i % 2]) for i in range(10)], films=late, first_val_id=0)
    found = [dataset.load(DataConfig(root=str(root), split="leave-one-session-out", fold=fold)) for fold in (0, 1)]
    assert found[0].val.ids == found[1].val.ids
    assert found[0].fingerprint != found[1].fingerprint
    assert found[0].val.keyframes_S.tolist() != found[1].val.keyframes_S.tolist()


# Clips by the clock


def test_without_times_there_are_no_clips_by_the_clock(tmp_path: Path) -> None:
    root = small(tmp_path / "data", TRAIN, VAL, films={"b": (FILMS["b"][0], None)})
    dataset.load(DataConfig(root=str(root)))
    expected = rf"`data\.frame_interval_ms` \(=170\).*{re.escape(str(root / 'frames' / 'b.h5'))} has no `timestamps`"
    with pytest.raises(ValueError, match=expected):
        dataset.load(DataConfig(root=str(root), frame_interval_ms=170.0))


def test_times_that_run_backwards_make_no_clips_by_the_clock(tmp_path: Path) -> None:
    frames_NHW, times = FILMS["a"]
    broken = list(times)
    broken[40], broken[41], broken[70] = broken[41], broken[40], 0
    root = small(tmp_path / "data", TRAIN, VAL, films={"a": (frames_NHW, broken)})
    dataset.load(DataConfig(root=str(root)))
    with pytest.raises(ValueError, match=r"times that ascend.*a\.h5 run backwards 2 times, first after frame 40; sort"):
        dataset.load(DataConfig(root=str(root), frame_interval_ms=170.0))
    # Frames at one time are in order, and so are recordings that begin before the one before ended.
    broken = [*times[:50], times[49], *times[51:]]
    films = {"a": (frames_NHW, broken), "b": (FILMS["b"][0], [100 * i - 3_000 for i in range(100)])}
    root = small(tmp_path / "equal", TRAIN, VAL, films=films)
    assert dataset.load(DataConfig(root=str(root), frame_interval_ms=170.0)).clock is not None


def test_the_share_of_gaps_is_counted_over_all_clips(tmp_path: Path) -> None:
    # Two frames of 4 before the recording begins, at -200 and -100 ms: the first is further than 100 ms away.
    root = small(tmp_path / "data", [("a", 0, [0]), ("a", 50, [1])], [("b", 20, [0]), ("b", 30, [0])])
    data = dataset.load(DataConfig(root=str(root), clip_len=4, frame_interval_ms=100.0))
    assert data.gap_share == pytest.approx(1 / 16)
    assert "6.2% of the clips' frames stand for gaps" in data.summary()
    by_frames = dataset.load(DataConfig(root=str(root), clip_len=4))
    assert (by_frames.gap_share, by_frames.clock) == (0, None)
    assert "gaps" not in by_frames.summary()


# Folders


def test_a_folder_is_found_from_any_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(tmp_path / "data", TRAIN, VAL)
    monkeypatch.chdir(tmp_path)
    assert dataset.load(DataConfig(root="data")).root == tmp_path / "data"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert dataset.load(DataConfig(root="~/data")).root == tmp_path / "data"


def test_sensors_and_sessions_come_from_the_files(tmp_path: Path) -> None:
    root = small(tmp_path / "data", TRAIN, VAL)
    assert dataset.load(DataConfig(root=str(root))).source.timeline.num_sessions == 1
    for name, (frames_NHW, times) in FILMS.items():
        write_recording(tmp_path / "two" / "frames" / f"{name}.h5", frames_NHW, times, sensor=name)
    write_annotations(tmp_path / "two" / "annotations" / "train.json", TRAIN)
    write_annotations(tmp_path / "two" / "annotations" / "val.json", VAL)
    assert dataset.load(DataConfig(root=str(tmp_path / "two"))).source.timeline.num_sessions == 2


# The facts of the real dataset, from its README: whoever changes the reading sees which of them moves.


def test_the_real_dataset_has_its_size(real: Dataset) -> None:
    assert (len(real.train), len(real.val)) == (314, 73)
    assert real.frames_NHW.shape == (3976, 40, 60)
    assert len(real.source.timeline.recordings) == 8
    assert len(real.classes) == 14


def test_the_real_labels_are_those_of_its_table(real: Dataset) -> None:
    counts = Counter(real.classes[label] for label in real.train.labels_S.tolist())
    assert sorted(counts.values()) == sorted([162, 102, 11, 11, 8, 5, 5, 5, 3, 1, 1])
    (lying, num_lying), (standing, num_standing) = counts.most_common(2)
    assert (num_lying, num_standing) == (162, 102)
    assert "lying" in lying
    assert "risk" in lying
    assert "standing" in standing
    assert real.labelled.num_ties == 72 + 22


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


def test_every_real_validation_window_leaks(real: Dataset) -> None:
    assert real.config.window == 64
    assert real.leaks_S.sum() == 73
    assert real.leak_share == 1


def test_the_real_sessions_are_two(real: Dataset) -> None:
    line = real.source.timeline
    assert line.num_sessions == 2
    assert [name[:4] for name in line.recordings] == ["SL14"] * 4 + ["SL18"] * 4
    assert line.sessions.tolist() == [0] * 4 + [1] * 4
    assert line.has_times.all()
    # Neighbours store 140 to 151 moments twice.
    for i in (0, 1, 2, 4, 5, 6):
        moments = [set(line.moments_N[line.firsts[j] : line.firsts[j] + line.lengths[j]].tolist()) for j in (i, i + 1)]
        assert 140 <= len(moments[0] & moments[1]) <= 151


@pytest.mark.parametrize(
    ("policy", "num_train", "num_val"), [("majority", 314, 73), ("person", 405, 95), ("multi", 314, 73)]
)
def test_the_real_samples_under_each_policy(real_root: Path, policy: Labels, num_train: int, num_val: int) -> None:
    data = dataset.load(DataConfig(root=str(real_root), labels=policy))
    assert (len(data.train), len(data.val)) == (num_train, num_val)
    assert data.labelled.num_ties == (94 if policy == "majority" else 0)
    assert data.leak_share == 1


def test_the_real_ties_may_be_dropped(real_root: Path) -> None:
    data = dataset.load(DataConfig(root=str(real_root), ties="drop"))
    assert (len(data.train), len(data.val)) == (314 - 72, 73 - 22)
    assert data.labelled.num_dropped == 94
