"""Notices workers that hang: each says that it gets on, and the driver ends one that has been silent for too long, so
that its run goes on from the newest checkpoint.

A process that is stopped, stuck in a driver's call or waiting for a dead file server raises nothing by itself.
"""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import psutil
import ray
from ray._private import state
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from slowfast_ray.running.nodes import cluster
from slowfast_ray.running.training.worker import Row

log = logging.getLogger(__name__)

HUNG = "HungError"
"""Begins the error of a run whose worker was ended since it hung."""

SECONDS_BETWEEN_BEATS = 10.0
"""Spot machines are called back two minutes ahead, at best."""


@dataclass(frozen=True)
class Whereabouts:
    """A worker's process."""

    run: str
    """Name of its trial or run."""
    rank: int
    host: str
    node_id: str
    pid: int
    started_at: float
    """Tells it from a later process of the same number."""


class Pulse:
    """An actor beside the driver: when each worker last got on."""

    def __init__(self) -> None:
        self._beats: dict[Whereabouts, float] = {}
        self._restarts: list[tuple[str, str]] = []

    def beat(self, worker: Whereabouts) -> None:
        """It gets on."""
        self._beats[worker] = time.monotonic()

    def forget(self, worker: Whereabouts) -> None:
        """It has ended."""
        self._beats.pop(worker, None)

    def restarted(self, run: str, error: str) -> None:
        """The workers of a run broke off, and start again from its newest checkpoint."""
        self._restarts.append((run, error))

    def restarts(self) -> list[tuple[str, str]]:
        """Runs whose workers started again, with the error; each is given once."""
        found, self._restarts = self._restarts, []
        return found

    def silent_for(self, seconds: float) -> list[Whereabouts]:
        """Workers that have said nothing for so long; each is given once."""
        now = time.monotonic()
        found = [worker for worker, at in self._beats.items() if now - at > seconds]
        for worker in found:
            del self._beats[worker]
        return found


@dataclass
class Line:
    """Between a worker and the driver."""

    num_beats: int = 0
    """Until the first, a worker counts as getting on as long as it lives: data may have to be fetched."""
    is_waiting: bool = False
    """Whether it waits for the driver, which itself may wait for its storage."""
    is_leaving: bool = False
    """Whether Ray drains its machine, as when a spot machine is called back."""

    def get_on(self) -> None:
        """It gets on."""
        self.num_beats += 1

    def waiting(self, report: Callable[[Row], None]) -> Callable[[Row], None]:
        """The same `report`, during which it counts as getting on."""

        def wait(row: Row) -> None:
            self.is_waiting = True
            try:
                report(row)
            finally:
                self.is_waiting = False
                self.get_on()

        return wait

    def must_leave(self) -> bool:
        """Whether it must save and go."""
        return self.is_leaving


class Watch:
    """In the driver, while it is entered: ends workers that are silent for longer than a limit. Where Ray on the
    driver's own machine has died, the driver is interrupted as by Ctrl-C.
    """

    def __init__(self, timeout_min: float) -> None:
        self._seconds = timeout_min * 60
        self._hung: dict[str, str] = {}
        self._restarts: list[tuple[str, str]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="pulse", daemon=True)
        self._node_id = ray.get_runtime_context().get_node_id()
        here = NodeAffinitySchedulingStrategy(self._node_id, soft=False)
        pulse: Any = ray.remote(num_cpus=0)(Pulse).options(scheduling_strategy=here).remote()
        self.pulse: ActorHandle[Any] = pulse

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(None if kind is None else cluster.SECONDS_TO_LET_GO)
        ray.kill(self.pulse)

    def why(self, run: str) -> str:
        """What was done to a worker of a run since this was last asked; empty where nothing was."""
        return self._hung.pop(run, "")

    def restarts(self) -> list[tuple[str, str]]:
        """Runs whose workers started again since this was last asked, with the error."""
        found, self._restarts = self._restarts, []
        return [(run, f"{HUNG}: {hung}" if (hung := self.why(run)) else error) for run, error in found]

    def _look(self) -> None:
        is_told = False
        while not self._ended.wait(_interval(self._seconds)):
            try:
                for worker in ray.get(self.pulse.silent_for.remote(self._seconds)):
                    self._end(worker)
                    if self._ended.is_set():
                        return
                self._restarts += ray.get(self.pulse.restarts.remote())
            except RayError:
                is_here = self._ended.is_set() or self._is_here()
                if self._ended.is_set():
                    return
                if not is_here:
                    log.error("Ray's agent on this machine died, so that nothing can be started: go on with --resume.")
                    os.kill(os.getpid(), signal.SIGINT)
                    return
                if not is_told:
                    log.warning("Workers that hang are not noticed any more.", exc_info=True)
                is_told = True

    def _is_here(self) -> bool:
        """Whether Ray still counts on this machine: without its agent, trials would wait for ever."""
        try:
            return any(node["Alive"] for node in ray.nodes() if node["NodeID"] == self._node_id)
        except RayError:
            return False

    def _end(self, worker: Whereabouts) -> None:
        said = f"it hung for {self._seconds / 60:g} min on {worker.host}"
        before = self._hung.get(worker.run)
        self._hung[worker.run] = said  # before the deed: its end may be told at once
        there = NodeAffinitySchedulingStrategy(worker.node_id, soft=False)
        killing = _kill.options(scheduling_strategy=there).remote(worker)
        try:
            was_there = ray.get(killing, timeout=60)
        except RayError:
            was_there = False  # its machine went, of which Ray knows
            if not self._ended.is_set():  # a Ray that has been left would be started anew
                ray.cancel(killing)
        if was_there:
            log.warning("%s: %s, as process %d, and was ended.", worker.run, said, worker.pid)
        elif before is None:
            self._hung.pop(worker.run, None)


@contextmanager
def beating(pulse: ActorHandle[Any], run: str, rank: int, timeout_min: float) -> Iterator[Line]:
    """In a worker: the driver hears of it, and it hears whether its machine is about to be taken away."""
    own, node_id = psutil.Process(), ray.get_runtime_context().get_node_id()
    me = Whereabouts(run, rank, socket.gethostname(), node_id, own.pid, own.create_time())
    line, ended = Line(), threading.Event()

    def say() -> None:
        said = -1
        while True:
            if line.num_beats == 0 or line.is_waiting or line.num_beats != said:
                said = line.num_beats
                pulse.beat.remote(me)
            with suppress(Exception):  # Ray's head does not answer: whoever gets on is not to die of that
                line.is_leaving = node_id in state.state.get_draining_nodes()
            if ended.wait(_interval(timeout_min * 60)):
                return

    thread = threading.Thread(target=say, name="pulse", daemon=True)
    thread.start()
    try:
        yield line
    finally:
        ended.set()
        thread.join()
        pulse.forget.remote(me)


@ray.remote(num_cpus=0, max_retries=0)
def _kill(worker: Whereabouts) -> bool:
    """On the machine of the worker: ends it, and gives whether it was there."""
    try:
        if psutil.Process(worker.pid).create_time() != worker.started_at:
            return False
        os.kill(worker.pid, signal.SIGKILL)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return False
    return True


def _interval(seconds: float) -> float:
    return min(SECONDS_BETWEEN_BEATS, seconds / 4)
