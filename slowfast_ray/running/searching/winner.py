"""The finalists of a search, trained again with other seeds and on all folds: who wins is decided by these alone."""

import itertools
import math
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from slowfast_ray.data import dataset
from slowfast_ray.experiment import OF_THE_PLACE, Experiment
from slowfast_ray.learning import checkpoint
from slowfast_ray.running.folders import begun
from slowfast_ray.running.nodes.slots import Slots
from slowfast_ray.running.preflight import Ready
from slowfast_ray.running.searching.config import SearchConfig
from slowfast_ray.running.searching.finalists import Candidate, Finalist, Report, choose
from slowfast_ray.running.searching.trials import Trial, describe
from slowfast_ray.running.tracking import tracking
from slowfast_ray.running.training import deaths, worker
from slowfast_ray.running.training.boards import Job
from slowfast_ray.running.training.records import Records
from slowfast_ray.running.training.worker import Row

REFERENCE = 0
"""The number of the trial that is the experiment itself."""
FINALISTS = "finalists.md"
"""In a search's folder, and in MLflow: the table of its finalists."""


@dataclass(frozen=True)
class FinalistRun:
    """One training of a finalist."""

    name: str
    """Of its folder."""
    number: int
    """Of the trial that it repeats."""
    seed: int
    fold: int
    experiment: Experiment
    sample: dict[str, object]


def planned(ready: Ready, finalists: list[Trial], config: SearchConfig) -> list[FinalistRun]:
    """Every finalist with every seed on every fold, with seeds that the search has not used: one finalist's runs after
    all others', so that what is cut short still compares them.
    """
    seeds = [(ready.experiment.run.seed + 1 + each) % 2**32 for each in range(num_seeds(ready, config))]
    folds = range(num_folds(ready))
    return [
        FinalistRun(
            f"finalist-{trial.number:03d}-seed-{seed}-fold-{fold}",
            trial.number,
            seed,
            fold,
            ready.experiment.override({**trial.sample, "run.seed": seed, "data.fold": fold}),
            trial.sample,
        )
        for seed, fold, trial in itertools.product(seeds, folds, finalists)
    ]


def num_folds(ready: Ready) -> int:
    """Folds that finalists are trained on: all that the split has."""
    data = ready.experiment.data
    if data.split == "purged":
        return data.num_folds
    return ready.data.source.timeline.num_sessions if data.split == "leave-one-session-out" else 1


def num_runs(ready: Ready, config: SearchConfig) -> int:
    """Trainings of the finalists, the experiment itself among them, if none is tied with the last."""
    return (config.finalists + 1) * num_seeds(ready, config) * num_folds(ready)


def num_seeds(ready: Ready, config: SearchConfig) -> int:
    """Seeds of each finalist: as asked for, else as many as give bounds that say something."""
    return config.finalist_seeds or (2 if num_folds(ready) > 1 else 3)


class FinalistBoard:
    """Runs of finalists, one after the other; none is stopped early."""

    def __init__(self, records: Records, runs: list[FinalistRun]) -> None:
        self.halted = ""
        """Why they cannot go on; empty where they can."""
        self._records = records
        # A checkpoint to take away is kept of each finalist: any of them may win, now or after more runs.
        self._kept = {run.name for run in runs if run == _kept_of(records.ready, runs, run.number)}
        self._waiting = deque(each for each in runs if not self._is_done(each))

    def halt(self, reason: str) -> None:
        """They cannot go on; the first reason is kept."""
        self.halted = self.halted or reason

    def is_over(self) -> bool:
        """Whether they cannot go on."""
        return bool(self.halted)

    def next(self) -> Job | None:
        """The next run that is not done yet."""
        if not self._waiting or self.is_over():
            return None
        run = self._waiting.popleft()
        self._open(run)
        folder = self._records.ready.folder / run.name
        folder.mkdir(exist_ok=True)
        # Other samples than the search's: whoever evaluates its checkpoint must know.
        (folder / begun.MEMBERS).write_text(dataset.load(run.experiment.data).members_json(), encoding="utf-8")
        self._show()
        return Job(run.name, run.experiment)

    def row(self, name: str, row: Row) -> bool:
        """An epoch is done."""
        self._records.note(name, row)
        self._show()
        return False

    def ended(self, name: str, verdict: str | None, reason: str) -> None:
        """It ended."""
        self._records.bring(name)
        trial = self._records[name]
        if verdict in ("halt", "precision"):
            self.halt(reason)
        has_failed = verdict in ("infeasible", "failed")
        self._records.end(trial, "finished" if trial.is_finished else "failed" if has_failed else "stopped", reason)
        if trial.is_finished and name not in self._kept:
            self._records.strip(name)
        self._show()

    def died(self, name: str, error: str) -> None:
        """It raised, or its process died, too often."""
        self._records.bring(name)
        self._records.end(self._records[name], deaths.ending_of(error), deaths.reason_of(error))
        self._show()

    def retried(self, name: str, error: str) -> Experiment:
        """It raised, or its process died, and goes on."""
        return self._records.try_again(name, error)

    def restarted(self, name: str, error: str) -> None:
        """Its workers start again."""
        self._records.note_restart(name, error)

    def _is_done(self, run: FinalistRun) -> bool:
        """Whether an earlier start has finished a run, which is then known."""
        self._records.bring(run.name)
        newest = checkpoint.newest(self._records.ready.folder / run.name)
        if newest is None or not worker.is_finished(checkpoint.read_progress(newest), run.experiment):
            return False
        trial = self._open(run)
        self._records.catch_up(trial)
        self._records.end(trial, "finished")
        return True

    def _open(self, run: FinalistRun) -> Trial:
        tags = {tracking.FINALIST: str(run.number), **self._records.ready.tags_of_trial(run.experiment)}
        title = f"seed={run.seed} fold={run.fold} {describe(run.sample, run.experiment)}"
        return self._records.open(run.name, run.number, title, run.experiment, run.sample, tags)

    def _show(self) -> None:
        self._records.view.update(self._records.trials, None)


