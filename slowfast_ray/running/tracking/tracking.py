"""MLflow: the search's run, a child run for each trial, the best checkpoint. The door to it; the rooms behind are
tracking_runs.py (what is told), tracking_entries.py, tracking_journal.py and tracking_queue.py (outages),
tracking_writer.py (writing) and tracking_store.py.

One process writes: the driver, which sees every row. The store is made before any trial starts, since several processes
that open a fresh SQLite file at once break it.
"""

import difflib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # at INFO it tells of every table that it makes
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # at each end of a run, into the live table

from mlflow import MlflowClient
from mlflow.entities import Metric, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils import credentials
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from slowfast_ray.running.folders import storage
from slowfast_ray.running.tracking import tracking_database, tracking_store
from slowfast_ray.running.tracking.tracking_journal import InUseError
from slowfast_ray.running.tracking.tracking_runs import RunHandle, Tracker
from slowfast_ray.running.tracking.tracking_store import FINALIST, NOTE, STATE, STORAGE, State, reason_of

__all__ = [
    "FINALIST", "NOTE", "STATE", "STORAGE", "InUseError", "RunHandle", "State", "TrackedTrial", "Tracker", "attach",
    "check", "resolve_uri", "trials_of",
]  # fmt: skip

DEFAULT_URI = "sqlite:///mlflow.db"
SECONDS_TO_ANSWER = 5.0
"""A tracking server that is silent for so long is reported as not answering."""
SECONDS_FOR_A_FILE = 60.0
"""The same for a file: a busy machine takes seconds to bring its tables to the newest version."""
RUNS_PER_PAGE = 1000


@dataclass(frozen=True)
class TrackedTrial:
    """A trial as MLflow keeps it."""

    number_name: str
    """Of its folder: trial-003."""
    params: dict[str, str]
    tags: dict[str, str]
    curve: dict[int, float]
    """A metric by epoch; empty where it was never measured."""
    state: str
    """A State, or running."""


def resolve_uri(uri: str | None) -> str:
    """The store to write to, absolute: as given, else from MLFLOW_TRACKING_URI, else mlflow.db in this folder."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    prefix = "sqlite:///"
    if uri.startswith(prefix):
        return prefix + os.fspath(Path(uri.removeprefix(prefix)).expanduser().absolute())
    if tracking_database.without_password(uri) != uri:
        raise ValueError(
            "`run.tracking_uri` holds a password, which would be written beside every checkpoint; take it out, and set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
        )
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https") and ("@" in parts.netloc or parts.query):
        raise ValueError(
            "`run.tracking_uri` holds a user or a token, which would be written beside every checkpoint; take it out, "
            "and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
        )
    if "://" not in uri:
        raise ValueError(
            f"`run.tracking_uri` (={uri}) must be a URI; for a file try sqlite:///{uri.rstrip('/')}/mlflow.db, for a "
            "server http://host:5000."
        )
    return uri


def check(uri: str) -> None:
    """Raises ValueError unless the store at `uri` answers and takes the user, or can be made there. Writes nothing.

    A server or database is told not to answer after SECONDS_TO_ANSWER. No error shows a password.
    """
    if uri.startswith("sqlite:///"):
        folder = Path(uri.removeprefix("sqlite:///")).parent
        if not folder.is_dir():
            raise ValueError(f"`run.tracking_uri` (={uri}) lies in {folder}, which does not exist; make it first.")
        storage.check_writable(folder, "run.tracking_uri")
        if not Path(uri.removeprefix("sqlite:///")).exists():
            return
        if not tracking_database.has_tables_in_file(uri):
            return
    if uri.startswith("postgresql"):
        has_tables = tracking_database.check(uri, "run.tracking_uri", SECONDS_TO_ANSWER)
        if not has_tables:
            return
    name = tracking_store.experiment_name()
    seconds = SECONDS_FOR_A_FILE if uri.startswith("sqlite:///") else SECONDS_TO_ANSWER
    with tracking_store.environment(
        MLFLOW_HTTP_REQUEST_MAX_RETRIES="0", MLFLOW_HTTP_REQUEST_TIMEOUT=str(int(SECONDS_TO_ANSWER))
    ):
        try:
            found = tracking_database.within(seconds, lambda: MlflowClient(uri).get_experiment_by_name(name))
        except TimeoutError as error:
            raise ValueError(
                f"The tracking server {tracking_database.without_password(uri)} did not answer within "
                f"{seconds:g} s; check `run.tracking_uri` and that it runs."
            ) from error
        except Exception as error:  # each kind of store raises its own
            raise ValueError(_refusal(uri, name, error)) from error
    if found is not None and found.name != name:
        raise ValueError(_no_mlflow(uri))
    if found is not None and found.lifecycle_stage != "active":
        raise ValueError(
            f"The MLflow experiment {found.name} was deleted in {uri}; restore it, or set MLFLOW_EXPERIMENT_NAME to "
            "another name."
        )


def _refusal(uri: str, name: str, error: Exception) -> str:
    """What a store's refusal to give the experiment `name` means, and what to do."""
    shown, code = tracking_database.without_password(uri), getattr(error, "error_code", "")
    user, password = credentials.read_mlflow_creds()
    if code == "UNAUTHENTICATED":
        who = f"refuses the user {user} with this password" if user and password else "asks for a user and a password"
        return (
            f"The tracking server {shown} {who}; set MLFLOW_TRACKING_USERNAME "
            f"({f'={user}' if user else 'not set'}) and MLFLOW_TRACKING_PASSWORD ({'set' if password else 'not set'})."
        )
    if code == "PERMISSION_DENIED":
        return (
            f"The tracking server {shown} lets the user {user} not read the experiment {name}; ask its administrator "
            "for EDIT, or set MLFLOW_EXPERIMENT_NAME to another name."
        )
    if any(each in str(error) for each in ("Response body: ", "Response: {")):  # no error in MLflow's form
        return _no_mlflow(uri)
    reason = tracking_database.without_password(reason_of(error))
    return f"The tracking store {shown} does not answer; check `run.tracking_uri` and that it runs ({reason})."


