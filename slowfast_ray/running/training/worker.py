"""What one training process does: trains what wiring.py put together, and turns each epoch into a checkpoint and a row.

The same function runs in the caller's process, in a Ray Tune trial, and on each worker of a Ray Train group; only where
its rows go differs. It continues from the newest checkpoint of its folder, so whoever starts it decides, by the folder,
whether a run is new or goes on.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from slowfast_ray.data.batches import Batch, Batches
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checkpoint, counts, loop
from slowfast_ray.learning.checkpoint import Progress
from slowfast_ray.learning.learner import Learner
from slowfast_ray.learning.loop import Step
from slowfast_ray.learning.middle import LeftError, Middle
from slowfast_ray.learning.step import DoesNotFitError
from slowfast_ray.running import provenance
from slowfast_ray.running.folders import logs, mirror
from slowfast_ray.running.folders.mirror import Mirror
from slowfast_ray.running.training import needs, wiring
from slowfast_ray.running.training.system_metrics import Meter
from slowfast_ray.running.training.wiring import Place

log = logging.getLogger(__name__)

Row = dict[str, Any]
"""What is reported of an epoch: the metrics of learning/counts.py and the keys below, as plain numbers and text."""

EPOCH = "epoch"
"""Epochs done, counted from the run's own start: it goes on over restarts, unlike Ray's training_iteration."""
BEST_VALUE = "best_value"
"""The objective at its best so far."""
BEST_EPOCH = "best_epoch"
CHECKPOINT = "checkpoint"
"""Folder or URL of the best epoch's checkpoint."""
DEVICE = "device"
"""What it trains on, for people."""
FINISHED = "finished"
"""True in the row of the last planned epoch, or of the one that ended a run early: a trial that ends without it was
stopped from outside."""


class PreemptedError(RuntimeError):
    """A worker must leave its machine; where it stands is saved."""


def train(
    experiment: Experiment,
    folder: Path,
    objective: str,
    report: Callable[[Row], None],
    place: Place | None = None,
    on_step: Callable[[Step], None] = loop.ignore,
    *,
    replay: bool = False,
    url: str = "",
    on_batch: Callable[[], None] = lambda: None,
    must_leave: Callable[[], bool] = loop.never,
) -> None:
    """Trains until the last planned epoch, with checkpoints in `folder`; `report` gets a row after every epoch. With
    `replay`, a run that goes on reports its earlier epochs first, for whoever was restarted with it. With a `url`, what
    is in `folder` is kept there as well, and what is there already is brought first. `on_batch` is called for every
    batch that is read, `must_leave` before every step.

    Every worker reports the same metrics; only rank 0 writes checkpoints. Raises PreemptedError once it has saved where
    it stands, for a worker that must leave.
    """
    place, home = place or Place(), Mirror(folder, url)
    _bring(home, place)
    with logs.kept_in(folder) if place.rank == 0 else nullcontext():
        try:
            telling = replace(home, on_progress=on_batch)  # a large checkpoint or a storage that is away takes minutes
            _train(experiment, telling, objective, report, place, on_step, on_batch, must_leave, replay=replay)
        except Exception as error:
            log.info("It failed. %s: %s", type(error).__name__, error)  # the terminal hears of it from the caller
            raise
        finally:
            if place.rank == 0:
                _send_log(home)


