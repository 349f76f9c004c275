"""Asks every machine of a joined cluster, before anything starts, whether it is fit to train: the same versions, the
same files, an answer.
"""

import logging
import platform
import socket
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
from slowfast_ray.running.nodes.machines import machine_of
from slowfast_ray.running.nodes.slots import Slots
from slowfast_ray.running.preflight import Ready
from slowfast_ray.running.refusals import RefusedError

log = logging.getLogger(__name__)

PACKAGES = ("ray", "torch", "pytorchvideo", "numpy", "scipy", "h5py", "safetensors", "optuna", "mlflow")
"""What a result may depend on, or what the machines exchange."""
SECONDS_BETWEEN_LOOKS = 10.0
NUM_LOOKS = 4
"""At a machine that joined, before it counts as not fit: one that just started may not reach its storage at once."""
SECONDS_TO_ANSWER = 300.0
"""A machine that has the code still to fetch needs seconds; one that asks in vain for URLs, minutes."""


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


def check(ready: Ready) -> None:
    """Raises RefusedError with what the machines of a joined cluster lack; nothing for Ray on this machine alone."""
    if ready.experiment.run.cluster_address is None:
        return
    flaws, silent = _look_at(ready, sorted(node["NodeID"] for node in _alive()))
    if flaws or silent:
        raise RefusedError(" ".join([*flaws, *silent]))


def _look_at(ready: Ready, node_ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands in the way of training on these machines, a sentence each; and of those that say nothing."""
    place = None if ready.home.url else next(each for each in ready.folder.parents if each.is_dir())
    with tempfile.NamedTemporaryFile(dir=place, prefix=".probe-") as probe:
        paths = _needed(ready) | ({} if place is None else {probe.name: _unshared_storage(ready)})
        asked = Asked(tuple(paths), _urls(ready), ready.home if ready.home.url else None)
        answers, found, silent = _ask(node_ids, asked)
    here = _versions()
    for answer in answers:
        others = [
            f"{name} {version} (here {here[name]})"
            for name, version in answer.versions.items()
            if version != here[name]
        ]
        if others:
            found.append(
                f"All machines must have the same versions, but {answer.host} has {', '.join(others)}; install what "
                "constraints.txt says on every one, for the same Python."
            )
        found += [f"{paths[path]}: {answer.host} does not see it." for path in answer.unseen]
        found += [f"On {answer.host}: {reason}" for reason in answer.unreached]
    return found, [
        f"The machine {node} of the cluster gives no answer within {SECONDS_TO_ANSWER:g} s." for node in silent
    ]


@contextmanager
def newcomers(ready: Ready, slots: Slots, halt: Callable[[str], None], say: Callable[[str], None]) -> Iterator[None]:
    """While the block runs, machines that join later are asked, too, where they have room for a worker.

    One that is not fit, however often it is asked, is a reason to halt: Ray would send it trial after trial, since each
    fails there at once and makes room for the next, or keeps its checkpoints where nobody finds them.
    """
    if ready.experiment.run.cluster_address is None:
        yield
        return
    done: set[str] = set()  # none yet: others may have joined since those were asked before the start
    num_looks: Counter[str] = Counter()
    told: set[str] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(SECONDS_BETWEEN_LOOKS):
            new = {node["NodeID"] for node in _alive() if slots.holds_worker(machine_of(node))} - done
            for node in sorted(new):
                if ended.is_set():
                    return
                try:
                    flaws, silent = _look_at(ready, [node])
                except (OSError, RayError) as error:  # this machine cannot ask now, and does so again
                    log.info("%s could not be asked: %s", node, error)
                    continue
                num_looks[node] += 1
                if flaws and num_looks[node] >= NUM_LOOKS:
                    halt(f"a machine joined that is not fit to train: {' '.join(flaws).rstrip('.')}")
                if not flaws and (not silent or num_looks[node] >= NUM_LOOKS):
                    done.add(node)
                for text in {*flaws, *silent} - told:
                    told.add(text)
                    log.warning("A machine that joined: %s", text)
                    say(f"A machine that joined: {text}")

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


def _urls(ready: Ready) -> tuple[tuple[str, str], ...]:
    named = (("data.root", ready.experiment.data.root), ("model.weights", ready.experiment.model.weights))
    return tuple((setting, place) for setting, place in named if place is not None and remote.is_url(place))


def _unshared_storage(ready: Ready) -> str:
    return (
        f"`run.storage` (={ready.experiment.run.storage}) must be one folder that every machine sees, or a URL "
        f"({' or '.join(remote.SCHEMES)}), since a file that is written here shall be read there"
    )


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _ask(node_ids: Sequence[str], asked: Asked) -> tuple[list[Answer], list[str], list[str]]:
    """What the machines say, why some of them cannot, a sentence each, and those that are silent. Those that have gone
    meanwhile are none of these.
    """
    looks = {
        _look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(asked): node
        for node in node_ids
    }
    done, silent = ray.wait(list(looks), num_returns=len(looks), timeout=SECONDS_TO_ANSWER)
    answers: list[Answer] = []
    failed: dict[str, RayError] = {}
    for each in done:
        try:
            answers.append(ray.get(each))
        except (RayTaskError, RuntimeEnvSetupError) as error:
            failed[looks[each]] = error
        except RayError as error:  # its process died, or it has gone: that says nothing of what is installed there
            log.info("%s gave no answer: %s", looks[each], error)
            silent.append(each)
    alive = {node["NodeID"] for node in _alive()}
    reasons = [
        f"The machine {node} of the cluster cannot run this package: {str(error).strip().splitlines()[-1]}; install "
        "what constraints.txt says there."
        for node, error in failed.items()
        if node in alive
    ]
    return answers, reasons, [looks[each] for each in silent if looks[each] in alive]


@ray.remote(num_cpus=0, max_retries=0)
def _look(asked: Asked) -> Any:
    return Answer(
        host=f"{socket.gethostname()} ({ray.util.get_node_ip_address()})",
        versions=_versions(),
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


def _versions() -> dict[str, str]:
    return {"Python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str:
    """Without what is behind `+`: a CPU's build of torch beside a GPU's is fine."""
    try:
        return metadata.version(package).split("+")[0]
    except metadata.PackageNotFoundError:
        return "missing"
