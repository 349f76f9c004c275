"""Weights fitted to an experiment compute what the source computes: one channel, normalisation, classes, borders."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from slowfast_ray.data import augment
from slowfast_ray.model import pretrained, slowfast
from slowfast_ray.model.config import ModelConfig
from slowfast_ray.model.pretrained_report import NORMALISATION, OURS, Weights
from tests.model import weight_files
from tests.model.weight_files import MM_4X16, PSF_4X16, golden

# Shapes: B clips, T frames, H and W height and width, O channels of the stem.

CLASSES = [f"class {number}" for number in range(14)]


@pytest.fixture(scope="module")
def psf(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    path = tmp_path_factory.mktemp("weights") / "psf.pyth"
    torch.save({"model_state": golden(PSF_4X16)[0]}, path)
    return pretrained.read(path)


@pytest.fixture(scope="module")
def mm(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    path = tmp_path_factory.mktemp("weights") / "mm.pth"
    return pretrained.read(weight_files.save_training(path, golden(MM_4X16)[0]))


def ours(weights: Weights, **changes: Any) -> ModelConfig:
    return replace(weights.model, channels=1, num_classes=None, **changes)


def model_of(weights: Weights) -> slowfast.SlowFast:
    model = slowfast.build(weights.model).eval()
    model.load_state_dict(dict(weights.state))
    return model


def grey(height: int = 32, width: int = 48, num_frames: int = 16) -> torch.Tensor:
    """Clips of values within 0..1 [2, 1, T, H, W]."""
    return torch.rand(2, 1, num_frames, height, width, generator=torch.Generator().manual_seed(1))


def normalised(clip: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    shape = (1, -1, 1, 1, 1)
    return (clip - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)


def test_our_clips_are_normalised_as_the_weights_are_told() -> None:
    # The two wings do not import each other, so that a test holds their numbers together.
    assert (OURS.mean, OURS.std) == ((augment.MEAN,), (augment.STD,))


@torch.inference_mode()
def test_one_channel_is_the_same_value_in_three(psf: Weights) -> None:
    fitted = pretrained.fit(psf, ours(psf))
    clip_B1THW = normalised(grey(), OURS.mean, OURS.std)
    theirs, own = model_of(psf)(clip_B1THW.expand(-1, 3, -1, -1, -1)), model_of(fitted)(clip_B1THW)
    assert theirs.std() > 1
    torch.testing.assert_close(own, theirs, atol=1e-5, rtol=1e-5)
    assert fitted.report.borders is None, "zero stands for the same grey"
    assert len(fitted.report.reshaped) == 2


def stems(weights: Weights) -> list[nn.Module]:
    """Both pathways' stems, up to BatchNorm."""
    blocks = model_of(weights).get_submodule("blocks.0.multipathway_blocks")
    return [
        nn.Sequential(block.get_submodule("conv"), block.get_submodule("norm")).eval() for block in blocks.children()
    ]


@pytest.mark.parametrize("channels", [1, 3])
@torch.inference_mode()
def test_another_normalisation_is_exact_inside_and_known_at_the_borders(mm: Weights, channels: int) -> None:
    fitted = pretrained.fit(mm, replace(ours(mm), channels=channels))
    assert fitted.report.borders is not None
    for (pathway, border), source, stem in zip(fitted.report.borders.items(), stems(mm), stems(fitted), strict=True):
        seen = []
        for size in (
            (32, 48),
            (32, 49),
            (33, 48),
            (33, 49),
        ):  # the end of an even side meets other taps than an odd one
            clip_B1THW = grey(*size, num_frames=8).double()
            own_BCTHW = normalised(clip_B1THW, OURS.mean, OURS.std).expand(-1, channels, -1, -1, -1)
            their_BCTHW = normalised(clip_B1THW, mm.normalisation.mean, mm.normalisation.std)
            lacking_BOTHW = (stem.double()(own_BCTHW) - source.double()(their_BCTHW)).abs()
            assert float(lacking_BOTHW[:, :, 2:-2, 2:-2, 2:-2].max()) < 1e-5, pathway
            seen.append(float(lacking_BOTHW.max()))
        assert max(seen) == pytest.approx(border, rel=1e-4)
        assert border > 0.01, "a test that could not fail"


def test_the_head_stays_where_classes_agree(mm: Weights, psf: Weights) -> None:
    for weights, classes, begins in (
        (mm, CLASSES, "kept: the number of classes (=14) and names agree"),
        (mm, None, "kept"),
        (psf, CLASSES, "kept: the number of classes (=14) agrees; names are not known"),
        (mm, CLASSES[:5], "fresh: 14 classes in the file, 5 here"),
        (mm, CLASSES[::-1], "fresh: other classes in the file (class 0"),
    ):
        fitted = pretrained.fit(weights, ours(weights), classes)
        assert fitted.report.head.startswith(begins)
        assert fitted.model.num_classes == len(classes or CLASSES)
        is_kept = begins.startswith("kept")
        assert ("blocks.6.proj.weight" in fitted.state) == is_kept
        assert fitted.report.fresh == (() if is_kept else ("blocks.6.proj.weight", "blocks.6.proj.bias"))


