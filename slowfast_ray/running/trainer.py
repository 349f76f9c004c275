"""fit(): one run, in this process or over the workers of a Ray Train group, with its entry in MLflow."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from slowfast_ray.learning import checkpoint, loop
from slowfast_ray.learning.loop import Step
from slowfast_ray.running import preflight, scores, worker
from slowfast_ray.running.preflight import Ready
from slowfast_ray.running.tracking import State, Tracker
from slowfast_ray.running.worker import Place, Row


@dataclass(frozen=True)
class Outcome:
    """What a run left behind."""

    row: Row
    """The row of the last epoch."""
    run_id: str
    """In MLflow; empty where it never took the run."""
    tracking_uri: str
    num_unsent: int
    """Entries that MLflow did not take."""


def fit(
    ready: Ready,
    objective: str,
    *,
    resume: bool = False,
    verbose: bool = False,
    on_row: Callable[[Row], None],
    on_step: Callable[[Step], None] = loop.ignore,
) -> Outcome:
    """Trains to the last planned epoch; `on_row` sees the row of every epoch as it comes, `on_step` every step of a
    single worker.

    With one worker it trains in this process, where a debugger works. However it ends, MLflow says so.
    """
    experiment, folder = ready.experiment, ready.folder
    assert experiment.run.tracking_uri is not None, "preflight resolved it"
    if not resume:
        preflight.claim(ready)
    tracker = Tracker(experiment.run.tracking_uri)
    run = tracker.open(ready.name, experiment, folder, tags=ready.tags(), resume=resume)
    for name, text in ready.texts().items():
        tracker.log_text(run, text, name)
    history = _history(folder)
    rows: list[Row] = []

    def note(row: Row) -> None:
        if row[worker.EPOCH] > len(history):  # a run that was complete only repeats its last row
            tracker.log_epoch(run, row[worker.EPOCH], metrics_of(row))
        rows.append(row)
        on_row(row)

    state: State = "failed"
    try:
        tracker.log_missing_epochs(run, history)
        if experiment.run.num_workers == 1:
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            worker.train(experiment, folder, objective, note, Place(device=device), on_step)
        else:
            from slowfast_ray.running import group  # Ray Train takes a second to import

            group.fit(ready, objective, note, verbose=verbose)
        state = "finished"
        best = checkpoint.best(folder)
        assert best is not None, "a finished run has saved an epoch"
        tracker.log_folder(run, best, "best")
        tracker.log_text(run, scores.per_class_json(best, ready.data), "per_class.json")
    except KeyboardInterrupt:
        state = "stopped"
        raise
    finally:
        tracker.end(run, state)
        tracker.flush()
    return Outcome(row=rows[-1], run_id=run.id or "", tracking_uri=tracker.uri, num_unsent=tracker.num_unsent)


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
