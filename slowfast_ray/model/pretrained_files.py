"""Reads files of weights, told apart by content, without ever running what they hold; writes our own.

    zip                     torch since 1.6                  memory-mapped, with weights_only
    pickle, torch's magic   torch before                     with weights_only
    pickle                  Caffe2                           pretrained_caffe2.py
    safetensors             ours: converted, by its header; of a checkpoint, by experiment.json beside it
    folder                  ours: a checkpoint               its weights.safetensors

torch refuses every class and function that weights do not need. A checkpoint of a training names some all the same,
beside its weights: each gets a stand-in that does nothing, and is never imported.
"""

import json
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from slowfast_ray.model.config import ModelConfig
from slowfast_ray.model.pretrained_caffe2 import ForeignError, read_blobs, stand_in
from slowfast_ray.model.pretrained_report import ARCHITECTURE, OURS, Normalisation, Weights

FORMAT_VERSION = 1
"""Of the header in a converted file."""
HEADER = "slowfast_ray"
"""Its key in the metadata of a safetensors file."""
WRAPPERS = ("state_dict", "model_state", "model")
"""Where checkpoints keep the state dict: MMAction2 and Lightning, PySlowFast and pytorchvideo, others."""
MAX_STAND_INS = 200
"""Names that a checkpoint may ask for beside its weights; MMAction2's ask for about 10."""

_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
"""torch.serialization.MAGIC_NUMBER as a pickle has it."""


@dataclass(frozen=True)
class Header:
    """What our own files say beside the tensors."""

    model: ModelConfig
    normalisation: Normalisation
    classes: tuple[str, ...] | None
    origin: str
    """Where the weights come from."""


@dataclass(frozen=True)
class Content:
    """What is in a file."""

    state: Mapping[str, torch.Tensor]
    """Under the file's own names; may share the memory of the file."""
    classes: tuple[str, ...] | None = None
    header: Header | None = None
    set_aside: tuple[str, ...] = ()
    inert: tuple[str, ...] = ()


def read(path: Path) -> Content:
    """What a file of weights, or a checkpoint folder of ours, holds.

    Raises ValueError for what is missing, damaged, or no checkpoint.
    """
    if path.is_dir():
        path = _weights_of(path)
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise ValueError(f"`model.weights` (={path}) cannot be read: {error.strerror}; check the path.") from error
    try:
        if start.startswith(b"PK\x03\x04") or start[2:].startswith(_LEGACY):
            return _torch(path, is_zip=start.startswith(b"PK"))
        if start[4:9] == b"\0\0\0\0{":  # the upper half of its header's length, and the header
            return _safetensors(path)
        if start.startswith(b"\x80"):
            state, set_aside, inert = read_blobs(path)
            return Content(state, set_aside=tuple(set_aside), inert=tuple(inert))
    except ForeignError:
        raise
    except Exception as error:  # a damaged file can end in any exception of torch, pickle, numpy and safetensors
        shown = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        if "weights_only" in shown:  # torch's advice to trust the file
            shown = "it holds objects"
        raise ValueError(
            f"`model.weights` (={path}) is damaged or incomplete, or asks for what weights do not need: {shown}; fetch "
            "it again from where it came."
        ) from error
    raise ValueError(
        f"`model.weights` (={path}) is no checkpoint: neither torch's, nor safetensors, nor a pickle of Caffe2; it "
        f"begins with {start!r}."
    )


def write(weights: Weights, path: Path, source_sha256: str) -> None:
    """Writes a converted file, whole or not at all. Raises ValueError where there is one already."""
    header = {
        "format_version": FORMAT_VERSION,
        "model": {name: getattr(weights.model, name) for name in ARCHITECTURE},
        "dialect": weights.report.dialect,
        "mean": weights.normalisation.mean,
        "std": weights.normalisation.std,
        "classes": weights.classes,
        "source_sha256": source_sha256,
    }
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        state = {key: value.contiguous() for key, value in weights.state.items()}
        save_file(state, unfinished, metadata={HEADER: json.dumps(header)})
        os.link(unfinished, path)  # unlike a renaming, never replaces
    except FileExistsError:
        raise ValueError(f"{path} exists already; nothing is overwritten: name another file.") from None
    finally:
        unfinished.unlink(missing_ok=True)