def _no_mlflow(uri: str) -> str:
    return (
        f"What answers at {tracking_database.without_password(uri)} is no MLflow server; check the host, the port and "
        "the path of `run.tracking_uri`."
    )


def attach(uri: str, folder: Path, metrics: Mapping[str, float], epoch: int, files: Path, name: str) -> str | None:
    """Adds to the newest run of a folder, in whatever experiment of the store: metrics with the epoch as their step,
    and all files of the folder `files` as artifacts under `name`. The run's state stays as it is.

    Gives the run's id; None where there is none, or no store yet, and then nothing is made. Raises ValueError where the
    store does not answer or does not take them, and where the run holds `name` already.
    """
    check(uri)
    if not _exists(uri):
        return None
    client = tracking_store.client(uri)
    now_ms = int(time.time() * 1000)
    try:
        found = tracking_store.newest_run(client, folder)
        if found is None:
            return None
        run_id = found.info.run_id
        if client.list_artifacts(run_id, name):
            raise ValueError(f"The run {run_id} in {uri} holds {name} already, and nothing is overwritten.")
        client.log_batch(run_id, metrics=[Metric(key, value, now_ms, epoch) for key, value in metrics.items()])
        client.log_artifacts(run_id, os.fspath(files), name)
    except (MlflowException, OSError) as error:
        raise ValueError(
            f"The tracking store {uri} does not take the evaluation of {folder} ({reason_of(error)})."
        ) from error
    return run_id


def trials_of(uri: str, name: str, metric: str) -> list[TrackedTrial]:
    """The trials of the newest search of that name, by their names, with the curve of one metric.

    Raises ValueError where the store does not answer, and where it has no such search.
    """
    check(uri)
    experiment, names = tracking_store.experiment_name(), []
    if _exists(uri):
        client = tracking_store.client(uri)
        try:
            found = client.get_experiment_by_name(experiment)
            ids = [] if found is None else [found.experiment_id]
            for search in _runs(client, ids, f"attributes.run_name = {tracking_store.quoted(name)}"):
                trials = list(_runs(client, ids, f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{search.info.run_id}'"))
                if trials:
                    return sorted(
                        (_tracked(client, run, metric) for run in trials), key=lambda trial: trial.number_name
                    )
            parents = {run.data.tags[MLFLOW_PARENT_RUN_ID] for run in _runs(client, ids, _IS_CHILD)}
            names = sorted({run.info.run_name or "" for run in _runs(client, ids, "") if run.info.run_id in parents})
        except (MlflowException, OSError) as error:
            raise ValueError(f"The tracking store {uri} cannot be read ({reason_of(error)}).") from error
    near = difflib.get_close_matches(name, names, n=5, cutoff=0.3) or names[:5]
    remedy = f"; it has {', '.join(near)}" if near else ""
    page = uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}"
    raise ValueError(
        f"The MLflow experiment {experiment} in {uri} has no search {name} with trials{remedy}. All names: {page}."
    )


_IS_CHILD = f"tags.`{MLFLOW_PARENT_RUN_ID}` LIKE '%'"


def _runs(client: MlflowClient, experiment_ids: list[str], query: str) -> Iterator[Run]:
    """All runs that a filter finds, the newest first, however many pages."""
    token = None
    while experiment_ids:
        page = client.search_runs(
            experiment_ids, query, ViewType.ACTIVE_ONLY, RUNS_PER_PAGE, ["attributes.start_time DESC"], token
        )
        yield from page
        token = page.token
        if not token:
            return


def _tracked(client: MlflowClient, run: Run, metric: str) -> TrackedTrial:
    points = client.get_metric_history(run.info.run_id, metric) if metric in run.data.metrics else []
    tags = dict(run.data.tags)
    return TrackedTrial(
        number_name=Path(tags.get(STORAGE, run.info.run_name or "")).name,
        params=dict(run.data.params),
        tags=tags,
        curve={point.step: point.value for point in sorted(points, key=lambda point: point.step)},
        state="running" if run.info.status == "RUNNING" else tags.get(STATE, "running"),
    )


def _exists(uri: str) -> bool:
    """Whether there is a store; a client would make one."""
    return not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).exists()
