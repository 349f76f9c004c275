"""The size and shape of a SlowFast network, where its weights come from, and what of it learns: the settings of this
wing, with their laws.
"""

from dataclasses import dataclass
from typing import Literal, get_args

Depth = Literal[50, 101]
SlowFrames = Literal["every", "linspace"]
BatchNorm = Literal["train", "frozen_statistics", "frozen"]

NUM_STAGES = 5
"""Parts below the classifier: the stem and four residual stages, res2 to res5 in the paper's words."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A SlowFast network (Feichtenhofer et al. 2019, arXiv 1812.03982)."""

    depth: Depth = 50
    """Layers of the residual network in each pathway: 50 or 101 [layers]."""

    width: float = 0.25
    """Channels as a share of the paper's 64 (slow) and 8 (fast) at the stem [fraction, in steps of 1/8]."""

    channels: Literal[1, 3] = 1
    """Colours of a clip: 1, or 3 for a network as others published it [channels]."""

    alpha: int = 8
    """Fast frames for each slow frame [ratio]. The paper's 4x16 models have 8, its 8x8 models 4."""

    slow_frames: SlowFrames = "every"
    """Which frames the slow pathway sees. every: each alpha-th from the first, as MMAction2 does. linspace: as many,
    spread from the first to the last, as PySlowFast and pytorchvideo do."""

    lateral_kernel: int = 5
    """Length in time of the convolutions from fast to slow [frames, odd]. 4x16 models have 5, 8x8 models 7."""

    lateral_norm: bool = True
    """Whether BatchNorm and ReLU follow these convolutions. True in PySlowFast, pytorchvideo and the paper; False in
    most of MMAction2."""

    dropout: float = 0.0
    """Chance that a feature is dropped before the classifier in training [probability]."""

    num_classes: int | None = None
    """Classes [count]. None: as many as the dataset lists."""

    weights: str | None = None
    """Where training starts from [path]: a checkpoint of MMAction2, PySlowFast, pytorchvideo, a Caffe2 .pkl of
    PySlowFast's zoo, or one of ours. None: from scratch. On the command line it also sets the architecture."""

    weights_partial: bool = False
    """Accept weights that lack more than the classifier, or hold more than the network."""

    freeze_stages: int = 0
    """Stages that do not learn, from the input up: 1 is the stem, 5 all but the classifier [count]."""

    unfreeze_every: int | None = None
    """One more of the frozen stages learns each time so many epochs are done, from the output down [epochs]. None:
    frozen stages stay so."""

    batch_norm: BatchNorm = "train"
    """train: statistics of the batch. frozen_statistics: those of the weights that it started from, while scale and
    offset learn. frozen: nothing of a norm changes."""

    gradient_checkpointing: bool = False
    """Compute each stage again on the way back instead of keeping what it computed: less memory, about a third more
    time, the same result."""

    def __post_init__(self) -> None:
        for name, valid in (
            ("depth", Depth),
            ("channels", Literal[1, 3]),
            ("slow_frames", SlowFrames),
            ("batch_norm", BatchNorm),
        ):
            if getattr(self, name) not in get_args(valid):
                shown = " or ".join(map(str, get_args(valid)))
                raise ValueError(f"`model.{name}` (={getattr(self, name)}) must be {shown}.")
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
        if not 0 <= self.freeze_stages <= NUM_STAGES:
            raise ValueError(
                f"`model.freeze_stages` (={self.freeze_stages}) must be within 0..{NUM_STAGES}: the classifier always "
                "learns, or nothing would."
            )
        if self.unfreeze_every is not None and self.unfreeze_every < 1:
            raise ValueError(f"`model.unfreeze_every` (={self.unfreeze_every}) must be 1 or more, or None; try 2.")

    def without_effect(self) -> list[str]:
        """Settings that were changed and do nothing beside the others, each with its reason, for a warning."""
        found = []
        if self.unfreeze_every is not None and self.freeze_stages == 0:
            found.append(
                f"`model.unfreeze_every` (={self.unfreeze_every}) has no effect, since model.freeze_stages is 0."
            )
        if self.weights_partial and self.weights is None:
            found.append("`model.weights_partial` (=True) has no effect, since model.weights is None.")
        return found
