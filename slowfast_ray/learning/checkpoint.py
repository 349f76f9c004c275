"""A checkpoint: a folder that holds a network, and what is needed to go on training it exactly where it stopped.

    <folder>/epoch-012/
        weights.safetensors       the network that was evaluated: its state dict
        training.pt               optimiser, schedule, random generators, micro-batch; where weights are averaged, also
                                  the network that trains; read with weights_only
        predictions.safetensors   logits and truth of every validation sample, as this epoch scored them
        experiment.json           what was trained, in the words of the command line
        progress.json             format version, epoch, best epoch, classes, metrics of every epoch so far

A folder is written under another name and then renamed, so that one that can be seen is whole. Of the folders of a run,
the newest epoch and the best one stay. Nothing here unpickles objects.
"""

import errno
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from slowfast_ray.learning.learner import Learner
from slowfast_ray.learning.predictions import Predictions

FORMAT_VERSION = 3


@dataclass
class Progress:
    """How far a run has come."""

    classes: list[str]
    objective: str
    """The metric by which the best epoch is chosen."""
    epoch: int = 0
    best_epoch: int = 0
    best_value: float = float("nan")
    history: list[dict[str, float]] = field(default_factory=list)
    """The metrics of each epoch so far, in order."""
    format_version: int = FORMAT_VERSION


def save(folder: Path, learner: Learner, progress: Progress, experiment_json: str, predictions: Predictions) -> Path:
    """Writes the checkpoint of `progress.epoch` into `folder`, then removes those that are neither newest nor best.

    Raises OSError with errno.ENOSPC where the disk is full; what was there before stays.
    """
    final = path(folder, progress.epoch)
    unfinished = folder / f".{final.name}.{os.getpid()}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        _write(unfinished, learner, progress, experiment_json, predictions)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have their own words for it
        is_full = shutil.disk_usage(folder).free < sum(each.nbytes for each in learner.model.state_dict().values())
        shutil.rmtree(unfinished, ignore_errors=True)
        if is_full:
            raise OSError(errno.ENOSPC, f"the disk is full, and {final} was not saved") from error
        raise
    if final.exists():  # from a run that stopped between saving and reporting; out of sight before it is half deleted
        final.rename(folder / f".{final.name}.0")
    unfinished.rename(final)
    keep = (final, path(folder, progress.best_epoch))
    for other in folder.iterdir():
        if re.fullmatch(r"epoch-\d{3,}|\.epoch-\d{3,}\.\d+", other.name) and other.is_dir() and other not in keep:
            shutil.rmtree(other)
    return final


def _write(folder: Path, learner: Learner, progress: Progress, experiment_json: str, predictions: Predictions) -> None:
    # Safetensors wants plain memory order; the network keeps its own on loading.
    weights = {key: value.contiguous() for key, value in learner.evaluated.state_dict().items()}
    save_file(weights, folder / "weights.safetensors")
    torch.save(_training_state(learner), folder / "training.pt")
    predictions.save(folder / "predictions.safetensors")
    (folder / "experiment.json").write_text(experiment_json, encoding="utf-8")
    (folder / "progress.json").write_text(json.dumps(asdict(progress)) + "\n", encoding="utf-8")
    for file in folder.iterdir():  # a power cut must not leave a renamed folder with empty files
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


def path(folder: Path, epoch: int) -> Path:
    """Where the checkpoint of an epoch lies."""
    return folder / f"epoch-{epoch:03d}"


def newest(folder: Path) -> Path | None:
    """The checkpoint of the highest epoch, or None where there is none yet."""
    found = (each for each in folder.glob("epoch-*") if re.fullmatch(r"epoch-\d{3,}", each.name) and each.is_dir())
    return max(found, key=lambda each: int(each.name.removeprefix("epoch-")), default=None)


def best(folder: Path) -> Path | None:
    """The best checkpoint of a run as it is now, or None where there is none yet."""
    latest = newest(folder)
    return None if latest is None else path(folder, read_progress(latest).best_epoch)


