"""A job is one training of many, and a board says which there are, and is told what they do."""

from dataclasses import dataclass
from typing import Protocol

from slowfast_ray.experiment import Experiment
from slowfast_ray.running.training.worker import Row

NAME, EXPERIMENT, REASON = "job", "experiment", "reason"
"""Keys of what Tune hands to a training, and of its rows."""
GIVE_UP = "give up"
"""In what Tune hands to a training that is not to be tried again: why it failed."""
VERDICT = "verdict"
"""In the last row of a job that ended by what it is, so that no second try can help: one of verdicts.py."""


@dataclass(frozen=True)
class Job:
    """One training."""

    name: str
    """Of its folder."""
    experiment: Experiment


class Board(Protocol):
    """Who hands out jobs, in the driver."""

    def next(self) -> Job | None:
        """The next job; None where there is none left."""
        ...

    def row(self, name: str, row: Row) -> bool:
        """An epoch is done; gives whether the job is stopped. A second try tells of the first one's epochs again."""
        ...

    def ended(self, name: str, verdict: str | None, reason: str) -> None:
        """It ended by itself, or was stopped; with a verdict where it said so."""
        ...

    def died(self, name: str, error: str) -> None:
        """It raised, or its process died, and it is not tried again."""
        ...

    def retried(self, name: str, error: str) -> Experiment:
        """It raised, or its process died, and is tried again: as what."""
        ...

    def restarted(self, name: str, error: str) -> None:
        """Its workers broke off, and start again by themselves."""
        ...

    def halt(self, reason: str) -> None:
        """Nothing can go on, for a reason that lies in no training; what runs is stopped, and goes on when resumed."""
        ...

    def is_over(self) -> bool:
        """Whether everything shall be stopped."""
        ...
