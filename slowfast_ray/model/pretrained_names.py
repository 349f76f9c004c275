"""The names that other toolkits give to a SlowFast network's weights, and the architecture that shapes tell.

All are rewritten into pytorchvideo's names, which are our own. Sources of the tables: MMAction2 1.2.0,
mmaction/models/backbones/resnet3d_slowfast.py; PySlowFast, slowfast/models/video_model_builder.py, and for Caffe2
slowfast/utils/c2_model_loading.py. tests/golden holds names, shapes and logits of their real classes.

Shapes: O output channels, I input channels, T H W the kernel; N classes, F features of both pathways.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from slowfast_ray.model.config import Depth, ModelConfig, SlowFrames
from slowfast_ray.model.pretrained_report import Dialect, named

SLOW_STEM, FAST_STEM = (f"blocks.0.multipathway_blocks.{pathway}" for pathway in (0, 1))
HEAD = HEAD_WEIGHT, HEAD_BIAS = "blocks.6.proj.weight", "blocks.6.proj.bias"
LATERAL = "blocks.0.multipathway_fusion"
DEPTHS: dict[int, Depth] = {6: 50, 23: 101}
"""Layers by the number of residual blocks in res4 (He et al. 2016, arXiv 1512.03385, table 1)."""
ALPHAS = {5: 8, 7: 4}
"""Fast frames for each slow one by the lateral kernel: of the 4x16 and the 8x8 models, in all toolkits."""
FAST_SHARE = 9
"""Of the classifier's features the fast pathway has 1 in so many: 256 of 2304 (8 of 64 + 8 at the stem)."""

_PATHWAYS = {"slow": 0, "fast": 1}
_NORM_LEAVES = {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}


def _mmaction2(key: str) -> str | None:
    if found := re.fullmatch(r"cls_head\.fc_cls\.(weight|bias)", key):
        return f"blocks.6.proj.{found[1]}"
    if not (found := re.fullmatch(r"backbone\.(slow|fast)_path\.(.+)\.(conv|bn)\.(\w+)", key)):
        return None
    pathway, place, is_norm, leaf = _PATHWAYS[found[1]], found[2], found[3] == "bn", found[4]
    if place == "conv1":
        return f"blocks.0.multipathway_blocks.{pathway}.{'norm' if is_norm else 'conv'}.{leaf}"
    if found := re.fullmatch(r"(?:conv1|layer([1-3]))_lateral", place):
        return f"blocks.{found[1] or 0}.multipathway_fusion.{'norm' if is_norm else 'conv_fast_to_slow'}.{leaf}"
    if found := re.fullmatch(r"layer([1-4])\.(\d+)\.(conv[123]|downsample)", place):
        block = f"blocks.{found[1]}.multipathway_blocks.{pathway}.res_blocks.{found[2]}"
        if found[3] == "downsample":
            return f"{block}.branch1_{'norm' if is_norm else 'conv'}.{leaf}"
        return f"{block}.branch2.{'norm' if is_norm else 'conv'}_{'abc'[int(found[3][-1]) - 1]}.{leaf}"
    return None


def _pyslowfast(key: str) -> str | None:
    if found := re.fullmatch(r"head\.projection\.(weight|bias)", key):
        return f"blocks.6.proj.{found[1]}"
    if found := re.fullmatch(r"s1\.pathway([01])_stem\.(conv|bn)\.(\w+)", key):
        return f"blocks.0.multipathway_blocks.{found[1]}.{found[2].replace('bn', 'norm')}.{found[3]}"
    if found := re.fullmatch(r"s([1-4])_fuse\.(conv_f2s|bn)\.(\w+)", key):
        layer = {"conv_f2s": "conv_fast_to_slow", "bn": "norm"}[found[2]]
        return f"blocks.{int(found[1]) - 1}.multipathway_fusion.{layer}.{found[3]}"
    if found := re.fullmatch(r"s([2-5])\.pathway([01])_res(\d+)\.branch(1|2\.[abc])(_bn)?\.(\w+)", key):
        block = f"blocks.{int(found[1]) - 1}.multipathway_blocks.{found[2]}.res_blocks.{found[3]}"
        kind = "norm" if found[5] else "conv"
        layer = f"branch1_{kind}" if found[4] == "1" else f"branch2.{kind}_{found[4][-1]}"
        return f"{block}.{layer}.{found[6]}"
    return None


