"""Where frames are: the one thing that clips are gathered from, whether frames fit into memory or not.

Shapes: N frames of all recordings together, H height, W width, B clips, T frames of a clip.
"""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F

from slowfast_ray.data import clips, memory

MAX_GPU_SHARE = 0.25
"""Frames that take more of a GPU's memory stay in that of the machine, and their clips are copied."""


@runtime_checkable
class Frames(Protocol):
    """float32 frames in degrees Celsius, dead pixels repaired, one recording after the other."""

    @property
    def size_HW(self) -> tuple[int, int]:
        """Height and width [pixels]."""
        ...

    @property
    def num_bytes(self) -> int:
        """What all of them take as float32 [bytes]."""
        ...

    def __len__(self) -> int:
        """N."""
        ...

    def on(self, device: torch.device, num_loaders: int = 0) -> "Frames":
        """The same, whose clips come on a device; `num_loaders` processes read ahead what `stream` asks for, where
        frames are not in memory.
        """
        ...

    def gather(self, indices_BT: torch.Tensor) -> torch.Tensor:
        """float32 [B, 1, T, H, W] at native size, a copy: the frames at these positions (int64)."""
        ...

    def stream(self, requests: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """What `gather` gives for each of the requests, in their order; requests may be taken ahead of time."""
        ...


@dataclass(frozen=True)
class MemoryFrames:
    """Frames in memory. Pickled, they are one numpy array, which travels out of band under pickle's protocol 5."""

    frames_NHW: torch.Tensor
    """On any device; never written, since it may be memory that others share."""
    device: torch.device | None = None
    """Where clips go; None is where the frames are."""

    @property
    def size_HW(self) -> tuple[int, int]:
        """Height and width [pixels]."""
        return self.frames_NHW.shape[1], self.frames_NHW.shape[2]

    @property
    def num_bytes(self) -> int:
        """What all of them take [bytes]."""
        return self.frames_NHW.nbytes

    def __len__(self) -> int:
        return len(self.frames_NHW)

    def on(self, device: torch.device, num_loaders: int = 0) -> "MemoryFrames":
        """The same on a device, or, where they are many for a GPU, with clips that are copied to it."""
        moves = device.type == "cuda" and self.frames_NHW.device.type == "cpu"
        if moves and self.num_bytes > MAX_GPU_SHARE * memory.of_device(device):
            return MemoryFrames(self.frames_NHW, device)
        return MemoryFrames(self.frames_NHW.to(device))

    def gather(self, indices_BT: torch.Tensor) -> torch.Tensor:
        """float32 [B, 1, T, H, W] at native size."""
        clip_B1THW = clips.gather(self.frames_NHW, indices_BT)
        return clip_B1THW if self.device is None else clip_B1THW.to(self.device)

    def stream(self, requests: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """What `gather` gives for each of the requests."""
        return map(self.gather, requests)

    def __reduce__(self) -> tuple[object, tuple[np.ndarray]]:
        return _of_array, (self.frames_NHW.numpy(force=True),)


def _of_array(frames_NHW: np.ndarray) -> MemoryFrames:
    with warnings.catch_warnings():
        # An array in shared memory is read-only, of which torch warns; nothing here writes.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return MemoryFrames(torch.from_numpy(frames_NHW))


@dataclass(frozen=True)
class ResizedFrames:
    """Frames whose clips come in another size."""

    frames: Frames
    size_HW: tuple[int, int]

    @property
    def num_bytes(self) -> int:
        """What all of them would take [bytes]."""
        return len(self) * self.size_HW[0] * self.size_HW[1] * 4

    def __len__(self) -> int:
        return len(self.frames)

    def on(self, device: torch.device, num_loaders: int = 0) -> "ResizedFrames":
        """The same on a device."""
        return ResizedFrames(self.frames.on(device, num_loaders), self.size_HW)

    def gather(self, indices_BT: torch.Tensor) -> torch.Tensor:
        """float32 [B, 1, T, H, W] in the other size."""
        return self._sized(self.frames.gather(indices_BT))

    def stream(self, requests: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """What `gather` gives for each of the requests."""
        return map(self._sized, self.frames.stream(requests))

    def _sized(self, clip_B1THW: torch.Tensor) -> torch.Tensor:
        return resized(clip_B1THW[:, 0].flatten(0, 1), self.size_HW).unflatten(0, clip_B1THW.shape[::2][:2])[:, None]


def resized(frames_NHW: torch.Tensor, size_HW: tuple[int, int]) -> torch.Tensor:
    """Frames in another size; as they are where they have it."""
    if frames_NHW.shape[1:] == size_HW:
        return frames_NHW
    return F.interpolate(frames_NHW[:, None], size_HW, mode="bilinear", align_corners=False, antialias=True)[:, 0]


def of(frames: Frames | torch.Tensor) -> Frames:
    """Frames, as they are; a tensor [N, H, W] are frames in memory."""
    return MemoryFrames(frames) if isinstance(frames, torch.Tensor) else frames
