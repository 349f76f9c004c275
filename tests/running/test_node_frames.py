"""Processes of one machine share its frames in memory: they are decoded once."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from slowfast_ray.data import dataset
from slowfast_ray.data.batches import Batches
from slowfast_ray.data.config import DataConfig
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.data.frames import MemoryFrames
from slowfast_ray.experiment import Experiment
from slowfast_ray.running.nodes import node_frames
from tests.data.conftest import write_dataset

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("own_ray")]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left in the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@ray.remote(num_cpus=0)
class Trial:
    """A process that trains."""

    def read(self, readers: Any, config: DataConfig) -> tuple[bool, bool, str]:
        """Whether it was given frames in Ray's shared memory, whether it streams, and what its batches hold."""
        node_frames.take(readers, config)
        data = dataset.load(config)
        frames = data.frames
        is_shared = isinstance(frames, MemoryFrames) and "plasma" in mapped_at(frames.frames_NHW.data_ptr())
        return is_shared, data.is_streamed, digest(data)


def digest(data: Dataset) -> str:
    """Of the clips of an epoch."""
    reader = Batches(data, data.config, batch_size=4, seed=0, device=torch.device("cpu"), num_loaders=0)
    clips = [batch.clip_B1THW.numpy().tobytes() for batch in reader.train(1)]
    assert clips
    return hashlib.sha256(b"".join(clips)).hexdigest()


def mapped_at(address: int) -> str:
    """What Linux says of the memory at an address of this process: the file that it is mapped from, if any."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, end = (int(each, 16) for each in line.split()[0].split("-"))
        if first <= address < end:
            return line
    return ""


def trials(number: int) -> list[Any]:
    """Scans go to this test's own cache."""
    own = {"env_vars": {"XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"]}}
    return [Trial.options(runtime_env=own).remote() for _ in range(number)]  # pyright: ignore[reportAttributeAccessIssue]


def test_frames_are_decoded_once_a_machine_and_mapped_by_all(tiny: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset.load(tiny.data)
    monkeypatch.setattr(node_frames, "SHARED_FROM_BYTES", 0)
    with node_frames.sharing(data) as readers:
        found = ray.get([trial.read.remote(readers, tiny.data) for trial in trials(2)])
    assert found == [(True, False, digest(data))] * 2


def test_readers_that_died_are_started_again_and_what_they_gave_stays(
    tiny: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dataset.load(tiny.data)
    monkeypatch.setattr(node_frames, "SHARED_FROM_BYTES", 0)
    with node_frames.sharing(data) as readers:
        early, late = trials(2)
        assert ray.get(early.read.remote(readers, tiny.data)) == (True, False, digest(data))
        assert readers is not None
        ray.kill(readers, no_restart=False)  # as a machine short of memory does it
        assert ray.get(late.read.remote(readers, tiny.data)) == (True, False, digest(data))
        assert ray.get(early.read.remote(readers, tiny.data)) == (True, False, digest(data))


def test_without_a_reader_clips_come_from_disk_and_are_the_same(
    tiny: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dataset.load(tiny.data)
    monkeypatch.setattr(node_frames, "SHARED_FROM_BYTES", 0)
    with node_frames.sharing(data) as readers:
        pass
    (trial,) = trials(1)
    for _ in range(2):  # also the next trial in the same process
        assert ray.get(trial.read.remote(readers, tiny.data)) == (False, True, digest(data))


def test_small_sets_are_not_worth_a_process(tiny: Experiment) -> None:
    with node_frames.sharing(dataset.load(tiny.data)) as readers:
        assert readers is None
    (trial,) = trials(1)
    is_shared, is_streamed, _ = ray.get(trial.read.remote(readers, tiny.data))
    assert (is_shared, is_streamed) == (False, False)


def test_sets_of_which_a_few_copies_are_much_are_shared(tmp_path: Path) -> None:
    frames_NHW = np.zeros((53, 1000, 1000), np.float32) + np.arange(53, dtype=np.float32)[:, None, None]
    root = write_dataset(tmp_path / "data", {"a": (frames_NHW, None)}, [("a", 5, [0])], [("a", 45, [1])])
    data = dataset.load(DataConfig(root=str(root), clip_len=4, memory_budget=0))
    assert data.frames.num_bytes == 212_000_000
    with node_frames.sharing(data) as readers:
        assert readers is not None
