"""The audit finds each planted fault, by its key, number and name, and nothing beside it; and the real data's facts."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from slowfast_ray.data import audit, audit_findings, dataset
from slowfast_ray.data.audit import Audit, Finding
from slowfast_ray.data.config import DataConfig

# Legend: N frames of a recording, H height, W width.

NUM_FRAMES, HEIGHT, WIDTH = 160, 8, 10
KEYFRAMES = range(20, 101, 10)
SHORT: dict[str, Any] = {"clip_len": 8, "frame_interval": 2}  # a window reaches 8 frames to both sides of its keyframe
CLASSES = ("standing", "walking", "lying")
DAY_MS = 86_400_000
STARTS_MS = {"A_R1": 0, "A_R2": 60_000, "B_R1": DAY_MS, "C_R1": 2 * DAY_MS}  # three sessions; the last one validates
SENSOR = "02:00:1a:62:51:67"
BOX = [0.5, 0.5, 0.2, 0.3]


@dataclass(frozen=True)
class Folder:
    """A dataset that a test damages."""

    root: Path

    @contextmanager
    def file(self, recording: str) -> Iterator[h5py.File]:
        with h5py.File(self.root / "frames" / f"{recording}.h5", "r+") as file:
            yield file

    @contextmanager
    def frames(self, recording: str) -> Iterator[np.ndarray]:
        """Its frames, float32 [N, H, W], to be changed in place."""
        with self.file(recording) as file:
            frames_NHW = np.array(file["frames"])
            yield frames_NHW
            file["frames"][...] = frames_NHW  # pyright: ignore

    def times(self, recording: str) -> np.ndarray:
        with self.file(recording) as file:
            return np.array(file["timestamps"])

    def set_times(self, recording: str, times_N: np.ndarray) -> None:
        """In the recording, and in the images of its keyframes."""
        with self.file(recording) as file:
            del file["timestamps"]
            file["timestamps"] = times_N
        for name in ("train", "val"):
            with self.split(name) as content:
                for image in content["images"]:
                    if image["sensor_id"] == recording:
                        image["timestamp"] = int(times_N[image["frame_idx"]])

    @contextmanager
    def split(self, name: str) -> Iterator[dict[str, Any]]:
        """The content of an annotation file, to be changed in place."""
        path = self.root / "annotations" / f"{name}.json"
        content = json.loads(path.read_text())
        yield content
        path.write_text(json.dumps(content))

    def add_image(self, name: str, recording: str, keyframe: int, category: int = 0, image_id: str = "added") -> None:
        with self.split(name) as content:
            image = {"id": image_id, "sensor_id": recording, "frame_idx": keyframe}
            content["images"].append(image | {"timestamp": int(self.times(recording)[keyframe])})
            content["annotations"].append({"image_id": image_id, "category_id": category, "bbox": BOX})

    def add_people(self, name: str, image_id: str, *categories: int) -> None:
        with self.split(name) as content:
            content["annotations"] += [
                {"image_id": image_id, "category_id": category, "bbox": BOX} for category in categories
            ]

    def relabel(self, name: str, category: int, positions: list[int]) -> None:
        """Give the people at some positions of the list of annotations another category, which is added."""
        for each in ("train", "val"):
            with self.split(each) as content:
                if category >= len(content["categories"]):
                    content["categories"].append({"id": category, "name": "falling"})
        with self.split(name) as content:
            for position in positions:
                content["annotations"][position]["category_id"] = category


@pytest.fixture(scope="session")
def clean_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 recordings of 3 sessions, 27 train and 9 val samples: nothing is wrong with any of them."""
    root = tmp_path_factory.mktemp("audit") / "clean"
    (root / "frames").mkdir(parents=True)
    (root / "annotations").mkdir()
    content = {
        name: {
            "images": [],
            "annotations": [],
            "categories": [{"id": i, "name": each} for i, each in enumerate(CLASSES)],
        }
        for name in ("train", "val")
    }
    rng = np.random.default_rng(0)
    for recording, start in STARTS_MS.items():
        times_N = 1_700_000_000_000 + start + np.cumsum(rng.integers(160, 181, NUM_FRAMES))
        with h5py.File(root / "frames" / f"{recording}.h5", "w") as file:
            # Steps of 0.1 degrees, as the sensor has them.
            noise_NHW = rng.normal(21, 0.5, (NUM_FRAMES, HEIGHT, WIDTH))
            file["frames"] = noise_NHW.round(1).astype(np.float32)
            file["timestamps"] = times_N
            file.attrs["mac_address"] = SENSOR
        split = content["val" if recording == "C_R1" else "train"]
        for position, keyframe in enumerate(KEYFRAMES):
            image = {"id": f"{recording}_{keyframe}", "sensor_id": recording, "frame_idx": keyframe}
            split["images"].append(image | {"timestamp": int(times_N[keyframe])})
            split["annotations"].append(
                {"image_id": image["id"], "category_id": position % 3, "object_id": 0, "bbox": BOX}
            )
    for name, each in content.items():
        (root / "annotations" / f"{name}.json").write_text(json.dumps(each))
    return root


