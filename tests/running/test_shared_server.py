"""A team's MLflow server on PostgreSQL, as cluster/mlflow_server.py starts it: two users at once lose nothing."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import requests
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from slowfast_ray.experiment import Experiment
from slowfast_ray.running.tracking import tracking
from tests.running.conftest import ROOT, environment, flags_of, runs_in

pytest.importorskip("psycopg2", reason="the package psycopg2-binary is not installed")
pytest.importorskip("flask_wtf", reason="the package mlflow[auth] is not installed")

from tests.running.team_server import BOSS, BOSS_PASSWORD, SECRETS, USERS, TeamServer, free_port, postgres, refusal_of

pytestmark = pytest.mark.slow  # a database and a server that start several times

WRITE = """
import sys
from pathlib import Path
from slowfast_ray.experiment import LAPTOP
from slowfast_ray.running.tracking.tracking import Tracker

uri, name, parent = sys.argv[1:]
folder = Path(parent) / name
folder.mkdir()
print("ready", flush=True)
sys.stdin.readline()
with Tracker(uri, folder) as tracker:
    search = tracker.open(name, LAPTOP, folder)
    for number in range(3):
        trial = tracker.open(f"{name}-{number}", LAPTOP, folder / str(number), parent=search)
        for epoch in (1, 2, 3):
            tracker.log_epoch(trial, epoch, {"val/top1": 0.25 * epoch})
        tracker.end(trial, "finished")
    tracker.end(search, "finished")
    tracker.flush()
    print("unsent", tracker.num_unsent, flush=True)
