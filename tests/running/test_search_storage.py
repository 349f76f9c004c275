"""Other programs read and write what a search leaves: optuna-dashboard its study, a tracking server its runs."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from ray import tune

from slowfast_ray.experiment import Experiment
from slowfast_ray.running.searching import pruning, study, suggesting, tuner
from slowfast_ray.running.searching.config import SearchConfig
from tests.running.conftest import ASK_STORE

OUTAGE_SECONDS = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def served(command: list[str], url: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server in a process group of its own, from its first answer on."""
    process = subprocess.Popen(
        [Path(sys.executable).with_name(command[0]), *command[1:]],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(url, process)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=300)


def mlflow_server(port: int, folder: Path) -> list[str]:
    return [
        "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/server.db",
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 600
    while True:
        try:
            urllib.request.urlopen(url, timeout=60).close()
            return
        except OSError:
            assert process.poll() is None, f"the server of {url} ended"
            assert time.monotonic() < until, f"{url} never answered"
            time.sleep(0.2)


def test_optuna_dashboard_lists_the_trials_of_a_study(tmp_path: Path) -> None:
    trials = study.Study(
        lambda trial: {"learning.lr": trial.suggest_float("learning.lr", 0.01, 0.1)},
        higher_is_better=(True,),
        sampler=lambda seed: suggesting.sampler("tpe", seed),
        pruner=pruning.Rungs([2], 3),
        seed=0,
        first={"learning.lr": 0.1},
        path=tmp_path / "study.db",
    )
    for value in (0.7, 0.2):
        number = trials.ask().number
        trials.report(number, 1, value)
        trials.tell(number, "finished", (value,))
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = ["optuna-dashboard", f"sqlite:///{tmp_path}/study.db", "--host", "127.0.0.1", "--port", str(port)]
    with served(command, f"{url}/dashboard"):
        (summary,) = json.load(urllib.request.urlopen(f"{url}/api/studies"))["study_summaries"]
        assert summary["study_name"] == study.STUDY_NAME
        detail = json.load(urllib.request.urlopen(f"{url}/api/studies/{summary['study_id']}?after=0"))
    assert [trial["values"] for trial in detail["trials"]] == [[0.7], [0.2]]
    assert [trial["params"][0]["name"] for trial in detail["trials"]] == ["learning.lr"] * 2


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("own_ray")
def test_a_tracking_server_that_is_away_for_a_minute_of_a_search_gets_every_epoch_once_and_in_order(
    tiny: Experiment, tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = mlflow_server(port, tmp_path)
    experiment = tiny.override({"run.tracking_uri": url, "learning.num_epochs": 3})
    # More trials than there is time for: it still searches when the server is back, and is ended by Ctrl-C then.
    settings = SearchConfig(num_trials=500, max_concurrent=1, scheduler="none", time_budget_min=30)
    space = {"learning.lr": tune.loguniform(1e-6, 0.1)}
    is_up, is_done, away = threading.Event(), threading.Event(), list[float]()

    def num_begun() -> int:
        """Of the trials; all but the newest one have ended. Folders of epochs would go again."""
        return len([*(tmp_path / "runs" / "search").glob("trial-*")])

    def wait_for_trials(num: int) -> None:
        while num_begun() < num and not is_done.is_set():
            time.sleep(0.05)

    def go_away() -> None:
        with served(command, f"{url}{ASK_STORE}", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"):
            is_up.set()
            wait_for_trials(2)
        away.append(time.monotonic())
        is_done.wait(60)
        with served(command, f"{url}{ASK_STORE}", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"):
            away.append(time.monotonic())
            wait_for_trials(max(12, num_begun() + 2))  # so that 11 have ended, one of them since it is back
            if not is_done.is_set():
                os.kill(os.getpid(), signal.SIGINT)
            is_done.wait()

    server = threading.Thread(target=go_away)
    server.start()
    try:
        assert is_up.wait(600)
        result = tuner.search(tuner.check(experiment, space, settings, name="search"), space, settings)
        assert result.interrupted
        assert len(away) == 2, "it was back before the search was over"
        assert result.num_unsent == 0
        client, ran = MlflowClient(url), [trial for trial in result.trials if trial.state == "finished"]
        assert len(ran) > 10
        for trial in ran:
            points = client.get_metric_history(trial.run.id or "", "val/loss")
            assert [point.step for point in points] == [1, 2, 3]
            assert [point.timestamp for point in points] == sorted(point.timestamp for point in points)
            assert client.get_run(trial.run.id or "").info.status == "FINISHED"
        found = client.get_experiment_by_name("slowfast_ray")
        assert found is not None
        runs = client.search_runs([found.experiment_id], max_results=1000)
        assert len(runs) == 1 + len(result.trials), "none is there twice"
    finally:
        is_done.set()
        server.join()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("own_ray")
def test_a_search_outlives_a_tracking_server_that_is_away_for_two_minutes(tiny: Experiment, tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = mlflow_server(port, tmp_path)
    experiment = tiny.override({"run.tracking_uri": url, "learning.num_epochs": 2})
    settings = SearchConfig(num_trials=3, max_concurrent=1, scheduler="none")
    space = {"learning.lr": tune.loguniform(1e-6, 0.1)}
    away: list[float] = []

    def go_away() -> None:
        with served(command, f"{url}{ASK_STORE}", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"):
            is_up.set()
            # Some epoch: the first one goes with the third.
            while not ([*(tmp_path / "runs" / "search" / "trial-000").glob("epoch-*")] or is_done.is_set()):
                time.sleep(0.05)
        away.append(time.monotonic())
        is_done.wait(OUTAGE_SECONDS)
        with served(command, f"{url}{ASK_STORE}", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"):
            away.append(time.monotonic())
            is_done.wait()

    is_up, is_done = threading.Event(), threading.Event()
    server = threading.Thread(target=go_away)
    server.start()
    try:
        assert is_up.wait(600)
        ready = tuner.check(experiment, space, settings, name="search")
        result = tuner.search(ready, space, settings)
        assert [trial.state for trial in result.trials] == ["finished"] * 3, "training went on"
        assert result.best is not None
        while len(away) < 2:
            assert server.is_alive()
            time.sleep(0.2)
        again = tuner.search(
            tuner.check(experiment, space, settings, name="search", resume=True), space, settings, resume=True
        )
        assert again.num_unsent == 0
        client = MlflowClient(url)
        for trial in again.trials:
            points = client.get_metric_history(trial.run.id or "", "val/loss")
            assert [point.step for point in points] == [1, 2]
            assert client.get_run(trial.run.id or "").info.status == "FINISHED"
        found = client.get_experiment_by_name("slowfast_ray")
        assert found is not None
        assert len(client.search_runs([found.experiment_id])) == 1 + 3, "none is there twice"
        assert client.get_run(again.run_id).info.status == "FINISHED"
    finally:
        is_done.set()
        server.join()
