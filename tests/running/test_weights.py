"""A run that starts from weights: it starts as they are, says what it took of them, and goes on without them."""

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checkpoint
from slowfast_ray.running import commands, follow_ups, preflight
from slowfast_ray.running.flags import TrainFlags
from slowfast_ray.running.training import trainer, worker
from tests.running.conftest import flags_of, runs_in

STANDING_STILL = {"learning.lr": 1e-30, "learning.ema_decay": 0.0, "model.batch_norm": "frozen"}


def fit(experiment: Experiment, name: str, **options: Any) -> Path:
    ready = preflight.check(experiment, name=name, objective="val/top1", **options)
    return Path(trainer.fit(ready, "val/top1", on_row=lambda row: None, **options).row[worker.CHECKPOINT])


def test_training_starts_where_the_weights_stand_and_goes_on_without_them(tiny: Experiment, tmp_path: Path) -> None:
    first = fit(tiny, "first")
    weights = Path(shutil.copytree(first, tmp_path / "weights"))
    experiment = tiny.override({"model.weights": str(weights), **STANDING_STILL})
    second = fit(experiment, "second")
    expected, found = (checkpoint.read_predictions(each).logits_SK for each in (first, second))
    torch.testing.assert_close(found, expected)
    # The report is with the run.
    assert tiny.run.tracking_uri is not None
    run_id = runs_in(tiny.run.tracking_uri)[-1].info.run_id
    text = MlflowClient(tiny.run.tracking_uri).download_artifacts(run_id, "weights.json", str(tmp_path))
    report = json.loads(Path(text).read_text())
    assert report["path"] == str(weights)
    assert report["head"].startswith("kept")
    assert report["fresh"] == []
    # A run that goes on has its own weights.
    shutil.rmtree(weights)
    assert fit(experiment, "second", resume=True) == second
    with pytest.raises(ValueError, match=r"`model.weights` \(=.*weights\)"):
        preflight.check(experiment, name="third", objective="val/top1")


def test_weights_of_another_width_are_refused_before_anything_is_written(tiny: Experiment, tmp_path: Path) -> None:
    first = fit(tiny, "first")
    with pytest.raises(ValueError, match=r"`model.width` 0.125 \(not 0.25\)"):
        fit(tiny.override({"model.width": 0.25, "model.weights": str(first)}), "second")
    assert not (tmp_path / "runs" / "second").exists()


def test_on_the_command_line_weights_bring_their_architecture(
    tiny: Experiment, tmp_path: Path, call_script: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    first = fit(tiny.override({"model.lateral_norm": False, "model.lateral_kernel": 7}), "first")
    flags = flags_of(tiny)
    for name in ("--model.width", "--model.lateral-norm", "--model.lateral-kernel"):
        position = flags.index(name)
        del flags[position : position + 2]
    call_script("train_thermal", *flags, "--model.weights", str(first), "--name", "second")
    saved = Experiment.from_json((tmp_path / "runs" / "second" / "experiment.json").read_text())
    assert (saved.model.width, saved.model.lateral_norm, saved.model.lateral_kernel) == (0.125, False, 7)
    assert "classifier: kept" in " ".join(capsys.readouterr().out.split())


def test_the_command_to_train_again_says_what_the_weights_would_otherwise_decide(
    tiny: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No shape tells alpha: a file made with 4 may be trained with 8, the preset's own.
    first = fit(tiny.override({"model.alpha": 4}), "first")
    experiment = tiny.override({"model.weights": str(first), "model.alpha": 8})
    monkeypatch.setattr("sys.argv", ["experiments/tune_thermal.py"])
    words = shlex.split(follow_ups.command_again(experiment, "laptop", "val/top1"))
    flags = commands.parse(TrainFlags, "?", words[2:])
    assert flags.experiment == experiment


def test_on_the_command_line_a_run_goes_on_without_its_weights(
    tiny: Experiment, tmp_path: Path, call_script: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    weights = Path(shutil.copytree(fit(tiny.override({"model.lateral_kernel": 7}), "first"), tmp_path / "weights"))
    flags = flags_of(tiny)
    position = flags.index("--model.lateral-kernel")
    del flags[position : position + 2]
    flags += ["--model.weights", str(weights), "--name", "second"]
    call_script("train_thermal", *flags)
    shutil.rmtree(weights)
    capsys.readouterr()
    call_script("train_thermal", *flags, "--resume")
    assert "Checkpoint:" in capsys.readouterr().out


def test_a_file_that_is_no_checkpoint_is_one_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.pth").write_text("not weights")
    with pytest.raises(SystemExit) as ended:
        commands.parse(TrainFlags, "?", ["--model.weights", str(tmp_path / "notes.pth")])
    assert ended.value.code == commands.EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert "notes.pth" in error
    assert "Traceback" not in error
