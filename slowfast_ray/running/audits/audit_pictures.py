"""The pictures of an audit's page: PNG in memory, drawn without a display and without pyplot's global state.

Names from the data are drawn as they are, never read as formulas, and shortened where they would leave the picture;
whole, they stand in the picture's description.

Legend: H height, W width of a frame.
"""

import base64
import io
import math
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from slowfast_ray.data.audit_facts import ClassFacts, RecordingFacts, SessionFacts, Span
from slowfast_ray.data.splits import merged
from slowfast_ray.running.audits import audit_words
from slowfast_ray.running.scores import Score

# The palette of Okabe and Ito (2008), which people of all kinds of colour vision tell apart.
TRAIN, VAL, BOTH, GREY = "#0072B2", "#D55E00", "#8C2D5A", "#7A8794"
INK, FAINT = "#1F2933", "#D9DFE5"
DOTS_PER_INCH = 100
SHARPNESS = 2
"""Dots a CSS pixel, for screens that have as many."""
MAX_LETTERS = 42

_DRAWING = threading.Lock()

STYLE: dict[Any, Any] = {
    "text.parse_math": False,
    "font.size": 10,
    "font.family": "DejaVu Sans",  # it comes with matplotlib
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "hatch.linewidth": 0.6,
}


@dataclass(frozen=True)
class Picture:
    """A picture with the words that go with it."""

    alt: str
    """What it shows, for those who do not see it."""
    caption: str
    uri: str
    """`data:image/png;base64,...`"""
    width: int
    """In CSS pixels."""
    height: int