@pytest.fixture
def folder(clean_root: Path, tmp_path: Path) -> Folder:
    """A copy under its own path, since a dataset is read once a path."""
    return Folder(Path(shutil.copytree(clean_root, tmp_path / "copy")))


def audited(folder: Folder, widest_window: float | None = None, **settings: Any) -> Audit:
    return audit.of_folder(folder.root, DataConfig(**SHORT | settings), widest_window)


def keys(findings: tuple[Finding, ...]) -> list[str]:
    return [finding.key for finding in findings]


def test_nothing_is_found_in_a_clean_dataset(folder: Folder) -> None:
    assert audited(folder, widest_window=64).findings == ()


@pytest.mark.parametrize(
    "settings",
    [
        {"frame_interval_ms": 340.0},
        {"labels": "person"},
        {"labels": "multi"},
        {"ties": "rarest"},
        {"split": "leave-one-session-out", "fold": 2},
    ],
    ids=str,
)
def test_nor_under_other_settings(folder: Folder, settings: dict[str, Any]) -> None:
    assert audited(folder, **settings).findings == ()


# The faults, each of which damages the clean dataset in one place.


def val_between_train(folder: Folder) -> None:
    folder.add_image("val", "A_R1", 25)


def val_on_frames_of_train(folder: Folder) -> None:
    folder.add_image("val", "A_R1", 24)  # clips show every 2nd frame: those beside even keyframes are never shown


def val_in_a_free_place_of_a_session_that_trains(folder: Folder) -> None:
    folder.add_image("val", "A_R1", 130)


def frames_of_val_stored_in_train(folder: Folder) -> None:
    with folder.frames("C_R1") as val_NHW, folder.frames("B_R1") as train_NHW:
        train_NHW[33:38] = val_NHW[33:38]  # inside the windows around 30 and 40, beside their keyframes


def val_at_the_time_of_train(folder: Folder) -> None:
    folder.set_times("C_R1", folder.times("C_R1") - DAY_MS)


def all_within_an_hour(folder: Folder) -> None:
    folder.set_times("B_R1", folder.times("B_R1") - DAY_MS + 120_000)
    folder.set_times("C_R1", folder.times("C_R1") - 2 * DAY_MS + 180_000)


def another_sensor_at_the_time_of_train(folder: Folder) -> None:
    val_at_the_time_of_train(folder)
    with folder.file("C_R1") as file:
        file.attrs["mac_address"] = "02:00:1a:62:51:68"


def another_sensor_in_a_pause(folder: Folder) -> None:
    # A_R2 starts a minute after A_R1, which lasts 27 s.
    folder.set_times("C_R1", folder.times("C_R1") - 2 * DAY_MS + 30_000)
    with folder.file("C_R1") as file:
        file.attrs["mac_address"] = "02:00:1a:62:51:68"


def one_nameless_sensor(folder: Folder) -> None:
    with folder.file("B_R1") as file:
        del file.attrs["mac_address"]


def train_keyframe_twice(folder: Folder) -> None:
    folder.add_image("train", "A_R1", 20)


def val_keyframe_twice(folder: Folder) -> None:
    folder.add_image("val", "C_R1", 20)


def keyframe_in_both(folder: Folder) -> None:
    folder.add_image("val", "A_R1", 20)


def keyframe_in_both_recordings_that_store_it(folder: Folder) -> None:
    with folder.frames("C_R1") as val_NHW, folder.frames("B_R1") as train_NHW:
        train_NHW[20] = val_NHW[20]


def person_twice(folder: Folder) -> None:
    folder.add_people("train", "A_R1_20", 0)


def keyframe_near_the_start(folder: Folder) -> None:
    folder.add_image("train", "A_R1", 3)


def a_pause_near_a_keyframe(folder: Folder) -> None:
    times_N = folder.times("A_R1")
    times_N[37:] += 5000
    folder.set_times("A_R1", times_N)


