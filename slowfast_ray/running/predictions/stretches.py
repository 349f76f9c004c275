"""A recording cut into stretches of equal length, none of which reaches over a gap.

A gap is a pause between two frames that is longer than the span of a clip: what lies on its two sides is not one scene.

Shapes: S stretches (or clips), N frames of the recording.
"""

import itertools
from dataclasses import dataclass

import numpy as np

from slowfast_ray.data.config import DataConfig
from slowfast_ray.data.recordings import Recording

GAP = "gap within the clip"
"""Note of a clip that reaches over one."""


@dataclass(frozen=True)
class Stretches:
    """Stretches of a recording, in the order of time."""

    firsts_S: np.ndarray
    """int64: first frame."""
    lasts_S: np.ndarray
    """int64: last frame, which belongs to it."""
    parts_S: np.ndarray
    """int64: between which gaps of the recording it lies, counted from 0."""

    @property
    def keyframes_S(self) -> np.ndarray:
        """int64: their middles."""
        return (self.firsts_S + self.lasts_S + 1) // 2


def ascending_times(recording: Recording) -> np.ndarray | None:
    """int64 [N]: when each frame was taken [ms]; None where the file does not say, or its times run backwards."""
    times_N = recording.times_N
    return None if times_N is None or (np.diff(times_N) < 0).any() else times_N


def cut(num_frames: int, times_N: np.ndarray | None, config: DataConfig, every: int | None) -> Stretches:
    """Stretches of `every` frames, the last before a gap or the end shorter: each frame lies in exactly one.

    None stands for half the clip's window, at the recording's pace where the window is told by the clock.
    """
    if every is None:
        window = config.window
        if config.frame_interval_ms is not None and times_N is not None:
            window /= pace_ms(times_N)
        every = max(1, round(window / 2))
    edges = [0, *(gaps(times_N, config) + 1).tolist(), num_frames]
    firsts, lasts, parts = [], [], []
    for part, (first, end) in enumerate(itertools.pairwise(edges)):
        starts = np.arange(first, end, every)
        firsts.append(starts)
        lasts.append(np.minimum(starts + every, end) - 1)
        parts.append(np.full(len(starts), part))
    return Stretches(np.concatenate(firsts), np.concatenate(lasts), np.concatenate(parts))


def gaps(times_N: np.ndarray | None, config: DataConfig) -> np.ndarray:
    """int64: the frames after which nothing was recorded for longer than the clip's window; without times, none."""
    if times_N is None:
        return np.array([], dtype=np.int64)
    window_ms = config.window if config.frame_interval_ms is not None else config.window * pace_ms(times_N)
    return np.flatnonzero(np.diff(times_N) > window_ms)


def pace_ms(times_N: np.ndarray) -> float:
    """From frame to frame: the median, or the mean where most frames carry the time of the one before; above 0."""
    steps = np.diff(times_N)
    if not steps.any():
        return 1.0
    return float(np.median(steps)) or float(steps.mean())


def reach_over_gap(
    keyframes_S: np.ndarray, first_S: np.ndarray, last_S: np.ndarray, times_N: np.ndarray | None, config: DataConfig
) -> np.ndarray:
    """bool [S]: whether a gap lies between the first and the last moment of a clip.

    `first_S` and `last_S` are the frames that it shows; by the clock it shows those of one side only, again and again.
    """
    after = gaps(times_N, config)
    if config.frame_interval_ms is None or times_N is None:
        return np.any((first_S[:, None] <= after) & (last_S[:, None] > after), axis=1)
    before, now_S = config.clip_len // 2, times_N[keyframes_S][:, None]
    start_S = now_S - before * config.frame_interval_ms
    end_S = now_S + (config.clip_len - 1 - before) * config.frame_interval_ms
    return np.any((start_S < times_N[after + 1]) & (end_S > times_N[after]), axis=1)
