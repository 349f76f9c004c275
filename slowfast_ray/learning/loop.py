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

from slowfast_ray.learning import counts, optimizer
from slowfast_ray.learning.config import LearningConfig
from slowfast_ray.learning.counts import Counts
from slowfast_ray.learning.loss import Loss
from slowfast_ray.learning.predictions import Predictions


class Batch(Protocol):
    """Clips float [B, 1, T, H, W] on the model's device, with labels: int64 [B], or multi-hot float [B, K]."""

    @property
    def clip_B1THW(self) -> torch.Tensor:
        """Clips."""
        ...

    @property
    def label_B(self) -> torch.Tensor:
        """Labels."""
        ...


class ScoredBatch(Batch, Protocol):
    """Clips of the validation split, which know their place in it."""

    @property
    def index_B(self) -> torch.Tensor:
        """Position of each clip's sample in the split, int64 [B], on any device."""
        ...


class Batches(Protocol):
    """What the loop reads: the data wing makes it, this wing does not ask how."""

    @property
    def num_train_steps(self) -> int:
        """Steps in an epoch."""
        ...

    @property
    def num_val_samples(self) -> int:
        """Samples of the validation split, over all workers."""
        ...

    def train(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch."""
        ...

    def val(self) -> Iterator[ScoredBatch]:
        """This worker's validation batches: over all workers, every sample once."""
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
    predictions: Predictions
    """Of all validation samples."""


def epochs(
    learner: Learner, batches: Batches, config: LearningConfig, loss: Loss, trained: nn.Module | None = None
) -> Iterator[EpochResult]:
    """Trains `learner` up to `config.num_epochs` and yields after each epoch.

    `trained` is the module that training calls where it is not the model itself (a DistributedDataParallel around it).
    Raises FloatingPointError when the training or the validation loss stops being finite.
    """
    for epoch in range(learner.num_epochs_done + 1, config.num_epochs + 1):
        lr = learner.optimizer.param_groups[0]["lr"]
        started = time.perf_counter()
        train_counts = _train(learner, batches, config, epoch, loss, trained or learner.model).over_workers()
        seconds = time.perf_counter() - started
        _check_finite("training", train_counts.loss(), epoch, config)
        _average_buffers(learner.model)
        predictions = evaluate(learner.model, batches, config)
        _check_finite("validation", predictions.loss(), epoch, config)
        metrics = predictions.metrics()
        learner.num_epochs_done = epoch
        epoch_seconds = time.perf_counter() - started
        yield EpochResult(
            epoch=epoch,
            metrics={
                counts.TRAIN_LOSS: train_counts.loss(),
                counts.TRAIN_TOP1: train_counts.top1(),
                counts.TRAIN_LR: lr,
                counts.TRAIN_CLIPS_PER_SECOND: float(train_counts.num_clips) / seconds,
                counts.EPOCH_SECONDS: epoch_seconds,
                **metrics,
            },
            predictions=predictions,
        )


def _train(
    learner: Learner, batches: Batches, config: LearningConfig, epoch: int, loss: Loss, trained: nn.Module
) -> Counts:
    trained.train()
    total: Counts | None = None
    for batch in batches.train(epoch):
        with _autocast(batch.clip_B1THW.device, config):
            logits_BK = trained(batch.clip_B1THW)
        loss_B = loss(logits_BK, batch.label_B)
        learner.optimizer.zero_grad(set_to_none=True)
        loss_B.mean().backward()
        nn.utils.clip_grad_norm_(learner.model.parameters(), config.max_grad_norm)
        learner.optimizer.step()
        learner.scheduler.step()
        total = total or Counts.zero(logits_BK.device)
        total.add(logits_BK.detach(), batch.label_B, loss_B)
    assert total is not None, "an epoch has at least one step: a batch larger than the training set is refused"
    return total


def _check_finite(name: str, loss: float, epoch: int, config: LearningConfig) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(f"The {name} loss became {loss} in epoch {epoch}; lower `learning.lr` (={config.lr}).")


@torch.inference_mode()
def evaluate(model: nn.Module, batches: Batches, config: LearningConfig) -> Predictions:
    """The predictions of all validation samples, the same on every worker. All workers must call it together."""
    model.eval()
    scored: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for batch in batches.val():
        with _autocast(batch.clip_B1THW.device, config):
            logits_BK = model(batch.clip_B1THW)
        scored.append((batch.index_B.to(logits_BK.device), logits_BK.float(), batch.label_B))
    assert scored, "a split has at least one sample a worker"
    index_N, logits_NK, target = (torch.cat(parts) for parts in zip(*scored, strict=True))
    return Predictions.over_workers(index_N, logits_NK, target, batches.num_val_samples)


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
