"""A search as its charts see it: which trials count, in which order and colour, and how all of them are drawn."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import optuna

from slowfast_ray.running.audits import audit_words
from slowfast_ray.running.audits.audit_pictures import BOTH, GREY, TRAIN, VAL, short
from slowfast_ray.running.charts.search_charts_parts import Axis, Look, Series
from slowfast_ray.running.charts.search_fields import Field, Line, fields_of, shown, ticks

GREEN, PALE, DEEP = "#009E73", (0xA9, 0xCC, 0xE8), (0x04, 0x3A, 0x66)
ENDINGS = {
    "pruned": Look(color=GREY, symbol="circle", is_filled=False, alpha=0.65),
    "stopped": Look(color=TRAIN, symbol="diamond", is_filled=False, alpha=0.8),
    "finished": Look(color=TRAIN, symbol="circle"),
    "failed": Look(color=VAL, symbol="x"),
    "infeasible": Look(color=BOTH, symbol="cross"),
}
BEST = Look(color=GREEN, symbol="circle", is_filled=False, size=15)
FAINT_LINE = Look(color=GREY, width=1, alpha=0.6)


@dataclass(frozen=True)
class Facts:
    """What all charts are drawn from; lines by number."""

    study: optuna.Study
    lines: Sequence[Line]
    objective: str
    higher_is_better: bool

    @property
    def valued(self) -> list[Line]:
        """The trials that have a value, however they ended."""
        return [each for each in self.lines if math.isfinite(each.value)]

    @property
    def finished(self) -> list[Line]:
        """The trials that count: to their end, with a value."""
        return [each for each in self.valued if each.ending == "finished"]

    @property
    def sign(self) -> int:
        """What makes a greater number the better one."""
        return 1 if self.higher_is_better else -1

    @property
    def ranked(self) -> list[Line]:
        """The finished ones from worst to best; of equals, the first is better."""
        return sorted(self.finished, key=lambda each: (self.sign * each.value, -each.number))

    @property
    def is_log(self) -> bool:
        """A loss that diverged would press all others to the ground."""
        values = [each.value for each in self.valued]
        return not self.higher_is_better and bool(values) and 0 < 50 * min(values) < max(values)

    @property
    def direction(self) -> str:
        """In words."""
        return "higher is better" if self.higher_is_better else "lower is better"

    @property
    def best_label(self) -> str:
        """What the legend says of the best trial."""
        of = "" if len(self.study.directions) == 1 else f" {short(self.objective, 20)}"
        return f"best{of}: trial {self.ranked[-1].number}"

    def axis(self) -> Axis:
        """The objective as an axis."""
        values = [each.value for each in self.valued]
        return Axis(
            label=f"{short(self.objective)} ({self.direction})",
            is_log=self.is_log,
            ticks=ticks(values, is_log=True, at_most=8) if self.is_log else (),
        )

    def fields(self) -> list[Field]:
        """What was searched, and what differs with it."""
        return fields_of(self.study, self.lines)

    def nothing(self) -> str:
        """Why there is nothing to draw; empty where there is."""
        return "" if self.valued else f"No trial has a value of {short(self.objective)}. {self.lead()}"

    def lead(self) -> str:
        """The search in a sentence or two."""
        endings = [each.ending for each in self.lines]
        in_order = [each for each in ("finished", "pruned", "stopped", "failed", "infeasible") if each in endings]
        counted = ", ".join(f"{endings.count(each)} {each}" for each in in_order) or "none"
        found = f"{audit_words.plural(len(self.lines), 'trial')}: {counted}."
        if not self.finished:
            return found
        best = self.ranked[-1]
        sample = [f"{each.label} {shown(best.sample[each.name])}" for each in self.fields() if each.name in best.sample]
        return f"{found} Best {self.objective}: {best.value:.4g}, of trial {best.number} ({', '.join(sample)})."

    def hover(self, line: Line) -> str:
        """All that is known of a trial, in lines."""
        value = "no value" if math.isnan(line.value) else f"{self.objective} {line.value:.4g}"
        interval = "" if math.isnan(line.low + line.high) else f" ({line.low:.3g} to {line.high:.3g})"
        sample = (f"{short(name)} = {short(shown(value))}" for name, value in line.sample.items())
        head = f"trial {line.number}, {line.ending}, {line.seconds:.0f} s"
        return "\n".join([head, f"{value}{interval}", *sample])

    def dots(self, at: Callable[[Line], float]) -> Iterator[Series]:
        """The trials over any number of theirs, by ending; those without a value as they ended, below all others."""
        values = [each.value for each in self.valued]
        low, high = min(values), max(values)
        ground = low / (high / low) ** 0.1 if self.is_log else low - 0.1 * ((high - low) or abs(low) or 1)
        for ending, look in ENDINGS.items():
            if chosen := [each for each in self.lines if each.ending == ending and math.isfinite(at(each))]:
                yield Series(
                    x=[at(each) for each in chosen],
                    y=[each.value if each.shows_value else ground for each in chosen],
                    look=look,
                    label=ending,
                    hover=[self.hover(each) for each in chosen],
                )
        for best in self.ranked[-1:]:
            if math.isfinite(at(best)):
                yield Series(x=[at(best)], y=[best.value], look=BEST, label=self.best_label)

    def looks(self) -> dict[int, tuple[str, Look]]:
        """The label and the line of each trial by number, in the order in which they are drawn: the best on top."""
        ranked = self.ranked
        numbers = {each.number for each in ranked}
        found = {each.number: ("not finished", FAINT_LINE) for each in self.lines if each.number not in numbers}
        for rank, each in enumerate(ranked, start=1):
            share = rank / len(ranked)
            color = "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(PALE, DEEP, strict=True))
            found[each.number] = ("", Look(color=color, width=1.3, alpha=0.9))
        for each in ranked[-1:]:
            found[each.number] = (self.best_label, Look(color=GREEN, width=3))
        return found
