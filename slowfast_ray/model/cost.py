"""What a network costs before it is ever run: parameters, operations and memory, by the shapes of its tensors alone.

Everything is computed on torch's meta device, where tensors have shapes and no values: the size of a network that would
never fit here is known within a second. With 400 classes and colour, the numbers are the published ones: 36.1 G
multiply-adds for 4x16 at 32 x 256 x 256 (Feichtenhofer et al. 2019, arXiv 1812.03982, table 2), 65.71 G and 34.57 M
parameters for 8x8 (pytorchvideo's model zoo). Memory stays 3 to 4 % below what MMAction2 publishes of its GPUs, for
what kernels need beside their tensors. tests/model/test_cost.py holds all of this.
"""

import bisect
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from slowfast_ray.model import freezing, slowfast
from slowfast_ray.model.config import ModelConfig

NUM_CLIPS = 2
"""Clips in the batch that is looked at: BatchNorm refuses one clip of which one pixel is left in the last stage."""
SHARES = (0.25, 0.375, 0.5, 0.625, 0.75, 0.875)
"""Of height and width, that are tried where memory is short."""
MIN_SIDE = 32
"""Of a clip; below it, the last stage has less than a pixel to see [pixels]."""


@dataclass(frozen=True)
class Cost:
    """What one clip, and the weights, ask for."""

    num_parameters: int
    num_learning: int
    """Parameters that learn once all that thaws has thawed; frozen ones have no gradient and no momentum."""
    flops_per_clip: int
    """Of the way forward; a multiply-add is two operations. The way back takes twice as many more."""
    activation_bytes_per_clip: int
    """What autograd keeps of a clip for the way back."""
    precision_bytes: int
    """Of an activation: 4, or 2 under autocast."""


@functools.lru_cache(maxsize=1_000)
def estimate(config: ModelConfig, *, clip_len: int, height: int, width: int, precision_bytes: int = 4) -> Cost:
    """The cost of training a network on clips of `clip_len` frames of `height` x `width` pixels.

    `precision_bytes` is 4 for float32, and 2 where it computes in 16 bits under autocast. Raises ValueError while the
    number of classes is unknown.
    """
    assert precision_bytes in (2, 4)
    assert clip_len % config.alpha == 0
    # Blocks are computed once here; what computing them again would spare is summed up from the parts.
    with torch.device("meta"):
        model = slowfast.build(replace(config, gradient_checkpointing=False))
        clip_BCTHW = torch.empty(NUM_CLIPS, config.channels, clip_len, height, width)
    _thaw_as_far_as_it_goes(model, config)
    num_parameters = sum(each.numel() for each in model.parameters())
    num_learning = sum(each.numel() for each in model.parameters() if each.requires_grad)
    if precision_bytes == 2:
        # Autocast has no meta device: a network in 16 bits keeps what a float32 one keeps under autocast.
        model, clip_BCTHW = model.bfloat16(), clip_BCTHW.bfloat16()
    with FlopCounterMode(display=False) as counted:
        kept = _Kept.of(model, clip_BCTHW)
    return Cost(
        num_parameters=num_parameters,
        num_learning=num_learning,
        flops_per_clip=counted.get_total_flops() // NUM_CLIPS,
        activation_bytes_per_clip=kept.num_bytes(recomputes=config.gradient_checkpointing) // NUM_CLIPS,
        precision_bytes=precision_bytes,
    )


def memory_bytes(cost: Cost, *, micro_batch: int, optimizer: Literal["sgd", "adamw"], has_average: bool) -> int:
    """What training takes on one device: weights, gradients, momentum, the average of the weights, and activations.

    Not counted are the clips of the batch, the frames, and what kernels need for themselves.
    """
    num_momenta = {"sgd": 1, "adamw": 2}[optimizer]
    num_floats = cost.num_parameters * (1 + has_average) + cost.num_learning * (1 + num_momenta)
    casts = cost.num_parameters * 2 if cost.precision_bytes == 2 else 0  # autocast keeps the weights in 16 bits as well
    return num_floats * 4 + casts + micro_batch * cost.activation_bytes_per_clip