def pauses_everywhere(folder: Folder) -> None:
    for recording in ("A_R1", "B_R1"):
        pauses_before_N = (np.arange(NUM_FRAMES) + 3) // 10  # before frames 7, 17, ...
        folder.set_times(recording, folder.times(recording) + 5000 * pauses_before_N)


def a_class_only_in_val(folder: Folder) -> None:
    folder.relabel("val", 3, [4])


def a_class_only_in_train(folder: Folder) -> None:
    folder.relabel("train", 3, [0, 1, 2, 3, 4])


def a_class_with_four_train_samples(folder: Folder) -> None:
    folder.relabel("train", 1, [0, 3, 6, 9, 12])


def a_class_without_samples(folder: Folder) -> None:
    folder.relabel("val", 3, [])


def two_people_who_differ(folder: Folder) -> None:
    folder.add_people("val", "C_R1_30", 2)


def two_against_one(folder: Folder) -> None:
    folder.add_people("train", "A_R1_20", 0, 1)


def one_image_labelled_twice(folder: Folder) -> None:
    folder.add_image("train", "A_R1", 20, category=2)


def one_moment_labelled_in_two_recordings(folder: Folder) -> None:
    with folder.frames("A_R1") as one_NHW, folder.frames("B_R1") as other_NHW:
        other_NHW[30] = one_NHW[20]


def no_box(folder: Folder) -> None:
    with folder.split("train") as content:
        del content["annotations"][2]["bbox"]


def box_of_three_numbers(folder: Folder) -> None:
    with folder.split("train") as content:
        content["annotations"][2]["bbox"] = [0.5, 0.5, 0.2]


def box_in_pixels(folder: Folder) -> None:
    with folder.split("val") as content:
        content["annotations"][0]["bbox"] = [5, 4, 2, 3]


def box_over_the_border(folder: Folder) -> None:
    with folder.split("val") as content:
        content["annotations"][0]["bbox"] = [0.95, 0.5, 0.2, 0.3]


def an_image_of_nobody(folder: Folder) -> None:
    with folder.split("val") as content:
        content["images"].append({"id": "empty", "sensor_id": "C_R1", "frame_idx": 40})


def one_id_in_both_files(folder: Folder) -> None:
    with folder.split("val") as content:
        content["images"][0]["id"] = content["annotations"][0]["image_id"] = "A_R1_50"


def no_timestamps(folder: Folder) -> None:
    with folder.file("C_R1") as file:
        del file["timestamps"]


def seconds(folder: Folder) -> None:
    folder.set_times("B_R1", folder.times("B_R1") / 1000)


def microseconds(folder: Folder) -> None:
    folder.set_times("B_R1", folder.times("B_R1") * 1000)


def two_frames_swapped(folder: Folder) -> None:
    times_N = folder.times("B_R1")
    times_N[[125, 126]] = times_N[[126, 125]]
    folder.set_times("B_R1", times_N)


def times_that_descend(folder: Folder) -> None:
    folder.set_times("B_R1", folder.times("B_R1")[::-1])


def one_time_twice(folder: Folder) -> None:
    times_N = folder.times("B_R1")
    times_N[126] = times_N[125]
    folder.set_times("B_R1", times_N)


def a_pause(folder: Folder) -> None:
    times_N = folder.times("B_R1")
    times_N[131:] += 5000
    folder.set_times("B_R1", times_N)


def uneven_times(folder: Folder) -> None:
    times_N = folder.times("B_R1")
    times_N[1::2] -= 100  # in turns about 70 and 270 ms
    folder.set_times("B_R1", times_N)


def keyframes_counted_from_one(folder: Folder) -> None:
    with folder.split("train") as content:
        for image in content["images"]:
            image["frame_idx"] += 1


def one_keyframe_five_early(folder: Folder) -> None:
    with folder.split("val") as content:
        content["images"][2]["frame_idx"] -= 5


def one_nan(folder: Folder) -> None:
    with folder.frames("B_R1") as frames_NHW:
        frames_NHW[50, 2, 3] = np.nan


def infinities(folder: Folder) -> None:
    with folder.frames("B_R1") as frames_NHW:
        frames_NHW[50:52, 2, 3] = np.inf


def lost_rows(folder: Folder) -> None:
    with folder.frames("B_R1") as frames_NHW:
        frames_NHW[60:70, :4] = -273.2


def one_dead_value(folder: Folder) -> None:
    with folder.frames("B_R1") as frames_NHW:
        frames_NHW[60, 2, 3] = -273.2


