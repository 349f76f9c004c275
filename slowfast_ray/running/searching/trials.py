"""What the driver knows of the trials of a search, while it runs and at its end."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from slowfast_ray.experiment import Experiment
from slowfast_ray.running.searching import objectives
from slowfast_ray.running.searching.config import SearchConfig
from slowfast_ray.running.tracking.tracking import RunHandle, State

_SHORT = {"learning.batch_size": "bs"}
_OF_CLIPS = ("data.clip_len", "data.frame_interval", "data.frame_interval_ms")


@dataclass
class Trial:
    """What the driver knows of a trial, or of another training of a search."""

    name: str
    """Of its folder."""
    number: int
    experiment: Experiment
    sample: dict[str, Any]
    run: RunHandle
    state: State | None = None
    """None while it runs."""
    reason: str = ""
    """Why it failed, or is infeasible."""
    is_finished: bool = False
    """Whether its last planned epoch is done."""
    history: list[dict[str, float]] = field(default_factory=list)
    """The metrics of each epoch."""
    values: tuple[float, ...] = ()
    """Of the objectives, after the newest epoch; empty before the first."""

    @property
    def value(self) -> float:
        """Of the first objective; NaN before the first epoch."""
        return self.values[0] if self.values else math.nan

    @property
    def has_value(self) -> bool:
        """Whether an epoch is done, with a finite value."""
        return math.isfinite(self.value)

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)

    def curve(self, config: SearchConfig) -> dict[int, float]:
        """The first objective after each epoch."""
        num_devices = self.experiment.run.num_devices
        return {
            epoch: objectives.value(
                self.history[:epoch], config.metric, smooth_epochs=config.smooth_epochs, num_devices=num_devices
            )
            for epoch in range(1, self.epoch + 1)
        }

    def note(self, metrics: Mapping[str, float], config: SearchConfig) -> None:
        """Another epoch is done."""
        self.history.append(dict(metrics))
        self.values = tuple(
            objectives.value(
                self.history,
                name,
                smooth_epochs=config.smooth_epochs,
                num_devices=self.experiment.run.num_devices,
            )
            for name in config.names
        )

    @property
    def gpu_seconds(self) -> float:
        """What it has cost so far; 0 before the first epoch."""
        name, num_devices = objectives.GPU_SECONDS, self.experiment.run.num_devices
        return objectives.value(self.history, name, smooth_epochs=1, num_devices=num_devices) if self.history else 0.0


def best_first(trials: Iterable[Trial], metric: str) -> list[Trial]:
    """The trials by their value of `metric`: finished ones first, then stopped ones by how far they came, the earlier
    first among equals, those without a value last.
    """
    sign = 1 if objectives.HIGHER_IS_BETTER[metric] else -1

    def rank(trial: Trial) -> tuple[bool, bool, int, float, int]:
        is_finished = trial.state == "finished"
        epoch = 0 if is_finished else -trial.epoch
        return (
            not trial.has_value,
            not is_finished,
            epoch,
            -sign * trial.value if trial.has_value else 0.0,
            trial.number,
        )

    return sorted(trials, key=rank)


def best_of(trials: Iterable[Trial], metric: str) -> Trial | None:
    """The first of `best_first`; None where none has finished an epoch."""
    return next((trial for trial in best_first(trials, metric) if trial.has_value), None)


def front_of(trials: Iterable[Trial], names: tuple[str, ...]) -> list[Trial]:
    """The finished trials that no other finished one beats: as good in all objectives, and better in one."""
    finished = [trial for trial in trials if trial.state == "finished" and all(map(math.isfinite, trial.values))]
    signs = [1 if objectives.HIGHER_IS_BETTER[name] else -1 for name in names]

    def beats(one: Trial, other: Trial) -> bool:
        by = [sign * (a - b) for sign, a, b in zip(signs, one.values, other.values, strict=True)]
        return min(by) >= 0 and max(by) > 0

    return [trial for trial in finished if not any(beats(other, trial) for other in finished)]


def is_spent(trials: Iterable[Trial], config: SearchConfig) -> bool:
    """Whether the trials have used up the GPU hours of their search."""
    budget = config.budget_gpu_hours
    return budget is not None and sum(trial.gpu_seconds for trial in trials) >= budget * 3600


def trial_name(number: int) -> str:
    """trial-000, trial-001, ..."""
    return f"trial-{number:03d}"


def describe(sample: Mapping[str, Any], experiment: Experiment) -> str:
    """What a trial of `experiment` is, in a few words: `lr=0.012 bs=8 32x2`, of clips of 32 frames, every second."""
    words, clip = [], []
    for name, value in sample.items():
        if name in _OF_CLIPS:
            clip = [_clip({**experiment.flatten(), **sample})]
        else:
            words.append(f"{_SHORT.get(name, name.rsplit('.', 1)[-1])}={describe_value(value)}")
    return " ".join(words + clip)


def _clip(values: Mapping[str, Any]) -> str:
    interval_ms = values["data.frame_interval_ms"]
    interval = values["data.frame_interval"] if interval_ms is None else f"{describe_value(interval_ms)}ms"
    return f"{values['data.clip_len']}x{interval}"


def describe_value(value: object) -> str:
    """A number to three digits, anything else as it is."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
