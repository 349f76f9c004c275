"""What does a dataset cost that is larger than memory: how fast do clips come from disk, and how much memory do they
take?

Makes datasets of noise in the sensor's format, dead pixels included, and reads and trains on them at the smallest model
size. Each row is a process of its own; its memory is the largest sum of anonymous and shared memory, over itself and
the processes that read for it. Before a row that says cold, the files are taken out of the page cache. Both ways give
the same batches, bit for bit: tests/data/test_streaming.py.

Run       python benchmarks/big_data.py                  (needs 21 GB of disk)
Small     python benchmarks/big_data.py --large-gb 2
Cost      5 minutes on two cores
Expected  streamed, memory stays below 1 GB whatever the size of the set, and a tiny network on a CPU trains about as
          fast as from memory; without any network, memory is as fast as an uncompressed disk to ten times as fast as a
          gzipped one, which decodes two chunks of 64 frames for a clip
"""

import itertools
import multiprocessing
import os
import platform
import shutil
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import rich
import tyro
from rich.table import Table
from trainings import machine

from slowfast_ray.data import dataset, scans, source, synthetic
from slowfast_ray.experiment import LAPTOP, Experiment
from slowfast_ray.running.training import wiring
from slowfast_ray.running.training.wiring import Place

FRAMES = 26_000
"""Of a recording, 250 MB of 40 x 60 pixels."""
SIZE_HW = (40, 60)
KEYFRAME_EVERY = 50
BLOCK = 2_000
DEAD_SHARE = 0.002


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What is made and read."""

    large_gb: float = 20.0
    """The set that is only streamed [GB as float32]."""
    small_gb: float = 1.0
    """The sets that are read both ways [GB as float32]."""
    num_batches: int = 100
    """Read for a row, of which every tenth trains as well [batches of 32 clips of 32 frames]."""
    folder: Path = Path("/tmp")
    """Where the sets are made; they are removed afterwards."""


@dataclass(frozen=True)
class Row:
    """One reading of a set."""

    what: str
    gigabytes: float
    first_load_s: float
    again_load_s: float | None
    first_batch_s: float
    read_clips_s: float
    train_clips_s: float
    read_peak_gb: float
    """Until all batches are read."""
    train_peak_gb: float


def make(root: Path, gigabytes: float, gzip_level: int | None) -> None:
    """A dataset of noise in recordings of FRAMES frames, of which every fifth validates."""
    rng = np.random.default_rng(0)
    height, width = SIZE_HW
    block_NHW = (18 + 10 * rng.random((BLOCK, height, width))).astype(np.float32)
    block_NHW[rng.random(block_NHW.shape) < DEAD_SHARE] = -273.2
    num_recordings = max(2, round(gigabytes * 1e9 / (FRAMES * height * width * 4)))
    (root / "frames").mkdir(parents=True)
    (root / "annotations").mkdir()
    images, annotations = ({split: list[synthetic.Json]() for split in ("train", "val")} for _ in range(2))
    for number in range(num_recordings):
        name, split = f"R{number:04}", "val" if number % 5 == 1 else "train"
        # The noise repeats, and each repetition is somewhat warmer, so that no frame equals another.
        frames_NHW = np.concatenate([block_NHW + np.float32(1e-3 * (number + i / 100)) for i in range(FRAMES // BLOCK)])
        times = 1_700_000_000_000 + number * 100_000_000 + 170 * np.arange(len(frames_NHW))
        synthetic.write_recording(root / "frames" / f"{name}.h5", frames_NHW, times, gzip_level=gzip_level)
        for frame in range(KEYFRAME_EVERY, len(frames_NHW), KEYFRAME_EVERY):
            image = f"{name}_{frame}"
            images[split].append({"id": image, "sensor_id": name, "frame_idx": frame})
            annotations[split].append({"image_id": image, "category_id": frame // KEYFRAME_EVERY % 6})
    synthetic.write_annotations(root / "annotations", images, annotations)


def forget(root: Path) -> None:
    """Takes the files out of the page cache, so that they are read from disk again."""
    os.sync()
    for path in root.glob("frames/*.h5"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Memory:
    """The largest sum that this process and its descendants took together, looked at every now and then."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.peak_bytes = max(self.peak_bytes, sum(map(_own_bytes, _family(os.getpid()))))
            time.sleep(0.1)


