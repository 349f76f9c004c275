"""Recordings: what is read, what is repaired and counted, and what is refused with the file's name."""

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from slowfast_ray.data import recordings

# Legend: N frames of a recording, H rows, W columns.

DEAD = -273.2


def write(path: Path, **datasets: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file.create_dataset(name, data=values)
    return path


def some_frames(num_frames: int, height: int = 4, width: int = 5) -> np.ndarray:
    """Frames of which every value occurs once, so that a wrong neighbour shows."""
    values = np.arange(num_frames * height * width, dtype=np.float32) / 64
    return 10 + values.reshape(num_frames, height, width)


def film(*celsius: float) -> np.ndarray:
    """A film of one pixel beside one that lives throughout."""
    return np.stack([np.array([[value, 20.0]], np.float32) for value in celsius])


def test_reads_the_frames_as_they_are(tmp_path: Path) -> None:
    frames = some_frames(7)
    recording = recordings.read(write(tmp_path / "SL14_R1.h5", frames=frames, timestamps=np.arange(7)))
    assert recording.id == "SL14_R1"
    assert recording.frames_NHW.dtype == np.float32
    np.testing.assert_array_equal(recording.frames_NHW, frames)
    assert (recording.num_dead_pixels, recording.num_dead_frames) == (0, 0)


@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<f2"])
def test_other_floats_are_read_as_float32(tmp_path: Path, dtype: str) -> None:
    frames = np.round(some_frames(3)).astype(dtype)
    frames[1, 0, 0] = DEAD  # rounded to -273.25 in float16, and dead all the same
    recording = recordings.read(write(tmp_path / "a.h5", frames=frames))
    assert recording.frames_NHW.dtype == np.float32
    assert recording.num_dead_pixels == 1
    alive = frames != frames.min()
    np.testing.assert_array_equal(recording.frames_NHW[alive], frames[alive].astype(np.float32))


@pytest.mark.parametrize(
    ("seen", "repaired"),
    [
        ((DEAD, 21, 22), (21, 21, 22)),  # before the first good frame: the first good one
        ((21, 22, DEAD), (21, 22, 22)),  # after the last good frame: the last good one
        ((21, DEAD, 23), (21, 21, 23)),  # a tie: the earlier
        ((21, DEAD, DEAD, 24), (21, 21, 24, 24)),  # each its nearest, not the last one seen
        ((21, DEAD, DEAD, DEAD, 25), (21, 21, 21, 25, 25)),
        ((DEAD, DEAD, 23, DEAD), (23, 23, 23, 23)),
        ((21, -99.9, 23), (21, -99.9, 23)),  # cold, but measured
    ],
)
def test_a_dead_pixel_takes_the_nearest_good_frame(
    tmp_path: Path, seen: tuple[float, ...], repaired: tuple[float, ...]
) -> None:
    recording = recordings.read(write(tmp_path / "a.h5", frames=film(*seen)))
    np.testing.assert_array_equal(recording.frames_NHW, film(*repaired))
    assert recording.num_dead_pixels == recording.num_dead_frames == seen.count(DEAD)


def test_dead_pixels_are_counted_by_value_and_by_frame(tmp_path: Path) -> None:
    frames = some_frames(6)
    frames[2, :2] = DEAD  # 10 values of one frame
    frames[4, 3, 3] = frames[5, 3, 3] = DEAD
    recording = recordings.read(write(tmp_path / "a.h5", frames=frames))
    assert (recording.num_dead_pixels, recording.num_dead_frames) == (12, 3)


def test_a_pixel_dead_throughout_takes_the_nearest_pixel(tmp_path: Path) -> None:
    frames = some_frames(3)
    expected = frames.copy()
    # The corner has (0, 1) and (1, 0) beside it; (0, 1) is dead as well, so (1, 0) is the one nearest.
    frames[:, 0, 0] = frames[:, 0, 1] = DEAD
    frames[:, 1, 1] = frames[:, 0, 2] = DEAD
    expected[:, 0, 0] = frames[:, 1, 0]
    # The living neighbour lost one frame itself: its repaired value is what spreads.
    frames[1, 1, 0] = DEAD
    expected[1, 1, 0] = expected[1, 0, 0] = expected[0, 1, 0]
    found = recordings.read(write(tmp_path / "a.h5", frames=frames)).frames_NHW
    np.testing.assert_array_equal(found[:, :2, 0], expected[:, :2, 0])
    assert found.min() > 0


@settings(max_examples=60, deadline=None)
@given(
    dead_NHW=arrays.arrays(
        bool, arrays.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6), elements=st.booleans()
    ).filter(lambda dead_NHW: not dead_NHW.all())
)
def test_repair_agrees_with_a_search_of_every_frame(dead_NHW: np.ndarray) -> None:
    # Reference: straight from the sentence in the docstring, by trying every candidate.
    frames_NHW = some_frames(*dead_NHW.shape)
    frames_NHW[dead_NHW] = DEAD
    before = frames_NHW.copy()
    repaired_NHW = recordings.repair(frames_NHW, dead_NHW)
    np.testing.assert_array_equal(frames_NHW, before)  # a copy: the argument stays
    num_frames, height, width = dead_NHW.shape
    throughout_HW = dead_NHW.all(axis=0)
    alive_pixels = np.argwhere(~throughout_HW)
    for row, column in np.ndindex(height, width):
        found_N = repaired_NHW[:, row, column]
        if throughout_HW[row, column]:
            distances = ((alive_pixels - (row, column)) ** 2).sum(axis=1)
            nearest = alive_pixels[distances == distances.min()]
            assert any(np.array_equal(found_N, repaired_NHW[:, r, c]) for r, c in nearest)
            continue
        alive = [n for n in range(num_frames) if not dead_NHW[n, row, column]]
        for n in range(num_frames):
            source = min(alive, key=lambda other: (abs(other - n), other))
            assert found_N[n] == before[source, row, column]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_with_its_frame(tmp_path: Path, bad: float) -> None:
    frames = some_frames(9)
    frames[5, 1, 2] = frames[7, 0, 0] = bad
    path = write(tmp_path / "a.h5", frames=frames)
    with pytest.raises(ValueError, match=rf"2 of 9 frames of {re.escape(str(path))}.* first at frame 5\b"):
        recordings.read(path)


