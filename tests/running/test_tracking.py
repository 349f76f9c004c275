"""The MLflow store, a real SQLite one."""

import contextlib
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from slowfast_ray.experiment import LAPTOP
from slowfast_ray.running.tracking import tracking, tracking_queue
from slowfast_ray.running.tracking.tracking import RunHandle, Tracker
from tests.running.conftest import ROOT, runs_in


@pytest.fixture
def new_uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def uri(new_uri: str, tmp_path: Path, empty_store: Path) -> str:
    shutil.copy(empty_store, tmp_path)
    return new_uri


def id_of(run: RunHandle) -> str:
    assert run.id is not None, "the store took it"
    return run.id


def opened_once(uri: str, folder: Path, *, resume: bool = True) -> str:
    """The id of the run of `folder`, told by a tracker of its own."""
    with Tracker(uri, folder) as tracker:
        run = tracker.open("first", LAPTOP, folder, resume=resume)
    return id_of(run)


def test_a_run_holds_every_field_as_a_parameter(uri: str, tmp_path: Path) -> None:
    with Tracker(uri, tmp_path) as tracker:
        opened = tracker.open("first", LAPTOP, tmp_path / "first")
        tracker.flush()
        run = MlflowClient(uri).get_run(id_of(opened))
        assert run.info.status == "RUNNING"
    assert run.data.params == {name: str(value) for name, value in LAPTOP.flatten().items()}
    assert run.info.run_name == "first"


def test_a_run_that_nobody_ended_is_stopped_when_its_driver_leaves(uri: str, tmp_path: Path) -> None:
    with Tracker(uri, tmp_path) as tracker:
        search = tracker.open("search", LAPTOP, tmp_path)
        tracker.end(tracker.open("trial-000", LAPTOP, tmp_path / "trial-000", parent=search), "finished")
        tracker.open("trial-001", LAPTOP, tmp_path / "trial-001", parent=search)
    states = {run.info.run_name: run.data.tags[tracking.STATE] for run in runs_in(uri)}
    assert states == {"search": "stopped", "trial-000": "finished", "trial-001": "stopped"}


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("finished", "FINISHED"),
        ("pruned", "KILLED"),
        ("failed", "FAILED"),
        ("infeasible", "FAILED"),
        ("stopped", "KILLED"),
    ],
)
def test_honest_states(uri: str, tmp_path: Path, state: tracking.State, status: str) -> None:
    with Tracker(uri, tmp_path) as tracker:
        opened = tracker.open("first", LAPTOP, tmp_path / "first")
        tracker.end(opened, state)
    run = MlflowClient(uri).get_run(id_of(opened))
    assert (run.info.status, run.data.tags[tracking.STATE]) == (status, state)
    assert run.info.end_time is not None
    assert run.info.end_time >= run.info.start_time


def test_epochs_are_steps_and_missing_ones_are_filled_in_without_doubles(uri: str, tmp_path: Path) -> None:
    history = [{"val/top1": 0.1 * epoch, "val/loss": 1.0} for epoch in (1, 2, 3)]
    with Tracker(uri, tmp_path) as tracker:
        opened = tracker.open("first", LAPTOP, tmp_path / "first")
        tracker.log_epoch(opened, 1, history[0])
        tracker.log_missing_epochs(opened, history)
        tracker.log_missing_epochs(opened, history)
    for name in ("val/top1", "val/loss"):
        points = MlflowClient(uri).get_metric_history(id_of(opened), name)
        assert [(point.step, point.value) for point in points] == [
            (epoch, metrics[name]) for epoch, metrics in enumerate(history, start=1)
        ]


def test_a_run_is_found_again_by_its_folder_only(uri: str, tmp_path: Path) -> None:
    folder = tmp_path / "it's mine"  # a quote must not break the query
    with Tracker(uri, tmp_path) as tracker:
        opened = tracker.open("first", LAPTOP, folder)
        parent = tracker.open("second", LAPTOP, tmp_path / "second")
        tracker.end(opened, "stopped")
    with Tracker(uri, tmp_path) as tracker:
        assert MlflowClient(uri).get_run(id_of(opened)).info.status == "KILLED"
        again = tracker.open("first", LAPTOP, folder)
        tracker.flush()
        assert again.id == opened.id
        assert MlflowClient(uri).get_run(id_of(opened)).info.status == "RUNNING"
    with Tracker(uri, tmp_path) as tracker:
        parent = tracker.open("second", LAPTOP, tmp_path / "second")
        child = tracker.open("child", LAPTOP, folder, parent=parent)
    assert child.id != opened.id, "not among the children"
    assert len(runs_in(uri)) == 3


