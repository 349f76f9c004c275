"""An exported model says what the network says, without this package, or is not exported."""

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slowfast_ray.data import recordings
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.experiment import Experiment
from slowfast_ray.running.predicting import Predictor
from slowfast_ray.running.publishing import exported_clips, exported_programs, exporting, model_folder
from tests.running.test_predicting import trained

onnx: Any = pytest.importorskip("onnx", reason="the extra `export` is not installed")
onnxruntime: Any = pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")


@pytest.fixture(scope="module")
def chosen(tiny_in: Callable[[Path], Experiment], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset]:
    folder = tmp_path_factory.mktemp("trained")
    # Of another size than the sensor's, so that the resize is part of the program.
    return trained(tiny_in(folder), folder)


@pytest.fixture(scope="module")
def model(chosen: tuple[Path, Dataset], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    model_folder.write(folder, *chosen)
    return folder


@pytest.fixture(autouse=True)
def _few_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exported_clips, "NUM_CLIPS", 5)
    monkeypatch.setattr(exporting, "SECONDS", 0.0)


@pytest.fixture(scope="module")
def exported(model: Path, made_up_root: Path) -> exporting.Exported:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exported_clips, "NUM_CLIPS", 5)
        patch.setattr(exporting, "SECONDS", 0.0)
        return exporting.export(model, model.parent / "out", root=str(made_up_root))


@pytest.mark.slow
def test_both_programs_say_what_the_network_says_at_any_batch_size(
    exported: exporting.Exported, model: Path, chosen: tuple[Path, Dataset]
) -> None:
    out, cpu = exported.out, torch.device("cpu")
    assert {each.name for each in out.iterdir()} == {"model.pt2", "model.onnx", "export.json"}
    sampling = json.loads((out / "export.json").read_text())["sampling"]
    recording = recordings.read(chosen[1].root / "frames" / f"{chosen[1].source.timeline.recordings[0]}.h5")
    keyframes_S = torch.tensor([3, 50, 100, 130, 180, 220, 259])
    said_SK = Predictor.load(model, cpu).of_recording(recording, keyframes_S).logits_SK
    # The frames of each clip, by what export.json says alone.
    steps_T = np.arange(sampling["clip_len"]) - sampling["keyframe_position"]
    indices_ST = keyframes_S.numpy()[:, None] + steps_T * sampling["frame_interval"]
    frames_STHW = torch.from_numpy(recording.frames_NHW[indices_ST.clip(0, 259)])
    assert said_SK.abs().max() > 0.01, "a network that says nothing would agree with anything"
    for way in (
        exported_programs.open_pt2(out / "model.pt2", cpu),
        exported_programs.open_onnx(out / "model.onnx", cpu, num_threads=1),
    ):
        assert len(keyframes_S) not in exporting.BATCH_SIZES
        assert torch.allclose(way(frames_STHW), said_SK, rtol=0, atol=1e-4)
        assert torch.allclose(way(frames_STHW[:1]), said_SK[:1], rtol=0, atol=1e-4)


def test_export_json_says_what_goes_in_and_what_was_checked(exported: exporting.Exported) -> None:
    text = (exported.out / "export.json").read_text()
    content = json.loads(text)
    assert content["input"] == {
        "name": "frames", "dtype": "float32", "shape": ["batch", 8, 40, 60], "unit": "degrees Celsius, as recorded",
    }  # fmt: skip
    assert content["output"]["shape"] == ["batch", len(content["classes"])]
    assert content["checked"]["num_clips"] == 5
    assert set(content["checked"]["largest_difference_of_logits"]) == {"1", "4"}
    timed = content["latency_ms_a_batch"]["by_batch_size"]["1"]
    assert set(timed) == {"network", "model.pt2", "model.onnx"}
    assert all(0 < each["p50"] <= each["p95"] and each["num_calls"] > 1 for each in timed.values())
    (frames,) = onnxruntime.InferenceSession(exported.out / "model.onnx").get_inputs()
    assert (frames.name, frames.shape) == ("frames", ["batch", 8, 40, 60])


def test_no_file_holds_a_path_of_the_machine_that_exported(exported: exporting.Exported, made_up_root: Path) -> None:
    with zipfile.ZipFile(exported.out / "model.pt2") as archive:
        texts = [archive.read(name) for name in archive.namelist()]
    texts += [each.read_bytes() for each in exported.out.iterdir()]
    package = str(Path(torch.__file__).parents[1])
    assert not any(path.encode() in text for text in texts for path in (package, str(made_up_root.parents[1])))


