"""From keyframes to what the network sees: the one way there, for training, evaluation and prediction alike.

Shapes: B clips, T frames of a clip, N frames of all recordings, H and W height and width of the model's input.
"""

from dataclasses import dataclass

import torch

from slowfast_ray.data import augment, clips
from slowfast_ray.data.augment import Region, Variation
from slowfast_ray.data.clips import Clock
from slowfast_ray.data.config import DataConfig
from slowfast_ray.data.tracks import Tracks


@dataclass(frozen=True)
class ClipReader:
    """Reads clips out of frames in memory, on the device of the frames."""

    frames_NHW: torch.Tensor
    """float32 in degrees Celsius, dead pixels repaired."""
    clock: Clock | None
    """For clips by the clock."""
    config: DataConfig

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
        indices_BT = clips.of_config(keyframes_B, firsts_B, lasts_B, self.clock, self.config)
        clip_B1THW = clips.gather(self.frames_NHW, indices_BT)
        region = None if tracks is None else self._region(tracks, indices_BT - firsts_B[:, None])
        return augment.prepare(clip_B1THW, self.config, variation, region)

    def _region(self, tracked: Tracks, frames_BT: torch.Tensor) -> Region:
        """The box with its margin, widened to the shape that the model sees, so that nobody is stretched."""
        height, width = self.frames_NHW.shape[1:]
        device = self.frames_NHW.device
        size_px_B2 = tracked.sizes_S2 * torch.tensor([width, height])
        side_px_B = size_px_B2.amax(dim=1) * (1 + self.config.person_margin)
        seen = torch.tensor([self.config.width, self.config.height])
        region_px_B2 = side_px_B[:, None] * seen / seen.min()
        return Region(
            center_BT2=tracked.centers_M2[tracked.rows_S[:, None] + frames_BT].to(device, non_blocking=True),
            half_B2=(region_px_B2 / torch.tensor([width, height]) / 2).to(device, non_blocking=True),
        )
