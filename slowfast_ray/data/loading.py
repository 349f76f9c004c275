"""Processes that read clips ahead of training, of frames that are not in memory.

They are started by a fork server: a process that has imported what reading needs, and no more. A fork of the training
process itself copies whatever locks the threads of Ray, CUDA and h5py hold at that moment, and may wait for them for
ever; a spawned process imports torch anew, each time. Until the first batch of two processes, side by side on two busy
cores (n = 3): 0.5 s with forks, 10.6 s with spawned processes, 6 s with the fork server, which starts then, and 0.4 s
with it ever after: trials that share a process share the server. On idle cores it starts within 1.3 s.

Shapes: B clips, T frames of a clip, H height, W width.
"""

import logging
import multiprocessing
import os
import shutil
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from slowfast_ray.data.frames import Frames

log = logging.getLogger(__name__)

MAX_LOADERS = 8
PIECE_BYTES = 8_000_000
"""Clips of a batch come in pieces of this size or of one clip, so that what lies ready is little."""
READY_PIECES = 3
"""Of each process: two that were asked for ahead, and the one at hand."""
SHARED_MEMORY = Path("/dev/shm")  # where torch passes tensors on; containers have 64 MB of it unless told otherwise


def num_loaders(num_cpus: int | None = None) -> int:
    """How many processes shall read, for a training process that has so many CPUs; None: all that it may use."""
    if multiprocessing.current_process().daemon:  # which may have no children
        return 0
    if num_cpus is None:
        num_cpus = num_usable_cpus()
    return max(1, min(MAX_LOADERS, num_cpus - 1))


