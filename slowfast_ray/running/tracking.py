"""MLflow: the search's run, a child run for each trial, the best checkpoint. The one module that imports mlflow.

One process writes: the driver, which sees every row. The store is made before any trial starts, since several processes
that open a fresh SQLite file at once break it.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as OutOfTime
from pathlib import Path
from typing import Literal

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # at INFO it tells of every table that it makes

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from slowfast_ray.experiment import Experiment
from slowfast_ray.running import storage

log = logging.getLogger(__name__)

DEFAULT_URI = "sqlite:///mlflow.db"
SECONDS_TO_ANSWER = 5.0
"""A tracking server that is silent for so long is reported as not answering."""
STATE = "slowfast_ray.state"
"""Tag: finished, pruned, failed, or stopped (by Ctrl-C or the end of the time budget). MLflow's own status knows no
pruned."""
STORAGE = "slowfast_ray.folder"
"""Tag: the folder of a run; by it a run that was interrupted is found again."""

State = Literal["finished", "pruned", "failed", "stopped"]
_STATUS: dict[State, str] = {"finished": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "stopped": "KILLED"}


def resolve_uri(uri: str | None) -> str:
    """The store to write to, absolute: as given, else from MLFLOW_TRACKING_URI, else mlflow.db in this folder."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    prefix = "sqlite:///"
    if uri.startswith(prefix):
        return prefix + os.fspath(Path(uri.removeprefix(prefix)).expanduser().absolute())
    if "://" not in uri:
        raise ValueError(
            f"`run.tracking_uri` (={uri}) must be a URI; for a file try sqlite:///{uri.rstrip('/')}/mlflow.db, for a "
            "server http://host:5000."
        )
    return uri


def check(uri: str) -> None:
    """Raises ValueError unless the store at `uri` answers, or can be made there. Writes nothing.

    A server is told not to answer after SECONDS_TO_ANSWER.
    """
    if uri.startswith("sqlite:///"):
        folder = Path(uri.removeprefix("sqlite:///")).parent
        if not folder.is_dir():
            raise ValueError(f"`run.tracking_uri` (={uri}) lies in {folder}, which does not exist; make it first.")
        storage.check_writable(folder, "run.tracking_uri")
        if not Path(uri.removeprefix("sqlite:///")).exists():
            return
    executor = ThreadPoolExecutor(max_workers=1)
    with _environment(MLFLOW_HTTP_REQUEST_MAX_RETRIES="0", MLFLOW_HTTP_REQUEST_TIMEOUT=str(int(SECONDS_TO_ANSWER))):
        answer = executor.submit(lambda: MlflowClient(uri).get_experiment_by_name(_experiment_name()))
        try:
            found = answer.result(timeout=SECONDS_TO_ANSWER)
        except OutOfTime as error:
            raise ValueError(
                f"The tracking server {uri} did not answer within {SECONDS_TO_ANSWER:g} s; check `run.tracking_uri` "
                "and that it runs."
            ) from error
        except Exception as error:  # each kind of store raises its own
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(
                f"The tracking store {uri} does not answer; check `run.tracking_uri` and that it runs ({reason})."
            ) from error
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
    if found is not None and found.lifecycle_stage != "active":
        raise ValueError(
            f"The MLflow experiment {found.name} was deleted in {uri}; restore it, or set MLFLOW_EXPERIMENT_NAME to "
            "another name."
        )


def _experiment_name() -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME", "slowfast_ray")


def _client(uri: str) -> MlflowClient:
    # A server that goes away, or hangs, costs a call half a minute at most instead of many.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    return MlflowClient(uri)


def _is_of(folder: Path) -> str:
    """MLflow's filter for the runs of a folder."""
    quote = '"' if "'" in os.fspath(folder) else "'"  # MLflow's filters know no escapes, but both quotes
    return f"tags.`{STORAGE}` = {quote}{folder}{quote}"


def attach(uri: str, folder: Path, metrics: Mapping[str, float], epoch: int, files: Path, name: str) -> str | None:
    """Adds to the newest run of a folder, in whatever experiment of the store: metrics with the epoch as their step,
    and all files of the folder `files` as artifacts under `name`. The run's state stays as it is.

    Gives the run's id; None where there is none, or no store yet, and then nothing is made. Raises ValueError where the
    store does not answer or does not take them, and where the run holds `name` already.
    """
    check(uri)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return None
    client = _client(uri)
    now_ms = int(time.time() * 1000)
    try:
        experiments = [each.experiment_id for each in client.search_experiments()]
        runs = client.search_runs(experiments, _is_of(folder), ViewType.ACTIVE_ONLY, max_results=1)
        if not runs:
            return None
        run_id = runs[0].info.run_id
        if client.list_artifacts(run_id, name):
            raise ValueError(f"The run {run_id} in {uri} holds {name} already, and nothing is overwritten.")
        client.log_batch(run_id, metrics=[Metric(key, value, now_ms, epoch) for key, value in metrics.items()])
        client.log_artifacts(run_id, os.fspath(files), name)
    except (MlflowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"The tracking store {uri} does not take the evaluation of {folder} ({reason}).") from error
    return run_id