def test_a_truncated_file_is_refused_wherever_it_was_cut(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", frames=some_frames(9))
    whole = path.read_bytes()
    for kept in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=rf"{re.escape(str(path))} cannot be read as HDF5 .*truncated"):
            recordings.read(path)


def test_damaged_bytes_never_raise_anything_but_a_value_error(tmp_path: Path) -> None:
    # HDF5 meets damage with OSError, RuntimeError, KeyError and TypeError; a caller shall need to know one of them.
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", data=some_frames(20, 8, 9), chunks=(8, 8, 9), compression=4)
        file["timestamps"] = np.arange(20)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for position in rng.integers(0, 3000, 3):  # the file's own tables stand at its beginning
            damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            recordings.read(path)
        except ValueError:
            refused += 1
    assert refused > 100


def test_a_file_that_is_no_hdf5_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    path.write_text("temperature,time\n" * 100)
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} cannot be read as HDF5"):
        recordings.read(path)


@pytest.mark.parametrize(
    ("datasets", "says"),
    [
        ({"pictures": some_frames(2), "timestamps": [1, 2]}, "`frames`.*holds only: pictures, timestamps"),
        ({}, "`frames`.*holds only: nothing"),
        ({"frames": some_frames(2)[0]}, r"\[N, H, W\].*\(4, 5\)"),
        ({"frames": some_frames(2)[..., None]}, r"\[N, H, W\].*\(2, 4, 5, 1\)"),
        ({"frames": np.zeros((0, 4, 5), np.float32)}, r"\[N, H, W\].*\(0, 4, 5\)"),
        ({"frames": np.zeros((2, 4, 5), np.uint16)}, "floats.*uint16"),
        ({"frames": np.full((2, 4, 5), DEAD, np.float32)}, "Every pixel"),
    ],
)
def test_frames_of_another_kind_are_refused(tmp_path: Path, datasets: dict[str, Any], says: str) -> None:
    path = write(tmp_path / "a.h5", **datasets)
    with pytest.raises(ValueError, match=says) as raised:
        recordings.read(path)
    assert str(path) in str(raised.value)


def test_a_group_named_frames_is_no_dataset(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_group("frames")
    with pytest.raises(ValueError, match="`frames` must be a dataset"):
        recordings.read(tmp_path / "a.h5")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "a.h5", tmp_path):  # a folder is no recording either
        with pytest.raises(FileNotFoundError, match=re.escape(str(path))):
            recordings.read(path)


# When and by what


