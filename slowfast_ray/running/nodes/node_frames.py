"""Frames that the processes of a machine share: decoded once, in Ray's object store, where each maps the same memory.

It is done from a size on where a process of its own, which decodes, costs less than what it saves. Smaller datasets are
read by each process in a second. Where sharing fails, most likely since memory ran out, nobody takes more of it: clips
are read from disk, and are the same.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from slowfast_ray.data import source
from slowfast_ray.data.config import DataConfig
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.data.frames import MemoryFrames

log = logging.getLogger(__name__)

SHARED_FROM_BYTES = 200_000_000
"""The process that decodes takes about 0.4 GB itself: from the third trial of a machine on, sharing takes less."""


class Readers:
    """An actor beside the driver: one reader for each machine, started when it is asked for."""

    def __init__(self) -> None:
        self._readers: dict[str, Any] = {}

    def on(self, node_id: str) -> Any:
        """The reader of a machine."""
        if node_id not in self._readers:
            there = NodeAffinitySchedulingStrategy(node_id, soft=False)
            reader = ray.remote(num_cpus=0, max_restarts=2, max_task_retries=1)(Reader)
            self._readers[node_id] = reader.options(scheduling_strategy=there).remote()
        return self._readers[node_id]


class Reader:
    """An actor on each machine: decodes a dataset once, and keeps it in the object store."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str | None, float | None], list[Any]] = {}

    def read(self, root: str | None, memory_budget: float | None) -> list[Any]:
        """A reference to the dataset's Source, in a list so that it is not followed; none where frames stay on disk."""
        key = root, memory_budget
        if key not in self._kept:
            found = source.read(source.locate(root), memory_budget)
            self._kept[key] = [ray.put(found)] if isinstance(found.frames, MemoryFrames) else []
            source.read.cache_clear()
        return self._kept[key]


@contextmanager
def sharing(data: Dataset) -> Iterator[ActorHandle[Any] | None]:
    """In the driver: what workers are given to share the frames of `data`; None where that is not worth it."""
    if data.frames.num_bytes < SHARED_FROM_BYTES:
        yield None
        return
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # Started anew it knows no readers; those that it had end with it, and what was taken from them stays.
    restarting = ray.remote(num_cpus=0, max_restarts=2, max_task_retries=1)(Readers)
    readers: Any = restarting.options(scheduling_strategy=here).remote()
    try:
        yield readers
    finally:
        ray.kill(readers)


def take(readers: ActorHandle[Any] | None, config: DataConfig) -> None:
    """In a worker, before it reads its data: from now on this process has that of its machine, or streams from disk.

    Raises ValueError or OSError where neither can be.
    """
    root = source.locate(config.root)
    if readers is None or source.is_adopted(root):
        return
    try:
        reader: Any = ray.get(readers.on.remote(ray.get_runtime_context().get_node_id()))
        kept = ray.get(reader.read.remote(config.root, config.memory_budget))
        if kept:
            source.adopt(ray.get(kept[0]))
            log.info("The frames are shared by the processes of this machine.")
    except RayError as error:
        log.warning(
            "The frames of this machine cannot be shared, and clips are read from disk as they are needed: %s",
            str(error).strip().splitlines()[-1],
        )
        # A copy of its own in each process, now that memory ran out, would be the end of all of them.
        source.adopt(source.read(root, 0))
