"""Weights in memory, and the report on them: what a file says, what it cannot say, and what became of its parts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch

from slowfast_ray.model.config import ModelConfig

Dialect = Literal["MMAction2", "PySlowFast", "Caffe2", "pytorchvideo", "slowfast_ray"]


@dataclass(frozen=True)
class Normalisation:
    """What is subtracted from a picture of values within 0..1, and what it is divided by, for each channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def for_channels(self, num_channels: int) -> "Normalisation":
        """The same for so many channels, where one number stands for all."""
        if len(self.mean) == 1:
            return Normalisation(self.mean * num_channels, self.std * num_channels)
        assert len(self.mean) == num_channels, (self, num_channels)
        return self


OURS = Normalisation((0.45,), (0.225,))
"""Of PySlowFast's and pytorchvideo's weights (DATA.MEAN and DATA.STD of their configurations), and of our own clips."""
_MMACTION2 = Normalisation(
    (123.675 / 255, 116.28 / 255, 103.53 / 255),
    (58.395 / 255, 57.12 / 255, 57.375 / 255),
)
"""ActionDataPreprocessor in MMAction2's configs/_base_/models/slowfast_r50.py, on 0..255, red, green, blue."""

NORMALISATION: dict[Dialect, Normalisation] = {
    "MMAction2": _MMACTION2,
    "PySlowFast": OURS,
    "Caffe2": OURS,
    "pytorchvideo": OURS,
    "slowfast_ray": OURS,
}

ARCHITECTURE = ("depth", "width", "channels", "alpha", "slow_frames", "lateral_kernel", "lateral_norm", "num_classes")
"""Fields of a ModelConfig that say what function some weights are; the others say how they train."""


@dataclass(frozen=True)
class Report:
    """What was found in a file of weights, and what was done with it."""

    path: str
    dialect: Dialect
    inferred: Mapping[str, object]
    """Read off the shapes, by fields of ModelConfig."""
    stated: Mapping[str, object]
    """Written in the file, or beside it: of our own files alone."""
    assumed: Mapping[str, object]
    """What no shape tells and the file does not say: as its dialect has it by default."""
    missing: tuple[str, ...] = ()
    """Of the network, in its own names; not in the file."""
    unexpected: tuple[str, ...] = ()
    """Of the file, in its names; not in the network."""
    mismatched: tuple[str, ...] = ()
    """In both, with other shapes."""
    reshaped: tuple[str, ...] = ()
    """Changed on the way in, and how."""
    set_aside: tuple[str, ...] = ()
    """In the file, and no weights: momenta and the like."""
    inert: tuple[str, ...] = ()
    """Classes and functions that the file names; none was imported or called."""
    fresh: tuple[str, ...] = ()
    """Of the network: these keep their initial values."""
    head: str = ""
    """What became of the classifier, once fitted to an experiment."""
    borders: Mapping[str, float] | None = None
    """For each pathway, by how much the stem's output after BatchNorm can differ from the source's at the borders of a
    clip; None where nothing differs."""
    warnings: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The report for people, one line a fact; keys are all named."""
        found = [f"{self.path}: {self.dialect}"]
        for words, values in (
            ("read off the shapes", self.inferred),
            ("stated in the file", self.stated),
            (f"no file says; assumed as in {self.dialect}", self.assumed),
        ):
            if values:
                found.append(f"{words}: {', '.join(f'{name} {_short(value)}' for name, value in values.items())}")
        if self.head:
            found.append(f"classifier: {self.head}")
        for words, keys in (
            ("changed on the way in", self.reshaped),
            ("missing in the file", self.missing),
            ("unexpected in the file", self.unexpected),
            ("of another shape", self.mismatched),
            ("fresh initial values", self.fresh),
            ("no weights, set aside", self.set_aside),
            ("named in the file, neither imported nor called", self.inert),
        ):
            if keys:
                found.append(f"{words} ({len(keys)}): {', '.join(keys)}")
        if self.borders:
            shown = ", ".join(f"{pathway} {value:.3g}" for pathway, value in self.borders.items())
            found.append(
                f"borders: zero padding stands for another grey here; the stem after BatchNorm differs by up to {shown}"
            )
        found += [f"warning: {each}" for each in self.warnings]
        # Names come from the file: none may move the terminal's cursor or begin a line of its own.
        return ["".join(each if each.isprintable() else "?" for each in line) for line in found]

    def to_json(self) -> str:
        """The same for programs."""
        return json.dumps(asdict(self), indent=2) + "\n"


@dataclass(frozen=True)
class Weights:
    """A network's weights under pytorchvideo's names, and what is known of them."""

    model: ModelConfig
    """Of the network that `state` fits."""
    state: Mapping[str, torch.Tensor]
    """The state dict, in float32; without what the report calls missing, mismatched or fresh."""
    normalisation: Normalisation
    """What its clips went through before they came to it."""
    classes: tuple[str, ...] | None
    """Names in the order of the logits, where known."""
    report: Report


def named(values: Sequence[str], at_most: int = 5) -> str:
    """The first few names, for an error."""
    rest = len(values) - at_most
    return ", ".join(values[:at_most]) + (f" and {rest} more" if rest > 0 else "")


def _short(value: object) -> str:
    if isinstance(value, Normalisation):
        mean, std = (", ".join(f"{each:.4g}" for each in values) for values in (value.mean, value.std))
        return f"({mean}; {std})"
    return f"{value:g}" if isinstance(value, float) else str(value)
