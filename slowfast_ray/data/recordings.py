"""Opens a recording, checks its schema, reads its frames and repairs dead pixels.

A recording is one HDF5 file with `frames`, float [N, H, W] in degrees Celsius. This is the only module that reads HDF5.

Shapes: N frames, H height, W width.
"""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from scipy.ndimage import distance_transform_edt

DEAD_BELOW_CELSIUS = -100.0
"""A pixel colder than this was not measured: the sensor writes -273.2 for it, 0 K in its steps of 0.1."""


@dataclass(frozen=True)
class Recording:
    """The frames of one file, with dead pixels repaired and counted."""

    id: str
    frames_NHW: np.ndarray
    """float32 [N, H, W] in degrees Celsius."""
    num_dead_pixels: int
    """Repaired values, summed over frames [pixels]."""
    num_dead_frames: int
    """Frames with at least one repaired value [frames]."""


def read(path: Path) -> Recording:
    """The whole recording at `path`, whose file name without suffix is its id.

    Raises FileNotFoundError if there is no file, ValueError if it is no readable HDF5 file, lacks `frames`, holds
    frames of another shape or type, or holds values that are not finite.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No such recording: {path}.")
    try:
        with h5py.File(path) as file:
            frames_NHW = _read_frames(file, path)
    except (OSError, RuntimeError, KeyError, TypeError) as error:  # truncated, foreign, damaged
        raise ValueError(
            f"The recording {path} cannot be read as HDF5 ({error}); it may be truncated: copy it again."
        ) from error
    finite_N = np.isfinite(frames_NHW).all(axis=(1, 2))
    if not finite_N.all():
        bad = np.flatnonzero(~finite_N)
        raise ValueError(
            f"Frames must hold finite temperatures, but {len(bad)} of {len(frames_NHW)} frames of {path} hold NaN or "
            f"infinity, first at frame {bad[0]}; export the recording again or leave it out of the annotations."
        )
    dead_NHW = frames_NHW < DEAD_BELOW_CELSIUS
    if dead_NHW.all():
        raise ValueError(f"Every pixel of {path} is below {DEAD_BELOW_CELSIUS} degrees Celsius: nothing was measured.")
    return Recording(
        id=path.stem,
        frames_NHW=repair(frames_NHW, dead_NHW) if dead_NHW.any() else frames_NHW,
        num_dead_pixels=int(dead_NHW.sum()),
        num_dead_frames=int(dead_NHW.any(axis=(1, 2)).sum()),
    )


def _read_frames(file: h5py.File, path: Path) -> np.ndarray:
    frames = file.get("frames")
    if "frames" in file and not isinstance(frames, h5py.Dataset):
        raise ValueError(f"`frames` must be a dataset, but is another thing, or damaged, in {path}; copy it again.")
    if not isinstance(frames, h5py.Dataset):
        raise ValueError(
            f"A recording needs a dataset `frames`, but {path} holds only: {', '.join(file) or 'nothing'}."
        )
    if frames.ndim != 3 or 0 in frames.shape:
        raise ValueError(f"`frames` must have the shape [N, H, W], none of them 0, but is {frames.shape} in {path}.")
    if frames.dtype.kind != "f":
        raise ValueError(
            f"`frames` must hold floats in degrees Celsius, but is {frames.dtype} in {path}; convert raw counts first."
        )
    return frames[()].astype(np.float32)


def repair(frames_NHW: np.ndarray, dead_NHW: np.ndarray) -> np.ndarray:
    """A copy in which every dead pixel takes its value from the nearest frame where it is alive (ties: the earlier).

    A pixel that is dead throughout takes the value of the nearest pixel of the same frame that is not.
    """
    repaired_NHW = frames_NHW.copy()
    dead_throughout_HW = dead_NHW.all(axis=0)
    for row, column in zip(*np.nonzero(dead_NHW.any(axis=0) & ~dead_throughout_HW), strict=True):
        dead_N = dead_NHW[:, row, column]
        alive = np.flatnonzero(~dead_N)
        dead = np.flatnonzero(dead_N)
        after = np.searchsorted(alive, dead)  # past either end, the only living neighbour stands on both sides
        earlier, later = alive[np.maximum(after - 1, 0)], alive[np.minimum(after, len(alive) - 1)]
        nearest = np.where(np.abs(dead - earlier) <= np.abs(later - dead), earlier, later)
        repaired_NHW[dead, row, column] = frames_NHW[nearest, row, column]
    if dead_throughout_HW.any():
        _, nearest_2HW = distance_transform_edt(dead_throughout_HW, return_indices=True)  # pyright: ignore
        rows, columns = np.nonzero(dead_throughout_HW)
        nearest_rows, nearest_columns = nearest_2HW[:, rows, columns]
        repaired_NHW[:, rows, columns] = repaired_NHW[:, nearest_rows, nearest_columns]
    return repaired_NHW
