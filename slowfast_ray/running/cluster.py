"""Joins the Ray cluster that RAY_ADDRESS names, or starts Ray on this machine; and says what fits on it at once."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray
import torch

from slowfast_ray.running.preflight import RefusedError

log = logging.getLogger(__name__)

MAX_CPU_TRIALS = 4
"""Trials at once without a GPU, unless told otherwise: a searcher learns from finished trials, so more of them at once
means that each is chosen with less knowledge."""

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # Tune's own CSV, JSON and TensorBoard files repeat what MLflow holds.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints a box even when told to be silent
}
_ON_ONE_MACHINE = {
    # A worker group's reports are collected once an interval; the default of 2 s is felt with epochs of seconds.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


@dataclass(frozen=True)
class Slots:
    """How a search shares the machines."""

    num_concurrent: int
    """Trials at once."""
    cpus_per_worker: int
    gpus_per_worker: int

    def __str__(self) -> str:
        what = "1 GPU" if self.gpus_per_worker else f"{self.cpus_per_worker} CPU core(s)"
        return f"{self.num_concurrent} trial(s) at once, {what} a worker"


def joined_has_gpu() -> bool:
    """Whether the cluster that RAY_ADDRESS names, if any, has a GPU."""
    if not os.environ.get("RAY_ADDRESS"):
        return False
    with connected(num_workers=1, verbose=False):
        return ray.cluster_resources().get("GPU", 0) > 0


@contextmanager
def connected(*, num_workers: int, verbose: bool) -> Iterator[None]:
    """Ray for the duration of the block; where the caller has connected already, that Ray is used and left running."""
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    for name, value in ({} if verbose else _QUIET).items():
        os.environ.setdefault(name, value)
    options = {"logging_level": logging.INFO if verbose else logging.ERROR, "log_to_driver": verbose}
    if address:
        ray.init(address=address, **options)
    else:
        for name, value in _ON_ONE_MACHINE.items():
            os.environ.setdefault(name, value)
        if num_workers > 1:
            # Ray Train frees the resources of a stopped trial only where its cleaner finds the dashboard, and with
            # several Rays on a machine it must be told which.
            port = _free_port()
            os.environ["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
            options |= {"dashboard_port": port}
        ray.init(address="local", include_dashboard=num_workers > 1, **options)
    end_by_sigterm_as_by_ctrl_c()  # Ray has just put its own handler there, which leaves without a word
    try:
        yield
    finally:
        ray.shutdown()


def end_by_sigterm_as_by_ctrl_c() -> None:
    """Batch systems end a job with SIGTERM, often all of its processes: then there is no Ray left to end gently with.

    So it raises KeyboardInterrupt at once, and what stands in `finally` tells MLflow.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def slots(*, num_workers: int, max_concurrent: int | None) -> Slots:
    """How many trials of `num_workers` workers run at once on the connected cluster, and what each worker gets.

    Raises RefusedError where not even one fits.
    """
    resources = ray.cluster_resources()
    num_gpus, num_cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    return _share(num_gpus, num_cpus, num_workers=num_workers, max_concurrent=max_concurrent)


def size() -> str:
    """Of the connected cluster, for people: 2 node(s), 16 CPUs, 2 GPUs."""
    resources, nodes = ray.cluster_resources(), [node for node in ray.nodes() if node["Alive"]]
    return f"{len(nodes)} node(s), {resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs"


def check_fits(*, num_workers: int, max_concurrent: int | None) -> None:
    """Raises RefusedError, without starting Ray, where this machine is too small; a cluster is asked once joined."""
    if not os.environ.get("RAY_ADDRESS") and not ray.is_initialized():
        num_gpus, num_cpus = torch.cuda.device_count(), os.cpu_count() or 1
        _share(num_gpus, num_cpus, num_workers=num_workers, max_concurrent=max_concurrent)


def _share(num_gpus: int, num_cpus: int, *, num_workers: int, max_concurrent: int | None) -> Slots:
    kind, available = ("GPUs", num_gpus) if num_gpus else ("CPU cores", num_cpus)
    fitting = available // num_workers
    if fitting < 1:
        raise RefusedError(
            f"`run.num_workers` (={num_workers}) needs as many {kind}, but there are {available}; try {available}."
        )
    if max_concurrent is not None and max_concurrent > fitting:
        raise RefusedError(
            f"`search.max_concurrent` (={max_concurrent}) with `run.num_workers` (={num_workers}) needs "
            f"{max_concurrent * num_workers} {kind}, but there are {available}; try {fitting}."
        )
    num_concurrent = max_concurrent or (fitting if num_gpus else min(fitting, MAX_CPU_TRIALS))
    return Slots(
        num_concurrent=num_concurrent,
        cpus_per_worker=max(1, num_cpus // (num_concurrent * num_workers)),
        gpus_per_worker=1 if num_gpus else 0,
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
