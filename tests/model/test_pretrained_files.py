"""Files of weights: nothing in them is run, bad ones are refused with one clear error, ours say all that they know."""

import builtins
import json
import os
import pickle
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from slowfast_ray.model import pretrained, pretrained_caffe2, slowfast
from slowfast_ray.model.config import ModelConfig
from tests.model import weight_files
from tests.model.weight_files import MM_4X16, MM_8X8, PSF_4X16, golden

SMALL = ModelConfig(width=0.125, alpha=4, lateral_kernel=7, slow_frames="linspace", num_classes=3)


def state_of(config: ModelConfig) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return slowfast.build(config).state_dict()


def small_state() -> dict[str, torch.Tensor]:
    return state_of(SMALL)


class Payload:
    """Calls `function` with a shell command, or Python, when somebody unpickles it carelessly."""

    def __init__(self, function: Any, argument: str) -> None:
        self.call = (function, (argument,))

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return self.call


def payloads(marker: Path) -> dict[str, Payload]:
    python = f"open({str(marker)!r}, 'w').close()"
    return {
        "os.system": Payload(os.system, f"touch {marker}"),
        "subprocess.getoutput": Payload(subprocess.getoutput, f"touch {marker}"),
        "exec": Payload(builtins.exec, python),
        "eval": Payload(builtins.eval, python),
    }


