"""Runs jobs on Ray Tune: one job is one training, in a folder of its own. A board says which, and sees what they do.

A job of one worker trains in the process of a Tune trial, which is used again for the next one: torch is imported once.
A job of several workers starts a Ray Train group. What is true of a job is in its folder and with the board; Tune's own
notes are thrown away, and nothing is restored from them.
"""

import errno
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray
import torch
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher as TuneSearcher
from ray.util.placement_group import PlacementGroup, remove_placement_group

from slowfast_ray.experiment import Experiment
from slowfast_ray.learning.step import DoesNotFitError
from slowfast_ray.running import group, worker
from slowfast_ray.running.cluster import Slots
from slowfast_ray.running.group import PLACEMENT_GROUP
from slowfast_ray.running.wiring import Place
from slowfast_ray.running.worker import Row

NAME, EXPERIMENT, REASON = "job", "experiment", "reason"
VERDICT = "verdict"
"""In the last row of a job that ended by what it is, so that no second try can help: infeasible, failed, or halt."""
SECONDS_UNTIL_FREED = 2.0
"""A stopped worker group's controller needs a moment to die before its resources can be taken from it."""


@dataclass(frozen=True)
class Job:
    """One training."""

    name: str
    """Of its folder."""
    experiment: Experiment


class Board(Protocol):
    """Who hands out jobs, in the driver."""

    def next(self) -> Job | None:
        """The next job; None where there is none left."""
        ...

    def row(self, name: str, row: Row) -> bool:
        """An epoch is done; gives whether the job is stopped. A second try tells of the first one's epochs again."""
        ...

    def ended(self, name: str, verdict: str | None, reason: str) -> None:
        """It ended by itself, or was stopped; with a verdict where it said so."""
        ...

    def died(self, name: str, error: str) -> None:
        """It raised, or its process died, and it is not tried again."""
        ...

    def retried(self, name: str, error: str) -> Experiment:
        """It raised, or its process died, and is tried again: as what."""
        ...

    def is_over(self) -> bool:
        """Whether everything shall be stopped."""
        ...


def run(
    board: Board, folder: Path, *, objective: str, num_workers: int, slots: Slots, max_failures: int, verbose: bool
) -> None:
    """Runs the jobs of `board`, each in its folder below `folder`, until there is none left or the board is over.

    `objective` chooses each job's best epoch.
    """
    resources: dict[str, float] = {"CPU": slots.cpus_per_worker, "GPU": slots.gpus_per_worker}
    if num_workers > 1:
        # The workers hold the CPUs and GPUs; their driver needs none, but Tune refuses a trial that asks for nothing.
        resources = {"CPU": 0, "node:__internal_head__": 0.001}
    watcher = _Watcher(board)
    with tempfile.TemporaryDirectory(prefix="slowfast-ray-", ignore_cleanup_errors=True) as scratch:
        tune.Tuner(
            tune.with_resources(_trainable(folder, objective, slots), resources),
            tune_config=tune.TuneConfig(
                search_alg=_Source(board),
                scheduler=_Referee(board),
                num_samples=-1,  # until the board has no more
                max_concurrent_trials=slots.num_concurrent,
                # A fresh process imports torch for 3 s; a job of several workers has processes of its own.
                reuse_actors=num_workers == 1,
                trial_dirname_creator=lambda trial: f"tune-{trial.trial_id}",
            ),
            run_config=tune.RunConfig(
                name="ray_tune",
                storage_path=scratch,
                callbacks=[watcher],
                stop=_Halt(board),
                failure_config=tune.FailureConfig(max_failures=max_failures),
                verbose=1 if verbose else 0,
            ),
        ).fit()
    watcher.free_the_rest()


