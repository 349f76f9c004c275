"""search(): trials over the fields of an Experiment, every one a real training, every one in MLflow; and resumed.

What a search is, is on disk: the experiment that it began as, its space and its objectives (search.json), and the study
(study.db), which optuna-dashboard opens. Whoever resumes it starts the same function on the same folder.
"""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checkpoint, counts
from slowfast_ray.running import data_facts, preflight, scores
from slowfast_ray.running.folders import begun, logs, mirror, sending
from slowfast_ray.running.folders.sending import Sender
from slowfast_ray.running.nodes import cluster, node_check
from slowfast_ray.running.nodes.slots import Machines, Slots
from slowfast_ray.running.preflight import Ready
from slowfast_ray.running.progress import SearchView
from slowfast_ray.running.searching import (
    objectives,
    search_begun,
    search_note,
    search_rules,
    search_space,
    search_start,
    search_summary,
    winner,
)
from slowfast_ray.running.searching.config import SearchConfig
from slowfast_ray.running.searching.search_space import Drawable, Space
from slowfast_ray.running.searching.searcher import SearchBoard
from slowfast_ray.running.searching.trials import Trial
from slowfast_ray.running.searching.winner import Decision
from slowfast_ray.running.tracking import tracking
from slowfast_ray.running.tracking.tracking import RunHandle, State, Tracker
from slowfast_ray.running.training.records import DEVICE_SECONDS, FINAL_OBJECTIVE, Records


@dataclass
class SearchResult:
    """What a search found."""

    trials: list[Trial]
    best: Trial | None
    """The best of those that finished; where none did, of all that have an epoch. None where there is none."""
    checkpoint: Path | None
    """Of the best: its newest; a finalist's own where finalists were trained."""
    decision: Decision | None
    """What the finalists say; None where there were none."""
    front: list[Trial]
    """Of several objectives: the finished trials that no other beats in all of them. Of one: empty."""
    interrupted: bool
    """By Ctrl-C: neither all trials nor the budget were used up."""
    halted: str
    """Why the search could not go on; empty where it could."""
    tracking_uri: str
    kept_bytes: int
    """What the checkpoints of all trials take on disk."""
    seconds: float = 0.0
    run_id: str = ""
    """Of the search, in MLflow; empty where MLflow never took it."""
    num_unsent: int = 0
    """Entries that MLflow did not take."""

    @property
    def state(self) -> State:
        """How the search ended, as its run in MLflow says it."""
        if self.interrupted or self.halted:
            return "stopped"
        if self.best is not None:
            return "finished"
        return "stopped" if self._is_cut_short else "failed"

    @property
    def reason(self) -> str:
        """Why it had to stop, or found nothing; empty where it did neither."""
        if self.halted or self.interrupted or self.best is not None:
            return self.halted
        if self._is_cut_short:
            return "the budget was used up before any trial had completed an epoch"
        num_failed = sum(trial.state != "stopped" for trial in self.trials)
        return (
            f"no trial completed an epoch, and {num_failed} of {len(self.trials)} failed; the runs in MLflow carry "
            "their errors as tags"
        )

    @property
    def _is_cut_short(self) -> bool:
        return all(trial.state == "stopped" for trial in self.trials)


def check(
    experiment: Experiment,
    space: Space,
    config: SearchConfig,
    *,
    name: str,
    resume: bool = False,
    anyway: bool = False,
) -> Ready:
    """Everything that must hold before a search starts, or goes on. Writes nothing; raises ValueError or OSError.

    Under the purged split all trials are given the widest window of the space, so that they train and validate on the
    same samples whatever their clips. `anyway` lets a search go on whose space, experiment or data are not what they
    were.
    """
    drawable = search_space.drawable(space)
    experiment = search_space.with_widest_window(drawable, experiment)
    search_space.check(drawable, experiment)
    cluster.check_fits(experiment.run, config.max_concurrent)
    ready = preflight.check_search(
        experiment,
        name=name,
        objectives=config.names,
        resume=resume,
        anyway=anyway,
        widest_window=search_space.widest_window(drawable, experiment),
    )
    if resume:
        search_begun.check_same(ready, drawable, config, anyway=anyway)
    if config.warm_start is not None and not resume:
        search_start.check(ready, drawable, config)
    return ready


