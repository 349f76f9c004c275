"""Scans: the same facts and repairs as of a whole recording in memory, found once a machine, whole or not at all."""

import logging
import multiprocessing
import os
import signal
import time
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from slowfast_ray.data import long_work, recordings, repairs, scans
from slowfast_ray.data.scans import StoredRepairs
from tests.data.conftest import pictures, write_recording

# Legend: N frames of a recording, H rows, W columns.

DEAD = -273.2


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left in the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def some_frames(num_frames: int, height: int = 4, width: int = 5) -> np.ndarray:
    """Frames of which every value occurs once, so that a wrong neighbour shows."""
    values = np.arange(num_frames * height * width, dtype=np.float32) / 64
    return 10 + values.reshape(num_frames, height, width)


@settings(max_examples=150, deadline=None)
@given(
    dead_NHW=arrays.arrays(
        bool, arrays.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=7), elements=st.booleans()
    ).filter(lambda dead_NHW: not dead_NHW.all()),
    at_once=st.integers(1, 8),
    values_at_once=st.sampled_from([1, 2, 5, 30, repairs.VALUES_AT_ONCE]),
)
def test_repairs_are_those_of_the_whole_recording(dead_NHW: np.ndarray, at_once: int, values_at_once: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repairs, "VALUES_AT_ONCE", values_at_once)
        check_repairs(dead_NHW, at_once)


def check_repairs(dead_NHW: np.ndarray, at_once: int) -> None:
    frames_NHW = some_frames(*dead_NHW.shape)
    frames_NHW[dead_NHW] = DEAD
    pieces = [(first, frames_NHW[first : first + at_once]) for first in range(0, len(frames_NHW), at_once)]
    found = repairs.find(np.flatnonzero(dead_NHW), dead_NHW.shape, pieces)
    repaired_NHW = frames_NHW.copy()
    for n, frame_HW in enumerate(repaired_NHW):
        part = slice(found.offsets[n], found.offsets[n + 1])
        frame_HW.reshape(-1)[found.pixels_R[part]] = found.values_R[part]
    np.testing.assert_array_equal(repaired_NHW, recordings.repair(frames_NHW, dead_NHW))
    assert found.num_frames == dead_NHW.any(axis=(1, 2)).sum()


def test_many_dead_values_take_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repairs, "VALUES_AT_ONCE", 10_000)
    dead_NHW = np.random.default_rng(0).random((500, 40, 50)) < 0.5
    dead_NHW[:, :10] = True  # throughout
    frames_NHW, dead_R = some_frames(500, 40, 50), np.flatnonzero(dead_NHW)
    tracemalloc.start()
    try:
        found = repairs.find(dead_R, dead_NHW.shape, [(0, frames_NHW[:250]), (250, frames_NHW[250:])])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found.values_R) == len(dead_R) > 600_000
    assert peak < 24 * len(dead_R)


def damaged(path: Path, times: list[int] | None = None, sensor: str | None = None, **storage: object) -> Path:
    """A recording with dead pixels."""
    rng = np.random.default_rng(1)
    frames_NHW = some_frames(60)
    frames_NHW[rng.random(frames_NHW.shape) < 0.1] = DEAD
    frames_NHW[30] = frames_NHW[29]
    frames_NHW[[31, 33]] = 20
    write_recording(path, frames_NHW, times, sensor)
    with h5py.File(path, "r+") as file:
        del file["frames"]
        file.create_dataset("frames", data=frames_NHW, **storage)
    return path


@pytest.mark.parametrize("storage", [{}, {"chunks": (7, 4, 5), "compression": 4}, {"chunks": (60, 4, 5)}])
@pytest.mark.parametrize("piece_bytes", [1, 4 * 5 * 4 * 9, 10**9])
def test_a_scan_knows_what_reading_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: dict[str, object], piece_bytes: int
) -> None:
    monkeypatch.setattr(scans, "PIECE_BYTES", piece_bytes)
    path = damaged(tmp_path / "a.h5", list(range(0, 600, 10)), "00:1B", **storage)
    recording = recordings.read(path)
    scans.of(path)
    found = scans.of(path)  # as the cache tells it
    assert (found.id, found.sensor, found.shape_NHW) == (recording.id, recording.sensor, recording.frames_NHW.shape)
    assert (found.num_dead_pixels, found.num_dead_frames) == (recording.num_dead_pixels, recording.num_dead_frames)
    assert found.num_dead_pixels > 0
    np.testing.assert_array_equal(found.digests_N, recording.digests_N)
    assert found.times_N is not None
    np.testing.assert_array_equal(found.times_N, recording.times_N)
    stretch_NHW = recordings.read_raw(path).frames_NHW[17:41].copy()
    StoredRepairs(found.cached).apply(stretch_NHW, 17)
    np.testing.assert_array_equal(stretch_NHW, recording.frames_NHW[17:41])


