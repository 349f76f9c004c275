"""A search whose driver is killed again and again ends as if nothing had happened."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from slowfast_ray.experiment import Experiment
from slowfast_ray.running.tracking import tracking
from tests.running.conftest import environment, runs_in

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NUM_TRIALS = 10
SEARCH = """
import json, sys
from ray import tune
from slowfast_ray.experiment import Experiment
from slowfast_ray.running.searching import tuner
from slowfast_ray.running.searching.config import SearchConfig

space = {"learning.lr": tune.loguniform(1e-6, 0.1), "data.frame_interval": tune.choice([1, 2])}
config = SearchConfig(num_trials=int(sys.argv[2]), max_concurrent=1)
resume = sys.argv[3] == "resume"
ready = tuner.check(Experiment.from_json(sys.argv[1]), space, config, name="search", resume=resume)
result = tuner.search(ready, space, config, resume=resume)
found = [[each.number, each.state, each.sample, each.values, each.epoch] for each in result.trials]
print("FOUND", json.dumps({"trials": found, "best": result.best.number}))
"""


def start(experiment: Experiment, folder: Path, *, num_trials: int = NUM_TRIALS, resume: bool) -> subprocess.Popen[str]:
    """A search in a process of its own."""
    command = [sys.executable, "-c", SEARCH, experiment.to_json(), str(num_trials), "resume" if resume else "new"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(folder)
    )


def found_by(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What the search found, once it has ended."""
    output, _ = process.communicate(timeout=2400)
    assert process.returncode == 0, output
    return json.loads(next(line for line in output.splitlines() if line.startswith("FOUND")).removeprefix("FOUND"))


def curves(uri: str) -> dict[str, list[tuple[int, float]]]:
    """The points of each trial's objective in MLflow, by the trial's folder; as they lie there."""
    children = [run for run in runs_in(uri) if "mlflow.parentRunId" in run.data.tags]
    names = [Path(run.data.tags[tracking.STORAGE]).name for run in children]
    assert len(set(names)) == len(names), "a trial has two runs"
    client = MlflowClient(uri)
    points = {
        name: client.get_metric_history(run.info.run_id, "val/mean_class")
        for name, run in zip(names, children, strict=True)
    }
    return {name: [(point.step, point.value) for point in found] for name, found in points.items()}


def kill_midway(process: subprocess.Popen[str], folder: Path, seconds: float) -> None:
    """SIGKILLs the driver that many seconds after it has begun to train, or begun to train again."""
    until = time.monotonic() + 600
    epochs = "runs/search/trial-*/epoch-*"  # without a look into them, since they go again
    seen = {*folder.glob(epochs)}
    while not {*folder.glob(epochs)} - seen:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, "it never trained"
        time.sleep(0.05)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=300)


def test_a_driver_that_is_killed_three_times_loses_and_doubles_nothing(
    tiny_in: Callable[[Path], Experiment], own_ray_folder: Path, tmp_path: Path
) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    moments = [random.Random(seed).uniform(0, 6) for _ in range(3)]
    whole, killed = (
        tiny_in(tmp_path / name).override({"learning.num_epochs": 4, "run.deterministic": True})
        for name in ("whole", "killed")
    )
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()

    for number, moment in enumerate(moments):
        process = start(killed, own_ray_folder, resume=number > 0)
        kill_midway(process, tmp_path / "killed", moment)
    again = found_by(start(killed, own_ray_folder, resume=True))
    expected = found_by(start(whole, own_ray_folder, resume=False))
    assert again == expected, f"moments {moments}"
    assert [trial[0] for trial in again["trials"]] == list(range(NUM_TRIALS))

    assert killed.run.tracking_uri is not None
    assert whole.run.tracking_uri is not None
    assert curves(killed.run.tracking_uri) == curves(whole.run.tracking_uri)
    for number, state, _, _, epoch in again["trials"]:
        points = curves(killed.run.tracking_uri)[f"trial-{number:03d}"]
        assert [step for step, _ in points] == list(range(1, epoch + 1))
        assert state in ("finished", "pruned")
    states = [run.data.tags[tracking.STATE] for run in runs_in(killed.run.tracking_uri)]
    assert sorted(states) == sorted(["finished", *(trial[1] for trial in again["trials"])])

    more = found_by(start(killed, own_ray_folder, num_trials=NUM_TRIALS + 2, resume=True))
    assert more["trials"][:NUM_TRIALS] == again["trials"], "what has ended stays"
    assert [trial[0] for trial in more["trials"]] == list(range(NUM_TRIALS + 2))
    assert curves(killed.run.tracking_uri).keys() == {f"trial-{number:03d}" for number in range(NUM_TRIALS + 2)}
