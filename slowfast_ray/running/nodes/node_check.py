"""Asks every machine of a joined cluster, before anything starts, whether it is fit to train: the same versions, the
same files, an answer.
"""

import logging
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ray.exceptions import RayError, RayTaskError, RuntimeEnvSetupError

from slowfast_ray.data import remote
from slowfast_ray.running.folders import mirror
from slowfast_ray.running.nodes import cluster, machines, probes
from slowfast_ray.running.nodes.probes import Answer
from slowfast_ray.running.nodes.slots import Slots
from slowfast_ray.running.preflight import Ready
from slowfast_ray.running.refusals import RefusedError

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 10.0
NUM_LOOKS = 4
"""That find a flaw of a machine that joined, before it counts as not fit: one that just started may not have all of its
folders at once. Where it does not reach a storage it has as many as a trial there would have tries (mirror.py)."""


@dataclass(frozen=True)
class Look:
    """What stands in the way of training on some machines, a sentence each."""

    flaws: tuple[str, ...]
    """They stay until somebody mends them."""
    unreached: tuple[str, ...]
    """A storage that is away may soon be back."""
    silences: tuple[str, ...]
    """Of machines that did not answer: they may be fit."""

    @property
    def all(self) -> tuple[str, ...]:
        """All of it."""
        return self.flaws + self.unreached + self.silences


def check(ready: Ready) -> None:
    """Raises RefusedError with what the machines of a joined cluster lack; nothing for Ray on this machine alone."""
    if ready.experiment.run.cluster_address is None:
        return
    if found := _look_at(ready, sorted(machines.staying()), threading.Event()).all:
        raise RefusedError(" ".join(found))


@contextmanager
def newcomers(ready: Ready, slots: Slots, halt: Callable[[str], None], say: Callable[[str], None]) -> Iterator[None]:
    """While the block runs, machines that join later are asked, too, where they have room for a worker: side by side,
    since a silent one would hide that another is not fit.

    One that is not fit, however often it is asked, is a reason to halt: Ray would send it trial after trial, since each
    fails there at once and makes room for the next, or keeps its checkpoints where nobody finds them.
    """
    if ready.experiment.run.cluster_address is None:
        yield
        return
    ended = threading.Event()

    def notice() -> None:
        asked: dict[str, threading.Thread] = {}  # none yet: others may have joined since those of the start were asked
        while not ended.wait(SECONDS_BETWEEN_LOOKS):
            try:
                there = machines.staying()
            except RayError as error:  # its head is away: it comes back, or the search ends
                log.info("The machines could not be counted: %s", error)
                continue
            for node in sorted(there.keys() - asked):
                if slots.holds_worker(machines.machine_of(there[node])):
                    asked[node] = threading.Thread(
                        target=_ask_until_fit,
                        args=(ready, node, ended, halt, say),
                        name=f"newcomer-{node}",
                        daemon=True,
                    )
                    asked[node].start()
        for thread in asked.values():
            thread.join()

    thread = threading.Thread(target=notice, name="newcomers", daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        ended.set()
        thread.join(cluster.SECONDS_TO_LET_GO)
        raise
    ended.set()
    thread.join()


def _ask_until_fit(
    ready: Ready, node: str, ended: threading.Event, halt: Callable[[str], None], say: Callable[[str], None]
) -> None:
    """Looks at a machine until it is fit, has gone, or was silent too often; halts where it stays unfit."""
    num_flawed = num_unreached = num_silent = 0
    told: set[str] = set()
    while not ended.is_set():
        try:
            look = _look_at(ready, [node], ended)
        except (OSError, RayError) as error:  # this machine cannot ask now, and does so again
            log.info("%s could not be asked: %s", node, error)
            ended.wait(SECONDS_BETWEEN_LOOKS)
            continue
        if ended.is_set():
            return
        num_flawed += bool(look.flaws)
        num_unreached += bool(look.unreached)
        num_silent += bool(look.silences)
        # What is unreached is told once: it names the file that was tried, another one at each look.
        for text in look.flaws + look.silences + (look.unreached if num_unreached == 1 else ()):
            if text not in told:
                told.add(text)
                log.warning("A machine that joined: %s", text)
                say(f"A machine that joined: {text}")
        if num_flawed >= NUM_LOOKS or num_unreached >= mirror.NUM_TRIES:
            halt(f"a machine joined that is not fit to train: {' '.join(look.flaws + look.unreached).rstrip('.')}")
            return
        if not look.all or num_silent >= NUM_LOOKS:
            return
        ended.wait(SECONDS_BETWEEN_LOOKS)


def _look_at(ready: Ready, node_ids: Sequence[str], ended: threading.Event) -> Look:
    """What these machines lack. Those that have gone meanwhile, or are about to go, lack nothing."""
    place = None if ready.home.url else next(each for each in ready.folder.parents if each.is_dir())
    with tempfile.NamedTemporaryFile(dir=place, prefix=".probe-") as probe:
        paths = _needed(ready) | ({} if place is None else {probe.name: _unshared_storage(ready)})
        asked = probes.Asked(tuple(paths), _urls(ready), ready.home if ready.home.url else None)
        heard = probes.ask(node_ids, asked, ended)
    flaws: list[str] = []
    unreached: list[str] = []
    silences: list[str] = []
    remedy = "mend it, or take it out of the cluster"
    there = machines.staying()
    for node in [each for each in heard if each in there]:
        machine = f"The machine {there[node]['NodeManagerHostname']} ({there[node]['NodeManagerAddress']})"
        match heard[node]:
            case Answer() as answer:
                flaws += _flaws_of(answer, paths)
                unreached += [f"On {answer.host}: {reason}" for reason in answer.unreached]
            case RayTaskError() | RuntimeEnvSetupError() as error:
                reason = str(error).strip().splitlines()[-1]
                flaws.append(f"{machine} cannot run this package: {reason}; install what constraints.txt says there.")
            case RayError() as error:
                reason = str(error).strip().splitlines()[0].rstrip(".")
                silences.append(f"{machine} could not be asked: {reason}; {remedy}.")
            case None:
                silences.append(f"{machine} gives no answer within {probes.SECONDS_TO_ANSWER:g} s; {remedy}.")
    return Look(tuple(flaws), tuple(unreached), tuple(silences))


def _flaws_of(answer: Answer, paths: Mapping[str, str]) -> Iterator[str]:
    """`paths` as `_needed` gives them."""
    here = probes.versions()
    others = [
        f"{name} {version} (here {here[name]})" for name, version in answer.versions.items() if version != here[name]
    ]
    if others:
        yield (
            f"All machines must have the same versions, but {answer.host} has {', '.join(others)}; install what "
            "constraints.txt says on every one, for the same Python."
        )
    for path in answer.unseen:
        yield f"{paths[path]}: {answer.host} does not see it."


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
