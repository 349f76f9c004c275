"""What a figure comes with: intervals, baselines, fingerprints, warnings, and a refusal where the data changed."""

import json
import math
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from ray import tune

from slowfast_ray.data import dataset
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import intervals
from slowfast_ray.learning.predictions import Predictions
from slowfast_ray.running import commands, follow_ups, preflight, scores, summary
from slowfast_ray.running.flags import AuditFlags
from slowfast_ray.running.scores import Pooled
from slowfast_ray.running.searching import search_space, tuner
from slowfast_ray.running.searching.config import SearchConfig
from slowfast_ray.running.training import trainer, worker
from tests.running.conftest import runs_in

SPACE = {"data.clip_len": tune.choice([8, 16]), "data.frame_interval": tune.choice([1, 2])}


def check(experiment: Experiment, name: str = "one", **options: bool) -> preflight.Ready:
    return preflight.check(experiment, name=name, objective="val/top1", **options)


def test_a_run_in_mlflow_says_on_what_its_figures_stand(tiny: Experiment, tmp_path: Path) -> None:
    experiment = tiny.override({"data.split": "purged", "data.num_folds": 2, "data.fold": 1})
    ready = check(experiment)
    outcome = trainer.fit(ready, "val/top1", on_row=lambda row: None)
    (run,) = runs_in(outcome.tracking_uri)
    data = dataset.load(experiment.data)
    tags = {name.removeprefix("slowfast_ray."): value for name, value in run.data.tags.items()}
    assert tags["split"] == "purged, fold 1 of 2"
    assert tags["split_fingerprint"] == data.fingerprint
    assert tags["dataset_fingerprint"] == data.source.fingerprint
    assert (tags["leak_share"], tags["num_sessions"], tags["labels"]) == ("0.0000", "2", "majority")
    assert (tags["num_train"], tags["num_val"]) == (str(len(data.train)), str(len(data.val)))
    majority = int((data.val.labels_S == data.train.num_per_class_K(6).argmax()).sum())
    assert tags["baseline.majority.top1"] == str(intervals.wilson(majority, len(data.val)))
    assert {"baseline.nearest_in_time.top1", "baseline.mean_frame_regression.mean_class"} <= set(tags)

    client = MlflowClient(outcome.tracking_uri)
    artifact = Path(client.download_artifacts(run.info.run_id, "split.json", str(tmp_path)))
    members = json.loads(artifact.read_text())
    assert (tuple(members["train"]), tuple(members["val"])) == (data.train.ids, data.val.ids)
    assert set(members["train"]).isdisjoint(members["val"])
    assert json.loads((tmp_path / "runs" / "one" / "split.json").read_text()) == members


