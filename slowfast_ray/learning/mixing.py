"""mixup and CutMix for clips: each clip takes in a part of another one of its batch, and its loss takes in its loss.

What is mixed is drawn on the CPU from torch's own generator, whose state a checkpoint keeps. Partners are of the same
worker's share of a batch.

Shapes: B clips, T frames, H and W height and width.
"""

import math
from dataclasses import dataclass

import torch

from slowfast_ray.learning.config import LearningConfig
from slowfast_ray.learning.loss import Loss


@dataclass(frozen=True)
class Mixed:
    """Clips of which each shows two, and the targets of both."""

    clip_B1THW: torch.Tensor
    target: torch.Tensor
    """Of what each clip shows most."""
    partner_target: torch.Tensor
    partner_share: float
    """Of the other in clip and loss; at most 1/2."""

    def loss(self, loss: Loss, logits_BK: torch.Tensor, part: slice) -> torch.Tensor:
        """Float32 [B]: the loss of the clips of `part`, whose logits these are, for both of their targets."""
        loss_B = loss(logits_BK, self.target[part])
        if self.partner_share == 0:
            return loss_B
        return torch.lerp(loss_B, loss(logits_BK, self.partner_target[part]), self.partner_share)


def mix(clip_B1THW: torch.Tensor, target: torch.Tensor, config: LearningConfig) -> Mixed:
    """The clips of a batch as `config` mixes them; as they are where it does not."""
    if config.mixup == config.cutmix == 0 or len(clip_B1THW) < 2:
        return Mixed(clip_B1THW, target, target, 0.0)
    cuts = config.mixup == 0 or (config.cutmix > 0 and torch.rand(()).item() < 0.5)
    share = _draw_share(config.cutmix if cuts else config.mixup)
    # A shift by some places: nobody is their own partner, and nobody two others'.
    shift = int(torch.randint(1, len(clip_B1THW), ()))
    partner_B1THW = clip_B1THW.roll(shift, dims=0)
    if not cuts:
        mixed_B1THW = torch.lerp(clip_B1THW, partner_B1THW, share)
    else:
        top, bottom, left, right = _draw_rectangle(share, *clip_B1THW.shape[3:])
        mixed_B1THW = clip_B1THW.clone()
        mixed_B1THW[..., top:bottom, left:right] = partner_B1THW[..., top:bottom, left:right]
        # Of the pixels that were really exchanged: a rectangle is cut off at the border.
        share = (bottom - top) * (right - left) / (clip_B1THW.shape[3] * clip_B1THW.shape[4])
    return Mixed(mixed_B1THW, target, target.roll(shift, dims=0), share)


def _draw_share(alpha: float) -> float:
    """The smaller of the two parts into which Beta(alpha, alpha) divides 1."""
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    return min(share, 1 - share)


def _draw_rectangle(share: float, height: int, width: int) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of a rectangle that covers `share` of the picture, anywhere, cut off at its borders.

    Equation 2 of Yun et al. 2019: its sides are the picture's, shortened by the square root of the share.
    """
    # Rounded down: no more than half of a picture is ever another's.
    half_height, half_width = (int(side * math.sqrt(share) / 2) for side in (height, width))
    row, column = int(torch.randint(height, ())), int(torch.randint(width, ()))
    return (
        max(0, row - half_height),
        min(height, row + half_height),
        max(0, column - half_width),
        min(width, column + half_width),
    )