def one_pixel_dead_throughout(folder: Folder) -> None:
    with folder.frames("B_R1") as frames_NHW:
        frames_NHW[:, 2, 3] = -273.2


def nothing_measured(folder: Folder) -> None:
    with folder.frames("B_R1") as frames_NHW:
        frames_NHW[:] = -273.2


def one_pixel_stuck(folder: Folder) -> None:
    with folder.frames("B_R1") as frames_NHW:
        frames_NHW[:, 2, 3] = 21.5


def one_pixel_stuck_for_ten_seconds(folder: Folder) -> None:
    with folder.frames("A_R2") as frames_NHW:
        frames_NHW[40:100, 1, 1] = 21.5
        frames_NHW[70, 1, 1] = -273.2  # dead on the way, and as stuck afterwards


def two_hot_values(folder: Folder) -> None:
    with folder.frames("B_R1") as frames_NHW:
        frames_NHW[10:12, 0, 0] = 150


def kelvin(folder: Folder) -> None:
    with folder.frames("B_R1") as frames_NHW:
        frames_NHW += 273.15


def a_hot_room(folder: Folder) -> None:
    with folder.frames("B_R1") as frames_NHW:
        frames_NHW += 30


def one_frame_twice(folder: Folder) -> None:
    with folder.frames("B_R1") as frames_NHW:
        frames_NHW[110] = frames_NHW[109]


def a_frozen_picture(folder: Folder) -> None:
    with folder.frames("B_R1") as frames_NHW:
        frames_NHW[110:115] = frames_NHW[109]


@dataclass(frozen=True)
class Fault:
    """A damage, and what the audit must say of it."""

    damage: Callable[[Folder], None]
    key: str
    severity: str
    count: int
    example: str
    """A part of one of the examples."""
    companions: set[str] = field(default_factory=set)
    """Serious findings and warnings that the same damage brings along."""
    settings: dict[str, Any] = field(default_factory=dict)
    widest_window: float | None = None


BY_CLOCK = {"frame_interval_ms": 340.0}
PERSON = {"labels": "person"}
VALUES = NUM_FRAMES * HEIGHT * WIDTH

