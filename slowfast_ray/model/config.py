"""The size and shape of a SlowFast network: the settings of this wing, with their laws."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A SlowFast network (Feichtenhofer et al. 2019, arXiv 1812.03982) for one-channel clips."""

    depth: Literal[50, 101] = 50
    """Layers of the residual network in each pathway: 50 or 101 [layers]."""

    width: float = 0.25
    """Channels as a share of the paper's 64 (slow) and 8 (fast) at the stem [fraction, in steps of 1/8]."""

    alpha: int = 8
    """Fast frames for each slow frame [ratio]. The paper's 4x16 models have 8, its 8x8 models 4."""

    lateral_kernel: int = 5
    """Length in time of the convolutions from fast to slow [frames, odd]. 4x16 models have 5, 8x8 models 7."""

    dropout: float = 0.2
    """Chance that a feature is dropped before the classifier in training [probability]."""

    num_classes: int | None = None
    """Classes [count]. None: as many as the dataset lists."""

    def __post_init__(self) -> None:
        if self.depth not in (50, 101):
            raise ValueError(f"`model.depth` (={self.depth}) must be 50 or 101.")
        # The fast stem has 8 channels at width 1, and a channel cannot be split.
        if not 0 < self.width <= 16 or self.width * 8 != int(self.width * 8):
            raise ValueError(f"`model.width` (={self.width}) must be a multiple of 1/8 up to 16; try 0.25, 0.5 or 1.")
        if self.alpha < 1:
            raise ValueError(f"`model.alpha` (={self.alpha}) must be 1 or more; try 4 or 8.")
        if self.lateral_kernel < 1 or self.lateral_kernel % 2 == 0:
            raise ValueError(
                f"`model.lateral_kernel` (={self.lateral_kernel}) must be odd, so that slow and fast frames stay "
                "aligned; try 5 or 7."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`model.dropout` (={self.dropout}) is a probability below 1; try 0.2.")
        if self.num_classes is not None and self.num_classes < 2:
            raise ValueError(f"`model.num_classes` (={self.num_classes}) must be 2 or more, or None.")
