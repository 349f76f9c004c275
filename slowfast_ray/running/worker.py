"""What one training process does: wires the three wings, and turns each epoch into a checkpoint and a row.

The same function runs in the caller's process, in a Ray Tune trial, and on each worker of a Ray Train group; only where
its rows go differs. It continues from the newest checkpoint of its folder, so whoever starts it decides, by the folder,
whether a run is new or goes on.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slowfast_ray.data import dataset
from slowfast_ray.data.batches import Batch, Batches
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checkpoint, counts, loop, step
from slowfast_ray.learning.checkpoint import Progress
from slowfast_ray.learning.counts import Counts
from slowfast_ray.learning.learner import Learner
from slowfast_ray.learning.loop import Step
from slowfast_ray.learning.loss import Loss
from slowfast_ray.learning.step import DoesNotFitError
from slowfast_ray.model import freezing, pretrained, slowfast
from slowfast_ray.model.slowfast import SlowFast
from slowfast_ray.running import logs, needs, provenance
from slowfast_ray.running.system_metrics import Meter

log = logging.getLogger(__name__)

Row = dict[str, Any]
"""What is reported of an epoch: the metrics of learning/counts.py and the keys below, as plain numbers and text."""

EPOCH = "epoch"
"""Epochs done, counted from the run's own start: it goes on over restarts, unlike Ray's training_iteration."""
BEST_VALUE = "best_value"
"""The objective at its best so far."""
BEST_EPOCH = "best_epoch"
CHECKPOINT = "checkpoint"
"""Folder of the best epoch's checkpoint."""
DEVICE = "device"
"""What it trains on, for people."""
FINISHED = "finished"
"""True in the row of the last planned epoch, or of the one that ended a run early: a trial that ends without it was
stopped from outside."""


@dataclass(frozen=True)
class Place:
    """Where this process stands among the workers of a run, and what it computes on."""

    rank: int = 0
    num_workers: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    num_threads: int | None = None
    """Threads of torch on the CPU; None leaves its own choice."""


def with_classes(experiment: Experiment, data: Dataset) -> Experiment:
    """`experiment` with the number of classes of its dataset. Raises ValueError where it names another one."""
    num_classes = experiment.model.num_classes
    if num_classes not in (None, len(data.classes)):
        raise ValueError(
            f"`model.num_classes` (={num_classes}) must be the {len(data.classes)} classes that {data.root} lists; "
            "leave it out."
        )
    return experiment.override({"model.num_classes": len(data.classes)})


@dataclass(frozen=True)
class Prepared:
    """What trains, before its first step: the wings, wired."""

    experiment: Experiment
    """With its classes known."""
    data: Dataset
    batches: Batches
    learner: Learner
    loss: Loss

    def train_step(self, batch: Batch) -> torch.Tensor:
        """Moves the weights by one batch; gives its mean loss."""
        total = Counts.zero(batch.clip_B1THW.device)
        return step.take(self.learner, batch.clip_B1THW, batch.label_B, self.experiment.learning, self.loss, total)

    def begin_epoch(self, epoch: int) -> None:
        """Puts the network into the state in which it trains in an epoch, counted from 1."""
        assert isinstance(self.learner.model, SlowFast)
        freezing.begin_epoch(self.learner.model, self.experiment.model, epoch)


def prepare(experiment: Experiment, place: Place, *, goes_on: bool = False) -> Prepared:
    """Reads the data and builds the network that `experiment` describes, with the weights that it starts from; without
    them where it goes on from a checkpoint.
    """
    _compute_as(experiment, place)
    data = dataset.load(experiment.data)
    experiment = with_classes(experiment, data)
    torch.manual_seed(experiment.run.seed)
    model = slowfast.build(experiment.model).to(place.device)
    if experiment.model.weights is not None and not goes_on:
        pretrained.load(model, experiment.model, data.classes)
    batches = Batches(
        data,
        experiment.data,
        batch_size=experiment.learning.batch_size,
        seed=experiment.run.seed,
        device=place.device,
        rank=place.rank,
        num_workers=place.num_workers,
    )
    learner = Learner.start(
        model,
        experiment.learning,
        batches.num_train_steps,
        num_workers=place.num_workers,
        depth_of=freezing.depth_of,
    )
    num_train_K = data.train.num_per_class_K(len(data.classes))
    loss = Loss.of(experiment.learning, num_train_K, len(data.train), place.device)
    return Prepared(experiment, data, batches, learner, loss)


