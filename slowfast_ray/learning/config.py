"""How a network learns: the settings of this wing, with their laws."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class LearningConfig:
    """Loss, optimiser, schedule and length of a training."""

    lr: float = 0.1
    """Learning rate of the classifier at the end of warm-up, for a whole batch [per step]."""

    lr_batch: int | None = None
    """Batch that lr is meant for [clips]: another batch_size learns at lr * batch_size / lr_batch (Goyal et al. 2017,
    arXiv 1706.02677). None: at lr as it stands."""

    backbone_lr: float = 1.0
    """How fast all but the classifier learns [factor of lr]. Pretrained weights want less, 0.1 or so."""

    layer_decay: float = 1.0
    """How much slower each stage learns than the next one towards the classifier [factor]: 1 is as fast, 0.7 usual
    (Clark et al. 2020, arXiv 2003.10555)."""

    batch_size: int = 8
    """Clips in one step of the optimiser, over all workers [clips]."""

    micro_batch: int | None = None
    """Clips that go through the network at once on each worker; gradients add up until the batch is whole [clips].
    None: its whole share. On a GPU that runs out of memory it halves by itself."""

    num_epochs: int = 30
    """Passes over the training set [epochs]."""

    early_stop: int | None = None
    """End after so many epochs without a better value of the metric [epochs]. None: never."""

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

    ema_decay: float = 0.98
    """Evaluate and keep an average of the weights over the steps, which forgets by this factor a step; shorter in the
    first steps [fraction]. 0 is off."""

    precise_batch_norm: int = 0
    """Training batches over which BatchNorm's statistics are taken anew before each evaluation, as plain means (Wu and
    Johnson 2021, arXiv 2105.07576) [batches]. 0: the running means of training."""

    mixup: float = 0.0
    """alpha of mixup (Zhang et al. 2018, arXiv 1710.09412): each clip is blended with another of its batch, and so are
    their losses. 0 is off, 0.2 mild [parameter of a Beta distribution]."""

    cutmix: float = 0.0
    """alpha of CutMix (Yun et al. 2019, arXiv 1905.04899): a rectangle of all frames comes from another clip. With
    mixup, each batch takes one of the two by the toss of a coin [parameter of a Beta distribution]."""

    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    """What training lowers. focal (Lin et al. 2017, arXiv 1708.02002): clips that are right already count less."""

    focal_gamma: float = 2.0
    """How much less, under focal: by (1 - probability of the truth) to this power. 2 is the paper's, 0 is cross_entropy
    [exponent]."""

    label_smoothing: float = 0.0
    """Share of each target that is spread over all classes, in training only [fraction]."""

    class_weights: Literal["none", "inverse_frequency", "effective_number"] = "none"
    """A clip of a rare class counts more in the training loss, with a mean weight of 1: by 1 / frequency, or milder by
    effective_number (Cui et al. 2019, arXiv 1901.05555)."""

    effective_number_beta: float = 0.99
    """How far effective_number goes: 0 weighs all classes alike, towards 1 it becomes inverse_frequency [fraction]."""

    logit_adjustment: float = 0.0
    """tau of Menon et al. 2021 (arXiv 2007.07314): in training, tau * log(frequency) is added to the logits, so that
    without it the network leans towards rare classes. 0 is off, 1 is the paper's [factor]."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """bf16 or fp16: activations in 16 bits by autocast, weights in float32; fp16 scales its gradients, and needs a
    GPU."""

    def __post_init__(self) -> None:
        for name in ("focal_gamma", "logit_adjustment"):
            if getattr(self, name) > 100:
                raise ValueError(f"`learning.{name}` (={getattr(self, name)}) must be at most 100; try 1 or 2.")
        for name, valid in (
            ("optimizer", ("sgd", "adamw")),
            ("loss", ("cross_entropy", "focal")),
            ("class_weights", ("none", "inverse_frequency", "effective_number")),
            ("precision", ("fp32", "bf16", "fp16")),
        ):
            if getattr(self, name) not in valid:
                raise ValueError(f"`learning.{name}` (={getattr(self, name)!r}) must be one of {', '.join(valid)}.")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"`learning.lr` (={self.lr}) must be above 0; try 0.1.")
        for name in ("batch_size", "num_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"`learning.{name}` (={getattr(self, name)}) must be 1 or more.")
        for name in ("lr_batch", "micro_batch", "early_stop"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"`learning.{name}` (={getattr(self, name)}) must be 1 or more, or None.")
        for name in ("backbone_lr", "layer_decay"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(
                    f"`learning.{name}` (={getattr(self, name)}) must be above 0 and at most 1; what shall not learn "
                    "at all is frozen by `model.freeze_stages`."
                )
        if self.precise_batch_norm < 0:
            raise ValueError(f"`learning.precise_batch_norm` (={self.precise_batch_norm}) must be 0 or more; try 20.")
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) <= 100:
                raise ValueError(f"`learning.{name}` (={getattr(self, name)}) must be within 0..100; try 0.2.")
        for name in ("momentum", "warmup_fraction", "label_smoothing", "effective_number_beta", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`learning.{name}` (={getattr(self, name)}) must be 0 or more and below 1.")
        for name, example in (("weight_decay", "1e-4"), ("focal_gamma", "2"), ("logit_adjustment", "1")):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"`learning.{name}` (={getattr(self, name)}) must be 0 or more; try {example}.")
        if not self.max_grad_norm > 0:
            raise ValueError(f"`learning.max_grad_norm` (={self.max_grad_norm}) must be above 0; try 40.")

    @property
    def peak_lr(self) -> float:
        """Learning rate of the classifier at the end of warm-up, scaled with the batch [per step]."""
        return self.lr if self.lr_batch is None else self.lr * self.batch_size / self.lr_batch

    def without_effect(self) -> list[str]:
        """Settings that were changed and do nothing beside the others, each with its reason, for a warning."""
        plain = LearningConfig()
        reasons = {
            "momentum": self.optimizer != "sgd" and f"learning.optimizer is {self.optimizer}",
            "focal_gamma": self.loss != "focal" and f"learning.loss is {self.loss}",
            "effective_number_beta": self.class_weights != "effective_number"
            and f"learning.class_weights is {self.class_weights}",
        }
        return [
            f"`learning.{name}` (={getattr(self, name)}) has no effect, since {reason}."
            for name, reason in reasons.items()
            if reason and getattr(self, name) != getattr(plain, name)
        ]