def _trainable(folder: Path, objective: str, slots: Slots) -> Callable[[dict[str, Any]], None]:
    """The function that trains one job, on whichever process Tune calls it."""

    def train_job(config: dict[str, Any]) -> None:
        experiment = Experiment().override(config[EXPERIMENT])
        try:
            if experiment.run.num_workers == 1:
                device = torch.device("cuda" if slots.gpus_per_worker else "cpu")
                place = Place(device=device, num_threads=None if slots.gpus_per_worker else slots.cpus_per_worker)
                worker.train(experiment, folder / config[NAME], objective, tune.report, place, replay=True)
            else:
                own = folder / config[NAME]
                group.train(experiment, own, objective, slots, [TuneReportCallback()], replay=True)
        except DoesNotFitError as error:
            tune.report({VERDICT: "infeasible", REASON: str(error)})
        except FloatingPointError as error:
            tune.report({VERDICT: "failed", REASON: str(error)})
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            tune.report({VERDICT: "halt", REASON: f"the disk of {folder} is full"})

    return train_job


class _InDriver:
    """Tune pickles its parts beside its own state, which nobody reads; the board and its connections stay here."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Source(_InDriver, TuneSearcher):
    def __init__(self, board: Board) -> None:
        super().__init__()
        self._board = board

    def set_search_properties(self, *args: Any, **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        job = self._board.next()
        if job is None:
            return TuneSearcher.FINISHED
        return {NAME: job.name, EXPERIMENT: job.experiment.flatten()}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """The watcher tells the board."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the board's study is on disk."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing is restored from Tune's notes."""


class _Referee(_InDriver, FIFOScheduler):
    def __init__(self, board: Board) -> None:
        super().__init__()
        self._board = board

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: Row) -> str:
        if VERDICT in result or worker.EPOCH not in result:
            return TrialScheduler.CONTINUE
        row = {name: value for name, value in result.items() if not name.startswith("config/")}
        is_stopped = self._board.row(trial.config[NAME], row)
        return TrialScheduler.STOP if is_stopped else TrialScheduler.CONTINUE


class _Watcher(_InDriver, tune.Callback):
    def __init__(self, board: Board) -> None:
        self._board = board
        self._groups: dict[str, str] = {}
        self._to_free: list[tuple[float, str]] = []

    def on_trial_result(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: Row, **_: Any) -> None:
        if result.get(PLACEMENT_GROUP):
            self._groups[trial.trial_id] = result[PLACEMENT_GROUP]

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any) -> None:
        self._free(trial)
        last = trial.last_result or {}
        self._board.ended(trial.config[NAME], last.get(VERDICT), last.get(REASON, ""))

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any) -> None:
        self._free(trial)
        self._board.died(trial.config[NAME], _error_of(trial))

    def on_trial_recover(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any) -> None:
        self._free(trial)
        # The same dict is handed to the process that tries again.
        trial.config[EXPERIMENT] = self._board.retried(trial.config[NAME], _error_of(trial)).flatten()

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """Frees what stopped worker groups still hold: without the dashboard Ray Train never does."""
        while self._to_free and time.monotonic() - self._to_free[0][0] > SECONDS_UNTIL_FREED:
            _, held = self._to_free.pop(0)
            remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(held)))

    def free_the_rest(self) -> None:
        """After the last step: whatever runs next on this Ray needs what the last ones held."""
        self._to_free += [(time.monotonic(), held) for held in self._groups.values()]
        self._groups.clear()
        while self._to_free:
            time.sleep(0.1)
            self.on_step_end(0, [])

    def _free(self, trial: TuneTrial) -> None:
        held = self._groups.pop(trial.trial_id, None)
        if held is not None:
            self._to_free.append((time.monotonic(), held))


class _Halt(_InDriver, tune.Stopper):
    def __init__(self, board: Board) -> None:
        self._board = board

    def __call__(self, trial_id: str, result: Row) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._board.is_over()


def _error_of(trial: TuneTrial) -> str:
    path = trial.error_file
    text = Path(path).read_text(encoding="utf-8") if path and Path(path).exists() else ""
    return text.strip() or "the process died"