FAULTS = [
    Fault(val_between_train, "leak/time", "serious", 1, "added and A_R1_"),
    Fault(val_on_frames_of_train, "leak/time", "serious", 1, "added and A_R1_20", {"leak/frames"}),
    Fault(val_on_frames_of_train, "leak/frames", "serious", 1, "added", {"leak/time"}),
    Fault(val_on_frames_of_train, "leak/time", "serious", 1, "added and A_R1_", {"leak/frames"}, BY_CLOCK),
    Fault(frames_of_val_stored_in_train, "leak/frames", "serious", 2, "C_R1_40"),
    Fault(val_at_the_time_of_train, "leak/time", "serious", 9, "C_R1_20 and B_R1_20"),
    Fault(
        val_in_a_free_place_of_a_session_that_trains, "leak/widest", "serious", 1, "added", widest_window=64
    ),  # 130 - 32 < 100 + 32
    Fault(val_in_a_free_place_of_a_session_that_trains, "session/shared", "note", 1, "A_R1 to A_R2"),
    Fault(all_within_an_hour, "session/one", "warning", 1, "A_R1 to C_R1 (4 recordings)"),
    Fault(another_sensor_at_the_time_of_train, "session/simultaneous", "warning", 2, "C_R1 and B_R1"),
    Fault(another_sensor_in_a_pause, "session/simultaneous", "warning", 2, "A_R1 to A_R2 (2 recordings) and C_R1"),
    Fault(one_nameless_sensor, "session/sensor", "warning", 1, "B_R1"),
    Fault(train_keyframe_twice, "duplicate/train", "note", 1, "A_R1_20 and added"),
    Fault(val_keyframe_twice, "duplicate/val", "warning", 1, "C_R1_20 and added"),
    Fault(keyframe_in_both, "duplicate/across", "serious", 1, "added and A_R1_20", {"leak/time", "leak/frames"}),
    Fault(
        keyframe_in_both_recordings_that_store_it,
        *("duplicate/across", "serious", 1, "C_R1_20 and B_R1_20", {"leak/frames"}),
    ),
    Fault(person_twice, "duplicate/train", "note", 1, "A_R1_20#0 and A_R1_20#1", settings=PERSON),
    Fault(keyframe_near_the_start, "window/edge", "note", 1, "added"),
    Fault(keyframe_near_the_start, "window/edge", "note", 1, "added", settings=BY_CLOCK),
    # Around frame 40, two of 8 moments lie in the pause.
    Fault(a_pause_near_a_keyframe, "window/gap", "note", 2, "A_R1_40", settings=BY_CLOCK),
    Fault(pauses_everywhere, "window/gap", "warning", 2 * 9 * 2, "A_R1_20", settings=BY_CLOCK),
    Fault(uneven_times, "time/jitter", "note", 1, "B_R1", settings=BY_CLOCK),
    Fault(a_pause_near_a_keyframe, "time/gap", "note", 1, "A_R1 frame 36", settings=BY_CLOCK),
    Fault(a_class_only_in_val, "class/untrained", "serious", 1, "falling (1 val)"),
    Fault(a_class_only_in_train, "class/unvalidated", "warning", 1, "falling (5 train)"),
    Fault(a_class_with_four_train_samples, "class/few", "warning", 1, "standing (4 train)"),
    Fault(a_class_without_samples, "class/absent", "note", 1, "falling"),
    Fault(two_people_who_differ, "label/tie", "warning", 1, "C_R1_30: walking, lying"),
    Fault(two_people_who_differ, "label/tie", "note", 1, "C_R1_30", settings={"ties": "drop"}),
    Fault(two_against_one, "label/outvoted", "note", 1, "A_R1_20: standing, standing, walking"),
    Fault(one_image_labelled_twice, "label/moment", "warning", 1, "A_R1_20 and added"),
    Fault(one_moment_labelled_in_two_recordings, "label/moment", "warning", 1, "A_R1_20 and B_R1_30"),
    Fault(one_moment_labelled_in_two_recordings, "frame/shared", "note", 2, "A_R1 and B_R1: 1", {"label/moment"}),
    Fault(no_box, "box/missing", "note", 1, "A_R1_40#0"),
    Fault(box_of_three_numbers, "box/missing", "serious", 1, "A_R1_40#0", {"data/refused"}, PERSON),
    Fault(box_in_pixels, "box/fractions", "warning", 1, "C_R1_20#0"),
    Fault(box_in_pixels, "box/fractions", "serious", 1, "C_R1_20#0", {"data/refused"}, PERSON),
    Fault(box_over_the_border, "box/border", "note", 1, "C_R1_20#0"),
    Fault(an_image_of_nobody, "image/unlabelled", "note", 1, "1 in val.json"),
    Fault(one_id_in_both_files, "image/both", "warning", 1, "A_R1_50"),
    Fault(no_timestamps, "time/absent", "warning", 1, "C_R1"),
    Fault(seconds, "time/unit", "serious", 1, "B_R1: 0 from frame to frame"),
    Fault(microseconds, "time/unit", "serious", 1, "B_R1"),
    Fault(two_frames_swapped, "time/backwards", "warning", 1, "B_R1 frame 126"),
    Fault(times_that_descend, "time/backwards", "warning", NUM_FRAMES - 1, "B_R1 frame 1"),
    Fault(one_time_twice, "time/repeated", "warning", 1, "B_R1 frame 126"),
    Fault(a_pause, "time/gap", "warning", 1, "B_R1 frame 130"),
    Fault(uneven_times, "time/jitter", "warning", 1, "B_R1"),
    Fault(
        keyframes_counted_from_one,
        "keyframe/time",
        "serious",
        27,
        "frame_idx 21, but its timestamp is that of frame 20",
    ),
    Fault(one_keyframe_five_early, "keyframe/time", "serious", 1, "C_R1_40: frame_idx 35"),
    Fault(one_nan, "pixel/not-finite", "serious", 1, "B_R1 frame 50", {"data/refused"}),
    Fault(infinities, "pixel/not-finite", "serious", 2, "B_R1 frame 50", {"data/refused"}),
    Fault(lost_rows, "pixel/dead", "warning", 10 * 4 * WIDTH, "B_R1: 3.1% of its values, in 10 frames"),
    Fault(one_dead_value, "pixel/dead", "note", 1, "B_R1"),
    Fault(one_pixel_dead_throughout, "pixel/never-alive", "warning", 1, "B_R1 row 2, column 3", {"pixel/dead"}),
    Fault(nothing_measured, "data/refused", "serious", 1, "", {"pixel/dead", "pixel/never-alive"}),
    Fault(one_pixel_stuck, "pixel/stuck", "warning", 1, "B_R1 row 2, column 3"),
    Fault(one_pixel_stuck_for_ten_seconds, "pixel/stuck", "warning", 1, "A_R2 row 1, column 1"),
    Fault(two_hot_values, "pixel/implausible", "warning", 2, "B_R1: 2 values"),
    Fault(kelvin, "pixel/implausible", "warning", VALUES, "B_R1"),
    Fault(a_hot_room, "pixel/clipped", "warning", VALUES, "B_R1: 100.0% of its values"),
    Fault(one_frame_twice, "frame/repeated", "note", 1, "B_R1 frame 110"),
    Fault(a_frozen_picture, "frame/repeated", "warning", 5, "B_R1 frame 110"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.damage.__name__}-{fault.key}-{fault.severity}")
def test_a_fault_is_found_and_nothing_beside_it(folder: Folder, fault: Fault) -> None:
    fault.damage(folder)
    findings = audited(folder, fault.widest_window, **fault.settings).findings
    assert len(set(keys(findings))) == len(findings)
    (found,) = [finding for finding in findings if finding.key == fault.key]
    assert (found.severity, found.count) == (fault.severity, fault.count)
    assert found.count <= found.total
    assert any(fault.example in example for example in found.examples) or not fault.example
    assert len(found.examples) <= audit_findings.MAX_EXAMPLES
    assert (found.title[-1], found.remedy[-1]) == (".", ".")
    others = {finding.key for finding in findings if finding.severity != "note"} - {fault.key}
    assert others == fault.companions


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (keyframes_counted_from_one, "27 of 36 keyframes .*: 27 of them lie 1 frame too late"),
        (one_keyframe_five_early, "1 of 36 keyframes .*: 1 of them lie 5 frames too early"),
    ],
)
def test_keyframes_beside_their_time_tell_which_way(
    folder: Folder, damage: Callable[[Folder], None], says: str
) -> None:
    damage(folder)
    assert re.search(says, audited(folder).findings[0].title)


