"""What goes wrong in a search is reported as what it was, and no finished trial is lost."""

import contextlib
import fcntl
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from mlflow import MlflowClient
from ray import tune

from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checkpoint
from slowfast_ray.running.searching import search_begun, tuner
from slowfast_ray.running.searching.config import SearchConfig
from slowfast_ray.running.searching.searcher import SearchBoard
from slowfast_ray.running.searching.tuner import SearchResult
from slowfast_ray.running.training.boards import Job

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("own_ray")]

LR: dict[str, Any] = {"learning.lr": tune.loguniform(1e-6, 0.1)}


def search(experiment: Experiment, space: dict[str, Any], *, resume: bool = False, **config: Any) -> SearchResult:
    settings = SearchConfig(max_concurrent=1, **config)
    ready = tuner.check(experiment, space, settings, name="search", resume=resume)
    return tuner.search(ready, space, settings, resume=resume)


def tags_of(result: SearchResult, number: int) -> dict[str, str]:
    run_id = result.trials[number].run.id
    assert run_id is not None
    return MlflowClient(result.tracking_uri).get_run(run_id).data.tags


def when(is_so: Callable[[], bool], act: Callable[[], None]) -> threading.Thread:
    """Does something in a thread as soon as something is so."""

    def watch() -> None:
        until = time.monotonic() + 600
        while not is_so():
            assert time.monotonic() < until
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def has_trained(trial: Path) -> bool:
    """Whether a trial has two epochs behind it: its newest two checkpoints stay."""
    return len([*trial.glob("epoch-*")]) >= 2


def training_process() -> psutil.Process:
    """The process of the one trial that trains on this Ray."""
    session = ray._private.worker._global_node.get_session_dir_path()
    (found,) = [
        each
        for each in psutil.process_iter(["cmdline"])
        if each.info["cmdline"] and each.info["cmdline"][0].startswith("ray::ImplicitFunc")
        if any(session in part for part in _parents_commands(each))
    ]
    return found


def _parents_commands(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):  # it ended, or one of its parents, while they were asked
        return [part for parent in process.parents() for part in parent.cmdline()]
    return []


@pytest.mark.slow
def test_a_trial_that_raises_is_tried_again_then_failed_and_the_others_go_on(tiny: Experiment, tmp_path: Path) -> None:
    in_the_way = tmp_path / "runs" / "search" / "trial-001"

    def begun() -> bool:
        return in_the_way.parent.exists()

    def block() -> None:
        in_the_way.write_text("a file where the trial wants a folder")

    watcher = when(begun, block)
    result = search(tiny, LR, num_trials=3)
    watcher.join()
    assert [trial.state for trial in result.trials] == ["finished", "failed", "finished"]
    assert "trial-001" in tags_of(result, 1)["slowfast_ray.error"]
    assert "trial-001" in tags_of(result, 1)["slowfast_ray.retried"]
    assert result.best is not None


