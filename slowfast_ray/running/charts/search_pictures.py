"""The pictures of a search: its charts as PNG files, drawn with matplotlib, and as one interactive page."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import optuna
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from slowfast_ray.running.audits.audit_pictures import FAINT, GREY, canvas, short
from slowfast_ray.running.charts import search_charts_fields, search_charts_trials
from slowfast_ray.running.charts.search_charts_facts import Facts
from slowfast_ray.running.charts.search_charts_parts import WIDTH, Chart, Look, Panel
from slowfast_ray.running.charts.search_fields import Line
from slowfast_ray.running.charts.search_page import page

_MARKERS = {"circle": "o", "diamond": "D", "x": "X", "cross": "P"}


def draw(
    study: optuna.Study, lines: Sequence[Line], *, objective: str, higher_is_better: bool, folder: Path
) -> list[Path]:
    """Writes the pictures of a search and search.html into the existing `folder`; gives what it wrote.

    A study with several objectives gets the plot of its first two instead of history and importance.
    """
    drawn, lead = charts(study, lines, objective=objective, higher_is_better=higher_is_better)
    paths = [folder / f"{chart.stem}.png" for chart in drawn]
    for chart, path in zip(drawn, paths, strict=True):
        _save(chart, path)
    paths.append(folder / "search.html")
    paths[-1].write_text(page(f"Search for {objective}", lead, drawn), encoding="utf-8")
    return paths


def charts(
    study: optuna.Study, lines: Sequence[Line], *, objective: str, higher_is_better: bool
) -> tuple[list[Chart], str]:
    """What PNG and page show alike, with the search in a sentence."""
    by_field, by_trial = search_charts_fields, search_charts_trials
    makers = [by_trial.history, by_field.importance] if len(study.directions) == 1 else [by_trial.pareto]
    makers += [by_field.slices, by_field.parallel, by_trial.curves, by_trial.cost]
    facts = Facts(study, sorted(lines, key=lambda each: each.number), objective, higher_is_better)
    return [make(facts) for make in makers], facts.lead()


def _save(chart: Chart, path: Path) -> None:
    """The chart as PNG, under its heading and its sentence."""
    sentence = textwrap.wrap(short(chart.sentence, 400), 150)
    legend = chart.legend()
    top = 34 + 15 * len(sentence)
    height = top + chart.height + (26 if legend else 0)
    with canvas(WIDTH / 100, height / 100) as figure:
        layout = figure.get_layout_engine()
        assert layout is not None
        layout.set(rect=(0, 0, 1, 1 - top / height))  # pyright: ignore[reportCallIssue]
        figure.text(0.013, 1 - 10 / height, chart.heading, fontsize=11, fontweight="bold", va="top")
        figure.text(0.013, 1 - 32 / height, "\n".join(sentence), fontsize=8, va="top", color=GREY, linespacing=1.4)
        grid = figure.subplots(chart.rows(), chart.columns, sharey=True, squeeze=False)
        for axes, panel in zip(grid.flat, chart.panels, strict=False):
            _panel(axes, panel)
        for axes in grid.flat[len(chart.panels) :]:
            axes.set_axis_off()
        handles = [_handle(label, look) for label, look in legend.items()]
        if handles:
            figure.legend(handles=handles, loc="outside lower center", ncols=8, frameon=False, fontsize=9)
        figure.savefig(path, format="png", metadata={"Software": None}, facecolor="white")


def _panel(axes: Axes, panel: Panel) -> None:
    for order, each in enumerate(panel.series):
        look, zorder = each.look, 2 + order / 1000
        if look.width:
            axes.plot(
                each.x, each.y, "--" if look.is_dashed else "-", color=look.color, linewidth=0.72 * look.width,
                alpha=look.alpha, zorder=zorder, solid_capstyle="butt",
            )  # fmt: skip
        if look.symbol:
            axes.scatter(
                each.x, each.y, s=(0.72 * look.size) ** 2, marker=_MARKERS[look.symbol], alpha=look.alpha,
                facecolors=look.color if look.is_filled else "none",
                edgecolors="white" if look.is_filled else look.color,
                linewidths=0.5 if look.is_filled else 1.1, zorder=zorder,
            )  # fmt: skip
    for note in panel.notes:
        axes.text(
            note.x, note.y, note.text, fontsize=0.72 * note.size, va="center", zorder=9,
            ha={"left": "right", "right": "left"}.get(note.side, "center"),
            fontweight="bold" if note.is_bold else "normal",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8},
        )  # fmt: skip
    for along, axis in ((axes.xaxis, panel.x), (axes.yaxis, panel.y)):
        along.set_label_text(axis.label)
        if axis.is_log:
            (axes.set_xscale if along is axes.xaxis else axes.set_yscale)("log")
            along.set_ticks([], minor=True)
        if axis.ticks:
            along.set_ticks([at for at, _ in axis.ticks], [shown for _, shown in axis.ticks])
        if axis.span:
            (axes.set_xlim if along is axes.xaxis else axes.set_ylim)(*axis.span)
    axes.tick_params(labelsize=8)
    axes.grid(color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    if panel.x.is_hidden:
        axes.set_axis_off()


def _handle(label: str, look: Look) -> Line2D:
    return Line2D(
        [], [], label=label, alpha=look.alpha, color=look.color, linewidth=0.72 * look.width,
        linestyle="none" if not look.width else "--" if look.is_dashed else "-",
        marker=_MARKERS.get(look.symbol, ""), markersize=0.72 * look.size,
        markerfacecolor=look.color if look.is_filled else "none", markeredgewidth=1.1 if not look.is_filled else 0,
    )  # fmt: skip
