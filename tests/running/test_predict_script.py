"""experiments/predict_thermal.py as its users call it: tables and pictures of whole recordings, on real files."""

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow.parquet
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle

from slowfast_ray.data import dataset, recordings
from slowfast_ray.data.config import DataConfig
from slowfast_ray.data.recordings import Recording
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checkpoint
from slowfast_ray.running.predicting import Predictor
from slowfast_ray.running.predictions import (
    prediction_pictures,
    prediction_plan,
    prediction_run,
    prediction_truths,
    windows,
)
from slowfast_ray.running.predictions.prediction_plan import Plan
from slowfast_ray.running.predictions.prediction_truths import Truth
from slowfast_ray.running.publishing import model_folder
from slowfast_ray.running.training import worker

Call = Callable[..., None]
NAMES = ("SYN1_R1", "SYN1_R2", "SYN2_R1", "SYN2_R2")


def trained(experiment: Experiment, folder: Path) -> Path:
    """A model folder."""
    worker.train(experiment, folder / "run", "val/loss", lambda row: None)
    newest = checkpoint.newest(folder / "run")
    assert newest is not None
    model_folder.write(folder / "model", newest, dataset.load(experiment.data))
    return folder / "model"


@pytest.fixture(scope="module")
def model(tiny_in: Callable[[Path], Experiment], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return trained(tiny_in(folder), folder)


@pytest.fixture(scope="module")
def model_of_people(tiny_in: Callable[[Path], Experiment], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    return trained(tiny_in(folder).override({"data.labels": "person"}), folder)


def plan_of(model: Path, files: Sequence[Path], out: Path, annotations: Path | None = None) -> Plan:
    return prediction_plan.check(
        str(model), files, every=20, smooth=None, out=out, annotations=annotations, tracking_uri=None
    )


def test_a_folder_becomes_a_table_pictures_and_a_summary(
    model: Path, made_up_root: Path, call_script: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames, out = made_up_root / "frames", tmp_path / "out"
    call_script("predict_thermal", str(model), str(frames), "--annotations", str(made_up_root), "--out", str(out))
    assert {path.name for path in out.iterdir()} == {"predictions.csv", *(f"{name}.png" for name in NAMES)}
    table = pd.read_csv(out / "predictions.csv", dtype={"note": str}, keep_default_na=False)
    assert table["recording"].unique().tolist() == list(NAMES)
    expected = windows.of_recording(Predictor.load(model), frames / "SYN1_R2.h5")
    mine = table[table["recording"] == "SYN1_R2"].reset_index(drop=True)
    for name in ("start_ms", "end_frame", "keyframe", "class", "note"):
        assert mine[name].tolist() == expected[name].tolist(), name
    assert mine["top3"].map(json.loads).tolist() == expected["top3"].tolist()
    assert np.allclose(mine["p_walking"], expected["p_walking"], atol=1e-6)
    shown, errors = capsys.readouterr()
    assert errors == ""
    assert re.search(r"SYN1_R1 +0:4\d +33 ", shown), "recording, duration, windows"
    # All annotated keyframes were counted, each by the window in which it lies.
    num = sum(len(json.loads((made_up_root / "annotations" / f"{split}.json").read_text())["images"])
              for split in ("train", "val"))  # fmt: skip
    assert re.search(rf"Keyframes +0\.\d\d \[.*\] n={num} right", shown)
    assert "the shares right flatter" in shown
    assert "dead pixel values in 2 of 4 recordings are repaired" in shown


def test_parquet_holds_lists_and_people(
    model_of_people: Path, made_up_root: Path, call_script: Call, tmp_path: Path
) -> None:
    file, out = made_up_root / "frames" / "SYN1_R1.h5", tmp_path / "out"
    flags = ("--out", str(out), "--format", "parquet", "--smooth", "3", "--every", "20")
    train = made_up_root / "annotations" / "train.json"
    call_script("predict_thermal", str(model_of_people), str(file), *flags, "--annotations", str(train))
    table = pyarrow.parquet.read_table(out / "predictions.parquet")
    assert str(table.schema.field("top3_probabilities").type) == "list<element: double>"
    assert str(table.schema.field("start_ms").type) == "int64"
    images = prediction_truths.read(train).images
    expected = windows.of_recording(Predictor.load(model_of_people), file, every=20, smooth=3, images=images)
    assert table.column_names == list(expected)
    assert table["person"].to_pylist() == expected["person"].tolist() == ["0"] * 13 + ["1"] * 13
    assert table["top3"].to_pylist() == expected["top3"].tolist()
    assert table["probability"].to_pylist() == expected["probability"].tolist()


def test_bad_input_is_found_before_anything_is_started(
    model: Path, model_of_people: Path, made_up_root: Path, call_script: Call, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    frames, other = made_up_root / "frames", tmp_path / "other"
    (other / "empty").mkdir(parents=True)
    shutil.copy(frames / "SYN1_R1.h5", other)
    one = str(frames / "SYN1_R1.h5")
    for flags, says in (
        ((str(model), one, "/nowhere.h5"), "No such recording, nor folder of recordings: /nowhere.h5"),
        ((str(model), str(other / "empty")), "holds no recording"),
        ((str(model), str(made_up_root)), f"did you mean {frames}?"),
        ((str(model), one, str(other)), "two are called SYN1_R1"),
        ((str(model), one, "--out", str(other)), "exists, and nothing is overwritten"),
        ((str(model), one, "--out", "/nowhere/out"), "lies in no folder"),
        ((str(model), one, "--every", "0"), "`every` (=0)"),
        ((str(model), one, "--smooth", "4"), "try 5"),
        ((str(model), one, "--annotations", "/nowhere.json"), "No such annotation file"),
        (("/nowhere", one), "/nowhere"),
        ((str(other), one), "is no model of slowfast_ray"),
        ((str(model_of_people), one), "with --annotations"),
        ((str(model),), "recordings"),
    ):
        with pytest.raises(SystemExit) as left:
            call_script("predict_thermal", *flags)
        assert left.value.code == 2
        assert says in capsys.readouterr().err
    assert list(Path.cwd().iterdir()) == [], "nothing was written"


def test_a_recording_that_fails_costs_no_other_one(
    model: Path, made_up_root: Path, call_script: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, cut = made_up_root / "frames" / "SYN1_R1.h5", tmp_path / "cut.h5"
    cut.write_bytes(whole.read_bytes()[:5000])
    with pytest.raises(SystemExit) as left:
        call_script("predict_thermal", str(model), str(cut), str(whole), "--out", str(tmp_path / "out"))
    assert left.value.code == 1
    assert "failed: cut: The recording" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"predictions.csv", "SYN1_R1.png"}
    with pytest.raises(SystemExit) as left:
        call_script("predict_thermal", str(model), str(cut), "--out", str(tmp_path / "none"))
    assert left.value.code == 1
    assert not (tmp_path / "none").exists(), "nothing to write"


def test_annotations_of_another_recording_are_noticed(model: Path, made_up_root: Path, tmp_path: Path) -> None:
    content = json.loads((made_up_root / "annotations" / "train.json").read_text())
    content["images"][0]["frame_idx"] = 5000
    (tmp_path / "wrong.json").write_text(json.dumps(content))
    name = content["images"][0]["sensor_id"]
    plan = plan_of(model, [made_up_root / "frames" / f"{name}.h5"], tmp_path / "out", tmp_path / "wrong.json")
    (done,) = prediction_run.one_by_one(plan)
    assert "must lie inside its recording" in done.error


@pytest.mark.slow
@pytest.mark.ray
def test_a_process_that_dies_costs_no_recording(
    own_ray: None, own_ray_folder: Path, model: Path, made_up_root: Path, tmp_path: Path
) -> None:
    files = [made_up_root / "frames" / f"{name}.h5" for name in NAMES]
    plan = replace(plan_of(model, files, tmp_path / "out"), every=1)
    found = prediction_run.side_by_side(plan, verbose=False)
    done = [next(found)]
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # another one, or its parent, that ends meanwhile
            parent = process.parent()
            is_ours = parent is not None and str(own_ray_folder) in " ".join(parent.cmdline())
            if is_ours and "MapWorker" in " ".join(process.cmdline()):
                process.kill()
    done += found
    assert sorted(each.path for each in done) == files
    assert [each.error for each in done] == [""] * 4


@pytest.mark.ray
def test_recordings_side_by_side_are_those_one_by_one_row_for_row(
    own_ray: None, model: Path, made_up_root: Path, call_script: Call, tmp_path: Path,
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = tmp_path / "many"
    shutil.copytree(made_up_root / "frames", folder)
    (folder / "SYN1_R3.h5").write_bytes(b"damaged")
    flags = ("--out", str(tmp_path / "out"), "--format", "parquet", "--every", "20")
    monkeypatch.setenv("RAY_ADDRESS", "the one that is connected")
    capfd.readouterr()
    with pytest.raises(SystemExit) as left:
        call_script("predict_thermal", str(model), str(folder), *flags)
    assert left.value.code == 1
    shown, errors = capfd.readouterr()
    assert "failed: SYN1_R3: The recording" in shown
    assert errors == "", "a quiet terminal"
    found = list(prediction_run.one_by_one(plan_of(model, [folder], tmp_path / "other")))
    expected = pd.concat([each.table for each in found if each.table is not None], ignore_index=True)
    table = pyarrow.parquet.read_table(tmp_path / "out" / "predictions.parquet")
    assert len(table) == 13 * 4
    assert table.to_pydict() == expected.to_dict("list")


@pytest.mark.ray
@pytest.mark.slow
def test_what_takes_long_goes_on_side_by_side(
    own_ray: None, model: Path, made_up_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(prediction_run, "PATIENCE_S", -1)
    monkeypatch.setattr(prediction_run, "MIN_FOR_RAY", 3)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)  # of one GPU there would be nothing to share
    plan = plan_of(model, [made_up_root / "frames"], tmp_path / "out")
    heard: list[int] = []
    found = list(prediction_run.run(plan, verbose=False, on_windows=heard.append))
    assert sorted(each.path for each in found) == list(plan.recordings)
    assert sum(heard) == 13, "only the first one was done in this process"


@pytest.fixture
def recording(made_up_root: Path) -> Recording:
    return recordings.read(made_up_root / "frames" / "SYN1_R1.h5")


def axes_of(figure: Figure) -> tuple[Axes, Axes]:
    """The rows of actions, and the graph of probabilities."""
    rows, graph = (axes for axes in figure.axes if axes.axison)
    return rows, graph


def drawn_in(figure: Figure, row: int) -> list[tuple[float, float, str]]:
    """Begin, end and colour of each stretch or mark in a row of actions."""
    return [
        (each.get_x(), each.get_x() + each.get_width(), to_hex(each.get_facecolor()))
        for each in axes_of(figure)[0].patches
        if isinstance(each, Rectangle) and round(each.get_y() + 0.38, 2) == row
    ]


def painted(*arguments: Any) -> Figure:
    figure = Figure((9.2, 4))
    prediction_pictures.draw(figure, *arguments)
    return figure


CLASSES = ("standing", "walking", "lying")


def a_table(**columns: list[Any]) -> pd.DataFrame:
    """Four windows of 65 frames."""
    firsts = np.arange(0, 260, 65)
    said = {
        "class": ["standing", "standing", "lying", "walking"],
        "probability": [0.5, 0.6, 0.9, 0.4],
        "note": [""] * 4,
        **columns,
    }
    return pd.DataFrame({"start_frame": firsts, "end_frame": firsts + 64, **said})


def test_a_strip_shows_what_is_said_and_what_is_true(recording: Recording) -> None:
    truths = (Truth(30, ("standing",), None), Truth(150, ("walking",), None), Truth(200, ("dancing",), None))
    figure = painted(a_table(), recording, CLASSES, DataConfig(), truths, (True, False, False))
    assert recording.times_N is not None
    seconds_N = (recording.times_N - recording.times_N[0]) / 1000
    standing, walking, lying = map(prediction_pictures.color_of, range(3))
    (_, end, first), (_, _, second), (start, _, third) = drawn_in(figure, 0)
    assert (first, second, third) == (standing, lying, walking), "two windows that agree are one stretch"
    assert end == pytest.approx(seconds_N[130])
    assert start == pytest.approx(seconds_N[195])
    marks = drawn_in(figure, 1)
    assert [color for _, _, color in marks[:2]] == [standing, walking]
    assert marks[2][2] not in {standing, walking, lying}, "a class that the model does not know"
    assert [(begin + end) / 2 for begin, end, _ in marks] == pytest.approx(seconds_N[[30, 150, 200]].tolist())
    rows, graph = axes_of(figure)
    assert [label.get_text() for label in rows.get_yticklabels()] == ["predicted", "annotated"]
    assert len(rows.lines) == 2, "a dot for each keyframe that is wrong"
    assert graph.lines[0].get_ydata().tolist() == [0.5, 0.5, 0.6, 0.6, 0.9, 0.9, 0.4, 0.4]
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named == ["standing", "walking", "lying", "dancing", "predicted otherwise"]
    assert sum(not axes.axison for axes in figure.axes) == prediction_pictures.NUM_THUMBNAILS


def test_a_strip_leaves_gaps_empty(recording: Recording) -> None:
    assert recording.times_N is not None
    is_late_N = np.arange(260) >= 130
    table = a_table(**{"class": ["standing"] * 4})
    figure = painted(table, replace(recording, times_N=recording.times_N + 100_000 * is_late_N), CLASSES, DataConfig())
    (_, before, _), (after, end, _) = drawn_in(figure, 0)
    assert after - before == pytest.approx(100, abs=0.5), "seconds in which nothing is said"
    assert np.isnan(axes_of(figure)[1].lines[0].get_ydata()).any(), "the line is broken"
    # 44 seconds of frames in 144: thumbnails stand where there are frames.
    shown = sum(not axes.axison for axes in figure.axes)
    assert shown == sum(
        not before <= (number + 0.5) / prediction_pictures.NUM_THUMBNAILS * end < after
        for number in range(prediction_pictures.NUM_THUMBNAILS)
    )
    assert 0 < shown < prediction_pictures.NUM_THUMBNAILS


def test_a_strip_has_rows_for_each_person_and_counts_frames_without_times(recording: Recording) -> None:
    notes = [windows.NO_BOX, "", "", ""]
    table = pd.concat([a_table(person=["a"] * 4, note=notes), a_table(person=["b"] * 4)], ignore_index=True)
    truths = (Truth(30, ("standing",), "b"),)
    figure = painted(table, replace(recording, times_N=None), CLASSES, DataConfig(), truths, (True,))
    rows, graph = axes_of(figure)
    assert [label.get_text() for label in rows.get_yticklabels()] == [
        "predicted #a", "annotated #a", "predicted #b", "annotated #b",
    ]  # fmt: skip
    assert (len(drawn_in(figure, 1)), len(drawn_in(figure, 3))) == (0, 1)
    assert len(drawn_in(figure, 0)) == len(drawn_in(figure, 2)) + 1, "what is a guess is a stretch of its own"
    assert sum(bool(each.get_hatch()) for each in rows.patches) == 1
    assert len({line.get_color() for line in graph.lines}) == 2
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named[3:] == ["no box of the person near", "probability #a", "probability #b"]
    assert graph.get_xlabel() == "frame"
    assert rows.get_xlim() == (0, 260)


def test_a_strip_is_a_png_of_its_size_and_overwrites_nothing(recording: Recording, tmp_path: Path) -> None:
    path = tmp_path / "strip.png"
    prediction_pictures.strip(a_table(), recording, CLASSES, DataConfig(), path)
    assert imread(path).shape[1] == 1840
    assert path.stat().st_size < 150_000
    with pytest.raises(FileExistsError):
        prediction_pictures.strip(a_table(), recording, CLASSES, DataConfig(), path)


def test_colours_of_classes_differ() -> None:
    assert len({prediction_pictures.color_of(number) for number in range(18)}) == 18


def test_several_labels_are_right_where_one_is_said(made_up_root: Path) -> None:
    annotated = prediction_truths.read(made_up_root)
    several = annotated.of_recording("SYN1_R1", DataConfig(labels="multi"))
    one = annotated.of_recording("SYN1_R1", DataConfig())
    assert [each.keyframe for each in several] == [each.keyframe for each in one]
    assert max(len(each.classes) for each in several) == 2
    assert all(set(a.classes) <= set(b.classes) for a, b in zip(one, several, strict=True))
    table = a_table()
    truths = [Truth(10, ("lying", "standing"), None), Truth(140, ("walking",), None), Truth(140, ("x",), None)]
    assert list(prediction_truths.are_right(table, truths, CLASSES)) == [True, False, None]


def test_the_real_recordings_are_predicted_whole(
    model: Path, real_root: Path, call_script: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Made-up classes for real rooms: what is said means nothing, but all of it is there.
    out = tmp_path / "out"
    call_script("predict_thermal", str(model), str(real_root / "frames" / "SL14_R1.h5"), "--out", str(out))
    table = pd.read_csv(out / "predictions.csv")
    assert table["start_frame"].tolist() == list(range(0, 498, 8))
    assert table["end_frame"].iloc[-1] == 497
    assert (table["end_ms"].iloc[-1] - table["start_ms"].iloc[0]) // 1000 == 84
    assert "31680 dead pixel values in 1 of 1 recordings are repaired" in capsys.readouterr().out
