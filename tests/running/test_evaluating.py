"""A checkpoint scored again: the same figures, on the same samples only, and nothing overwritten."""

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from mlflow import MlflowClient

from slowfast_ray.data import synthetic
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checkpoint
from slowfast_ray.running import preflight
from slowfast_ray.running.evaluations import evaluating, evaluation_files, evaluation_pictures
from slowfast_ray.running.evaluations.evaluating import Evaluation
from slowfast_ray.running.evaluations.evaluation_pictures import Mistake
from slowfast_ray.running.training import trainer
from tests.running.conftest import runs_in

PNG = b"\x89PNG\r\n\x1a\n"


def trained(experiment: Experiment, objective: str = "val/top1") -> Path:
    """The folder of a run."""
    ready = preflight.check(experiment, name="a", objective=objective)
    trainer.fit(ready, objective, on_row=lambda row: None)
    return ready.folder


@pytest.fixture(scope="module")
def run(tiny_in: Callable[[Path], Experiment], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs; tests write into folders of their own."""
    return trained(tiny_in(tmp_path_factory.mktemp("runs")).override({"learning.num_epochs": 2}))


@pytest.fixture(scope="module")
def multi(tiny_in: Callable[[Path], Experiment], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on several labels a sample."""
    return trained(tiny_in(tmp_path_factory.mktemp("runs")).override({"data.labels": "multi"}), "val/mean_ap")


def evaluated(place: Path, out: Path, **changes: Any) -> Evaluation:
    evaluation = evaluating.score(evaluating.check(place, out=out, **changes))
    evaluation_files.write(evaluation)
    return evaluation


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_one_view_says_what_the_checkpoint_said(run: Path, tmp_path: Path) -> None:
    best = checkpoint.best(run)
    assert best is not None
    saved = checkpoint.read_predictions(best)
    found = evaluated(run, tmp_path / "out")
    assert found.plan.checkpoint == best
    np.testing.assert_allclose(found.predictions.probabilities_SK(), saved.probabilities_SK(), atol=1e-5)
    expected = {name.replace("val/", "eval/"): value for name, value in saved.metrics().items()}
    metrics = found.metrics()
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert metrics["eval/macro_f1"] == pytest.approx(saved.macro_f1())
    assert found.leak_share == found.data.leak_share


def test_the_files_hold_every_sample_and_class(run: Path, tmp_path: Path) -> None:
    found = evaluated(run, tmp_path / "out")
    out, data = tmp_path / "out", found.data
    assert {each.name for each in out.iterdir()} == {
        "metrics.json", "per_class.csv", "predictions.csv", "confusion.csv",
        "confusion.png", "reliability.png", "worst_mistakes.png",
    }  # fmt: skip
    assert all(path.read_bytes().startswith(PNG) for path in out.glob("*.png"))
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["metrics"]["eval/top1"] == found.predictions.metrics()["val/top1"]
    assert set(metrics["intervals"]) == {"eval/top1", "eval/top5", "eval/mean_class"}
    assert metrics["split_fingerprint"] == data.fingerprint
    assert metrics["views"] == [{"clip_shift": 0.0, "crop": None}]
    assert sum(each["number"] for each in metrics["calibration"]["bins"]) == len(data.val)
    rows = table(out / "predictions.csv")
    assert [row["sample"] for row in rows] == list(data.val.ids)
    for row, label, first, keyframe in zip(
        rows, data.val.labels_S.tolist(), data.val.firsts_S.tolist(), data.val.keyframes_S.tolist(), strict=True
    ):
        assert row["truth"] == data.classes[label]
        assert row["predicted"] == row["top1"]
        assert (row["is_right"] == "1") == (row["truth"] == row["predicted"])
        assert data.source.timeline.index(row["recording"]) == data.source.timeline.firsts.tolist().index(first)
        assert int(row["keyframe"]) == keyframe - first
        shares = [float(row[f"p({name})"]) for name in data.classes]
        assert sum(shares) == pytest.approx(1, abs=1e-4)
        assert float(row["probability"]) == max(shares) == float(row[f"p({row['top1']})"])
    assert [row["name"] for row in table(out / "per_class.csv")] == list(data.classes)
    confusion = [[int(row[name]) for name in data.classes] for row in table(out / "confusion.csv")]
    assert confusion == found.predictions.confusion_KK().tolist()


def test_the_worst_mistakes_are_the_most_confident_ones(run: Path, tmp_path: Path) -> None:
    found = evaluated(run, tmp_path / "out")
    mistakes = evaluation_files.worst_mistakes(found)
    assert 0 < len(mistakes) <= evaluation_files.MAX_MISTAKES
    wrong = [row for row in table(tmp_path / "out" / "predictions.csv") if row["is_right"] == "0"]
    by_confidence = sorted((float(row["probability"]) for row in wrong), reverse=True)
    assert [each.said[1] for each in mistakes] == pytest.approx(by_confidence[: len(mistakes)], abs=1e-5)
    assert all(each.said[0] not in dict(each.truth) for each in mistakes)
    assert {each.frames_THW.shape for each in mistakes} == {(7, 20, 30)}
    assert all(-1e-5 <= each.frames_THW.min() <= each.frames_THW.max() <= 1 + 1e-5 for each in mistakes)


def test_views_change_the_figures_and_their_names(run: Path) -> None:
    plan = evaluating.check(run / "epoch-002", num_clips=2, num_crops=3)
    assert plan.out == run / "evaluation-epoch-002-clips2-crops3"
    assert len(plan.views) == 6
    alone = evaluating.score(evaluating.check(run / "epoch-002"))
    found = evaluating.score(plan)
    assert not np.allclose(found.predictions.probabilities_SK(), alone.predictions.probabilities_SK(), atol=1e-4)
    assert not plan.out.exists(), "only `write` writes"


def test_the_script(run: Path, call_script: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    call_script("evaluate_thermal", str(run), "--clips", "3", "--crops", "3")
    best = checkpoint.best(run)
    assert best is not None
    shown, out = capsys.readouterr().out, run / f"evaluation-{best.name}-clips3-crops3"
    metrics = json.loads((out / "metrics.json").read_text())["metrics"]
    assert f"Written to     {out}" in shown
    assert f"{metrics['eval/top1']:.2f} [" in shown
    uri = f"sqlite:///{run.parents[1]}/mlflow.db"
    (entry,) = runs_in(uri)
    assert entry.info.run_id in shown
    assert entry.info.status == "FINISHED"
    assert entry.data.metrics["eval-clips3-crops3/top1"] == metrics["eval/top1"]
    assert "eval/top1" not in entry.data.metrics
    held = MlflowClient(uri).list_artifacts(entry.info.run_id, f"evaluation/{best.name}-clips3-crops3")
    assert {Path(each.path).name for each in held} == {each.name for each in out.iterdir()}
    with pytest.raises(SystemExit) as stopped:
        call_script("evaluate_thermal", str(run), "--clips", "3", "--crops", "3")
    assert stopped.value.code == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    call_script("evaluate_thermal", str(run), "--clips", "3", "--crops", "3", "--out", "again")
    assert "Not in MLflow: The run" in capsys.readouterr().out
    call_script("evaluate_thermal", str(run), "--out", "untracked", "--no-track")
    assert "MLflow" not in capsys.readouterr().out
    assert Path("untracked/metrics.json").is_file()


def test_a_run_without_an_entry_is_evaluated_all_the_same(
    run: Path, tmp_path: Path, call_script: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    moved = Path(shutil.copytree(run, tmp_path / "moved"))
    call_script("evaluate_thermal", str(moved), "--out", str(tmp_path / "out"))
    assert f"Not in MLflow: it has no entry of {moved}." in capsys.readouterr().out
    assert (tmp_path / "out" / "metrics.json").is_file()


@pytest.mark.parametrize(("flag", "value"), [("--clips", "0"), ("--clips", "11"), ("--crops", "2")])
def test_unknown_views_are_refused_before_anything_is_loaded(
    flag: str, value: str, call_script: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        call_script("evaluate_thermal", "/nowhere", flag, value)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: `{flag[2:]}` (={value}) must be")


def test_folders_without_a_checkpoint(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no checkpoint; name a run's folder"):
        evaluating.check(tmp_path / "nowhere")
    (tmp_path / "search" / "trial-000").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"name one of its trials, for example .*/trial-000"):
        evaluating.check(tmp_path / "search")
    with pytest.raises(ValueError, match="lies in no folder"):
        evaluating.check(run, out=tmp_path / "no" / "out")
    damaged = Path(shutil.copytree(run, tmp_path / "damaged"))
    (damaged / "epoch-002" / "experiment.json").write_text("[]")
    with pytest.raises(ValueError, match="does not tell its experiment"):
        evaluating.check(damaged / "epoch-002")


def test_other_data_is_refused_and_moved_data_found(run: Path, made_up_root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    synthetic.write(other, seed=4, num_recordings=2, num_frames=260)
    with pytest.raises(ValueError, match=r"gives others than .*fingerprint is .*name its folder with `--root`"):
        evaluating.score(evaluating.check(run, root=str(other), out=tmp_path / "a"))
    moved = Path(shutil.copytree(made_up_root, tmp_path / "moved"))
    found = evaluated(run, tmp_path / "b", root=str(moved))
    assert found.data.root == moved


def test_a_trial_has_the_samples_of_its_search(run: Path, tmp_path: Path) -> None:
    search = tmp_path / "search"
    shutil.copytree(run, search / "trial-000")
    (search / "trial-000" / "split.json").rename(search / "split.json")
    assert evaluated(search / "trial-000", tmp_path / "out").metrics()["eval/num_samples"] == 32
    (search / "split.json").unlink()
    with pytest.raises(ValueError, match=r"search/split\.json does not say on which samples"):
        evaluating.score(evaluating.check(search / "trial-000", out=tmp_path / "other"))


def test_several_labels_have_average_precision_and_no_confusions(
    multi: Path, tmp_path: Path, call_script: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    call_script("evaluate_thermal", str(multi), "--clips", "2", "--out", str(out))
    assert "mean AP in place of the class mean, and no confusion matrix" in capsys.readouterr().out
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics["intervals"]) == {"eval/top1", "eval/top5", "eval/mean_ap"}
    assert not list(out.glob("confusion*"))
    for row in table(out / "predictions.csv"):
        said = {name[2:-1] for name, value in row.items() if name.startswith("p(") and float(value) > 0.5}
        assert set(filter(None, row["predicted"].split(" | "))) == said
        assert (row["is_right"] == "1") == (row["top1"] in row["truth"].split(" | "))


def test_people_and_purged_splits_warn_of_shifted_clips(tiny: Experiment, tmp_path: Path) -> None:
    purged = {"data.split": "purged", "data.num_folds": 3, "data.fold": 1, "data.clip_len": 16}
    folder = trained(tiny.override({"data.labels": "person", **purged}))
    alone = evaluated(folder, tmp_path / "alone")
    assert (alone.leak_share, alone.warnings()) == (0, [])
    found = evaluated(folder, tmp_path / "views", num_clips=3, num_crops=3)
    assert found.leak_share > 0
    (warning,) = found.warnings()
    assert f"{found.leak_share:.0%} of the samples show moments of training clips, against 0%" in warning
    metrics = json.loads((tmp_path / "views" / "metrics.json").read_text())
    assert metrics["leak_share"] == {"as_trained": 0, "of_these_views": found.leak_share}
    assert metrics["warnings"] == [warning]


def test_pictures_of_many_classes_and_odd_names(tmp_path: Path) -> None:
    # 70 classes with long names, formulas and no text at all; frames of one pixel, and tall ones.
    names = ["$x_1$ " * 30, "", *(f"class {k}" for k in range(68))]
    confusion_KK = np.random.default_rng(0).integers(0, 9, (70, 70))
    evaluation_pictures.confusion(confusion_KK, names, tmp_path / "many.png")
    evaluation_pictures.confusion(np.zeros((3, 3), dtype=int) + np.eye(3, dtype=int), names[:3], tmp_path / "few.png")
    mistake = Mistake("somewhere " * 40, (names[0], 0.9), [(names[0], 0.1)] * 5, np.zeros((7, 90, 20)))
    evaluation_pictures.gallery([mistake], (-20.5, 100.25), tmp_path / "tall.png")
    assert imread(os.fspath(tmp_path / "tall.png")).shape[1] == 1840
    with pytest.raises(FileExistsError):
        evaluation_pictures.gallery([mistake], (10, 35), tmp_path / "tall.png")
