"""What people hand to a network, checked: a clear error each, before anything is computed.

Shapes: S clips, T frames given for a clip, H and W height and width as recorded.
"""

from typing import Any

import numpy as np
import torch

from slowfast_ray.data import recordings
from slowfast_ray.data.recordings import DEAD_BELOW_CELSIUS
from slowfast_ray.data.tracks import Tracks


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
    """int64 [S, T] in milliseconds. Raises ValueError for another shape or type, and what is not finite."""
    times_ST = np.asarray(given)
    if times_ST.shape != shape or times_ST.dtype.kind not in "iuf" or not np.isfinite(times_ST).all():
        raise ValueError(
            f"`timestamps` must hold a finite number for each frame, in milliseconds, {list(shape)}, but is "
            f"{times_ST.dtype} of {list(times_ST.shape)}."
        )
    return torch.from_numpy(np.round(times_ST).astype(np.int64))


def tracks(given: Any, num_clips: int, num_frames: int) -> Tracks:
    """Crops that stay at the box of each clip. Raises ValueError for boxes that are no fractions of the frame."""
    boxes_S4 = np.asarray(given)
    if boxes_S4.shape != (num_clips, 4) or boxes_S4.dtype.kind not in "iuf" or not np.isfinite(boxes_S4).all():
        raise ValueError(
            f"`boxes` must hold centre x, y, width and height for each clip, [{num_clips}, 4], finite, but is "
            f"{boxes_S4.dtype} of {list(boxes_S4.shape)}."
        )
    if not ((boxes_S4 >= 0) & (boxes_S4 <= 1)).all() or not (boxes_S4[:, 2:] > 0).all():
        raise ValueError("`boxes` must be fractions of the frame, 0 to 1, with a width and a height above 0.")
    boxes = torch.from_numpy(boxes_S4.astype(np.float32))
    return Tracks(
        centers_M2=boxes[:, :2].repeat_interleave(num_frames, dim=0),
        rows_S=torch.arange(num_clips) * num_frames,
        sizes_S2=boxes[:, 2:],
    )
