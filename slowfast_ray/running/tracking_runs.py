"""Tracker: the one writer of runs. Whatever it is told it may be told again, by this process or by a later one.

MLflow appends: a run made twice is two runs, a step logged twice two points. So before anything is repeated, the store
is asked what it has.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlflow.entities import Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from slowfast_ray.experiment import Experiment
from slowfast_ray.running import tracking_store
from slowfast_ray.running.tracking_queue import Queue
from slowfast_ray.running.tracking_store import ERROR, STATE, STATUS, STORAGE, RefusedError, State

_EXPERIMENT = "experiment.json"


@dataclass
class RunHandle:
    """A run that the store has, or will have."""

    name: str
    id: str | None = None
    """None until the store took it."""
    parent: "RunHandle | None" = None
    is_new: bool = False
    """Whether this process made it and knows all that it holds."""
    is_changed: bool = False
    """Whether this process added points to it, or to its children."""
    steps: dict[str, set[int]] = field(default_factory=dict)
    """The steps that each metric is known to have; a metric that is missing here must be looked up."""

    def change(self) -> None:
        """Notes that something was added."""
        self.is_changed = True
        if self.parent is not None:
            self.parent.change()


class Tracker:
    """Writes runs and their children to one MLflow experiment (MLFLOW_EXPERIMENT_NAME, or slowfast_ray).

    No call raises because of the store: while it is away, entries wait, in order; what it refuses is named in a warning
    and dropped.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._client = tracking_store.client(uri)
        self._experiment_name = tracking_store.experiment_name()
        self._experiment_id = ""
        self._queue = Queue(uri, lambda: self._client.get_experiment_by_name(self._experiment_name))

    @property
    def num_unsent(self) -> int:
        """Entries that the store did not take yet [entries]."""
        return len(self._queue)

    def flush(self) -> None:
        """Sends what is unsent now; for the end of a search."""
        self._queue.flush()

    def open(
        self,
        name: str,
        experiment: Experiment,
        folder: Path,
        *,
        parent: RunHandle | None = None,
        tags: Mapping[str, str] = {},
        resume: bool = True,
    ) -> RunHandle:
        """The newest run of a folder (with `parent`: among its children), set to running again; or a new one with every
        field of `experiment` as a parameter. Without `resume` always a new one: the folder's name may have been used
        before.
        """
        run = RunHandle(name, parent=parent)
        started_ms = _now_ms()
        all_tags = {MLFLOW_RUN_NAME: name, STORAGE: os.fspath(folder), **tags}
        self._queue.put(f"the run {name}", lambda: self._open(run, experiment, folder, all_tags, started_ms, resume))
        return run

    def log_epoch(self, run: RunHandle, epoch: int, metrics: Mapping[str, float]) -> None:
        """The metrics of one epoch, with the epoch as their step; one that has that step already stays as it is."""
        self._log_points(run, f"epoch {epoch}", _points(epoch, metrics))

    def log_missing_epochs(self, run: RunHandle, history: Sequence[Mapping[str, float]]) -> None:
        """What of all epochs, from the first on, the store does not have."""
        points = [point for epoch, metrics in enumerate(history, start=1) for point in _points(epoch, metrics)]
        self._log_points(run, f"epochs 1 to {len(history)}", points)

    def log_folder(self, run: RunHandle, folder: Path, name: str) -> None:
        """All files of `folder`, as artifacts under `name`."""

        def write(run_id: str) -> None:
            if not folder.is_dir():
                raise RefusedError(f"{folder} is gone")
            self._client.log_artifacts(run_id, os.fspath(folder), name)

        self._put(run, f"the folder {folder}", write)

    def log_file(self, run: RunHandle, file: Path, folder: str | None = None) -> None:
        """A file as an artifact, in `folder` of the artifacts."""

        def write(run_id: str) -> None:
            if not file.is_file():
                raise RefusedError(f"{file} is gone")
            self._client.log_artifact(run_id, os.fspath(file), folder)

        self._put(run, f"the file {file}", write)

    def log_text(self, run: RunHandle, text: str, name: str) -> None:
        """A text as the artifact `name`."""
        self._put(run, f"the text {name}", lambda run_id: self._client.log_text(run_id, text, name))

    def set_tags(self, run: RunHandle, tags: Mapping[str, str]) -> None:
        """Tags, over those that are there."""
        all_tags = [RunTag(key, value) for key, value in tags.items()]
        self._put(run, f"the tags {', '.join(tags)}", lambda run_id: self._client.log_batch(run_id, tags=all_tags))

    def end(self, run: RunHandle, state: State, reason: str = "") -> None:
        """Closes a run with its honest state, the reason for it, and now as its end; one that ended so before, and got
        no points since, keeps its end.
        """
        ended_ms = _now_ms()
        self._put(run, f"the end ({state})", lambda run_id: self._end(run_id, run, state, reason, ended_ms))

    def _put(self, run: RunHandle, what: str, write: Callable[[str], object]) -> None:
        def write_to_run() -> None:
            if run.id is None:
                raise RefusedError("its run was refused")
            write(run.id)

        self._queue.put(f"{what} of {run.name}", write_to_run)

    def _open(
        self,
        run: RunHandle,
        experiment: Experiment,
        folder: Path,
        tags: Mapping[str, str],
        started_ms: int,
        resume: bool,
    ) -> None:
        query = tracking_store.is_of(folder)
        if run.parent is not None:
            if run.parent.id is None:
                raise RefusedError("its parent was refused")
            tags = {**tags, MLFLOW_PARENT_RUN_ID: run.parent.id}
            query += f" AND tags.`{MLFLOW_PARENT_RUN_ID}` = '{run.parent.id}'"
        if not resume:  # a try before this one may have made it, with its answer lost
            query += f" AND attributes.start_time = {started_ms}"
        runs = self._client.search_runs([self._experiment()], query, ViewType.ACTIVE_ONLY, max_results=1)
        found = runs[0] if runs else None
        if found is None:
            # MLflow's client itself would post again after a lost answer, and make a second run.
            with tracking_store.environment(MLFLOW_HTTP_REQUEST_MAX_RETRIES="0"):
                found = self._client.create_run(self._experiment(), started_ms, dict(tags))
            run.is_new = True
            run.change()
        run.id = found.info.run_id
        if found.info.status != "RUNNING":
            self._client.update_run(run.id, status="RUNNING")
        self._complete(run.id, found, experiment, tags)

    def _complete(self, run_id: str, found: Run, experiment: Experiment, tags: Mapping[str, str]) -> None:
        """Adds what a run lacks that was made, but not to the end. What it has stays: it began as that."""
        params = {key: str(value) for key, value in experiment.flatten().items() if key not in found.data.params}
        missing = {key: value for key, value in tags.items() if key not in found.data.tags}
        self._client.log_batch(
            run_id,
            params=[Param(key, value) for key, value in params.items()],
            tags=[RunTag(key, value) for key, value in missing.items()],
        )
        if params or all(file.path != _EXPERIMENT for file in self._client.list_artifacts(run_id)):
            self._client.log_text(run_id, experiment.to_json(), _EXPERIMENT)

    def _log_points(self, run: RunHandle, what: str, points: Sequence[Metric]) -> None:
        names = ", ".join(sorted({point.key for point in points}))

        def write(run_id: str) -> None:
            missing = [point for point in points if point.step not in self._steps(run_id, run, point.key)]
            if not missing:
                return
            run.change()
            try:
                self._client.log_batch(run_id, metrics=missing)
            except BaseException:  # also Ctrl-C: the store may have taken it, or a part
                run.is_new = False
                run.steps.clear()
                raise
            for point in missing:
                run.steps[point.key].add(point.step)

        self._put(run, f"{what} ({names})", write)

    def _steps(self, run_id: str, run: RunHandle, key: str) -> set[int]:
        if key not in run.steps:
            history = [] if run.is_new else self._client.get_metric_history(run_id, key)
            run.steps[key] = {point.step for point in history}
        return run.steps[key]

    def _end(self, run_id: str, run: RunHandle, state: State, reason: str, ended_ms: int) -> None:
        before = self._client.get_run(run_id)
        if before.info.end_time and before.data.tags.get(STATE) == state and not run.is_changed:
            ended_ms = before.info.end_time
        tags = {STATE: state, **({ERROR: reason[:4000]} if reason else {})}
        self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        if not reason and ERROR in before.data.tags:  # of an earlier start, which this one has made good
            self._client.delete_tag(run_id, ERROR)
        self._client.set_terminated(run_id, STATUS[state], ended_ms)
        run.is_changed = False

    def _experiment(self) -> str:
        """The id of the experiment, which is found or made."""
        if not self._experiment_id:
            found = self._client.get_experiment_by_name(self._experiment_name)
            self._experiment_id = found.experiment_id if found is not None else self._make_experiment()
        return self._experiment_id

    def _make_experiment(self) -> str:
        location = None
        if self.uri.startswith("sqlite:///"):  # beside the database, absolute: workers have other working folders
            location = (Path(self.uri.removeprefix("sqlite:///")).parent / "mlartifacts").as_uri()
        try:
            return self._client.create_experiment(self._experiment_name, artifact_location=location)
        except MlflowException:  # another search made it in between
            found = self._client.get_experiment_by_name(self._experiment_name)
            if found is None:
                raise
            return found.experiment_id


def _points(epoch: int, metrics: Mapping[str, float]) -> list[Metric]:
    now_ms = _now_ms()
    return [Metric(key, value, now_ms, epoch) for key, value in metrics.items()]


def _now_ms() -> int:
    return int(time.time() * 1000)