@pytest.mark.slow
def test_the_program_of_torch_needs_torch_alone_and_nothing_in_it_is_unpickled_but_tensors(
    exported: exporting.Exported,
) -> None:
    code = """
import sys
found = []
sys.addaudithook(lambda name, arguments: found.append(arguments) if name == "pickle.find_class" else None)
sys.modules.update(slowfast_ray=None, pytorchvideo=None)
import torch
before = len(found)
program = torch.export.load(sys.argv[1])
print(found[before:], tuple(program.module()(torch.zeros(3, 8, 40, 60)).shape))
import pickle
pickle.loads(pickle.dumps(print))
print(len(found) > before)
"""
    done = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", code, str(exported.out / "model.pt2")],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    num_classes = len(json.loads((exported.out / "export.json").read_text())["classes"])
    assert (done.stdout, done.stderr) == (f"[] (3, {num_classes})\nTrue\n", "")


def shifted_pt2(path: Path) -> None:
    program = torch.export.load(path)
    with torch.no_grad():
        [*program.parameters()][-1][0] += 2e-4
    torch.export.save(program, path)


def shifted_onnx(path: Path) -> None:
    content = onnx.load(path)
    (bias,) = (each for each in content.graph.initializer if each.name.endswith("proj.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(2e-4), bias.name))
    onnx.save(content, path)


@pytest.mark.parametrize(("name", "shift"), [("model.pt2", shifted_pt2), ("model.onnx", shifted_onnx)])
@pytest.mark.slow
def test_a_program_that_says_something_else_is_not_exported(
    exported: exporting.Exported,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    shift: Callable[[Path], None],
) -> None:
    def write(network: torch.nn.Module, clip_shape: tuple[int, ...], folder: Path) -> None:
        """What was exported before, one bias of one program shifted."""
        shutil.copytree(exported.out, folder, dirs_exist_ok=True)
        shift(folder / name)

    monkeypatch.setattr(exported_programs, "write", write)
    with pytest.raises(ValueError, match=rf"{name} does not say what the network says: with 1 clip.*up to 0\.0002"):
        exporting.export(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow  # an export takes 10 s
def test_a_model_by_the_clock_of_several_labels_in_16_bits(
    tiny: Experiment, tmp_path: Path, made_up_root: Path
) -> None:
    changes = {"data.labels": "multi", "data.frame_interval_ms": 170.0, "data.clip_len": 16}
    model_folder.write(
        tmp_path / "model", *trained(tiny.override({**changes, "model.slow_frames": "linspace"}), tmp_path)
    )
    description = tmp_path / "model" / "experiment.json"
    in_16_bits = Experiment.from_json(description.read_text()).override({"learning.precision": "bf16"})
    description.write_text(in_16_bits.to_json())
    done = exporting.export(tmp_path / "model", tmp_path / "out", paths=sorted((made_up_root / "frames").iterdir()))
    content = json.loads((done.out / "export.json").read_text())
    assert content["checked"]["on"] == "4 recording(s)"
    assert content["output"]["probabilities"] == "sigmoid"
    assert content["sampling"]["frame_interval"] is None
    assert content["sampling"]["frame_interval_ms"] == 170
    assert content["notes"] == ["Trained in bf16; exported, checked and timed in fp32."]


@pytest.mark.slow  # an export takes 10 s
def test_the_script_exports_a_model_of_people_from_its_crop_on(
    tiny: Experiment,
    tmp_path: Path,
    made_up_root: Path,
    call_script: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    changed = tiny.override({"data.labels": "person", "data.height": 24, "data.width": 24})
    model, out = tmp_path / "model", tmp_path / "out"
    model_folder.write(model, *trained(changed, tmp_path))
    with pytest.raises(ValueError, match="do not say where people are"):
        exporting.export(model, out, paths=sorted((made_up_root / "frames").iterdir()))
    capsys.readouterr()
    call_script("export_thermal", str(model), str(out), "--root", str(made_up_root))
    shown = capsys.readouterr()
    assert shown.err == "", "a quiet terminal"
    assert shown.out.count("model.onnx") == 2, "a row for each size of a batch"
    assert "on 5 clips, validation samples of a dataset" in shown.out
    assert "note: It looks at people" in shown.out
    content = json.loads((out / "export.json").read_text())
    assert content["input"]["shape"] == ["batch", 1, 8, 24, 24]
    assert not content["normalisation"]["inside"]
    with pytest.raises(SystemExit, match="2"):
        call_script("export_thermal", str(model), str(out))
    assert "nothing is overwritten" in capsys.readouterr().err


def test_what_stands_in_the_way_is_told_before_anything_is_written(
    model: Path, exported: exporting.Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for given, out, message in (
        (model, exported.out, "exists, and nothing is overwritten"),
        (model, tmp_path / "none" / "out", "lies in no folder"),
        (tmp_path, tmp_path / "out", "is no model of slowfast_ray"),
    ):
        with pytest.raises(ValueError, match=message):
            exporting.export(given, out)
    with pytest.raises(FileNotFoundError, match="No such data folder"):
        exporting.export(model, tmp_path / "out", root="/nowhere")
    with pytest.raises(FileNotFoundError, match="No such recording"):
        exporting.export(model, tmp_path / "out", paths=[tmp_path / "none.h5"])
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs onnx, onnxruntime, onnxscript; install `slowfast-ray\[export\]`"):
        exporting.export(model, tmp_path / "out")
