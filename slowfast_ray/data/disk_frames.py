"""Frames that stay on disk: each clip is read from its recording when it is asked for, and repaired on the way.

Shapes: N frames of a recording, H height, W width, B clips, T frames of a clip.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from slowfast_ray.data.loading import StreamedFrames
from slowfast_ray.data.recording_files import OpenRecording
from slowfast_ray.data.scans import Scan, StoredRepairs

MAX_OPEN = 16
"""Files that a process keeps open; the one used longest ago is closed for another."""
SPAN_BYTES = 32_000_000
"""Of a stretch that is read at once: a clip of frames that lie far apart needs few of many."""
CLOSE_FRAMES = 8
"""Frames with fewer between them are read in one stretch."""
CLIP_FRAMES = 64
"""Of the clip that `slow_chunks` looks at, and of chunks that suit clips."""
SLOW_SHARE = 4
"""From so many times what a clip holds on, most of its time is decoding."""


@dataclass(frozen=True)
class _Stored:
    """One recording as it was scanned."""

    path: Path
    num_bytes: int
    changed_ns: int
    repairs: Path | None
    """The scan's file; None without any dead pixel."""


class DiskFrames:
    """All frames of some recordings, in their order, by their scans. Pickled, it is names and numbers."""

    def __init__(self, scans: Sequence[Scan]) -> None:
        lengths = [scan.shape_NHW[0] for scan in scans]
        self._stored = tuple(
            _Stored(scan.path, scan.num_bytes, scan.changed_ns, scan.cached if scan.num_dead_pixels else None)
            for scan in scans
        )
        self._ends = np.cumsum(lengths)
        self._firsts = self._ends - lengths
        self._size_HW = (scans[0].shape_NHW[1], scans[0].shape_NHW[2])

    @property
    def size_HW(self) -> tuple[int, int]:
        """Height and width [pixels]."""
        return self._size_HW

    @property
    def num_bytes(self) -> int:
        """What all of them would take in memory [bytes]."""
        return len(self) * self._size_HW[0] * self._size_HW[1] * 4

    def __len__(self) -> int:
        return int(self._ends[-1])

    def on(self, device: torch.device, num_loaders: int = 0) -> "StreamedFrames":
        """The same, whose clips come on a device, read ahead by other processes."""
        return StreamedFrames(self, device, num_loaders)

    def gather(self, indices_BT: torch.Tensor) -> torch.Tensor:
        """float32 [B, 1, T, H, W] at native size, on the CPU.

        Raises ValueError or OSError, which names the recording, where it is gone, damaged, or has changed.
        """
        wanted = indices_BT.reshape(-1).cpu().numpy()
        recording = np.searchsorted(self._ends, wanted, side="right")
        frames = np.empty((len(wanted), *self._size_HW), dtype=np.float32)
        for i in np.unique(recording):
            mine = np.flatnonzero(recording == i)
            positions, which = np.unique(wanted[mine] - self._firsts[i], return_inverse=True)
            frames[mine] = _opened(self._stored[i]).frames(positions)[which]
        return torch.from_numpy(frames).view(*indices_BT.shape, *self._size_HW)[:, None]

    def stream(self, requests: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """What `gather` gives for each of the requests."""
        return map(self.gather, requests)


def slow_chunks(paths: Sequence[Path]) -> str | None:
    """What makes reading of clips slow, and what to do; None where nothing does.

    HDF5 decodes whole chunks. Those that it chooses itself are long in time and small in the frame, so that a clip
    needs all of them around it.
    """
    slow: list[tuple[int, Path, tuple[int, int, int]]] = []
    for path in paths:
        with OpenRecording(path) as file:
            num_bytes = file.decoded_bytes(CLIP_FRAMES)
            if num_bytes > SLOW_SHARE * 4 * CLIP_FRAMES * math.prod(file.shape_NHW[1:]):
                slow.append((num_bytes, path, file.shape_NHW))
    if not slow:
        return None
    num_bytes, path, (_, height, width) = max(slow)
    chunks = f"chunks=({CLIP_FRAMES}, {height}, {width})"
    return (
        f"{len(slow)} of {len(paths)} recordings are read slowly, since their chunks are long: for a clip of "
        f"{CLIP_FRAMES} frames, {4e-6 * CLIP_FRAMES * height * width:.3g} MB, HDF5 decodes {num_bytes / 1e6:.3g} MB of "
        f'{path}; write them again by file.create_dataset("frames", data=frames, {chunks}, compression="lzf"), as in '
        "docs/your_data.md."
    )


class _Opened:
    """A recording that is open."""

    def __init__(self, stored: _Stored) -> None:
        self._file = OpenRecording(stored.path)
        self._stored = stored
        self._check_unchanged()
        self._repairs = None if stored.repairs is None else StoredRepairs(stored.repairs)
        _, height, width = self._file.shape_NHW
        self._longest = max(1, SPAN_BYTES // (height * width * 4))
        self._apart = max(CLOSE_FRAMES, self._file.num_in_chunk)

    def frames(self, positions: np.ndarray) -> np.ndarray:
        """float32 [len(positions), H, W], repaired; positions ascend."""
        found = np.empty((len(positions), *self._file.shape_NHW[1:]), dtype=np.float32)
        start = 0
        while start < len(positions):
            end = start + 1
            while (
                end < len(positions)
                and positions[end] - positions[end - 1] <= self._apart
                and positions[end] - positions[start] < self._longest
            ):
                end += 1
            first, last = int(positions[start]), int(positions[end - 1])
            stretch_NHW = self._file.frames(first, last + 1)
            if self._repairs is not None:
                self._repairs.apply(stretch_NHW, first)
            found[start:end] = stretch_NHW[positions[start:end] - first]
            start = end
        self._check_unchanged()  # HDF5 gives zeros where a file was cut while it was open
        return found

    def _check_unchanged(self) -> None:
        status = self._stored.path.stat()
        if (status.st_size, status.st_mtime_ns) != (self._stored.num_bytes, self._stored.changed_ns):
            raise ValueError(
                f"A recording must stay as it is while it is read, but {self._stored.path} has changed since it was "
                "scanned; start again."
            )


@lru_cache(maxsize=MAX_OPEN)
def _opened(stored: _Stored) -> _Opened:
    return _Opened(stored)
