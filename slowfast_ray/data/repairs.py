"""What stands in for dead pixels, as a sparse list, found without ever having a whole recording in memory.

The rule is that of `recordings.repair`: the nearest frame in which the pixel is alive (ties: the earlier), and for a
pixel that is dead throughout the nearest pixel that is not.

Legend: N frames of a recording, H height, W width, P pixels of a frame, R dead values. Values and pixels are
counted row by row: value n * H * W + pixel is that of a pixel in frame n.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt

VALUES_AT_ONCE = 4_000_000
"""Dead values that are worked on at once: a long recording has a hundred million of them."""


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
    frames_R, pixels_R = (np.empty(len(dead_R), dtype=np.int32) for _ in range(2))
    num_dead_P = np.zeros(num_pixels, dtype=np.int64)
    for part in _parts(len(dead_R)):
        frames_R[part], pixels_R[part] = np.divmod(dead_R[part], num_pixels)
        num_dead_P += np.bincount(pixels_R[part], minlength=num_pixels)
    nearest_R = _nearest_frames(frames_R, pixels_R, num_frames, num_dead_P)
    source_P = _source_pixels((num_dead_P == num_frames).reshape(height, width))
    for part in _parts(len(dead_R)):
        throughout = part.start + np.flatnonzero(nearest_R[part] < 0)
        # The neighbour may be dead in this frame: then what repairs it is taken.
        wanted = frames_R[throughout].astype(np.int64) * num_pixels + source_P[pixels_R[throughout]]
        at = np.minimum(np.searchsorted(dead_R, wanted), len(dead_R) - 1)
        nearest_R[throughout] = np.where(dead_R[at] == wanted, nearest_R[at], frames_R[throughout])
    del frames_R
    values_R = np.empty(len(dead_R), dtype=np.float32)
    if len(dead_R):
        order_R = np.argsort(nearest_R)
        for first, frames_NHW in frames:
            bounds = np.array((first, first + len(frames_NHW)), dtype=np.int32)  # of another type, all would be copied
            start, end = np.searchsorted(nearest_R, bounds, sorter=order_R)
            for part in _parts(end - start):
                mine = order_R[start:end][part]
                values_R[mine] = frames_NHW.reshape(len(frames_NHW), -1)[
                    nearest_R[mine] - first, source_P[pixels_R[mine]]
                ]
    offsets = np.searchsorted(dead_R, np.arange(num_frames + 1) * num_pixels)
    return Repairs(offsets.astype(np.int64), pixels_R, values_R)


def _parts(num_values: int) -> Iterator[slice]:
    for start in range(0, num_values, VALUES_AT_ONCE):
        yield slice(start, start + VALUES_AT_ONCE)


def _source_pixels(dead_throughout_HW: np.ndarray) -> np.ndarray:
    """int64 [P]: the pixel that gives each its values: itself, or the nearest that lives sometime."""
    source_P = np.arange(dead_throughout_HW.size)
    if dead_throughout_HW.any():
        _, nearest_2HW = distance_transform_edt(dead_throughout_HW, return_indices=True)  # pyright: ignore
        is_dead_P = dead_throughout_HW.reshape(-1)
        neighbours_P = (nearest_2HW[0] * dead_throughout_HW.shape[1] + nearest_2HW[1]).reshape(-1)
        source_P[is_dead_P] = neighbours_P[is_dead_P]
    return source_P


def _nearest_frames(frames_R: np.ndarray, pixels_R: np.ndarray, num_frames: int, num_dead_P: np.ndarray) -> np.ndarray:
    """int32 [R]: the nearest frame in which the pixel of each dead value lives; -1 where there is none."""
    nearest_R = np.empty(len(pixels_R), dtype=np.int32)
    up_to_P = np.cumsum(num_dead_P)
    # Pixel after pixel, in stripes of pixels with so many dead values, at most those of one pixel more.
    edges = np.searchsorted(up_to_P, np.arange(VALUES_AT_ONCE, len(pixels_R), VALUES_AT_ONCE)) + 1
    for first, end in itertools.pairwise(np.unique([0, *edges, len(num_dead_P)]).tolist()):
        mine = np.flatnonzero((pixels_R >= first) & (pixels_R < end))
        mine = mine[np.argsort(pixels_R[mine], kind="stable")]
        nearest_R[mine] = _nearest_in_runs(frames_R[mine], pixels_R[mine], num_frames)
    return nearest_R


def _nearest_in_runs(frame_R: np.ndarray, pixel_R: np.ndarray, num_frames: int) -> np.ndarray:
    """The same for values in the order of their pixels, those of a pixel in the order of their frames."""
    # A run is a pixel's stretch of dead frames: it lives right before and right after, unless the recording ends there.
    begins_R = np.ones(len(frame_R), dtype=bool)
    begins_R[1:] = (pixel_R[1:] != pixel_R[:-1]) | (frame_R[1:] != frame_R[:-1] + 1)
    run_R = np.cumsum(begins_R) - 1
    before_R = frame_R[begins_R][run_R] - 1
    after_R = frame_R[np.roll(begins_R, -1)][run_R] + 1
    takes_before_R = (after_R >= num_frames) | ((before_R >= 0) & (frame_R - before_R <= after_R - frame_R))
    return np.where(takes_before_R, before_R, after_R)  # -1 where the run is the whole recording