def _caffe2(key: str) -> str | None:
    """A blob's name in PySlowFast's words, and from there."""
    if found := re.fullmatch(r"pred_([wb])", key):
        return _pyslowfast(f"head.projection.{ {'w': 'weight', 'b': 'bias'}[found[1]] }")
    if not (found := re.fullmatch(r"(.+?)(?:_(bn))?_(w|s|b|rm|riv)", key)):
        return None
    place, is_norm = found[1], found[2] is not None
    if is_norm == (found[3] == "w"):  # only convolutions have weights by that name, and they have no other
        return None
    leaf = _NORM_LEAVES[found[3]] if is_norm else "weight"
    norm = "_bn" if is_norm else ""
    pathway, place = (1, place.removeprefix("t_")) if place.startswith("t_") else (0, place)
    if place == ("res_conv1" if is_norm else "conv1"):
        return _pyslowfast(f"s1.pathway{pathway}_stem.{'bn' if is_norm else 'conv'}.{leaf}")
    if found := re.fullmatch(r"(?:pool1|res([2-4])_\d+_branch2c_bn)_subsample", place):
        stage = found[1] or 1
        return _pyslowfast(f"s{stage}_fuse.{'bn' if is_norm else 'conv_f2s'}.{leaf}") if pathway else None
    if found := re.fullmatch(r"res([2-5])_(\d+)_branch(?:1|2([abc]))", place):
        branch = f"branch2.{found[3]}" if found[3] else "branch1"
        return _pyslowfast(f"s{found[1]}.pathway{pathway}_res{found[2]}.{branch}{norm}.{leaf}")
    return None


WRAPPED = re.compile(r"^(module\.|model\.|_orig_mod\.)+")
"""What DataParallel, Lightning and torch.compile put before the names of the network that they hold."""

_TABLES: dict[str, tuple[Dialect, Callable[[str], str | None]]] = {
    "backbone.slow_path.conv1.conv.weight": ("MMAction2", _mmaction2),
    "s1.pathway0_stem.conv.weight": ("PySlowFast", _pyslowfast),
    "conv1_w": ("Caffe2", _caffe2),
    f"{SLOW_STEM}.conv.weight": ("pytorchvideo", lambda key: key),
}
"""By the first weight of the slow pathway: the dialect, and its rewriting."""


@dataclass(frozen=True)
class Renamed:
    """A state dict under pytorchvideo's names."""

    dialect: Dialect
    state: Mapping[str, torch.Tensor]
    unexpected: tuple[str, ...]
    """Names for which there is no rewriting."""
    reshaped: tuple[str, ...]


def rename(source: Mapping[str, torch.Tensor], place: str) -> Renamed:
    """`source` under pytorchvideo's names, in float32, its classifier's columns slow first, counters filled in.

    Raises ValueError where it is no SlowFast network; `place` is what errors call the file.
    """
    bare: dict[str, torch.Tensor] = {}
    for key, value in source.items():
        name = WRAPPED.sub("", key)
        if name in bare:
            raise ValueError(
                f"{place} holds several networks: `{name}` under several prefixes; save the one that is meant."
            )
        bare[name] = value
    table = next((each for first, each in _TABLES.items() if first in bare), None)
    if table is None:
        raise ValueError(
            f"{place} holds no SlowFast network: it names {named(list(bare), 3) or 'no tensors'}, and none of "
            f"{', '.join(_TABLES)}, one of which begins the slow pathway in MMAction2, PySlowFast, Caffe2 or "
            "pytorchvideo; give a checkpoint of SlowFast."
        )
    dialect, rewrite = table
    state: dict[str, torch.Tensor] = {}
    unexpected, reshaped = [], []
    for key, value in bare.items():
        new = rewrite(key)
        if new is None or new in state:
            unexpected.append(key)
        else:
            state[new] = _checked(key, value, place)
    head_NF = state.get(HEAD_WEIGHT)
    if dialect == "MMAction2" and head_NF is not None and head_NF.ndim == 2:
        num_fast = head_NF.shape[1] // FAST_SHARE
        state[HEAD_WEIGHT] = torch.cat([head_NF[:, num_fast:], head_NF[:, :num_fast]], dim=1)
        reshaped.append(f"{HEAD_WEIGHT} (MMAction2 has the fast pathway's columns first)")
    if not any(key.endswith(".num_batches_tracked") for key in state):  # Caffe2, and torch before 0.4.1
        counters = [key.removesuffix("running_mean") for key in state if key.endswith(".running_mean")]
        state.update({f"{key}num_batches_tracked": torch.tensor(0) for key in counters})
    return Renamed(dialect, state, tuple(unexpected), tuple(reshaped))


