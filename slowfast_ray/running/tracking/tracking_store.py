"""What the rooms of tracking share: the words on a run, the client, which errors pass and which stay."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException

STATE = "slowfast_ray.state"
"""Tag: a State. MLflow's own status knows no pruned and no infeasible."""
ERROR = "slowfast_ray.error"
"""Tag: why a run failed, is infeasible, or stopped; absent where it did not."""
NOTE = "mlflow.note.content"
"""Tag: the description of a run, Markdown, which MLflow's page shows above all else."""
FINALIST = "slowfast_ray.finalist"
"""Tag: the number of the trial that a finalist's run repeats; absent from trials."""
STORAGE = "slowfast_ray.folder"
"""Tag: the folder or URL of a run; by it a run that was interrupted is found again."""

State = Literal["finished", "pruned", "failed", "infeasible", "stopped"]
"""How a run ended; stopped: by Ctrl-C or the end of a budget."""
STATUS: dict[State, str] = {
    "finished": "FINISHED",
    "pruned": "KILLED",
    "failed": "FAILED",
    "infeasible": "FAILED",
    "stopped": "KILLED",
}

# Not BAD_REQUEST, by which MLflow also says that a database is read-only just now.
_REFUSALS = {
    "INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "ENDPOINT_NOT_FOUND", "RESOURCE_ALREADY_EXISTS",
}  # fmt: skip
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_BUSY = {"TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED"}
_BUSY_ANSWERS = tuple(f"too many {status} error responses" for status in (429, 502, 503, 504))


class RefusedError(Exception):
    """An entry that can never be written, whatever the store says."""


def is_refusal(error: Exception) -> bool:
    """Whether the same entry would be refused again, by a store that is well."""
    return isinstance(error, RefusedError) or (isinstance(error, MlflowException) and error.error_code in _REFUSALS)


def is_busy(error: Exception) -> bool:
    """Whether the store answers, but says that it takes nothing now: a locked database, a full disk, a proxy."""
    if not isinstance(error, MlflowException):
        return isinstance(error, OSError) and error.errno in _NO_ROOM
    return error.error_code in _BUSY or any(each in str(error) for each in _BUSY_ANSWERS)


def reason_of(error: Exception) -> str:
    """The first line of an error."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def experiment_name() -> str:
    """The MLflow experiment that everything is written to."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME", "slowfast_ray")


def client(uri: str) -> MlflowClient:
    """A client that gives up after 10 s of silence, unless MLFLOW_HTTP_REQUEST_* say otherwise."""
    # No tries inside a call: Tracker has its own, which look first what the call before left behind.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    return MlflowClient(uri)


def newest_run(client: MlflowClient, folder: Path) -> Run | None:
    """The newest run of a folder, in whatever experiment of the store; None where there is none."""
    experiments = [each.experiment_id for each in client.search_experiments()]
    runs = client.search_runs(experiments, is_of(folder), ViewType.ACTIVE_ONLY, max_results=1)
    return runs[0] if runs else None


def experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    """The id of the experiment of that name in the store at `uri`, which is made where it does not exist."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    location = None
    if uri.startswith("sqlite:///"):  # beside the database, absolute: workers have other working folders
        location = (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts").as_uri()
    elif not uri.startswith("http"):  # a database without a server: MLflow would take a relative path
        location = Path("mlartifacts").absolute().as_uri()
    try:
        return client.create_experiment(name, artifact_location=location)
    except MlflowException:  # another search made it in between
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return found.experiment_id


def quoted(text: str) -> str:
    """A text in a filter of MLflow, which knows no escapes, but both quotes."""
    quote = '"' if "'" in text else "'"
    return f"{quote}{text}{quote}"


def is_of(place: str | Path) -> str:
    """MLflow's filter for the runs of a folder or URL."""
    return f"tags.`{STORAGE}` = {quoted(os.fspath(place))}"


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Environment variables that hold inside the block only."""
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
