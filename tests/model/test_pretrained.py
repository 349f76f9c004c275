"""Weights that others trained give the logits that others' networks give: against MMAction2's and PySlowFast's own."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from slowfast_ray.model import pretrained, slowfast
from slowfast_ray.model.config import ModelConfig
from slowfast_ray.model.pretrained_report import Weights
from tests.model import weight_files
from tests.model.weight_files import MM_4X16, MM_8X8, PSF_4X16, clip, golden

TOLERANCE = 1e-4
"""On logits of standard deviation about 10; a right import agrees to 1e-5."""


@torch.inference_mode()
def logits(weights: Weights, config: ModelConfig | None = None, *, strict: bool = True) -> torch.Tensor:
    torch.manual_seed(0)
    model = slowfast.build(config or weights.model).eval()
    model.load_state_dict(dict(weights.state), strict=strict)
    return model(clip())


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


@pytest.fixture(scope="module")
def mm_4x16(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    path = tmp_path_factory.mktemp("weights") / "zoo.pth"
    return pretrained.read(weight_files.save_zoo(path, golden(MM_4X16)[0]))


def test_mmaction2_4x16(mm_4x16: Weights) -> None:
    assert difference(logits(mm_4x16), golden(MM_4X16)[1]) < TOLERANCE
    model, report = mm_4x16.model, mm_4x16.report
    assert (model.width, model.depth, model.channels, model.num_classes) == (0.25, 50, 3, 14)
    assert (model.lateral_kernel, model.lateral_norm, model.alpha, model.slow_frames) == (5, False, 8, "every")
    assert report.dialect == "MMAction2"
    assert (report.missing, report.unexpected, report.mismatched) == ((), (), ())
    assert set(report.assumed) == {"alpha", "slow_frames", "normalisation"}
    assert mm_4x16.normalisation.mean[0] * 255 == pytest.approx(123.675)


def test_mmaction2_8x8_from_a_checkpoint_of_its_training(tmp_path: Path) -> None:
    state, expected = golden(MM_8X8)
    weights = pretrained.read(weight_files.save_training(tmp_path / "epoch_3.pth", state))
    assert difference(logits(weights), expected) < TOLERANCE
    assert (weights.model.lateral_kernel, weights.model.alpha, weights.model.slow_frames) == (7, 4, "every")
    assert weights.classes == tuple(f"class {number}" for number in range(14))


def test_pyslowfast_in_all_its_files(tmp_path: Path) -> None:
    state, expected = golden(PSF_4X16)
    torch.save({"epoch": 1, "model_state": state, "cfg": "TRAIN:"}, tmp_path / "a")
    weight_files.save_caffe2(tmp_path / "b", weight_files.as_caffe2(state))
    own = pretrained.read(tmp_path / "a")
    # pytorchvideo's names are what comes out; a whole network in a wrapper prefixes them.
    torch.save({f"module.model.{key}": value for key, value in own.state.items()}, tmp_path / "c")
    caffe2, pytorchvideo = pretrained.read(tmp_path / "b"), pretrained.read(tmp_path / "c")
    found = {"PySlowFast": own, "Caffe2": caffe2, "pytorchvideo": pytorchvideo}
    assert difference(logits(own), expected) < TOLERANCE
    for dialect, weights in found.items():
        assert weights.report.dialect == dialect
        assert weights.model == own.model, dialect
        assert (weights.model.alpha, weights.model.slow_frames, weights.model.lateral_norm) == (8, "linspace", True)
        assert weights.state.keys() == own.state.keys(), dialect
        for key, value in weights.state.items():
            assert torch.equal(value, own.state[key]) or key.endswith("num_batches_tracked"), (dialect, key)
    assert caffe2.report.set_aside == ("conv1_w_momentum", "lr", "model_iter")


def test_mmaction2_with_batch_norm_after_its_laterals(tmp_path: Path) -> None:
    # Its steplr configuration has them; PySlowFast's logits hold for the same weights under other names.
    state, expected = golden(PSF_4X16)
    weights = pretrained.read(weight_files.save_zoo(tmp_path / "steplr.pth", weight_files.as_mmaction2(state)))
    assert weights.report.dialect == "MMAction2"
    assert weights.model.lateral_norm
    assert difference(logits(weights, replace(weights.model, slow_frames="linspace")), expected) < TOLERANCE


def test_pyslowfast_without_batch_norm_after_its_laterals(tmp_path: Path) -> None:
    state, expected = golden(MM_4X16)
    torch.save({"model_state": weight_files.as_pyslowfast(state)}, tmp_path / "plain.pyth")
    weights = pretrained.read(tmp_path / "plain.pyth")
    assert weights.report.dialect == "PySlowFast"
    assert not weights.model.lateral_norm
    assert difference(logits(weights, replace(weights.model, slow_frames="every")), expected) < TOLERANCE


# What a wrong choice does; a parity test that these could pass would be worthless.


def test_wrong_columns_of_the_classifier_would_be_seen(mm_4x16: Weights) -> None:
    head = "blocks.6.proj.weight"
    num_slow = 64 * 32 // 4
    wrong = torch.cat([mm_4x16.state[head][:, num_slow:], mm_4x16.state[head][:, :num_slow]], 1)
    found = logits(replace(mm_4x16, state={**mm_4x16.state, head: wrong}))
    assert difference(found, golden(MM_4X16)[1]) > 20


def test_wrong_laterals_would_be_seen(mm_4x16: Weights) -> None:
    found = logits(mm_4x16, replace(mm_4x16.model, lateral_norm=True), strict=False)
    assert difference(found, golden(MM_4X16)[1]) > 5


def test_wrong_slow_frames_would_be_seen(mm_4x16: Weights) -> None:
    found = logits(mm_4x16, replace(mm_4x16.model, slow_frames="linspace"))
    assert difference(found, golden(MM_4X16)[1]) > 0.4
