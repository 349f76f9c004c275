"""Two runs compare on the same samples only."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from scipy.stats import binomtest

from slowfast_ray.data import dataset
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checkpoint
from slowfast_ray.running import preflight
from slowfast_ray.running.evaluations import comparing
from slowfast_ray.running.training import trainer


@pytest.fixture(scope="module")
def runs(tiny_in: Callable[[Path], Experiment], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs of other seeds on one split."""
    folder = tmp_path_factory.mktemp("runs")
    for name, seed in (("a", 0), ("b", 1)):
        ready = preflight.check(tiny_in(folder).override({"run.seed": seed}), name=name, objective="val/top1")
        trainer.fit(ready, "val/top1", on_row=lambda row: None)
    return folder / "runs" / "a", folder / "runs" / "b"


def test_against_a_hand_count(runs: tuple[Path, Path], tiny: Experiment) -> None:
    compared = comparing.compare(*runs)
    labels_S = dataset.load(tiny.data).val.labels_S
    right = []
    for folder, score in zip(runs, compared.scores, strict=True):
        best = checkpoint.best(folder)
        assert best is not None
        right_S = checkpoint.read_predictions(best).logits_SK.argmax(dim=1) == labels_S
        assert score.intervals["val/top1"].value == pytest.approx(float(right_S.float().mean()))
        assert score.intervals["val/top1"].value == pytest.approx(checkpoint.read_progress(best).best_value)
        right.append(right_S)
    only_a, only_b = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    assert (compared.test.num_only_a, compared.test.num_only_b) == (only_a, only_b)
    assert compared.test.p_value == pytest.approx(binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1)
    assert compared.mean_class_difference is not None
    values = [score.intervals["val/mean_class"].value for score in compared.scores]
    assert compared.mean_class_difference.value == pytest.approx(values[0] - values[1])


def test_the_script(
    runs: tuple[Path, Path], call_script: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    call_script("compare_thermal", *map(str, runs))
    shown = capsys.readouterr().out
    assert "McNemar p = " in shown
    assert f"{comparing.compare(*runs).mean_class_difference}" in shown


def test_other_samples_are_refused(runs: tuple[Path, Path], tiny: Experiment, tmp_path: Path) -> None:
    ready = preflight.check(tiny.override({"data.split": "purged"}), name="c", objective="val/top1")
    trainer.fit(ready, "val/top1", on_row=lambda row: None)
    with pytest.raises(ValueError, match=r"Only runs on the same samples compare.*purged, fold 0 of 5"):
        comparing.compare(runs[0], tmp_path / "runs" / "c")


def test_data_that_changed_is_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    changed = Path(shutil.copytree(runs[1], tmp_path / "b"))
    members = changed / "split.json"
    members.write_text(json.dumps({**json.loads(members.read_text()), "split_fingerprint": "before"}))
    with pytest.raises(ValueError, match=r"changed since .*/b was trained"):
        comparing.compare(runs[0], changed)


def test_folders_without_a_checkpoint(runs: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no checkpoint; name a run's folder"):
        comparing.compare(runs[0], tmp_path / "nowhere")
    (tmp_path / "search" / "trial-000").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"name one of its trials, for example .*/trial-000"):
        comparing.compare(runs[0], tmp_path / "search")
