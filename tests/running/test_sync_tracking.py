"""experiments/sync_tracking.py sends what a killed driver left, once, and ends what it left open."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from slowfast_ray.experiment import LAPTOP
from slowfast_ray.running.tracking import tracking_sync
from slowfast_ray.running.tracking.tracking import InUseError, Tracker
from tests.running.conftest import ROOT, runs_in

DRIVER = """
import os, pathlib, signal, sys, urllib.parse
from slowfast_ray.experiment import LAPTOP
from slowfast_ray.running.tracking.tracking import Tracker
uri, folder = sys.argv[1], pathlib.Path(sys.argv[2])
tracker = Tracker(uri, folder)
search = tracker.open("search", LAPTOP, folder)
done = tracker.open("trial-000", LAPTOP, folder / "trial-000", parent=search)
tracker.flush()
store = pathlib.Path(uri.removeprefix("sqlite:///"))
if sys.argv[3] == "away":
    store.rename(store.with_name("hidden.db"))
    store.mkdir()
for epoch in (1, 2, 3):
    tracker.log_epoch(done, epoch, {"val/top1": 0.1 * epoch})
tracker.end(done, "finished")
half = tracker.open("trial-001", LAPTOP, folder / "trial-001", parent=search)
tracker.log_epoch(half, 1, {"val/top1": 0.5})
first = urllib.parse.quote(str(folder / "trial-000"))
tracker.set_tags(search, {"mlflow.note.content": f"see [the first](run:{first})"})
tracker.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def left(tmp_path: Path, empty_store: Path) -> Callable[[str], Path]:
    """Lets a driver be killed in the midst of a search; gives the folder of its runs."""

    def kill_a_driver(store: str) -> Path:
        (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
        folder = tmp_path / "runs" / "search (old)"
        command = [sys.executable, "-c", DRIVER, f"sqlite:///{tmp_path}/mlflow.db", str(folder), store]
        assert subprocess.run(command, cwd=ROOT, env=dict(os.environ)).returncode == -signal.SIGKILL
        if store == "away":
            (tmp_path / "mlflow.db").rmdir()
            (tmp_path / "hidden.db").rename(tmp_path / "mlflow.db")
        return folder.parent

    return kill_a_driver


@pytest.mark.parametrize("store", ["away", "there"])
def test_what_a_killed_driver_left_is_sent_once_and_its_open_runs_are_ended(
    store: str,
    left: Callable[[str], Path],
    call_script: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = left(store)
    call_script("sync_tracking", str(folder))
    num_sent = {"away": 7 + 2, "there": 0 + 2}[store]
    said = capsys.readouterr().out
    assert f"{num_sent} entries sent" in said
    assert "2 open run(s) marked as stopped" in said
    runs = {run.info.run_name: run for run in runs_in(f"sqlite:///{tmp_path}/mlflow.db")}
    assert {name: run.data.tags["slowfast_ray.state"] for name, run in runs.items()} == {
        "search": "stopped",
        "trial-000": "finished",
        "trial-001": "stopped",
    }
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    points = client.get_metric_history(runs["trial-000"].info.run_id, "val/top1")
    assert [point.step for point in points] == [1, 2, 3]
    search = runs["search"]
    assert search.data.tags["mlflow.note.content"] == (
        f"see [the first](#/experiments/{search.info.experiment_id}/runs/{runs['trial-000'].info.run_id})"
    )
    call_script("sync_tracking", str(folder))
    assert "Nothing is left" in capsys.readouterr().out
    assert len(runs_in(f"sqlite:///{tmp_path}/mlflow.db")) == 3


@pytest.mark.parametrize(("store", "num_sent"), [("away", 9), ("there", 2)])
@pytest.mark.slow
def test_a_store_that_is_away_is_named_and_what_is_left_stays(
    store: str,
    num_sent: int,
    left: Callable[[str], Path],
    call_script: Callable[..., None],
    tmp_path: Path,
    empty_store: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = left(store)
    (tmp_path / "mlflow.db").rename(tmp_path / "hidden.db")
    (tmp_path / "mlflow.db").mkdir()
    with pytest.raises(SystemExit) as left_with:
        call_script("sync_tracking", str(folder))
    assert left_with.value.code == 1
    assert " not answer" in capsys.readouterr().out
    (tmp_path / "mlflow.db").rmdir()
    (tmp_path / "wrong.db").write_bytes(empty_store.read_bytes())
    with pytest.raises(SystemExit):
        call_script("sync_tracking", str(folder), "--tracking-uri", f"sqlite:///{tmp_path}/wrong.db")
    assert "it is another store" in capsys.readouterr().out
    moved = f"sqlite:///{tmp_path}/hidden.db"
    call_script("sync_tracking", str(folder), "--tracking-uri", moved)
    assert f"{num_sent} entries sent" in capsys.readouterr().out
    assert len(runs_in(moved)) == 3


def test_a_driver_that_lives_sends_its_own(
    tmp_path: Path, empty_store: Path, call_script: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    with Tracker(uri, tmp_path / "runs" / "search") as tracker:
        tracker.open("search", LAPTOP, tmp_path / "runs" / "search")
        call_script("sync_tracking", str(tmp_path / "runs"))
        assert "its run lives" in capsys.readouterr().out
        with pytest.raises(InUseError, match="being written by another process"):
            Tracker(uri, tmp_path / "runs" / "search")


@pytest.mark.slow
def test_a_damaged_journal_is_named_with_its_line(left: Callable[[str], Path]) -> None:
    (path,) = tracking_sync.journals([left("away")])
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:3], '{"entry": 3, "kind": "Nothing"}\n', *lines[3:]]))
    with pytest.raises(ValueError, match=r"Line 4 of .*tracking-.* cannot be read"):
        tracking_sync.send(path)
    (path.parent / "tracking-0.jsonl").write_text("no journal\n")
    with pytest.raises(ValueError, match="is no journal"):
        tracking_sync.send(path.parent / "tracking-0.jsonl")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no folder"):
        tracking_sync.journals([tmp_path / "nowhere"])
