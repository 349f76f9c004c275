"""Whole recordings in memory: what a file holds, its dead pixels repaired, and which of its frames are identical.

Shapes: N frames, H height, W width.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt

from slowfast_ray.data.recording_files import OpenRecording

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
        return digests(self.path.stem, self.frames_NHW)


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
    """What the file at `path` holds, unrepaired. Raises what OpenRecording raises."""
    with OpenRecording(path) as file:
        return Raw(path, file.frames(0, file.shape_NHW[0]), file.times_N(), file.sensor())


def read(path: Path) -> Recording:
    """The whole recording at `path`, whose file name without suffix is its id.

    Raises what `read_raw` raises, and ValueError for values that are not finite.
    """
    raw = read_raw(path)
    frames_NHW = raw.frames_NHW
    check_finite(path, np.flatnonzero(not_finite_N(frames_NHW)), len(frames_NHW))
    dead_NHW = frames_NHW < DEAD_BELOW_CELSIUS
    check_some_alive(path, is_dead=bool(dead_NHW.all()))
    return Recording(
        id=path.stem,
        frames_NHW=repair(frames_NHW, dead_NHW) if dead_NHW.any() else frames_NHW,
        times_N=raw.times_N,
        sensor=raw.sensor,
        digests_N=raw.digests_N(),
        num_dead_pixels=int(dead_NHW.sum()),
        num_dead_frames=int(dead_NHW.any(axis=(1, 2)).sum()),
    )


def digests(name: str, frames_NHW: np.ndarray, first: int = 0) -> np.ndarray:
    """uint64 [N]: equal for identical frames; a frame of one value shows no moment, and equals no other.

    The frames are those of the recording `name` from its frame `first` on.
    """
    is_blank_N = (frames_NHW == frames_NHW[:, :1, :1]).all(axis=(1, 2))
    hashed = [
        hashlib.blake2b((f"{name} {n} ".encode() if is_blank else b"") + frame_HW.tobytes(), digest_size=8).digest()
        for n, (frame_HW, is_blank) in enumerate(zip(frames_NHW, is_blank_N, strict=True), start=first)
    ]
    return np.frombuffer(b"".join(hashed), dtype=np.uint64)


def not_finite_N(frames_NHW: np.ndarray) -> np.ndarray:
    """bool [N]: frames with NaN or infinity."""
    return np.logical_not(np.isfinite(frames_NHW).all(axis=(1, 2)))


def check_finite(path: Path, bad: np.ndarray, num_frames: int) -> None:
    """Raises ValueError if there are `bad` frames, with NaN or infinity, given by their positions."""
    if len(bad):
        raise ValueError(
            f"Frames must hold finite temperatures, but {len(bad)} of {num_frames} frames of {path} hold NaN or "
            f"infinity, first at frame {bad[0]}; export the recording again or leave it out of the annotations."
        )


def check_some_alive(path: Path, *, is_dead: bool) -> None:
    """Raises ValueError if every pixel is dead throughout."""
    if is_dead:
        raise ValueError(f"Every pixel of {path} is below {DEAD_BELOW_CELSIUS} degrees Celsius: nothing was measured.")


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
