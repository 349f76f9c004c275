"""Charts of the fields of a search: importances, slices, and all fields side by side.

Optuna gives the importances. Its own plots are not used: they leave out all trials that did not finish, and their long
names overlap.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace

import optuna
from optuna.trial import TrialState

from slowfast_ray.running.audits import audit_words
from slowfast_ray.running.audits.audit_pictures import GREY, TRAIN, short
from slowfast_ray.running.charts.search_charts_facts import Facts
from slowfast_ray.running.charts.search_charts_parts import WIDTH, Axis, Chart, Look, Note, Panel, Series, chart
from slowfast_ray.running.charts.search_fields import Field, Line, short_names

MAX_IN_ROW = 3
BAR, COLUMN = Look(color=TRAIN, width=16), Look(color=GREY, width=1)
MISSING = -0.16
"""How high a line stands in the column of a field that its trial lacks; columns reach from 0 to 1."""


def importance(facts: Facts) -> Chart:
    """How much each field matters."""
    shares = _importances(facts.study)
    names = [short(each, 24) for each in short_names(list(shares))]
    bars: list[Series] = []
    notes: list[Note] = []
    for row, (name, share) in enumerate(shares.items()):
        percent = f"{100 * share:.0f} %" if share >= 0.01 else "< 1 %"
        bars.append(Series(x=[0, 100 * share], y=[row, row], look=BAR, hover=[f"{name}: {percent}"] * 2))
        notes.append(Note(x=100 * share + 0.5, y=row, text=percent, side="right"))
    x = Axis(label="share of the importance [%]", span=(0, 112 * max(shares.values(), default=0.0)))
    y = Axis(ticks=[(float(row), name) for row, name in enumerate(names)], span=(len(names) - 0.4, -0.6))
    return chart(
        "importance",
        "Importance",
        "How far each field tells the best tenth of the finished trials from the others (PED-ANOVA). Of "
        f"{audit_words.plural(len(facts.finished), 'trial')}; of fewer than 50, a hint and no more.",
        [Panel(x=x, y=y, series=bars, notes=notes)]
        if shares
        else "Importances need at least two finished trials with different values and parameters.",
        height=70 + 34 * max(len(shares), 3),
    )


def _importances(study: optuna.Study) -> dict[str, float]:
    """By parameter, the most important first; empty where they cannot be known."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    trials = [each for each in trials if math.isfinite(each.values[0])]
    names = sorted({name for each in trials for name in each.distributions})  # in Optuna's order ties would change
    if len({each.values[0] for each in trials}) < 2 or not names:
        return {}
    with warnings.catch_warnings():  # of few trials, which the chart says as well
        warnings.simplefilter("ignore")
        found = optuna.importance.get_param_importances(study, params=names)
    return dict(sorted(found.items(), key=lambda each: (-each[1], each[0])))


def slices(facts: Facts) -> Chart:
    """The objective over each field."""
    panels: list[Panel] = []
    for field in facts.fields() if facts.valued else ():
        label = "" if len(panels) % MAX_IN_ROW else short(facts.objective, 26)
        y = replace(facts.axis(), label=label)
        panels.append(Panel(x=_axis(field, facts), y=y, series=list(facts.dots(_beside(field)))))
    return chart(
        "slice",
        "Slices",
        f"The objective ({facts.direction}) over each field. Trials with the same choice stand side by side. At the "
        "bottom: no value.",
        panels or facts.nothing() or "The trials differ in nothing.",
        height=60 + 230 * math.ceil(len(panels) / MAX_IN_ROW),
        columns=min(MAX_IN_ROW, len(panels)),
    )


def _axis(field: Field, facts: Facts) -> Axis:
    values = [each for each in map(field.at, facts.lines) if math.isfinite(each)]
    is_plain = field.choices is None and not field.is_log and not field.is_whole
    letters = min(14, 36 // min(len(field.choices or "1"), 8))
    return Axis(
        label=short(field.label, 30),
        is_log=field.is_log,
        ticks=() if is_plain else field.ticks(values, 8, letters),  # plain ones the page finds again when it zooms
        span=None if field.choices is None else (-0.5, len(field.choices) - 0.5),
    )


def _beside(field: Field) -> Callable[[Line], float]:
    """Where trials stand: those with the same choice side by side, in an order that looks like none."""
    if field.choices is None:
        return field.at
    return lambda line: field.at(line) + 0.36 * (line.number * 0.618034 % 1 - 0.5)


def parallel(facts: Facts) -> Chart:
    """A line for each trial through all its fields."""
    objective = Field("", facts.objective, is_log=facts.is_log)
    columns: list[tuple[Field, Callable[[Line], float]]] = [(objective, lambda line: line.value)]
    columns += [(field, field.at) for field in facts.fields()]
    spacing = WIDTH / (len(columns) + 0.6)
    letters = max(4, int(spacing / 7) - 2)
    lines = {each.number: each for each in facts.lines if each.shows_value}
    notes: list[Note] = []
    heights: list[dict[int, float]] = []
    for column, (field, at) in enumerate(columns):
        found = {number: value for number, line in lines.items() if math.isfinite(value := at(line))}
        height = _height(field, found)
        heights.append({number: height(found[number]) if number in found else MISSING for number in lines})
        side, beside = ("right", 0.03) if column else ("left", -0.03)
        notes += [
            Note(x=column + beside, y=height(value), text=text, side=side, size=10)
            for value, text in field.ticks(list(found.values()), 6, letters)
        ]
        if len(found) < len(lines):
            notes.append(Note(x=column, y=MISSING - 0.06, text="not used", size=10))
        is_raised = column % 2 == 1 and spacing < 150
        name = short(field.label, max(6, int(spacing / (3.8 if spacing < 150 else 7.6))))
        notes.append(Note(x=column, y=1.18 if is_raised else 1.09, text=name, is_bold=True))
    xs = list(range(len(columns)))
    drawn = [
        Series(
            x=xs,
            y=[each[number] for each in heights],
            look=look,
            label=label,
            hover=[facts.hover(lines[number])] * len(xs),
        )
        for number, (label, look) in facts.looks().items()
        if number in lines
    ]
    drawn += [Series(x=[x, x], y=[0, 1], look=COLUMN) for x in xs]
    x, y = Axis(span=(-0.6, len(xs) - 0.3), is_hidden=True), Axis(span=(-0.26, 1.25), is_hidden=True)
    return chart(
        "parallel",
        "Parallel coordinates",
        "A line for each trial, through its objective and its fields; the darker, the better.",
        facts.nothing() or [Panel(x=x, y=y, series=drawn, notes=notes)],
        height=420,
    )


def _height(field: Field, found: Mapping[int, float]) -> Callable[[float], float]:
    """How high a value of the field stands in its column, between the ends of those that were `found`."""
    scale = math.log10 if field.is_log else float
    places = list(map(scale, found.values())) if field.choices is None else [0.0, len(field.choices) - 1.0]
    low, high = min(places, default=0.0), max(places, default=0.0)
    return lambda value: (scale(value) - low) / (high - low) if high > low else 0.5
