"""A checkpoint: a folder that holds a network, and what is needed to go on training it exactly where it stopped.

    <folder>/epoch-012/
        weights.safetensors       the network that was evaluated: its state dict
        training.pt               optimiser, schedule, random generators, micro-batch; where weights are averaged, also
                                  the network that trains; read with weights_only
        predictions.safetensors   logits and truth of every validation sample, as this epoch scored them
        experiment.json           what was trained, in the words of the command line
        progress.json             format version, epoch, best epoch, classes, metrics of every epoch so far
        checksums.json            the SHA-256 of each of these files; written last
    <folder>/epoch-012-step-00042/    where a run was left within an epoch, without predictions, with middle.json

A folder is written under another name and then renamed, so that one that can be seen is whole, on a disk that keeps
what it was given. Others exist: files are checked when they are read, and whoever goes on takes the newest folder that
is whole. Of the folders of a run, the newest two epochs and the best one stay. Nothing here unpickles objects.
"""

import itertools
import json
import logging
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from slowfast_ray.learning import checksums, training_state
from slowfast_ray.learning.learner import Learner
from slowfast_ray.learning.middle import Middle
from slowfast_ray.learning.predictions import Predictions

log = logging.getLogger(__name__)

FORMAT_VERSION = 4
NAME = re.compile(r"epoch-(\d{3,})(?:-step-(\d{5,}))?")
"""Of a checkpoint, at the end of an epoch or within the next one."""
MIDDLE = "middle.json"
HEAVY = ("training.pt", "weights.safetensors")
"""Files that going on and predicting need; what a run measured is in the others."""
READABLE_VERSIONS = (3, 4)
"""Before version 4 there were no checksums."""


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
    """Writes the checkpoint of `progress.epoch` into `folder`, then removes those that are neither the best nor one of
    the newest two.

    Raises OSError with errno.ENOSPC where the disk is full; what was there before stays.
    """
    final = path(folder, progress.epoch)
    _write(final, learner, progress, experiment_json, predictions=predictions)
    keep = (final, path(folder, progress.epoch - 1), path(folder, progress.best_epoch))
    for other in folder.iterdir():
        is_one = NAME.fullmatch(other.name) or re.fullmatch(rf"\.{NAME.pattern}\.\d+", other.name)
        if is_one and other.is_dir() and other not in keep:
            shutil.rmtree(other)
    return final


def save_middle(folder: Path, learner: Learner, progress: Progress, experiment_json: str, middle: Middle) -> Path:
    """Writes where a run is left within the epoch after `progress.epoch`; the next `save` removes it again.

    Raises OSError as `save` does.
    """
    final = folder / f"{path(folder, progress.epoch).name}-step-{middle.num_steps:05d}"
    _write(final, learner, progress, experiment_json, middle=middle)
    return final


def _write(
    final: Path,
    learner: Learner,
    progress: Progress,
    experiment_json: str,
    *,
    predictions: Predictions | None = None,
    middle: Middle | None = None,
) -> None:
    def fill(folder: Path) -> None:
        # Safetensors wants plain memory order; the network keeps its own on loading.
        weights = {key: value.contiguous() for key, value in learner.evaluated.state_dict().items()}
        save_file(weights, folder / "weights.safetensors")
        training_state.save(learner, folder / "training.pt")
        if predictions is not None:
            predictions.save(folder / "predictions.safetensors")
        if middle is not None:
            (folder / MIDDLE).write_text(json.dumps(middle.to_list()) + "\n", encoding="utf-8")
        (folder / "experiment.json").write_text(experiment_json, encoding="utf-8")
        (folder / "progress.json").write_text(json.dumps(asdict(progress)) + "\n", encoding="utf-8")

    checksums.write_folder(final, fill, sum(each.nbytes for each in learner.model.state_dict().values()))


def path(folder: Path, epoch: int) -> Path:
    """Where the checkpoint of an epoch lies."""
    return folder / f"epoch-{epoch:03d}"


