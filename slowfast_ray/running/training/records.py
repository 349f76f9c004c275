"""What the driver records of the trainings on a board: their rows, their run in MLflow, how they ended."""

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from slowfast_ray.data import dataset
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checkpoint, checksums
from slowfast_ray.running import data_facts, scores
from slowfast_ray.running.folders import begun, logs
from slowfast_ray.running.folders.sending import Sender
from slowfast_ray.running.nodes import node_check
from slowfast_ray.running.nodes.slots import Slots
from slowfast_ray.running.preflight import Ready
from slowfast_ray.running.progress import SearchView
from slowfast_ray.running.searching import objectives
from slowfast_ray.running.searching.config import SearchConfig
from slowfast_ray.running.searching.trials import Trial
from slowfast_ray.running.tracking.tracking import RunHandle, State, Tracker
from slowfast_ray.running.training import deaths, jobs, trainer, worker
from slowfast_ray.running.training.boards import Board
from slowfast_ray.running.training.worker import Row

log = logging.getLogger(__name__)

FINAL_OBJECTIVE = f"{scores.FINAL}/objective"
"""What a trial is worth: the first objective, over its last epochs; with its bounds beside."""

DEVICE_SECONDS = "cost/device_seconds"
"""What it cost: how long it held its GPUs, or its workers where there are none."""

NUM_BROUGHT_AT_ONCE = 16
"""Trials that ran when all was stopped, from a URL: each takes a second or so, and batch systems leave 30 s for all."""


