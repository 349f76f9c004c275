"""Several looks at one validation sample: clips at other times around its keyframe, and three crops of each.

A network that averages what it says of them is right somewhat more often (Feichtenhofer et al. 2019, arXiv 1812.03982,
average 10 clips with 3 crops each of a whole video). Here a clip is about its keyframe, so that its views stay near it.

Legend: B clips, S samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from slowfast_ray.data import clips, splits
from slowfast_ray.data.clips import Clock
from slowfast_ray.data.config import DataConfig
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.data.samples import Positions

MAX_CLIPS = 10
MAX_SHIFT = 0.25
"""Farther from its keyframe than this, a clip would be about other moments for the most part [fraction of the clip's
window]."""


@dataclass(frozen=True)
class View:
    """One look at a sample; as it stands, the one that validation during training has."""

    clip_shift: float = 0.0
    """How far the clip's middle lies after the keyframe [fraction of the clip's window]."""
    crop: float | None = None
    """Where along the longer side of what the model sees a crop lies: -1 at its beginning, 0 in the middle, 1 at its
    end. None: no crop, but the whole."""

    def moved(
        self, keyframes_B: torch.Tensor, firsts_B: torch.Tensor, lasts_B: torch.Tensor, clock: Clock | None,
        config: DataConfig,
    ) -> torch.Tensor:  # fmt: skip
        """int64 [B]: the frames that stand in for the keyframes, each within firsts to lasts of its recording."""
        shift = round(self.clip_shift * config.window)
        if clock is None:
            return torch.minimum(torch.maximum(keyframes_B + shift, firsts_B), lasts_B)
        if shift == 0:  # another frame may have been taken at the same time
            return keyframes_B
        return clock.nearest(clock.axis_N[keyframes_B][:, None] + shift, firsts_B, lasts_B)[:, 0]


def views(num_clips: int, num_crops: int) -> tuple[View, ...]:
    """Every crop of every clip: clips evenly from MAX_SHIFT before the keyframe to MAX_SHIFT after it, crops at the
    beginning, in the middle and at the end. Raises ValueError for other numbers than 1 to MAX_CLIPS, and 1 or 3.
    """
    if not 1 <= num_clips <= MAX_CLIPS:
        raise ValueError(f"`clips` (={num_clips}) must be within 1..{MAX_CLIPS}; try 3.")
    if num_crops not in (1, 3):
        raise ValueError(f"`crops` (={num_crops}) must be 1 (the whole frame) or 3 (beginning, middle, end); try 3.")
    shifts = np.linspace(-MAX_SHIFT, MAX_SHIFT, num_clips).tolist() if num_clips > 1 else [0.0]
    crops = (-1.0, 0.0, 1.0) if num_crops == 3 else (None,)
    return tuple(View(shift, crop) for shift in shifts for crop in crops)


def leaks_of(data: Dataset, chosen: Sequence[View]) -> np.ndarray:
    """bool [S], one for each validation sample: whether any of its views spans a moment that a training clip spans.

    Shifted clips reach further than what a split was purged for; training clips stand where they stood in training.
    """
    keyframes_S, firsts_S, lasts_S = Positions.of(data.labelled.samples, data.source.timeline).as_tensors()
    spans = [
        clips.spans(
            view.moved(keyframes_S, firsts_S, lasts_S, data.clock, data.config),
            firsts_S, lasts_S, data.clock, data.config,
        )
        for view in chosen
    ]  # fmt: skip
    first_S, last_S = data.pool.firsts_S.copy(), data.pool.lasts_S.copy()
    val = data.members.val
    first_S[val] = torch.stack([first for first, _ in spans]).amin(dim=0).numpy()[val]
    last_S[val] = torch.stack([last for _, last in spans]).amax(dim=0).numpy()[val]
    pool = replace(data.pool, firsts_S=first_S, lasts_S=last_S)
    return splits.sharing(pool, data.source.timeline, val, data.members.train)
