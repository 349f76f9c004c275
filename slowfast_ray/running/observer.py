"""Sees a search go by, in the driver: keeps its trials, writes MLflow, moves the view, frees what stopped ones held."""

import math
import time
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.util.placement_group import PlacementGroup, remove_placement_group

from slowfast_ray.learning import checkpoint
from slowfast_ray.running import trainer, worker
from slowfast_ray.running.config import SearchConfig
from slowfast_ray.running.group import PLACEMENT_GROUP
from slowfast_ray.running.preflight import Ready
from slowfast_ray.running.progress import SearchView
from slowfast_ray.running.searcher import TRIAL
from slowfast_ray.running.tracking import State, Tracker
from slowfast_ray.running.trials import SearchResult, Trial, best_of, describe, trial_name
from slowfast_ray.running.worker import Row

SECONDS_UNTIL_FREED = 2.0
"""A stopped worker group's controller needs a moment to die before its resources can be taken from it."""


class Observer(tune.Callback):
    """Sees what Tune sees, in the driver: keeps the trials, writes MLflow, moves the view, frees resources."""

    def __init__(self, tracker: Tracker, ready: Ready, config: SearchConfig, run_id: str, view: SearchView) -> None:
        self.view = view
        self._tracker, self._ready, self._config, self._run_id = tracker, ready, config, run_id
        self._trials: dict[str, Trial] = {}
        self._deadline = math.inf
        if config.time_budget_min is not None:
            self._deadline = time.monotonic() + config.time_budget_min * 60
        self._to_free: list[tuple[float, str]] = []

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks beside its own state; connections and terminals stay here."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Opens the trial's run."""
        sample = {name: value for name, value in trial.config.items() if name != TRIAL}
        number = trial.config[TRIAL]
        experiment = self._ready.experiment.override(sample)
        name = trial_name(number)
        run_id = self._tracker.start(
            f"{name} {describe(sample)}",
            experiment,
            self._ready.folder / name,
            parent=self._run_id,
            tags=self._ready.tags_of_trial(experiment),
        )
        self._trials[trial.trial_id] = Trial(number, experiment, sample, run_id, started=time.monotonic())
        self._show()

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: Row, **info: Any
    ) -> None:
        """Logs an epoch."""
        known = self._trials[trial.trial_id]
        best_before = self._best_value()
        known.row = result
        known.placement_group = result.get(PLACEMENT_GROUP)
        self._tracker.log_epoch(known.run_id, result[worker.EPOCH], trainer.metrics_of(result))
        if self._best_value() not in (None, best_before):
            values = {f"search/best_{self._config.metric.split('/')[1]}": known.best_value}
            self._tracker.log_epoch(self._run_id, known.number, values)
        self._show()

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Closes the run of a trial that ended by itself or was stopped."""
        known = self._trials[trial.trial_id]
        if known.row is None:
            self._end(known, "failed", {"slowfast_ray.error": "ended without an epoch"})
        elif known.row[worker.FINISHED]:
            self._end(known, "finished")
        else:
            self._end(known, "stopped" if time.monotonic() > self._deadline else "pruned")

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Closes the run of a trial that raised or died."""
        path = trial.error_file
        text = Path(path).read_text(encoding="utf-8") if path and Path(path).exists() else "the process died"
        last_line = (text.strip() or "the process died").splitlines()[-1]
        self.view.say(f"{self._trials[trial.trial_id].name} failed: {last_line}")
        self._end(self._trials[trial.trial_id], "failed", {"slowfast_ray.error": last_line[:4000]})

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """Frees what stopped worker groups still hold: without the dashboard Ray Train never does."""
        now = time.monotonic()
        for ended, group in [each for each in self._to_free if now - each[0] > SECONDS_UNTIL_FREED]:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(group)))
            self._to_free.remove((ended, group))

    def best(self) -> Trial | None:
        """The best trial so far."""
        return best_of(self._trials.values(), self._config.metric)

    def _best_value(self) -> float | None:
        best = self.best()
        return None if best is None else best.best_value

    def close(self) -> None:
        """Ends what is still open: trials that ran when the search was stopped."""
        for trial in self._trials.values():
            if trial.state is None:
                self._catch_up(trial)
                self._end(trial, "stopped")

    def _catch_up(self, trial: Trial) -> None:
        """A worker may be epochs ahead of the rows that arrived before it was stopped; its checkpoint knows them."""
        folder = self._ready.folder / trial.name
        newest = checkpoint.newest(folder)
        if newest is None:
            return
        progress = checkpoint.read_progress(newest)
        seen = 0 if trial.row is None else trial.row[worker.EPOCH]
        for epoch in range(seen + 1, progress.epoch + 1):
            self._tracker.log_epoch(trial.run_id, epoch, progress.history[epoch - 1])
        if progress.epoch > seen:
            trial.row = worker.row_of(progress, folder, trial.experiment)

    def result(self, started: float) -> SearchResult:
        """What the search found; `started` is the second of the monotonic clock when it began."""
        ended = [trial for trial in self._trials.values() if trial.state != "stopped"]
        now = time.monotonic()
        return SearchResult(
            trials=sorted(self._trials.values(), key=lambda trial: trial.number),
            best=self.best(),
            interrupted=len(ended) < self._config.num_trials and now < self._deadline,
            run_id=self._run_id,
            tracking_uri=self._tracker.uri,
            seconds=now - started,
        )

    def _end(self, trial: Trial, state: State, tags: dict[str, str] | None = None) -> None:
        trial.state = state
        trial.seconds = time.monotonic() - trial.started
        if trial.placement_group is not None:
            self._to_free.append((time.monotonic(), trial.placement_group))
        self._tracker.end(trial.run_id, state, tags or {})
        self._show()

    def _show(self) -> None:
        self.view.update(list(self._trials.values()), self.best())