def test_another_architecture_is_refused_with_the_flags_that_fit(mm: Weights) -> None:
    with pytest.raises(ValueError, match=r"mm\.pth") as error:
        pretrained.fit(mm, ModelConfig(width=1.0, depth=101, lateral_kernel=7, lateral_norm=True))
    for words in (
        "`model.width` 0.25 (not 1.0)",
        "--model.width 0.25 --model.depth 50 --model.lateral-kernel 5 --model.lateral-norm False",
    ):
        assert words in str(error.value)


def test_what_no_shape_tells_is_warned_of(mm: Weights) -> None:
    fitted = pretrained.fit(mm, ours(mm, alpha=4, slow_frames="linspace"))
    assert len(fitted.report.warnings) == 2
    assert "`model.alpha` (=4) is not the 8 of these weights" in fitted.report.warnings[0]
    assert pretrained.fit(mm, ours(mm)).report.warnings == ()


def test_the_architecture_comes_from_the_file(tmp_path: Path) -> None:
    path = weight_files.save_zoo(tmp_path / "zoo.pth", golden(MM_4X16)[0])
    defaults = ModelConfig(width=1.0, dropout=0.7, freeze_stages=2, alpha=4, lateral_kernel=7)
    found = pretrained.architecture(path, defaults)
    assert found == replace(
        defaults, width=0.25, alpha=8, lateral_kernel=5, lateral_norm=False, slow_frames="every", weights=str(path)
    )


def broken(tmp_path: Path) -> Path:
    """A file that lacks a key, has one too many, and one in another shape."""
    state = dict(golden(MM_4X16)[0])
    del state["backbone.slow_path.layer1.0.conv1.bn.bias"]
    state["backbone.slow_path.layer9.0.conv1.conv.weight"] = torch.zeros(1)
    state["backbone.fast_path.layer2.1.conv2.bn.weight"] = torch.zeros(3)
    return weight_files.save_zoo(tmp_path / "broken.pth", state)


LACKS = "blocks.1.multipathway_blocks.0.res_blocks.0.branch2.norm_a.bias"
MISFITS = "blocks.2.multipathway_blocks.1.res_blocks.1.branch2.norm_b.weight"


def test_what_does_not_fit_is_named_and_refused_unless_partial(tmp_path: Path) -> None:
    weights = pretrained.read(broken(tmp_path))
    assert weights.report.missing == (LACKS,)
    assert weights.report.unexpected == ("backbone.slow_path.layer9.0.conv1.conv.weight",)
    assert len(weights.report.mismatched) == 1
    assert weights.report.mismatched[0].startswith(f"{MISFITS} ([3], the network [")
    with pytest.raises(ValueError, match="weights-partial") as error:
        pretrained.fit(weights, ours(weights), CLASSES)
    for key in (LACKS, MISFITS, "layer9.0.conv1.conv.weight"):
        assert key in str(error.value)
    fitted = pretrained.fit(weights, ours(weights), CLASSES, partial=True)
    assert set(fitted.report.fresh) == {LACKS, MISFITS}
    text = "\n".join(fitted.report.lines())
    for key in (LACKS, MISFITS, "layer9.0.conv1.conv.weight"):
        assert key in text
    assert json.loads(fitted.report.to_json())["missing"] == [LACKS]


def test_loading_leaves_only_what_the_report_calls_fresh(tmp_path: Path) -> None:
    path = broken(tmp_path)
    config = replace(
        pretrained.architecture(path, ModelConfig()), num_classes=3, weights=str(path), weights_partial=True
    )
    model = slowfast.build(config)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report = pretrained.load(model, config, CLASSES[:3])
    after = model.state_dict()
    assert set(report.fresh) == {LACKS, MISFITS, "blocks.6.proj.weight", "blocks.6.proj.bias"}
    for key in report.fresh:
        assert torch.equal(before[key], after[key]), key
    expected = pretrained.fit(pretrained.read(path), config, CLASSES[:3], partial=True).state
    assert len(expected) + len(report.fresh) == len(after)
    for key, value in expected.items():
        assert torch.equal(value, after[key]), key
    with pytest.raises(ValueError, match="weights-partial"):
        pretrained.load(model, replace(config, weights_partial=False), CLASSES[:3])


def test_half_a_stem_is_no_stem(tmp_path: Path) -> None:
    # Its offset would have nowhere to go.
    state = dict(golden(MM_4X16)[0])
    del state["backbone.fast_path.conv1.bn.running_mean"]
    weights = pretrained.read(weight_files.save_zoo(tmp_path / "half.pth", state))
    fitted = pretrained.fit(weights, ours(weights), partial=True)
    stem = {key for key in slowfast.build(weights.model).state_dict() if "0.multipathway_blocks.1." in key[:31]}
    stem = {key for key in stem if key.startswith("blocks.0.")}
    assert set(fitted.report.fresh) == stem
    assert not stem & fitted.state.keys()


def test_every_dialect_has_a_normalisation() -> None:
    for dialect, normalisation in NORMALISATION.items():
        assert len(normalisation.mean) == len(normalisation.std), dialect