def _checked(key: str, value: torch.Tensor, place: str) -> torch.Tensor:
    """A tensor as float32, or as the whole number that counts batches. Raises ValueError for any other."""
    is_counter = key.endswith("num_batches_tracked")
    if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
        raise ValueError(f"{place} has `{key}` in a special form ({value.layout}, {value.device}); save plain tensors.")
    if is_counter and not value.is_floating_point():
        return value
    if not value.is_floating_point():
        raise ValueError(f"{place} has `{key}` in {value.dtype}, where weights are floating-point numbers.")
    value = value.detach().float()
    if not value.isfinite().all():
        raise ValueError(f"{place} has values in `{key}` that are no finite numbers: the network broke in training.")
    return value


def infer(state: Mapping[str, torch.Tensor], dialect: Dialect, place: str) -> ModelConfig:
    """The network that `state` belongs to: by its shapes; alpha and slow frames as its dialect has them by default.

    `num_classes` is None where there is no classifier. Raises ValueError for another architecture.
    """
    firsts = (f"{SLOW_STEM}.conv.weight", f"{FAST_STEM}.conv.weight", f"{LATERAL}.conv_fast_to_slow.weight")
    shapes: list[tuple[int, ...]] = [tuple(state[key].shape) if key in state else () for key in firsts]
    slow, fast, lateral = shapes
    for key, shape in zip(firsts, shapes, strict=True):
        if len(shape) != 5:
            shown = f"has the shape {list(shape)}" if key in state else "is missing"
            raise ValueError(f"{place} holds no SlowFast network: `{key}` {shown}; it should have 5 dimensions.")
    width = slow[0] / 64
    if width * 8 != int(width * 8) or fast[0] != int(8 * width) or not 0 < width <= 16:
        raise ValueError(
            f"{place} has {slow[0]} slow and {fast[0]} fast channels at the stem; what can be built has 64 and 8 times "
            "`model.width`, a multiple of 1/8 up to 16."
        )
    if slow[1] != fast[1] or slow[1] not in (1, 3):
        raise ValueError(f"{place} takes {slow[1]} and {fast[1]} colours; what can be built takes 1 or 3.")
    head = state.get(HEAD_WEIGHT)
    num_classes = head.shape[0] if head is not None and head.ndim == 2 else None
    if num_classes == 1:
        raise ValueError(f"{place} has 1 class; what can be built has 2 or more.")
    slow_frames: SlowFrames = "every" if dialect in ("MMAction2", "slowfast_ray") else "linspace"
    return ModelConfig(
        depth=_depth(state, place),
        width=width,
        channels=slow[1],  # pyright: ignore[reportArgumentType]
        alpha=ALPHAS.get(lateral[2], ModelConfig().alpha),
        slow_frames=slow_frames,
        lateral_kernel=lateral[2],
        lateral_norm=f"{LATERAL}.norm.weight" in state,
        num_classes=num_classes,
    )


def _depth(state: Mapping[str, torch.Tensor], place: str) -> Depth:
    nums = []
    for pathway in (0, 1):
        pattern = re.compile(rf"blocks\.3\.multipathway_blocks\.{pathway}\.res_blocks\.(\d+)\.")
        nums.append(len({found[1] for key in state if (found := pattern.match(key))}))
    if nums[0] != nums[1] or nums[0] not in DEPTHS:
        raise ValueError(
            f"{place} has {nums[0]} slow and {nums[1]} fast residual blocks in its fourth stage; what can be built has "
            f"{' or '.join(f'{num} (`model.depth` {depth})' for num, depth in DEPTHS.items())} in both."
        )
    return DEPTHS[nums[0]]
