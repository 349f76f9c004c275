"""Tracker: what tells MLflow of runs. Whatever it is told it may be told again, by this process or by a later one.

It writes each thing down in the journal of its folder (tracking_journal.py), and returns; a thread sends it from there
(tracking_queue.py) to the store (tracking_writer.py).
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME

from slowfast_ray.experiment import Experiment
from slowfast_ray.running import provenance
from slowfast_ray.running.tracking import tracking_store
from slowfast_ray.running.tracking.tracking_entries import (
    Dataset,
    Ended,
    Entry,
    File,
    Folder,
    Measured,
    Opened,
    Point,
    Reported,
    Tagged,
    Text,
    Viewed,
)
from slowfast_ray.running.tracking.tracking_journal import Journal
from slowfast_ray.running.tracking.tracking_queue import Queue
from slowfast_ray.running.tracking.tracking_store import STORAGE, State
from slowfast_ray.running.tracking.tracking_writer import StoreWriter

MOST_LETTERS = 250
"""Of a run's name: databases of MLflow take no more."""


@dataclass
class RunHandle:
    """A run that the store has, or will have."""

    name: str
    folder: str
    """By which the run is known."""
    id: str | None = None
    """None until the store took it."""


class Tracker:
    """Tells one MLflow experiment (MLFLOW_EXPERIMENT_NAME, or slowfast_ray) of the run or search in `folder`.

    No call raises because of the store, or waits for it: while it is away, entries wait, in order; what it refuses is
    named in a warning and dropped. What an earlier process left unsent in the folder goes first. Raises InUseError
    where another process tells of this folder.
    """

    def __init__(self, uri: str, folder: Path) -> None:
        self.uri = uri
        name = tracking_store.experiment_name()
        self._handles: dict[str, RunHandle] = {}
        self._journal = Journal(folder, uri, name)
        self._queue = Queue(uri, self._journal, StoreWriter(uri, name, self._journal.run_ids), self._took)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def num_unsent(self) -> int:
        """Entries that the store did not take yet [entries]."""
        return len(self._queue)

    def flush(self) -> None:
        """Sends what is unsent now, and returns once it is sent, or the store does not take it."""
        self._queue.flush()

    def close(self) -> None:
        """Flushes, and ends, with all runs that are still open. What is unsent stays in the journal."""
        for folder in reversed(self._journal.unended):  # children before their parents
            self._queue.put(Ended(folder, "stopped", "Its driver ended; --resume goes on with it.", _now_ms()))
        self._queue.close()

    def open(
        self,
        name: str,
        experiment: Experiment,
        place: str | Path,
        *,
        parent: RunHandle | None = None,
        tags: Mapping[str, str] = {},
        params: Mapping[str, object] = {},
        resume: bool = True,
    ) -> RunHandle:
        """The newest run of a folder or URL (with `parent`: among its children), set to running again; or a new one
        with every field of `experiment` as a parameter, and `params`. Without `resume` always a new one: the place may
        have been used before.
        """
        run = self._handles.setdefault(os.fspath(place), RunHandle(name, os.fspath(place)))
        name = name[:MOST_LETTERS]
        values = {**experiment.flatten(), **params}
        seeds = f"run {experiment.run.seed}, split {experiment.data.split_seed}"
        own = {MLFLOW_RUN_NAME: name, STORAGE: run.folder, "slowfast_ray.seeds": seeds}
        self._queue.put(
            Opened(
                run.folder,
                name=name,
                parent=None if parent is None else parent.folder,
                tags={**provenance.tags(), **own, **tags},
                params={key: str(value) for key, value in values.items()},
                experiment_json=experiment.to_json(),
                started_ms=_now_ms(),
                resume=resume,
            )
        )
        return run

    def log_epoch(self, run: RunHandle, epoch: int, metrics: Mapping[str, float]) -> None:
        """The metrics of one epoch, with the epoch as their step; one that has that step already stays as it is."""
        self._queue.put(Measured(run.folder, _points(epoch, metrics)))

    def log_missing_epochs(self, run: RunHandle, history: Sequence[Mapping[str, float]]) -> None:
        """What of all epochs, from the first on, the store does not have."""
        points = tuple(point for epoch, metrics in enumerate(history, start=1) for point in _points(epoch, metrics))
        if points:
            self._queue.put(Measured(run.folder, points))

    def log_folder(self, run: RunHandle, folder: Path, name: str) -> None:
        """All files of `folder`, as artifacts under `name`."""
        self._queue.put(Folder(run.folder, os.fspath(folder), name))

    def log_file(self, run: RunHandle, file: Path, folder: str | None = None) -> None:
        """A file as an artifact, in `folder` of the artifacts."""
        self._queue.put(File(run.folder, os.fspath(file), folder))

    def log_text(self, run: RunHandle, text: str, name: str) -> None:
        """A text as the artifact `name`."""
        self._queue.put(Text(run.folder, name, text))

    def log_report(self, run: RunHandle, checkpoint: Path, members: Path) -> None:
        """Tables and pictures of what a checkpoint says of its validation samples, which the file `members` names."""
        self._queue.put(Reported(run.folder, os.fspath(checkpoint), os.fspath(members)))

    def log_dataset(self, run: RunHandle, name: str, digest: str, source: str, profile: Mapping[str, Any]) -> None:
        """What the run was trained on, as MLflow's dataset input."""
        self._queue.put(Dataset(run.folder, name, digest, source, dict(profile)))

    def share_view(
        self, run: RunHandle, *, parameters: Sequence[str], metrics: Sequence[str], higher_is_better: bool
    ) -> None:
        """How MLflow's page shows the children of a search: see tracking_view.share_view."""
        self._queue.put(Viewed(run.folder, tuple(parameters), tuple(metrics), higher_is_better))

    def set_tags(self, run: RunHandle, tags: Mapping[str, str]) -> None:
        """Tags, over those that are there; a text may link to other runs, `[title](run:/folder/of/the/run)`."""
        self._queue.put(Tagged(run.folder, dict(tags)))

    def end(self, run: RunHandle, state: State, reason: str = "") -> None:
        """Closes a run with its honest state, the reason for it, and now as its end; one that ended so before, and got
        no points since, keeps its end.
        """
        self._queue.put(Ended(run.folder, state, reason, _now_ms()))

    def _took(self, entry: Entry, run_id: str | None) -> None:
        if isinstance(entry, Opened) and entry.run in self._handles:
            self._handles[entry.run].id = run_id


def _points(epoch: int, metrics: Mapping[str, float]) -> tuple[Point, ...]:
    now_ms = _now_ms()
    return tuple((key, float(value), epoch, now_ms) for key, value in metrics.items())


def _now_ms() -> int:
    return int(time.time() * 1000)