def classes(found: Sequence[ClassFacts]) -> Picture:
    """How many samples each class has on both sides, the most frequent first; dashes where nobody knows."""
    ordered = sorted(found, key=lambda each: -((each.num_train or 0) + (each.num_val or 0)))
    with canvas(9.2, 0.7 + 0.38 * len(ordered)) as figure:
        axes = figure.add_subplot()
        rows = np.arange(len(ordered))
        for offset, name, color in ((-0.2, "train", TRAIN), (0.2, "val", VAL)):
            numbers = [getattr(each, f"num_{name}") for each in ordered]
            axes.barh(rows + offset, [each or 0 for each in numbers], height=0.36, color=color, label=name)
            for row, number in zip(rows + offset, numbers, strict=True):
                shown = f" {audit_words.number(number)}"
                axes.text(number or 0, row, shown, va="center", fontsize=8, color=INK if number else "#9AA5B1")
        axes.set_yticks(rows, [short(each.name) for each in ordered])
        axes.set_ylim(len(ordered) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("samples")
        axes.legend(frameon=False, loc="lower right")
        shown = "; ".join(
            f"{audit_words.printable(each.name)}: {audit_words.number(each.num_train)} train, "
            f"{audit_words.number(each.num_val)} val"
            for each in ordered
        )
        return picture_of(
            figure, f"Samples of each class. {shown}.", "Samples of each class on both sides of the split."
        )


def timeline(session: SessionFacts, number: int, found: Sequence[RecordingFacts]) -> Picture:
    """A session: its recordings as bars, hatched where another one runs as well, above the windows of its samples.

    Its number counts from 1.
    """
    start_ms = session.start_ms
    assert start_ms is not None, "a session is drawn where its times are known"
    spans = [(each.start_ms or 0, each.end_ms or 0) for each in found]
    rows = len(found)
    with canvas(9.2, 1.25 + 0.3 * rows) as figure:
        axes = figure.add_subplot()

        def bar(row: float, span: Span, **style: object) -> None:
            start, end = ((each - start_ms) / 1000 for each in span)
            axes.add_patch(Rectangle((start, row - 0.36), max(end - start, 0.05), 0.72, **style))  # pyright: ignore

        for row, span in enumerate(spans):
            bar(row, span, facecolor="#B8C4CE", linewidth=0)
            for other in (*spans[:row], *spans[row + 1 :]):
                if (shared := (max(span[0], other[0]), min(span[1], other[1])))[0] < shared[1]:
                    bar(row, shared, facecolor="#93A3B1", edgecolor="white", hatch="////", linewidth=0)
        windows = (("train windows", session.train_windows_ms, TRAIN), ("val windows", session.val_windows_ms, VAL))
        covered = merged(session.train_windows_ms)
        for row, (_, mine, color) in enumerate(windows, start=rows):
            for span in merged(mine):
                bar(row, span, facecolor=color, linewidth=0)
        for span in merged(session.val_windows_ms):
            for shared in _intersections(span, covered):
                bar(rows + 1, shared, facecolor=BOTH, linewidth=0)
        axes.set_yticks(range(rows + 2), [*(short(each.id) for each in found), "train windows", "val windows"])
        axes.set_ylim(rows + 1.6, -0.6)
        axes.set_xlim(0, max(((session.end_ms or start_ms) - start_ms) / 1000, 0.1))
        axes.tick_params(axis="y", length=0)
        axes.axhline(rows - 0.5, color=FAINT, linewidth=0.8)
        axes.set_xlabel(f"seconds since {audit_words.when(start_ms)} UTC")
        seconds = sum(end - start for start, end in merged(session.val_windows_ms)) / 1000
        both = sum(b - a for span in merged(session.val_windows_ms) for a, b in _intersections(span, covered)) / 1000
        words = (
            f"Session {number}, {audit_words.printable(session.name)}: val windows cover {seconds:.0f} s, of which "
            f"train windows show {both:.0f} s as well."
        )
        return picture_of(figure, f"Timeline of a session with {rows} recordings. {words}", words)


def dead_pixels(recording: RecordingFacts, worst_share: float) -> Picture:
    """Where a recording is dead: the share of its frames in which each pixel is; colours end at `worst_share`."""
    with canvas(3.3, 2.2, layout=None) as figure:
        axes = figure.add_axes((0.005, 0.03, 0.84, 0.94))
        image = axes.imshow(
            100 * recording.dead_HW,
            cmap="YlOrRd",
            vmin=0,
            vmax=100 * worst_share,
            interpolation="nearest",
            aspect="auto",
        )
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(image, cax=figure.add_axes((0.87, 0.03, 0.03, 0.94)), format="%g %%")
        bar.ax.tick_params(labelsize=7, length=2, pad=1)
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
        worst = 100 * float(recording.dead_HW.max())
        caption = (
            f"{audit_words.printable(recording.id)}: {100 * recording.dead_share:.2f} % of all values, in "
            f"{recording.num_dead_frames} of {recording.num_frames} frames"
        )
        return picture_of(
            figure, f"Map of dead pixels of {caption}; the worst pixel in {worst:.0f} % of them.", f"{caption}."
        )


def frame_intervals(found: Sequence[RecordingFacts]) -> Picture:
    """How far apart the frames of each recording are in time, on one logarithmic axis."""
    columns = min(4, len(found))
    rows = -(-len(found) // columns)
    positive = [np.maximum(each.intervals_ms, 1) for each in found]  # 0 and less have no logarithm
    low, high = min(each.min() for each in positive), max(each.max() for each in positive)
    edges = np.geomspace(low * 0.9, high * 1.1, 41)
    ticks = round_numbers(float(edges[0]), float(edges[-1]))
    with canvas(9.2, 0.5 + 1.35 * rows) as figure:
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, each, values in zip(grid.flat, found, positive, strict=False):
            axes.hist(values, bins=edges, color=GREY)
            axes.axvline(float(np.median(values)), color=VAL, linewidth=1.4)
            axes.set_xscale("log")
            axes.set_title(short(each.id, 18), loc="left", fontsize=9)
            axes.tick_params(labelsize=8)
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.set_xticks([], minor=True)
        for axes in grid.flat[len(found) :]:
            axes.set_axis_off()
        figure.supxlabel("ms from one frame to the next", fontsize=9)
        figure.supylabel("frames", fontsize=9)
        shown = "; ".join(f"{audit_words.printable(each.id)}: {audit_words.intervals_of(each)} ms" for each in found)
        caption = "Time from frame to frame, on a logarithmic axis; the line is the median."
        return picture_of(figure, f"{caption} Least, median and most: {shown}.", caption)


def baselines(found: Sequence[Score], metrics: Sequence[str]) -> Picture:
    """The scores with their intervals, a panel for each metric."""
    with canvas(9.2, 0.85 + 0.36 * len(found)) as figure:
        panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for axes, metric in zip(panels, metrics, strict=True):
            for row, score in enumerate(found):
                interval = score.intervals.get(metric)
                if interval is not None:
                    axes.plot(
                        [100 * interval.low, 100 * interval.high], [row, row], color=TRAIN, linewidth=3, alpha=0.35
                    )
                    axes.plot(100 * interval.value, row, "o", color=TRAIN, markersize=7)
            axes.set_title(f"{metric} %", loc="left")
            axes.set_xlim(0, 100)
            axes.set_xticks(range(0, 100, 20))  # without 100, which would touch the next panel's 0
            axes.grid(axis="x", color=FAINT)
            axes.set_axisbelow(True)
            axes.tick_params(axis="y", length=0)
        panels[0].set_yticks(range(len(found)), [score.name for score in found])
        panels[0].set_ylim(len(found) - 0.5, -0.5)
        shown = "; ".join(
            f"{score.name}: "
            + ", ".join(f"{name} {audit_words.percent(each)} %" for name, each in score.intervals.items())
            for score in found
        )
        return picture_of(figure, f"Baselines with their intervals. {shown}.", "Dots: scores. Bars: 95 % intervals.")


def short(name: str, letters: int = MAX_LETTERS) -> str:
    """A name that fits into a picture."""
    name = audit_words.printable(name)
    return name if len(name) <= letters else f"{name[: letters - 1]}…"


def round_numbers(low: float, high: float) -> list[float]:
    """Three or more numbers for a logarithmic axis, as round as the range allows; its ends where nothing else fits."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.2, 1.5, 2, 3, 5, 7)):
        found = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
        if len(found) >= 3:
            return found
    return [float(f"{low:.3g}"), float(f"{high:.3g}")]


def _intersections(span: Span, others: Sequence[Span]) -> list[Span]:
    cut = ((max(span[0], start), min(span[1], end)) for start, end in others)
    return [(start, end) for start, end in cut if start < end]


@contextmanager
def canvas(width: float, height: float, *, layout: Literal["constrained"] | None = "constrained") -> Iterator[Figure]:
    """A figure of this size in hundreds of CSS pixels, drawn in our style whatever the user's own settings are. One
    thread draws at a time: settings are those of the whole process.
    """
    with _DRAWING, mpl.rc_context(mpl.rcParamsDefault), mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a name in a script that it lacks
        figure = Figure((width, height), dpi=DOTS_PER_INCH * SHARPNESS, layout=layout)
        FigureCanvasAgg(figure)
        yield figure


def picture_of(figure: Figure, alt: str, caption: str) -> Picture:
    """A drawn figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None}, facecolor="white")
    width, height = figure.get_size_inches() * DOTS_PER_INCH
    return Picture(
        alt=alt,
        caption=caption,
        uri=f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}",
        width=round(width),
        height=round(height),
    )