def _train(
    experiment: Experiment,
    home: Mirror,
    objective: str,
    send: Callable[[Row], None],
    place: Place,
    on_step: Callable[[Step], None],
    on_batch: Callable[[], None],
    must_leave: Callable[[], bool],
    *,
    replay: bool,
) -> None:
    device, folder = provenance.device_name(place.device), home.folder
    log.info("Training in %s on %s, as one of %d worker(s).", folder, device, place.num_workers)

    def report(row: Row) -> None:
        send({**row, DEVICE: device})

    newest = checkpoint.newest_whole(folder)
    _check_agreement("none" if newest is None else newest.name, folder)
    ready = wiring.prepare(experiment, place, goes_on=newest is not None)
    experiment, learner = ready.experiment, ready.learner
    progress, middle = _continue(learner, newest, Progress(classes=list(ready.data.classes), objective=objective))
    if replay:
        for past in _past(progress):
            report(row_of(past, home, experiment))
    if is_finished(progress, experiment):
        if not replay:  # whoever restarted it still waits for a row
            report(row_of(progress, home, experiment))
        if place.rank == 0:  # it may have been killed before the last one was sent
            home.send_checkpoints(is_last=True)
        return

    def begin_epoch(_: nn.Module, epoch: int) -> None:
        ready.begin_epoch(epoch)
        if place.rank > 0:  # each worker mixes and drops otherwise; rank 0 goes on with the checkpoint's generator
            torch.manual_seed((experiment.run.seed * 1_000 + place.rank) * 100_000 + epoch)

    results = loop.epochs(
        learner,
        _Heard(ready.batches, on_batch),
        experiment.learning,
        ready.loss,
        begin_epoch=begin_epoch,
        on_step=on_step,
        must_leave=must_leave,
        middle=middle,
    )
    meter = Meter(place.device)
    try:
        for result in results:
            _note(progress, result.metrics)
            log.info("Epoch %d of %d: %s.", progress.epoch, experiment.learning.num_epochs, _shown(result.metrics))
            if place.rank == 0:
                checkpoint.save(folder, learner, progress, experiment.to_json(), result.predictions)
                _send_log(home)  # first: whoever goes on from the checkpoint elsewhere finds its epoch told
                home.send_checkpoints(is_last=is_finished(progress, experiment))
            report({**row_of(progress, home, experiment), **meter.read()})
            if is_finished(progress, experiment):
                break
    except DoesNotFitError as error:
        raise needs.explained(error, experiment, place.device) from error
    except LeftError as left:
        if place.rank == 0:
            checkpoint.save_middle(folder, learner, progress, experiment.to_json(), left.middle)
            home.send_checkpoints(is_last=False)
        if dist.is_initialized():
            dist.barrier()  # whoever raises first ends the others
        raise PreemptedError(
            f"The machine is preempted; saved after step {left.middle.num_steps} of epoch {progress.epoch + 1}."
        ) from left


def _bring(home: Mirror, place: Place) -> None:
    """What is at the URL. Of several workers the first one decides: it may have written what never came there."""
    if place.rank == 0:
        mirror.patiently(lambda: home.bring_checkpoints(with_files=(logs.LOG,)))
        if place.num_workers > 1:
            home.send_checkpoints(is_last=True)
    if place.num_workers > 1 and home.url:
        dist.barrier()
        if place.rank > 0:
            mirror.patiently(lambda: home.bring_checkpoints(as_there=True))


def _check_agreement(newest: str, folder: Path) -> None:
    """Raises ValueError where workers would go on from different checkpoints: their gradients are added up."""
    if not dist.is_initialized():
        return
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, newest)
    if len({*found}) > 1:
        raise ValueError(
            f"The workers see different checkpoints in {folder} ({', '.join(found)}); its storage is late."
        )


def _send_log(home: Mirror) -> None:
    with suppress(ValueError):  # the storage is away, of which the log itself speaks
        home.send(logs.LOG)


class _Heard:
    """Batches, each of which is told of."""

    def __init__(self, batches: Batches, on_batch: Callable[[], None]) -> None:
        self._batches, self._on_batch = batches, on_batch
        self.num_train_steps, self.num_val_samples = batches.num_train_steps, batches.num_val_samples

    def train(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        return self._tell(self._batches.train(epoch, first_step))

    def val(self) -> Iterator[Batch]:
        return self._tell(self._batches.val())

    def _tell(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self._on_batch()
            yield batch


def _shown(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def is_finished(progress: Progress, experiment: Experiment) -> bool:
    """Whether the last planned epoch is done, or the last one that early stopping allows."""
    patience = experiment.learning.early_stop
    is_stopped = patience is not None and progress.epoch - progress.best_epoch >= patience
    return progress.epoch >= experiment.learning.num_epochs or is_stopped


def _continue(learner: Learner, newest: Path | None, fresh: Progress) -> tuple[Progress, Middle | None]:
    if newest is None:
        return fresh, None
    progress, middle = checkpoint.load(newest, learner), checkpoint.read_middle(newest)
    further = f" and {middle.num_steps} steps" if middle else ""
    log.info("Continuing %s after epoch %d%s.", newest.parent, progress.epoch, further)
    return progress, middle


def told(progress: Progress) -> list[dict[str, float]]:
    """What was reported of each epoch of a run, as numbers."""
    return [{**past.history[-1], BEST_VALUE: past.best_value, BEST_EPOCH: past.best_epoch} for past in _past(progress)]


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


def row_of(progress: Progress, home: Mirror, experiment: Experiment) -> Row:
    """The row of the newest epoch of a run."""
    return {
        **progress.history[-1],
        EPOCH: progress.epoch,
        BEST_VALUE: progress.best_value,
        BEST_EPOCH: progress.best_epoch,
        CHECKPOINT: home.place_of(checkpoint.path(home.folder, progress.best_epoch).name),
        FINISHED: is_finished(progress, experiment),
    }
