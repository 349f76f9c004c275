"""The network: pytorchvideo's own, fed rightly; its sizes; and that no torchvision is needed to have it."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from slowfast_ray.model import slowfast
from slowfast_ray.model.config import ModelConfig

# Shapes: B clips, T frames, H and W height and width, K classes.

TINY = ModelConfig(width=0.125, alpha=4, num_classes=5, dropout=0.0)


def build(config: ModelConfig, seed: int = 0) -> slowfast.SlowFast:
    """A network in evaluation, with BatchNorm statistics that are not the trivial 0 and 1."""
    torch.manual_seed(seed)
    model = slowfast.build(config).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)  # pyright: ignore
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


def some_clips(num_frames: int = 8, height: int = 20, width: int = 30, num_clips: int = 2) -> torch.Tensor:
    return torch.randn(num_clips, 1, num_frames, height, width, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def logits(model: nn.Module, *inputs: torch.Tensor | list[torch.Tensor]) -> torch.Tensor:
    return model(*inputs)


def python(code: str, **environment: str) -> str:
    """What a fresh interpreter prints: sys.modules of this one have been filled by others."""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_torchvision_is_neither_needed_nor_left_behind(tmp_path: Path) -> None:
    # A torchvision built for another torch fails at import: this one fails as well, should anybody try.
    broken = tmp_path / "torchvision"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    code = (
        "import sys, torch\n"
        "from slowfast_ray.model import slowfast\n"
        "from slowfast_ray.model.config import ModelConfig\n"
        "slowfast.build(ModelConfig(width=0.125, num_classes=2))\n"
        "print([name for name in sys.modules if name.startswith('torchvision')])"
    )
    assert python(code, PYTHONPATH=str(tmp_path)) == "[]"


def test_a_torchvision_that_was_imported_first_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("from torchvision import ops")
    (tmp_path / "torchvision" / "ops.py").write_text("class RoIAlign: pass")
    code = (
        "import sys, torchvision\n"
        "before = torchvision, torchvision.ops, torchvision.ops.RoIAlign\n"
        "from slowfast_ray.model import slowfast\n"
        "import torchvision\n"
        "assert (torchvision, torchvision.ops, torchvision.ops.RoIAlign) == before\n"
        "assert sys.modules['torchvision.ops'] is torchvision.ops\n"
        "from pytorchvideo.models import head\n"
        "assert head.RoIAlign is torchvision.ops.RoIAlign\n"
        "print(torchvision.__file__)"
    )
    assert python(code, PYTHONPATH=str(tmp_path)) == str(tmp_path / "torchvision" / "__init__.py")


def pytorchvideo_network(**changes: object) -> nn.Module:
    """Straight from pytorchvideo, in its own words: a quarter of the paper's R50, 4 fast frames for each slow one."""
    with slowfast._without_torchvision():
        from pytorchvideo.models.slowfast import create_slowfast
    settings = {
        "input_channels": (1, 1),
        "model_num_class": 5,
        "dropout_rate": 0.0,
        "stem_dim_outs": (16, 2),
        "slowfast_fusion_conv_kernel_size": (5, 1, 1),
        "slowfast_fusion_conv_stride": (4, 1, 1),
        "head_pool_kernel_sizes": ((2, 2, 3), (8, 2, 3)),  # 40 x 70 pixels leave 2 x 3 after five halvings
    }
    return create_slowfast(**{**settings, **changes})  # pyright: ignore


def test_it_computes_what_pytorchvideo_computes_with_the_same_weights() -> None:
    # Its own head pools by a fixed window where ours adapts: the same function where the window is the whole map.
    config = ModelConfig(width=0.25, alpha=4, num_classes=5, dropout=0.0)
    model, reference = build(config), pytorchvideo_network().eval()
    reference.load_state_dict(model.state_dict())
    clip_B1THW = some_clips(8, 40, 70)
    expected_BK = logits(reference, [clip_B1THW[:, :, ::4].contiguous(), clip_B1THW.contiguous()])
    found_BK = logits(model, clip_B1THW)
    assert found_BK.shape == (2, 5)
    torch.testing.assert_close(found_BK, expected_BK, rtol=1e-4, atol=1e-5)
    # Weights of another sign, or statistics that were lost, would show.
    assert (found_BK[0] - found_BK[1]).abs().max() > 1e-3


@pytest.mark.parametrize("depth", [50, 101])
def test_parameters_have_pytorchvideos_names_and_shapes(depth: int) -> None:
    # Published weights are found by these names; at width 1 all but stem and classifier must fit.
    with torch.device("meta"):
        ours = slowfast.build(ModelConfig(width=1.0, depth=depth, num_classes=400)).state_dict()  # pyright: ignore
        theirs = pytorchvideo_network(
            stem_dim_outs=(64, 8), model_depth=depth, model_num_class=400, input_channels=(3, 3)
        ).state_dict()
    assert list(ours) == list(theirs)
    other = [name for name in ours if ours[name].shape != theirs[name].shape]
    assert other == [f"blocks.0.multipathway_blocks.{pathway}.conv.weight" for pathway in (0, 1)]