def what_fits(
    config: ModelConfig,
    *,
    clip_len: int,
    height: int,
    width: int,
    precision_bytes: int,
    optimizer: Literal["sgd", "adamw"],
    has_average: bool,
    num_bytes: int,
) -> str:
    """Which changes let one clip at a time train within `num_bytes`, and what each would take: a list for an error.

    Of each setting, the most that fits. Where no single change is enough, each together with gradient checkpointing.
    """
    now = {"clip_len": clip_len, "height": height, "width": width, "precision_bytes": precision_bytes}

    def need(change: _Change) -> int:
        cost = estimate(change.config, **{**now, **change.clip})
        return memory_bytes(cost, micro_batch=1, optimizer=optimizer, has_average=has_average)

    recomputing = replace(config, gradient_checkpointing=True)
    checkpointing = _Change("`model.gradient_checkpointing` True", recomputing)
    single, both = _ladders(config, now), list[list[_Change]]()
    if not config.gradient_checkpointing:
        single.append([checkpointing])
        both = _ladders(recomputing, now, suffix=f" with {checkpointing.words}")
    for ladders in (single, both):
        found = []
        for ladder in ladders:
            num_fitting = bisect.bisect_right(ladder, num_bytes, key=need)
            if num_fitting:
                change = ladder[num_fitting - 1]
                found.append(f"{change.words} ({gibibytes(need(change))})")
        if found:
            return " or ".join(found)
    return "a much smaller network on much smaller clips: no single change is enough"


@dataclass(frozen=True)
class _Change:
    """What could be set otherwise."""

    words: str
    config: ModelConfig
    clip: Mapping[str, int] = field(default_factory=dict)
    """The arguments of `estimate` that change."""


def _ladders(config: ModelConfig, now: Mapping[str, int], suffix: str = "") -> list[list[_Change]]:
    """For each setting the values below its own, from the least memory to the most."""
    sizes = [(round(now["height"] * share), round(now["width"] * share)) for share in SHARES]
    ladders = [
        [
            _Change(f"`data.clip_len` {frames}{suffix}", config, {"clip_len": frames})
            for frames in range(config.alpha, now["clip_len"], config.alpha)
        ],
        [
            _Change(
                f"`data.height` {height} and `data.width` {width}{suffix}", config, {"height": height, "width": width}
            )
            for height, width in sizes
            if min(height, width) >= MIN_SIDE
        ],
    ]
    if config.weights is None:  # weights that are loaded have the width that they have
        eighths = [count / 8 for count in range(1, int(config.width * 8))]
        ladders.append([_Change(f"`model.width` {each:g}{suffix}", replace(config, width=each)) for each in eighths])
    if now["precision_bytes"] == 4:
        ladders.append([_Change(f"`learning.precision` bf16{suffix}", config, {"precision_bytes": 2})])
    return ladders


def gibibytes(num_bytes: float) -> str:
    """`num_bytes` for people."""
    return f"{num_bytes / 2**30:.2g} GiB" if num_bytes < 10 * 2**30 else f"{num_bytes / 2**30:.0f} GiB"


@dataclass(frozen=True)
class _Kept:
    """The memory that autograd keeps, block by block, each storage under its identity.

    Storages are held, not only their sizes: as long as one lives, no other has its identity.
    """

    saved: list[dict[int, torch.UntypedStorage]]
    inputs: list[dict[int, torch.UntypedStorage]]

    @staticmethod
    def of(model: slowfast.SlowFast, clip_BCTHW: torch.Tensor) -> "_Kept":
        """What a way through the network keeps."""
        own = {id(each.untyped_storage()) for each in (*model.parameters(), *model.buffers())}
        kept = _Kept([], [])

        def enter(block: nn.Module, arguments: tuple[list[torch.Tensor]]) -> None:
            kept.saved.append({})
            kept.inputs.append({id(each.untyped_storage()): each.untyped_storage() for each in arguments[0]})

        def save(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if id(storage) not in own:
                kept.saved[-1][id(storage)] = storage
            return tensor

        hooks = [each.register_forward_pre_hook(enter) for each in model.blocks]
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            model(clip_BCTHW)
        for each in hooks:
            each.remove()
        return kept

    def num_bytes(self, *, recomputes: bool) -> int:
        """All that is kept; where blocks are computed again, their inputs and the largest block instead."""
        if not recomputes:
            return _size({key: storage for each in self.saved for key, storage in each.items()})
        inputs = {key: storage for each in self.inputs for key, storage in each.items()}
        return _size(inputs) + max(
            _size({key: storage for key, storage in each.items() if key not in inputs}) for each in self.saved
        )


def _size(storages: dict[int, torch.UntypedStorage]) -> int:
    return sum(each.nbytes() for each in storages.values())


def _thaw_as_far_as_it_goes(model: slowfast.SlowFast, config: ModelConfig) -> None:
    """Puts the network into the epoch that needs the most memory."""
    last_to_thaw = 1 if config.unfreeze_every is None else config.freeze_stages * config.unfreeze_every + 1
    freezing.begin_epoch(model, config, last_to_thaw)
