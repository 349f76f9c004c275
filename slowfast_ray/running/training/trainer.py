"""fit(): one run, in this process or over the workers of a Ray Train group, with its entry in MLflow."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from slowfast_ray.learning import checkpoint, loop
from slowfast_ray.learning.loop import Step
from slowfast_ray.running import data_facts, preflight, scores
from slowfast_ray.running.folders import begun, logs, mirror, sending
from slowfast_ray.running.folders.sending import Sender
from slowfast_ray.running.nodes import cluster, node_check
from slowfast_ray.running.nodes.slots import Slots
from slowfast_ray.running.preflight import Ready
from slowfast_ray.running.searching import objectives
from slowfast_ray.running.tracking.tracking import RunHandle, State, Tracker
from slowfast_ray.running.training import wiring, worker
from slowfast_ray.running.training.wiring import Place
from slowfast_ray.running.training.worker import Row

log = logging.getLogger(__name__)


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

    With one worker on this machine it trains in this process, where a debugger works; on a cluster where it fits.
    However it ends, MLflow says so. Raises RefusedError, and leaves nothing, where the machines cannot do it.
    """
    experiment = ready.experiment
    with _place_for(ready, verbose=verbose) as slots:
        if resume:
            sending.wait_until_alone(ready.home)
        else:
            preflight.claim(ready)
        with Sender(ready.home), ready.tracker() as tracker:
            run = tracker.open(ready.name, experiment, ready.home.place, tags=ready.tags(), resume=resume)
            row = _fit(tracker, run, ready, objective, slots, on_row=on_row, on_step=on_step)
    return Outcome(row=row, run_id=run.id or "", tracking_uri=tracker.uri, num_unsent=tracker.num_unsent)


@contextmanager
def _place_for(ready: Ready, *, verbose: bool) -> Iterator[Slots | None]:
    """What each worker gets on a Ray that is connected for the duration of the block; None where this process trains.

    Raises RefusedError where the machines cannot hold it, or are not fit.
    """
    run = ready.experiment.run
    if not run.needs_ray:
        yield None
        return
    with cluster.connected(run, verbose=verbose):
        slots, found = cluster.slots_for(run, max_concurrent=1)
        node_check.check(ready)
        log.info("On %s: %s.", found, slots.described(found))
        yield slots


def _fit(
    tracker: Tracker,
    run: RunHandle,
    ready: Ready,
    objective: str,
    slots: Slots | None,
    *,
    on_row: Callable[[Row], None],
    on_step: Callable[[Step], None],
) -> Row:
    experiment, folder = ready.experiment, ready.folder
    for name, text in ready.texts().items():
        tracker.log_text(run, text, name)
    tracker.log_dataset(run, **data_facts.dataset_input(ready.data))
    mirror.patiently(lambda: ready.home.bring_checkpoints(without=checkpoint.HEAVY))
    history = _history(folder)
    rows: list[Row] = []

    def note(row: Row) -> None:
        if row[worker.EPOCH] > len(history):  # a run that was complete only repeats its last row
            tracker.log_epoch(run, row[worker.EPOCH], metrics_of(row))
            if not rows:
                tracker.set_tags(run, {"slowfast_ray.device": row[worker.DEVICE]})
        rows.append(row)
        on_row(row)

    state: State = "failed"
    reason = ""
    try:
        tracker.log_missing_epochs(run, history)
        if slots is None:
            place = Place(device=wiring.device_of(experiment.run), gpu_share=experiment.run.gpu_share)
            worker.train(experiment, folder, objective, note, place, on_step, url=ready.home.url)
        else:
            from slowfast_ray.running.training import group  # Ray Train takes a second to import

            group.fit(ready, objective, note, slots)
            mirror.patiently(ready.home.bring_checkpoints)
            tracker.log_missing_epochs(
                run, _history(folder)
            )  # one may be saved, and its worker killed before it said so
        state = "finished"
        _report(tracker, run, ready)
    except KeyboardInterrupt:
        state = "stopped"
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise
    finally:
        if (folder / logs.LOG).is_file():
            tracker.log_file(run, folder / logs.LOG)
        tracker.end(run, state, reason)
    return rows[-1]


def _report(tracker: Tracker, run: RunHandle, ready: Ready) -> None:
    """What a run came to: its best checkpoint, its figures with their bounds at its best epoch and at its last, tables
    and pictures.
    """
    best, newest = checkpoint.best(ready.folder), checkpoint.newest(ready.folder)
    assert best is not None, "a finished run has saved an epoch"
    assert newest is not None
    progress = checkpoint.read_progress(newest)
    tracker.log_folder(run, best, "best")
    tracker.log_text(run, scores.per_class_json(best, ready.data), "per_class.json")
    for prefix, folder, epoch in (
        (scores.BEST, best, progress.best_epoch),
        (scores.FINAL, newest, progress.epoch),
    ):
        score = scores.of_checkpoint(ready.name, folder, ready.data)
        tracker.log_epoch(run, epoch, scores.metrics_of(score, prefix))
    seconds = objectives.value(
        progress.history, objectives.GPU_SECONDS, smooth_epochs=1, num_devices=ready.experiment.run.num_devices
    )
    tracker.log_epoch(run, progress.epoch, {"cost/device_seconds": seconds})
    tracker.set_tags(run, {"slowfast_ray.device_seconds": f"{seconds:.1f}"})
    tracker.log_report(run, best, ready.folder / begun.MEMBERS)


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
    return [] if newest is None else worker.told(checkpoint.read_progress(newest))