def test_the_last_lines_are_what_the_saved_predictions_score(
    tiny: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    ready = check(tiny)
    outcome = trainer.fit(ready, "val/top1", on_row=lambda row: None)
    summary.closing(ready, "val/top1", "one", outcome.row, ready.experiment)
    shown = " ".join(capsys.readouterr().out.split())
    num_val = len(ready.data.val)
    interval = intervals.wilson(round(outcome.row[worker.BEST_VALUE] * num_val), num_val)
    assert f"Best val/top1: {interval} by one, at its best epoch (1 of 1)" in shown
    best = scores.best_baseline(ready.baselines, "val/top1")
    assert best is not None
    lift = round(interval.value, 2) - round(best.intervals["val/top1"].value, 2)
    assert f"{best.intervals['val/top1']} by {best.name}; lift {lift:+.2f}" in shown
    assert scores.of_checkpoint("one", Path(outcome.row[worker.CHECKPOINT]), ready.data).intervals[
        "val/mean_class"
    ].value == (pytest.approx(outcome.row["val/mean_class"]))


def test_the_first_lines_warn_and_say_what_to_beat(tiny: Experiment, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = tiny.override(
        {"data.fold": 1, "learning.focal_gamma": 3.0, "data.class_balance": 0.5, "learning.logit_adjustment": 1.0}
    )
    summary.opening(check(experiment), "val/top1")
    shown = " ".join(capsys.readouterr().out.split())
    assert "warning: `data.fold` (=1) has no effect, since data.split is provided." in shown
    assert "warning: `learning.focal_gamma` (=3.0) has no effect, since learning.loss is cross_entropy." in shown
    assert "`learning.logit_adjustment` (=1.0) correct the same imbalance" in shown
    assert "To beat without a network, val/top1: majority 0." in shown


@pytest.mark.parametrize(
    ("changes", "warned"),
    [
        ({"learning.optimizer": "adamw", "learning.momentum": 0.5}, "`learning.momentum` (=0.5) has no effect"),
        ({"learning.effective_number_beta": 0.5}, "`learning.effective_number_beta` (=0.5) has no effect"),
        ({"learning.class_weights": "effective_number", "learning.effective_number_beta": 0.5}, ""),
        ({"data.class_balance": 0.5, "learning.class_weights": "inverse_frequency"}, "correct the same imbalance"),
        ({"data.class_balance": 0.5}, ""),
        ({"model.unfreeze_every": 2}, "`model.unfreeze_every` (=2) has no effect"),
        ({"model.weights_partial": True}, "`model.weights_partial` (=True) has no effect"),
        ({"model.freeze_stages": 3}, "keeps what was never learnt, since model.weights is None"),
        ({"model.batch_norm": "frozen"}, "`model.batch_norm` (=frozen) keeps what was never learnt"),
        (
            {"model.batch_norm": "frozen", "learning.precise_batch_norm": 9},
            "`learning.precise_batch_norm` (=9) has no effect",
        ),
        ({"data.clip_len": 16, "learning.batch_size": 1, "learning.mixup": 0.2}, "each worker has a single clip"),
        ({"learning.mixup": 0.2}, ""),
    ],
)
def test_settings_without_effect_are_named(tiny: Experiment, changes: dict[str, object], warned: str) -> None:
    warnings = check(tiny.override(changes)).warnings()
    assert any(warned in each for each in warnings) if warned else warnings == []


def test_a_leak_is_said_before_and_after(tiny: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Validation moments between training moments, as when frames are dealt out at random.
    root = Path(shutil.copytree(str(tiny.data.root), tmp_path / "leaky"))
    files = [root / "annotations" / f"{name}.json" for name in ("train", "val")]
    contents = [json.loads(path.read_text()) for path in files]
    for name in ("images", "annotations"):
        together = contents[0][name] + contents[1][name]
        key = "id" if name == "images" else "image_id"
        ids = sorted({each["id"] for each in contents[0]["images"] + contents[1]["images"]})
        chosen = set(ids[::4])
        contents[0][f"new_{name}"] = [each for each in together if each[key] not in chosen]
        contents[1][f"new_{name}"] = [each for each in together if each[key] in chosen]
    for path, content in zip(files, contents, strict=True):
        new = {name: content[f"new_{name}"] for name in ("images", "annotations")}
        path.write_text(json.dumps({**new, "categories": content["categories"]}))
    ready = check(tiny.override({"data.root": str(root)}))
    assert ready.data.leak_share > 0.5
    summary.opening(ready, "val/top1")
    shown = " ".join(capsys.readouterr().out.split())
    assert "serious: " in shown
    assert "--data.split purged" in shown
    assert ready.tags()["slowfast_ray.leak_share"] == f"{ready.data.leak_share:.4f}"


def test_a_run_is_not_resumed_on_other_data(tiny: Experiment, tmp_path: Path) -> None:
    root = Path(shutil.copytree(str(tiny.data.root), tmp_path / "changing"))
    experiment = tiny.override({"data.root": str(root)})
    trainer.fit(check(experiment), "val/top1", on_row=lambda row: None)
    path = root / "annotations" / "val.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["category_id"] = (content["annotations"][0]["category_id"] + 1) % 6
    path.write_text(json.dumps(content))
    dataset.source.read.cache_clear()  # as in a new process
    dataset.load.cache_clear()
    with pytest.raises(ValueError, match=r"The dataset is not the one that the run in .* began with"):
        check(experiment, resume=True)


def test_the_metric_must_exist_under_the_labels(tiny: Experiment) -> None:
    with pytest.raises(ValueError, match=r"`metric` \(=val/mean_ap\) does not exist under `data.labels` \(=majority\)"):
        preflight.check(tiny, name="one", objective="val/mean_ap")
    multi = tiny.override({"data.labels": "multi"})
    with pytest.raises(ValueError, match=r"`metric` \(=val/mean_class\) does not exist under `data.labels` \(=multi\)"):
        preflight.check(multi, name="one", objective="val/mean_class")


@pytest.mark.parametrize("labels", ["person", "multi"])
def test_other_labels_train_and_are_scored(tiny: Experiment, labels: str, capsys: pytest.CaptureFixture[str]) -> None:
    ready = check(tiny.override({"data.labels": labels}))
    outcome = trainer.fit(ready, "val/top1", on_row=lambda row: None)
    scored = scores.of_checkpoint("one", Path(outcome.row[worker.CHECKPOINT]), ready.data)
    other = "val/mean_ap" if labels == "multi" else "val/mean_class"
    for metric in ("val/top1", other):
        assert scored.intervals[metric].value == pytest.approx(outcome.row[metric])
        assert scored.intervals[metric].num_samples == len(ready.data.val)
    assert all(other in baseline.intervals for baseline in ready.baselines)
    artifact = MlflowClient(outcome.tracking_uri).download_artifacts(outcome.run_id, "per_class.json")
    per_class = json.loads(Path(artifact).read_text())
    assert [each["name"] for each in per_class] == list(ready.data.classes)
    assert [each["num_samples"] for each in per_class] == ready.data.val.num_per_class_K(6).tolist()
    mean = "average_precision" if labels == "multi" else "recall"
    values = [each[mean] for each in per_class if each["num_samples"]]
    assert sum(values) / len(values) == pytest.approx(outcome.row[other])
    summary.per_class(ready)
    assert "walking" in capsys.readouterr().out


def test_the_widest_window_of_a_space(tiny: Experiment) -> None:
    def widest(space: search_space.Space, experiment: Experiment) -> float:
        return search_space.widest_window(search_space.drawable(space), experiment)

    assert widest(SPACE, tiny) == 32
    assert widest({"data.clip_len": tune.choice([8, 40])}, tiny) == 40 * tiny.data.frame_interval
    by_clock = tiny.override({"data.frame_interval_ms": 100.0})
    assert widest({"data.frame_interval_ms": tune.uniform(50, 300)}, by_clock) == 8 * 300
    assert widest({"learning.lr": tune.uniform(0.1, 1)}, by_clock) == 800


def test_all_trials_of_a_purged_search_share_the_widest_purge(
    tiny: Experiment, caplog: pytest.LogCaptureFixture
) -> None:
    purged = tiny.override({"data.split": "purged", "data.num_folds": 2})
    ready = tuner.check(purged, SPACE, SearchConfig(), name="search")
    assert ready.experiment.data.purge_window == 32
    fingerprints = {
        dataset.load(
            ready.experiment.override({"data.clip_len": clip_len, "data.frame_interval": interval}).data
        ).fingerprint
        for clip_len in (8, 16)
        for interval in (1, 2)
    }
    assert fingerprints == {ready.data.fingerprint}
    tuner.check(purged.override({"data.purge_window": 20}), SPACE, SearchConfig(), name="search")
    assert "must not be narrower than the clip" in caplog.text, "such trials end as infeasible"


def test_an_interval_that_frames_count_is_not_searched_by_the_clock(tiny: Experiment) -> None:
    by_clock = tiny.override({"data.frame_interval_ms": 100.0})
    with pytest.raises(ValueError, match=r"search data\.frame_interval_ms instead"):
        tuner.check(by_clock, SPACE, SearchConfig(), name="search")


def test_a_trial_is_tagged_with_its_own_leaks_and_without_baselines_of_other_clips(tiny: Experiment) -> None:
    ready = check(tiny)
    tags = ready.tags_of_trial(tiny.override({"data.clip_len": 256, "data.frame_interval": 1}))
    assert tags["slowfast_ray.split_fingerprint"] == ready.tags()["slowfast_ray.split_fingerprint"]
    assert "slowfast_ray.baseline.majority.top1" in tags
    assert "slowfast_ray.baseline.mean_frame_regression.top1" in ready.tags()
    assert "slowfast_ray.baseline.mean_frame_regression.top1" not in tags


def test_a_run_that_noted_no_fingerprint_is_not_resumed(tiny: Experiment, tmp_path: Path) -> None:
    trainer.fit(check(tiny), "val/top1", on_row=lambda row: None)
    (tmp_path / "runs" / "one" / "split.json").write_text("{}")
    with pytest.raises(ValueError, match=r"split.json does not say on which samples the run began \(KeyError\)"):
        check(tiny, resume=True)


def test_the_audit_is_offered_for_the_same_data(tiny: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["experiments/tune_thermal.py"])
    words = shlex.split(follow_ups.audit_command(tiny.override({"data.split": "purged"}).data))
    flags = commands.parse_plain(AuditFlags, "?", words[2:])
    assert words[1] == "experiments/audit_thermal.py"
    assert flags.data == tiny.override({"data.split": "purged"}).data


def test_folds_are_pooled_sample_by_sample(tiny: Experiment) -> None:
    changes = {"data.split": "leave-one-session-out"}
    folds = [dataset.load(tiny.override({**changes, "data.fold": fold}).data) for fold in (0, 1)]
    right = [each.val.labels_S.numpy() for each in folds]
    wrong = [(labels_S + 1) % 6 for labels_S in right]
    pooled = Pooled.of([(each, np.stack([a, b])) for each, a, b in zip(folds, right, wrong, strict=True)])
    num_samples = sum(map(len, right))
    assert pooled.top1().value == 0.5
    assert pooled.top1().num_samples == num_samples
    assert (pooled.top1().low, pooled.top1().high) == (
        intervals.wilson(round(num_samples / 2), num_samples).low,
        intervals.wilson(round(num_samples / 2), num_samples).high,
    )
    assert pooled.mean_class().value == pytest.approx(0.5)
    assert pooled.spread() == pytest.approx(math.sqrt(0.5))
    assert len(np.unique(pooled.blocks_S)) == sum(len(np.unique(each.val.blocks_S)) for each in folds)


def test_scores_of_predictions_against_a_hand_count(tiny: Experiment) -> None:
    val = dataset.load(tiny.data).val
    logits_SK = torch.zeros(len(val), 6)
    logits_SK[:, 1] = 1.0
    found = scores.of_predictions("always 1", Predictions(logits_SK, val.labels_S), val).intervals
    assert found["val/top1"].value == pytest.approx(float((val.labels_S == 1).float().mean()))
    assert found["val/mean_class"].value == pytest.approx(1 / len(val.labels_S.unique()))
    assert found["val/top1"].low < found["val/top1"].value < found["val/top1"].high