@pytest.mark.parametrize("key", sorted({fault.key for fault in FAULTS}))
def test_every_key_is_documented_with_its_severities(key: str) -> None:
    (line,) = [line for line in (audit.__doc__ or "").splitlines() if line.strip().startswith(f"{key} ")]
    for fault in FAULTS:
        if fault.key == key:
            assert fault.severity in line


def test_every_documented_key_is_tried() -> None:
    documented = {line.split()[0] for line in (audit.__doc__ or "").splitlines() if line.startswith("    ")}
    assert documented == {fault.key for fault in FAULTS}


def test_times_that_descend_are_nothing_else(folder: Folder) -> None:
    times_that_descend(folder)
    assert keys(audited(folder).findings) == ["time/backwards"]


def test_frames_that_all_recordings_store_are_counted_once(folder: Folder) -> None:
    for recording in ("A_R2", "B_R1", "C_R1"):
        with folder.frames("A_R1") as one_NHW, folder.frames(recording) as other_NHW:
            other_NHW[:] = one_NHW
    (found,) = [finding for finding in audited(folder).findings if finding.key == "frame/shared"]
    assert (found.count, found.total) == (4 * NUM_FRAMES, 4 * NUM_FRAMES)
    assert found.title == (
        f"640 of 640 frames are stored in another recording as well: 6 pairs of recordings share {NUM_FRAMES} frames "
        "each."
    )


def test_recordings_days_apart_hold_no_session_between_them(folder: Folder) -> None:
    # One identical frame makes A_R1 and C_R1 one session; B_R1, of another sensor, lies between them.
    with folder.frames("A_R1") as one_NHW, folder.frames("C_R1") as other_NHW:
        other_NHW[150] = one_NHW[150]
    with folder.file("B_R1") as file:
        file.attrs["mac_address"] = "02:00:1a:62:51:68"
    result = audited(folder)
    assert len(result.facts.sessions) == 2
    assert "session/simultaneous" not in keys(result.findings)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"clip_len": 8, "frame_interval": 1}, "clips of 8 frames, one after the other, span"),
        ({"clip_len": 8, "frame_interval": 2}, "clips of 8 frames, every 2nd, span"),
        ({"clip_len": 4, "frame_interval": 3}, "clips of 4 frames, every 3rd, span"),
        ({"clip_len": 4, "frame_interval": 11}, "clips of 4 frames, every 11th, span"),
        ({"clip_len": 8, "frame_interval_ms": 170.0}, "clips of 8 frames, every 170 ms, span"),
    ],
)
def test_a_leak_names_the_clips_that_leak(folder: Folder, settings: dict[str, Any], says: str) -> None:
    keyframe_in_both(folder)
    (found,) = [each for each in audited(folder, **settings).findings if each.key == "leak/time"]
    assert says in found.title


