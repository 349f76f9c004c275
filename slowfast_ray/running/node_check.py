"""Asks every machine of a joined cluster, before anything starts, whether it is fit to train: the same versions, the
same files, an answer.
"""

import logging
import platform
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from slowfast_ray.data import remote
from slowfast_ray.running import cluster
from slowfast_ray.running.preflight import Ready
from slowfast_ray.running.refusals import RefusedError

log = logging.getLogger(__name__)

PACKAGES = ("ray", "torch", "pytorchvideo", "numpy", "scipy", "h5py", "safetensors", "optuna", "mlflow")
"""What a result may depend on, or what the machines exchange."""
SECONDS_BETWEEN_LOOKS = 10.0
SECONDS_TO_ANSWER = 120.0
"""A machine that has the code still to fetch needs seconds."""


@dataclass(frozen=True)
class Answer:
    """What a machine says."""

    host: str
    versions: dict[str, str]
    unseen: tuple[str, ...]
    """Of the paths that were asked for."""


def check(ready: Ready) -> None:
    """Raises RefusedError with what the machines of a joined cluster lack; nothing for Ray on this machine alone."""
    if cluster.address_of(ready.experiment.run) is None:
        return
    found = flaws(ready, [node["NodeID"] for node in ray.nodes() if node["Alive"]])
    if found:
        raise RefusedError(" ".join(found))


def flaws(ready: Ready, node_ids: Sequence[str]) -> list[str]:
    """What stands in the way of training on these machines, a sentence each."""
    place = None if ready.home.url else next(each for each in ready.folder.parents if each.is_dir())
    with tempfile.NamedTemporaryFile(dir=place, prefix=".probe-") as probe:
        paths = _needed(ready) | ({} if place is None else {probe.name: _unshared_storage(ready)})
        answers, silent = _ask(node_ids, tuple(paths))
    here = _look(())
    found = [f"The machine {node} of the cluster does not answer within {SECONDS_TO_ANSWER:g} s." for node in silent]
    for answer in answers:
        others = [
            f"{name} {version} (here {here.versions[name]})"
            for name, version in answer.versions.items()
            if version != here.versions[name]
        ]
        if others:
            found.append(
                f"All machines must have the same versions, but {answer.host} has {', '.join(others)}; install what "
                "constraints.txt says on every one."
            )
        found += [f"{paths[path]}: {answer.host} does not see it." for path in answer.unseen]
    return found


@contextmanager
def newcomers(ready: Ready, say: Callable[[str], None]) -> Iterator[None]:
    """While the block runs, machines that join later are asked, too: what they lack is said, since a search goes on."""
    if cluster.address_of(ready.experiment.run) is None:
        yield
        return
    known, ended = {node["NodeID"] for node in ray.nodes()}, threading.Event()

    def look() -> None:
        while not ended.wait(SECONDS_BETWEEN_LOOKS):
            new = {node["NodeID"] for node in ray.nodes() if node["Alive"]} - known
            known.update(new)
            try:
                found = flaws(ready, sorted(new)) if new else []
            except RayError:  # it has gone again
                continue
            for flaw in found:
                log.warning("A machine that joined: %s", flaw)
                say(f"A machine that joined: {flaw}")

    thread = threading.Thread(target=look, name="newcomers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _needed(ready: Ready) -> dict[str, str]:
    """Paths that every machine must see, each with how a sentence about it begins."""
    root, weights = ready.experiment.data.root, ready.experiment.model.weights
    paths: dict[str, str] = {}
    if root is not None and not remote.is_url(root):
        paths[f"{root}/annotations"] = (
            f"`data.root` (={root}) must be the same folder on every machine, or a URL ({' or '.join(remote.SCHEMES)})"
        )
    if weights is not None and not remote.is_url(weights):
        paths[weights] = f"`model.weights` (={weights}) must be the same file on every machine, or a URL"
    return paths


def _unshared_storage(ready: Ready) -> str:
    return (
        f"`run.storage` (={ready.experiment.run.storage}) must be one folder that every machine sees, or a URL "
        f"({' or '.join(remote.SCHEMES)}), since a file that is written here shall be read there"
    )


def _ask(node_ids: Sequence[str], paths: tuple[str, ...]) -> tuple[list[Answer], list[str]]:
    asked = {
        _look_there.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(paths): node
        for node in node_ids
    }
    done, silent = ray.wait(list(asked), num_returns=len(asked), timeout=SECONDS_TO_ANSWER)
    return ray.get(done), [asked[each] for each in silent]


@ray.remote(num_cpus=0, max_retries=0)
def _look_there(paths: tuple[str, ...]) -> Any:
    return _look(paths)


def _look(paths: tuple[str, ...]) -> Answer:
    return Answer(
        host=f"{socket.gethostname()} ({ray.util.get_node_ip_address()})",
        versions={"Python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        unseen=tuple(path for path in paths if not Path(path).exists()),
    )


def _version(package: str) -> str:
    """Without what is behind `+`: a CPU's build of torch beside a GPU's is fine."""
    try:
        return metadata.version(package).split("+")[0]
    except metadata.PackageNotFoundError:
        return "missing"