"""


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgres() as uri:
        yield uri


@pytest.fixture(scope="module")
def server(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TeamServer]:
    server = TeamServer(database, tmp_path_factory.mktemp("server"), free_port())
    try:
        server.start()
        for name, password in USERS.items():
            server.add_user(name, password)
        yield server
    finally:
        server.kill()


def log_in(monkeypatch: pytest.MonkeyPatch, user: str | None, password: str | None) -> None:
    for name, value in (("USERNAME", user), ("PASSWORD", password)):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
        if value is not None:
            monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)


def test_two_users_who_write_at_once_lose_and_double_nothing(
    server: TeamServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "both")  # which neither has made yet
    writers = []
    for name, password in USERS.items():
        log_in(monkeypatch, name, password)
        command = [sys.executable, "-c", WRITE, server.uri, name, os.fspath(tmp_path)]
        writers.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        output, _ = writer.communicate(timeout=600)
        assert output == "unsent 0\n"

    log_in(monkeypatch, BOSS, BOSS_PASSWORD)
    runs = runs_in(server.uri, "both")
    names = [name for user in USERS for name in (user, *(f"{user}-{number}" for number in range(3)))]
    assert sorted(run.info.run_name or "" for run in runs) == sorted(names)
    client = MlflowClient(server.uri)
    for run in runs:
        assert run.info.status == "FINISHED"
        assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["experiment.json"]
        if "-" in (run.info.run_name or ""):
            assert steps(server.uri, run, "val/top1") == [1, 2, 3]
    assert len([*(server.folder / "artifacts").rglob("experiment.json")]) >= len(names), "artifacts lie in its folder"


def steps(uri: str, run: Run, metric: str) -> list[int]:
    return sorted(point.step for point in MlflowClient(uri).get_metric_history(run.info.run_id, metric))


def test_it_listens_on_this_machine_only(server: TeamServer) -> None:
    listening = [tuple(each.laddr) for each in psutil.net_connections("inet") if each.status == psutil.CONN_LISTEN]
    assert {address for address in listening if server.port in address} == {("127.0.0.1", server.port)}


def test_secrets_are_for_its_own_user_only(server: TeamServer) -> None:
    private = server.folder / "private"
    assert private.stat().st_mode & 0o777 == 0o700
    assert {file.name: file.stat().st_mode & 0o777 for file in private.iterdir()} == {
        "basic_auth.ini": 0o600,
        "secret_key": 0o600,
    }
    family = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
    seen = " ".join(part for process in family for part in process.cmdline())
    seen += (private / "basic_auth.ini").read_text() + (server.folder / "log").read_text()
    assert not any(secret in seen for secret in SECRETS)


def test_it_ends_by_sigterm_and_has_its_runs_and_its_key_when_it_starts_again(
    server: TeamServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(monkeypatch, BOSS, BOSS_PASSWORD)
    experiment = MlflowClient(server.uri).create_experiment("before")
    key = (server.folder / "private" / "secret_key").read_text()
    server.stop()
    with pytest.raises(requests.ConnectionError):
        requests.get(server.uri, timeout=5)
    assert "does not answer" in refusal_of(server.uri)
    server.start()
    assert MlflowClient(server.uri).get_experiment(experiment).name == "before"
    assert (server.folder / "private" / "secret_key").read_text() == key


@pytest.mark.parametrize(
    ("user", "password", "expected"),
    [
        ("anna", "not the password", "refuses the user anna"),
        ("nobody", USERS["anna"], "refuses the user nobody"),
        ("anna", None, "MLFLOW_TRACKING_PASSWORD (not set)"),
        (None, None, "asks for a user and a password"),
    ],
)
def test_a_wrong_or_missing_password_is_named_with_its_remedy(
    server: TeamServer, monkeypatch: pytest.MonkeyPatch, user: str | None, password: str | None, expected: str
) -> None:
    log_in(monkeypatch, user, password)
    error = refusal_of(server.uri)
    assert expected in error
    assert "set MLFLOW_TRACKING_USERNAME" in error
    log_in(monkeypatch, "anna", USERS["anna"])
    tracking.check(server.uri)


@pytest.mark.parametrize(
    ("flags", "changes", "expected"),
    [
        ({}, {"MLFLOW_TRACKING_PASSWORD": ""}, "MLFLOW_TRACKING_PASSWORD (not set)"),
        ({}, {"MLFLOW_TRACKING_USERNAME": ""}, "MLFLOW_TRACKING_USERNAME (not set)"),
        ({}, {"MLFLOW_TRACKING_PASSWORD": "password1234"}, "must not be the one that MLflow once shipped"),
        ({}, {"MLFLOW_TRACKING_PASSWORD": "not enough."}, "12 characters or more (it has 11)"),
        ({}, {"MLFLOW_TRACKING_PASSWORD": "not the password"}, "The user boss has another password"),
        ({}, {"PGPASSWORD": "not the password"}, "password authentication failed"),
        ({"database": "postgresql+psycopg2://mlflow@127.0.0.1:1/mlflow"}, {}, "does not answer"),
        ({"database": "postgresql+psycopg2://mlflow@127.0.0.1:{silent}/mlflow"}, {}, "did not answer within 5 s"),
        ({"database": "postgresql+psycopg2://mlflow:not the password@127.0.0.1/mlflow"}, {}, "without its password"),
        ({"database": "sqlite:///mlflow.db"}, {}, "must be a PostgreSQL URI"),
        ({"port": "{silent}"}, {}, "is taken by another process"),
        ({"port": "70000"}, {}, "cannot be listened on"),
        ({"artifacts": "/proc/artifacts"}, {}, "cannot be written"),
        ({"artifacts": "gs://bucket"}, {}, "must be a folder or s3://BUCKET/PATH"),
        ({"folder": "{open}"}, {}, "chmod 700"),
    ],
)
def test_a_server_that_cannot_start_says_why_in_one_line(
    server: TeamServer, tmp_path: Path, flags: dict[str, str], changes: dict[str, str], expected: str
) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        known = {"silent": silent.getsockname()[1], "open": tmp_path / "open"}
        changed = {"port": str(free_port()), **{name: text.format(**known) for name, text in flags.items()}}
        # Sooner than MLflow gives up: it tries a database ten times, over 100 s and more.
        done = subprocess.run(
            server.command(**changed), env=server.environment(**changes), capture_output=True, text=True, timeout=60
        )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert expected in line
    assert not any(secret in line for secret in (*SECRETS, "password1234", "not enough."))


@pytest.mark.ray
def test_two_searches_at_once_lose_and_double_nothing(
    server: TeamServer,
    tiny_in: Callable[[Path], Experiment],
    own_ray_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "searches")
    searches = []
    for name, password in USERS.items():
        log_in(monkeypatch, name, password)
        (tmp_path / name).mkdir()
        experiment = tiny_in(tmp_path / name).override(
            {"learning.num_epochs": 2, "data.clip_len": 16, "run.tracking_uri": server.uri}
        )
        flags = ("--search.num-trials", "3", "--search.max-concurrent", "1", "--search.scheduler", "none")
        command = [sys.executable, ROOT / "experiments" / "tune_thermal.py", *flags_of(experiment), *flags]
        command += ["--name", name]
        # By default a request that takes 10 s has failed.
        own = {**environment(own_ray_folder / name), "MLFLOW_HTTP_REQUEST_TIMEOUT": "120"}
        searches.append(subprocess.Popen(command, cwd=tmp_path, env=own, stdout=subprocess.PIPE, text=True))
    for search in searches:
        output, _ = search.communicate(timeout=1800)
        assert search.returncode == 0, output
        assert "MLflow lacks" not in output

    log_in(monkeypatch, BOSS, BOSS_PASSWORD)
    runs = runs_in(server.uri, "searches")
    parents = {run.info.run_id: run.info.run_name for run in runs if MLFLOW_PARENT_RUN_ID not in run.data.tags}
    children = [run for run in runs if MLFLOW_PARENT_RUN_ID in run.data.tags]
    assert sorted(parents.values(), key=str) == sorted(USERS)
    found = [
        (parents[run.data.tags[MLFLOW_PARENT_RUN_ID]], Path(run.data.tags[tracking.STORAGE]).name) for run in children
    ]
    assert sorted(found, key=str) == [(name, f"trial-{number:03d}") for name in USERS for number in range(3)]
    for run in children:
        assert (run.info.status, run.data.tags[tracking.STATE]) == ("FINISHED", "finished")
        for metric in ("train/loss", "val/loss", "val/mean_class"):
            assert steps(server.uri, run, metric) == [1, 2]