@pytest.mark.parametrize("name", ["os.system", "subprocess.getoutput", "exec", "eval"])
@pytest.mark.parametrize("kind", ["zip", "legacy", "caffe2", "pickle"])
def test_nothing_in_a_file_is_run(tmp_path: Path, name: str, kind: str) -> None:
    marker, path = tmp_path / "marker", tmp_path / "weights.pth"
    payload = payloads(marker)[name]
    pickle.loads(pickle.dumps(payload))
    assert marker.exists(), "a payload that does nothing would prove nothing"
    marker.unlink()
    if kind in ("zip", "legacy"):
        torch.save({"model_state": small_state(), "hook": payload}, path, _use_new_zipfile_serialization=kind == "zip")
    elif kind == "caffe2":
        path.write_bytes(pickle.dumps({"blobs": {"conv1_w": payload}}, protocol=2))
    else:
        path.write_bytes(pickle.dumps(payload, protocol=2))
    if kind in ("zip", "legacy") and name != "os.system":  # as inert as the history of a training
        weights = pretrained.read(path)
        last = name.split(".")[-1]  # protocol 2 has it where Python 2 kept it
        assert any(each.endswith(last) for each in weights.report.inert)
        assert all(type(each) is torch.Tensor for each in weights.state.values())
    else:
        with pytest.raises(ValueError, match=r"weights\.pth"):
            pretrained.read(path)
    assert not marker.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_a_training_checkpoint_reads_without_its_toolkit(
    tmp_path: Path, legacy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = weight_files.save_training(tmp_path / "epoch_3.pth", golden(MM_8X8)[0], legacy=legacy)
    # An mmengine that can be imported, and would leave a trace.
    package = tmp_path / "mmengine" / "logging"
    package.mkdir(parents=True)
    trace = f"open({str(tmp_path / 'imported')!r}, 'w')\n"
    for file in (tmp_path / "mmengine" / "__init__.py", package / "__init__.py", package / "history_buffer.py"):
        file.write_text(trace)
    monkeypatch.syspath_prepend(str(tmp_path))
    weights = pretrained.read(path)
    assert not (tmp_path / "imported").exists()
    assert "mmengine.logging.history_buffer.HistoryBuffer" in weights.report.inert
    assert "builtins.getattr" in weights.report.inert
    assert weights.report.missing == ()
    plain = pretrained.read(weight_files.save_zoo(tmp_path / "zoo.pth", golden(MM_8X8)[0]))
    assert all(torch.equal(value, plain.state[key]) for key, value in weights.state.items())


def refused(path: Path) -> str:
    with pytest.raises(ValueError, match=path.name) as error:
        pretrained.read(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in refused(tmp_path / "missing.pth")
    for content in (b"", b"<html>404</html>", b"\x89HDF\r\n\x1a\n", b"{}"):
        (tmp_path / "some.pth").write_bytes(content)
        assert "is no checkpoint" in refused(tmp_path / "some.pth")
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([1, 2], protocol=2))
    assert "a pickle without `blobs`" in refused(tmp_path / "list.pkl")
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    assert "holds no state dict, but a list" in refused(tmp_path / "list.pth")
    torch.save(slowfast.build(SMALL), tmp_path / "module.pth")
    assert "module.pth" in refused(tmp_path / "module.pth")


def test_a_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    assert "without weights.safetensors; name a file" in refused(tmp_path)
    (tmp_path / "epoch-012").mkdir()
    assert "it holds epoch-012: name one of them" in refused(tmp_path)


@pytest.mark.parametrize("kind", ["zip", "legacy", "caffe2", "safetensors"])
@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_what_is_truncated(tmp_path: Path, kind: str, share: float) -> None:
    path = tmp_path / "weights"
    if kind == "safetensors":
        save_file(small_state(), path)
    elif kind == "caffe2":
        weight_files.save_caffe2(path, weight_files.as_caffe2(golden(PSF_4X16)[0]))
    else:
        torch.save({"state_dict": small_state()}, path, _use_new_zipfile_serialization=kind == "zip")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert "damaged or incomplete" in refused(path)


def test_another_architecture(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"

    def error_of(state: dict[str, torch.Tensor]) -> str:
        torch.save({"state_dict": state}, path)
        return refused(path)

    assert "it names layer1.0.conv1.weight, fc.weight, and none of" in error_of(
        {"layer1.0.conv1.weight": torch.zeros(1), "fc.weight": torch.zeros(1)}
    )
    assert "names no tensors" in error_of({})
    state = golden(MM_4X16)[0]
    slow_only = {key: value for key, value in state.items() if "fast_path" not in key and "lateral" not in key}
    assert "`blocks.0.multipathway_blocks.1.conv.weight` is missing" in error_of(slow_only)
    odd = {**state, "backbone.fast_path.conv1.conv.weight": torch.zeros(4, 3, 5, 7, 7)}
    assert "16 slow and 4 fast channels" in error_of(odd)
    deeper = {key.replace("layer3.5", "layer3.7"): value for key, value in state.items() if "layer3.4" not in key}
    assert "5 slow and 5 fast residual blocks" in error_of(deeper)
    assert "takes 2 and 2 colours" in error_of(
        {key: value[:, :2] if ".conv1.conv" in key and value.shape[1] == 3 else value for key, value in state.items()}
    )


def test_a_deeper_network_in_half_precision(tmp_path: Path) -> None:
    config = ModelConfig(width=0.125, depth=101, channels=3, num_classes=5, slow_frames="linspace")
    state = {key: value.half() if value.is_floating_point() else value for key, value in state_of(config).items()}
    torch.save(state, tmp_path / "deep.pyth")
    weights = pretrained.read(tmp_path / "deep.pyth")
    assert weights.model == config
    assert {value.dtype for value in weights.state.values()} == {torch.float32, torch.int64}
    slowfast.build(config).load_state_dict(dict(weights.state))


# Ours.


def save_run(folder: Path, **changes: object) -> Path:
    """A checkpoint of a run, as far as its weights need it."""
    folder.mkdir()
    save_file(small_state(), folder / "weights.safetensors")
    values = {"width": 0.125, "alpha": 4, "lateral_kernel": 7, "slow_frames": "linspace", "num_classes": 3, **changes}
    experiment = {"data.clip_len": 32, **{f"model.{name}": value for name, value in values.items()}}
    (folder / "experiment.json").write_text(json.dumps(experiment))
    (folder / "progress.json").write_text(json.dumps({"format_version": 3, "classes": ["walk", "sit", "fall"]}))
    return folder


def test_a_checkpoint_of_ours(tmp_path: Path) -> None:
    folder = save_run(tmp_path / "epoch-004")
    for path in (folder, folder / "weights.safetensors"):
        weights = pretrained.read(path)
        assert weights.report.dialect == "slowfast_ray"
        assert weights.model == SMALL
        assert weights.classes == ("walk", "sit", "fall")
        assert weights.report.assumed == {}
        assert weights.report.stated["alpha"] == 4
        slowfast.build(weights.model).load_state_dict(dict(weights.state))
        fitted = pretrained.fit(weights, SMALL, ["walk", "sit", "fall"])
        assert fitted.report.head.startswith("kept")
        assert all(torch.equal(value, fitted.state[key]) for key, value in small_state().items())


def test_a_checkpoint_of_ours_whose_text_and_tensors_disagree(tmp_path: Path) -> None:
    folder = save_run(tmp_path / "epoch-004", width=0.25)
    assert "says `model.width` 0.25, but its tensors have 0.125" in refused(folder)
    (folder / "progress.json").write_text("{")
    assert "damaged or incomplete" in refused(folder)


def test_the_weights_of_a_run_alone_leave_more_to_be_assumed(tmp_path: Path) -> None:
    save_file(small_state(), tmp_path / "alone.safetensors")
    weights = pretrained.read(tmp_path / "alone.safetensors")
    assert weights.report.dialect == "slowfast_ray"
    assert weights.model == replace(SMALL, slow_frames="every")
    assert weights.report.assumed["slow_frames"] == "every"


def test_a_converted_file_is_its_source(tmp_path: Path) -> None:
    source = pretrained.read(weight_files.save_training(tmp_path / "mm.pth", golden(MM_4X16)[0]))
    out = tmp_path / "converted"  # told by content, not by name
    pretrained.write(source, out, source_sha256="ab" * 32)
    weights = pretrained.read(out)
    assert (weights.model, weights.classes) == (source.model, source.classes)
    assert weights.normalisation == source.normalisation
    assert weights.report.stated["origin"] == f"converted from MMAction2, SHA-256 {'ab' * 32}"
    config = replace(source.model, channels=1)
    fitted = pretrained.fit(weights, config).state
    for key, value in pretrained.fit(source, config).state.items():
        assert torch.equal(value, fitted[key]), key
    before = out.read_bytes()
    with pytest.raises(ValueError, match="exists already"):
        pretrained.write(source, out, source_sha256="cd" * 32)
    assert out.read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["converted", "mm.pth"]


def test_no_module_of_a_refused_name_is_imported(tmp_path: Path) -> None:
    # antigravity is in every Python, and opens a browser when it is imported.
    path = tmp_path / "weights.pth"
    path.write_bytes(b"\x80\x02}q\x00U\x05blobsq\x01}q\x02U\x07conv1_wcantigravity\ngeohash\nss.")
    with pytest.raises(ValueError, match="no tensors"):
        pretrained.read(path)
    assert "antigravity" not in sys.modules


class OfObjects:
    """An array as numpy pickles one, but of objects: eight bytes, each of them an address that the file chooses."""

    def __reduce__(self) -> tuple[Any, ...]:
        array = np.zeros(1, dtype="u8")
        function, arguments, state = array.__reduce__()
        return function, arguments, (*state[:2], np.dtype("O"), False, b"\x41" * 8)


@pytest.mark.parametrize("value", [OfObjects(), np.array(["text"]), np.zeros(2, complex)])
def test_an_array_of_anything_but_numbers_is_never_made(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"blobs": {"conv1_w": value}}, protocol=2))
    with pytest.raises(ValueError, match="where weights have numbers"):
        pretrained.read(path)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<f8"])
