"""A recording as a strip: frames along the axis of time, and below them what the network says and what people said.

Drawn in the style of the audit's pictures (audit_pictures.py). A class has the same colour in all strips of a model.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from slowfast_ray.data.config import DataConfig
from slowfast_ray.data.recordings import Recording
from slowfast_ray.running.audits import audit_words
from slowfast_ray.running.audits.audit_frames import HEAT
from slowfast_ray.running.audits.audit_pictures import FAINT, GREY, INK, canvas, short
from slowfast_ray.running.predictions import windows
from slowfast_ray.running.predictions.prediction_axis import Axis, clock
from slowfast_ray.running.predictions.prediction_truths import Truth

WIDTH, LEFT, RIGHT = 9.2, 1.15, 0.15
"""Of the picture and its margins [hundreds of CSS pixels, as all sizes here]."""
HEAD, ROW, GRAPH, FOOT, LEGEND_ROW = 0.46, 0.27, 0.75, 0.55, 0.22
NUM_THUMBNAILS = 9
LEGEND_COLUMNS = 3
MARK = 0.0035
"""Width of a keyframe's mark [fraction of the strip]."""
MAX_PEOPLE = 8
"""More would be too small to tell apart; the table has all."""
DOT: dict[str, Any] = {"marker": "o", "linestyle": "", "color": INK, "markersize": 1.8}
"""Under a keyframe where the prediction is another."""
GUESS: dict[str, Any] = {"edgecolor": "white", "hatch": "////", "linewidth": 0}
"""Of what is predicted where there is no box near."""
PREDICTED, TRUE = "predicted", "annotated"


def strip(
    table: pd.DataFrame,
    recording: Recording,
    classes: Sequence[str],
    config: DataConfig,
    path: Path,
    truths: Sequence[Truth] = (),
    is_right: Sequence[bool | None] = (),
) -> None:
    """Draws `table` (of windows.of_frames) into the new PNG file `path`; `is_right` says it of each truth, None of
    what the model cannot say.
    """
    num_rows, num_legend = _num_rows(table, truths), len(_legend(table, truths, is_right, {}))
    legend = LEGEND_ROW * math.ceil(num_legend / LEGEND_COLUMNS)
    total = HEAD + _thumbnail(recording)[1] + ROW * num_rows + GRAPH + FOOT + legend
    with canvas(WIDTH, total, layout=None) as figure:
        draw(figure, table, recording, classes, config, truths, is_right)
        with path.open("xb") as file:
            figure.savefig(file, format="png", metadata={"Software": None}, facecolor="white")


def draw(
    figure: Figure,
    table: pd.DataFrame,
    recording: Recording,
    classes: Sequence[str],
    config: DataConfig,
    truths: Sequence[Truth] = (),
    is_right: Sequence[bool | None] = (),
) -> None:
    """Draws a strip into a figure of the right size."""
    axis = Axis.of(recording, config)
    num_rows = _num_rows(table, truths)
    total = float(figure.get_size_inches()[1])
    top = total - HEAD
    _title(figure, recording, axis, total)
    top -= _thumbnails(figure, recording, axis, top, total)
    people = _people(table)
    rows = figure.add_axes(_box(top - ROW * num_rows, ROW * num_rows, total))
    graph = figure.add_axes(_box(top - ROW * num_rows - GRAPH, GRAPH, total), sharex=rows)
    colors = {name: color_of(k) for k, name in enumerate(classes)}
    names: list[str] = []
    for number, person in enumerate(people):
        mine = table if person is None else table.query("person == @person")
        whose = "" if person is None else f" #{short(person, 8)}"
        _stretches(rows, mine, axis, colors, len(names))
        names.append(f"{PREDICTED}{whose}")
        if truths:
            known = [pair for pair in zip(truths, is_right, strict=True) if pair[0].person == person]
            _keyframes(rows, known, axis, colors, len(names))
            names.append(f"{TRUE}{whose}")
        _probability(graph, mine, axis, _shade(number, len(people)))
    for axes in (rows, graph):
        for frame in axis.gaps:
            span = axis.positions_N[[frame, frame + 1]]
            axes.axvspan(*span, facecolor="white", edgecolor=FAINT, hatch="////", linewidth=0)
    _finish(rows, graph, names, axis)
    figure.legend(
        handles=_legend(table, truths, is_right, colors), loc="lower left", ncols=LEGEND_COLUMNS, frameon=False,
        bbox_to_anchor=((LEFT - 0.1) / WIDTH, 0), fontsize=8.5, handlelength=1.1, handleheight=0.9, columnspacing=1.6,
    )  # fmt: skip


