"""Confusion counts and loss sums that add up over batches and workers; divided once, at the end.

Metric names are spelled here and nowhere else: `split/quantity`.

Shapes: B clips, K classes.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F

TRAIN_LOSS = "train/loss"
TRAIN_TOP1 = "train/top1"
TRAIN_CLIPS_PER_SECOND = "train/clips_per_second"
TRAIN_LR = "train/lr"
EPOCH_SECONDS = "epoch/seconds"
VAL_LOSS = "val/loss"
VAL_TOP1 = "val/top1"
VAL_TOP5 = "val/top5"
VAL_MEAN_CLASS = "val/mean_class"
VAL_SAMPLES = "val/num_samples"

HIGHER_IS_BETTER = {VAL_TOP1: True, VAL_TOP5: True, VAL_MEAN_CLASS: True, VAL_LOSS: False}
"""The metrics that a search may look for."""


@dataclass
class Counts:
    """Sums over clips: float64 on the device of the logits, so that one number each is moved at the end."""

    confusion_KK: torch.Tensor
    """True class (row) by predicted class (column) [clips]."""
    num_top5: torch.Tensor
    """Clips whose class is among the five most likely [clips]."""
    loss_sum: torch.Tensor

    @staticmethod
    def zero(num_classes: int, device: torch.device) -> "Counts":
        """Nothing counted yet."""
        kind = {"dtype": torch.float64, "device": device}
        return Counts(torch.zeros(num_classes, num_classes, **kind), torch.zeros((), **kind), torch.zeros((), **kind))

    def add(self, logits_BK: torch.Tensor, label_B: torch.Tensor, loss_B: torch.Tensor) -> None:
        """Counts the clips of one batch."""
        num_classes = logits_BK.shape[1]
        predicted_B = logits_BK.argmax(dim=1)
        flat_B = label_B * num_classes + predicted_B
        self.confusion_KK += torch.bincount(flat_B, minlength=num_classes**2).view(num_classes, num_classes)
        top5_B5 = logits_BK.topk(min(5, num_classes), dim=1).indices
        self.num_top5 += (top5_B5 == label_B[:, None]).sum()
        self.loss_sum += loss_B.detach().double().sum()

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.confusion_KK + other.confusion_KK, self.num_top5 + other.num_top5, self.loss_sum + other.loss_sum
        )

    def over_workers(self) -> "Counts":
        """The sums over all workers, the same on each; unchanged where there is one."""
        if not dist.is_initialized():
            return self
        flat = torch.cat([self.confusion_KK.flatten(), self.num_top5.view(1), self.loss_sum.view(1)])
        dist.all_reduce(flat)
        return Counts(flat[:-2].view_as(self.confusion_KK), flat[-2], flat[-1])

    @property
    def num_clips(self) -> int:
        """Clips counted."""
        return int(self.confusion_KK.sum())

    def loss(self) -> float:
        """Mean loss a clip."""
        return float(self.loss_sum) / self.num_clips

    def top1(self) -> float:
        """Share of clips whose most likely class is right."""
        return float(self.confusion_KK.diagonal().sum()) / self.num_clips

    def top5(self) -> float:
        """Share of clips whose class is among the five most likely, or among all where there are fewer."""
        return float(self.num_top5) / self.num_clips

    def mean_class(self) -> float:
        """Recall averaged over the classes that occur among the labels (balanced accuracy)."""
        per_class_K = self.confusion_KK.sum(dim=1)
        present_K = per_class_K > 0
        return float((self.confusion_KK.diagonal()[present_K] / per_class_K[present_K]).mean())


def validation_metrics(counts: Counts) -> dict[str, float]:
    """The metrics of a validation pass; its loss is the plain cross entropy, so that trials compare."""
    return {
        VAL_LOSS: counts.loss(),
        VAL_TOP1: counts.top1(),
        VAL_TOP5: counts.top5(),
        VAL_MEAN_CLASS: counts.mean_class(),
        VAL_SAMPLES: counts.num_clips,
    }


def cross_entropy(logits_BK: torch.Tensor, label_B: torch.Tensor) -> torch.Tensor:
    """The plain loss that validation reports, float32 [B]."""
    return F.cross_entropy(logits_BK.float(), label_B, reduction="none")
