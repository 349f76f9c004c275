"""What is wrong with the pixels of the files: dead, stuck, missing, implausible and clipped ones, frames that repeat.

Legend: N frames of a recording, H height, W width.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from slowfast_ray.data.audit_findings import MAX_EXAMPLES, Finding
from slowfast_ray.data.config import DataConfig
from slowfast_ray.data.recordings import DEAD_BELOW_CELSIUS, Raw

PLAUSIBLE_CELSIUS = (-40.0, 100.0)
"""Where people are, nothing is colder or hotter."""
STUCK_FRAMES = 50
"""A pixel that keeps its value for so many frames may be stuck, ..."""
STUCK_MEDIANS = 10
"""... if that is so many times as long as the median pixel ever does. In the real recordings, in steps of 0.1 degrees,
the median pixel keeps its value for up to 3 or 4 frames, and no pixel for more than 13."""
MANY_DEAD = 0.01
"""From this share of a recording's values on, dead pixels are more than good to know."""
MANY_REPEATED = 0.01
"""The same for frames that repeat the one before."""
MANY_CLIPPED = 0.01
"""Share of a recording's values that the window of temperatures may clip in silence."""


@dataclass(frozen=True)
class Pixels:
    """One recording, looked at."""

    id: str
    times_N: np.ndarray | None
    """int64 [N]: when each frame was taken [ms]; None where the file does not say."""
    sensor: str | None
    """Which sensor recorded; None where the file does not say."""
    shape_NHW: tuple[int, int, int]
    dead_HW: np.ndarray
    """int64: frames in which each pixel is dead."""
    num_dead_frames: int
    """Frames with at least one dead pixel."""
    not_finite: np.ndarray
    """int64: frames with NaN or infinity."""
    num_not_finite: int
    """Such values."""
    stuck_HW: np.ndarray
    """bool: pixels that keep one value while the others change."""
    num_implausible: int
    """Values that are neither dead nor those of a place with people."""
    range_celsius: tuple[float, float]
    """The lowest and the highest value that is finite and not dead; NaN without any."""
    num_clipped: int
    """Plausible values outside data.min_celsius to data.max_celsius."""
    repeats: np.ndarray
    """int64: frames identical to the one before."""

    @property
    def num_values(self) -> int:
        """N x H x W."""
        return int(np.prod(self.shape_NHW))

    @property
    def dead_share(self) -> float:
        """Dead values among all values of all frames."""
        return float(self.dead_HW.sum()) / self.num_values


def look(raw: Raw, config: DataConfig) -> Pixels:
    """All that can be told of one file without any other."""
    frames_NHW = raw.frames_NHW
    finite_NHW = np.isfinite(frames_NHW)
    dead_NHW = finite_NHW & (frames_NHW < DEAD_BELOW_CELSIUS)
    measured_NHW = finite_NHW & ~dead_NHW
    low, high = PLAUSIBLE_CELSIUS
    plausible_NHW = measured_NHW & (frames_NHW >= low) & (frames_NHW <= high)
    inside_NHW = (frames_NHW >= config.min_celsius) & (frames_NHW <= config.max_celsius)
    measured = frames_NHW[measured_NHW]
    # Two frames that are dead altogether say nothing about repetition.
    repeats_N = (frames_NHW[1:] == frames_NHW[:-1]).all(axis=(1, 2)) & measured_NHW[1:].any(axis=(1, 2))
    return Pixels(
        id=raw.path.stem,
        times_N=raw.times_N,
        sensor=raw.sensor,
        shape_NHW=(len(frames_NHW), *frames_NHW.shape[1:]),
        dead_HW=dead_NHW.sum(axis=0),
        num_dead_frames=int(dead_NHW.any(axis=(1, 2)).sum()),
        not_finite=np.flatnonzero(~finite_NHW.all(axis=(1, 2))),
        num_not_finite=int((~finite_NHW).sum()),
        stuck_HW=_stuck_HW(frames_NHW, measured_NHW),
        num_implausible=int((measured_NHW & ~plausible_NHW).sum()),
        range_celsius=(float(measured.min()), float(measured.max())) if measured.size else (np.nan, np.nan),
        num_clipped=int((plausible_NHW & ~inside_NHW).sum()),
        repeats=1 + np.flatnonzero(repeats_N),
    )


def _stuck_HW(frames_NHW: np.ndarray, measured_NHW: np.ndarray) -> np.ndarray:
    """bool [H, W]: pixels that rest far longer than the others. Frames in which a pixel is dead do not end its rest."""
    value_HW = np.full(frames_NHW.shape[1:], np.nan, dtype=np.float32)
    rest_HW = np.zeros(frames_NHW.shape[1:], dtype=np.int64)
    longest_HW = rest_HW.copy()
    for frame_HW, measured_HW in zip(frames_NHW, measured_NHW, strict=True):
        changes_HW = measured_HW & (frame_HW != value_HW)
        value_HW[changes_HW] = frame_HW[changes_HW]
        rest_HW += measured_HW
        rest_HW[changes_HW] = 1
        np.maximum(longest_HW, rest_HW, out=longest_HW)
    return (longest_HW >= STUCK_FRAMES) & (longest_HW >= STUCK_MEDIANS * np.median(longest_HW))


def findings(looked: Sequence[Pixels], config: DataConfig) -> list[Finding]:
    """All of this page, in the order of its keys in audit.py."""
    return [*_not_finite(looked), *_dead(looked), *_stuck(looked), *_temperatures(looked, config), *_repeats(looked)]