def newest(folder: Path) -> Path | None:
    """The checkpoint of the highest epoch, or None where there is none yet."""
    epochs = _epochs_of(folder)
    return path(folder, max(epochs)) if epochs else None


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint whose files are as they were written, be it within an epoch, or None where there is none;
    warns of those that are not. Raises ValueError for another format version.
    """
    found = sorted((each for each in folder.glob("epoch-*") if NAME.fullmatch(each.name)), key=position, reverse=True)
    for each, earlier in itertools.pairwise([*found, None]):
        assert each is not None, "only the last one is"
        flaw = _flaw_of(each)
        if not flaw:
            return each
        remedy = f"{earlier.name} is tried" if earlier else "training begins anew"
        log.warning("The checkpoint %s is torn, and %s: %s.", each, remedy, flaw)
    return None


def position(checkpoint: Path) -> tuple[int, int]:
    """Epochs, and steps beyond them."""
    found = NAME.fullmatch(checkpoint.name)
    assert found is not None, "asked for checkpoints only"
    return int(found[1]), int(found[2] or 0)


def read_middle(checkpoint: Path) -> Middle | None:
    """How far into the next epoch a checkpoint was saved; None at the end of one."""
    file = checkpoint / MIDDLE
    return Middle.from_list(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None


def _flaw_of(checkpoint: Path) -> str:
    """What of a checkpoint is not as it was written, in a clause; empty where all is."""
    try:
        version = json.loads((checkpoint / "progress.json").read_text(encoding="utf-8")).get("format_version")
    except (OSError, ValueError, AttributeError) as error:
        return f"progress.json cannot be read: {error}"
    if version == FORMAT_VERSION:
        return checksums.flaw_of(checkpoint)
    read_progress(checkpoint)  # refuses those of a later format
    return ""


def _epochs_of(folder: Path) -> list[int]:
    found = (each for each in folder.glob("epoch-*") if re.fullmatch(r"epoch-\d{3,}", each.name) and each.is_dir())
    return [int(each.name.removeprefix("epoch-")) for each in found]


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
        checksums.forget(each, HEAVY)
        for name in HEAVY:
            (each / name).unlink(missing_ok=True)


def read_progress(checkpoint: Path) -> Progress:
    """The progress of a checkpoint, without its weights. Raises ValueError for another format version."""
    try:
        values: dict[str, Any] = json.loads((checkpoint / "progress.json").read_text(encoding="utf-8"))
        version = values.get("format_version")
    except (OSError, ValueError, AttributeError) as error:  # no file, no text or no JSON, no object
        raise ValueError(f"{checkpoint} is no checkpoint folder, or a damaged one: {error}.") from error
    if version not in READABLE_VERSIONS:
        raise ValueError(
            f"The checkpoint {checkpoint} has format version {version}, but this version of "
            f"slowfast_ray reads {' and '.join(map(str, READABLE_VERSIONS))}."
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
    checksums.check(checkpoint / "predictions.safetensors")
    return Predictions.load(checkpoint / "predictions.safetensors")


def load_weights(checkpoint: Path, model: torch.nn.Module) -> None:
    """Puts the saved weights into `model`, strictly. Raises ValueError if they do not fit or are damaged."""
    try:
        checksums.check(checkpoint / "weights.safetensors")
        model.load_state_dict(load_file(checkpoint / "weights.safetensors"))
    except (OSError, ValueError, SafetensorError, RuntimeError) as error:
        raise ValueError(f"The weights of {checkpoint} cannot be loaded: {error}") from error


def load(checkpoint: Path, learner: Learner) -> Progress:
    """Puts a run back where it stopped: weights, optimiser, schedule, random generators, epoch."""
    progress = read_progress(checkpoint)
    load_weights(checkpoint, learner.evaluated)
    try:
        checksums.check(checkpoint / "training.pt")
        training_state.load(checkpoint / "training.pt", learner)
    except Exception as error:  # torch meets a damaged or foreign file with half a dozen kinds
        raise ValueError(f"The training state of {checkpoint} cannot be loaded: {error}") from error
    learner.num_epochs_done = progress.epoch
    return progress
