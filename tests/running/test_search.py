"""A search on a real Ray, and what it leaves in MLflow."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from mlflow import MlflowClient
from ray import tune
from ray.util.placement_group import placement_group_table

from slowfast_ray.experiment import Experiment
from slowfast_ray.running import tracking, tuner, worker
from slowfast_ray.running.config import SearchConfig
from slowfast_ray.running.trials import SearchResult
from tests.running.conftest import runs_in

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
    return experiment, search(experiment, LR, num_trials=6, max_concurrent=1)


def test_the_first_trial_is_the_experiment_itself(searched: tuple[Experiment, SearchResult]) -> None:
    experiment, result = searched
    assert [trial.number for trial in result.trials] == list(range(6))
    own = experiment.flatten()
    assert result.trials[0].sample == {name: own[name] for name in LR}
    assert len({str(trial.sample) for trial in result.trials}) == 6


def test_trials_end_as_finished_or_pruned_and_say_so(searched: tuple[Experiment, SearchResult]) -> None:
    _, result = searched
    epochs = {trial.name: trial.row[worker.EPOCH] for trial in result.trials if trial.row is not None}
    assert len(epochs) == 6
    for trial in result.trials:
        assert trial.state == ("finished" if epochs[trial.name] == 4 else "pruned")
    assert {trial.state for trial in result.trials} == {"finished", "pruned"}
    assert not result.interrupted


def test_the_best_trial_has_the_best_value_and_a_checkpoint(searched: tuple[Experiment, SearchResult]) -> None:
    _, result = searched
    assert result.best is not None
    assert result.best.row is not None
    assert result.best.best_value == max(trial.best_value for trial in result.trials)
    folder = Path(result.best.row[worker.CHECKPOINT])
    saved = Experiment.from_json((folder / "experiment.json").read_text())
    assert saved.learning.lr == result.best.sample["learning.lr"]


def test_mlflow_holds_the_search_and_every_trial(searched: tuple[Experiment, SearchResult]) -> None:
    experiment, result = searched
    assert experiment.run.tracking_uri is not None
    client = MlflowClient(experiment.run.tracking_uri)
    runs = {run.info.run_id: run for run in runs_in(experiment.run.tracking_uri)}
    assert set(runs) == {result.run_id, *(trial.run_id for trial in result.trials)}
    assert runs[result.run_id].info.status == "FINISHED"
    for trial in result.trials:
        run = runs[trial.run_id]
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
        assert trial.row is not None
        for metric in ("train/loss", "val/loss", "val/top1", "val/top5", "val/mean_class", "train/clips_per_second"):
            points = client.get_metric_history(trial.run_id, metric)
            assert [point.step for point in points] == list(range(1, trial.row[worker.EPOCH] + 1)), metric
            assert points[-1].value == pytest.approx(trial.row[metric])
        assert run.info.end_time > run.info.start_time


def test_the_best_checkpoint_is_an_artifact_of_the_search(searched: tuple[Experiment, SearchResult]) -> None:
    experiment, result = searched
    assert result.best is not None
    client = MlflowClient(experiment.run.tracking_uri)
    names = {file.path for file in client.list_artifacts(result.run_id, "best")}
    files = ("weights.safetensors", "training.pt", "experiment.json", "progress.json", "predictions.safetensors")
    assert names == {f"best/{name}" for name in files}
    assert "split.json" in {file.path for file in client.list_artifacts(result.run_id)}
    folder = Path(client.download_artifacts(result.run_id, "best"))
    assert json.loads((folder / "progress.json").read_text())["best_value"] == result.best.best_value


def test_a_failed_trial_fails_alone(tiny: Experiment) -> None:
    space = {"learning.lr": tune.choice([0.05, 1e35])}
    experiment = tiny.override({"learning.lr": 0.05, "learning.max_grad_norm": 1e35})
    result = search(experiment, space, num_trials=4, max_concurrent=1)
    by_lr = {trial.sample["learning.lr"]: trial.state for trial in result.trials}
    assert by_lr == {0.05: "finished", 1e35: "failed"}, "the seed gives both"
    failed = next(trial for trial in result.trials if trial.state == "failed")
    run = MlflowClient(result.tracking_uri).get_run(failed.run_id)
    assert run.info.status == "FAILED"
    assert "learning.lr" in run.data.tags["slowfast_ray.error"]
    assert result.best is not None
    assert result.best.sample["learning.lr"] == 0.05


def test_the_time_budget_ends_the_search_and_what_ran_is_stopped(tiny: Experiment) -> None:
    experiment = tiny.override({"learning.num_epochs": 1000})
    result = search(experiment, LR, num_trials=3, max_concurrent=1, time_budget_min=0.15)
    assert result.trials[-1].state == "stopped"
    assert len(result.trials) < 3
    assert not result.interrupted, "the budget was part of the plan"
    assert {run.info.status for run in runs_in(result.tracking_uri)} == {"FINISHED", "KILLED"}
    assert result.best is not None


def test_trials_of_two_workers_count_each_sample_once_and_stopped_ones_free_their_place(tiny: Experiment) -> None:
    # Two workers take both CPUs: after a trial was stopped early, the next can only start once its group was freed,
    # which Ray itself does not do without its dashboard.
    experiment = tiny.override(
        {"learning.lr": 0.05, "learning.ema_decay": 0.0, "learning.num_epochs": 4, "run.num_workers": 2}
    )
    space = {"learning.lr": tune.choice([0.05, 1e-7])}
    result = search(experiment, space, num_trials=3, metric="val/loss")
    assert result.trials[0].state == "finished"
    assert "pruned" in [trial.state for trial in result.trials[:2]], "or nothing was proved"
    for trial in result.trials:
        assert trial.row is not None
        assert trial.row["val/num_samples"] == 32
        history = MlflowClient(result.tracking_uri).get_metric_history(trial.run_id, "val/num_samples")
        assert {point.value for point in history} == {32.0}
    held = [group for group in placement_group_table().values() if group["state"] == "CREATED"]
    assert len(held) <= 1, "only the last trial's, which Ray frees at its end"
    assert ray.cluster_resources()["CPU"] == 2
