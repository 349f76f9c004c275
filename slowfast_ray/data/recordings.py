"""Opens a recording, checks its schema, reads its frames and their times, and repairs dead pixels.

A recording is one HDF5 file with `frames`, float [N, H, W] in degrees Celsius, and, where they are known, `timestamps`,
[N] in milliseconds, and the attribute `mac_address`, which tells sensors apart. This is the only module that reads
HDF5.

Shapes: N frames, H height, W width.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from scipy.ndimage import distance_transform_edt

from slowfast_ray.data.annotations import LARGEST_NUMBER

DEAD_BELOW_CELSIUS = -100.0
"""A pixel colder than this was not measured: the sensor writes -273.2 for it, 0 K in its steps of 0.1."""


@dataclass(frozen=True)
class Raw:
    """What one file holds, as it is: dead, missing and implausible values included."""

    path: Path
    frames_NHW: np.ndarray
    """float32 [N, H, W] in degrees Celsius."""
    times_N: np.ndarray | None
    """int64 [N]: when each frame was taken [ms]; None where the file does not say."""
    sensor: str | None
    """Which sensor recorded; None where the file does not say."""

    def digests_N(self) -> np.ndarray:
        """uint64 [N]: equal for identical frames; a frame of one value shows no moment, and equals no other."""
        is_blank_N = (self.frames_NHW == self.frames_NHW[:, :1, :1]).all(axis=(1, 2))
        hashed = [
            hashlib.blake2b(
                (f"{self.path.stem} {n} ".encode() if is_blank else b"") + frame_HW.tobytes(), digest_size=8
            ).digest()
            for n, (frame_HW, is_blank) in enumerate(zip(self.frames_NHW, is_blank_N, strict=True))
        ]
        return np.frombuffer(b"".join(hashed), dtype=np.uint64)


@dataclass(frozen=True)
class Recording:
    """The frames of one file, with dead pixels repaired and counted."""

    id: str
    frames_NHW: np.ndarray
    """float32 [N, H, W] in degrees Celsius."""
    times_N: np.ndarray | None
    """int64 [N]: when each frame was taken [ms]; None where the file does not say."""
    sensor: str | None
    """Which sensor recorded; None where the file does not say."""
    digests_N: np.ndarray
    """uint64 [N]: equal for frames that were identical before any repair."""
    num_dead_pixels: int
    """Repaired values, summed over frames [pixels]."""
    num_dead_frames: int
    """Frames with at least one repaired value [frames]."""


def read_raw(path: Path) -> Raw:
    """What the file at `path` holds, unrepaired.

    Raises FileNotFoundError if there is no file, ValueError if it is no readable HDF5 file, lacks `frames`, or holds
    frames or timestamps of another shape or type.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No such recording: {path}.")
    try:
        with h5py.File(path) as file:
            frames_NHW = _read_frames(file, path)
            times_N = _read_times(file, path, len(frames_NHW))
            sensor = file.attrs.get("mac_address")
    except (OSError, RuntimeError, KeyError, TypeError) as error:  # truncated, foreign, damaged
        raise ValueError(
            f"The recording {path} cannot be read as HDF5 ({error}); it may be truncated: copy it again."
        ) from error
    return Raw(path, frames_NHW, times_N, None if sensor is None else str(sensor))


def read(path: Path) -> Recording:
    """The whole recording at `path`, whose file name without suffix is its id.

    Raises what `read_raw` raises, and ValueError for values that are not finite.
    """
    raw = read_raw(path)
    frames_NHW = raw.frames_NHW
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
        times_N=raw.times_N,
        sensor=raw.sensor,
        digests_N=raw.digests_N(),
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


def _read_times(file: h5py.File, path: Path, num_frames: int) -> np.ndarray | None:
    times = file.get("timestamps")
    if times is None:
        return None
    if not isinstance(times, h5py.Dataset) or times.shape != (num_frames,) or times.dtype.kind not in "iuf":
        raise ValueError(
            f"`timestamps` must hold one number a frame, in milliseconds, but {path} has {num_frames} frames and "
            f"{_described(times)}; write it again, or leave it out."
        )
    times_N = times[()]
    if not np.isfinite(times_N).all():
        raise ValueError(f"`timestamps` must be finite, but {path} holds NaN or infinity; write it again.")
    if ((times_N > LARGEST_NUMBER) | (times_N < -LARGEST_NUMBER)).any():
        raise ValueError(f"`timestamps` must be milliseconds, but {path} holds numbers that no clock shows.")
    return np.round(times_N).astype(np.int64)


def _described(times: object) -> str:
    return f"timestamps of shape {times.shape}, {times.dtype}" if isinstance(times, h5py.Dataset) else "another thing"


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
