"""The training loop: a generator that trains an epoch, evaluates, and yields what it measured.

It knows no Ray, no MLflow and no disk: whoever iterates decides what to keep, report and save, and when to stop.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from slowfast_ray.learning import averaging, counts, step
from slowfast_ray.learning.config import LearningConfig
from slowfast_ray.learning.counts import Counts
from slowfast_ray.learning.learner import Learner
from slowfast_ray.learning.loss import Loss
from slowfast_ray.learning.middle import LeftError, Middle
from slowfast_ray.learning.predictions import Predictions
from slowfast_ray.learning.step import Leaving

EXPLODED = 1e4
"""A mean training loss beyond this has exploded: guessing among 1000 classes costs 7, and weights of rare classes
multiply that by hundreds at most."""


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

    def train(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from a step on."""
        ...

    def val(self) -> Iterator[ScoredBatch]:
        """This worker's validation batches: over all workers, every sample once."""
        ...


@dataclass(frozen=True)
class EpochResult:
    """What one epoch measured, over all workers."""

    epoch: int
    """Epochs done, this one included: 1 after the first."""
    metrics: dict[str, float]
    predictions: Predictions
    """Of all validation samples."""


@dataclass(frozen=True)
class Step:
    """One step of the optimiser, for whoever shows how training goes."""

    epoch: int
    step: int
    """Counted from 1 in each epoch."""
    num_steps: int
    loss: float
    """Mean over the clips of all workers."""
    lr: float
    """Of the classifier."""


def never() -> bool:
    """For whoever is not sent away."""
    return False


def train_all(model: nn.Module, epoch: int) -> None:
    """Begins an epoch in which the whole network learns."""
    model.train()


def ignore(done: Step) -> None:
    """For whoever does not look at steps."""


def epochs(
    learner: Learner,
    batches: Batches,
    config: LearningConfig,
    loss: Loss,
    *,
    begin_epoch: Callable[[nn.Module, int], None] = train_all,
    on_step: Callable[[Step], None] = ignore,
    must_leave: Callable[[], bool] = never,
    middle: Middle | None = None,
) -> Iterator[EpochResult]:
    """Trains `learner` up to `config.num_epochs` and yields after each epoch.

    `begin_epoch` puts the network into the state in which it trains in an epoch, counted from 1; `on_step` sees every
    step; `must_leave` is asked before each one. With `middle` the first epoch goes on there.

    Raises LeftError after a step before which a worker knew that it must leave, FloatingPointError when the training or
    the validation loss explodes or is no number, and DoesNotFitError where a single clip is too large for a GPU.
    """
    for epoch in range(learner.num_epochs_done + 1, config.num_epochs + 1):
        lr = middle.lr if middle else learner.optimizer.param_groups[0]["lr"]
        started = time.perf_counter() - (middle.seconds if middle else 0.0)
        begin_epoch(learner.model, epoch)
        train_counts = _train(learner, batches, config, epoch, loss, on_step, must_leave, middle, started, lr)
        middle = None
        seconds = time.perf_counter() - started
        _settle_statistics(learner, batches, config, epoch)
        predictions = evaluate(learner.evaluated, batches.val(), batches.num_val_samples, config, learner.micro_batch)
        if not math.isfinite(predictions.loss()):
            raise FloatingPointError(
                f"The validation loss became {predictions.loss()} in epoch {epoch}; lower `learning.lr` (={config.lr})."
            )
        learner.num_epochs_done = epoch
        yield EpochResult(
            epoch=epoch,
            metrics={
                counts.TRAIN_LOSS: train_counts.loss(),
                counts.TRAIN_TOP1: train_counts.top1(),
                counts.TRAIN_LR: lr,
                counts.TRAIN_CLIPS_PER_SECOND: float(train_counts.num_clips) / seconds,
                counts.TRAIN_MICRO_BATCH: learner.micro_batch,
                counts.EPOCH_SECONDS: time.perf_counter() - started,
                **predictions.metrics(),
            },
            predictions=predictions,
        )


