"""What a training ends by so that no second try can help: the settings of a trial, or a machine that is not fit."""

import errno
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
        case OSError(errno=number) if number in _NO_ROOM:
            where = f": {error.filename}" if error.filename else ""
            return Ended("halt", f"{error.strerror}{where}")
        case _:
            return None
