"""Frames that stay on disk: the same batches, bit for bit, and what goes wrong on the way."""

import gc
import pickle
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from slowfast_ray.data import baselines, dataset, disk_frames, loading, memory, recordings, source, views
from slowfast_ray.data.batches import Batch, Batches
from slowfast_ray.data.config import DataConfig
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.data.frames import MemoryFrames, ResizedFrames
from tests.data.conftest import pictures, write_dataset, write_recording

# Shapes: B clips, T frames of a clip, N frames of all recordings.

CPU = torch.device("cpu")
DEAD = -273.2
STREAMED = 0.0
"""A budget that nothing fits [GB]."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left in the user's cache; scans are as new in each test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    source.read.cache_clear()
    dataset.load.cache_clear()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings with dead pixels of every kind, one of them in chunks, with irregular times and people."""
    rng = np.random.default_rng(0)
    films: dict[str, tuple[np.ndarray, list[int]]] = {}
    for number, (name, num_frames) in enumerate({"a": 150, "b": 90}.items()):
        frames_NHW = (15 + 10 * rng.random((num_frames, 12, 16))).astype(np.float32)
        frames_NHW[40:43] = DEAD  # whole frames
        frames_NHW[:3, 2, 3] = frames_NHW[-2:, 4, 5] = DEAD  # at both ends
        frames_NHW[:, 6, 7] = frames_NHW[:, 6, 8] = DEAD  # throughout
        frames_NHW[rng.random(frames_NHW.shape) < 0.01] = DEAD
        times = 1_000_000 * number + np.cumsum(rng.integers(120, 220, num_frames))
        films[name] = (frames_NHW, times.tolist())

    def images(name: str, first: int, num: int) -> list[tuple[str, int, list[dict[str, Any]]]]:
        return [(name, first + 3 * i, [person(i, 1), person(i + 1, 2) if i % 2 else person(i, 2)]) for i in range(num)]

    def person(i: int, object_id: int) -> dict[str, Any]:
        place = [0.2 + 0.012 * (i % 30) * object_id, 0.5, 0.2, 0.3]
        return {"category_id": (0, 0, 0, 1, 2)[i % 5], "object_id": object_id, "bbox": place}

    root = write_dataset(
        tmp_path_factory.mktemp("data") / "dead", films, images("a", 0, 47), [*images("b", 0, 25), *images("a", 144, 2)]
    )
    with h5py.File(root / "frames" / "b.h5", "w") as file:
        file.create_dataset("frames", data=films["b"][0], chunks=(7, 12, 16), compression=4)
        file["timestamps"] = films["b"][1]
    return root


def both(root: Path, **changes: Any) -> tuple[Dataset, Dataset]:
    """In memory, and streamed."""
    settings = {"root": str(root), "clip_len": 8, "height": 10, "width": 14, **changes}
    in_memory, streamed = (dataset.load(DataConfig(**settings, memory_budget=gb)) for gb in (1.0, STREAMED))
    assert (in_memory.is_streamed, streamed.is_streamed) == (False, True)
    return in_memory, streamed


def batches(data: Dataset, num_loaders: int = 0, **changes: Any) -> Batches:
    settings = {"batch_size": 6, "seed": 3, "device": CPU, **changes}
    return Batches(data, data.config, num_loaders=num_loaders, **settings)


def assert_same(found: Iterator[Batch], expected: Iterator[Batch]) -> int:
    """Bit for bit; gives how many there are."""
    num = 0
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine.clip_B1THW, theirs.clip_B1THW)
        assert torch.equal(mine.label_B, theirs.label_B)
        assert torch.equal(mine.index_B, theirs.index_B)
        num += 1
    return num


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"frame_interval": 5, "class_balance": 0.5},
        {"frame_interval_ms": 340.0},
        {"labels": "person", "height": 12, "width": 12},
        {"labels": "multi", "frame_interval_ms": 120.0, "class_balance": 1.0, "split": "purged", "num_folds": 3},
    ],
    ids=["plain", "balance", "clock", "person", "multi"],
)
def test_batches_are_the_same_bit_for_bit(root: Path, changes: dict[str, Any]) -> None:
    in_memory, streamed = both(root, **changes)
    assert in_memory.source.num_dead_pixels == streamed.source.num_dead_pixels > 0
    assert (in_memory.source.fingerprint, in_memory.fingerprint) == (streamed.source.fingerprint, streamed.fingerprint)
    for rank in range(2):
        share = {"rank": rank, "num_workers": 2}
        theirs = batches(in_memory, **share)
        for num_loaders in (0, 2):
            mine = batches(streamed, num_loaders, **share)
            for epoch in (1, 2):
                assert assert_same(mine.train(epoch), theirs.train(epoch)) == theirs.num_train_steps > 1
            assert assert_same(mine.val(), theirs.val()) > 1
            for view in views.views(2, 3):
                assert assert_same(mine.val(view), theirs.val(view)) > 1


