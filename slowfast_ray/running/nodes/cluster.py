"""Joins a Ray cluster, with this project's code for its machines, or starts Ray on this machine.

Which one: `run.address`, else the variable RAY_ADDRESS, which `ray job submit` sets, else this machine.
"""

import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

import ray
import torch
from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray._raylet import GcsClient  # pyright: ignore[reportAttributeAccessIssue]
from ray.exceptions import AuthenticationError, RaySystemError, RpcError

from slowfast_ray.run_config import RunConfig
from slowfast_ray.running.nodes import machines, slots
from slowfast_ray.running.nodes.slots import Machines, Slots
from slowfast_ray.running.refusals import RefusedError

log = logging.getLogger(__name__)

SHIPPED = ("slowfast_ray", "search_spaces")
"""Packages that every machine of a joined cluster gets as they are here, whatever is installed there."""

SECONDS_TO_ANSWER = 10.0
SECONDS_TO_LET_GO = 3.0
"""How long a run that an exception breaks off waits for its own threads that ask Ray. The signal that broke it off may
have ended Ray's head, too: they wait for it then, and after 60 s without it Ray ends this process, before MLflow is
told. Batch systems leave it 30 s."""
SECONDS_OF_ONE_SIGNAL = 5.0
"""SIGTERM may come to a process as itself and as one of its group, as `timeout` sends it: that counts once."""

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


def has_gpu(address: str | None) -> bool:
    """Whether the cluster at `address`, or that RAY_ADDRESS names, has a GPU, or may have one."""
    run = RunConfig(address=address)
    if run.cluster_address is None:
        return False
    with connected(run, verbose=False):
        found = machines.joined()
    return any(each.gpus >= 1 for each in (*found.now, *found.most))


@contextmanager
def connected(run: RunConfig, *, verbose: bool) -> Iterator[None]:
    """Ray for the duration of the block; where the caller has connected already, that Ray is used and left running.

    Raises RefusedError where the cluster cannot be joined.
    """
    if ray.is_initialized():
        yield
        return
    address = run.cluster_address
    for name, value in ({} if verbose else _QUIET).items():
        os.environ.setdefault(name, value)
    options = {"logging_level": logging.INFO if verbose else logging.ERROR, "log_to_driver": verbose}
    if address:
        _join(address, options, verbose=verbose)
    else:
        _start(run.num_workers, options)
    end_by_sigterm_as_by_ctrl_c()  # Ray has just put its own handler there, which leaves without a word
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def joined(run: RunConfig, *, verbose: bool) -> Iterator[None]:
    """`connected` where there is a cluster to join; on this machine alone Ray is started later, by whoever needs it."""
    if run.cluster_address is None:
        yield
        return
    with connected(run, verbose=verbose):
        yield


def _start(num_workers: int, options: dict[str, Any]) -> None:
    """Ray on this machine, with a dashboard where worker groups need it."""
    for name, value in _ON_ONE_MACHINE.items():
        os.environ.setdefault(name, value)
    if num_workers > 1:
        # Ray Train frees the resources of a stopped trial only where its cleaner finds the dashboard, and with
        # several Rays on a machine it must be told which.
        port = _free_port()
        os.environ["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
        options |= {"dashboard_port": port}
    # Ray counts GPUs by the driver; trials can only use those that torch sees.
    (machine,) = machines.here().now
    options |= {"num_cpus": int(machine.cpus), "num_gpus": int(machine.gpus)}
    ray.init(address="local", include_dashboard=num_workers > 1, **options)


def _join(address: str, options: dict[str, Any], *, verbose: bool) -> None:
    if address.startswith("ray://"):
        raise RefusedError(
            f"`run.address` (={address}) is that of Ray Client, through which a search ends with this process; submit "
            "it instead: ray job submit --address http://HEAD:8265 -- python experiments/tune_thermal.py ..."
        )
    runtime: dict[str, Any] = {"env_vars": {} if verbose else dict(_QUIET)}
    if "py_modules" not in os.environ.get(RAY_JOB_CONFIG_JSON_ENV_VAR, ""):
        runtime["py_modules"] = [os.fspath(_folder_of(name)) for name in SHIPPED]
    try:
        _knock(address)
        ray.init(address=address, runtime_env=runtime, **options)
    except AuthenticationError as error:
        raise RefusedError(
            f"The cluster at {address} does not take the token of this process: {_in_a_line(error)} It is what "
            "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token holds, and must be the one that the cluster was "
            "started with; RAY_AUTH_MODE=token turns it on."
        ) from error
    except (OSError, RpcError, RaySystemError, RuntimeError, ValueError) as error:
        raise RefusedError(
            f"`run.address` (={address}) cannot be joined: {_in_a_line(error)} A search runs on a machine of its "
            "cluster; from elsewhere: ray job submit --address http://HEAD:8265 -- python experiments/tune_thermal.py"
        ) from error


def _knock(address: str) -> None:
    """Raises OSError where nobody listens, and AuthenticationError for a wrong token: Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return  # `auto`, or what Ray says more of
    with socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS_TO_ANSWER):
        pass
    ensure_token_if_auth_enabled(create_token_if_missing=False)
    GcsClient(address=address).internal_kv_exists(b"CLUSTER_METADATA", namespace=b"cluster")


def _in_a_line(error: Exception) -> str:
    """Its first sentence; all of it where that ends before the versions that differ."""
    said = str(error).strip()
    if said.startswith("Version mismatch"):
        return " ".join(said.split()) + "."
    return said.splitlines()[0].split(". ")[0].rstrip(".") + "."


def _folder_of(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None, f"{package} is installed, or the script would not run"
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))


def end_by_sigterm_as_by_ctrl_c() -> None:
    """Batch systems end a job with SIGTERM, often all of its processes: then there is no Ray left to end gently with.

    So it raises KeyboardInterrupt at once, and what stands in `finally` tells MLflow.
    """
    interrupted_at = -math.inf

    def interrupt(kind: int, frame: FrameType | None) -> None:
        nonlocal interrupted_at
        if time.monotonic() - interrupted_at > SECONDS_OF_ONE_SIGNAL:
            interrupted_at = time.monotonic()
            raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, interrupt)


@contextmanager
def own_ctrl_c() -> Iterator[None]:
    """After the block, Ctrl-C does what it did before: Ray Tune and Ray Train leave handlers behind, which end what is
    over, so that the next one would do nothing.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def device_of_process() -> torch.device:
    """For a process of Ray: a GPU where Ray gave it one. It may see others, which it does not have."""
    return torch.device("cuda" if ray.get_gpu_ids() else "cpu")


def slots_for(run: RunConfig, max_concurrent: int | None) -> tuple[Slots, Machines]:
    """What each worker of trials gets on the connected Ray, or will on this machine, and the machines that there are.

    Raises RefusedError where not even one trial fits.
    """
    found = machines.joined() if ray.is_initialized() else machines.here()
    return slots.share(run, found, max_concurrent), found


def check_fits(run: RunConfig, max_concurrent: int | None) -> None:
    """Raises RefusedError, without starting Ray, where this machine is too small; a cluster is asked once joined."""
    if run.cluster_address is None and not ray.is_initialized():
        slots.share(run, machines.here(), max_concurrent)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