def test_the_worst_comes_first(folder: Folder) -> None:
    for damage in (box_over_the_border, a_pause, val_between_train):
        damage(folder)
    found = [finding.severity for finding in audited(folder).findings]
    assert found == sorted(found, key=["serious", "warning", "note"].index)
    assert set(found) == {"serious", "warning", "note"}


@pytest.mark.parametrize("damage", [val_on_frames_of_train, val_at_the_time_of_train, frames_of_val_stored_in_train])
def test_a_purged_split_of_leaky_data_leaks_nothing(folder: Folder, damage: Callable[[Folder], None]) -> None:
    damage(folder)
    settings = {"split": "purged", "num_folds": 3}
    for fold in range(3):
        assert not [key for key in keys(audited(folder, fold=fold, **settings).findings) if key.startswith("leak/")]
    # A search with longer clips leaks again, unless the purge knows of them.
    (found,) = [each for each in audited(folder, 64, **settings).findings if each.key == "leak/widest"]
    assert "--data.purge-window 64" in found.remedy
    assert "leak/widest" not in keys(audited(folder, 64, purge_window=64, **settings).findings)


def test_what_leaks_is_what_the_dataset_says(folder: Folder) -> None:
    val_on_frames_of_train(folder)
    frames_of_val_stored_in_train(folder)
    result = audited(folder, 64)
    facts = result.facts
    (found,) = [finding for finding in result.findings if finding.key == "leak/frames"]
    assert "3 of 10 val samples show frames that train samples show as well, 2 of them in another" in found.title
    assert found.examples[:2] == ("C_R1_30", "C_R1_40")  # those across recordings first
    data = dataset.load(DataConfig(root=str(folder.root), **SHORT))
    assert facts.num_leaking == data.leaks_S.sum() == 3
    assert facts.num_leaking_widest is not None
    assert facts.num_leaking_widest > 3


def test_the_cheap_part_is_a_part_of_the_whole(folder: Folder) -> None:
    for damage in (val_between_train, a_pause, lost_rows, one_nameless_sensor, box_over_the_border):
        damage(folder)
    whole = audited(folder, 64).findings
    cheap = audit.of_dataset(dataset.load(DataConfig(root=str(folder.root), **SHORT)), 64)
    assert [finding for finding in whole if finding in cheap] == list(cheap)
    assert set(keys(whole)) - set(keys(cheap)) == {"pixel/dead", "session/sensor"}


def test_facts_are_those_of_the_files(folder: Folder) -> None:
    lost_rows(folder)
    two_people_who_differ(folder)
    facts = audited(folder, 64).facts
    assert [session.recordings for session in facts.sessions] == [("A_R1", "A_R2"), ("B_R1",), ("C_R1",)]
    assert [(session.num_train, session.num_val) for session in facts.sessions] == [(18, 0), (9, 0), (0, 9)]
    times_N = folder.times("C_R1")
    assert (facts.sessions[2].start_ms, facts.sessions[2].end_ms) == (times_N[0], times_N[-1])
    assert facts.sessions[2].val_windows_ms[0] == (times_N[12], times_N[26])  # 8 frames, every 2nd
    assert facts.sessions[2].train_windows_ms == ()
    broken = facts.recordings[2]
    assert (broken.id, broken.session, broken.sensor, broken.num_frames) == ("B_R1", 1, SENSOR, NUM_FRAMES)
    assert (broken.dead_share, broken.num_dead_frames) == (10 * 4 * WIDTH / VALUES, 10)
    np.testing.assert_array_equal(broken.dead_HW[:, 0], [10 / NUM_FRAMES] * 4 + [0] * 4)
    np.testing.assert_array_equal(broken.intervals_ms, np.diff(folder.times("B_R1")))
    assert [(each.name, each.num_train, each.num_val) for each in facts.classes] == [(name, 9, 3) for name in CLASSES]
    assert [(each.num_train_people, each.num_val_people) for each in facts.classes] == [(9, 3), (9, 3), (9, 4)]
    kept = {(each.labels, each.ties): (each.num_train, each.num_val, each.num_conflicts) for each in facts.policies}
    assert kept == {
        ("majority", "lowest"): (27, 9, 1),
        ("majority", "drop"): (27, 8, 1),
        ("majority", "rarest"): (27, 9, 1),
        ("person", None): (27, 10, 1),
        ("multi", None): (27, 9, 1),
    }
    assert (facts.window, facts.widest_window, facts.window_unit) == (16, 64, "frames")
    assert facts.refusal is None