def _not_finite(looked: Sequence[Pixels]) -> Iterable[Finding]:
    bad = [each for each in looked if len(each.not_finite)]
    if bad:
        yield Finding(
            key="pixel/not-finite",
            severity="serious",
            title=f"{sum(len(each.not_finite) for each in bad)} frames of {len(bad)} recordings hold NaN or infinity.",
            count=sum(each.num_not_finite for each in bad),
            total=sum(each.num_values for each in looked),
            examples=_examples(
                f"{each.id} frame {each.not_finite[0]}: first of {len(each.not_finite)} such frames" for each in bad
            ),
            remedy="Export these recordings again, or leave them out of the annotations.",
        )


def _dead(looked: Sequence[Pixels]) -> Iterable[Finding]:
    partly = [each for each in looked if each.dead_HW.any()]
    total = sum(each.num_values for each in looked)
    if partly:
        shares = [100 * each.dead_share for each in partly]
        frames = [each.num_dead_frames for each in partly]
        yield Finding(
            key="pixel/dead",
            severity="warning" if max(shares) >= 100 * MANY_DEAD else "note",
            title=f"{len(partly)} of {len(looked)} recordings hold dead pixels: {_range(shares, '.2g')} % of a "
            f"recording's values, in {_range(frames, 'd')} of its frames; the nearest good frame repairs them.",
            count=sum(int(each.dead_HW.sum()) for each in partly),
            total=total,
            examples=_examples(
                f"{each.id}: {each.dead_share:.1%} of its values, in {each.num_dead_frames} frames" for each in partly
            ),
            remedy="Look at these frames before you trust labels near them; lost rows hint at a bad link to it.",
        )
    never = [
        f"{each.id} row {row}, column {column}"
        for each in partly
        for row, column in zip(*np.nonzero(each.dead_HW == each.shape_NHW[0]), strict=True)
    ]
    if never:
        yield Finding(
            key="pixel/never-alive",
            severity="warning",
            title=f"{len(never)} pixels are dead throughout their recording: they show their nearest neighbour.",
            count=len(never),
            total=sum(each.dead_HW.size for each in looked),
            examples=_examples(never),
            remedy="Replace the sensor, or mask these pixels before export.",
        )


def _stuck(looked: Sequence[Pixels]) -> Iterable[Finding]:
    stuck = [
        f"{each.id} row {row}, column {column}"
        for each in looked
        for row, column in zip(*np.nonzero(each.stuck_HW), strict=True)
    ]
    if stuck:
        yield Finding(
            key="pixel/stuck",
            severity="warning",
            title=f"{len(stuck)} pixels keep one value for {STUCK_FRAMES} frames or more while others change.",
            count=len(stuck),
            total=sum(each.stuck_HW.size for each in looked),
            examples=_examples(stuck),
            remedy="Write -273.2 where a pixel is stuck, so that it is repaired as a dead one.",
        )


def _temperatures(looked: Sequence[Pixels], config: DataConfig) -> Iterable[Finding]:
    total = sum(each.num_values for each in looked)
    implausible = [each for each in looked if each.num_implausible]
    if implausible:
        low, high = PLAUSIBLE_CELSIUS
        yield Finding(
            key="pixel/implausible",
            severity="warning",
            title=f"{sum(each.num_implausible for each in implausible)} values of {len(implausible)} recordings lie "
            f"outside {low:g} to {high:g} degrees Celsius.",
            count=sum(each.num_implausible for each in implausible),
            total=total,
            examples=_examples(
                f"{each.id}: {each.num_implausible} values, within {each.range_celsius[0]:.1f} to "
                f"{each.range_celsius[1]:.1f} degrees"
                for each in implausible
            ),
            remedy="Check that `frames` holds degrees Celsius, not raw counts, kelvin or tenths.",
        )
    clipped = [each for each in looked if each.num_clipped > MANY_CLIPPED * each.num_values]
    if clipped:
        yield Finding(
            key="pixel/clipped",
            severity="warning",
            title=f"{len(clipped)} of {len(looked)} recordings have more than {MANY_CLIPPED:.0%} of their values "
            f"outside {config.min_celsius:g} to {config.max_celsius:g} degrees Celsius, where all is one.",
            count=sum(each.num_clipped for each in clipped),
            total=total,
            examples=_examples(
                f"{each.id}: {each.num_clipped / each.num_values:.1%} of its values" for each in clipped
            ),
            remedy="Choose --data.min-celsius and --data.max-celsius around the temperatures that occur.",
        )


def _repeats(looked: Sequence[Pixels]) -> Iterable[Finding]:
    frozen = [each for each in looked if len(each.repeats)]
    if frozen:
        worst = max(len(each.repeats) / each.shape_NHW[0] for each in frozen)
        count = sum(len(each.repeats) for each in frozen)
        total = sum(each.shape_NHW[0] for each in looked)
        yield Finding(
            key="frame/repeated",
            severity="warning" if worst >= MANY_REPEATED else "note",
            title=f"{count} of {total} frames are identical to the one before: up to {worst:.1%} of a recording.",
            count=count,
            total=total,
            examples=_examples(f"{each.id} frame {frame}" for each in frozen for frame in each.repeats),
            remedy="Record each frame once: motion stands still where frames repeat.",
        )


def _range(numbers: Sequence[float], form: str) -> str:
    low, high = format(min(numbers), form), format(max(numbers), form)
    return low if low == high else f"{low} to {high}"


def _examples(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(list(texts)[:MAX_EXAMPLES])
