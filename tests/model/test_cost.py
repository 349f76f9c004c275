"""What a network costs: the published numbers, and the memory that autograd really keeps."""

import re
from dataclasses import replace

import pytest
import torch

from slowfast_ray.model import cost, slowfast
from slowfast_ray.model.config import ModelConfig

PAPER = ModelConfig(width=1.0, channels=3, num_classes=400)
TINY = ModelConfig(width=0.125, num_classes=5)
CLIP = {"clip_len": 16, "height": 64, "width": 48}


@pytest.mark.parametrize(
    ("config", "giga_multiply_adds", "mega_parameters"),
    [
        # Feichtenhofer et al. 2019 (arXiv 1812.03982), table 2: 36.1 G for 4x16, 65.7 G for 8x8, each at 256 x 256.
        # Parameters, and 65.71 G: https://github.com/facebookresearch/pytorchvideo/blob/main/docs/source/model_zoo.md
        # (which has 36.69 G for 4x16).
        (replace(PAPER, alpha=8, lateral_kernel=5), 36.1, 34.48),
        (replace(PAPER, alpha=4, lateral_kernel=7), 65.71, 34.57),
    ],
    ids=["4x16", "8x8"],
)
def test_operations_and_parameters_are_the_published_ones(
    config: ModelConfig, giga_multiply_adds: float, mega_parameters: float
) -> None:
    found = cost.estimate(config, clip_len=32, height=256, width=256)
    assert found.flops_per_clip / 2e9 == pytest.approx(giga_multiply_adds, abs=0.01)
    assert found.num_parameters / 1e6 == pytest.approx(mega_parameters, abs=0.005)


@pytest.mark.parametrize(("alpha", "kernel", "published_mib"), [(8, 5, 6203), (4, 7, 9062)], ids=["4x16", "8x8"])
def test_memory_is_a_little_less_than_what_others_measured_on_a_gpu(
    alpha: int, kernel: int, published_mib: int
) -> None:
    # gpu_mem(M) of slowfast_r50_8xb8-4x16x1-256e and -8x8x1-256e: 8 clips of 32 x 224 x 224 on each GPU, SGD, float32.
    # https://github.com/open-mmlab/mmaction2/blob/main/configs/recognition/slowfast/README.md
    config = replace(PAPER, alpha=alpha, lateral_kernel=kernel, lateral_norm=False)
    found = cost.estimate(config, clip_len=32, height=224, width=224)
    needed = cost.memory_bytes(found, micro_batch=8, optimizer="sgd", has_average=False)
    assert 0.95 < needed / 2**20 / published_mib < 1


def really_kept(config: ModelConfig, num_clips: int) -> int:
    """Bytes that autograd holds after a real way through a real network, parameters and buffers aside."""
    model = slowfast.build(config).train()
    own = {each.untyped_storage().data_ptr() for each in (*model.parameters(), *model.buffers())}
    held: dict[int, int] = {}
    tensors = []  # none may be freed meanwhile, or its address would be given again

    def save(tensor: torch.Tensor) -> torch.Tensor:
        tensors.append(tensor)
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    clip_BCTHW = torch.rand(num_clips, 1, CLIP["clip_len"], CLIP["height"], CLIP["width"])
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        logits_BK = model(clip_BCTHW)
    assert logits_BK.requires_grad
    return sum(size for address, size in held.items() if address not in own)


def test_activations_are_what_autograd_really_keeps() -> None:
    found = cost.estimate(TINY, **CLIP)
    assert found.activation_bytes_per_clip == pytest.approx(really_kept(TINY, 2) / 2, rel=1e-6)
    # The shares of a batch are alike, but for BatchNorm's statistics.
    assert 4 * found.activation_bytes_per_clip == pytest.approx(really_kept(TINY, 4), rel=0.01)


def test_half_the_frames_keep_half_as_much() -> None:
    whole = cost.estimate(TINY, **CLIP)
    half = cost.estimate(TINY, **{**CLIP, "clip_len": 8})
    assert half.activation_bytes_per_clip == pytest.approx(whole.activation_bytes_per_clip / 2, rel=0.02)
    assert half.flops_per_clip == pytest.approx(whole.flops_per_clip / 2, rel=0.02)
    assert half.num_parameters == whole.num_parameters