def color_of(number: int) -> str:
    """The colour of a class by its place among the model's: strong ones first, then pale ones, 18 in all."""
    is_pale, hue = divmod(number % 18, 9)
    hue += hue >= 7  # grey is for classes that the model does not know
    return to_hex(mpl.colormaps["tab20"](2 * hue + is_pale))


def _legend(
    table: pd.DataFrame, truths: Sequence[Truth], is_right: Sequence[bool | None], colors: Mapping[str, str]
) -> list[Artist]:
    """The classes that occur, in the order of the model; those that it does not know, which are grey, last."""
    shown = {*table["class"], *(name for truth in truths for name in truth.classes)}
    ordered = [*(name for name in colors if name in shown), *sorted(shown - {*colors})]
    handles: list[Artist] = [Patch(facecolor=colors.get(name, GREY), label=short(name, 38)) for name in ordered]
    if False in is_right:
        handles.append(Line2D([], [], **DOT, label="predicted otherwise"))
    if table["note"].str.contains(windows.NO_BOX, regex=False).any():
        handles.append(Patch(facecolor=GREY, **GUESS, label="no box of the person near"))
    people = _people(table)
    if len(people) > 1:
        for number, person in enumerate(people):
            name = f"probability #{short(str(person), 8)}"
            handles.append(Line2D([], [], color=_shade(number, len(people)), linewidth=1, label=name))
    return handles


def _num_rows(table: pd.DataFrame, truths: Sequence[Truth]) -> int:
    return len(_people(table)) * (2 if truths else 1)


def _people(table: pd.DataFrame) -> list[str | None]:
    return [*table["person"].unique()[:MAX_PEOPLE]] if "person" in table else [None]


def _shade(number: int, num_people: int) -> str:
    return INK if num_people == 1 else str(0.1 + 0.75 * number / num_people)


def _box(bottom: float, height: float, total: float) -> tuple[float, float, float, float]:
    return LEFT / WIDTH, bottom / total, (WIDTH - LEFT - RIGHT) / WIDTH, height / total


def _title(figure: Figure, recording: Recording, axis: Axis, total: float) -> None:
    num_frames = len(recording.frames_NHW)
    seconds = "" if axis.since_ms is None else f", {clock(axis.length)}, from {audit_words.when(axis.since_ms)} UTC"
    figure.text(LEFT / WIDTH, 1 - 0.12 / total, short(recording.id, 80), fontsize=11, fontweight="bold", va="top")
    figure.text(
        1 - RIGHT / WIDTH, 1 - 0.14 / total, f"{num_frames} frames{seconds}", fontsize=8.5, color=GREY, va="top",
        ha="right",
    )  # fmt: skip


def _thumbnail(recording: Recording) -> tuple[float, float]:
    """How wide and how high the frames are drawn."""
    wide = (WIDTH - LEFT - RIGHT) / NUM_THUMBNAILS
    height, width = recording.frames_NHW.shape[1:]
    return wide, min(wide * height / width, 2.0)