def test_arrays_of_all_numbers_and_orders_come_out_as_they_were(tmp_path: Path, dtype: str) -> None:
    expected = np.arange(24, dtype=dtype).reshape(2, 3, 4)
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"blobs": {"a_w": expected, "b_w": np.asfortranarray(expected)}}, protocol=2))
    blobs, _, _ = pretrained_caffe2.read_blobs(path)
    for name in ("a_w", "b_w"):
        np.testing.assert_array_equal(blobs[name].numpy(), expected)


def repacked(path: Path, compression: int, damage: bool = False) -> Path:
    """The same zip, packed otherwise; or with a byte of its largest part turned over."""
    other = path.with_name(f"other_{path.name}")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, "w", compression) as target:
        for each in source.infolist():
            target.writestr(each.filename, source.read(each))
    if damage:
        with zipfile.ZipFile(other) as archive:
            largest = max(archive.infolist(), key=lambda each: each.file_size)
        content = bytearray(other.read_bytes())
        content[largest.header_offset + 200] ^= 0xFF
        other.write_bytes(content)
    return other


def test_a_packed_zip_gives_the_same_tensors(tmp_path: Path) -> None:
    torch.save({"model_state": small_state()}, tmp_path / "a.pth")
    found = pretrained.read(repacked(tmp_path / "a.pth", zipfile.ZIP_DEFLATED)).state
    for key, expected in pretrained.read(tmp_path / "a.pth").state.items():
        assert torch.equal(found[key], expected), key


def test_a_byte_that_changed_is_noticed(tmp_path: Path) -> None:
    torch.save({"model_state": small_state()}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="checksum"):
        pretrained.read(repacked(tmp_path / "a.pth", zipfile.ZIP_STORED, damage=True))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda state: {**state, **{f"module.{key}": value for key, value in state.items()}}, "several networks"),
        (lambda state: {key: value.to(torch.int8) for key, value in state.items()}, "floating-point"),
        (lambda state: {key: value * float("nan") for key, value in state.items()}, "no finite numbers"),
    ],
    ids=["twice", "whole numbers", "nan"],
)
def test_tensors_that_are_no_weights_are_refused(tmp_path: Path, change: Any, expected: str) -> None:
    torch.save(change(small_state()), tmp_path / "a.pth")
    with pytest.raises(ValueError, match=expected):
        pretrained.read(tmp_path / "a.pth")


def test_a_name_that_torch_never_allows_does_not_keep_us_asking(tmp_path: Path) -> None:
    # A global of builtins with a dot in its name is refused again under any stand-in.
    path = tmp_path / "a.pth"
    torch.save({"model_state": {}}, path)
    evil = b"\x80\x02cbuiltins\ndict.fromkeys\n)R."
    with zipfile.ZipFile(path) as source:
        parts = {each.filename: source.read(each) for each in source.infolist()}
    with zipfile.ZipFile(path, "w") as target:
        for name, content in parts.items():
            target.writestr(name, evil if name.endswith("data.pkl") else content)
    with pytest.raises(ValueError, match=r"a\.pth"):
        pretrained.read(path)
