"""A new version in MLflow's model registry. It belongs to the run that trained it, whose state stays as it is."""

import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS, MLFLOW_RUN_NAME

from slowfast_ray.experiment import Experiment
from slowfast_ray.running.tracking import tracking_model_files, tracking_store
from slowfast_ray.running.tracking.tracking_models import Version, answers, version_of
from slowfast_ray.running.tracking.tracking_store import STATE, STORAGE


@dataclass(frozen=True)
class Entry:
    """What is registered."""

    model: Path
    """A model folder."""
    evidence: Path
    """A folder of files that the version is judged by."""
    run_folder: Path
    """Of the run or trial that trained it."""
    experiment: Experiment
    """For a new run in MLflow, where the one that trained it is not there."""
    epoch: int
    tags: Mapping[str, str]
    """DIGEST among them."""
    description: str
    """Markdown."""


def register(uri: str, name: str, entry: Entry) -> Version:
    """A new version of the model `name`, without an alias yet. Raises ValueError where the store does not take it."""
    client = tracking_store.client(uri)
    with answers(uri), tempfile.TemporaryDirectory() as temporary:
        run = _run_of(uri, client, entry)
        logged = client.create_logged_model(
            run.info.experiment_id, name, run.info.run_id, dict(entry.tags), dict(run.data.params), "SlowFast"
        )
        try:
            local = Path(temporary) / "model"
            tracking_model_files.save(local, entry.model, entry.evidence, logged)
            client.log_model_artifacts(logged.model_id, os.fspath(local))
            client.log_outputs(run.info.run_id, [LoggedModelOutput(logged.model_id, step=entry.epoch)])
        except BaseException:
            client.finalize_logged_model(logged.model_id, "FAILED")
            raise
        client.finalize_logged_model(logged.model_id, "READY")
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        made = client.create_model_version(
            name,
            logged.artifact_location,  # a URI of the form models:/m-... would be looked up in MLflow's global store
            run.info.run_id,
            dict(entry.tags),
            description=entry.description,
            model_id=logged.model_id,
        )
        # By this the page of the run names the version.
        versions = json.dumps([{"name": made.name, "version": made.version}])
        client.set_logged_model_tags(logged.model_id, {MLFLOW_MODEL_VERSIONS: versions})
        return version_of(made)


def _run_of(uri: str, client: MlflowClient, entry: Entry) -> Run:
    """The newest run of the folder, in whatever experiment; a new one where there is none."""
    found = tracking_store.newest_run(client, entry.run_folder)
    if found is not None:
        return found
    experiment_id = tracking_store.experiment_id(client, uri, tracking_store.experiment_name())
    tags = {MLFLOW_RUN_NAME: entry.run_folder.name, STORAGE: os.fspath(entry.run_folder), STATE: "finished"}
    made = client.create_run(experiment_id, int(time.time() * 1000), tags)
    params = [Param(key, str(value)) for key, value in entry.experiment.flatten().items()]
    client.log_batch(made.info.run_id, params=params)
    client.set_terminated(made.info.run_id)
    return client.get_run(made.info.run_id)
