"""Runs jobs on Ray Tune: one job is one training, in a folder of its own. A board says which, and sees what they do.

A job of one worker trains in the process of a Tune trial, which is used again for the next one: torch is imported once.
A job of several workers starts a Ray Train group. What is true of a job is in its folder and with the board; Tune's own
notes are thrown away, and nothing is restored from them.
"""

import os
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from slowfast_ray.data.dataset import Dataset
from slowfast_ray.experiment import Experiment
from slowfast_ray.running.nodes import cluster
from slowfast_ray.running.nodes.slots import Slots
from slowfast_ray.running.training import deaths, group, verdicts, worker
from slowfast_ray.running.training.boards import EXPERIMENT, GIVE_UP, NAME, REASON, VERDICT, Board
from slowfast_ray.running.training.pulse import Watch, beating
from slowfast_ray.running.training.supplies import Supplies, supplied
from slowfast_ray.running.training.tune_parts import MAX_LOST, Halt, Referee, Source, Watcher
from slowfast_ray.running.training.wiring import Place

MAX_WAITING = 1_000
"""Trials that may wait for machines to be started; how many do, the slots say. Tune's own limit is one."""


def run(
    board: Board,
    search: str,
    *,
    identity: str,
    objective: str,
    slots: Slots,
    data: Dataset,
    max_failures: int,
    hang_timeout_min: float,
    verbose: bool,
) -> None:
    """Runs the jobs of `board`, each in its folder below that of the search, until there is none left or the board is
    over; as many at once as the machines hold, as they come and go.

    `identity` is the search's own (begun.py), `objective` chooses each job's best epoch, `data` is what they all read.
    """
    os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", str(MAX_WAITING))
    with supplied(slots, data, identity, hang_timeout_min) as (supplies, watch):
        trainable = _trainable(search, objective, supplies)
        _run(board, watch, search, trainable, slots, max_failures=max_failures, verbose=verbose)


def _run(
    board: Board,
    watch: Watch,
    search: str,
    trainable: Callable[[dict[str, Any]], None],
    slots: Slots,
    *,
    max_failures: int,
    verbose: bool,
) -> None:
    resources = slots.resources()
    if slots.num_workers > 1:
        # The workers hold the CPUs and GPUs; their driver needs none, but Tune refuses a trial that asks for nothing.
        resources = {"CPU": 0, "node:__internal_head__": 0.001}
    source = Source(board, slots)
    watcher = Watcher(board, source, watch, search, max_failures)
    with tempfile.TemporaryDirectory(prefix="slowfast-ray-", ignore_cleanup_errors=True) as scratch:
        tuner = tune.Tuner(
            tune.with_resources(trainable, resources),
            tune_config=tune.TuneConfig(
                search_alg=source,
                scheduler=Referee(board),
                num_samples=-1,  # until the board has no more
                # A fresh process imports torch for 3 s; a job of several workers has processes of its own.
                reuse_actors=slots.num_workers == 1,
                trial_dirname_creator=lambda trial: f"tune-{trial.trial_id}",
            ),
            run_config=tune.RunConfig(
                name="ray_tune",
                storage_path=scratch,
                callbacks=[watcher],
                stop=Halt(board),
                failure_config=tune.FailureConfig(max_failures=max_failures + MAX_LOST),
                verbose=1 if verbose else 0,
            ),
        )
        with cluster.own_ctrl_c():
            tuner.fit()
    watcher.free_the_rest()


def _trainable(search: str, objective: str, supplies: Supplies) -> Callable[[dict[str, Any]], None]:
    """The function that trains one job, on whichever process Tune calls it."""

    def train_job(config: dict[str, Any]) -> None:
        experiment = Experiment().override(config[EXPERIMENT])
        if GIVE_UP in config:
            error = config[GIVE_UP]
            tune.report({VERDICT: deaths.ending_of(error), REASON: deaths.reason_of(error)})
            return
        name = f"{search}/{config[NAME]}"
        home = supplies.home_of(experiment, name)
        try:
            if experiment.run.num_workers == 1:
                slots = supplies.slots
                device = torch.device("cuda" if slots.gpus_per_worker else "cpu")
                place = Place(device=device, num_threads=slots.cpus_per_worker, gpu_share=slots.gpus_per_worker)
                hang_timeout_min = experiment.run.hang_timeout_min
                with verdicts.naming_a_full_disk(), beating(supplies.pulse, name, 0, hang_timeout_min) as line:
                    supplies.check_machine(experiment, name)
                    supplies.read_data(experiment.data)
                    worker.train(
                        experiment,
                        home.folder,
                        objective,
                        line.waiting(tune.report),
                        place,
                        replay=True,
                        url=home.url,
                        on_batch=line.get_on,
                        must_leave=line.must_leave,
                    )
            else:
                group.train(experiment, name, objective, supplies, [TuneReportCallback()], replay=True)
        except Exception as error:
            if (ended := verdicts.of(error)) is None:
                raise
            tune.report({VERDICT: ended.verdict, REASON: ended.reason})
        finally:
            home.forget()

    return train_job