def _compute_as(experiment: Experiment, place: Place) -> None:
    """Settings of this whole process; Tune trains one trial after the other in it."""
    is_deterministic = experiment.run.deterministic
    if is_deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses
    torch.use_deterministic_algorithms(is_deterministic)
    if is_deterministic and place.device.type == "cpu":
        torch.set_num_threads(1)  # threads add in another order on a machine with other cores
    elif place.num_threads is not None:
        torch.set_num_threads(place.num_threads)


def train(
    experiment: Experiment,
    folder: Path,
    objective: str,
    report: Callable[[Row], None],
    place: Place | None = None,
    on_step: Callable[[Step], None] = loop.ignore,
    *,
    replay: bool = False,
) -> None:
    """Trains until the last planned epoch, with checkpoints in `folder`; `report` gets a row after every epoch. With
    `replay`, a run that goes on reports its earlier epochs first, for whoever was restarted with it.

    Every worker reports the same metrics; only rank 0 writes checkpoints.
    """
    place = place or Place()
    with logs.kept_in(folder) if place.rank == 0 else nullcontext():
        _train(experiment, folder, objective, report, place, on_step, replay=replay)


def _train(
    experiment: Experiment,
    folder: Path,
    objective: str,
    send: Callable[[Row], None],
    place: Place,
    on_step: Callable[[Step], None],
    *,
    replay: bool,
) -> None:
    device = provenance.device_name(place.device)
    log.info("Training in %s on %s, as one of %d worker(s).", folder, device, place.num_workers)

    def report(row: Row) -> None:
        send({**row, DEVICE: device})

    ready = prepare(experiment, place, goes_on=checkpoint.newest(folder) is not None)
    experiment, learner = ready.experiment, ready.learner
    progress = _continue(learner, folder, Progress(classes=list(ready.data.classes), objective=objective))
    if replay:
        for past in _past(progress):
            report(row_of(past, folder, experiment))
    if is_finished(progress, experiment):
        if not replay:  # whoever restarted it still waits for a row
            report(row_of(progress, folder, experiment))
        return

    def begin_epoch(_: nn.Module, epoch: int) -> None:
        ready.begin_epoch(epoch)
        if place.rank > 0:  # each worker mixes and drops otherwise; rank 0 goes on with the checkpoint's generator
            torch.manual_seed((experiment.run.seed * 1_000 + place.rank) * 100_000 + epoch)

    results = loop.epochs(
        learner,
        ready.batches,
        experiment.learning,
        ready.loss,
        begin_epoch=begin_epoch,
        on_step=on_step,
    )
    meter = Meter(place.device)
    try:
        for result in results:
            _note(progress, result.metrics)
            log.info("Epoch %d of %d: %s.", progress.epoch, experiment.learning.num_epochs, _shown(result.metrics))
            if place.rank == 0:
                checkpoint.save(folder, learner, progress, experiment.to_json(), result.predictions)
            report({**row_of(progress, folder, experiment), **meter.read()})
            if is_finished(progress, experiment):
                break
    except DoesNotFitError as error:
        raise needs.explained(error, experiment, place.device) from error


def _shown(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def is_finished(progress: Progress, experiment: Experiment) -> bool:
    """Whether the last planned epoch is done, or the last one that early stopping allows."""
    patience = experiment.learning.early_stop
    is_stopped = patience is not None and progress.epoch - progress.best_epoch >= patience
    return progress.epoch >= experiment.learning.num_epochs or is_stopped


def _continue(learner: Learner, folder: Path, fresh: Progress) -> Progress:
    newest = checkpoint.newest(folder)
    if newest is None:
        return fresh
    progress = checkpoint.load(newest, learner)
    log.info("Continuing %s after epoch %d.", folder, progress.epoch)
    return progress


def _past(progress: Progress) -> Iterator[Progress]:
    """A run as it was after each of its epochs."""
    past = Progress(classes=progress.classes, objective=progress.objective)
    for metrics in progress.history:
        _note(past, metrics)
        yield past


def _note(progress: Progress, metrics: dict[str, float]) -> None:
    value = metrics[progress.objective]
    progress.epoch += 1
    progress.history.append(metrics)
    sign = 1 if counts.HIGHER_IS_BETTER[progress.objective] else -1
    # Among equal epochs the first stays the best; a first value is better than none.
    if progress.best_epoch == 0 or sign * value > sign * progress.best_value:
        progress.best_epoch, progress.best_value = progress.epoch, value


def row_of(progress: Progress, folder: Path, experiment: Experiment) -> Row:
    """The row of the newest epoch of a run."""
    return {
        **progress.history[-1],
        EPOCH: progress.epoch,
        BEST_VALUE: progress.best_value,
        BEST_EPOCH: progress.best_epoch,
        CHECKPOINT: os.fspath(checkpoint.path(folder, progress.best_epoch)),
        FINISHED: is_finished(progress, experiment),
    }