def best_in(folder: Path) -> Path:
    """The best checkpoint of a run. Raises ValueError where there is none; a search's folder is told its trials."""
    found = best(folder)
    if found is None:
        trials = sorted(each.name for each in folder.glob("trial-*"))
        remedy = f"name one of its trials, for example {folder / trials[0]}" if trials else "name a run's folder"
        raise ValueError(f"{folder} holds no checkpoint; {remedy}.")
    return found


def strip(folder: Path) -> None:
    """Deletes the weights and the training state of a run's checkpoints: it neither goes on nor predicts any more. What
    it measured, and what it said of the validation samples, stays.
    """
    for each in folder.glob("epoch-*"):
        for name in ("training.pt", "weights.safetensors"):
            (each / name).unlink(missing_ok=True)


def read_progress(checkpoint: Path) -> Progress:
    """The progress of a checkpoint, without its weights. Raises ValueError for another format version."""
    try:
        values: dict[str, Any] = json.loads((checkpoint / "progress.json").read_text(encoding="utf-8"))
        version = values.get("format_version")
    except (OSError, ValueError, AttributeError) as error:  # no file, no text or no JSON, no object
        raise ValueError(f"{checkpoint} is no checkpoint folder, or a damaged one: {error}.") from error
    if version != FORMAT_VERSION:
        raise ValueError(
            f"The checkpoint {checkpoint} has format version {version}, but this version of "
            f"slowfast_ray reads {FORMAT_VERSION}."
        )
    try:
        return Progress(**values)
    except TypeError as error:
        raise ValueError(f"{checkpoint} is a damaged checkpoint folder: {error}.") from error


def read_predictions(checkpoint: Path) -> Predictions:
    """What the network of a checkpoint said of every validation sample.

    Raises ValueError for another format version, and for a file that is missing or damaged.
    """
    read_progress(checkpoint)
    return Predictions.load(checkpoint / "predictions.safetensors")


def load_weights(checkpoint: Path, model: torch.nn.Module) -> None:
    """Puts the saved weights into `model`, strictly. Raises ValueError if they do not fit or are damaged."""
    try:
        model.load_state_dict(load_file(checkpoint / "weights.safetensors"))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ValueError(f"The weights of {checkpoint} cannot be loaded: {error}") from error


def load(checkpoint: Path, learner: Learner) -> Progress:
    """Puts a run back where it stopped: weights, optimiser, schedule, random generators, epoch."""
    progress = read_progress(checkpoint)
    load_weights(checkpoint, learner.evaluated)
    device = next(learner.model.parameters()).device
    try:
        state = torch.load(checkpoint / "training.pt", map_location="cpu", weights_only=True)
        if learner.average is not None:
            learner.model.load_state_dict(state["model"])
            learner.average.n_averaged.fill_(state["num_averaged"])
        learner.scaler.load_state_dict(state["scaler"])
        learner.micro_batch = min(learner.micro_batch, state["micro_batch"])  # what was found to fit still does
        learner.optimizer.load_state_dict(state["optimizer"])
        learner.scheduler.load_state_dict(state["scheduler"])
        torch.set_rng_state(state["cpu_generator"])
    except Exception as error:  # torch meets a damaged or foreign file with half a dozen kinds
        raise ValueError(f"The training state of {checkpoint} cannot be loaded: {error}") from error
    if device.type == "cuda" and "cuda_generator" in state:
        torch.cuda.set_rng_state(state["cuda_generator"], device)
    learner.num_epochs_done = progress.epoch
    return progress


def _training_state(learner: Learner) -> dict[str, Any]:
    device = next(learner.model.parameters()).device
    state = {
        "optimizer": learner.optimizer.state_dict(),
        "scheduler": learner.scheduler.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "micro_batch": learner.micro_batch,
        "cpu_generator": torch.get_rng_state(),
    }
    if learner.average is not None:
        state["model"] = learner.model.state_dict()
        state["num_averaged"] = int(learner.average.n_averaged)
    if device.type == "cuda":
        state["cuda_generator"] = torch.cuda.get_rng_state(device)
    return state
