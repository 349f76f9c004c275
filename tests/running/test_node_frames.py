"""Processes of one machine share its frames in memory: they are decoded once."""

from pathlib import Path
from typing import Any

import pytest
import ray

from slowfast_ray.data import dataset, source
from slowfast_ray.data.config import DataConfig
from slowfast_ray.experiment import Experiment
from slowfast_ray.running.nodes import node_frames

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("own_ray")]


@ray.remote(num_cpus=0)
class Trial:
    """A process that trains."""

    def read(self, readers: Any, config: DataConfig) -> tuple[bool, bool, float]:
        """Whether it was given its data, whether the frames lie in Ray's shared memory, and their sum."""
        node_frames.take(readers, config)
        frames_NHW = dataset.load(config).frames_NHW
        is_given = source.is_adopted(source.locate(config.root))
        return is_given, "plasma" in mapped_at(frames_NHW.data_ptr()), float(frames_NHW.double().sum())


def mapped_at(address: int) -> str:
    """What Linux says of the memory at an address of this process: the file that it is mapped from, if any."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, end = (int(each, 16) for each in line.split()[0].split("-"))
        if first <= address < end:
            return line
    return ""


def test_frames_are_decoded_once_a_machine_and_mapped_by_all(tiny: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset.load(tiny.data)
    total = float(data.frames_NHW.double().sum())
    monkeypatch.setattr(node_frames, "SHARED_FROM_BYTES", 0)
    with node_frames.sharing(data) as readers:
        trials = [Trial.remote() for _ in range(2)]  # pyright: ignore[reportAttributeAccessIssue]
        found = ray.get([trial.read.remote(readers, tiny.data) for trial in trials])
    assert found == [(True, True, total)] * 2


def test_without_a_reader_each_reads_for_itself(tiny: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_frames, "SHARED_FROM_BYTES", 0)
    with node_frames.sharing(dataset.load(tiny.data)) as readers:
        pass
    trial = Trial.remote()  # pyright: ignore[reportAttributeAccessIssue]
    is_given, is_shared, _ = ray.get(trial.read.remote(readers, tiny.data))
    assert (is_given, is_shared) == (False, False)


def test_small_sets_are_not_worth_a_process(tiny: Experiment) -> None:
    with node_frames.sharing(dataset.load(tiny.data)) as readers:
        assert readers is None
