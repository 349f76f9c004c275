"""The MLflow store, a real SQLite one."""

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from slowfast_ray.experiment import LAPTOP
from slowfast_ray.running import tracking
from slowfast_ray.running.tracking import Tracker


@pytest.fixture
def new_uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def uri(new_uri: str, tmp_path: Path, empty_store: Path) -> str:
    shutil.copy(empty_store, tmp_path)
    return new_uri


def test_a_run_holds_every_field_as_a_parameter(uri: str, tmp_path: Path) -> None:
    run_id = Tracker(uri).start("first", LAPTOP, tmp_path / "first")
    run = MlflowClient(uri).get_run(run_id)
    assert run.data.params == {name: str(value) for name, value in LAPTOP.flatten().items()}
    assert run.info.run_name == "first"
    assert run.info.status == "RUNNING"


@pytest.mark.parametrize(
    ("state", "status"), [("finished", "FINISHED"), ("pruned", "KILLED"), ("failed", "FAILED"), ("stopped", "KILLED")]
)
def test_honest_states(uri: str, tmp_path: Path, state: tracking.State, status: str) -> None:
    tracker = Tracker(uri)
    run_id = tracker.start("first", LAPTOP, tmp_path / "first")
    tracker.end(run_id, state)
    run = MlflowClient(uri).get_run(run_id)
    assert (run.info.status, run.data.tags[tracking.STATE]) == (status, state)
    assert run.info.end_time >= run.info.start_time


def test_epochs_are_steps_and_missing_ones_are_filled_in_without_doubles(uri: str, tmp_path: Path) -> None:
    tracker = Tracker(uri)
    run_id = tracker.start("first", LAPTOP, tmp_path / "first")
    history = [{"val/top1": 0.1 * epoch, "val/loss": 1.0} for epoch in (1, 2, 3)]
    tracker.log_epoch(run_id, 1, history[0])
    tracker.log_missing_epochs(run_id, history)
    tracker.log_missing_epochs(run_id, history)
    for name in ("val/top1", "val/loss"):
        points = MlflowClient(uri).get_metric_history(run_id, name)
        assert [(point.step, point.value) for point in points] == [
            (epoch, metrics[name]) for epoch, metrics in enumerate(history, start=1)
        ]


def test_a_run_is_found_again_by_its_folder_only(uri: str, tmp_path: Path) -> None:
    tracker = Tracker(uri)
    folder = tmp_path / "it's mine"  # a quote must not break the query
    run_id = tracker.start("first", LAPTOP, folder)
    tracker.start("second", LAPTOP, tmp_path / "second")
    tracker.end(run_id, "stopped")
    assert Tracker(uri).find(folder) == run_id
    assert MlflowClient(uri).get_run(run_id).info.status == "RUNNING"
    assert tracker.find(tmp_path / "third") is None


def an_evaluation(folder: Path) -> Path:
    folder.mkdir()
    (folder / "metrics.json").write_text("{}")
    return folder


def test_an_evaluation_is_attached_without_a_change_of_the_runs_state(uri: str, tmp_path: Path) -> None:
    tracker, files = Tracker(uri), an_evaluation(tmp_path / "out")
    folder = tmp_path / "it's mine"
    run_id = tracker.start("first", LAPTOP, folder)
    tracker.end(run_id, "stopped")
    before = MlflowClient(uri).get_run(run_id).info
    assert tracking.attach(uri, folder, {"eval/top1": 0.5}, 12, files, "evaluation/epoch-012") == run_id
    run = MlflowClient(uri).get_run(run_id)
    assert (run.info.status, run.info.end_time) == (before.status, before.end_time)
    (point,) = MlflowClient(uri).get_metric_history(run_id, "eval/top1")
    assert (point.step, point.value) == (12, 0.5)
    (artifact,) = MlflowClient(uri).list_artifacts(run_id, "evaluation/epoch-012")
    assert artifact.path == "evaluation/epoch-012/metrics.json"
    with pytest.raises(ValueError, match="holds evaluation/epoch-012 already"):
        tracking.attach(uri, folder, {"eval/top1": 0.6}, 12, files, "evaluation/epoch-012")
    assert len(MlflowClient(uri).get_metric_history(run_id, "eval/top1")) == 1


def test_an_evaluation_finds_its_run_in_another_experiment(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
    run_id = Tracker(uri).start("first", LAPTOP, tmp_path / "first")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    files = an_evaluation(tmp_path / "out")
    assert tracking.attach(uri, tmp_path / "first", {}, 1, files, "evaluation/epoch-001") == run_id


def test_an_evaluation_of_an_unknown_run_makes_nothing(uri: str, tmp_path: Path) -> None:
    files, before = an_evaluation(tmp_path / "out"), sorted(tmp_path.iterdir())
    assert tracking.attach(uri, tmp_path / "first", {"eval/top1": 0.5}, 1, files, "evaluation/x") is None
    elsewhere = f"sqlite:///{tmp_path}/none.db"
    assert tracking.attach(elsewhere, tmp_path / "first", {"eval/top1": 0.5}, 1, files, "evaluation/x") is None
    assert sorted(tmp_path.iterdir()) == before
    assert [each.name for each in MlflowClient(uri).search_experiments()] == ["Default"]


def test_artifacts_lie_beside_the_database_whatever_the_working_folder(
    new_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    Tracker(new_uri).start("first", LAPTOP, tmp_path / "first")
    assert [path.name for path in (tmp_path / "mlartifacts").rglob("*.json")] == ["experiment.json"]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_store_that_goes_away_stops_nothing_and_gets_everything_later(
    uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Tracker(uri)
    run_id = tracker.start("first", LAPTOP, tmp_path / "first")
    database, hidden = tmp_path / "mlflow.db", tmp_path / "hidden.db"
    database.rename(hidden)
    database.mkdir()  # a folder where the file was: nothing can be written there
    tracker.log_epoch(run_id, 1, {"val/top1": 0.25})
    tracker.log_epoch(run_id, 2, {"val/top1": 0.5})
    assert tracker.num_unsent == 2
    assert len([record for record in caplog.records if "kept and sent later" in record.message]) == 1
    database.rmdir()
    hidden.rename(database)
    tracker.end(run_id, "finished")
    assert tracker.num_unsent == 0
    points = MlflowClient(uri).get_metric_history(run_id, "val/top1")
    assert [(point.step, point.value) for point in points] == [(1, 0.25), (2, 0.5)]
    assert MlflowClient(uri).get_run(run_id).info.status == "FINISHED"


def test_where_the_store_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking.resolve_uri(None) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking.resolve_uri(None) == "http://127.0.0.1:5000"
    assert tracking.resolve_uri("sqlite:///other.db") == f"sqlite:///{tmp_path}/other.db"
    assert tracking.resolve_uri("sqlite:////tmp/other.db") == "sqlite:////tmp/other.db"


def test_checking_writes_nothing(new_uri: str, tmp_path: Path) -> None:
    tracking.check(new_uri)
    assert list(tmp_path.iterdir()) == []
