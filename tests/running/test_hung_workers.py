"""A worker that hangs is noticed and ended, and its training goes on from the newest checkpoint."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from mlflow import MlflowClient
from ray import tune

from slowfast_ray.experiment import Experiment
from slowfast_ray.running.searching import tuner
from slowfast_ray.running.searching.config import SearchConfig
from slowfast_ray.running.training.records import Records
from slowfast_ray.running.training.worker import Row

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("own_ray")]

SPACE: dict[str, Any] = {"learning.lr": tune.loguniform(1e-6, 0.1)}
WORKERS = {1: "ray::ImplicitFunc", 2: "ray::RayTrainWorker"}
"""How Ray calls the processes that train, by the number of workers."""


def stop_one(name: str, is_so: Callable[[], bool]) -> threading.Thread:
    """Stops a process of this Ray as a debugger would, as soon as something is so."""
    session = ray._private.worker._global_node.get_session_dir_path()

    def watch() -> None:
        until = time.monotonic() + 600
        while not is_so():
            assert time.monotonic() < until
            time.sleep(0.02)
        for each in psutil.process_iter(["cmdline"]):
            words = each.info["cmdline"] or [""]
            with contextlib.suppress(psutil.Error):  # another one, or a parent of it, that ends meanwhile
                if words[0].startswith(name) and any(session in part for up in each.parents() for part in up.cmdline()):
                    each.send_signal(signal.SIGSTOP)
                    return

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_stopped_process_is_ended_and_its_trial_goes_on(tiny: Experiment, tmp_path: Path, num_workers: int) -> None:
    num_epochs = 10  # it still trains, however late it is seen that two are done
    changes = {"learning.num_epochs": num_epochs, "run.num_workers": num_workers, "run.hang_timeout_min": 0.4}
    experiment = tiny.override(changes)
    config = SearchConfig(num_trials=1, max_concurrent=1, scheduler="none")
    ready = tuner.check(experiment, SPACE, config, name="search")
    own = tmp_path / "runs" / "search" / "trial-000"
    stopping = stop_one(WORKERS[num_workers], lambda: len([*own.glob("epoch-*")]) >= 2)  # its newest two stay
    result = tuner.search(ready, SPACE, config)
    stopping.join()
    (trial,) = result.trials
    assert (trial.state, trial.epoch) == ("finished", num_epochs)
    micro_batches = [row["train/micro_batch"] for row in trial.history]
    assert micro_batches == [8 // num_workers] * num_epochs, "memory was never short"
    client = MlflowClient(result.tracking_uri)
    assert client.get_run(trial.run.id or "").data.tags["slowfast_ray.retried"].startswith("it hung for 0.4 min on ")
    points = client.get_metric_history(trial.run.id or "", "val/loss")
    assert [point.step for point in points] == list(range(1, num_epochs + 1))


def test_a_worker_that_waits_for_its_driver_does_not_hang(tiny: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = [40.0]
    note = Records.note

    def late(records: Records, name: str, row: Row) -> bool:
        time.sleep(waits.pop() if waits else 0.0)  # as while its storage is away
        return note(records, name, row)

    monkeypatch.setattr(Records, "note", late)
    experiment = tiny.override({"learning.num_epochs": 2, "run.hang_timeout_min": 0.4})
    config = SearchConfig(num_trials=1, max_concurrent=1, scheduler="none")
    result = tuner.search(tuner.check(experiment, SPACE, config, name="search"), SPACE, config)
    (trial,) = result.trials
    assert (waits, trial.state, trial.epoch) == ([], "finished", 2)
    assert "slowfast_ray.retried" not in MlflowClient(result.tracking_uri).get_run(trial.run.id or "").data.tags