def test_a_new_run_in_a_folder_that_was_deleted_is_another_one(uri: str, tmp_path: Path) -> None:
    first = opened_once(uri, tmp_path / "one", resume=False)
    time.sleep(0.002)
    second = opened_once(uri, tmp_path / "one", resume=False)
    assert first != second
    assert opened_once(uri, tmp_path / "one") == second, "the newest"


def test_the_reason_of_a_run_that_is_made_good_goes(uri: str, tmp_path: Path) -> None:
    for state, reason in (("failed", "no memory"), ("finished", "")):
        with Tracker(uri, tmp_path) as tracker:
            tracker.end(tracker.open("first", LAPTOP, tmp_path / "first"), state, reason)
        (run,) = runs_in(uri)
        assert run.data.tags.get("slowfast_ray.error", "") == reason
        assert run.data.tags[tracking.STATE] == state


def test_told_again_by_a_later_process_a_complete_run_stays_as_it_is(uri: str, tmp_path: Path) -> None:
    history = [{"val/top1": 0.1 * epoch, "val/loss": 1.0} for epoch in (1, 2, 3)]

    def tell(history: list[dict[str, float]], state: tracking.State) -> dict[str, object]:
        with Tracker(uri, tmp_path) as tracker:
            opened = tracker.open("first", LAPTOP, tmp_path / "first")
            tracker.log_missing_epochs(opened, history)
            tracker.end(opened, state, "why")
        time.sleep(0.01)
        (run,) = runs_in(uri)
        points = [MlflowClient(uri).get_metric_history(id_of(opened), name) for name in history[0]]
        steps = [[(point.step, point.value, point.timestamp) for point in each] for each in points]
        return {"steps": steps, **dict(run.info), "params": run.data.params, "tags": run.data.tags}

    first = tell(history[:2], "stopped")
    assert tell(history[:2], "stopped") == first
    longer = tell(history, "stopped")
    assert longer["end_time"] > first["end_time"], "it went on"  # type: ignore[operator]
    assert [len(each) for each in longer["steps"]] == [3, 3]  # type: ignore[union-attr]
    assert tell(history, "finished")["status"] == "FINISHED"


def test_metrics_of_one_epoch_may_come_in_several_calls(uri: str, tmp_path: Path) -> None:
    for _ in range(2):
        with Tracker(uri, tmp_path) as tracker:
            for name in ("val/top1", "val/loss"):
                tracker.log_epoch(tracker.open("first", LAPTOP, tmp_path / "first"), 1, {name: 0.5})
    (run,) = runs_in(uri)
    for name in ("val/top1", "val/loss"):
        assert [point.step for point in MlflowClient(uri).get_metric_history(run.info.run_id, name)] == [1]


def test_what_the_store_refuses_is_named_and_does_not_block(
    uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "slowfast_ray")
    with Tracker(uri, tmp_path) as tracker:
        opened = tracker.open("first", LAPTOP, tmp_path / "first")
        tracker.log_epoch(opened, 1, {"a metric with #": 1.0})
        tracker.log_folder(opened, tmp_path / "gone", "best")
        tracker.log_epoch(opened, 2, {"val/top1": 0.5})
    assert tracker.num_unsent == 0
    refusals = [record.getMessage() for record in caplog.records if "dropped" in record.getMessage()]
    assert len(refusals) == 2
    assert "epoch 1 (a metric with #) of first" in refusals[0]
    assert "gone" in refusals[1]
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1, "one warning a run"
    assert [point.step for point in MlflowClient(uri).get_metric_history(id_of(opened), "val/top1")] == [2]