def test_what_training_refuses_has_facts_all_the_same(folder: Folder) -> None:
    one_nan(folder)
    no_box(folder)
    facts = audited(folder, 64).facts
    assert facts.refusal is not None
    assert "NaN" in facts.refusal
    assert len(facts.sessions) == 3
    assert {(each.num_train, each.num_val, each.num_dropped) for each in facts.sessions} == {(None, None, None)}
    assert {(each.num_train, each.num_val) for each in facts.classes} == {(None, None)}
    assert facts.classes[0].num_train_people == 9
    assert facts.recordings[2].num_frames == NUM_FRAMES
    assert (facts.num_leaking, facts.dataset_fingerprint, facts.split_fingerprint) == (None, None, None)
    person = next(each for each in facts.policies if each.labels == "person")
    assert person.refusal is not None
    assert (person.num_train, person.num_val, person.num_conflicts, person.num_ties, person.num_dropped) == (None,) * 5
    assert "A_R1_40" in person.refusal


def test_settings_that_are_refused_are_a_finding(folder: Folder) -> None:
    all_within_an_hour(folder)
    found = audited(folder, split="leave-one-session-out").findings[0]
    assert (found.key, found.severity) == ("data/refused", "serious")
    assert "all are of one: A_R1 to C_R1" in found.title


def test_what_cannot_be_read_is_refused_as_elsewhere(folder: Folder) -> None:
    with pytest.raises(FileNotFoundError, match="No such data folder"):
        audit.of_folder(folder.root / "nowhere", DataConfig())
    folder.add_image("val", "C_R1", 20)
    with folder.split("val") as content:
        content["images"][-1]["frame_idx"] = NUM_FRAMES
    with pytest.raises(ValueError, match=r"frame_idx 160, and C_R1 has 160 frames"):
        audited(folder)
    path = folder.root / "frames" / "B_R1.h5"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"B_R1\.h5 cannot be read as HDF5"):
        audited(folder)


def test_the_real_dataset_is_told_as_it_is(real_root: Path) -> None:
    result = audit.of_folder(real_root, DataConfig(), 128)
    by_key = {finding.key: finding for finding in result.findings}
    # Every val window overlaps train windows, in time and in identical frames; those of 16 in another file as well.
    for key in ("leak/time", "leak/frames"):
        assert (by_key[key].severity, by_key[key].count, by_key[key].total) == ("serious", 73, 73)
    assert "16 of them in another recording" in by_key["leak/frames"].title
    assert "6 pairs of recordings share 140 to 151 frames each" in by_key["frame/shared"].title
    assert "session/simultaneous" not in by_key
    assert by_key["label/tie"].count == 72 + 22
    assert "72 of 314 in train.json, 22 of 73 in val.json" in by_key["label/tie"].title
    assert "4 of 8 recordings" in by_key["pixel/dead"].title
    assert "2.7 to 4.6 % of a recording's values, in 39 to 63 of its frames" in by_key["pixel/dead"].title
    # Nothing of this is wrong with it; quantised as its pixels are, none of them is stuck.
    assert not [key for key in by_key if key.startswith(("duplicate/", "keyframe/", "data/"))]
    assert {key for key in by_key if key.startswith("pixel/")} == {"pixel/dead"}

    facts = result.facts
    assert len(facts.sessions) == 2
    assert sum(session.num_train for session in facts.sessions) == 314
    assert all(bool(each.num_dead_frames) == each.id.startswith("SL14") for each in facts.recordings)
    shared = {(one, other): count for one, other, count in facts.shared_frames}
    assert list(shared) == [(f"{each}_R{n}", f"{each}_R{n + 1}") for each in ("SL14", "SL18") for n in (1, 2, 3)]
    assert (min(shared.values()), max(shared.values())) == (140, 151)
    assert (facts.num_leaking, facts.num_leaking_widest) == (73, 73)


@pytest.mark.parametrize(("frame_interval", "in_frames"), [(1, 50), (2, 48)])
def test_short_clips_of_the_real_dataset_leak_less(real_root: Path, frame_interval: int, in_frames: int) -> None:
    config = DataConfig(root=str(real_root), clip_len=8, frame_interval=frame_interval)
    data = dataset.load(config)
    by_key = {finding.key: finding for finding in audit.of_dataset(data)}
    assert by_key["leak/frames"].count == in_frames
    if frame_interval == 1:
        assert data.leaks_S.sum() == 50