def count(config: ModelConfig) -> float:
    """Millions of parameters."""
    with torch.device("meta"):
        return sum(each.numel() for each in slowfast.build(config).parameters()) / 1e6


def test_width_one_is_the_papers_size() -> None:
    # SlowFast R50 at K = 400 in PySlowFast's and pytorchvideo's model zoos: 34.57 M, with stems of 3 channels.
    # Our stems of 1 channel have 2 x 49 x 64 + 2 x 245 x 8 weights less; lateral_kernel=7 is their 8x8 model's.
    assert count(ModelConfig(width=1.0, lateral_kernel=7, num_classes=400)) == pytest.approx(34.57 - 0.01, abs=0.02)
    # The 4x16 model's laterals are shorter: 34.48 M.
    assert count(ModelConfig(width=1.0, lateral_kernel=5, num_classes=400)) == pytest.approx(34.48 - 0.01, abs=0.02)
    # SlowFast R101 8x8: 62.83 M.
    deeper = ModelConfig(width=1.0, depth=101, lateral_kernel=5, num_classes=400)
    assert count(deeper) == pytest.approx(62.83 - 0.01, abs=0.02)


@pytest.mark.parametrize("width", [0.125, 0.5, 1.0])
def test_width_scales_both_stems(width: float) -> None:
    with torch.device("meta"):
        model = slowfast.build(ModelConfig(width=width, num_classes=2))
    shapes = [model.get_parameter(f"blocks.0.multipathway_blocks.{i}.conv.weight").shape for i in (0, 1)]
    assert shapes == [(64 * width, 1, 1, 7, 7), (8 * width, 1, 5, 7, 7)]


@pytest.mark.parametrize(
    ("num_frames", "height", "width"), [(4, 40, 60), (8, 20, 30), (12, 33, 47), (4, 256, 384), (64, 32, 32)]
)
def test_it_takes_clips_of_any_size(num_frames: int, height: int, width: int) -> None:
    # pytorchvideo's own head fails off 32 x 224 x 224.
    found_BK = logits(build(TINY), some_clips(num_frames, height, width, num_clips=1))
    assert found_BK.shape == (1, 5)
    assert found_BK.isfinite().all()


@pytest.mark.parametrize("alpha", [1, 3, 4, 8])
def test_the_slow_pathway_takes_every_alpha_th_frame(alpha: int) -> None:
    model = build(replace(TINY, alpha=alpha))
    seen: dict[int, torch.Tensor] = {}
    for pathway, stem in enumerate(model.blocks[0].multipathway_blocks):  # pyright: ignore
        stem.register_forward_hook(lambda _, inputs, __, pathway=pathway: seen.__setitem__(pathway, inputs[0]))
    clip_B1THW = some_clips(24)
    logits(model, clip_B1THW)
    assert torch.equal(seen[0], clip_B1THW[:, :, list(range(0, 24, alpha))])
    assert torch.equal(seen[1], clip_B1THW)


def test_a_frame_that_only_the_fast_pathway_sees_changes_the_logits() -> None:
    model, clip_B1THW = build(TINY), some_clips()
    before_BK = logits(model, clip_B1THW)
    for frame in range(8):
        changed_B1THW = clip_B1THW.clone()
        changed_B1THW[:, :, frame] += 1
        assert not torch.allclose(logits(model, changed_B1THW), before_BK, atol=1e-6), frame


def test_the_order_of_frames_matters() -> None:
    # A network that pools time away too early could not tell sitting down from getting up.
    model, clip_B1THW = build(TINY), some_clips()
    assert not torch.allclose(logits(model, clip_B1THW.flip(2)), logits(model, clip_B1THW), atol=1e-5)


def test_a_clip_has_the_same_logits_in_any_batch() -> None:
    model, clip_B1THW = build(TINY), some_clips(num_clips=3)
    whole_BK = logits(model, clip_B1THW)
    for b in range(3):
        torch.testing.assert_close(logits(model, clip_B1THW[b : b + 1])[0], whole_BK[b], rtol=1e-4, atol=1e-5)


def test_every_parameter_learns() -> None:
    # A fresh network's residual branches end in a BatchNorm of weight 0 and learn from the second step on; not so here.
    model = build(TINY).train()
    model(some_clips()).square().sum().backward()
    assert [name for name, each in model.named_parameters() if each.grad is None or not each.grad.any()] == []


def test_dropout_acts_in_training_only_and_as_strongly_as_it_is_told() -> None:
    for dropout, differs in ((0.5, True), (0.0, False)):
        torch.manual_seed(0)
        model = slowfast.build(ModelConfig(width=0.125, alpha=4, num_classes=5, dropout=dropout)).train()
        clip_B1THW = some_clips()
        assert (not torch.allclose(model(clip_B1THW), model(clip_B1THW))) == differs
        model.eval()
        assert torch.equal(logits(model, clip_B1THW), logits(model, clip_B1THW))


def test_the_global_seed_decides_the_weights() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([each.flatten() for each in slowfast.build(TINY).parameters()])

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


def test_a_network_needs_to_know_its_classes() -> None:
    with pytest.raises(ValueError, match=r"`model\.num_classes` \(=None\)"):
        slowfast.build(ModelConfig())
