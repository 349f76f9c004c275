"""What stands in for dead pixels, as a sparse list, found without ever having a whole recording in memory.

The rule is that of `recordings.repair`: the nearest frame in which the pixel is alive (ties: the earlier), and for a
pixel that is dead throughout the nearest pixel that is not.

Legend: N frames of a recording, H height, W width, R dead values. Values and pixels are counted row by row: value
n * H * W + pixel is that of a pixel in frame n.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt


@dataclass(frozen=True)
class Repairs:
    """What to write over the dead values of a recording, frame after frame."""

    offsets: np.ndarray
    """int64 [N + 1]: where the repairs of each frame begin, and where the last ones end."""
    pixels_R: np.ndarray
    """int32."""
    values_R: np.ndarray
    """float32 in degrees Celsius."""

    @property
    def num_frames(self) -> int:
        """Frames with at least one dead value."""
        return int(np.count_nonzero(np.diff(self.offsets)))


def find(dead_R: np.ndarray, shape_NHW: tuple[int, int, int], frames: Iterable[tuple[int, np.ndarray]]) -> Repairs:
    """The repairs of the dead values `dead_R` (int64, ascending), of which some pixel must be alive sometime.

    `frames` are all frames of the recording in pieces, float32 [some, H, W], each with the position of its first frame;
    nothing is read where there is nothing to repair.
    """
    num_frames, height, width = shape_NHW
    num_pixels = height * width
    frames_R, pixels_R = np.divmod(dead_R, num_pixels)
    source_R = _sources(dead_R, frames_R, pixels_R, shape_NHW)
    values_R = np.empty(len(dead_R), dtype=np.float32)
    if len(dead_R):
        order_R = np.argsort(source_R)
        ordered_R = source_R[order_R]
        for first, frames_NHW in frames:
            start, end = np.searchsorted(ordered_R, (first * num_pixels, (first + len(frames_NHW)) * num_pixels))
            values_R[order_R[start:end]] = frames_NHW.reshape(-1)[ordered_R[start:end] - first * num_pixels]
    offsets = np.searchsorted(frames_R, np.arange(num_frames + 1))
    return Repairs(offsets.astype(np.int64), pixels_R.astype(np.int32), values_R)


def _sources(
    dead_R: np.ndarray, frames_R: np.ndarray, pixels_R: np.ndarray, shape_NHW: tuple[int, int, int]
) -> np.ndarray:
    """int64 [R]: the living value that each dead one takes."""
    num_frames, height, width = shape_NHW
    nearest_R = _nearest_frames(frames_R, pixels_R, num_frames)
    source_R = nearest_R * height * width + pixels_R
    throughout = np.flatnonzero(nearest_R < 0)
    if len(throughout):
        is_dead_HW = np.zeros((height, width), dtype=bool)
        is_dead_HW.reshape(-1)[pixels_R[throughout]] = True
        _, nearest_2HW = distance_transform_edt(is_dead_HW, return_indices=True)  # pyright: ignore
        neighbours = (nearest_2HW[0] * width + nearest_2HW[1]).reshape(-1)[pixels_R[throughout]]
        wanted = frames_R[throughout] * height * width + neighbours
        # The neighbour may be dead in this frame: then what repairs it is taken.
        at = np.minimum(np.searchsorted(dead_R, wanted), len(dead_R) - 1)
        source_R[throughout] = np.where(dead_R[at] == wanted, source_R[at], wanted)
    return source_R


def _nearest_frames(frames_R: np.ndarray, pixels_R: np.ndarray, num_frames: int) -> np.ndarray:
    """int64 [R]: the nearest frame in which the pixel of each dead value lives; -1 where there is none."""
    order_R = np.lexsort((frames_R, pixels_R))
    frame_R, pixel_R = frames_R[order_R], pixels_R[order_R]
    # A run is a pixel's stretch of dead frames: it lives right before and right after, unless the recording ends there.
    begins_R = np.ones(len(order_R), dtype=bool)
    begins_R[1:] = (pixel_R[1:] != pixel_R[:-1]) | (frame_R[1:] != frame_R[:-1] + 1)
    run_R = np.cumsum(begins_R) - 1
    before_R = frame_R[begins_R][run_R] - 1
    after_R = frame_R[np.roll(begins_R, -1)][run_R] + 1
    takes_before_R = (after_R >= num_frames) | ((before_R >= 0) & (frame_R - before_R <= after_R - frame_R))
    nearest_R = np.empty(len(order_R), dtype=np.int64)
    nearest_R[order_R] = np.where(takes_before_R, before_R, after_R)  # -1 where the run is the whole recording
    return nearest_R