def search(
    ready: Ready, space: Space, config: SearchConfig, *, resume: bool = False, verbose: bool = False
) -> SearchResult:
    """Searches; returns after the last trial, the end of a budget, or Ctrl-C. However it ends, MLflow says so.

    With `resume`, trials that ended stay as they are, and those that ran go on from their newest checkpoints.
    """
    experiment, drawable = ready.experiment, search_space.drawable(space)
    started = time.monotonic()
    with cluster.connected(experiment.run, verbose=verbose):
        slots, found = cluster.slots_for(experiment.run, config.max_concurrent)
        node_check.check(ready)
        if resume:
            sending.wait_until_alone(ready.home)
        else:
            preflight.claim(ready, search_begun.to_json(drawable, config))
        with search_begun.alone(ready), Sender(ready.home) as sender, logs.kept_in(ready.folder):
            if resume:
                search_begun.note(ready, drawable, config)
            begun.note_command(ready.folder)
            trials = search_rules.open_study(ready, drawable, config)
            with ready.tracker() as tracker:
                run = _open(tracker, ready, drawable, config, found, resume=resume)
                view = SearchView(ready.name, config, experiment.learning.num_epochs)
                records = Records(ready, config, tracker, run, view, sender)
                result = _run(records, drawable, SearchBoard(records, trials), slots, verbose=verbose)
    seconds = time.monotonic() - started
    return replace(result, num_unsent=tracker.num_unsent, run_id=run.id or "", seconds=seconds)


def _open(
    tracker: Tracker, ready: Ready, space: Drawable, config: SearchConfig, found: Machines, *, resume: bool
) -> RunHandle:
    """The search's run in MLflow, with what it began with."""
    tags = {
        "slowfast_ray.metric": config.objectives,
        "slowfast_ray.cluster": str(found),
        tracking.NOTE: search_note.opening(ready, space, config),
        **ready.tags(),
    }
    settings = {f"search.{name}": value for name, value in asdict(config).items()}
    run = tracker.open(ready.name, ready.experiment, ready.home.place, tags=tags, params=settings, resume=resume)
    tracker.log_dataset(run, **data_facts.dataset_input(ready.data))
    objective = [f"{FINAL_OBJECTIVE}{bound}" for bound in ("", "_low", "_high")]
    scored = [*config.names, counts.VAL_TOP1, counts.VAL_LOSS, DEVICE_SECONDS]
    tracker.share_view(
        run,
        parameters=list(space.distributions),
        metrics=list(dict.fromkeys(objective + [name for name in scored if name != objectives.GPU_SECONDS])),
        higher_is_better=objectives.HIGHER_IS_BETTER[config.metric],
    )
    for name, text in ready.texts().items():
        tracker.log_text(run, text, name)
    return run


def _run(records: Records, space: Drawable, board: SearchBoard, slots: Slots, *, verbose: bool) -> SearchResult:
    ready, config, tracker, run = records.ready, records.config, records.tracker, records.run
    state: State = "failed"
    reason = ""
    try:
        records.train(board, slots, verbose=verbose)
        decision, halted = _decision(records, board, slots, verbose=verbose)
        result = _result(records, board, decision, board.halted or halted)
        state, reason = result.state, result.reason
        if result.checkpoint is not None:
            tracker.log_folder(run, result.checkpoint, "best")
            tracker.log_text(run, scores.per_class_json(result.checkpoint, ready.data), "per_class.json")
        if decision is not None:
            tracker.log_file(run, ready.folder / winner.FINALISTS)
        if not result.halted:
            tracker.log_folder(run, search_summary.draw(ready, config, board.study, board.trials), "pictures")
        note = search_note.closing(ready, space, config, board.trials, decision)
        tracker.set_tags(run, {tracking.NOTE: note})
        tracker.log_file(run, ready.folder / logs.LOG)
    except KeyboardInterrupt:
        state = "stopped"
        raise
    except Exception as error:
        state, reason = "failed", f"{type(error).__name__}: {error}"
        raise
    finally:
        tracker.end(run, state, reason)
    return result


def _decision(records: Records, board: SearchBoard, slots: Slots, *, verbose: bool) -> tuple[Decision | None, str]:
    """What the finalists say, where all trials are done and finalists are asked for; and why they do not, if so."""
    ready, config = records.ready, records.config
    if not config.finalists or not board.is_complete() or board.halted:
        return None, ""
    shown = replace(config, num_trials=winner.num_runs(ready, config), time_budget_min=None)
    view = SearchView(f"{ready.name}, finalists", shown, ready.experiment.learning.num_epochs)
    own = Records(ready, config, records.tracker, records.run, view, records.sender)
    return winner.decide(own, board.trials, slots, verbose=verbose)


def _result(records: Records, board: SearchBoard, decision: Decision | None, halted: str) -> SearchResult:
    best = board.best()
    checkpoint_of_best = None if best is None else checkpoint.newest(records.ready.folder / best.name)
    if decision is not None:
        number = decision.report.winner().number
        best = next(trial for trial in board.trials if trial.number == number)
        checkpoint_of_best = decision.checkpoint
    home = records.ready.home
    if checkpoint_of_best is not None:
        mirror.patiently(home.below(checkpoint_of_best.parent.name).bring_checkpoints)
    return SearchResult(
        trials=board.trials,
        best=best,
        checkpoint=checkpoint_of_best,
        decision=decision,
        front=board.front(),
        interrupted=not board.is_complete() and not board.is_over(),
        halted=halted,
        tracking_uri=records.tracker.uri,
        kept_bytes=home.num_bytes(),
    )