@pytest.mark.slow
def test_where_every_trial_raises_at_once_the_search_halts(tiny: Experiment, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "search"

    def block() -> None:
        for number in range(8):
            (folder / f"trial-{number:03d}").write_text("a file where the trial wants a folder")

    watcher = when(folder.exists, block)
    result = search(tiny, LR, num_trials=8, max_failures=0)
    watcher.join()
    assert "trial-000, trial-001, trial-002 raised before their first epoch" in result.halted
    assert "trial-002" in result.halted.rsplit(": ", maxsplit=1)[-1], "what stands in the way of the last one"
    assert len(result.trials) <= 4
    own = MlflowClient(result.tracking_uri).get_run(result.run_id)
    assert (own.info.status, own.data.tags["slowfast_ray.error"]) == ("KILLED", result.halted)
    for number in range(8):
        (folder / f"trial-{number:03d}").unlink()
    again = search(tiny, LR, num_trials=8, max_failures=0, resume=True)
    assert [trial.state for trial in again.trials] == ["failed"] * 2 + ["finished"] * 6
    assert len(again.trials) == 8


@pytest.mark.slow
def test_a_trial_that_is_no_number_is_failed_at_once(tiny: Experiment) -> None:
    space = {"learning.lr": tune.choice([0.05, 1e35])}
    experiment = tiny.override({"learning.lr": 0.05, "learning.max_grad_norm": 1e35})
    result = search(experiment, space, num_trials=4)
    by_lr = {trial.sample["learning.lr"]: trial for trial in result.trials}
    assert {lr: trial.state for lr, trial in by_lr.items()} == {0.05: "finished", 1e35: "failed"}, "the seed gives both"
    tags = tags_of(result, by_lr[1e35].number)
    assert "learning.lr" in tags["slowfast_ray.error"]
    assert "slowfast_ray.retried" not in tags, "the same again would be no number again"


@pytest.mark.slow
def test_a_trial_whose_process_is_killed_goes_on_with_fewer_clips_at_once(tiny: Experiment, tmp_path: Path) -> None:
    experiment = tiny.override({"learning.num_epochs": 10})  # it still trains, however late two of them are seen
    own = tmp_path / "runs" / "search" / "trial-000"
    watcher = when(lambda: has_trained(own), lambda: training_process().send_signal(signal.SIGKILL))
    result = search(experiment, LR, num_trials=1)
    watcher.join()
    (trial,) = result.trials
    assert (trial.state, trial.epoch) == ("finished", 10)
    assert "killed" in tags_of(result, 0)["slowfast_ray.retried"]
    assert trial.history[0]["train/micro_batch"] == 8
    assert trial.history[-1]["train/micro_batch"] == 4
    points = MlflowClient(result.tracking_uri).get_metric_history(trial.run.id or "", "val/loss")
    assert [point.step for point in points] == list(range(1, 11))


@pytest.mark.slow
def test_a_trial_whose_process_is_killed_too_often_is_failed(tiny: Experiment, tmp_path: Path) -> None:
    experiment = tiny.override({"learning.num_epochs": 30})
    own = tmp_path / "runs" / "search" / "trial-000"
    watcher = when(lambda: has_trained(own), lambda: training_process().send_signal(signal.SIGKILL))
    result = search(experiment, LR, num_trials=1, max_failures=0)
    watcher.join()
    assert result.trials[0].state == "failed"
    assert "killed" in tags_of(result, 0)["slowfast_ray.error"]


@pytest.mark.slow
def test_a_process_that_dies_between_two_trials_costs_neither_of_them_a_try(
    tiny: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = SearchBoard.next

    def kill_and_begin(board: SearchBoard) -> Job | None:
        job = begin(board)
        if job is not None and job.name != "trial-000":
            training_process().kill()  # it waits for the next trial, which is on its way
        return job

    monkeypatch.setattr(SearchBoard, "next", kill_and_begin)
    result = search(tiny, LR, num_trials=3, max_failures=0)
    assert [trial.state for trial in result.trials] == ["finished"] * 3


@pytest.mark.slow
def test_what_cannot_be_trained_is_infeasible_and_is_never_started(tiny: Experiment, tmp_path: Path) -> None:
    space = {"data.clip_len": tune.choice([8, 16]), "model.alpha": tune.choice([8, 16])}
    result = search(tiny, space, num_trials=6)
    states = {(trial.sample["data.clip_len"], trial.sample["model.alpha"]): trial.state for trial in result.trials}
    assert states.pop((8, 16)) == "infeasible", "the seed gives it"
    assert set(states.values()) == {"finished"}
    refused = next(trial for trial in result.trials if trial.state == "infeasible")
    assert "divisible" in tags_of(result, refused.number)["slowfast_ray.error"]
    assert checkpoint.newest(tmp_path / "runs" / "search" / refused.name) is None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", folder]).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)  # the study is still open


@pytest.mark.slow
def test_a_full_disk_stops_the_search_and_nothing_finished_is_lost(tiny: Experiment, small_disk: Path) -> None:
    experiment = tiny.override({"run.storage": str(small_disk)})
    filler = small_disk / "filler"

    def fill() -> None:
        with filler.open("wb", buffering=0) as file:
            for size in (10**6, 4096):  # soon, and then to the last page
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))

    watcher = when((small_disk / "search" / "trial-001").exists, fill)
    result = search(experiment, LR, num_trials=3)
    watcher.join()
    assert "full" in result.halted or "cannot be written" in result.halted
    ended = {trial.number: trial.values for trial in result.trials if trial.state == "finished"}
    assert 0 in ended
    assert "failed" not in [trial.state for trial in result.trials], "the disk failed, no trial did"

    filler.unlink()
    again = search(experiment, LR, num_trials=3, resume=True)
    assert not again.halted
    assert [trial.state for trial in again.trials] == ["finished"] * 3
    assert {number: again.trials[number].values for number in ended} == ended


@pytest.mark.slow
def test_two_searches_in_one_folder_at_once_are_refused(tiny: Experiment, tmp_path: Path) -> None:
    search(tiny, LR, num_trials=1)
    settings = SearchConfig(num_trials=2, max_concurrent=1)
    ready = tuner.check(tiny, LR, settings, name="search", resume=True)
    held = (tmp_path / "runs" / "search" / search_begun.LOCK).open("w")
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(ValueError, match="runs in another process"):
        tuner.search(ready, LR, settings, resume=True)
