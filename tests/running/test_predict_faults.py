"""experiments/predict_thermal.py where something is wrong: the model, the words of annotations, the unit."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import pandas as pd
import pytest

from slowfast_ray.data.config import DataConfig
from slowfast_ray.data.recordings import Recording
from slowfast_ray.experiment import Experiment
from slowfast_ray.running.predictions import prediction_files, prediction_run, prediction_truths, prediction_view
from slowfast_ray.running.predictions.prediction_plan import Plan
from slowfast_ray.running.predictions.prediction_run import Done
from slowfast_ray.running.predictions.prediction_truths import Truth
from tests.running.test_predict_script import CLASSES, Call, a_table, axes_of, painted, plan_of, recording, trained

__all__ = ["recording"]


@pytest.fixture(scope="module")
def model(tiny_in: Callable[[Path], Experiment], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return trained(tiny_in(folder), folder)


@pytest.fixture
def file(made_up_root: Path) -> Path:
    return made_up_root / "frames" / "SYN1_R1.h5"


def renamed(made_up_root: Path, folder: Path, names: dict[str, str]) -> Path:
    """Annotations in which some classes have other names."""
    content = json.loads((made_up_root / "annotations" / "train.json").read_text())
    for category in content["categories"]:
        category["name"] = names.get(category["name"], category["name"])
    path = folder / "renamed.json"
    path.write_text(json.dumps(content))
    return path


def test_damaged_weights_are_found_before_anything_is_started(
    model: Path, file: Path, call_script: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = Path(shutil.copytree(model, tmp_path / "cut"))
    weights = cut / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(SystemExit) as left:
        call_script("predict_thermal", str(cut), str(file))
    assert left.value.code == 2
    assert f"The weights of {cut} cannot be loaded" in capsys.readouterr().err
    assert list(Path.cwd().iterdir()) == []


def test_annotations_in_other_words_are_no_wrong_predictions(
    model: Path, made_up_root: Path, file: Path, tmp_path: Path, call_script: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    annotated = prediction_truths.read(made_up_root / "annotations" / "train.json")
    (name,) = annotated.of_recording("SYN1_R1", DataConfig())[0].classes
    partly = renamed(made_up_root, tmp_path, {name: "gehen"})
    plan = plan_of(model, [file], tmp_path / "out", partly)
    (warning,) = [each for each in plan.warnings() if "does not know" in each]
    assert "annotated classes: gehen;" in warning
    (done,) = prediction_run.one_by_one(plan)
    is_unknown = [truth.classes == ("gehen",) for truth in done.truths]
    assert [each is None for each in done.is_right] == is_unknown
    assert 0 < sum(is_unknown) < len(is_unknown)
    assert f"n={len(is_unknown) - sum(is_unknown)}" in prediction_view.share_right([done])
    wholly = renamed(made_up_root, tmp_path, {name: f"{name} (de)" for name in plan.description.classes})
    with pytest.raises(SystemExit) as left:
        call_script("predict_thermal", str(model), str(file), "--annotations", str(wholly))
    assert left.value.code == 2
    assert "knows none of the annotated classes" in capsys.readouterr().err
    # A model of people still finds its boxes there.
    description = model / "experiment.json"
    of_people = Path(shutil.copytree(model, tmp_path / "people"))
    experiment = Experiment.from_json(description.read_text()).override({"data.labels": "person"})
    (of_people / description.name).write_text(experiment.to_json())
    (done,) = prediction_run.one_by_one(plan_of(of_people, [file], tmp_path / "out", wholly))
    assert (done.error, set(done.is_right)) == ("", {None})
    # Annotations of other recordings say nothing of these.
    shutil.copy(file, tmp_path / "another.h5")
    said = plan_of(model, [tmp_path / "another.h5"], tmp_path / "out", wholly).warnings()
    assert not any("does not know" in each for each in said)


def test_a_keyframe_of_an_unknown_class_is_not_drawn_as_predicted_otherwise(recording: Recording) -> None:
    truths = (Truth(30, ("standing",), None), Truth(200, ("dancing",), None))
    figure = painted(a_table(), recording, CLASSES, DataConfig(), truths, (True, None))
    assert len(axes_of(figure)[0].lines) == 0
    assert [text.get_text() for text in figure.legends[0].get_texts()][-1] == "dancing"


def test_another_unit_is_noticed(
    model: Path, file: Path, call_script: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(file, tmp_path / "kelvin.h5")
    with h5py.File(tmp_path / "kelvin.h5", "r+") as content:
        content["frames"][...] = content["frames"][()] + 273.15
    out = tmp_path / "out"
    call_script("predict_thermal", str(model), str(file), str(tmp_path / "kelvin.h5"), "--out", str(out))
    assert "In 1 of 2 recordings, first kelvin, most pixels of some clips lie outside" in capsys.readouterr().out
    table = pd.read_csv(out / "predictions.csv", keep_default_na=False)
    is_noted = table["note"].str.contains("is the unit right?", regex=False)
    assert is_noted.tolist() == (table["recording"] == "kelvin").tolist()


def test_recordings_are_found_by_any_suffix_of_hdf5(model: Path, file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for name in ("a.H5", "b.hdf5", "c.h5", "d.HDF5", "notes.txt", "h5"):
        shutil.copy(file, folder / name)
    plan = plan_of(model, [folder], tmp_path / "out")
    assert [path.name for path in plan.recordings] == ["a.H5", "b.hdf5", "c.h5", "d.HDF5"]


def test_a_picture_that_fails_costs_no_other_recording(
    model: Path, made_up_root: Path, call_script: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    draw = prediction_files.draw

    def draw_without_the_first(plan: Plan, done: Done) -> Path:
        # As where the recording is deleted between its prediction and its picture.
        gone = done.path.with_name("gone.h5") if done.path.stem == "SYN1_R1" else done.path
        return draw(plan, replace(done, path=gone))

    monkeypatch.setattr(prediction_files, "draw", draw_without_the_first)
    frames, out = made_up_root / "frames", tmp_path / "out"
    with pytest.raises(SystemExit) as left:
        call_script("predict_thermal", str(model), str(frames), "--every", "50", "--out", str(out))
    assert left.value.code == 1
    assert "no picture: SYN1_R1: FileNotFoundError: No such recording" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"predictions.csv", "SYN1_R2.png", "SYN2_R1.png", "SYN2_R2.png"}
    assert pd.read_csv(out / "predictions.csv")["recording"].nunique() == 4
