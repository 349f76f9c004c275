"""From keyframes to what the network sees: the one way there, for training, evaluation and prediction alike.

Shapes: B clips, T frames of a clip, N frames of all recordings, H and W height and width of the model's input.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from slowfast_ray.data import augment, clips, frames
from slowfast_ray.data.augment import Region, Variation
from slowfast_ray.data.clips import Clock
from slowfast_ray.data.config import DataConfig
from slowfast_ray.data.frames import Frames
from slowfast_ray.data.tracks import Tracks


@dataclass(frozen=True)
class Wanted:
    """Clips around keyframes, within the first and the last frame of each one's recording."""

    keyframes_B: torch.Tensor
    """int64, on the CPU, as the two below."""
    firsts_B: torch.Tensor
    lasts_B: torch.Tensor
    tracks: Tracks | None = None
    """Whom a crop follows, a row a clip."""
    variation: Variation | None = None
    """How they are varied."""


class ClipReader:
    """Reads clips out of frames, on the device that these come on; a tensor [N, H, W] are frames in memory."""

    def __init__(self, frames_: Frames | torch.Tensor, clock: Clock | None, config: DataConfig) -> None:
        self.frames = frames.of(frames_)
        self.clock = clock
        """For clips by the clock."""
        self.config = config

    def read(
        self,
        keyframes_B: torch.Tensor,
        firsts_B: torch.Tensor,
        lasts_B: torch.Tensor,
        tracks: Tracks | None = None,
        variation: Variation | None = None,
    ) -> torch.Tensor:
        """float32 [B, 1, T, H, W], normalised: the clips around keyframes, within the first and the last frame of each
        one's recording (int64 [B] each, on the CPU). `tracks`, a row a clip, says whom a crop follows.
        """
        wanted = Wanted(keyframes_B, firsts_B, lasts_B, tracks, variation)
        indices_BT = self.indices_BT(wanted)
        return self._prepared(self.frames.gather(indices_BT), wanted, indices_BT)

    def stream(self, wanted: Iterable[Wanted]) -> Iterator[torch.Tensor]:
        """What `read` gives for each of the wanted clips, which may be taken ahead of time."""
        asked: deque[tuple[Wanted, torch.Tensor]] = deque()

        def requests() -> Iterator[torch.Tensor]:
            for each in wanted:
                asked.append((each, self.indices_BT(each)))
                yield asked[-1][1]

        for clip_B1THW in self.frames.stream(requests()):
            yield self._prepared(clip_B1THW, *asked.popleft())

    def indices_BT(self, wanted: Wanted) -> torch.Tensor:
        """int64 [B, T]: the frames that clips consist of."""
        return clips.of_config(wanted.keyframes_B, wanted.firsts_B, wanted.lasts_B, self.clock, self.config)

    def _prepared(self, clip_B1THW: torch.Tensor, wanted: Wanted, indices_BT: torch.Tensor) -> torch.Tensor:
        region = None
        if wanted.tracks is not None:
            region = self._region(wanted.tracks, indices_BT - wanted.firsts_B[:, None], clip_B1THW.device)
        return augment.prepare(clip_B1THW, self.config, wanted.variation, region)

    def _region(self, tracked: Tracks, frames_BT: torch.Tensor, device: torch.device) -> Region:
        """The box with its margin, widened to the shape that the model sees, so that nobody is stretched."""
        height, width = self.frames.size_HW
        size_px_B2 = tracked.sizes_S2 * torch.tensor([width, height])
        side_px_B = size_px_B2.amax(dim=1) * (1 + self.config.person_margin)
        seen = torch.tensor([self.config.width, self.config.height])
        region_px_B2 = side_px_B[:, None] * seen / seen.min()
        return Region(
            center_BT2=tracked.centers_ST2(frames_BT).to(device, non_blocking=True),
            half_B2=(region_px_B2 / torch.tensor([width, height]) / 2).to(device, non_blocking=True),
        )
