"""Trials of a search and the fields in which they differ, as the axes of pictures: names, places and ticks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution

from slowfast_ray.running.audits.audit_pictures import round_numbers, short


@dataclass(frozen=True, kw_only=True)
class Line:
    """What the pictures know of a trial."""

    number: int
    ending: str
    """finished, pruned, failed, infeasible or stopped."""
    sample: Mapping[str, Any]
    """Dotted names of fields with their values."""
    curve: Mapping[int, float]
    """The objective by epoch; may be empty."""
    value: float
    """The objective at its last epoch, the first one of several; NaN where it has none."""
    low: float
    """With `high` the 95 % interval of `value`; NaN where it is unknown."""
    high: float
    seconds: float
    """What it cost."""

    @property
    def shows_value(self) -> bool:
        """Whether it is drawn at its value: a failed trial never is."""
        return math.isfinite(self.value) and self.ending in ("pruned", "stopped", "finished")


@dataclass(frozen=True)
class Field:
    """A field that the trials differ in, as an axis."""

    name: str
    label: str
    choices: Sequence[Any] | None = None
    """None for a number."""
    is_log: bool = False
    is_whole: bool = False

    def at(self, line: Line) -> float:
        """Where a trial stands on the axis; NaN where it lacks the field."""
        if self.name not in line.sample:
            return math.nan
        value = line.sample[self.name]
        if self.choices is not None:  # 1, 1.0 and True are equal, but not the same choice
            return float(list(map(repr, self.choices)).index(repr(value)))
        return float(value) if value > 0 or not self.is_log else math.nan

    def ticks(self, values: Sequence[float], at_most: int, letters: int) -> list[tuple[float, str]]:
        """Positions with their words: of the choices, or round numbers between `values`."""
        if self.choices is None:
            return ticks(values, is_log=self.is_log, is_whole=self.is_whole, at_most=at_most)
        step = math.ceil(len(self.choices) / at_most)
        return [(float(at), short(shown(each), letters)) for at, each in enumerate(self.choices)][::step]


def fields_of(study: optuna.Study, lines: Sequence[Line]) -> list[Field]:
    """What was searched, and what differs with it."""
    domains = {
        name: domain for trial in study.get_trials(deepcopy=False) for name, domain in trial.distributions.items()
    }
    seen: dict[str, dict[str, Any]] = {}
    for line in lines:
        for name, value in line.sample.items():
            seen.setdefault(name, {})[repr(value)] = value
    names = [name for name, values in seen.items() if name in domains or len(values) > 1]
    labels = short_names(names)
    return [_field(name, label, domains.get(name), seen[name]) for name, label in zip(names, labels, strict=True)]


def _field(name: str, label: str, domain: Any, seen: Mapping[str, Any]) -> Field:
    """A field of `domain`, None where it was not searched itself, with the values `seen` by how they are written."""
    is_searched = isinstance(domain, CategoricalDistribution)
    values = list({**({repr(each): each for each in domain.choices} if is_searched else {}), **seen}.values())
    is_number = all(isinstance(each, int | float) and not isinstance(each, bool) for each in values)
    if is_searched or not is_number:
        return Field(name, label, sorted(values) if is_number else values)
    is_whole = all(isinstance(each, int) for each in values)
    return Field(name, label, is_log=getattr(domain, "log", False), is_whole=is_whole)


def ticks(
    values: Sequence[float], *, is_log: bool = False, is_whole: bool = False, at_most: int
) -> list[tuple[float, str]]:
    """Round numbers between the least and the greatest of `values`, with their words."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    if low == high:
        return [(low, f"{low:.4g}")] if values else []
    if is_log:
        found = list(dict.fromkeys(round_numbers(low, high)))
        return [(each, f"{each:g}") for each in found[:: math.ceil(len(found) / at_most)]]
    steps = (scale * 10.0**power for power in range(0 if is_whole else -12, 15) for scale in (1, 2, 5))
    step = next(each for each in steps if high - low < at_most * each)
    found = [step * count for count in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    return [(each, f"{each:.10g}") for each in found]


def short_names(names: Sequence[str]) -> list[str]:
    """The last parts of dotted names; whole names where these would be the same."""
    last = [each.rsplit(".", 1)[-1] for each in names]
    return [part if last.count(part) == 1 else name for name, part in zip(names, last, strict=True)]


def shown(value: Any) -> str:
    """A value of a field in words."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