def test_a_stream_that_is_left_early_leaves_nothing_in_the_next(root: Path) -> None:
    in_memory, streamed = both(root)
    mine, theirs = batches(streamed, 2), batches(in_memory)
    left = mine.train(1)
    next(left)
    assert assert_same(mine.train(2), theirs.train(2)) > 1
    with pytest.raises(RuntimeError, match="newest stream"):
        next(left)
    assert assert_same(mine.train(1), theirs.train(1)) > 1


def test_batches_larger_than_a_piece_come_whole(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory, streamed = both(root)
    for piece_bytes in (1, 2 * 8 * 12 * 16 * 4):  # one clip, two clips
        monkeypatch.setattr(loading, "PIECE_BYTES", piece_bytes)
        size = {"batch_size": 11}
        assert assert_same(batches(streamed, 2, **size).train(1), batches(in_memory, **size).train(1)) == 4


def test_streaming_draws_nothing_from_the_generator_of_the_training(root: Path) -> None:
    _, streamed = both(root)
    reader = batches(streamed, 1)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    list(reader.train(1))
    list(reader.val())
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("piece_bytes", [1, 12 * 16 * 4 * 31, 10**9])
def test_frames_are_those_of_the_whole_recording(root: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int) -> None:
    # Whatever the pieces in which a recording is scanned, and the stretches in which it is read.
    monkeypatch.setattr("slowfast_ray.data.scans.PIECE_BYTES", piece_bytes)
    monkeypatch.setattr(disk_frames, "SPAN_BYTES", min(piece_bytes, 12 * 16 * 4 * 3))
    disk_frames._opened.cache_clear()
    in_memory, streamed = both(root)
    num_frames = len(in_memory.frames)
    assert len(streamed.frames) == num_frames == 240
    assert streamed.frames.size_HW == in_memory.frames.size_HW == (12, 16)
    assert streamed.frames.num_bytes == in_memory.frames.num_bytes
    indices = torch.randperm(num_frames, generator=torch.Generator().manual_seed(0)).view(-1, 8)
    assert torch.equal(streamed.frames.gather(indices), in_memory.frames.gather(indices))
    repeated = torch.tensor([[0, 0, 0, 239], [149, 150, 40, 40]])
    assert torch.equal(streamed.frames.gather(repeated), in_memory.frames.gather(repeated))
    disk_frames._opened.cache_clear()


def test_baselines_and_resized_frames_are_the_same(root: Path) -> None:
    in_memory, streamed = both(root)
    for baseline in baselines.ALL.values():
        np.testing.assert_array_equal(baseline(streamed), baseline(in_memory))
    indices = torch.arange(24).view(4, 6)
    small = [ResizedFrames(data.frames, (6, 9)).gather(indices) for data in (in_memory, streamed)]
    assert small[0].shape == (4, 1, 6, 6, 9)
    assert torch.equal(*small)


def test_all_frames_at_once_are_refused_with_what_to_do(root: Path) -> None:
    in_memory, streamed = both(root)
    assert in_memory.frames_NHW.shape == (240, 12, 16)
    with pytest.raises(ValueError, match=r"cannot be had at once.* on disk.*data\.memory_budget \(=0\); raise"):
        _ = streamed.frames_NHW


def test_the_summary_says_where_frames_are(root: Path) -> None:
    in_memory, streamed = both(root)
    assert "240 frames of 12 x 16, 0.184 MB in memory;" in in_memory.summary()
    assert "0.184 MB on disk, read as needed: more than data.memory_budget (=0);" in streamed.summary()
    assert memory.place(20_100_000_000, 5.9).startswith("20.1 GB on disk")
    assert "a quarter of the memory)" in memory.place(10**15, None)


def test_a_budget_below_what_streaming_takes_is_warned_of(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    in_memory, streamed = both(root)
    batches(in_memory, 2)
    assert not caplog.records
    batches(streamed, 2)
    assert re.search(r"takes about 0\.048 GB.*`data\.memory_budget` \(=0\).*lower", caplog.text)


def test_without_shared_memory_the_process_reads_itself(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    in_memory, streamed = both(root)
    monkeypatch.setattr(loading, "fit_into_shared_memory", lambda num_bytes, num_cpus: False)
    reader = batches(streamed, 2)
    assert "--shm-size" in caplog.text
    assert assert_same(reader.train(1), batches(in_memory).train(1)) > 1
    assert not loaders_of(reader)


def test_with_little_shared_memory_fewer_processes_read(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    in_memory, streamed = both(root)
    monkeypatch.setattr(loading, "fit_into_shared_memory", lambda num_bytes, num_cpus: num_bytes < 60_000_000)
    reader = batches(streamed, 4)
    assert "by 2 in place of 4 processes" in caplog.text
    assert assert_same(reader.train(1), batches(in_memory).train(1)) > 1
    assert len(loaders_of(reader)) == 2


def test_no_process_takes_the_shared_memory_of_its_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    there = shutil.disk_usage(loading.SHARED_MEMORY)
    num_bytes = there.total // 8
    if there.free < 2 * num_bytes:
        pytest.skip(f"{loading.SHARED_MEMORY} is nearly full")
    monkeypatch.setattr(loading, "num_usable_cpus", lambda: 8)
    # One of eight processes, of two, of one.
    fits = {num_cpus: loading.fit_into_shared_memory(num_bytes, num_cpus) for num_cpus in (1, 4, 8, None)}
    assert fits == {1: False, 4: True, 8: True, None: True}
    assert not loading.fit_into_shared_memory(there.total, None)


# Chunks


def write_long(path: Path, **storage: Any) -> None:
    """Frames as they are stored; h5py's own chunks are long for so many."""
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", data=np.tile(pictures(range(5000)), (1, 8, 10)), **storage)
        file.attrs["mac_address"] = "00:1B"
        file["timestamps"] = np.arange(5000)


def test_chunks_that_make_reading_slow_are_told_once_with_what_to_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_dataset(tmp_path / "data", {}, [("a", 3, [0]), ("b", 3, [0])], [("b", 900, [1])])
    (root / "frames").mkdir()
    for name in "ab":
        write_long(root / "frames" / f"{name}.h5", compression=1)
    config = DataConfig(root=str(root), memory_budget=STREAMED)
    expected = dataset.load(config).source
    (told,) = (record.message for record in caplog.records if "chunks" in record.message)
    with h5py.File(root / "frames" / "a.h5") as file:
        num_frames, height, width = file["frames"].chunks  # pyright: ignore
    decoded = num_frames * -(-16 // height) * height * -(-20 // width) * width * 4
    assert decoded > disk_frames.SLOW_SHARE * 64 * 16 * 20 * 4
    assert f"2 of 2 recordings are read slowly, since their chunks are long: for a clip of 64 frames, 0.0819 MB, " \
           f"HDF5 decodes {decoded / 1e6:.3g} MB of {root / 'frames'}" in told  # fmt: skip
    assert 'file.create_dataset("frames", data=frames, chunks=(64, 16, 20), compression="lzf")' in told

    # The page's own words, followed.
    page = (Path(__file__).parents[2] / "docs" / "your_data.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for name in "ab":
        path = root / "frames" / f"{name}.h5"
        monkeypatch.chdir(tmp_path)
        path.rename("old.h5")
        exec(code, {})
        Path("new.h5").rename(path)
    caplog.clear()
    source.read.cache_clear()
    dataset.load.cache_clear()
    assert dataset.load(config).source.fingerprint == expected.fingerprint
    assert dataset.load(config).source.timeline.has_times.all()
    assert recordings.read(root / "frames" / "a.h5").sensor == "00:1B"
    assert "chunks" not in caplog.text


@pytest.mark.parametrize("storage", [{}, {"chunks": True}, {"chunks": (64, 16, 20), "compression": 4}])
def test_chunks_that_are_read_well_are_not_mentioned(tmp_path: Path, storage: dict[str, Any]) -> None:
    write_long(
        tmp_path / "a.h5", **storage
    )  # without compression HDF5 reads what is asked for, or copies a little more
    assert disk_frames.slow_chunks([tmp_path / "a.h5"]) is None


# Files that are gone, and processes that die


def loaders_of(reader: Batches) -> list[Any]:
    return [each for loader in reader._reader.frames._loader for each in loader._iterator._workers]  # pyright: ignore


def copied(root: Path, place: Path) -> Path:
    return Path(shutil.copytree(root, place))


@pytest.mark.parametrize("num_loaders", [0, 2])
@pytest.mark.parametrize("harm", ["gone", "cut", "changed"])
def test_a_recording_that_is_harmed_after_its_scan_is_named(
    root: Path, tmp_path: Path, num_loaders: int, harm: str
) -> None:
    _, streamed = both(copied(root, tmp_path / "copy"))
    path = tmp_path / "copy" / "frames" / "a.h5"
    if harm == "gone":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    else:
        path.touch()
    with pytest.raises((ValueError, OSError), match=re.escape(str(path))) as raised:
        list(batches(streamed, num_loaders).train(1))
    assert "Traceback" not in str(raised.value)


def test_a_recording_that_is_cut_while_it_is_open_is_named(root: Path, tmp_path: Path) -> None:
    _, streamed = both(copied(root, tmp_path / "copy"))
    path = tmp_path / "copy" / "frames" / "a.h5"
    reader = batches(streamed, 1)
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} has changed since"):  # noqa: PT012
        for epoch in range(1, 50):
            list(reader.train(epoch))
            with path.open("r+b") as file:
                file.truncate(20_000)


def test_a_reading_process_that_is_killed_is_told_and_replaced(root: Path) -> None:
    in_memory, streamed = both(root)
    reader = batches(streamed, 1)
    steps = reader.train(1)
    next(steps)
    loaders_of(reader)[0].kill()
    with pytest.raises(ChildProcessError, match="reads clips from disk died"):  # noqa: PT012
        for epoch in range(1, 100):
            list(reader.train(epoch))
    assert assert_same(reader.train(1), batches(in_memory).train(1)) > 1


@pytest.fixture
def patient_loaders(monkeypatch: pytest.MonkeyPatch) -> None:
    """DataLoader gives up on a process, and terminates it, after a minute instead of 5 s."""
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 60.0)


@pytest.mark.usefixtures("patient_loaders")
def test_reading_processes_end_with_their_batches(root: Path) -> None:
    _, streamed = both(root)
    reader = batches(streamed, 2)
    next(reader.train(1))
    processes = loaders_of(reader)
    assert [each.is_alive() for each in processes] == [True, True]
    del reader
    assert [each.exitcode for each in processes] == [0, 0], "DataLoader terminates those that it gives up on"


@pytest.mark.usefixtures("patient_loaders")
def test_reading_processes_end_where_an_error_keeps_their_batches_in_a_cycle(root: Path) -> None:
    _, streamed = both(root)

    def train() -> tuple[list[Any], BaseException]:
        reader = batches(streamed, 2)
        steps = reader.train(1)
        next(steps)
        try:
            raise FloatingPointError("exploded")
        except FloatingPointError as error:
            kept = error  # its traceback holds this frame, which holds the error
            return loaders_of(reader), kept

    processes = train()[0]
    assert all(each.is_alive() for each in processes)
    gc.collect()
    assert [each.exitcode for each in processes] == [0, 0], "DataLoader terminates those that it gives up on"


TRAINER = """
import sys, time, torch
from slowfast_ray.data import dataset
from slowfast_ray.data.batches import Batches
from slowfast_ray.data.config import DataConfig
config = DataConfig(root=sys.argv[1], clip_len=8, memory_budget=0.0)
reader = Batches(dataset.load(config), config, batch_size=6, seed=0, device=torch.device("cpu"), num_loaders=2)
next(reader.train(1))  # without `if __name__ == "__main__"`: a script must not be run anew by the processes
print(*(each.pid for each in reader._reader.frames._loader[0]._iterator._workers), flush=True)
time.sleep(60)
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_killed_training_leaves_no_process_behind(root: Path, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(TRAINER)
    with subprocess.Popen([sys.executable, str(script), str(root)], stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        loaders = [int(pid) for pid in trainer.stdout.readline().split()]
        servers = {int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]) for pid in loaders}
        family = [*loaders, *servers]
        assert len(loaders) == 2
        assert all(is_running(pid) for pid in family)
        trainer.kill()
    until = time.monotonic() + 60
    while any(is_running(pid) for pid in family):
        assert time.monotonic() < until, family
        time.sleep(0.05)


# Sharing


def test_frames_travel_out_of_band_and_serve_read_only(root: Path) -> None:
    several: list[dict[str, Any]] = [{}, {"frame_interval_ms": 340.0}, {"labels": "person"}]
    wanted = [(changes, both(root, **changes)[0]) for changes in several]
    in_memory = wanted[0][1]
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(in_memory.source, protocol=5, buffer_callback=buffers.append)
    sizes = [buffer.raw().nbytes for buffer in buffers]
    assert in_memory.frames.num_bytes in sizes
    assert in_memory.source.timeline.moments_N.nbytes in sizes
    assert len(content) < 100_000
    read_only = [memoryview(bytes(buffer.raw())) for buffer in buffers]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        received = pickle.loads(content, buffers=read_only)
        assert isinstance(received.frames, MemoryFrames)
        address = np.frombuffer(read_only[sizes.index(received.frames.num_bytes)], np.uint8).ctypes.data
        assert received.frames.frames_NHW.data_ptr() == address  # no copy
        source.adopt(received)
        try:
            for changes, expected in wanted:
                dataset.load.cache_clear()
                config = replace(expected.config, memory_budget=STREAMED)
                adopted = dataset.load(config)
                assert adopted.source is received, changes
                assert assert_same(batches(adopted).train(1), batches(expected).train(1)) > 1
                assert assert_same(batches(adopted).val(), batches(expected).val()) > 1
        finally:
            source._adopted.clear()
            source.read.cache_clear()
            dataset.load.cache_clear()


def test_a_streamed_source_travels_as_names(root: Path) -> None:
    in_memory, streamed = both(root)
    received = pickle.loads(pickle.dumps(streamed.source))
    assert len(pickle.dumps(received.frames)) < 2000
    indices = torch.arange(240).view(-1, 8)
    assert torch.equal(received.frames.gather(indices), in_memory.frames.gather(indices))


# What is refused is refused either way


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda frames_NHW: frames_NHW.__setitem__((7, 1, 1), np.nan), r"1 of 20 frames of .*a\.h5.* first at frame 7"),
        (lambda frames_NHW: frames_NHW.fill(DEAD), r"Every pixel of .*a\.h5"),
    ],
)
def test_what_cannot_be_used_is_refused_in_the_same_words(tmp_path: Path, spoil: Any, says: str) -> None:
    films = {name: (pictures(range(first, first + 20)), None) for name, first in (("a", 0), ("b", 50))}
    spoil(films["a"][0])
    root = write_dataset(tmp_path / "data", films, [("a", 3, [0])], [("b", 3, [1])])
    messages = []
    for budget in (1.0, STREAMED):
        with pytest.raises(ValueError, match=says) as raised:
            dataset.load(DataConfig(root=str(root), memory_budget=budget))
        messages.append(str(raised.value))
    assert messages[0] == messages[1]


def test_other_floats_are_streamed_as_float32(tmp_path: Path) -> None:
    frames_NHW = pictures(range(20)).astype(">f8") + 1e-9
    write_recording(tmp_path / "a.h5", frames_NHW, None)
    write_dataset(tmp_path / "data", {"b": (pictures(range(20)), None)}, [("a", 3, [0])], [("b", 3, [1])])
    (tmp_path / "a.h5").rename(tmp_path / "data" / "frames" / "a.h5")
    in_memory, streamed = both(tmp_path / "data")
    indices = torch.arange(40)[None]
    assert torch.equal(streamed.frames.gather(indices), in_memory.frames.gather(indices))
    expected = recordings.read(tmp_path / "data" / "frames" / "a.h5").frames_NHW
    assert torch.equal(streamed.frames.gather(torch.arange(20)[None])[0, 0], torch.from_numpy(expected))
