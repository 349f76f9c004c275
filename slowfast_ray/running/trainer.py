"""fit(): one run, in this process or over the workers of a Ray Train group, with its entry in MLflow."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device
from ray.train.v2.api.callback import UserCallback
from ray.train.v2.api.config import LoggingConfig
from ray.util.queue import Queue

from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checkpoint
from slowfast_ray.running import cluster, preflight, worker
from slowfast_ray.running.cluster import Slots
from slowfast_ray.running.preflight import Ready
from slowfast_ray.running.tracking import State, Tracker
from slowfast_ray.running.worker import Place, Row

PLACEMENT_GROUP = "placement_group"
"""In the rows of a worker group: the id of the resources that it holds."""


@dataclass(frozen=True)
class Outcome:
    """What a run left behind."""

    row: Row
    """The row of the last epoch."""
    run_id: str
    """In MLflow."""
    tracking_uri: str
    num_unsent: int
    """Entries that MLflow did not take."""


def fit(
    ready: Ready, objective: str, *, resume: bool = False, verbose: bool = False, on_row: Callable[[Row], None]
) -> Outcome:
    """Trains to the last planned epoch; `on_row` sees the row of every epoch as it comes.

    With one worker it trains in this process, where a debugger works. However it ends, MLflow says so.
    """
    experiment, folder = ready.experiment, ready.folder
    assert experiment.run.tracking_uri is not None, "preflight resolved it"
    if not resume:
        preflight.claim(ready)
    tracker = Tracker(experiment.run.tracking_uri)
    run_id = tracker.find(folder) if resume else None
    run_id = run_id or tracker.start(ready.name, experiment, folder)
    history = _history(folder)
    rows: list[Row] = []

    def note(row: Row) -> None:
        if row[worker.EPOCH] > len(history):  # a run that was complete only repeats its last row
            tracker.log_epoch(run_id, row[worker.EPOCH], metrics_of(row))
        rows.append(row)
        on_row(row)

    state: State = "failed"
    try:
        tracker.log_missing_epochs(run_id, history)
        if experiment.run.num_workers == 1:
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            worker.train(experiment, folder, objective, note, Place(device=device))
        else:
            _fit_on_workers(ready, objective, note, verbose=verbose)
        state = "finished"
        best = checkpoint.best(folder)
        assert best is not None, "a finished run has saved an epoch"
        tracker.log_folder(run_id, best, "best")
    except KeyboardInterrupt:
        state = "stopped"
        raise
    finally:
        tracker.end(run_id, state)
    return Outcome(row=rows[-1], run_id=run_id, tracking_uri=tracker.uri, num_unsent=tracker.num_unsent)


def metrics_of(row: Row) -> dict[str, float]:
    """The numbers of a row that belong into MLflow."""
    return {
        name: float(value)
        for name, value in row.items()
        if "/" in name or name in (worker.BEST_VALUE, worker.BEST_EPOCH)
        if isinstance(value, int | float)
    }


def _history(folder: Path) -> list[dict[str, float]]:
    newest = checkpoint.newest(folder)
    return [] if newest is None else checkpoint.read_progress(newest).history


def _fit_on_workers(ready: Ready, objective: str, note: Callable[[Row], None], *, verbose: bool) -> None:
    num_workers = ready.experiment.run.num_workers
    with cluster.connected(num_workers=num_workers, verbose=verbose):
        slots = cluster.slots(num_workers=num_workers, max_concurrent=1)
        rows: Queue = Queue()

        def consume() -> None:
            while (row := rows.get()) is not None:
                note(row)

        consumer = threading.Thread(target=consume, name="rows")
        consumer.start()
        try:
            on_workers(ready.experiment, ready.folder, objective, slots, [ForwardRows(rows)])
        except SystemExit as leaving:  # how Ray Train ends the driver after Ctrl-C
            raise KeyboardInterrupt from leaving
        finally:
            rows.put(None)
            consumer.join()


class ForwardRows(UserCallback):
    """Puts the row of each epoch on a queue to the driver; lives in Ray Train's controller."""

    def __init__(self, rows: Queue) -> None:
        self._rows = rows

    def after_report(self, run_context: Any, metrics: list[Row], checkpoint: Any) -> None:
        """Called with one row a worker; they are the same."""
        self._rows.put(metrics[0])


def on_workers(
    experiment: Experiment, folder: Path, objective: str, slots: Slots, callbacks: list[UserCallback]
) -> None:
    """Trains one run over a group of workers; a broken group starts once more from the newest checkpoint.

    `folder` must be one that all workers see, and is where Ray Train keeps its own notes as well.
    """

    def train_share(_: dict[str, Any]) -> None:
        context = ray.train.get_context()
        group = ray.get_runtime_context().get_placement_group_id()
        device = get_device()
        assert isinstance(device, torch.device), "one GPU a worker"
        place = Place(
            rank=context.get_world_rank(),
            num_workers=context.get_world_size(),
            device=device,
            num_threads=slots.cpus_per_worker,
        )
        worker.train(
            experiment, folder, objective, lambda row: ray.train.report({**row, PLACEMENT_GROUP: group}), place
        )

    TorchTrainer(
        train_share,
        train_loop_config={},
        scaling_config=ScalingConfig(
            num_workers=experiment.run.num_workers,
            use_gpu=slots.gpus_per_worker > 0,
            resources_per_worker={"CPU": slots.cpus_per_worker, "GPU": slots.gpus_per_worker},
        ),
        run_config=RunConfig(
            name="ray_train",
            storage_path=os.fspath(folder),
            callbacks=callbacks,
            failure_config=FailureConfig(max_failures=1),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    ).fit()
