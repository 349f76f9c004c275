"""What must be known of a recording before its frames can be read as they are needed, found in one pass over its file.

Which frames are identical, and what stands in for dead pixels, depends on all frames. A scan is kept in the user's
cache, under the recording's path, size and time of change, so that a machine scans each recording once.

Legend: N frames of a recording, H height, W width.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from slowfast_ray.data import recordings, repairs
from slowfast_ray.data.locks import locked
from slowfast_ray.data.long_work import LongWork
from slowfast_ray.data.recording_files import OpenRecording
from slowfast_ray.data.recordings import DEAD_BELOW_CELSIUS

log = logging.getLogger(__name__)

VERSION = 1
"""Of the files in the cache and of what is found: raised with each change, so that older ones are not read."""
PIECE_BYTES = 64_000_000
"""Frames that are in memory at once."""


@dataclass(frozen=True)
class Scan:
    """All of one recording but its frames."""

    path: Path
    """Of the recording."""
    id: str
    shape_NHW: tuple[int, int, int]
    times_N: np.ndarray | None
    """int64 [N]: when each frame was taken [ms]; None where the file does not say."""
    sensor: str | None
    digests_N: np.ndarray
    """uint64 [N]: equal for frames that were identical before any repair."""
    num_dead_pixels: int
    """Dead values, summed over frames [pixels]."""
    num_dead_frames: int
    """Frames with at least one dead value [frames]."""
    num_bytes: int
    """Size of the file when it was scanned [bytes]."""
    changed_ns: int
    """When it had been changed last [ns]."""
    cached: Path
    """The file in the cache, which holds the repairs."""


def folder() -> Path:
    """Where scans are kept."""
    return platformdirs.user_cache_path("slowfast_ray") / f"scans-v{VERSION}"


def of_all(paths: Sequence[Path], num_bytes: Sequence[int]) -> list[Scan]:
    """The scans of some recordings, from the cache where they are there; their frames take `num_bytes` in memory.

    Several processes may ask at once: each recording is scanned by one of them, and the others wait. Raises ValueError
    or OSError for a recording that cannot be used, and for a cache that cannot be written.
    """
    work, found = LongWork(log, "Scanned", sum(num_bytes)), []
    for path, size in zip(paths, num_bytes, strict=True):
        found.append(of(path))
        work.advance(size)
    if work.is_long:
        log.info("Scanned %.1f GB in %.0f s; what was found is kept in %s.",
                 sum(num_bytes) / 1e9, work.seconds, folder())  # fmt: skip
    return found


def of(path: Path) -> Scan:
    """The scan of one recording, as `of_all`."""
    if not path.is_file():
        raise FileNotFoundError(f"No such recording: {path}.")
    status = path.stat()
    of_path, of_state = (
        hashlib.sha256(text.encode()).hexdigest()[:16]
        for text in (str(path.absolute()), f"{status.st_size} {status.st_mtime_ns}")
    )
    cached = folder() / f"{of_path}-{of_state}.safetensors"
    found = _load(cached, path, status)
    if found is not None:
        return found
    with _writable(cached.parent):
        cached.parent.mkdir(parents=True, exist_ok=True)
    with locked(cached.parent / f"lock-{of_path[:2]}"):  # recordings may share one: then they wait, no more
        found = _load(cached, path, status)
        if found is None:
            # Scans of what the recording was before stay: machines that share a home may have other recordings there.
            _write(cached, *_found_in(path))
    found = found or _load(cached, path, status)
    if found is None:
        raise OSError(f"The scan of {path} was written to {cached} and cannot be read; is its disk full?")
    return found


def _found_in(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and texts of a scan's file."""
    with OpenRecording(path) as file:
        num_frames, height, width = file.shape_NHW
        digests, dead, bad = [], [], []
        for first, frames_NHW in _pieces(file):
            bad.append(first + np.flatnonzero(recordings.not_finite_N(frames_NHW)))
            dead.append(first * height * width + np.flatnonzero(frames_NHW < DEAD_BELOW_CELSIUS))
            digests.append(recordings.digests(path.stem, frames_NHW, first))
        recordings.check_finite(path, np.concatenate(bad), num_frames)
        dead_R = np.concatenate(dead)
        del dead  # as much again
        recordings.check_some_alive(path, is_dead=len(dead_R) == num_frames * height * width)
        repaired = repairs.find(dead_R, file.shape_NHW, _pieces(file))
        times_N, sensor = file.times_N(), file.sensor()
    tensors = {"digests_N": np.concatenate(digests), **vars(repaired)}
    if times_N is not None:
        tensors["times_N"] = times_N
    facts = {"shape_NHW": [num_frames, height, width], "sensor": sensor, "num_dead_frames": repaired.num_frames}
    facts["has_times"] = times_N is not None
    return tensors, {"facts": json.dumps(facts)}


