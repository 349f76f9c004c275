"""A run over the workers of a Ray Train group: each calls worker.train() on its share of every batch."""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ray.train
import torch
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, RayError
from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device
from ray.train.v2.api.callback import UserCallback
from ray.train.v2.api.config import LoggingConfig
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from slowfast_ray.experiment import Experiment
from slowfast_ray.running.folders import begun
from slowfast_ray.running.nodes import cluster
from slowfast_ray.running.nodes.slots import Slots
from slowfast_ray.running.preflight import Ready
from slowfast_ray.running.training import verdicts, worker
from slowfast_ray.running.training.process_group import OverRaysNetwork
from slowfast_ray.running.training.pulse import beating
from slowfast_ray.running.training.room import SECONDS_BETWEEN_LOOKS, Room
from slowfast_ray.running.training.supplies import Supplies, supplied
from slowfast_ray.running.training.wiring import Place
from slowfast_ray.running.training.worker import Row

PLACEMENT_GROUP = "placement_group"
"""In the rows of a worker group: the id of the resources that it holds."""
MAX_FAILURES = 10
"""Of a run of its own, lost machines among them: each costs an epoch at most."""


def fit(ready: Ready, objective: str, note: Callable[[Row], None], slots: Slots) -> None:
    """Trains one run over a group of its own, on the connected Ray; `note` sees the row of every epoch as it comes, in
    another thread.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    rows: Queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})

    room, asked = Room(), slots.of_a_trial()
    broken_off = threading.Event()

    def consume() -> None:
        while True:
            try:
                row = rows.get(timeout=SECONDS_BETWEEN_LOOKS)
                if row is None:
                    return
                note(row)
            except Empty:
                if broken_off.is_set():
                    return
            except ActorDiedError:  # the run ends, too, once it has a row for it
                return
            except RayError:
                if broken_off.wait(SECONDS_BETWEEN_LOOKS):
                    return
            with suppress(Exception):  # the head is away: rows are waited for all the same
                room.look(asked)

    consumer = threading.Thread(target=consume, name="rows", daemon=True)
    consumer.start()
    try:
        identity, hang_timeout_min = begun.identity_of(ready.folder), ready.experiment.run.hang_timeout_min
        with supplied(slots, ready.data, identity, hang_timeout_min) as (supplies, _), cluster.own_ctrl_c():
            # Nobody else tries again.
            train(ready.experiment, ready.name, objective, supplies, [ForwardRows(rows)], max_failures=MAX_FAILURES)
        rows.put(None)
        consumer.join()
    except BaseException as error:
        broken_off.set()
        consumer.join(cluster.SECONDS_TO_LET_GO)
        if isinstance(error, SystemExit):  # how Ray Train ends the driver after Ctrl-C
            raise KeyboardInterrupt from error
        raise


class ForwardRows(UserCallback):
    """Puts the row of each epoch on a queue to the driver; lives in Ray Train's controller."""

    def __init__(self, rows: Queue) -> None:
        self._rows = rows

    def after_report(self, run_context: Any, metrics: list[Row], checkpoint: Any) -> None:
        """Called with one row a worker; they are the same."""
        self._rows.put(metrics[0])


class TellOfRestarts(UserCallback):
    """Tells the driver that a worker broke off; lives in Ray Train's controller."""

    def __init__(self, pulse: ActorHandle[Any], name: str) -> None:
        self._pulse, self._name = pulse, name

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called before the workers start again, or the run ends. Raises what no second try can help, or Ray Train
        would try: what a callback raises ends the run.
        """
        for error in worker_exceptions.values():
            if verdicts.of(error) is not None:
                raise error
        errors = "\n".join(f"{type(error).__name__}: {error}" for error in worker_exceptions.values())
        self._pulse.restarted.remote(self._name, errors)


def train(
    experiment: Experiment,
    name: str,
    objective: str,
    supplies: Supplies,
    callbacks: list[UserCallback],
    *,
    replay: bool = False,
    max_failures: int = 1,
) -> None:
    """Trains one run over a group of workers; a broken group starts again from the newest checkpoint, so many times.

    `name` is that of its folder in the storage, where Ray Train keeps its own notes as well. `replay` as in
    worker.train. Raises what verdicts.py knows as one worker does.
    """
    slots, pulse = supplies.slots, supplies.pulse

    hang_timeout_min = experiment.run.hang_timeout_min

    def check_machine() -> None:
        supplies.check_machine(experiment, name)

    def train_share(_: dict[str, Any]) -> None:
        home = supplies.home_of(experiment, name)
        context = ray.train.get_context()
        group = ray.get_runtime_context().get_placement_group_id()
        device = get_device()
        assert isinstance(device, torch.device), "one GPU a worker"
        place = Place(
            rank=context.get_world_rank(),
            num_workers=context.get_world_size(),
            device=device,
            num_threads=slots.cpus_per_worker,
            gpu_share=slots.gpus_per_worker,
        )
        with verdicts.naming_a_full_disk(), beating(pulse, name, place.rank, hang_timeout_min) as line:
            supplies.read_data(experiment.data)
            worker.train(
                experiment,
                home.folder,
                objective,
                line.waiting(lambda row: ray.train.report({**row, PLACEMENT_GROUP: group})),
                place,
                replay=replay,
                url=home.url,
                on_batch=line.get_on,
                must_leave=line.must_leave,
            )

    trainer = TorchTrainer(
        train_share,
        train_loop_config={},
        torch_config=OverRaysNetwork(timeout_s=round(hang_timeout_min * 60), check_machine=check_machine),
        scaling_config=ScalingConfig(
            num_workers=experiment.run.num_workers,
            use_gpu=slots.gpus_per_worker > 0,
            resources_per_worker=slots.resources(),
            # On one machine where that holds them all.
            placement_strategy="PACK",
        ),
        run_config=RunConfig(
            name="ray_train",
            storage_path=f"{experiment.run.storage}/{name}",
            callbacks=[*callbacks, TellOfRestarts(pulse, name)],
            failure_config=FailureConfig(max_failures=max_failures),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        trainer.fit()
    except ControllerError as error:  # it begins the process group, and calls TellOfRestarts
        failure = getattr(error.controller_failure, "cause", error.controller_failure)
        if verdicts.of(failure) is None:
            raise
        raise failure from error