class Tracker:
    """Writes runs and their children to one MLflow experiment (MLFLOW_EXPERIMENT_NAME, or slowfast_ray)."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._client = _client(uri)
        self._unsent: list[Callable[[], object]] = []
        self._experiment_id = self._find_or_create(_experiment_name())

    def start(
        self,
        name: str,
        experiment: Experiment,
        folder: Path,
        *,
        parent: str | None = None,
        tags: Mapping[str, str] = {},
    ) -> str:
        """A new run with every field of `experiment` as a parameter; gives its id."""
        parent_tag = {MLFLOW_PARENT_RUN_ID: parent} if parent else {}
        run = self._client.create_run(
            self._experiment_id, tags={MLFLOW_RUN_NAME: name, STORAGE: os.fspath(folder), **parent_tag, **tags}
        )
        params = [Param(key, str(value)) for key, value in experiment.flatten().items()]
        self._client.log_batch(run.info.run_id, params=params)
        self._client.log_text(run.info.run_id, experiment.to_json(), "experiment.json")
        return run.info.run_id

    def find(self, folder: Path) -> str | None:
        """The id of the newest run of a folder, set to running again; None where there is none."""
        runs = self._client.search_runs([self._experiment_id], _is_of(folder), ViewType.ACTIVE_ONLY, max_results=1)
        if not runs:
            return None
        self._client.update_run(runs[0].info.run_id, status="RUNNING")
        return runs[0].info.run_id

    def log_epoch(self, run_id: str, epoch: int, metrics: Mapping[str, float]) -> None:
        """The metrics of one epoch, with the epoch as their step."""
        now_ms = int(time.time() * 1000)
        points = [Metric(key, value, now_ms, epoch) for key, value in metrics.items()]
        self._send(lambda: self._client.log_batch(run_id, metrics=points))

    def log_missing_epochs(self, run_id: str, history: Sequence[Mapping[str, float]]) -> None:
        """The epochs that a run measured but did not get to log before it was interrupted."""
        if not history:
            return
        logged = {metric.step for metric in self._client.get_metric_history(run_id, next(iter(history[0])))}
        for epoch, metrics in enumerate(history, start=1):
            if epoch not in logged:
                self.log_epoch(run_id, epoch, metrics)

    def log_folder(self, run_id: str, folder: Path, name: str) -> None:
        """All files of `folder`, as artifacts under `name`."""
        self._send(lambda: self._client.log_artifacts(run_id, os.fspath(folder), name))

    def log_text(self, run_id: str, text: str, name: str) -> None:
        """A text as the artifact `name`."""
        self._send(lambda: self._client.log_text(run_id, text, name))

    def end(self, run_id: str, state: State, tags: Mapping[str, str] = {}) -> None:
        """Closes a run with its honest state; MLflow takes the duration from it."""
        ended_ms = int(time.time() * 1000)
        all_tags = [RunTag(key, value) for key, value in {STATE: state, **tags}.items()]
        self._send(lambda: self._client.log_batch(run_id, tags=all_tags))
        self._send(lambda: self._client.set_terminated(run_id, _STATUS[state], ended_ms))

    @property
    def num_unsent(self) -> int:
        """Entries that the store did not take yet [entries]."""
        return len(self._unsent)

    def _send(self, write: Callable[[], object]) -> None:
        """Writes, after what is still unsent; where the store does not answer, training goes on and it is kept."""
        self._unsent.append(write)
        try:
            while self._unsent:
                self._unsent[0]()
                self._unsent.pop(0)
        except (MlflowException, OSError) as error:
            if len(self._unsent) == 1:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                log.warning("MLflow at %s does not take entries; they are kept and sent later (%s).", self.uri, reason)

    def _find_or_create(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return found.experiment_id
        location = None
        if self.uri.startswith("sqlite:///"):  # beside the database, absolute: workers have other working folders
            location = (Path(self.uri.removeprefix("sqlite:///")).parent / "mlartifacts").as_uri()
        try:
            return self._client.create_experiment(name, artifact_location=location)
        except MlflowException:  # another search made it in between
            found = self._client.get_experiment_by_name(name)
            if found is None:
                raise
            return found.experiment_id


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