@dataclass(frozen=True)
class Decision:
    """What the finalists say."""

    report: Report
    num_tied_left_out: int
    """Trials that are tied with the last finalist, and were not trained again."""
    checkpoint: Path | None
    """The winner's, of its first new seed on the search's own fold; of all samples where it was trained on them."""


def decide(records: Records, trials: list[Trial], slots: Slots, *, verbose: bool) -> tuple[Decision | None, str]:
    """Trains the finalists among `trials`, and chooses; what an earlier start has trained is not trained again.

    Gives no decision where no trial finished, or no finalist did, and where not all runs have ended; and why they have
    not, empty where they have.
    """
    ready, config = records.ready, records.config
    finished = [trial for trial in trials if trial.state == "finished" and trial.has_value]
    if not finished:
        return None, ""
    k = min(config.finalists, len(finished))
    chosen = choose([_candidate(ready, trial) for trial in finished], k, config.metric, ready.data.val.blocks_S)
    has_reference = trials[0].number == REFERENCE and trials[0].state in ("finished", "pruned")
    runners = [
        trial for trial in trials if trial.number in chosen.numbers or (has_reference and trial.number == REFERENCE)
    ]
    runs = planned(ready, runners, config)
    halted = _train(records, runs, slots, verbose=verbose)
    values = {trial.name: trial.value for trial in records.trials if trial.state == "finished"}
    if halted or not values:
        return None, halted
    report = Report(
        tuple(
            Finalist(
                trial.number,
                trial.value if trial.state == "finished" else math.nan,
                {
                    (run.seed, run.fold): values[run.name]
                    for run in runs
                    if run.number == trial.number and run.name in values
                },
                was_chosen=trial.number in chosen.numbers,
            )
            for trial in runners
        ),
        config.metric,
        ready.experiment.data.fold,
        REFERENCE if has_reference else None,
    )
    (ready.folder / FINALISTS).write_text(report.to_markdown(), encoding="utf-8")
    best = next(trial for trial in runners if trial.number == report.winner().number)
    kept = _kept_of(ready, runs, best.number)
    if config.train_winner:
        name = f"winner-{best.number:03d}-seed-{kept.seed}"
        kept = FinalistRun(name, best.number, kept.seed, 0, _on_all_samples(best.experiment, kept.seed), best.sample)
        halted = _train(records, [kept], slots, verbose=verbose)
    newest = checkpoint.newest(ready.folder / kept.name)
    return Decision(report, chosen.num_tied_left_out, newest), halted


def _train(records: Records, runs: list[FinalistRun], slots: Slots, *, verbose: bool) -> str:
    """Trains what is missing; gives why not all have ended, empty where they have."""
    for run in runs:
        records.bring(run.name)
        newest = checkpoint.newest(records.ready.folder / run.name)
        if newest is not None and not _is_of(newest, run.experiment):
            return f"{newest.parent} was trained as another experiment; move it away, or search under another name"
    board = FinalistBoard(records, runs)
    records.train(board, slots, verbose=verbose)
    ended = {trial.name for trial in records.trials if trial.state not in (None, "stopped")}
    num_left = len({run.name for run in runs} - ended)
    return board.halted or (f"{num_left} of {len(runs)} trainings of finalists were interrupted" if num_left else "")


def _candidate(ready: Ready, trial: Trial) -> Candidate:
    newest = checkpoint.newest(ready.folder / trial.name)
    predictions = None if newest is None else checkpoint.read_predictions(newest)
    is_single = predictions is not None and not predictions.is_multi
    return Candidate(trial.number, trial.value, predictions if is_single else None)


def _kept_of(ready: Ready, runs: list[FinalistRun], number: int) -> FinalistRun:
    """The run of a finalist whose checkpoint is kept: its first new seed, on the search's own fold."""
    own = [run for run in runs if run.number == number]
    return min(own, key=lambda run: (run.fold != ready.experiment.data.fold, run.seed))


def _is_of(newest: Path, experiment: Experiment) -> bool:
    """Whether a checkpoint was trained as `experiment`; where, and with how many clips at once, may differ."""
    saved = Experiment.from_json((newest / begun.BEGUN_AS).read_text(encoding="utf-8")).flatten()
    free = (*OF_THE_PLACE, "learning.micro_batch")
    return all(saved[name] == value for name, value in experiment.flatten().items() if name not in free)


def _on_all_samples(experiment: Experiment, seed: int) -> Experiment:
    return experiment.override({"run.seed": seed, "data.split": "all", "data.fold": 0, "data.purge_window": None})
