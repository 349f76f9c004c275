"""Opens the file of a recording, checks its schema, and reads its frames and their times, piece by piece.

A recording is one HDF5 file with `frames`, float [N, H, W] in degrees Celsius, and, where they are known, `timestamps`,
[N] in milliseconds, and the attribute `mac_address`, which tells sensors apart. This is the only module that reads
HDF5.

Shapes: N frames, H height, W width.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from slowfast_ray.data.annotations import LARGEST_NUMBER


class OpenRecording:
    """A file whose frames are read piece by piece, as they are; open until `close`, or the end of a `with`.

    Raises FileNotFoundError if there is no file; and ValueError, now or later, if it is no readable HDF5 file, lacks
    `frames`, or holds frames or timestamps of another shape or type.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"No such recording: {path}.")
        self.path = path
        with _named(path):
            self._file = h5py.File(path)
            try:
                self._frames = _checked_frames(self._file, path)
            except BaseException:
                self._file.close()
                raise
        self.shape_NHW: tuple[int, int, int] = self._frames.shape
        """Frames, height and width."""
        chunks = self._frames.chunks
        self.num_in_chunk: int = 1 if chunks is None else chunks[0]
        """Neighbours that HDF5 decodes together [frames]."""

    def __enter__(self) -> "OpenRecording":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives the file back; nothing can be read any more."""
        self._file.close()

    def frames(self, first: int, end: int) -> np.ndarray:
        """float32 [end - first, H, W] in degrees Celsius: a stretch of the recording, dead pixels included."""
        with _named(self.path):
            return self._frames[first:end].astype(np.float32, copy=False)

    def decoded_bytes(self, num_frames: int) -> int:
        """What HDF5 decodes at least in order to give so many neighbours [bytes]; 0 where it need not decode."""
        chunks = self._frames.chunks
        if chunks is None or not self._frames.id.get_create_plist().get_nfilters():
            return 0
        wanted = (min(num_frames, self.shape_NHW[0]), *self.shape_NHW[1:])
        touched = math.prod(-(-side // of_chunk) for side, of_chunk in zip(wanted, chunks, strict=True))
        return touched * math.prod(chunks) * self._frames.dtype.itemsize

    def times_N(self) -> np.ndarray | None:
        """int64 [N]: when each frame was taken [ms]; None where the file does not say."""
        with _named(self.path):
            return _read_times(self._file, self.path, self.shape_NHW[0])

    def sensor(self) -> str | None:
        """Which sensor recorded; None where the file does not say."""
        with _named(self.path):
            sensor = self._file.attrs.get("mac_address")
        return None if sensor is None else str(sensor)


def shape_NHW(path: Path) -> tuple[int, int, int]:
    """Frames, height and width of a recording, from the file's header. Raises what OpenRecording raises."""
    with OpenRecording(path) as file:
        return file.shape_NHW


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What HDF5 raises for files that are truncated, foreign or damaged becomes one ValueError that names the file."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, TypeError) as error:
        raise ValueError(
            f"The recording {path} cannot be read as HDF5 ({error}); it may be truncated: copy it again."
        ) from error


def _checked_frames(file: h5py.File, path: Path) -> h5py.Dataset:
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
    return frames


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