def test_trials_of_a_search(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "RUNS_PER_PAGE", 2)
    lasting = contextlib.ExitStack()
    for number_of_search in (1, 2):
        folder = tmp_path / f"{number_of_search}"
        with contextlib.ExitStack() as stack:
            tracker = stack.enter_context(Tracker(uri, folder))
            if number_of_search == 2:
                lasting = stack.pop_all()  # the newest still runs
            search = tracker.open("thermal", LAPTOP, folder)
            for number in range(5):
                trial = tracker.open(f"trial-{number:03d} lr=1", LAPTOP, folder / f"trial-{number:03d}", parent=search)
                history = [{"val/top1": number_of_search + 0.1 * epoch} for epoch in range(number)]
                tracker.log_missing_epochs(trial, history)
                if number:
                    tracker.end(trial, "pruned")
            tracker.flush()
        time.sleep(0.002)
    trials = tracking.trials_of(uri, "thermal", "val/top1")
    lasting.close()
    assert [trial.number_name for trial in trials] == [f"trial-{number:03d}" for number in range(5)]
    assert trials[3].curve == {1: 2.0, 2: 2.1, 3: 2.2}
    assert trials[3].params == {name: str(value) for name, value in LAPTOP.flatten().items()}
    assert [trial.state for trial in trials] == ["running", *["pruned"] * 4]
    assert trials[3].tags[tracking.STATE] == "pruned"
    with pytest.raises(ValueError, match=r"no search termal with trials; it has thermal\. All names: mlflow ui"):
        tracking.trials_of(uri, "termal", "val/top1")
    elsewhere = f"sqlite:///{tmp_path}/none.db"
    with pytest.raises(ValueError, match="no search thermal"):
        tracking.trials_of(elsewhere, "thermal", "val/top1")
    assert not (tmp_path / "none.db").exists()


def an_evaluation(folder: Path) -> Path:
    folder.mkdir()
    (folder / "metrics.json").write_text("{}")
    return folder


def test_an_evaluation_is_attached_without_a_change_of_the_runs_state(uri: str, tmp_path: Path) -> None:
    files, folder = an_evaluation(tmp_path / "out"), tmp_path / "it's mine"
    with Tracker(uri, folder) as tracker:
        opened = tracker.open("first", LAPTOP, folder)
        tracker.end(opened, "stopped")
    run_id = id_of(opened)
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
    run_id = opened_once(uri, tmp_path / "first")
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
    opened_once(new_uri, tmp_path / "first")
    assert [path.name for path in (tmp_path / "mlartifacts").rglob("*.json")] == ["experiment.json"]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_store_that_goes_away_stops_nothing_and_gets_everything_later(
    uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "slowfast_ray")
    tracker = Tracker(uri, tmp_path / "first")
    opened = tracker.open("first", LAPTOP, tmp_path / "first")
    tracker.flush()
    database, hidden = tmp_path / "mlflow.db", tmp_path / "hidden.db"
    database.rename(hidden)
    database.mkdir()  # a folder where the file was: nothing can be written there
    tracker.log_epoch(opened, 1, {"val/top1": 0.25})
    tracker.log_epoch(opened, 2, {"val/top1": 0.5})
    later = tracker.open("second", LAPTOP, tmp_path / "second", parent=opened)
    tracker.flush()
    assert (tracker.num_unsent, later.id) == (3, None)
    assert len([record for record in caplog.records if "sent later" in record.message]) == 1
    database.rmdir()
    hidden.rename(database)
    tracker.end(opened, "finished")
    time.sleep(0.2)
    assert tracker.num_unsent == 4, "it is not asked again at once"
    tracker.close()
    assert tracker.num_unsent == 0
    assert len([record for record in caplog.records if "takes entries again" in record.message]) == 1
    points = MlflowClient(uri).get_metric_history(id_of(opened), "val/top1")
    assert [(point.step, point.value) for point in points] == [(1, 0.25), (2, 0.5)]
    assert MlflowClient(uri).get_run(id_of(opened)).info.status == "FINISHED"
    assert MlflowClient(uri).get_run(id_of(later)).data.tags[MLFLOW_PARENT_RUN_ID] == opened.id
    assert not list((tmp_path / "first").glob("tracking-*")), "what is sent leaves no journal"


def test_an_entry_that_fails_lets_the_others_pass_and_is_not_lost(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracking_queue, "SECONDS_BETWEEN_TRIES", 0.1)
    tracker = Tracker(uri, tmp_path / "first")
    opened = tracker.open("first", LAPTOP, tmp_path / "first")
    tracker.flush()
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        is_top1 = "WHEN NEW.key = 'val/top1'"
        database.execute(f"CREATE TRIGGER no BEFORE INSERT ON metrics {is_top1} BEGIN SELECT RAISE(ABORT, 'no'); END")
    tracker.log_epoch(opened, 1, {"val/top1": 0.25})
    tracker.log_epoch(opened, 1, {"val/loss": 1.0})
    until = time.monotonic() + 120
    # The store has an entry a moment before the tracker knows that it took it.
    while "val/loss" not in MlflowClient(uri).get_run(id_of(opened)).data.metrics or tracker.num_unsent != 1:
        assert time.monotonic() < until, tracker.num_unsent
        time.sleep(0.05)
    assert "it is tried again" in caplog.text
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("DROP TRIGGER no")
    tracker.close()
    assert tracker.num_unsent == 0
    assert [point.step for point in MlflowClient(uri).get_metric_history(id_of(opened), "val/top1")] == [1]


