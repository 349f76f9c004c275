"""What each machine of the connected Ray says of itself: its packages, the paths it sees, the URLs it reaches."""

import platform
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError, RuntimeEnvSetupError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from slowfast_ray.data import remote
from slowfast_ray.running.folders.mirror import Mirror

PACKAGES = ("ray", "torch", "pytorchvideo", "numpy", "scipy", "h5py", "safetensors", "optuna", "mlflow")
"""What a result may depend on, or what the machines exchange."""
SECONDS_TO_ANSWER = 300.0
"""A machine that has the code still to fetch needs seconds; one that asks in vain for URLs, minutes."""
SECONDS_BETWEEN_GLANCES = 1.0
"""At what is asked, and whether anybody still waits for it: batch systems leave a process that ends half a minute."""
SECONDS_BETWEEN_TRIES = 5.0
NUM_TRIES = 3
"""Of a question whose process dies: that it was killed, or lacked memory for a moment, says little of its machine."""


@dataclass(frozen=True)
class Asked:
    """What a machine must see."""

    paths: tuple[str, ...]
    urls: tuple[tuple[str, str], ...]
    """To be read from: setting and URL of each."""
    home: Mirror | None
    """To be written to; None where it is no URL."""


@dataclass(frozen=True)
class Answer:
    """What a machine says."""

    host: str
    versions: dict[str, str]
    unseen: tuple[str, ...]
    """Of the paths that were asked for."""
    unreached: tuple[str, ...]
    """Why a URL cannot be reached, a sentence each."""


def ask(node_ids: Sequence[str], asked: Asked, ended: threading.Event) -> dict[str, Answer | RayError | None]:
    """What each machine says, or why it cannot; None where it says nothing in time, or until `ended`."""
    heard: dict[str, Answer | RayError | None] = dict.fromkeys(node_ids)
    tries = Counter(node_ids)
    pending = {_sent(asked, node): node for node in node_ids}
    until = time.monotonic() + SECONDS_TO_ANSWER
    while pending and not ended.is_set() and time.monotonic() < until:
        done, _ = ray.wait(list(pending), num_returns=len(pending), timeout=SECONDS_BETWEEN_GLANCES)
        again: list[str] = []
        for each in done:
            node = pending.pop(each)
            try:
                heard[node] = ray.get(each)
            except RayError as error:
                heard[node] = error
                process_died = not isinstance(error, RayTaskError | RuntimeEnvSetupError)
                if process_died and tries[node] < NUM_TRIES:
                    again.append(node)
        if again and not ended.wait(SECONDS_BETWEEN_TRIES):
            tries.update(again)
            pending |= {_sent(asked, node): node for node in again}
    for each in pending:
        ray.cancel(each)
    return heard


def _sent(asked: Asked, node: str) -> Any:
    return _look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(asked)


@ray.remote(num_cpus=0, max_retries=0)  # Ray's own tries know no end where memory is lacking
def _look(asked: Asked) -> Any:
    return Answer(
        host=f"{socket.gethostname()} ({ray.util.get_node_ip_address()})",
        versions=versions(),
        unseen=tuple(path for path in asked.paths if not Path(path).exists()),
        unreached=tuple(_unreached(asked)),
    )


def _unreached(asked: Asked) -> Iterator[str]:
    checks = [partial(remote.check_readable, url, setting) for setting, url in asked.urls]
    for check_url in checks if asked.home is None else [asked.home.check_writable, *checks]:
        try:
            check_url()
        except ValueError as error:
            yield str(error)


def versions() -> dict[str, str]:
    """Those of this machine."""
    return {"Python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str:
    """Without what is behind `+`: a CPU's build of torch beside a GPU's is fine."""
    try:
        return metadata.version(package).split("+")[0]
    except metadata.PackageNotFoundError:
        return "missing"
