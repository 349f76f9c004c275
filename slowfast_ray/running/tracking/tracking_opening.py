"""A run in an MLflow store: found again by its folder, or made, and completed where its making was cut off."""

import logging

from mlflow import MlflowClient
from mlflow.entities import Param, Run, RunTag, ViewType
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from slowfast_ray.running.tracking import tracking_store
from slowfast_ray.running.tracking.tracking_entries import Opened

log = logging.getLogger(__name__)

_EXPERIMENT = "experiment.json"


def find_or_make(client: MlflowClient, experiment_id: str, entry: Opened, parent_id: str | None) -> tuple[Run, bool]:
    """The run that `entry` tells of, and whether it was made just now: without params, which `complete` adds."""
    tags, query = dict(entry.tags), tracking_store.is_of(entry.run)
    if parent_id is not None:
        tags[MLFLOW_PARENT_RUN_ID] = parent_id
        query += f" AND tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent_id}'"
    if not entry.resume:  # a try before this one may have made it, with its answer lost
        query += f" AND attributes.start_time = {entry.started_ms}"
    runs = client.search_runs([experiment_id], query, ViewType.ACTIVE_ONLY, max_results=1)
    if runs:
        return runs[0], False
    if entry.resume and parent_id is None:
        _warn_of_another(client, experiment_id, entry.run)
    # MLflow's client itself would post again after a lost answer, and make a second run.
    with tracking_store.environment(MLFLOW_HTTP_REQUEST_MAX_RETRIES="0"):
        return client.create_run(experiment_id, entry.started_ms, tags), True


def complete(client: MlflowClient, found: Run, entry: Opened) -> None:
    """Adds what a run lacks that was made, but not to the end. What it has stays: it began as that."""
    run_id = found.info.run_id
    params = {key: value for key, value in entry.params.items() if key not in found.data.params}
    missing = {key: value for key, value in entry.tags.items() if key not in found.data.tags}
    if params or missing:
        client.log_batch(
            run_id,
            params=[Param(key, value) for key, value in params.items()],
            tags=[RunTag(key, value) for key, value in missing.items()],
        )
    if params or all(file.path != _EXPERIMENT for file in client.list_artifacts(run_id)):
        client.log_text(run_id, entry.experiment_json, _EXPERIMENT)


def _warn_of_another(client: MlflowClient, experiment_id: str, folder: str) -> None:
    """A run that goes on under another experiment's name becomes a second one, which nobody may have meant."""
    names = {each.experiment_id: each.name for each in client.search_experiments()}
    own = names.pop(experiment_id, "")
    query = tracking_store.is_of(folder)
    if names and (runs := client.search_runs(list(names), query, ViewType.ACTIVE_ONLY, max_results=1)):
        log.warning(
            "MLflow has a run of %s in the experiment %s already; another one is made in %s (the variable "
            "MLFLOW_EXPERIMENT_NAME says which).",
            *(folder, names[runs[0].info.experiment_id], own),
        )
