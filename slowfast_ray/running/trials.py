"""What the driver knows of the trials of a search, while it runs and at its end."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import counts
from slowfast_ray.running import worker
from slowfast_ray.running.tracking import State
from slowfast_ray.running.worker import Row


@dataclass
class Trial:
    """What the driver knows of a trial."""

    number: int
    experiment: Experiment
    sample: dict[str, Any]
    run_id: str
    started: float
    """Seconds of a monotonic clock."""
    state: State | None = None
    """None while it runs."""
    row: Row | None = None
    """The newest row."""
    seconds: float = 0.0
    placement_group: str | None = None

    @property
    def name(self) -> str:
        """Of the trial's folder and its MLflow run."""
        return trial_name(self.number)

    @property
    def best_value(self) -> float:
        """NaN before the first epoch."""
        return math.nan if self.row is None else self.row[worker.BEST_VALUE]

    @property
    def has_value(self) -> bool:
        """Whether an epoch is done, with a finite value."""
        return math.isfinite(self.best_value)


@dataclass
class SearchResult:
    """What a search found."""

    trials: list[Trial]
    best: Trial | None
    """None where no trial finished an epoch."""
    interrupted: bool
    run_id: str
    """Of the search, in MLflow."""
    tracking_uri: str
    seconds: float
    num_unsent: int = 0
    """Entries that MLflow did not take."""


def best_first(trials: Iterable[Trial], metric: str) -> list[Trial]:
    """The trials by their best value of `metric`, the earlier first among equals, those without a value last."""
    sign = 1 if counts.HIGHER_IS_BETTER[metric] else -1

    def rank(trial: Trial) -> tuple[bool, float, int]:
        return (not trial.has_value, -sign * trial.best_value if trial.has_value else 0.0, trial.number)

    return sorted(trials, key=rank)


def best_of(trials: Iterable[Trial], metric: str) -> Trial | None:
    """The trial with the best value of `metric`; None where none has finished an epoch."""
    return next((trial for trial in best_first(trials, metric) if trial.has_value), None)


def trial_name(number: int) -> str:
    """trial-000, trial-001, ..."""
    return f"trial-{number:03d}"


def describe(sample: dict[str, Any]) -> str:
    """A sample in a few words: `lr=0.012 batch_size=8`."""
    return " ".join(f"{name.split('.')[1]}={describe_value(value)}" for name, value in sample.items())


def describe_value(value: object) -> str:
    """A number to three digits, anything else as it is."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