class Records:
    """The trainings of a search, by their names, each a child of the search's run in MLflow."""

    def __init__(
        self,
        ready: Ready,
        config: SearchConfig,
        tracker: Tracker,
        run: RunHandle,
        view: SearchView,
        sender: Sender,
    ) -> None:
        self.ready, self.config, self.tracker, self.run, self.view = ready, config, tracker, run, view
        self.sender = sender
        self._stripped: set[str] = set()
        self._trials: dict[str, Trial] = {}
        self._devices: dict[str, str] = {}

    def __getitem__(self, name: str) -> Trial:
        return self._trials[name]

    @property
    def trials(self) -> list[Trial]:
        """All that are known, by number."""
        return sorted(self._trials.values(), key=lambda trial: trial.number)

    def open(
        self,
        name: str,
        number: int,
        title: str,
        experiment: Experiment,
        sample: dict[str, object],
        tags: Mapping[str, str],
    ) -> Trial:
        """A training begins, or is known from before: its run in MLflow is found again, or made."""
        place = self.ready.home.place_of(name)
        run = self.tracker.open(f"{name} {title}", experiment, place, parent=self.run, tags=tags)
        self.tracker.log_dataset(run, **data_facts.dataset_input(self.ready.data))
        self._trials[name] = Trial(name, number, experiment, sample, run)
        log.info("%s: %s.", name, title)
        return self._trials[name]

    def note(self, name: str, row: Row) -> bool:
        """An epoch is done; gives whether it is news: a second try tells of the first one's epochs again."""
        trial = self._trials[name]
        if row[worker.EPOCH] <= trial.epoch:
            return False
        metrics = trainer.metrics_of(row)
        trial.is_finished = row[worker.FINISHED]
        trial.note(metrics, self.config)
        self.tracker.log_epoch(trial.run, trial.epoch, metrics)
        if self._devices.get(name) != row[worker.DEVICE]:
            self._devices[name] = row[worker.DEVICE]
            self.tracker.set_tags(trial.run, {"slowfast_ray.device": row[worker.DEVICE]})
        return True

    def try_again(self, name: str, error: str) -> Experiment:
        """A training goes on from its newest checkpoint; after a lack of memory with fewer clips at once."""
        trial = self._trials[name]
        trial.experiment, changed = deaths.after(error, trial.experiment, trial.history)
        why = f"{deaths.reason_of(error)}{changed}"
        self.view.say(f"{name}: {why}; it goes on after epoch {trial.epoch}.")
        self.tracker.set_tags(trial.run, {"slowfast_ray.retried": why[:4000]})
        return trial.experiment

    def note_restart(self, name: str, error: str) -> None:
        """The workers of a training broke off, and start again from its newest checkpoint."""
        trial, why = self._trials[name], deaths.reason_of(error)
        self.view.say(f"{name}: {why}; its workers start again after epoch {trial.epoch}.")
        self.tracker.set_tags(trial.run, {"slowfast_ray.retried": why[:4000]})

    def catch_up(self, trial: Trial) -> None:
        """A worker may be an epoch ahead of the rows that arrived; its checkpoint, once it is here, knows it."""
        newest = checkpoint.newest(self.ready.folder / trial.name)
        if newest is None:
            return
        progress = checkpoint.read_progress(newest)
        self.tracker.log_missing_epochs(trial.run, worker.told(progress))
        for metrics in progress.history[trial.epoch :]:
            trial.note(metrics, self.config)
        trial.is_finished = worker.is_finished(progress, trial.experiment)

    def end(self, trial: Trial, state: State, reason: str = "") -> None:
        """A training ended, and what it left is here."""
        trial.state, trial.reason = state, reason
        why = f": {reason}" if reason else "."
        log.info(
            "%s %s after %d epoch(s), at %s %.4g%s",
            trial.name,
            state,
            trial.epoch,
            self.config.metric,
            trial.value,
            why,
        )
        if state in ("finished", "pruned"):
            self._report(trial)
        kept = self.ready.folder / trial.name / logs.LOG
        if kept.is_file():
            self.tracker.log_file(trial.run, kept)
        self.tracker.end(trial.run, state, reason)
        if reason:
            self.view.say(f"{trial.name} {state}: {reason}")

    def _report(self, trial: Trial) -> None:
        """What a training came to: figures with their bounds, tables and pictures."""
        folder = self.ready.folder / trial.name
        newest = checkpoint.newest(folder)
        if newest is None or not trial.has_value:
            return
        try:
            score = scores.of_checkpoint(trial.name, newest, dataset.load(trial.experiment.data))
        except ValueError as error:  # damaged since: the search has said so
            log.warning("%s has no figures with bounds: %s", trial.name, error)
            return
        found = objectives.around(trial.value, score.intervals.get(self.config.metric))
        metrics = {**scores.metrics_of(score, scores.FINAL), FINAL_OBJECTIVE: trial.value}
        if found is not None:
            metrics |= {f"{FINAL_OBJECTIVE}_low": found.low, f"{FINAL_OBJECTIVE}_high": found.high}
        metrics[DEVICE_SECONDS] = trial.gpu_seconds
        self.tracker.log_epoch(trial.run, trial.epoch, metrics)
        self.tracker.set_tags(trial.run, {"slowfast_ray.device_seconds": f"{trial.gpu_seconds:.1f}"})
        members = folder / begun.MEMBERS
        self.tracker.log_report(trial.run, newest, members if members.is_file() else self.ready.folder / begun.MEMBERS)

    def bring(self, name: str) -> None:
        """What a training measured and said, to this machine, where its worker kept it at a URL; without weights."""
        try:
            self.fetch(name)
        except (OSError, ValueError) as error:
            log.warning("What %s measured is not here: %s", name, error)

    def fetch(self, name: str) -> None:
        """The same; raises ValueError where its storage is away."""
        self.ready.home.below(name).bring_checkpoints(without=checkpoint.HEAVY, with_files=(logs.LOG,))

    def strip(self, name: str) -> None:
        """Deletes the weights of a training that can't win any more; what it measured stays."""
        if name in self._stripped:
            return
        try:
            self.sender.flush()  # who has lost is known there before it loses its weights
        except ValueError as error:
            log.warning("The weights of %s stay: %s", name, error)
            return
        self._stripped.add(name)
        checkpoint.strip(self.ready.folder / name)
        home = self.ready.home.below(name)
        try:
            for each in home.folder.glob("epoch-*"):
                home.remove(*(f"{each.name}/{file}" for file in checkpoint.HEAVY))
                home.send(f"{each.name}/{checksums.CHECKSUMS}")
        except ValueError as error:
            log.warning("The weights of %s stay: %s", name, error)

    def train(self, board: Board, slots: Slots, *, verbose: bool) -> None:
        """Runs the jobs of `board`, which records them here; however that ends, all of them are closed."""
        try:
            with self.view, node_check.newcomers(self.ready, slots, board.halt, self.view.say):
                jobs.run(
                    board,
                    self.ready.name,
                    identity=begun.identity_of(self.ready.folder),
                    objective=self.config.best_epoch_by,
                    slots=slots,
                    data=self.ready.data,
                    hang_timeout_min=self.ready.experiment.run.hang_timeout_min,
                    max_failures=self.config.max_failures,
                    verbose=verbose,
                )
        finally:
            self.close()

    def close(self) -> None:
        """Ends what is still open: what ran when all was stopped goes on when it is resumed."""
        still_open = [trial for trial in self.trials if trial.state is None]
        with ThreadPoolExecutor(NUM_BROUGHT_AT_ONCE) as pool:
            list(pool.map(self.bring, [trial.name for trial in still_open]))  # raises what one of them raised
        for trial in still_open:
            try:
                self.catch_up(trial)
            except ValueError as error:  # damaged: its resume goes on from an older one
                log.warning("What %s measured last is not in MLflow: %s", trial.name, error)
            self.end(trial, "stopped")
