"""Files of weights as other toolkits write them, made here: names and shapes are those of their real classes.

tests/golden holds {key: shape} and logits of MMAction2 1.2.0 and PySlowFast at quarter width; each weight is a function
of its key.
"""

import functools
import io
import json
import pickle
import re
import struct
import sys
import types
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

GOLDEN = Path(__file__).parents[1] / "golden"
MM_4X16, MM_8X8, PSF_4X16 = "golden_mm_4x16_tiny", "golden_mm_8x8_tiny", "golden_psf_4x16_tiny"

State = dict[str, torch.Tensor]


@functools.cache
def golden(name: str) -> tuple[State, torch.Tensor]:
    """The state dict of a fixture, and the logits [2, 14] that its class gives for `clip`."""
    values = json.loads((GOLDEN / f"{name}.json").read_text())
    state = {key: weight(key, tuple(shape)) for key, shape in values["shapes"].items()}
    return state, torch.tensor(values["logits"])


def clip() -> torch.Tensor:
    """The clips of the fixtures, [2, 3, 32, 64, 96]."""
    return torch.from_numpy(np.random.RandomState(20).standard_normal((2, 3, 32, 64, 96)).astype(np.float32))


def weight(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The weight of a key, as the fixtures were made with."""
    draw = np.random.RandomState(zlib.crc32(key.encode()) & 0xFFFFFFFF)
    if key.endswith("num_batches_tracked"):
        return torch.tensor(7)
    if key.endswith("running_mean"):
        values = 0.3 * draw.standard_normal(shape)
    elif key.endswith("running_var"):
        values = 0.5 + 1.5 * draw.random_sample(shape)
    elif key.endswith(".bias"):
        values = 0.2 * draw.standard_normal(shape)
    elif len(shape) == 5:
        values = draw.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    elif len(shape) == 2:
        values = 0.3 * draw.standard_normal(shape)
    else:
        values = 0.4 + 0.6 * draw.random_sample(shape)
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def full_size(name: str) -> State:
    """A fixture's names at width 1 with 400 classes: four times the channels, values that cost no time."""
    shapes = json.loads((GOLDEN / f"{name}.json").read_text())["shapes"]
    return {key: torch.full(_full(key, shape), 0.5) for key, shape in shapes.items()}


def _full(key: str, shape: list[int]) -> list[int]:
    if re.search(r"fc_cls|projection", key):
        return [400, *(4 * each for each in shape[1:])]
    inputs = [each if each == 3 else 4 * each for each in shape[1:2]]
    return [*(4 * each for each in shape[:1]), *inputs, *shape[2:]]


def as_caffe2(state: Mapping[str, torch.Tensor]) -> State:
    """PySlowFast's names as those of its Caffe2 blobs, which count no batches."""
    leaves = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}
    last = {"2": "2_2", "3": "3_3", "4": "4_5"}
    found = {}
    for key, value in state.items():
        place, leaf = key.rsplit(".", 1)
        if leaf == "num_batches_tracked":
            continue
        if place == "head.projection":
            new = f"pred_{leaf[0]}"
        elif match := re.fullmatch(r"s1\.pathway(.)_stem\.(conv|bn)", place):
            new = ("t_" if match[1] == "1" else "") + (
                "conv1_w" if match[2] == "conv" else f"res_conv1_bn_{leaves[leaf]}"
            )
        elif match := re.fullmatch(r"s(.)_fuse\.(conv_f2s|bn)", place):
            new = "t_pool1" if match[1] == "1" else f"t_res{last[match[1]]}_branch2c_bn"
            new += "_subsample_w" if match[2] == "conv_f2s" else f"_subsample_bn_{leaves[leaf]}"
        else:
            match = re.fullmatch(r"s(.)\.pathway(.)_res(\d+)\.branch(1|2)\.?([abc]?)(_bn)?", place)
            assert match is not None, key
            new = f"{'t_' if match[2] == '1' else ''}res{match[1]}_{match[3]}_branch{match[4]}{match[5]}"
            new += f"_bn_{leaves[leaf]}" if match[6] else "_w"
        found[new] = value
    assert len(found) == len({key for key in state if "num_batches" not in key})
    return found


