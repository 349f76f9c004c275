"""What a training ends by so that no second try can help: the settings of a trial, or a machine that is not fit."""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from slowfast_ray.learning.step import DoesNotFitError

Verdict = Literal["infeasible", "failed", "precision", "halt"]
"""Of the trial: it is infeasible, or has failed. Of its machine: that cannot compute in the precision that is asked
for, which is the trial's fault where it is sampled; or nothing can go on."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class UnfitMachineError(ValueError):
    """A machine cannot train, whatever is trained on it; another one may."""


class UnfitPrecisionError(UnfitMachineError):
    """A machine cannot compute in `learning.precision`."""


@contextmanager
def naming_a_full_disk() -> Iterator[None]:
    """In a worker, while it trains: a full disk is its machine's, and whatever is trained there next ends just so."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise UnfitMachineError(f"on {socket.gethostname()}: a disk is full: {error}") from error


@dataclass(frozen=True)
class Ended:
    """By what it is."""

    verdict: Verdict
    reason: str
    """A sentence without its full stop."""


def of(error: BaseException) -> Ended | None:
    """What a training ends by that raised `error`; None where a second try may help."""
    said = str(error).rstrip(".")
    match error:
        case DoesNotFitError():
            return Ended("infeasible", said)
        case FloatingPointError():
            return Ended("failed", said)
        case UnfitPrecisionError():
            return Ended("precision", said)
        case UnfitMachineError():
            return Ended("halt", said)
        case _:
            return None
