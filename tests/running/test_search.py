"""A search on a real Ray, and what it leaves in MLflow."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import ray
import torch
from mlflow import MlflowClient
from ray import tune
from ray.util.placement_group import placement_group_table

from slowfast_ray.data import dataset
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checkpoint
from slowfast_ray.running import scores
from slowfast_ray.running.folders import begun
from slowfast_ray.running.searching import tuner
from slowfast_ray.running.searching.config import SearchConfig
from slowfast_ray.running.searching.searcher import SearchBoard
from slowfast_ray.running.searching.tuner import SearchResult
from slowfast_ray.running.tracking import tracking
from slowfast_ray.running.tracking.tracking_store import ERROR
from slowfast_ray.running.tracking.tracking_view import VIEW
from slowfast_ray.running.training.worker import Row
from tests.running.conftest import runs_in

FILES_OF_TEXT = ("experiment.json", "progress.json", "checksums.json")
pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("own_ray")]

LR = {"learning.lr": tune.loguniform(1e-6, 0.1), "data.frame_interval": tune.choice([1, 2])}


def search(experiment: Experiment, space: dict[str, Any], **config: Any) -> SearchResult:
    settings = SearchConfig(**config)
    ready = tuner.check(experiment, space, settings, name="search")
    return tuner.search(ready, space, settings)


@pytest.fixture(scope="module")
def searched(
    made_up_root: Path, tmp_path_factory: pytest.TempPathFactory, own_ray: None, tiny_in: Callable[[Path], Experiment]
) -> tuple[Experiment, SearchResult]:
    """Six trials, one after the other, of up to 4 epochs: enough for some to be stopped early."""
    experiment = tiny_in(tmp_path_factory.mktemp("search")).override(
        {"learning.num_epochs": 4, "data.split": "purged", "data.num_folds": 2}
    )
    before = signal.getsignal(signal.SIGINT)
    result = search(experiment, LR, num_trials=6, max_concurrent=1)
    assert signal.getsignal(signal.SIGINT) is before, "Ctrl-C ends what comes after the trials"
    return experiment, result


def test_the_first_trial_is_the_experiment_itself(searched: tuple[Experiment, SearchResult]) -> None:
    experiment, result = searched
    assert [trial.number for trial in result.trials] == list(range(6))
    own = experiment.flatten()
    assert result.trials[0].sample == {name: own[name] for name in LR}
    assert len({str(trial.sample) for trial in result.trials}) == 6


def test_trials_end_as_finished_or_pruned_and_say_so(searched: tuple[Experiment, SearchResult]) -> None:
    _, result = searched
    for trial in result.trials:
        assert trial.state == ("finished" if trial.epoch == 4 else "pruned")
    assert {trial.state for trial in result.trials} == {"finished", "pruned"}
    assert not result.interrupted


def test_the_best_trial_has_the_best_value_and_a_checkpoint(searched: tuple[Experiment, SearchResult]) -> None:
    _, result = searched
    assert result.best is not None
    assert result.best.value == max(trial.value for trial in result.trials if trial.state == "finished")
    assert result.best.value == pytest.approx(sum(each["val/mean_class"] for each in result.best.history[-3:]) / 3)
    assert result.checkpoint is not None
    assert result.checkpoint.name == "epoch-004", "what was scored, not the luckiest epoch"
    saved = Experiment.from_json((result.checkpoint / "experiment.json").read_text())
    assert saved.learning.lr == result.best.sample["learning.lr"]


def test_mlflow_holds_the_search_and_every_trial(searched: tuple[Experiment, SearchResult]) -> None:
    experiment, result = searched
    assert experiment.run.tracking_uri is not None
    client = MlflowClient(experiment.run.tracking_uri)
    runs = {run.info.run_id: run for run in runs_in(experiment.run.tracking_uri)}
    assert set(runs) == {result.run_id, *(trial.run.id for trial in result.trials)}
    assert runs[result.run_id].info.status == "FINISHED"
    for trial in result.trials:
        assert trial.run.id is not None
        run = runs[trial.run.id]
        assert run.data.tags["mlflow.parentRunId"] == result.run_id
        assert run.data.tags[tracking.STATE] == trial.state
        assert run.info.status == {"finished": "FINISHED", "pruned": "KILLED"}[trial.state or ""]
        expected = trial.experiment.flatten()
        assert expected["data.purge_window"] == 8 * 2, "the longest clip of the space"
        for tag in ("split_fingerprint", "dataset_fingerprint", "leak_share", "baseline.majority.top1"):
            name = f"slowfast_ray.{tag}"
            assert run.data.tags[name] == runs[result.run_id].data.tags[name], "all trials score the same samples"
        assert run.data.params == {name: str(value) for name, value in expected.items()}
        assert expected["learning.lr"] == trial.sample["learning.lr"]
        for metric in ("train/loss", "val/loss", "val/top1", "val/top5", "val/mean_class", "train/clips_per_second"):
            points = client.get_metric_history(trial.run.id, metric)
            assert [point.step for point in points] == list(range(1, trial.epoch + 1)), metric
            assert points[-1].value == pytest.approx(trial.history[-1][metric])
        assert run.info.end_time > run.info.start_time


def test_a_trial_in_mlflow_says_what_it_is_worth_and_where_it_came_from(
    searched: tuple[Experiment, SearchResult],
) -> None:
    experiment, result = searched
    client = MlflowClient(experiment.run.tracking_uri)
    for trial in result.trials:
        run = client.get_run(trial.run.id or "")
        lr, interval = trial.sample["learning.lr"], trial.sample["data.frame_interval"]
        assert run.info.run_name == f"{trial.name} lr={lr:.3g} 8x{interval}"
        folder = Path(experiment.run.storage, "search", trial.name)
        newest = checkpoint.newest(folder)
        assert newest is not None
        scored = scores.of_checkpoint("", newest, dataset.load(trial.experiment.data)).intervals["val/mean_class"]
        shown = [run.data.metrics[f"final/mean_class{bound}"] for bound in ("_low", "", "_high")]
        assert shown == [round(each, 4) for each in (scored.low, scored.value, scored.high)]
        assert run.data.metrics["final/objective"] == pytest.approx(trial.value)
        assert run.data.metrics["final/objective_low"] <= trial.value <= run.data.metrics["final/objective_high"]
        assert run.data.metrics["cost/device_seconds"] == pytest.approx(trial.gpu_seconds)
        assert run.data.metrics["system/process_memory_megabytes"] > 100
        tags = {name.removeprefix("slowfast_ray."): value for name, value in run.data.tags.items()}
        assert tags["device"].startswith(("CPU", "NVIDIA"))
        assert tags["seeds"] == "run 0, split 0"
        assert f"torch {torch.__version__.split('+')[0]}" in tags["versions"]
        (used,) = run.inputs.dataset_inputs
        assert (used.dataset.name, used.dataset.digest) == ("made_up", tags["dataset_fingerprint"])
        assert json.loads(used.dataset.source) == {"uri": experiment.data.root}
        artifacts = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert artifacts == {"experiment.json", "log.txt", "report"}
        told = Path(client.download_artifacts(run.info.run_id, "log.txt")).read_text()
        assert f"Epoch {trial.epoch} of 4: " in told
        report = Path(client.download_artifacts(run.info.run_id, "report"))
        names = {"confusion.csv", "confusion.png", "per_class.csv", "predictions.csv", "learning_curves.png"}
        assert {file.name for file in report.iterdir()} == names
        said = pd.read_csv(report / "predictions.csv")
        assert (said["is_right"] == 1).mean() == pytest.approx(trial.history[-1]["val/top1"])


def test_the_search_in_mlflow_describes_itself_and_shows_its_trials(
    searched: tuple[Experiment, SearchResult],
) -> None:
    experiment, result = searched
    client = MlflowClient(experiment.run.tracking_uri)
    run = client.get_run(result.run_id)
    note, best = run.data.tags[tracking.NOTE], result.best
    assert best is not None
    assert note.startswith("**Which `learning.lr`, `data.frame_interval` give the best val/mean_class on made_up?**")
    assert f"[{best.name}](#/experiments/{run.info.experiment_id}/runs/{best.run.id})" in note
    assert all(f"[{trial.name}](#" in note for trial in result.trials)
    assert run.data.params["search.num_trials"] == "6"
    assert run.data.tags["slowfast_ray.cluster"].endswith("2 CPUs and 0 GPUs")
    tags = client.get_experiment(run.info.experiment_id).tags
    assert f"{VIEW}slowfast_ray-{result.run_id}" in tags
    assert "Trials of search, best first" in tags[tracking.NOTE]
    folder = Path(experiment.run.storage, "search")
    assert not list(folder.glob("tracking-*.jsonl")), "all is sent"
    assert "trial-000 finished after 4 epoch(s)" in (folder / "log.txt").read_text()


def test_the_best_checkpoint_is_an_artifact_of_the_search(searched: tuple[Experiment, SearchResult]) -> None:
    experiment, result = searched
    assert result.best is not None
    client = MlflowClient(experiment.run.tracking_uri)
    names = {file.path for file in client.list_artifacts(result.run_id, "best")}
    files = [*("weights.safetensors", "training.pt", "predictions.safetensors"), *FILES_OF_TEXT]
    assert names == {f"best/{name}" for name in files}
    assert "split.json" in {file.path for file in client.list_artifacts(result.run_id)}
    folder = Path(client.download_artifacts(result.run_id, "best"))
    assert json.loads((folder / "progress.json").read_text())["epoch"] == result.best.epoch


def test_losers_keep_what_they_measured_and_lose_their_weights(searched: tuple[Experiment, SearchResult]) -> None:
    experiment, result = searched
    assert result.best is not None
    for trial in result.trials:
        newest = checkpoint.newest(Path(experiment.run.storage) / "search" / trial.name)
        assert newest is not None
        assert checkpoint.read_progress(newest).epoch == trial.epoch
        assert len(checkpoint.read_predictions(newest).target)
        assert (newest / "weights.safetensors").exists() == (trial == result.best)
    files = [file for file in Path(experiment.run.storage, "search").glob("*/epoch-*/*") if file.is_file()]
    assert result.kept_bytes == sum(file.stat().st_size for file in files)


def test_the_pictures_are_with_the_search(searched: tuple[Experiment, SearchResult]) -> None:
    experiment, result = searched
    names = {
        Path(file.path).name
        for file in MlflowClient(experiment.run.tracking_uri).list_artifacts(result.run_id, "pictures")
    }
    assert {
        "history.png",
        "importance.png",
        "slice.png",
        "parallel.png",
        "curves.png",
        "cost.png",
        "search.html",
    } == names


@pytest.mark.slow
def test_the_time_budget_ends_the_search_and_what_ran_is_stopped(
    tiny: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = SearchBoard.row

    def use_up(board: SearchBoard, name: str, told: Row) -> bool:
        board._deadline = 0.0  # no machine is too slow to get as far as an epoch
        return row(board, name, told)

    monkeypatch.setattr(SearchBoard, "row", use_up)
    experiment = tiny.override({"learning.num_epochs": 1000})
    result = search(experiment, LR, num_trials=3, max_concurrent=1, scheduler="none", time_budget_min=30)
    assert [trial.state for trial in result.trials] == ["stopped"]
    assert not result.interrupted, "the budget was part of the plan"
    assert {run.info.status for run in runs_in(result.tracking_uri)} == {"FINISHED", "KILLED"}
    assert result.best is not None
    assert result.reason == ""


def test_a_budget_that_ends_before_the_first_epoch_says_so(tiny: Experiment) -> None:
    result = search(tiny, LR, num_trials=3, max_concurrent=1, time_budget_min=0.01)
    assert [(trial.state, trial.epoch) for trial in result.trials] == [("stopped", 0)]
    assert result.best is None
    client = MlflowClient(result.tracking_uri)
    own = client.get_run(result.run_id)
    assert own.info.status == "KILLED", "nothing failed"
    assert "before any trial had completed an epoch" in own.data.tags[ERROR]


@pytest.mark.slow
def test_an_interrupted_search_goes_on_and_grows(tiny: Experiment) -> None:
    experiment = tiny.override({"learning.num_epochs": 3})
    space = {"learning.lr": tune.loguniform(1e-6, 0.1)}
    first = search(experiment, space, num_trials=2, max_concurrent=1)
    settings = SearchConfig(num_trials=3, max_concurrent=1)
    wider = {"learning.lr": tune.loguniform(1e-7, 0.1)}
    with pytest.raises(ValueError, match="say --resume-anyway"):
        tuner.check(experiment, wider, settings, name="search", resume=True)
    with pytest.raises(ValueError, match=r"`learning\.num_epochs` \(=4, was 3\)"):
        tuner.check(experiment.override({"learning.num_epochs": 4}), space, settings, name="search", resume=True)
    changed = {"learning.lr": tune.choice([0.1, 0.2])}
    with pytest.raises(ValueError, match=r"--search\.warm-start search"):
        tuner.check(experiment, changed, settings, name="search", resume=True, anyway=True)
    other = experiment.override({"learning.momentum": 0.8})
    ready = tuner.check(other, wider, settings, name="search", resume=True, anyway=True)
    second = tuner.search(ready, wider, settings, resume=True)
    tuner.check(other, wider, settings, name="search", resume=True)  # what was said once holds from then on
    assert [trial.values for trial in second.trials[:2]] == [trial.values for trial in first.trials]
    assert [trial.number for trial in second.trials] == [0, 1, 2]
    assert second.run_id == first.run_id


@pytest.mark.slow
def test_several_objectives_have_a_front(tiny: Experiment) -> None:
    space = {"data.clip_len": tune.choice([8, 16])}
    result = search(tiny, space, num_trials=3, max_concurrent=1, objectives="val/loss,cost/gpu_seconds")
    assert {len(trial.values) for trial in result.trials} == {2}
    assert result.front
    for objective in (0, 1):  # equal trials may share a best value, of which the cheaper one is in front
        values = [trial.values[objective] for trial in result.trials]
        assert min(values) in [trial.values[objective] for trial in result.front]


@pytest.mark.slow
def test_finalists_are_trained_again_and_the_winner_on_everything(tiny: Experiment) -> None:
    experiment = tiny.override({"data.split": "purged", "data.num_folds": 2})
    space = {"learning.lr": tune.loguniform(1e-6, 0.1)}
    asked = {"num_trials": 3, "max_concurrent": 2, "finalists": 1, "finalist_seeds": 2, "train_winner": True}
    result = search(experiment, space, scheduler="none", **asked)
    assert result.decision is not None
    report = result.decision.report
    assert {each.number for each in report.finalists} >= {0}
    for each in report.finalists:
        assert set(each.values) == {(1, 0), (1, 1), (2, 0), (2, 1)}, "seeds that the search has not used, on both folds"
    assert result.best is not None
    assert result.best.number == report.winner().number
    assert result.checkpoint is not None
    assert result.checkpoint.parent.name == f"winner-{result.best.number:03d}-seed-1"
    assert (result.checkpoint / "weights.safetensors").exists()
    folder = result.checkpoint.parent.parent
    kept = {each.parent.parent.name for each in folder.glob("finalist-*/epoch-*/weights.safetensors")}
    assert kept == {f"finalist-{each.number:03d}-seed-1-fold-0" for each in report.finalists}, "any may win later"
    fingerprints = [begun.split_fingerprint(folder / f"finalist-000-seed-1-fold-{fold}") for fold in (0, 1)]
    assert fingerprints[0] == begun.split_fingerprint(folder / "trial-000") != fingerprints[1]
    assert json.loads((result.checkpoint / "experiment.json").read_text())["data.split"] == "all"
    artifacts = MlflowClient(result.tracking_uri).list_artifacts(result.run_id)
    assert "finalists.md" in {file.path for file in artifacts}


@pytest.mark.slow
def test_a_warm_start_knows_the_trials_of_an_earlier_search(tiny: Experiment) -> None:
    space = {"learning.lr": tune.loguniform(1e-6, 0.1)}
    search(tiny, space, num_trials=3, max_concurrent=1, finalists=1, finalist_seeds=1)  # whose runs are no trials
    settings = SearchConfig(num_trials=2, max_concurrent=1, warm_start="search")
    result = tuner.search(tuner.check(tiny, space, settings, name="warm"), space, settings)
    assert len(result.trials) == 2
    assert [trial.number for trial in result.trials] == [0, 4]
    stranger = tiny.override({"data.split": "purged", "data.num_folds": 2})
    with pytest.raises(ValueError, match="split fingerprint"):
        tuner.check(stranger, space, settings, name="other")
    with pytest.raises(ValueError, match="nosuch"):
        tuner.check(tiny, space, SearchConfig(warm_start="nosuch"), name="other")


@pytest.mark.slow
def test_trials_of_two_workers_count_each_sample_once_and_stopped_ones_free_their_place(tiny: Experiment) -> None:
    # Two workers take both CPUs: after a trial was stopped early, the next can only start once its group was freed,
    # which Ray itself does not do without its dashboard.
    experiment = tiny.override(
        {"learning.lr": 0.05, "learning.ema_decay": 0.0, "learning.num_epochs": 4, "run.num_workers": 2}
    )
    space = {"learning.lr": tune.loguniform(1e-5, 0.05)}
    result = search(experiment, space, num_trials=4, objectives="val/loss", grace_epochs=1)
    assert "pruned" in [trial.state for trial in result.trials[:-1]], "or nothing was proved"
    for trial in result.trials:
        assert trial.history[-1]["val/num_samples"] == 32
        history = MlflowClient(result.tracking_uri).get_metric_history(trial.run.id or "", "val/num_samples")
        assert {point.value for point in history} == {32.0}
    held = [group for group in placement_group_table().values() if group["state"] == "CREATED"]
    assert held == [], "whatever runs next on this Ray needs them"
    assert ray.cluster_resources()["CPU"] == 2