def as_mmaction2(state: Mapping[str, torch.Tensor]) -> State:
    """PySlowFast's weights under MMAction2's names: with BatchNorm after its laterals, fast columns first."""
    letters = {"a": "conv1", "b": "conv2", "c": "conv3"}
    found = {}
    for key, value in state.items():
        place, leaf = key.rsplit(".", 1)
        if place == "head.projection":
            num_slow = value.shape[-1] * 8 // 9
            found[f"cls_head.fc_cls.{leaf}"] = (
                value if leaf == "bias" else torch.cat([value[:, num_slow:], value[:, :num_slow]], 1)
            )
            continue
        if match := re.fullmatch(r"s1\.pathway(.)_stem\.(conv|bn)", place):
            new = f"{_path(match[1])}.conv1.{match[2]}"
        elif match := re.fullmatch(r"s(.)_fuse\.(conv_f2s|bn)", place):
            lateral = "conv1_lateral" if match[1] == "1" else f"layer{int(match[1]) - 1}_lateral"
            new = f"backbone.slow_path.{lateral}.{match[2].removesuffix('_f2s')}"
        else:
            match = re.fullmatch(r"s(.)\.pathway(.)_res(\d+)\.branch(1|2)\.?([abc]?)(_bn)?", place)
            assert match is not None, key
            layer = letters[match[5]] if match[5] else "downsample"
            new = f"{_path(match[2])}.layer{int(match[1]) - 1}.{match[3]}.{layer}.{'bn' if match[6] else 'conv'}"
        found[f"{new}.{leaf}"] = value
    return found


def _path(pathway: str) -> str:
    return f"backbone.{'slow' if pathway == '0' else 'fast'}_path"


def as_pyslowfast(state: Mapping[str, torch.Tensor]) -> State:
    """MMAction2's weights under PySlowFast's names: slow columns first."""
    renamed = as_mmaction2(golden(PSF_4X16)[0])
    theirs = dict(zip(renamed, golden(PSF_4X16)[0], strict=True))
    found = {theirs[key]: value for key, value in state.items()}
    head_NF = found["head.projection.weight"]
    num_fast = head_NF.shape[1] // 9
    found["head.projection.weight"] = torch.cat([head_NF[:, num_fast:], head_NF[:, :num_fast]], 1)
    return found


def save_zoo(path: Path, state: State) -> Path:
    """As MMAction2's zoo has it."""
    torch.save({"meta": {"epoch": 256}, "state_dict": state}, path)
    return path


def save_training(path: Path, state: State, *, legacy: bool = False) -> Path:
    """As MMEngine saves it while it trains: with HistoryBuffers, numpy scalars and its dataset's classes."""
    with _mmengine() as history_buffer:
        content = {
            "meta": {"epoch": 3, "dataset_meta": {"classes": [f"class {number}" for number in range(14)]}},
            "state_dict": state,
            "message_hub": {
                "log_scalars": {"train/loss": history_buffer(), "train/lr": history_buffer()},
                "runtime_info": {"iter": np.int64(12), "best": np.float64(0.5)},
            },
            "param_schedulers": [{"last_step": 3}],
        }
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


@contextmanager
def _mmengine() -> Iterator[type]:
    """mmengine.logging.history_buffer.HistoryBuffer, as far as a pickle shows it."""

    class HistoryBuffer:
        def __init__(self) -> None:
            self._log_history, self._count_history = np.arange(5.0), np.ones(5, dtype=np.int64)

        def mean(self) -> float:
            return 0.0

        def __getstate__(self) -> dict[str, Any]:
            return {**self.__dict__, "statistics_methods": {"mean": HistoryBuffer.mean}}

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = "mmengine.logging.history_buffer", "HistoryBuffer"
    HistoryBuffer.mean.__module__, HistoryBuffer.mean.__qualname__ = HistoryBuffer.__module__, "HistoryBuffer.mean"
    names = ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer")
    modules = {name: types.ModuleType(name) for name in names}
    modules[names[2]].HistoryBuffer = HistoryBuffer  # pyright: ignore
    sys.modules.update(modules)
    try:
        yield HistoryBuffer
    finally:
        for name in names:
            del sys.modules[name]


def save_caffe2(path: Path, blobs: Mapping[str, torch.Tensor], **others: object) -> Path:
    """As Python 2 pickled it: protocol 2, arrays as plain strings, numpy under its old names."""
    extra = {"conv1_w_momentum": np.zeros(3, np.float32), "lr": np.float32(0.1), "model_iter": np.ones(1, np.int64)}
    content = {"blobs": {**{key: value.numpy() for key, value in blobs.items()}, **extra, **others}, "cfg": "SOLVER"}
    file = io.BytesIO()
    _Python2(file, protocol=2).dump(content)
    path.write_bytes(file.getvalue())
    return path


class _Python2(pickle._Pickler):  # pyright: ignore
    """Writes text and bytes as Python 2 wrote its strings."""

    dispatch = dict(pickle._Pickler.dispatch)  # pyright: ignore

    def save_string(self, text: str | bytes) -> None:
        data = text if isinstance(text, bytes) else text.encode("latin1")
        self.write(b"T" + struct.pack("<i", len(data)) + data)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = save_string

    def save_global(self, obj: Any, name: str | None = None) -> None:
        module, named = obj.__module__.replace("numpy._core", "numpy.core"), name or obj.__qualname__
        self.write(f"c{module}\n{named}\n".encode())
        self.memoize(obj)

    dispatch[type] = dispatch[types.BuiltinFunctionType] = dispatch[types.FunctionType] = save_global
