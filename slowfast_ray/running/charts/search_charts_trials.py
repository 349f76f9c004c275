"""Charts that compare the trials of a search: history, learning curves, cost, and the front of two objectives."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from optuna.trial import FrozenTrial, TrialState

from slowfast_ray.running.audits.audit_pictures import GREY, INK, short
from slowfast_ray.running.charts.search_charts_facts import ENDINGS, FAINT_LINE, GREEN, Facts
from slowfast_ray.running.charts.search_charts_parts import Axis, Chart, Look, Panel, Series, chart
from slowfast_ray.running.charts.search_fields import ticks

STEPS = Look(color=INK, width=1.6)
EARLY_END = Look(color=GREY, symbol="circle", is_filled=False, size=6)
ON_FRONT = Look(color=GREEN, symbol="circle", size=10, width=1.4, is_dashed=True)


def history(facts: Facts) -> Chart:
    """The objective of each trial by number, with intervals and the best so far."""
    series: list[Series] = []
    known = [each for each in facts.lines if each.shows_value and math.isfinite(each.low + each.high)]
    for ending in ("pruned", "stopped", "finished"):
        bars = [each for each in known if each.ending == ending]
        xs = [x for each in bars for x in (each.number, each.number, math.nan)]
        ys = [y for each in bars for y in (each.low, each.high, math.nan)]
        series.append(Series(x=xs, y=ys, look=replace(ENDINGS[ending], symbol="", width=1.6, alpha=0.35)))
    best = accumulate((each.value for each in facts.finished), max if facts.higher_is_better else min)
    numbers = [float(each.number) for each in facts.lines]
    steps = list(zip((each.number for each in facts.finished), best, strict=True))
    series.append(_steps(steps, numbers[-1:], label="best so far"))
    x = Axis(label="trial", ticks=ticks(numbers, is_whole=True, at_most=12))
    return chart(
        "history",
        "History",
        "The objective of each trial in the order of their numbers. Bars: 95 % intervals. At the bottom: no value.",
        facts.nothing() or [Panel(x=x, y=facts.axis(), series=[*series, *facts.dots(lambda each: each.number)])],
    )


def curves(facts: Facts) -> Chart:
    """The objective of each trial by epoch."""
    by_number = {each.number: each for each in facts.lines}
    series: list[Series] = []
    ends: list[tuple[float, float, str]] = []
    for number, (label, look) in facts.looks().items():
        line = by_number[number]
        curve = {epoch: value for epoch, value in sorted(line.curve.items()) if math.isfinite(value)}
        if not curve:
            continue
        hover = [f"epoch {epoch}: {value:.4g}\n{facts.hover(line)}" for epoch, value in curve.items()]
        series.append(Series(x=list(curve), y=list(curve.values()), look=look, label=label, hover=hover))
        if look == FAINT_LINE or len(curve) == 1:
            ends.append((*list(curve.items())[-1], hover[-1]))
    xs, ys, hovers = [x for x, _, _ in ends], [y for _, y, _ in ends], [hover for _, _, hover in ends]
    early = Series(x=xs, y=ys, look=EARLY_END, hover=hovers)
    epochs = [float(each) for line in facts.lines for each in line.curve]
    x = Axis(label="epoch", ticks=ticks(epochs, is_whole=True, at_most=12))
    return chart(
        "curves",
        "Learning curves",
        "The objective of each trial after each epoch; the darker, the better in the end. Circles: ended early.",
        [Panel(x=x, y=facts.axis(), series=[*series, early])] if series else "No trial has values by epoch.",
    )


def cost(facts: Facts) -> Chart:
    """The objective over what each trial cost, and the best for at most this cost."""
    known = [each for each in facts.lines if math.isfinite(each.seconds)]
    longest = max((each.seconds for each in known), default=0.0)
    units = (("hours", 3600), ("minutes", 60), ("seconds", 1))
    unit, seconds = next((each for each in units if longest >= 3 * each[1]), units[-1])
    costs = [each.seconds / seconds for each in known]
    front: list[tuple[float, float]] = []
    for each in sorted(facts.finished, key=lambda each: (each.seconds, -facts.sign * each.value)):
        if math.isfinite(each.seconds) and (not front or facts.sign * (each.value - front[-1][1]) > 0):
            front.append((each.seconds / seconds, each.value))
    is_log = bool(costs) and min(costs) > 0 and max(costs) > 30 * min(costs)
    x = Axis(label=f"cost [{unit}]", is_log=is_log, ticks=ticks(costs, is_log=True, at_most=8) if is_log else ())
    steps = _steps(front, costs, label="Pareto front")
    return chart(
        "cost",
        "Cost",
        "The objective over what a trial cost. Line: the best that finished for at most this cost. At the bottom: "
        "no value.",
        facts.nothing()
        or [Panel(x=x, y=facts.axis(), series=[steps, *facts.dots(lambda each: each.seconds / seconds)])],
    )


def pareto(facts: Facts) -> Chart:
    """The finished trials over the first two objectives."""
    trials = facts.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    front = sorted(facts.study.best_trials, key=lambda each: each.values) if trials else []
    names = facts.study.metric_names or [facts.objective, "second objective"]
    hovers = {each.number: facts.hover(each) for each in facts.lines}
    directions = ["higher" if each.name == "MAXIMIZE" else "lower" for each in facts.study.directions]
    x, y = (Axis(label=f"{short(names[at])} ({directions[at]} is better)") for at in range(2))

    def series(found: Sequence[FrozenTrial], look: Look, label: str) -> Series:
        hover = [hovers.get(each.number, f"trial {each.number}") for each in found]
        xs, ys = ([each.values[at] for each in found] for at in range(2))
        return Series(x=xs, y=ys, look=look, label=label, hover=hover)

    rest = [each for each in trials if each not in front]
    drawn = [series(rest, ENDINGS["finished"], "finished"), series(front, ON_FRONT, "on the front")]
    return chart(
        "pareto",
        "Pareto front",
        "Two objectives of the finished trials. On the front are those that no other beats in one objective without "
        "losing in another.",
        [Panel(x=x, y=y, series=drawn)] if trials else f"No trial has finished. {facts.lead()}",
    )


def _steps(points: Sequence[tuple[float, float]], until: Sequence[float], *, label: str) -> Series:
    """A line that keeps each value until the next point, and the last one until the end."""
    xs = [x for x, _ in points]
    ends = [*xs[1:], max(until, default=0.0)][: len(xs)]
    return Series(
        x=[each for pair in zip(xs, ends, strict=True) for each in pair],
        y=[each for _, y in points for each in (y, y)],
        look=STEPS,
        label=label if points else "",
    )
