"""Weights that others trained, or an earlier run of ours, into our network: the door to the modules beside it.

    read(path)  --> Weights of the source network: its architecture, state dict, normalisation, classes, and a Report
    fit(...)    --> the same for an experiment: one channel, our normalisation, its classes
    load(...)       both, into a network that is there
    architecture(path, defaults)  --> the ModelConfig that such weights fit

MMAction2, PySlowFast (.pyth and Caffe2's .pkl), pytorchvideo and our own are told apart by content. Nothing in a file
is run (pretrained_files.py). docs/pretrained_weights.md says what a file cannot tell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from slowfast_ray.model import pretrained_files, pretrained_fit, slowfast
from slowfast_ray.model.config import ModelConfig
from slowfast_ray.model.pretrained_files import Content
from slowfast_ray.model.pretrained_names import HEAD, Renamed, infer, rename
from slowfast_ray.model.pretrained_report import ARCHITECTURE, NORMALISATION, OURS, Dialect, Report, Weights

fit = pretrained_fit.fit
refuse_incomplete = pretrained_fit.refuse_incomplete
write = pretrained_files.write

NOT_IN_SHAPES = ("alpha", "slow_frames")


def read(path: str | Path) -> Weights:
    """The weights in a file, or in a checkpoint folder of ours, for the network that they were made for.

    `slowfast.build(weights.model).load_state_dict(weights.state)` is strict where the report names nothing missing or
    mismatched. Tensors may be mapped from the file: it must stay where it is while they are used. Raises ValueError for
    a file that is missing, damaged, unsafe, no checkpoint, or of another architecture.
    """
    content, renamed, model, dialect = _look(Path(path))
    wanted = _shapes(model)
    state = {key: value for key, value in renamed.state.items() if value.shape == wanted.get(key)}
    header = content.header
    inferred = {name: getattr(model, name) for name in ARCHITECTURE if name not in NOT_IN_SHAPES}
    if header is not None:
        normalisation = header.normalisation
    else:  # for one channel nobody publishes any; ours is the likeliest
        normalisation = OURS if model.channels == 1 else NORMALISATION[dialect]
    otherwise = {name: getattr(model, name) for name in NOT_IN_SHAPES} | {"normalisation": normalisation}
    if header is not None:
        otherwise["origin"] = header.origin
    classes = content.classes if content.classes and len(content.classes) == model.num_classes else None
    report = Report(
        path=str(path),
        dialect=dialect,
        inferred=inferred,
        stated={} if header is None else otherwise,
        assumed=otherwise if header is None else {},
        missing=tuple(key for key in (*wanted, *(() if model.num_classes else HEAD)) if key not in renamed.state),
        unexpected=(*renamed.unexpected, *(key for key in renamed.state if key not in wanted)),
        mismatched=tuple(
            f"{key} ({list(value.shape)}, the network {list(wanted[key])})"
            for key, value in renamed.state.items()
            if key in wanted and value.shape != wanted[key]
        ),
        reshaped=renamed.reshaped,
        set_aside=content.set_aside,
        inert=content.inert,
    )
    return Weights(model, state, normalisation, classes, report)


def architecture(path: str | Path, defaults: ModelConfig) -> ModelConfig:
    """`defaults` with the weights at `path`, and with the architecture that they fit.

    How it learns, one channel, and classes that the dataset will say, stay as they are. Raises ValueError as `read`.
    """
    _, _, model, _ = _look(Path(path))
    theirs = {name: getattr(model, name) for name in ARCHITECTURE if name not in ("channels", "num_classes")}
    return replace(defaults, **theirs, weights=str(path))


def load(model: slowfast.SlowFast, config: ModelConfig, classes: Sequence[str] | None = None) -> Report:
    """Puts `config.weights` into `model`, which was built for `config`; what the report calls fresh stays as it is.

    Raises ValueError as `read` and `fit` do.
    """
    assert config.weights is not None
    weights = fit(read(config.weights), config, classes, partial=config.weights_partial)
    found = model.load_state_dict(weights.state, strict=False)
    assert set(found.missing_keys) == set(weights.report.fresh), (found.missing_keys, weights.report.fresh)
    assert not found.unexpected_keys, found.unexpected_keys
    return weights.report


def _look(path: Path) -> tuple[Content, Renamed, ModelConfig, Dialect]:
    """What is in a file, under our names, of which network, in which dialect."""
    content = pretrained_files.read(path)
    place = f"`model.weights` (={path})"
    renamed = rename(content.state, place)
    header, dialect = content.header, renamed.dialect
    model = infer(renamed.state, dialect, place)
    if dialect == "pytorchvideo" and (header is not None or model.channels == 1):
        dialect = "slowfast_ray"  # the same names; nobody else publishes weights for one channel
        model = infer(renamed.state, dialect, place)
    if header is not None:
        told = replace(header.model, num_classes=model.num_classes)
        for name in ARCHITECTURE:
            if name not in NOT_IN_SHAPES and getattr(told, name) != getattr(model, name):
                raise ValueError(
                    f"{place} says `model.{name}` {getattr(told, name)}, but its tensors have {getattr(model, name)}: "
                    "text and tensors are of different networks."
                )
        model = told
    return content, renamed, model, dialect


def _shapes(model: ModelConfig) -> Mapping[str, torch.Size]:
    """Every key of the network's state dict and its shape; without the classifier where classes are not known."""
    with torch.device("meta"):
        network = slowfast.build(replace(model, num_classes=model.num_classes or 2))
    shapes = {key: value.shape for key, value in network.state_dict().items()}
    return shapes if model.num_classes else {key: shape for key, shape in shapes.items() if key not in HEAD}