def _train(
    learner: Learner,
    batches: Batches,
    config: LearningConfig,
    epoch: int,
    loss: Loss,
    on_step: Callable[[Step], None],
    must_leave: Callable[[], bool],
    middle: Middle | None,
    started: float,
    first_lr: float,
) -> Counts:
    """The counts of a whole epoch, over all workers."""
    num_done = middle.num_steps if middle else 0
    total: Counts | None = None
    # The loss of a step is read when the next one is on its way: a GPU never waits for it.
    unread: tuple[int, float, torch.Tensor] | None = None

    def read(number: int, lr: float, loss_of_step: torch.Tensor) -> None:
        value = float(loss_of_step)
        if not value <= EXPLODED:  # also where it is NaN
            raise FloatingPointError(
                f"The training loss became {value:g} in step {number} of epoch {epoch}, at a learning rate of {lr:.3g} "
                f"for the classifier; lower `learning.lr` (={config.lr})."
            )
        on_step(Step(epoch, number, batches.num_train_steps, value, lr))

    for number, batch in enumerate(batches.train(epoch, num_done), start=num_done + 1):
        leaving = Leaving(wanted=must_leave())
        lr = learner.optimizer.param_groups[0]["lr"]
        total = total or Counts.zero(batch.clip_B1THW.device)
        taken = step.take(learner, batch.clip_B1THW, batch.label_B, config, loss, total, leaving)
        if unread is not None:
            read(*unread)
        unread = number, lr, taken
        if leaving.agreed and number < batches.num_train_steps:
            read(*unread)
            raise LeftError(Middle(number, _sum(total, middle), time.perf_counter() - started, first_lr))
    assert total is not None, "an epoch has at least one step: a batch larger than the training set is refused"
    assert unread is not None
    read(*unread)
    return _sum(total, middle)


def _sum(total: Counts, middle: Middle | None) -> Counts:
    """Over all workers, with what was counted before an epoch was left."""
    summed = total.over_workers()
    return summed + middle.counts.on(summed.loss_sum.device) if middle else summed


def _settle_statistics(learner: Learner, batches: Batches, config: LearningConfig, epoch: int) -> None:
    """BatchNorm's statistics as all workers evaluate with them."""
    learning_norms = averaging.norms_that_learn(learner.model)
    if config.precise_batch_norm:
        device = next(learner.model.parameters()).device
        # In training a norm sees a micro-batch at once, and here as well.
        clips = (
            part
            for batch in itertools.islice(batches.train(epoch), config.precise_batch_norm)
            for part in batch.clip_B1THW.split(learner.micro_batch)
        )
        with step.autocast(device, config):
            averaging.take_statistics(learner.evaluated, clips, learning_norms)
    averaging.over_workers(learner.model, learning_norms)
    if learner.average is not None:
        averaging.over_workers(learner.average.module, learning_norms)


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    scored: Iterable[ScoredBatch],
    num_samples: int,
    config: LearningConfig,
    micro_batch: int | None = None,
) -> Predictions:
    """The predictions of all `num_samples` validation samples, the same on every worker.

    `scored` are this worker's batches, of which `micro_batch` clips are looked at together, or all; all workers must
    call it together.
    """
    model.eval()
    parts: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for batch in scored:
        logits_BK = logits_of(model, batch.clip_B1THW, config, micro_batch)
        parts.append((batch.index_B.to(logits_BK.device), logits_BK, batch.label_B))
    assert parts, "a split has at least one sample a worker"
    index_N, logits_NK, target = (torch.cat(each) for each in zip(*parts, strict=True))
    return Predictions.over_workers(index_N, logits_NK, target, num_samples)


@torch.inference_mode()
def logits_of(
    model: nn.Module, clip_B1THW: torch.Tensor, config: LearningConfig, micro_batch: int | None = None
) -> torch.Tensor:
    """float32 [B, K]: what a network in its evaluating state says of some clips, of which `micro_batch` are looked at
    together, or all.
    """
    together = micro_batch or config.micro_batch or len(clip_B1THW)
    with step.autocast(clip_B1THW.device, config):
        logits = [model(part) for part in clip_B1THW.split(together)]
    return torch.cat(logits).float()
