"""The machine that drives a search is lost with its disk; another one goes on from what S3 holds."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import psutil
import pytest
from mlflow import MlflowClient

from slowfast_ray.experiment import Experiment
from slowfast_ray.running.tracking import tracking
from tests.running import s3_server
from tests.running.conftest import ROOT, environment, flags_of, runs_in

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NUM_TRIALS = 4


def start(experiment: Experiment, where: dict[str, str], folder: Path, *flags: str) -> subprocess.Popen[str]:
    """A search whose Ray has its files in `folder`."""
    script = ROOT / "experiments" / "tune_thermal.py"
    own = ["--search.num-trials", str(NUM_TRIALS), "--search.scheduler", "none", "--search.max-concurrent", "1"]
    return subprocess.Popen(
        [sys.executable, script, *flags_of(experiment), *own, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**environment(folder), **where},
    )


def lose(process: subprocess.Popen[str]) -> None:
    """All processes of a driver and its Ray at once, as a power cut would."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for each in family:
        with contextlib.suppress(psutil.Error):  # it may have ended with one of the others
            each.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_search_goes_on_on_another_machine_and_no_finished_trial_is_lost(
    tiny: Experiment, tmp_path: Path, made_up_root: Path, own_ray_folder: Path
) -> None:
    with s3_server.started(tmp_path) as s3:
        s3.upload(made_up_root, "data")
        where = {**s3.environment, "XDG_CACHE_HOME": str(tmp_path / "cache")}
        changes = {"run.storage": "s3://bucket/runs", "data.root": "s3://bucket/data", "data.clip_len": 16}
        experiment = tiny.override({**changes, "learning.num_epochs": 3})
        first = start(experiment, where, own_ray_folder, "--name", "search")
        until = time.monotonic() + 900
        while not any(name.startswith("trial-001/epoch-002/") for name in s3.names("runs/search")):
            assert first.poll() is None, first.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.2)
        lose(first)
        kept = s3.names("runs/search")
        shutil.rmtree(tmp_path / "cache")

        second = start(experiment, where, own_ray_folder, "--resume", "search")
        said, _ = second.communicate(timeout=1800)
        assert second.returncode == 0, said
        again = s3.names("runs/search")
        assert {name for name in kept if name.startswith("trial-000/") and name.endswith("progress.json")} <= again
        log = s3.client().get_object(Bucket="bucket", Key="runs/search/trial-001/log.txt")["Body"].read().decode()
        epochs = [line.split("Epoch ")[1][0] for line in log.splitlines() if ": Epoch " in line]
        assert sorted(set(epochs)) == ["1", "2", "3"]
        assert len(epochs) <= 4, "at most one epoch was trained twice"

        target = tmp_path / "fetched"
        script = ROOT / "experiments" / "fetch_thermal.py"
        fetch = [sys.executable, str(script), "s3://bucket/runs/search", str(target)]
        subprocess.run(fetch, check=True, env={**os.environ, **where}, timeout=600)
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{target / 'study.db'}")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * NUM_TRIALS
    assert [sorted(trial.intermediate_values) for trial in study.trials] == [[1, 2, 3]] * NUM_TRIALS
    assert experiment.run.tracking_uri is not None
    parent, *children = runs_in(experiment.run.tracking_uri)
    assert [run.info.status for run in (parent, *children)] == ["FINISHED"] * (NUM_TRIALS + 1)
    names = [Path(run.data.tags[tracking.STORAGE]).name for run in children]
    assert sorted(names) == [f"trial-{number:03d}" for number in range(NUM_TRIALS)]
    for run in children:
        points = MlflowClient(experiment.run.tracking_uri).get_metric_history(run.info.run_id, "val/loss")
        assert [point.step for point in points] == [1, 2, 3]
        names = [file.path for file in MlflowClient(experiment.run.tracking_uri).list_artifacts(run.info.run_id)]
        assert "log.txt" in names