def test_sixteen_bits_keep_little_more_than_half() -> None:
    whole = cost.estimate(TINY, **CLIP)
    half = cost.estimate(TINY, **CLIP, precision_bytes=2)
    # Not quite half: the positions of the stem's largest pixels are whole numbers in either case.
    assert 0.5 < half.activation_bytes_per_clip / whole.activation_bytes_per_clip < 0.6
    assert half.flops_per_clip == whole.flops_per_clip


def test_gradient_checkpointing_keeps_inputs_and_the_largest_block() -> None:
    plain = cost.estimate(TINY, **CLIP)
    checkpointed = cost.estimate(replace(TINY, gradient_checkpointing=True), **CLIP)
    assert checkpointed.activation_bytes_per_clip < 0.8 * plain.activation_bytes_per_clip
    assert replace(checkpointed, activation_bytes_per_clip=plain.activation_bytes_per_clip) == plain


def test_frozen_stages_keep_nothing_unless_they_thaw() -> None:
    plain, frozen, thawing = (
        cost.estimate(replace(TINY, **changes), **CLIP)
        for changes in ({}, {"freeze_stages": 3}, {"freeze_stages": 3, "unfreeze_every": 2})
    )
    assert frozen.num_learning < frozen.num_parameters == plain.num_learning
    assert frozen.activation_bytes_per_clip < plain.activation_bytes_per_clip / 2
    assert thawing == plain


def test_memory_is_the_sum_of_its_parts() -> None:
    found = cost.Cost(
        num_parameters=100, num_learning=60, flops_per_clip=1, activation_bytes_per_clip=1_000, precision_bytes=4
    )

    def needed(cost_of: cost.Cost = found, *, micro_batch: int = 1, adamw: bool = False, average: bool = False) -> int:
        optimizer = "adamw" if adamw else "sgd"
        return cost.memory_bytes(cost_of, micro_batch=micro_batch, optimizer=optimizer, has_average=average)

    assert needed() == (100 + 60 + 60) * 4 + 1_000, "weights, gradients, one momentum, activations"
    assert needed(micro_batch=8) == needed() + 7_000
    assert needed(adamw=True) == needed() + 60 * 4, "a second momentum"
    assert needed(average=True) == needed() + 100 * 4
    assert needed(replace(found, precision_bytes=2)) == needed() + 100 * 2, "autocast's copy of the weights"


def suggestions(text: str) -> list[tuple[str, str]]:
    return re.findall(r"`([a-z_.]+)` ([^ ]+)", text)


@pytest.mark.slow
def test_what_fits_is_estimated_and_the_most_of_each_setting() -> None:
    config, clip = replace(TINY, width=0.5), {"clip_len": 32, "height": 64, "width": 64}
    memory = {"optimizer": "sgd", "has_average": False}

    def needed(model: ModelConfig, **changes: int) -> int:
        return cost.memory_bytes(cost.estimate(model, **{**clip, **changes}), micro_batch=1, **memory)

    limit = needed(config, clip_len=24)
    text = cost.what_fits(config, **clip, precision_bytes=4, **memory, num_bytes=limit)
    found = dict(suggestions(text))
    assert found["data.clip_len"] == "24"
    size = int(found["data.height"])
    assert found["data.width"] == str(size)
    assert needed(config, height=size, width=size) <= limit < needed(config, height=size + 8, width=size + 8)
    eighths = float(found["model.width"]) * 8
    assert needed(replace(config, width=eighths / 8)) <= limit < needed(replace(config, width=(eighths + 1) / 8))
    assert cost.gibibytes(limit) in text


@pytest.mark.slow
def test_where_no_single_change_is_enough_two_are_tried_and_weights_keep_their_width() -> None:
    config, clip = replace(TINY, width=0.5, weights="kinetics.pth"), {"clip_len": 24, "height": 32, "width": 48}
    smallest = cost.estimate(replace(config, gradient_checkpointing=True), **{**clip, "clip_len": 8}, precision_bytes=2)
    limit = cost.memory_bytes(smallest, micro_batch=1, optimizer="adamw", has_average=True)

    def offered(num_bytes: int) -> str:
        memory = {"precision_bytes": 2, "optimizer": "adamw", "has_average": True}
        return cost.what_fits(config, **clip, **memory, num_bytes=num_bytes)

    assert offered(limit) == (f"`data.clip_len` 8 with `model.gradient_checkpointing` True ({cost.gibibytes(limit)})")
    assert "no single change" in offered(1_000)
