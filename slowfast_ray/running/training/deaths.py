"""Why a trial died, by the traceback that Ray left of it, and as what it may be tried again."""

import re

from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import counts
from slowfast_ray.running.tracking.tracking import State
from slowfast_ray.running.training.measuring import share_of
from slowfast_ray.running.training.pulse import HUNG

_OUT_OF_MEMORY = re.compile(r"OutOfMemoryError|out of memory|Cannot allocate memory|std::bad_alloc")
_KILLED = re.compile(r"ActorDiedError|RayActorError|WorkerCrashedError|The actor died|The actor is dead")
_LOST = re.compile(r"NodeDiedError|its node has died|node failure|ActorUnavailableError|preempt", re.IGNORECASE)
_PREEMPTED = re.compile(r"PreemptedError")
_ADDRESS = re.compile(r"\bip=([^,)\s]+)")

UNBEGUN = "UnbegunError"
"""Begins the error of a trial whose process was dead before it began."""


def is_lost(error: str) -> bool:
    """Whether its machine went away, or its process before it began, of which no trial is guilty."""
    return error.startswith(UNBEGUN) or (bool(_LOST.search(error)) and not error.startswith(HUNG))


def is_raised(error: str) -> bool:
    """Whether it was raised by what the trial does, and its machine and its memory have nothing to do with it."""
    return not (error.startswith((HUNG, UNBEGUN)) or _LOST.search(error) or _may_lack_memory(error))


def machine_of(error: str) -> str:
    """The address of the machine on which it was raised, as Ray's traceback names it first; empty where it does not."""
    found = _ADDRESS.search(error)
    return found[1] if found else ""


def reason_of(error: str) -> str:
    """A traceback in a sentence."""
    if error.startswith(HUNG):
        return error.removeprefix(f"{HUNG}: ")
    if error.startswith(UNBEGUN):
        return "its process was dead before it began"
    if _PREEMPTED.search(error):
        return "its machine is called back, and it was saved"
    if _LOST.search(error):
        return "its machine went away"
    if _OUT_OF_MEMORY.search(error):
        return "it ran out of memory"
    if _KILLED.search(error):
        return "its process was killed, as a machine does that runs out of memory"
    return error.strip().splitlines()[-1]


def ending_of(error: str) -> State:
    """As what a trial ended that is not tried again: where memory was short, what it asked for is infeasible."""
    return "infeasible" if _OUT_OF_MEMORY.search(error) and not _LOST.search(error) else "failed"


def after(error: str, experiment: Experiment, history: list[dict[str, float]]) -> tuple[Experiment, str]:
    """As what a trial is tried again, and a clause that says what changed, if anything.

    Where memory was or may have been short, with the next smaller number of clips at once.
    """
    if not _may_lack_memory(error) or is_lost(error) or error.startswith(HUNG):
        return experiment, ""
    share = share_of(experiment)
    at_once = int(history[-1][counts.TRAIN_MICRO_BATCH]) if history else experiment.learning.micro_batch or share
    for fewer in range(at_once // 2, 0, -1):
        if share % fewer == 0:
            try:
                return experiment.override({"learning.micro_batch": fewer}), f", with {fewer} clip(s) at once"
            except ValueError:  # BatchNorm needs more than one value
                break
    return experiment, ""


def _may_lack_memory(error: str) -> bool:
    return bool(_OUT_OF_MEMORY.search(error) or _KILLED.search(error))