def num_usable_cpus() -> int:
    """Cores that this process may use; a batch system gives a job some of its machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def clip_bytes(frames: Frames, clip_len: int) -> int:
    """What a clip takes at native size [bytes]."""
    height, width = frames.size_HW
    return clip_len * height * width * 4


def buffer_bytes(bytes_of_clip: int, num_clips: int, num_loaders: int) -> int:
    """What streaming holds in memory itself: pieces that are ready, and a batch of `num_clips` clips [bytes]."""
    return READY_PIECES * num_loaders * max(PIECE_BYTES, bytes_of_clip) + num_clips * bytes_of_clip


class StreamedFrames:
    """Frames of which clips are read ahead by `num_loaders` processes, 0 for none, and come on a device.

    The processes start with the first use of `stream`, and end with this object or with the process that has it,
    however that ends.
    """

    def __init__(self, stored: Frames, device: torch.device, num_loaders: int) -> None:
        self._stored, self._device, self._num_loaders = stored, device, num_loaders
        self._asked = _Asked()
        self._loader: list[DataLoader[Any]] = []
        # Where an error keeps this object in a cycle, the garbage collector would take the loader's queues apart before
        # it tells the processes to end, and wait for each of them in vain; what a finalizer holds is no garbage.
        weakref.finalize(self, self._loader.clear).atexit = False
        self._turn = 0

    @property
    def size_HW(self) -> tuple[int, int]:
        """Height and width [pixels]."""
        return self._stored.size_HW

    @property
    def num_bytes(self) -> int:
        """What all of them would take in memory [bytes]."""
        return self._stored.num_bytes

    def __len__(self) -> int:
        return len(self._stored)

    def on(self, device: torch.device, num_loaders: int = 0) -> "StreamedFrames":
        """The same with other processes, whose clips come on a device."""
        return StreamedFrames(self._stored, device, num_loaders)

    def gather(self, indices_BT: torch.Tensor) -> torch.Tensor:
        """float32 [B, 1, T, H, W] at native size, read here. Raises what the frames themselves raise."""
        return self._stored.gather(indices_BT).to(self._device)

    def stream(self, requests: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """What `gather` gives for each of the requests (int64 [B, T]), in their order.

        Only the newest of several streams can be read. Raises ValueError, which says what became of a recording, and
        ChildProcessError where a process died.
        """
        self._turn += 1
        return self._stream(requests, self._turn) if self._num_loaders else map(self.gather, requests)

    def _stream(self, requests: Iterable[torch.Tensor], turn: int) -> Iterator[torch.Tensor]:
        sizes: deque[tuple[int, int]] = deque()  # clips and frames of each request on its way

        def pieces() -> Iterator[torch.Tensor]:
            for indices_BT in requests:
                sizes.append((len(indices_BT), indices_BT.shape[1]))
                yield from indices_BT.split(self._clips_in_piece(*indices_BT.shape))

        def check() -> None:
            if turn != self._turn:
                raise RuntimeError("Only the newest stream of frames can be read; make other frames with `on`.")

        check()
        asked = pieces()  # which knows this object, and is held here alone
        self._asked.pieces = weakref.ref(asked)
        arriving = self._arriving()
        for piece in arriving:
            num_clips, num_frames = sizes.popleft()
            batch = torch.empty((num_clips, 1, num_frames, *self.size_HW), device=self._device)
            filled = 0
            while True:
                batch[filled : filled + len(piece)] = piece
                filled += len(piece)
                if filled == num_clips:
                    break
                piece = next(arriving)
            yield batch
            check()

    def _clips_in_piece(self, num_clips: int, clip_len: int) -> int:
        spread = -(-num_clips // self._num_loaders)
        return max(1, min(spread, PIECE_BYTES // clip_bytes(self._stored, clip_len)))

    def _arriving(self) -> Iterator[torch.Tensor]:
        if not self._loader:
            self._loader.append(self._started())
        try:
            with _without_main():
                arriving = iter(self._loader[0])
            for piece in arriving:
                if isinstance(piece, _Failed):
                    raise ValueError(piece.message)
                yield piece
        except (RuntimeError, OSError, EOFError) as error:
            self._loader.clear()
            raise ChildProcessError(
                f"A process that reads clips from disk died ({error}); the machine may be out of memory: lower "
                "`learning.batch_size`, or ask for more memory."
            ) from error

    def _started(self) -> DataLoader[Any]:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, "slowfast_ray.data.disk_frames"])
        return DataLoader(
            _Reading(self._stored),
            batch_size=None,
            sampler=self._asked,
            num_workers=self._num_loaders,
            prefetch_factor=READY_PIECES - 1,
            persistent_workers=True,
            multiprocessing_context=context,
            collate_fn=_as_it_is,
            worker_init_fn=_end_with_parent,
            generator=torch.Generator(),  # without one of its own it draws from that of the training
        )


class _Asked:
    """What the DataLoader takes its requests from, others for each stream."""

    def __init__(self) -> None:
        self.pieces: Callable[[], Iterator[torch.Tensor] | None] = lambda: None

    def __iter__(self) -> "_Asked":
        return self

    def __next__(self) -> torch.Tensor:
        return next(self.pieces() or iter(()))


@dataclass(frozen=True)
class _Failed:
    """An error on its way to the training process, without the traceback that DataLoader adds to its message."""

    message: str


class _Reading(Dataset[Any]):
    """In the other process: from a request to clips."""

    def __init__(self, stored: Frames) -> None:
        self._stored = stored

    def __getitem__(self, indices_BT: torch.Tensor) -> torch.Tensor | _Failed:
        try:
            return self._stored.gather(indices_BT)
        except (ValueError, OSError) as error:
            return _Failed(str(error))


def _as_it_is(piece: Any) -> Any:
    return piece


def _end_with_parent(_: int) -> None:
    """A child of the fork server does not see by its parent's number that the training process was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _without_main() -> Iterator[None]:
    """Processes that are started meanwhile do not import the caller's script, which may begin to train once more."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def fit_into_shared_memory(num_bytes: int, num_cpus: int | None) -> bool:
    """Whether pieces that are ready fit into what processes share: into what is free of it, and into the part of a
    process that has `num_cpus` of the machine's, since others that train there may start at the same moment. None: it
    is alone.
    """
    if not SHARED_MEMORY.is_dir():
        return True
    there = shutil.disk_usage(SHARED_MEMORY)
    num_processes = 1 if num_cpus is None else max(1, num_usable_cpus() // num_cpus)
    return num_bytes < min(there.free, there.total // num_processes)