def _thumbnails(figure: Figure, recording: Recording, axis: Axis, top: float, total: float) -> float:
    """Draws frames, each over the moment that its middle stands for, and says how high they are."""
    wide, high = _thumbnail(recording)
    low_celsius, high_celsius = np.percentile(recording.frames_NHW, [1, 99.8])
    for number in range(NUM_THUMBNAILS):
        frame = axis.frame_at((number + 0.5) / NUM_THUMBNAILS * axis.length)
        if frame is None:
            continue
        axes = figure.add_axes(((LEFT + number * wide + 0.02) / WIDTH, (top - high) / total + 0.06 / total,
                                (wide - 0.04) / WIDTH, high / total))  # fmt: skip
        axes.imshow(
            recording.frames_NHW[frame], cmap=HEAT, vmin=low_celsius, vmax=high_celsius, interpolation="nearest"
        )
        axes.set_axis_off()
    return high


def _stretches(axes: Axes, table: pd.DataFrame, axis: Axis, colors: dict[str, str], row: int) -> None:
    """Neighbours of one class as one stretch; hatched where nobody knows where the person was."""
    is_guess = table["note"].str.contains(windows.NO_BOX, regex=False)
    is_new = (table["class"] != table["class"].shift()) | (is_guess != is_guess.shift())
    is_new |= (table["start_frame"] - 1).isin(axis.gaps.tolist())
    for _, run in table.assign(is_guess=is_guess).groupby(is_new.cumsum()):
        start, end = axis.span(run["start_frame"].iloc[0], run["end_frame"].iloc[-1])
        style = {"facecolor": colors[run["class"].iloc[0]], **(GUESS if run["is_guess"].iloc[0] else {"linewidth": 0})}
        axes.add_patch(Rectangle((start, row - 0.38), end - start, 0.76, **style))


def _keyframes(
    axes: Axes, known: Sequence[tuple[Truth, bool | None]], axis: Axis, colors: dict[str, str], row: int
) -> None:
    """A mark for each keyframe, classes above one another, and a dot below where the prediction differs."""
    wide = MARK * axis.length
    for truth, is_right in known:
        x = float(axis.positions_N[truth.keyframe])
        part = 0.76 / len(truth.classes)
        for number, name in enumerate(truth.classes):
            corner, color = (x - wide / 2, row - 0.38 + number * part), colors.get(name, GREY)
            axes.add_patch(Rectangle(corner, wide, part, facecolor=color, linewidth=0))
        if is_right is False:
            axes.plot(x, row + 0.5, **DOT, clip_on=False)


def _probability(axes: Axes, table: pd.DataFrame, axis: Axis, color: str) -> None:
    x, y = [], []
    for first, last, probability in zip(table["start_frame"], table["end_frame"], table["probability"], strict=True):
        start, end = axis.span(first, last)
        x += [start, end]
        y += [probability, probability]
        if last in axis.gaps:
            x.append(end)
            y.append(np.nan)
    axes.plot(x, y, color=color, linewidth=1)


def _finish(rows: Axes, graph: Axes, names: Sequence[str], axis: Axis) -> None:
    rows.set_ylim(len(names) - 0.35, -0.5)
    rows.set_xlim(0, axis.length)
    rows.set_yticks(range(len(names)), names, fontsize=8.5)
    rows.tick_params(length=0, labelbottom=False)
    rows.spines[:].set_visible(False)
    graph.set_ylim(0, 1.05)
    graph.set_yticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=7.5)
    graph.set_ylabel("probability", fontsize=8.5, rotation=0, ha="right", va="center", labelpad=6)
    graph.grid(axis="y", color=FAINT, linewidth=0.6)
    graph.set_axisbelow(True)
    graph.tick_params(axis="x", labelsize=8)
    graph.tick_params(axis="y", length=0)
    graph.spines["left"].set_visible(False)
    graph.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 1.5, 2, 3, 6, 10], integer=True))
    if axis.since_ms is not None:
        graph.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: clock(seconds)))
    graph.set_xlabel("frame" if axis.since_ms is None else "minutes:seconds", fontsize=8.5, labelpad=2)