def test_a_run_that_goes_on_in_another_experiment_is_named(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = opened_once(uri, tmp_path / "first")
    assert not caplog.records
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
    assert opened_once(uri, tmp_path / "first") != first
    assert "in the experiment slowfast_ray already; another one is made in another" in caplog.text


def test_a_long_name_is_cut_to_what_databases_take(uri: str, tmp_path: Path) -> None:
    with Tracker(uri, tmp_path) as tracker:
        tracker.open("n" * 300, LAPTOP, tmp_path)
    assert [run.info.run_name for run in runs_in(uri)] == ["n" * 250]


@pytest.mark.parametrize(
    "uri", ["https://token@host", "http://host/?token=abc", "http://me:secret@host", "postgresql://u:p/q@host/db"]
)
def test_a_secret_in_the_address_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(ValueError, match="take it out") as refused:
        tracking.resolve_uri(uri)
    assert not any(secret in str(refused.value) for secret in ("token@", "abc", "secret", "p/q"))


def test_an_empty_file_is_a_store_to_be(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()  # by a start that was killed early
    tracking.check(f"sqlite:///{tmp_path}/mlflow.db")
    assert (tmp_path / "mlflow.db").stat().st_size == 0
    (tmp_path / "mlflow.db").write_text("no database, but long enough to be told from one " * 30)
    with pytest.raises(ValueError, match="file is not a database"):
        tracking.check(f"sqlite:///{tmp_path}/mlflow.db")


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


SEARCH = """
import pathlib, sys, time
from slowfast_ray.experiment import LAPTOP
from slowfast_ray.running.tracking.tracking import Tracker
uri, folder = sys.argv[1], pathlib.Path(sys.argv[2])
with Tracker(uri, folder) as tracker:
    search = tracker.open(folder.name, LAPTOP, folder)
    for number in range(3):
        trial = tracker.open(f"trial-{number:03d}", LAPTOP, folder / f"trial-{number:03d}", parent=search)
        for epoch in range(1, 21):
            started = time.monotonic()
            tracker.log_epoch(trial, epoch, {"val/top1": 0.01 * epoch, "val/loss": 1.0 / epoch})
            # One that waited for the store would take the 20 s that MLflow waits there.
            assert time.monotonic() - started < 10, "a call costs a line on disk, whatever the others write"
        tracker.end(trial, "finished")
    tracker.end(search, "finished")
    print(tracker.num_unsent, flush=True)
    sys.stdin.readline()
print(tracker.num_unsent)
"""


@pytest.mark.slow
def test_searches_that_share_an_sqlite_file_lose_nothing_and_wait_for_nobody(uri: str, tmp_path: Path) -> None:
    folders = [tmp_path / "runs" / name for name in ("one", "two")]
    commands = [[sys.executable, "-c", SEARCH, uri, str(folder)] for folder in folders]
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as another:
        another.execute("BEGIN IMMEDIATE")  # one that writes for as long as they tell
        searches = [
            subprocess.Popen(each, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for each in commands
        ]
        for search in searches:
            assert search.stdout is not None
            num_told = 1 + 3 * (1 + 20 + 1) + 1
            assert search.stdout.readline() == f"{num_told}\n", "the store takes nothing while another one writes"
    for search in searches:  # both send now, at once
        assert search.stdin is not None
        search.stdin.write("\n")
        search.stdin.flush()
    for search in searches:
        said, _ = search.communicate(timeout=600)
        assert said == "0\n"
    runs = runs_in(uri)
    assert len(runs) == 2 * (1 + 3)
    assert {run.info.status for run in runs} == {"FINISHED"}
    client = MlflowClient(uri)
    for run in runs:
        if MLFLOW_PARENT_RUN_ID in run.data.tags:
            points = client.get_metric_history(run.info.run_id, "val/top1")
            assert [point.step for point in points] == list(range(1, 21))
