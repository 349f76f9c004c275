"""A run over the workers of a Ray Train group: each calls worker.train() on its share of every batch."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer, get_device
from ray.train.v2.api.callback import UserCallback
from ray.train.v2.api.config import LoggingConfig
from ray.util.queue import Queue

from slowfast_ray.experiment import Experiment
from slowfast_ray.learning.step import DoesNotFitError
from slowfast_ray.running import cluster, worker
from slowfast_ray.running.cluster import Slots
from slowfast_ray.running.preflight import Ready
from slowfast_ray.running.wiring import Place
from slowfast_ray.running.worker import Row

PLACEMENT_GROUP = "placement_group"
"""In the rows of a worker group: the id of the resources that it holds."""


def fit(ready: Ready, objective: str, note: Callable[[Row], None], *, verbose: bool) -> None:
    """Trains one run over a group of its own; `note` sees the row of every epoch as it comes, in another thread."""
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
            train(ready.experiment, ready.folder, objective, slots, [ForwardRows(rows)])
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


def train(
    experiment: Experiment,
    folder: Path,
    objective: str,
    slots: Slots,
    callbacks: list[UserCallback],
    *,
    replay: bool = False,
) -> None:
    """Trains one run over a group of workers; a broken group starts once more from the newest checkpoint.

    `folder` must be one that all workers see, and is where Ray Train keeps its own notes as well. `replay` as in
    worker.train. Raises DoesNotFitError and FloatingPointError as one worker does.
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
            experiment,
            folder,
            objective,
            lambda row: ray.train.report({**row, PLACEMENT_GROUP: group}),
            place,
            replay=replay,
        )

    trainer = TorchTrainer(
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
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        for failure in error.worker_failures.values():  # what a setting alone brings about, as with one worker
            for kind in (DoesNotFitError, FloatingPointError):
                if isinstance(failure, kind):
                    raise kind(str(getattr(failure, "cause", failure))) from error
        raise