def _pieces(file: OpenRecording) -> Iterator[tuple[int, np.ndarray]]:
    """All frames in pieces, none of HDF5's chunks in two of them."""
    num_frames, height, width = file.shape_NHW
    num_chunks = PIECE_BYTES // (file.num_in_chunk * height * width * 4)
    step = max(1, num_chunks) * file.num_in_chunk
    for first in range(0, num_frames, step):
        yield first, file.frames(first, min(first + step, num_frames))


def _write(cached: Path, tensors: dict[str, np.ndarray], texts: dict[str, str]) -> None:
    """The file appears whole, or not at all."""
    with _writable(cached.parent), tempfile.TemporaryDirectory(prefix=".scan-", dir=cached.parent) as workshop:
        made = Path(workshop) / cached.name
        save_file(tensors, made, texts)
        made.replace(cached)


@contextmanager
def _writable(place: Path) -> Iterator[None]:
    """Says what a cache that cannot be written is for."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"Of recordings that are read as needed, a scan of each is kept in {place}, which cannot be written "
            f"({error}); name another place by the variable XDG_CACHE_HOME, or raise `data.memory_budget` so that all "
            "frames are kept in memory."
        ) from error


def _load(cached: Path, path: Path, status: os.stat_result) -> Scan | None:
    """None where there is no such file, or a damaged one."""
    if not cached.is_file():
        return None
    try:
        with safe_open(cached, framework="numpy") as file:
            facts = json.loads(file.metadata()["facts"])
            return Scan(
                path=path,
                id=path.stem,
                shape_NHW=tuple(facts["shape_NHW"]),
                times_N=file.get_tensor("times_N") if facts["has_times"] else None,
                sensor=facts["sensor"],
                digests_N=file.get_tensor("digests_N"),
                num_dead_pixels=file.get_slice("pixels_R").get_shape()[0],
                num_dead_frames=facts["num_dead_frames"],
                num_bytes=status.st_size,
                changed_ns=status.st_mtime_ns,
                cached=cached,
            )
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        log.warning("The scan %s is damaged (%s); %s is scanned again.", cached, error, path)
        return None


class StoredRepairs:
    """The repairs of a scan, read from its file a few frames at a time."""

    def __init__(self, cached: Path) -> None:
        try:
            self._file = safe_open(cached, framework="numpy")
            self._offsets = self._file.get_slice("offsets")
        except (OSError, SafetensorError) as error:
            raise ValueError(f"The scan {cached} is gone or damaged ({error}); start again.") from error

    def apply(self, frames_NHW: np.ndarray, first: int) -> None:
        """Writes the repairs into frames of the recording, from its frame `first` on."""
        offsets: np.ndarray = self._offsets[first : first + len(frames_NHW) + 1]
        start, end = int(offsets[0]), int(offsets[-1])
        if start < end:
            frame_R = np.repeat(np.arange(len(frames_NHW)), np.diff(offsets))
            pixels_R = self._file.get_slice("pixels_R")[start:end]
            frames_NHW.reshape(len(frames_NHW), -1)[frame_R, pixels_R] = self._file.get_slice("values_R")[start:end]