def test_times_are_milliseconds_and_may_lack(tmp_path: Path) -> None:
    assert recordings.read(write(tmp_path / "a.h5", frames=some_frames(3))).times_N is None
    for dtype in (np.int64, np.uint64, np.int32, np.float64):
        path = write(tmp_path / "b.h5", frames=some_frames(3), timestamps=np.array([5, 7, 6], dtype))
        times_N = recordings.read(path).times_N
        assert times_N is not None
        assert (times_N.dtype, times_N.tolist()) == (np.int64, [5, 7, 6])  # disordered, as they are
    now_ms = [1_732_233_600_000, 1_732_233_600_000.4, 1_732_233_600_170.6]
    times_N = recordings.read(write(tmp_path / "c.h5", frames=some_frames(3), timestamps=now_ms)).times_N
    assert times_N is not None
    assert times_N.tolist() == [1_732_233_600_000, 1_732_233_600_000, 1_732_233_600_171]


@pytest.mark.parametrize(
    ("times", "says"),
    [
        ([1, 2], "one number a frame.*3 frames"),
        ([[1, 2, 3]], "one number a frame"),
        (7, "one number a frame"),
        ([b"a", b"b", b"c"], "one number a frame"),
        ([True, False, True], "one number a frame"),
        ([1.0, np.nan, 3.0], "finite"),
        ([1.0, 2.0, np.inf], "finite"),
        ([1.0, 2.0, 1e19], "milliseconds.*no clock shows"),
        (np.array([1, 2, 2**63], np.uint64), "milliseconds.*no clock shows"),
        ([1.0, 2.0, -1e19], "milliseconds.*no clock shows"),
    ],
)
def test_times_of_another_kind_are_refused(tmp_path: Path, times: Any, says: str) -> None:
    path = write(tmp_path / "a.h5", frames=some_frames(3), timestamps=times)
    with pytest.raises(ValueError, match=f"`timestamps` must .*{says}") as raised:
        recordings.read(path)
    assert str(path) in str(raised.value)


def test_a_group_named_timestamps_is_refused(tmp_path: Path) -> None:
    with h5py.File(write(tmp_path / "a.h5", frames=some_frames(3)), "r+") as file:
        file.create_group("timestamps")
    with pytest.raises(ValueError, match="`timestamps` must hold one number a frame"):
        recordings.read(tmp_path / "a.h5")


def test_a_sensor_is_told_by_its_address(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", frames=some_frames(3))
    assert recordings.read(path).sensor is None
    with h5py.File(path, "r+") as file:
        file.attrs["mac_address"] = "00:1B:44:11:3A:B7"
        file.attrs["sensor_id"] = "SL14_R1"  # the recording's name, in the thermal dataset
    assert recordings.read(path).sensor == "00:1B:44:11:3A:B7"


def test_identical_frames_have_equal_digests_and_no_others(tmp_path: Path) -> None:
    frames = some_frames(6)
    frames[4] = frames[1]
    frames[5] = np.nextafter(frames[2], 99, dtype=np.float32)
    first, other = (recordings.read(write(tmp_path / f"{name}.h5", frames=frames)) for name in "ab")
    np.testing.assert_array_equal(first.digests_N, other.digests_N)
    digests = first.digests_N.tolist()
    assert first.digests_N.dtype == np.uint64
    assert digests[1] == digests[4]
    assert len(set(digests)) == 5


def test_digests_are_those_of_the_frames_before_their_repair(tmp_path: Path) -> None:
    # A repair takes what neighbours show: frames that were repaired alike need not be one moment.
    frames = np.stack([some_frames(1)[0]] * 3)
    frames[1, 0, 0] = DEAD
    found = recordings.read(write(tmp_path / "a.h5", frames=frames))
    np.testing.assert_array_equal(found.frames_NHW[1], found.frames_NHW[0])
    assert found.digests_N[0] == found.digests_N[2] != found.digests_N[1]


@pytest.mark.parametrize("value", [0.0, 20.0, DEAD])
def test_frames_that_show_nothing_equal_no_others(tmp_path: Path, value: float) -> None:
    frames = some_frames(5)
    frames[[1, 3]] = value
    first, other = (recordings.read(write(tmp_path / f"{name}.h5", frames=frames)) for name in "ab")
    assert len({*first.digests_N.tolist(), *other.digests_N.tolist()}) == 3 + 2 + 2
    # Yet they are part of the recording: another value is another digest, for the dataset's fingerprint.
    frames[3] = 21
    changed = recordings.read(write(tmp_path / "a.h5", frames=frames)).digests_N
    assert (changed != first.digests_N).tolist() == [False, False, False, True, False]