def _weights_of(folder: Path) -> Path:
    if (folder / "weights.safetensors").is_file():
        return folder / "weights.safetensors"
    epochs = sorted(each.name for each in folder.glob("epoch-*") if each.is_dir())
    remedy = f"it holds {', '.join(epochs)}: name one of them" if epochs else "name a file, or a checkpoint of a run"
    raise ValueError(f"`model.weights` (={folder}) is a folder without weights.safetensors; {remedy}.")


def _can_be_mapped(path: Path) -> bool:
    """Whether the tensors of a zip lie in it as they are. Raises ValueError where a checksum is wrong."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of its part {damaged!r} is wrong")
        return all(each.compress_type == zipfile.ZIP_STORED for each in archive.infolist())


def _torch(path: Path, *, is_zip: bool) -> Content:
    stand_ins: dict[str, Any] = {}
    is_mapped = is_zip and _can_be_mapped(path)
    while True:
        allowed: list[Any] = [(each, name) for name, each in stand_ins.items()]
        try:
            with torch.serialization.safe_globals(allowed):
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
            break
        except Exception as error:
            refused = re.search(r"Unsupported global: GLOBAL (\S+) was not an allowed global", str(error))
            if refused is None or len(stand_ins) == MAX_STAND_INS:
                blocked = re.search(r"unsupported GLOBAL (\S+) whose module \S+ is blocked", str(error))
                if blocked is None:
                    raise
                raise ForeignError(
                    f"`model.weights` (={path}) asks for {blocked[1]}, which no weights need; nothing of it was run. "
                    "Do not trust this file."
                ) from None
            name = refused[1] if "." in refused[1] else f"builtins.{refused[1]}"  # torch drops that word
            if name in stand_ins:  # refused all the same
                raise
            stand_ins[name] = _plain_dict if name == "collections.defaultdict" else stand_in(name)
    if not isinstance(content, Mapping):
        raise ForeignError(f"`model.weights` (={path}) holds no state dict, but a {type(content).__name__}.")
    wrapped = next((content[each] for each in WRAPPERS if isinstance(content.get(each), Mapping)), content)
    state = {key: value for key, value in wrapped.items() if isinstance(value, torch.Tensor)}
    rest = [str(key) for key in wrapped if key not in state]
    if wrapped is not content:
        rest += [str(key) for key, value in content.items() if value is not wrapped]
    return Content(state, _classes_of(content.get("meta")), set_aside=tuple(rest), inert=tuple(stand_ins))


def _plain_dict(*_: object) -> dict[object, object]:
    return {}


def _classes_of(meta: object) -> tuple[str, ...] | None:
    """As MMEngine notes them, where its dataset knew them."""
    dataset = meta.get("dataset_meta") if isinstance(meta, Mapping) else None
    names = dataset.get("classes") if isinstance(dataset, Mapping) else None
    if isinstance(names, list | tuple) and names and all(isinstance(each, str) for each in names):
        return tuple(names)
    return None


def _safetensors(path: Path) -> Content:
    with safe_open(path, "pt") as file:
        metadata: dict[str, str] = file.metadata() or {}
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (it is no mapping)
    if HEADER in metadata:
        header = _header(json.loads(metadata[HEADER]), path)
    elif (path.parent / "experiment.json").is_file():
        header = _header_of_run(path.parent)
    else:
        header = None
    return Content(state, None if header is None else header.classes, header)


def _header(values: dict[str, Any], path: Path) -> Header:
    if values.get("format_version") != FORMAT_VERSION:
        raise ForeignError(
            f"`model.weights` (={path}) has format version {values.get('format_version')}, but this version of "
            f"slowfast_ray reads {FORMAT_VERSION}; convert its source again."
        )
    return Header(
        model=ModelConfig(**{name: values["model"][name] for name in ARCHITECTURE}),
        normalisation=Normalisation(tuple(values["mean"]), tuple(values["std"])),
        classes=None if values["classes"] is None else tuple(values["classes"]),
        origin=f"converted from {values['dialect']}, SHA-256 {values['source_sha256']}",
    )


def _header_of_run(folder: Path) -> Header:
    experiment, progress = (
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("experiment", "progress")
    )
    # A field that an earlier version did not have takes its default, as in the experiment itself.
    known = {name: experiment[f"model.{name}"] for name in ARCHITECTURE if f"model.{name}" in experiment}
    return Header(ModelConfig(**known), OURS, tuple(progress["classes"]), "a checkpoint of a run")
