"""What people hand to a network, checked: a clear error each, before anything is computed.

Shapes: S clips, T frames given for a clip, H and W height and width as recorded.
"""

import itertools
from typing import Any

import numpy as np
import torch

from slowfast_ray.data import recordings
from slowfast_ray.data.annotations import LARGEST_NUMBER
from slowfast_ray.data.recordings import DEAD_BELOW_CELSIUS
from slowfast_ray.data.tracks import Tracks

MAX_INTERVALS = 10
"""From frame to frame: of a clip, a network would see the same few frames again and again."""
MAX_SPAN_MS = 2**40
"""35 years: a time that was never set, 0, stands among others of today."""


def frames(given: Any) -> np.ndarray:
    """float32 [S, T, H, W], a copy. Raises ValueError for another shape or type, no frame, and what is not finite."""
    frames_STHW = np.asarray(given)
    if frames_STHW.ndim != 4:
        raise ValueError(
            f"`frames` must have the shape [clips, frames, height, width], but has {list(frames_STHW.shape)}; a single "
            "clip is frames[None]."
        )
    if frames_STHW.dtype.kind != "f":
        raise ValueError(
            f"`frames` must hold floats in degrees Celsius, but is {frames_STHW.dtype}; convert raw counts first."
        )
    if 0 in frames_STHW.shape[1:]:
        raise ValueError(f"`frames` holds no frame, or no pixel: its shape is {list(frames_STHW.shape)}.")
    is_finite_S = np.isfinite(frames_STHW).all(axis=(1, 2, 3))
    if not is_finite_S.all():
        raise ValueError(
            f"`frames` must be finite, but {int((~is_finite_S).sum())} of {len(frames_STHW)} clips hold NaN or "
            f"infinity, first clip {int(np.flatnonzero(~is_finite_S)[0])}; leave them out."
        )
    is_huge_S = (np.abs(frames_STHW) > np.finfo(np.float32).max).any(axis=(1, 2, 3))
    if is_huge_S.any():
        raise ValueError(
            f"`frames` must be degrees Celsius, but clip {int(np.flatnonzero(is_huge_S)[0])} holds values beyond "
            "float32; check their unit."
        )
    return frames_STHW.astype(np.float32)


def repaired(frames_STHW: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Dead pixels repaired within each clip, in place, and a note for each. Raises ValueError for a clip that is dead
    throughout.
    """
    dead_STHW = frames_STHW < DEAD_BELOW_CELSIUS
    notes = [""] * len(frames_STHW)
    for s in np.flatnonzero(dead_STHW.any(axis=(1, 2, 3))):
        if dead_STHW[s].all():
            raise ValueError(
                f"Every pixel of clip {s} is below {DEAD_BELOW_CELSIUS:g} degrees Celsius: nothing was measured."
            )
        frames_STHW[s] = recordings.repair(frames_STHW[s], dead_STHW[s])
        notes[s] = f"{int(dead_STHW[s].sum())} dead pixel values repaired"
    return frames_STHW, notes


def times(given: Any, shape: tuple[int, int]) -> torch.Tensor:
    """int64 [S, T] in milliseconds. Raises ValueError for another shape or type, floats of too few digits, and what is
    not finite or no time.
    """
    times_ST = np.asarray(given)
    if times_ST.shape != shape or times_ST.dtype.kind not in "iuf" or not np.isfinite(times_ST).all():
        raise ValueError(
            f"`timestamps` must hold a finite number for each frame, in milliseconds, {list(shape)}, but is "
            f"{times_ST.dtype} of {list(times_ST.shape)}."
        )
    if times_ST.dtype in (np.float16, np.float32):
        raise ValueError(
            f"`timestamps` must be int64 or float64 milliseconds, but is {times_ST.dtype}, which has too few digits to "
            "tell two frames of today apart."
        )
    if ((times_ST > LARGEST_NUMBER) | (times_ST < -LARGEST_NUMBER)).any():
        raise ValueError("`timestamps` must be milliseconds, but holds numbers that no clock shows; check their unit.")
    return torch.from_numpy(np.round(times_ST).astype(np.int64))


def check_pace(times_T: np.ndarray, interval_ms: float, what: str) -> None:
    """Raises ValueError for ascending times (int64) of `what` that cannot be milliseconds of a sensor, where a network
    takes a frame every `interval_ms`: from frame to frame less than a millisecond, or more than MAX_INTERVALS of these;
    or a jump of more than MAX_SPAN_MS.
    """
    steps = [int(later) - int(earlier) for earlier, later in itertools.pairwise(times_T.tolist())]
    moved = [step for step in steps if step]
    if not steps:
        return
    if not moved:
        raise ValueError(f"{what} has `timestamps` that are all the same, {times_T[0]}; give the time of each frame.")
    # Robust against gaps, and also where several frames carry the time of the last one.
    pace_ms = float(np.median(moved)) * len(moved) / len(steps)
    if not 1 <= pace_ms <= MAX_INTERVALS * interval_ms:
        raise ValueError(
            f"{what} has frames {pace_ms:.3g} ms apart by its `timestamps`, but this model takes one every "
            f"{interval_ms:g} ms: are the times in milliseconds?"
        )
    if sum(steps) > MAX_SPAN_MS:
        raise ValueError(
            f"{what} has `timestamps` that span more than 30 years, from {times_T[0]} to {times_T[-1]} ms: is one of "
            "them missing or damaged?"
        )


def tracks(given: Any, num_clips: int, num_frames: int) -> Tracks:
    """Crops around the box of each clip [S, 4], where they stay, or of each frame [S, T, 4], whose centres they follow,
    in the size of the one in the middle. Raises ValueError for boxes that are no fractions of the frame.
    """
    boxes = np.asarray(given)
    is_known = boxes.shape in ((num_clips, 4), (num_clips, num_frames, 4))
    if not is_known or boxes.dtype.kind not in "iuf" or not np.isfinite(boxes).all():
        raise ValueError(
            f"`boxes` must hold centre x, y, width and height for each clip, [{num_clips}, 4], or for each frame, "
            f"[{num_clips}, {num_frames}, 4], finite, but is {boxes.dtype} of {list(boxes.shape)}."
        )
    if not ((boxes >= 0) & (boxes <= 1)).all() or not (boxes[..., 2:] > 0).all():
        raise ValueError("`boxes` must be fractions of the frame, 0 to 1, with a width and a height above 0.")
    boxes_ST4 = torch.from_numpy(boxes.astype(np.float32))
    if boxes_ST4.ndim == 2:
        boxes_ST4 = boxes_ST4[:, None].expand(-1, num_frames, -1)
    return Tracks(
        centers_M2=boxes_ST4[..., :2].flatten(0, 1),
        rows_S=torch.arange(num_clips) * num_frames,
        sizes_S2=boxes_ST4[:, num_frames // 2, 2:],
    )
