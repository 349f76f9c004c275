"""The pictures of an evaluation, as PNG files: confusions, what probabilities are worth, the worst mistakes, and how
the training came there.

Drawn in the style of the audit's (audit_pictures.py). Names from the data are shortened where they would not fit.

Legend: K classes, T frames, H height, W width of what the model sees.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from slowfast_ray.learning import counts
from slowfast_ray.learning.calibration import Calibration
from slowfast_ray.running.audits.audit_frames import HEAT
from slowfast_ray.running.audits.audit_pictures import FAINT, GREY, INK, TRAIN, VAL, canvas, short

MAX_CLASSES = 60
"""More would be too small to read; confusion.csv has all."""
_CURVES = (
    (counts.TRAIN_LOSS, TRAIN), (counts.VAL_LOSS, VAL), (counts.TRAIN_TOP1, TRAIN), (counts.VAL_TOP1, VAL),
    (counts.VAL_MEAN_CLASS, "#7a5195"), (counts.VAL_MEAN_AP, "#7a5195"),
)  # fmt: skip
WIDTH = 9.2
"""Of the gallery [hundreds of CSS pixels, as all sizes here]."""


@dataclass(frozen=True)
class Mistake:
    """A sample of which the network was sure, and wrong."""

    where: str
    said: tuple[str, float]
    """The most likely class and its probability."""
    truth: Sequence[tuple[str, float]]
    """Each label and its probability."""
    frames_THW: np.ndarray
    """Some frames of the clip as the model sees it, 0 to 1."""


def confusion(confusion_KK: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """Samples by true class (row) and predicted class (column), for classes that occur in either."""
    num_either_K = confusion_KK.sum(axis=0) + confusion_KK.sum(axis=1)
    ranked = np.argsort(-num_either_K, kind="stable")[:MAX_CLASSES]
    shown = np.sort(ranked[num_either_K[ranked] > 0])
    numbers = confusion_KK[np.ix_(shown, shown)]
    num_true = confusion_KK[shown].sum(axis=1)
    share = numbers / np.maximum(num_true, 1)[:, None]
    names = [short(classes[int(k)], 40) for k in shown]
    side = 0.42 * len(shown) if len(shown) <= 20 else 0.22 * len(shown)
    with canvas(4.2 + side, 3.4 + side) as figure:
        axes = figure.add_subplot()
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="equal")
        for row, column in zip(*numbers.nonzero(), strict=True):
            color = "white" if share[row, column] > 0.6 else INK
            size = 9 if len(shown) <= 20 else 6
            axes.text(column, row, f"{numbers[row, column]}", ha="center", va="center", fontsize=size, color=color)
        axes.set_xticks(range(len(shown)), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
        labels = [f"{name}  ({number})" for name, number in zip(names, num_true, strict=True)]
        axes.set_yticks(range(len(shown)), labels, fontsize=8)
        axes.set_xticks(np.arange(len(shown) + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(shown) + 1) - 0.5, minor=True)
        axes.grid(which="minor", color=FAINT, linewidth=0.6)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class (samples)")
        is_whole = len(shown) == (num_either_K > 0).sum()
        which = "classes that occur" if is_whole else f"the {MAX_CLASSES} most frequent classes"
        figure.suptitle(
            f"Samples by true and predicted class,\n{which}; colour: share of the row",
            x=0.02, ha="left", fontsize=10, fontweight="bold",
        )  # fmt: skip
        _save(figure, path)


def reliability(found: Calibration, is_multi: bool, path: Path) -> None:
    """Share of hits over probability, a bar for each bin, above the numbers in the bins."""
    filled = [each for each in found.bins_M if each.number]
    lefts, widths = [each.low for each in filled], [each.high - each.low for each in filled]
    with canvas(5.4, 6.0) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        upper.bar(
            lefts, [each.share_right for each in filled], width=widths, align="edge", color=TRAIN, alpha=0.55,
            edgecolor="white", label="share right" if not is_multi else "share that carry the class",
        )  # fmt: skip
        upper.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1.2, label="perfectly calibrated")
        upper.plot(
            [each.mean_probability for each in filled], [each.share_right for each in filled], "o", color=VAL,
            markersize=6, clip_on=False, label="at the mean probability of the bin",
        )  # fmt: skip
        upper.set_ylim(0, 1)
        upper.set_xlim(0, 1)
        upper.set_ylabel("share that carry the class" if is_multi else "share right")
        what = "every class for every sample" if is_multi else "the most likely class"
        upper.set_title(
            f"Probability of {what}\nExpected calibration error {found.error:.3f}, {len(found.bins_M)} equal bins",
            loc="left",
        )
        figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=2)  # bars may be anywhere
        numbers = [each.number for each in filled]
        lower.bar(lefts, numbers, width=widths, align="edge", color=GREY, edgecolor="white")
        for left, width, number in zip(lefts, widths, numbers, strict=True):
            lower.annotate(
                f"{number}", (left + width / 2, number), (0, 2), textcoords="offset points", ha="center", fontsize=8
            )
        lower.set_ylim(0, max(numbers) * 1.3)
        lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        lower.set_ylabel("number")
        lower.set_xlabel("probability")
        _save(figure, path)


def gallery(mistakes: Sequence[Mistake], span_celsius: tuple[float, float], path: Path) -> None:
    """Frames of each mistake in a row, under what was said, what is true and where it is."""
    num_frames, height, width = mistakes[0].frames_THW.shape
    margin, gap, words, top = 0.12, 0.05, 0.52, 0.66
    frame_width = (WIDTH - 2 * margin - gap * (num_frames - 1)) / num_frames
    frame_height = min(frame_width * height / width, 4.0)
    row_height = words + frame_height + 0.12
    total = top + row_height * len(mistakes)
    with canvas(WIDTH, total, layout=None) as figure:
        figure.text(
            margin / WIDTH, 1 - 0.12 / total, "The most confident mistakes", fontsize=11, fontweight="bold", va="top"
        )  # fmt: skip
        low, high = span_celsius
        figure.text(
            margin / WIDTH, 1 - 0.36 / total,
            f"{num_frames} frames of each clip as the model sees it, from first to last, the keyframe in the middle; "
            f"from {low:g} (dark) to {high:g} °C (light)",
            fontsize=8, va="top", color=GREY,
        )  # fmt: skip
        for row, mistake in enumerate(mistakes):
            above = total - top - row * row_height
            truth = " and ".join(f"{short(name, 40)} ({_shown(p)})" for name, p in mistake.truth) or "none"
            said = f"said: {short(mistake.said[0], 40)} ({_shown(mistake.said[1])})    truth: {truth}"
            figure.text(margin / WIDTH, above / total, short(said, 122), fontsize=9, va="top")
            where = short(mistake.where, 130)
            figure.text(margin / WIDTH, (above - 0.22) / total, where, fontsize=7.5, va="top", color=GREY)
            for column, frame_HW in enumerate(mistake.frames_THW):
                left = margin + column * (frame_width + gap)
                axes = figure.add_axes(
                    (left / WIDTH, (above - words + 0.08 - frame_height) / total, frame_width / WIDTH,
                     frame_height / total)
                )  # fmt: skip
                axes.imshow(frame_HW, cmap=HEAT, vmin=0, vmax=1, interpolation="nearest", aspect="equal")
                axes.set_axis_off()
        _save(figure, path)


def learning_curves(history: Sequence[Mapping[str, float]], best_epoch: int | None, path: Path) -> None:
    """Loss and scores of training and validation after each epoch; a line marks the best one."""
    epochs = range(1, len(history) + 1)
    names = [(name, color) for name, color in _CURVES if name in history[0]]
    with canvas(9.2, 3.6) as figure:
        left, right = figure.subplots(1, 2)
        for name, color in names:
            axes = left if name.endswith("/loss") else right
            values = [each.get(name, math.nan) for each in history]
            axes.plot(epochs, values, "o-", color=color, markersize=3, linewidth=1.4, label=name)
        left.set_title("Loss", loc="left")
        right.set_title("Scores", loc="left")
        right.set_ylim(0, 1)
        for axes in (left, right):
            if best_epoch is not None:
                axes.axvline(best_epoch, color=GREY, linewidth=1, linestyle="--", label=f"best epoch: {best_epoch}")
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.legend(frameon=False, fontsize=8)
        _save(figure, path)


def _shown(probability: float) -> str:
    return "?" if math.isnan(probability) else f"{probability:.2f}"


def _save(figure: Figure, path: Path) -> None:
    with path.open("xb") as file:
        figure.savefig(file, format="png", metadata={"Software": None}, facecolor="white")