def _family(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:  # it ended meanwhile
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def _own_bytes(pid: int) -> int:
    # What smaps_rollup says is more exact, but it holds a large process up for as long as it counts its pages.
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


def measure(what: str, experiment: Experiment, num_batches: int) -> Row:
    """In a process of its own: reads a set, some batches of it, and trains on as many."""
    memory = Memory()
    begin = time.perf_counter()
    data = dataset.load(experiment.data)
    first_load_s, again_load_s = time.perf_counter() - begin, None
    if data.is_streamed:
        source.read.cache_clear()
        dataset.load.cache_clear()
        begin = time.perf_counter()
        data = dataset.load(experiment.data)
        again_load_s = time.perf_counter() - begin
    ready = wiring.prepare(experiment, Place())
    if "cold" in what:
        forget(data.root)
    begin = time.perf_counter()
    batches = ready.batches.train(1)
    next(batches)
    first_batch_s = time.perf_counter() - begin
    begin = time.perf_counter()
    num_read = sum(len(batch.label_B) for batch in itertools.islice(batches, num_batches))
    read_s, read_peak_gb = time.perf_counter() - begin, memory.peak_bytes / 1e9
    if "cold" in what:
        forget(data.root)
    ready.begin_epoch(1)
    batches = ready.batches.train(2)
    ready.train_step(next(batches))
    begin, num_trained = time.perf_counter(), 0
    for batch in itertools.islice(batches, num_batches // 10):
        ready.train_step(batch)
        num_trained += len(batch.label_B)
    train_s = time.perf_counter() - begin
    return Row(
        what=what,
        gigabytes=data.frames.num_bytes / 1e9,
        first_load_s=first_load_s,
        again_load_s=again_load_s,
        first_batch_s=first_batch_s,
        read_clips_s=num_read / read_s,
        train_clips_s=num_trained / train_s,
        read_peak_gb=read_peak_gb,
        train_peak_gb=memory.peak_bytes / 1e9,
    )


def alone(what: str, root: Path, budget_gb: float, num_batches: int) -> Row:
    """One row, measured in a fresh process whose scans are kept beside the set."""
    os.environ["XDG_CACHE_HOME"] = str(root / "cache")
    tiny = {"data.clip_len": 32, "data.height": 20, "data.width": 30, "model.width": 0.125, "learning.batch_size": 32}
    experiment = LAPTOP.override({**tiny, "data.root": str(root), "data.memory_budget": budget_gb})
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, what, experiment, num_batches).result()


def rows_of(flags: Flags, folder: Path) -> list[Row]:
    """All rows; one set is on disk at a time."""
    found = []
    for name, gigabytes, level in (("small", flags.small_gb, None), ("small gzip", flags.small_gb, 1)):
        root = folder / name.replace(" ", "-")
        make(root, gigabytes, level)
        for way, budget in (("in memory", 1000.0), ("streamed, cold", 0.1), ("streamed", 0.1)):
            found.append(alone(f"{name}, {way}", root, budget, flags.num_batches))
            print(found[-1], flush=True)
        shutil.rmtree(root)
    root = folder / "large"
    make(root, flags.large_gb, None)
    forget(root)
    found.append(alone("large, streamed, cold", root, 0.1, flags.num_batches))
    shutil.rmtree(root)
    return found


def main() -> None:
    """Measures and prints one table."""
    flags = tyro.cli(Flags, description=__doc__)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="big-data-", dir=flags.folder) as name:
        rows = rows_of(flags, Path(name))
    table = Table(title="Frames in memory, and streamed from disk")
    columns = ("set", "GB", "first load s", "later load s", "first batch s", "clips/s read", "clips/s trained")
    for column in (*columns, "peak GB read", "peak GB trained"):
        table.add_column(column, justify="left" if column == "set" else "right")
    for row in rows:
        table.add_row(
            row.what,
            f"{row.gigabytes:.1f}",
            f"{row.first_load_s:.1f}",
            "" if row.again_load_s is None else f"{row.again_load_s:.2f}",
            f"{row.first_batch_s:.2f}",
            f"{row.read_clips_s:.0f}",
            f"{row.train_clips_s:.0f}",
            f"{row.read_peak_gb:.2f}",
            f"{row.train_peak_gb:.2f}",
        )
    rich.print(table)
    print(
        f"n = 1 a row: {flags.num_batches} batches of 32 clips of 32 frames of {SIZE_HW[0]} x {SIZE_HW[1]} are read, "
        f"{flags.num_batches // 10} trained on. Streamed, the first load scans (format {scans.VERSION}); a row without "
        "`cold` finds scan and files in the machine's caches.\n"
        f"Load of the machine before it began: {load:.1f}, at its end: {os.getloadavg()[0]:.1f}. "
        f"Python {platform.python_version()}, h5py {version('h5py')}, at {time.strftime('%H:%M')}; {machine()}"
    )


if __name__ == "__main__":
    main()
