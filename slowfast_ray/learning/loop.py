"""The training loop: a generator that trains an epoch, evaluates, and yields what it measured.

It knows no Ray, no MLflow and no disk: whoever iterates decides what to keep, report and save, and when to stop.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from slowfast_ray.learning import counts, loss, optimizer
from slowfast_ray.learning.config import LearningConfig
from slowfast_ray.learning.counts import Counts


class Batch(Protocol):
    """Clips float [B, 1, T, H, W] with labels int64 [B], on the model's device."""

    @property
    def clip_B1THW(self) -> torch.Tensor:
        """Clips."""
        ...

    @property
    def label_B(self) -> torch.Tensor:
        """Labels."""
        ...


class Batches(Protocol):
    """What the loop reads: the data wing makes it, this wing does not ask how."""

    @property
    def num_train_steps(self) -> int:
        """Steps in an epoch."""
        ...

    def train(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch."""
        ...

    def val(self) -> Iterator[Batch]:
        """The validation batches."""
        ...


@dataclass
class Learner:
    """A network on its way: what changes from step to step, and what a checkpoint therefore holds."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: LambdaLR
    num_epochs_done: int = 0

    @staticmethod
    def start(model: nn.Module, config: LearningConfig, num_train_steps: int) -> "Learner":
        """A learner before its first step."""
        return Learner(model, *optimizer.build(model, config, num_train_steps * config.num_epochs))


@dataclass(frozen=True)
class EpochResult:
    """What one epoch measured, over all workers."""

    epoch: int
    """Epochs done, this one included: 1 after the first."""
    metrics: dict[str, float]
    confusion_KK: torch.Tensor
    """Validation clips by true class (row) and predicted class (column)."""


def epochs(
    learner: Learner,
    batches: Batches,
    config: LearningConfig,
    weights_K: torch.Tensor | None = None,
    trained: nn.Module | None = None,
) -> Iterator[EpochResult]:
    """Trains `learner` up to `config.num_epochs` and yields after each epoch.

    `trained` is the module that training calls where it is not the model itself (a DistributedDataParallel around it).
    Raises FloatingPointError when the training loss stops being finite.
    """
    for epoch in range(learner.num_epochs_done + 1, config.num_epochs + 1):
        lr = learner.optimizer.param_groups[0]["lr"]
        started = time.perf_counter()
        train_counts = _train(learner, batches, config, epoch, weights_K, trained or learner.model).over_workers()
        seconds = time.perf_counter() - started
        if not math.isfinite(train_counts.loss()):
            raise FloatingPointError(
                f"The training loss became {train_counts.loss()} in epoch {epoch}; lower `learning.lr` (={config.lr})."
            )
        _average_buffers(learner.model)
        val_counts = evaluate(learner.model, batches, config).over_workers()
        if not math.isfinite(val_counts.loss()):
            raise FloatingPointError(
                f"The validation loss became {val_counts.loss()} in epoch {epoch}; lower `learning.lr` (={config.lr})."
            )
        learner.num_epochs_done = epoch
        epoch_seconds = time.perf_counter() - started
        yield EpochResult(
            epoch=epoch,
            metrics={
                counts.TRAIN_LOSS: train_counts.loss(),
                counts.TRAIN_TOP1: train_counts.top1(),
                counts.TRAIN_LR: lr,
                counts.TRAIN_CLIPS_PER_SECOND: train_counts.num_clips / seconds,
                counts.EPOCH_SECONDS: epoch_seconds,
                **counts.validation_metrics(val_counts),
            },
            confusion_KK=val_counts.confusion_KK.cpu(),
        )


def _train(
    learner: Learner,
    batches: Batches,
    config: LearningConfig,
    epoch: int,
    weights_K: torch.Tensor | None,
    trained: nn.Module,
) -> Counts:
    trained.train()
    total: Counts | None = None
    for batch in batches.train(epoch):
        with _autocast(batch.clip_B1THW.device, config):
            logits_BK = trained(batch.clip_B1THW)
        loss_B = loss.per_clip(logits_BK, batch.label_B, weights_K, config.label_smoothing)
        learner.optimizer.zero_grad(set_to_none=True)
        loss_B.mean().backward()
        nn.utils.clip_grad_norm_(learner.model.parameters(), config.max_grad_norm)
        learner.optimizer.step()
        learner.scheduler.step()
        total = total or Counts.zero(logits_BK.shape[1], logits_BK.device)
        total.add(logits_BK.detach(), batch.label_B, loss_B)
    assert total is not None, "an epoch has at least one step: a batch larger than the training set is refused"
    return total


@torch.inference_mode()
def evaluate(model: nn.Module, batches: Batches, config: LearningConfig) -> Counts:
    """Counts of this worker's validation samples."""
    model.eval()
    total: Counts | None = None
    for batch in batches.val():
        with _autocast(batch.clip_B1THW.device, config):
            logits_BK = model(batch.clip_B1THW)
        total = total or Counts.zero(logits_BK.shape[1], logits_BK.device)
        total.add(logits_BK, batch.label_B, counts.cross_entropy(logits_BK, batch.label_B))
    assert total is not None, "a split has at least one sample a worker"
    return total


def _autocast(device: torch.device, config: LearningConfig) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16")


@torch.no_grad()
def _average_buffers(model: nn.Module) -> None:
    """BatchNorm's running statistics, averaged over workers: each saw its own share, and all evaluate one network."""
    if not dist.is_initialized():
        return
    for buffer in model.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= dist.get_world_size()
