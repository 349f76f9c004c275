"""What must not be registered, and how one registers where something is lost: evidence, files, the champion."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from safetensors.torch import load_file, save_file

from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checksums
from slowfast_ray.learning.intervals import Interval
from slowfast_ray.learning.predictions import Predictions
from slowfast_ray.running import preflight
from slowfast_ray.running.publishing import registering
from slowfast_ray.running.publishing.promoting import Decision
from slowfast_ray.running.tracking import tracking_models, tracking_store
from slowfast_ray.running.training import trainer
from tests.running.conftest import ROOT
from tests.running.other_weights import HEAD_BIAS, best_of, other
from tests.running.test_registering import aliases, registered


@pytest.fixture(scope="module")
def run(tiny_in: Callable[[Path], Experiment], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its entry in MLflow. Each test registers under a name of its own."""
    ready = preflight.check(tiny_in(tmp_path_factory.mktemp("runs")), name="a", objective="val/top1")
    trainer.fit(ready, "val/top1", on_row=lambda row: None)
    return ready.folder


@pytest.fixture(scope="module")
def uri(run: Path) -> str:
    return f"sqlite:///{run.parents[1]}/mlflow.db"


def refused(place: Path, uri: str, says: str) -> None:
    """Nothing of `place` is registered, and the error says why, with the checkpoint's own folder."""
    with pytest.raises(ValueError, match=says) as error:
        registering.check(place, name="refused")
    assert str(best_of(place)) in str(error.value)
    assert not tracking_models.has_versions(uri, "refused")


def test_weights_that_cannot_be_read_are_refused(run: Path, uri: str, tmp_path: Path) -> None:
    cut = Path(shutil.copytree(run, tmp_path / "cut"))
    weights = best_of(cut) / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(cut, uri, "weights of .* cannot be used")


def test_weights_that_say_something_else_than_the_predictions_are_refused(run: Path, uri: str, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(run, tmp_path / "moved"))
    weights = best_of(moved) / "weights.safetensors"
    values = load_file(weights)
    values[HEAD_BIAS][0] += 0.2
    save_file(values, weights)
    refused(moved, uri, "do not belong together: of 32 validation samples that were computed again, 32")
    values[HEAD_BIAS][0] = math.nan
    save_file(values, weights)
    refused(moved, uri, "do not belong together")


def test_predictions_of_other_samples_are_refused(run: Path, uri: str, tmp_path: Path) -> None:
    short = Path(shutil.copytree(run, tmp_path / "short"))
    file = best_of(short) / "predictions.safetensors"
    found = Predictions.load(file)
    file.unlink()
    Predictions(found.logits_SK[:-1], found.target[:-1]).save(file)
    checksums.write(file.parent)
    refused(short, uri, "are of other samples than its 32")


def test_a_champion_whose_files_are_gone_gives_way_by_force(run: Path, uri: str, tmp_path: Path) -> None:
    registered(other(run, tmp_path / "lost", 0.9), "lost")
    source = MlflowClient(uri).get_model_version("lost", "1").source
    assert source is not None
    shutil.rmtree(source.removeprefix("file://"))
    with pytest.raises(ValueError, match=r"champion, models:/lost/1, whose evidence cannot be read .*--force makes"):
        registered(run, "lost")
    assert aliases(uri, "lost") == {"champion": 1}
    assert len(MlflowClient(uri).search_model_versions("name = 'lost'")) == 1, "nothing was written"
    found = registered(run, "lost", force=True)
    assert (found.decision.is_forced, found.decision.difference) == (True, None)
    assert "evidence of models:/lost/1 cannot be read" in found.decision.reason
    assert aliases(uri, "lost") == {"champion": 2, "previous": 1}


def test_versions_without_a_champion_are_not_called_none(run: Path, uri: str, tmp_path: Path) -> None:
    first = registered(run, "headless")
    assert first.decision.reason == "There was no champion: the first model becomes it."
    MlflowClient(uri).delete_registered_model_alias("headless", "champion")
    found = registered(other(run, tmp_path / "b", 0.5), "headless")
    assert found.decision.reason.startswith("No version was champion: this one becomes it")
    assert aliases(uri, "headless") == {"champion": 2}


@pytest.mark.parametrize(
    "name",
    ["", " ", "a/b", "a:b", "a@b", "a#b", "a?b", "a%20b", "v1.0", "..", "it's", ' a', "a ", "a\nb", "a\x00b", "a\x7fb",
     "a" * 251],
)  # fmt: skip
def test_names_that_cannot_be_kept_or_found_are_refused(uri: str, name: str) -> None:
    with pytest.raises(ValueError, match="must not be empty, nor hold"):
        tracking_models.check(uri, name)


def test_unusual_names_that_can_be_found_are_taken(run: Path, uri: str) -> None:
    for name in ("Wärme & Kälte", "a" * 250):
        registered(run, name)
        tracking_models.fetch(f"models:/{name}@champion", uri)
        with tracking_store.environment(MLFLOW_TRACKING_URI=uri):
            mlflow.pyfunc.load_model(f"models:/{name}@champion")


def test_a_decision_is_json_whatever_it_says() -> None:
    unknown = Interval(0.5, math.nan, math.nan, 3)
    reason = 'Compared: {"value": NaN}'
    content = json.loads(
        Decision(False, reason, "models:/m/1", difference=unknown).to_json(), parse_constant=pytest.fail
    )
    assert content["reason"] == reason
    assert content["difference"] == {"value": 0.5, "low": None, "high": None, "num_samples": 3}


def test_no_file_of_a_version_names_a_place_of_this_machine(run: Path, uri: str, tmp_path: Path) -> None:
    found = registered(run, "plain")
    source = MlflowClient(uri).get_model_version("plain", "1").source
    assert source is not None
    moved = Path(download_artifacts(source, dst_path=str(tmp_path / "moved")))
    files = [each for each in moved.rglob("*") if each.is_file()]
    assert {"MLmodel", "weights.safetensors", "decision.json"} <= {each.name for each in files}
    places = [str(each) for each in (ROOT, run.parents[1], Path.home(), "/tmp", "mlruns")]
    assert [(each.name, place) for each in files for place in places if place.encode() in each.read_bytes()] == []
    # It is found by its name, and works where it was copied to.
    frames_STHW = np.full((1, 16, 40, 60), 20, np.float32)
    with tracking_store.environment(MLFLOW_TRACKING_URI=uri):
        expected = mlflow.pyfunc.load_model(found.version.uri).predict(frames_STHW)
    assert mlflow.pyfunc.load_model(str(moved)).predict(frames_STHW).equals(expected)
