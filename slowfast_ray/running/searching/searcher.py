"""The board of a search: hands out trials as the study suggests them, and tells what they did.

The study is told first (study.py): what was told survives a kill at any moment, and everything else is made to agree
with it when the search is resumed.
"""

import math
import time
from collections import deque
from collections.abc import Sequence

from slowfast_ray.data import dataset
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checkpoint
from slowfast_ray.running import preflight
from slowfast_ray.running.folders import mirror
from slowfast_ray.running.refusals import RefusedError
from slowfast_ray.running.searching import search_space
from slowfast_ray.running.searching.study import StorageError, Study, Suggestion, Told
from slowfast_ray.running.searching.trials import Trial, best_first, best_of, describe, front_of, is_spent, trial_name
from slowfast_ray.running.tracking.tracking import State
from slowfast_ray.running.training import deaths, worker
from slowfast_ray.running.training.boards import Job
from slowfast_ray.running.training.records import Records
from slowfast_ray.running.training.worker import Row

PRECISION = "learning.precision"


class SearchBoard:
    """Trials, from the first suggestion to their end."""

    def __init__(self, records: Records, study: Study) -> None:
        self.halted = ""
        """Why the search cannot go on; empty where it can."""
        self._records, self._study = records, study
        self._ready, self._config = records.ready, records.config
        self._beaten: set[str] = set()
        self._deadline = math.inf
        """Of the time budget, which begins when somebody first asks for a trial."""
        known = study.trials()
        self._num_begun = len(known)
        self._waiting = deque(study.unfinished())
        if self._num_begun > self._config.num_trials:
            records.view.say(
                f"`search.num_trials` (={self._config.num_trials}) has no effect: {self._num_begun} trials have begun."
            )
        for told in known:
            if told.ending is not None:
                self._recall(told)
        self._strip_losers()

    @property
    def trials(self) -> list[Trial]:
        """All that are known, by number."""
        return self._records.trials

    @property
    def study(self) -> Study:
        """What was suggested and told."""
        return self._study

    def best(self) -> Trial | None:
        """The best so far."""
        return best_of(self.trials, self._config.metric)

    def front(self) -> list[Trial]:
        """Of several objectives, those that no other beats."""
        return front_of(self.trials, self._config.names) if len(self._config.names) > 1 else []

    def halt(self, reason: str) -> None:
        """The search cannot go on; the first reason is kept."""
        self.halted = self.halted or reason

    def is_over(self) -> bool:
        """Whether the budget is used up, or the search cannot go on."""
        return bool(self.halted) or time.monotonic() > self._deadline or self._is_spent()

    def is_complete(self) -> bool:
        """Whether no trial is left to run: all have ended as something else than stopped, or all GPU hours are used."""
        is_any_open = any(trial.state in (None, "stopped") for trial in self.trials)
        return (len(self.trials) >= self._config.num_trials and not is_any_open) or self._is_spent()

    def next(self) -> Job | None:
        """The next trial: those that were interrupted first, then what the study suggests."""
        if self._config.time_budget_min is not None and self._deadline == math.inf:
            self._deadline = time.monotonic() + self._config.time_budget_min * 60
        try:
            while not self.is_over() and (suggestion := self._suggested()) is not None:
                if (job := self._begin(suggestion)) is not None:
                    return job
        except StorageError as error:
            self._halt_by(error)
        return None

    def row(self, name: str, row: Row) -> bool:
        """An epoch is done; whether its trial is stopped, since others do better."""
        if not self._records.note(name, row):
            return False
        trial = self._records[name]
        try:
            is_beaten = self._study.report(trial.number, trial.epoch, trial.value)
            if row[worker.FINISHED]:
                self._study.tell(trial.number, "finished", trial.values)
            elif is_beaten:
                self._study.tell(trial.number, "pruned")
                self._beaten.add(name)
        except StorageError as error:
            self._halt_by(error)
        self._show()
        return name in self._beaten

    def ended(self, name: str, verdict: str | None, reason: str) -> None:
        """A trial ended by itself, or was stopped."""
        self._records.bring(name)
        trial = self._records[name]
        if verdict == "precision":  # another trial would end there just so, unless it computes in another one
            verdict = "infeasible" if self._study.has_drawn(trial.number, PRECISION) else "halt"
        if verdict == "halt":
            self.halt(reason)
            self._end(trial, "stopped", reason)
        elif verdict in ("infeasible", "failed"):
            self._fail(trial, verdict, reason)
        elif trial.is_finished:
            self._end(trial, "finished")
        else:
            self._end(trial, "pruned" if name in self._beaten else "stopped")

    def died(self, name: str, error: str) -> None:
        """A trial raised, or its process died, and is not tried again."""
        self._records.bring(name)
        self._fail(self._records[name], deaths.ending_of(error), deaths.reason_of(error))

    def retried(self, name: str, error: str) -> Experiment:
        """A trial raised, or its process died, and goes on."""
        return self._records.try_again(name, error)

    def restarted(self, name: str, error: str) -> None:
        """Its workers start again."""
        self._records.note_restart(name, error)

    def _suggested(self) -> Suggestion | None:
        if self._waiting:
            return self._waiting.popleft()
        if self._num_begun >= self._config.num_trials:
            return None
        self._num_begun += 1
        return self._study.ask()

    def _begin(self, suggestion: Suggestion) -> Job | None:
        """The job of a suggestion; None where nothing can be trained so."""
        trial, refusal = self._open(suggestion.number, suggestion.sample)
        if suggestion.error:
            self._fail(trial, "failed", suggestion.error)
            return None
        if refusal:
            self._fail(trial, "infeasible", refusal)
            return None
        self._show()
        try:
            self._records.sender.flush()  # what a number stands for is kept before anything is trained under it
        except ValueError as error:
            self.halt(str(error))
            return None
        return Job(trial.name, trial.experiment)

    def _open(self, number: int, sample: dict[str, object]) -> tuple[Trial, str]:
        """The trial of a sample, and why it cannot be trained; empty where it can."""
        experiment, tags, refusal = self._ready.experiment, {}, ""
        try:
            search_space.check_names(sample, experiment)
            experiment = experiment.override(sample)
            preflight.check_against(experiment, dataset.load(experiment.data))
            tags = self._ready.tags_of_trial(experiment)
        except ValueError as error:
            refusal = str(error)
        title = describe(sample, experiment)
        return self._records.open(trial_name(number), number, title, experiment, sample, tags), refusal

    def _recall(self, told: Told) -> None:
        """A trial that ended before this start; MLflow is told again, should it have missed something."""
        assert told.ending is not None
        trial, _ = self._open(told.number, told.sample)
        lost = self._lost(told, trial)
        if lost and told.ending == "finished":
            self._records.view.say(f"{trial.name} cannot win any more: {lost}")
        self._records.end(trial, told.ending, told.reason)
        self._note_best(trial)

    def _lost(self, told: Told, trial: Trial) -> str:
        """Reads what a trial measured; gives why it cannot be read, empty where it can. Lost trials have no value."""
        folder = self._ready.folder / trial.name
        try:
            mirror.patiently(lambda: self._records.fetch(trial.name))
        except ValueError as error:  # without what it measured, another one would seem the best
            raise RefusedError(str(error)) from error
        try:
            self._records.catch_up(trial)
            newest = checkpoint.newest(folder)
            if newest is None:
                return f"{folder} holds no checkpoint any more." if told.curve or told.values else ""
            checkpoint.read_predictions(newest)
        except ValueError as error:
            trial.values = ()
            return str(error)
        return ""

    def _fail(self, trial: Trial, ending: State, reason: str) -> None:
        try:
            self._study.tell(trial.number, "infeasible" if ending == "infeasible" else "failed", reason=reason)
        except StorageError as error:
            self._halt_by(error)
        self._end(trial, ending, reason)

    def _end(self, trial: Trial, state: State, reason: str = "") -> None:
        self._records.end(trial, state, reason)
        self._note_best(trial)
        self._strip_losers()
        self._show()

    def _note_best(self, trial: Trial) -> None:
        """In MLflow, the best so far, once another trial has finished."""
        best = self.best()
        if trial.state == "finished" and best is not None:
            name = f"search/best_{self._config.metric.split('/')[1]}"
            self._records.tracker.log_epoch(self._records.run, trial.number, {name: best.value})

    def _strip_losers(self) -> None:
        """Deletes the weights of trials that can't win any more; what they measured stays."""
        keepers = self._keepers()
        for trial in self.trials:
            if trial not in keepers and trial.state in ("finished", "pruned", "failed"):
                self._records.strip(trial.name)

    def _keepers(self) -> Sequence[Trial]:
        """Those that may win; before one has finished, whoever came furthest."""
        finished = best_first((trial for trial in self.trials if trial.state == "finished"), self._config.metric)
        best = finished[: max(1, self._config.finalists)] or best_first(self.trials, self._config.metric)[:1]
        return [*best, *self.front()]

    def _is_spent(self) -> bool:
        return is_spent(self.trials, self._config)

    def _halt_by(self, error: StorageError) -> None:
        self.halt(f"the study in {self._ready.folder} cannot be written ({str(error).splitlines()[0]})")

    def _show(self) -> None:
        self._records.view.update(self.trials, self.best())
