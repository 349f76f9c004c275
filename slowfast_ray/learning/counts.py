"""Sums of hits and losses that add up over batches and workers; divided once, at the end.

Metric names are spelled here and nowhere else: `split/quantity`.

Shapes: B clips, J classes that are looked at, K classes.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist

from slowfast_ray.learning.loss import is_multi_hot

TRAIN_LOSS = "train/loss"
TRAIN_TOP1 = "train/top1"
TRAIN_CLIPS_PER_SECOND = "train/clips_per_second"
TRAIN_LR = "train/lr"
TRAIN_MICRO_BATCH = "train/micro_batch"
EPOCH_SECONDS = "epoch/seconds"
VAL_LOSS = "val/loss"
VAL_TOP1 = "val/top1"
VAL_TOP5 = "val/top5"
VAL_MEAN_CLASS = "val/mean_class"
VAL_MEAN_AP = "val/mean_ap"
VAL_SAMPLES = "val/num_samples"
# Of a checkpoint that is scored again, from one view of each sample or from several.
EVAL_LOSS = "eval/loss"
EVAL_TOP1 = "eval/top1"
EVAL_TOP5 = "eval/top5"
EVAL_MEAN_CLASS = "eval/mean_class"
EVAL_MEAN_AP = "eval/mean_ap"
EVAL_MACRO_F1 = "eval/macro_f1"
EVAL_CALIBRATION_ERROR = "eval/calibration_error"
EVAL_SAMPLES = "eval/num_samples"
EVAL_LEAK_SHARE = "eval/leak_share"

HIGHER_IS_BETTER = {VAL_TOP1: True, VAL_TOP5: True, VAL_MEAN_CLASS: True, VAL_MEAN_AP: True, VAL_LOSS: False}
"""The metrics that a search may look for; which of them a dataset has, `metrics_for` says."""


def metrics_for(labels_are_multi: bool) -> tuple[str, ...]:
    """The metrics of HIGHER_IS_BETTER that exist where samples carry several labels, or one."""
    return VAL_TOP1, VAL_TOP5, VAL_MEAN_AP if labels_are_multi else VAL_MEAN_CLASS, VAL_LOSS


@dataclass
class Counts:
    """Sums over clips: float64 on the device of the logits, so that one number each is moved at the end."""

    num_clips: torch.Tensor
    num_top1: torch.Tensor
    """Clips whose most likely class is right [clips]."""
    num_top5: torch.Tensor
    """Clips with a right one among the five most likely classes, or among all where there are fewer [clips]."""
    loss_sum: torch.Tensor

    @staticmethod
    def zero(device: torch.device) -> "Counts":
        """Nothing counted yet."""
        return Counts(*torch.zeros(4, dtype=torch.float64, device=device))

    def add(self, logits_BK: torch.Tensor, target: torch.Tensor, loss_B: torch.Tensor) -> None:
        """Counts the clips of one batch, whose target is int64 [B] or float [B, K]."""
        self.num_clips += len(logits_BK)
        self.num_top1 += is_hit(logits_BK.argmax(dim=1, keepdim=True), target).sum()
        self.num_top5 += is_hit(logits_BK.topk(min(5, logits_BK.shape[1]), dim=1).indices, target).sum()
        self.loss_sum += loss_B.detach().double().sum()

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(self._stacked() + other._stacked()))

    def on(self, device: torch.device) -> "Counts":
        """The same on a device."""
        return Counts(*self._stacked().to(device))

    def over_workers(self) -> "Counts":
        """The sums over all workers, the same on each; unchanged where there is one."""
        if not dist.is_initialized():
            return self
        stacked = self._stacked()
        dist.all_reduce(stacked)
        return Counts(*stacked)

    def _stacked(self) -> torch.Tensor:
        return torch.stack([self.num_clips, self.num_top1, self.num_top5, self.loss_sum])

    def loss(self) -> float:
        """Mean loss a clip."""
        return float(self.loss_sum / self.num_clips)

    def top1(self) -> float:
        """Share of clips whose most likely class is right."""
        return float(self.num_top1 / self.num_clips)

    def top5(self) -> float:
        """Share of clips with a right one among the five most likely classes."""
        return float(self.num_top5 / self.num_clips)


def is_hit(class_BJ: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Whether any class of a row is a label of its clip, bool [B]. A clip without labels is never hit."""
    if is_multi_hot(target):
        return (target.gather(1, class_BJ) > 0).any(dim=1)
    return (class_BJ == target[:, None]).any(dim=1)
