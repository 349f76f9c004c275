"""How a network learns: the settings of this wing, with their laws."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class LearningConfig:
    """Loss, optimiser, schedule and length of a training."""

    lr: float = 0.05
    """Learning rate at the end of warm-up, for a whole batch [per step]."""

    batch_size: int = 8
    """Clips in one step of the optimiser, over all workers [clips]."""

    num_epochs: int = 12
    """Passes over the training set [epochs]."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd (with Nesterov momentum) or adamw."""

    momentum: float = 0.9
    """Momentum of sgd; without effect under adamw [fraction]."""

    weight_decay: float = 1e-4
    """Decay of convolution and classifier weights; norms and biases do not decay [per step]."""

    warmup_fraction: float = 0.1
    """Share of all steps in which the learning rate rises linearly; a cosine falls to 0 afterwards [fraction]."""

    max_grad_norm: float = 40.0
    """Gradients longer than this are shortened to it [L2 norm]. The published SlowFast recipes clip at 40."""

    label_smoothing: float = 0.0
    """Share of each target that is spread over all classes, in training only [fraction]."""

    class_weights: Literal["none", "inverse_frequency"] = "none"
    """inverse_frequency: a clip of a rare class counts more in the training loss, with a mean weight of 1."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: activations in bfloat16 by autocast, weights in float32."""

    def __post_init__(self) -> None:
        for name, valid in (
            ("optimizer", ("sgd", "adamw")),
            ("class_weights", ("none", "inverse_frequency")),
            ("precision", ("fp32", "bf16")),
        ):
            if getattr(self, name) not in valid:
                raise ValueError(f"`learning.{name}` (={getattr(self, name)!r}) must be one of {', '.join(valid)}.")
        if not 0 < self.lr < float("inf"):
            raise ValueError(f"`learning.lr` (={self.lr}) must be above 0; try 0.05.")
        for name in ("batch_size", "num_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"`learning.{name}` (={getattr(self, name)}) must be 1 or more.")
        for name in ("momentum", "warmup_fraction", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`learning.{name}` (={getattr(self, name)}) must be 0 or more and below 1.")
        if not 0 <= self.weight_decay < float("inf"):
            raise ValueError(f"`learning.weight_decay` (={self.weight_decay}) must be 0 or more; try 1e-4.")
        if not self.max_grad_norm > 0:
            raise ValueError(f"`learning.max_grad_norm` (={self.max_grad_norm}) must be above 0; try 40.")