def test_what_a_file_does_not_say_is_unknown(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "a.h5", pictures(range(5)), None)
    found = scans.of(path)
    assert (found.times_N, found.sensor, found.num_dead_pixels) == (None, None, 0)


def test_a_scan_is_opened_without_reading_what_is_not_asked_for(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "a.h5", np.zeros((200_000, 1, 1), np.float32), None)
    with h5py.File(path, "r+") as file:
        file["frames"][::1000] = DEAD  # pyright: ignore
    cached = scans.of(path).cached
    tracemalloc.start()
    try:
        repairs_ = StoredRepairs(cached)
        stretch_NHW = np.full((3, 1, 1), DEAD, np.float32)
        repairs_.apply(stretch_NHW, 4999)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert stretch_NHW[:, 0, 0].tolist() == [np.float32(DEAD), 0, np.float32(DEAD)]
    assert peak < 200_000  # of 1.6 MB of offsets


# The cache


def count_scans(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    scanned: list[Path] = []
    real = scans._found_in
    monkeypatch.setattr(scans, "_found_in", lambda path: (scanned.append(path), real(path))[1])
    return scanned


def test_a_recording_is_scanned_again_when_it_has_changed_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = damaged(tmp_path / "a.h5"), damaged(tmp_path / "b.h5")
    scanned = count_scans(monkeypatch)
    first = scans.of(path)
    for _ in range(2):
        assert scans.of(path).cached == first.cached
        scans.of(other)
    assert scanned == [path, other]
    os.utime(path, ns=(0, 5))  # the time alone
    second = scans.of(path)
    assert scanned == [path, other, path]
    assert (second.cached != first.cached, second.changed_ns) == (True, 5)
    kept = {each.name for each in scans.folder().glob("*.safetensors")}  # the first: of another machine, perhaps
    assert kept == {first.cached.name, second.cached.name, scans.of(other).cached.name}
    assert not list(scans.folder().glob(".scan-*"))


def test_a_damaged_scan_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = damaged(tmp_path / "a.h5")
    first = scans.of(path)
    whole = first.cached.read_bytes()
    for content in (b"", whole[:40], whole[: len(whole) // 2], b"\0" * len(whole)):
        caplog.clear()
        first.cached.write_bytes(content)
        np.testing.assert_array_equal(scans.of(path).digests_N, first.digests_N)
        assert "is damaged" in caplog.text
        assert first.cached.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    with pytest.raises(ValueError, match=r"cannot be written.*XDG_CACHE_HOME.*`data\.memory_budget`"):
        scans.of(damaged(tmp_path / "a.h5"))


def test_a_missing_recording_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"No such recording: .*a\.h5"):
        scans.of(tmp_path / "a.h5")


def test_a_long_scan_tells_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    paths = [damaged(tmp_path / f"{name}.h5") for name in "ab"]
    scans.of_all(paths, [10**9, 10**9])
    assert not caplog.records
    monkeypatch.setattr(long_work, "TELL_EVERY_S", -1.0)
    scans.of_all(paths, [10**9, 3 * 10**9])
    assert "Scanned 1.0 of 4.0 GB; about" in caplog.text
    assert all(hasattr(record, "is_shown") for record in caplog.records if "about" in record.message)


# Several processes. They are forked, so that what a test replaces is replaced in them.

FORK = multiprocessing.get_context("fork")


def slowly(paths: list[Path], tally: Path, seconds: float) -> None:
    """Scans as a process of its own does, with a line in `tally` for each recording that it looked at itself, for so
    many seconds.
    """
    real = scans._found_in

    def found_in(path: Path) -> object:
        with tally.open("a") as file:
            file.write(f"{path.name}\n")
        time.sleep(seconds)
        return real(path)

    scans._found_in = found_in  # pyright: ignore
    found = scans.of_all(paths, [1] * len(paths))
    assert all(each.num_dead_pixels > 0 for each in found)


def test_processes_that_start_together_scan_each_recording_once(tmp_path: Path) -> None:
    paths = [damaged(tmp_path / f"{name}.h5") for name in "abc"]
    tally = tmp_path / "tally"
    processes = [FORK.Process(target=slowly, args=(paths, tally, 0.3)) for _ in range(4)]
    for each in processes:
        each.start()
    for each in processes:
        each.join(120)
    assert [each.exitcode for each in processes] == [0] * 4
    assert sorted(tally.read_text().split()) == ["a.h5", "b.h5", "c.h5"]


def test_a_process_that_is_killed_on_the_way_blocks_nobody(tmp_path: Path) -> None:
    path, tally = damaged(tmp_path / "a.h5"), tmp_path / "tally"
    # It is on the way until it is killed, however late its tally is seen; a daemon, which no failure here waits for.
    process = FORK.Process(target=slowly, args=([path], tally, 600), daemon=True)
    process.start()
    until = time.monotonic() + 60
    while not tally.exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not list(scans.folder().glob("*.safetensors"))
    assert scans.of(path).num_dead_pixels > 0
