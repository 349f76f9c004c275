"""A network to take away: a folder that holds its weights and all that turns temperatures into its answers.

    weights.safetensors   the network's state dict
    experiment.json       how clips are made and what the network is, in the words of the command line; no paths
    model.json            format version, who wrote it, classes, size of the frames that it was trained on

It is made of a checkpoint, and nothing in it is ever unpickled.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from slowfast_ray.data.dataset import Dataset
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checkpoint
from slowfast_ray.run_config import RunConfig
from slowfast_ray.running.folders import begun

FORMAT_VERSION = 1
MODEL = "model.json"
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Description:
    """What a model folder says of its network."""

    classes: tuple[str, ...]
    frame_height: int
    """Of the frames that it was trained on [pixels]."""
    frame_width: int
    trained_as: str
    """The run and the epoch that it was taken from, for people: thermal-1/trial-003, epoch 12."""
    format_version: int = FORMAT_VERSION
    written_by: str = "slowfast_ray " + version("slowfast-ray")


def write(folder: Path, chosen: Path, data: Dataset) -> Description:
    """Makes the new folder `folder` from the checkpoint `chosen`, which was trained on `data`.

    Raises ValueError or OSError where it has no weights (any more), or cannot be read.
    """
    progress, weights = checkpoint.read_progress(chosen), weights_of(chosen)
    run = chosen.parent
    is_trial = (run.parent / begun.SEARCH).is_file()
    height, width = data.frames.size_HW
    described = Description(
        classes=tuple(progress.classes),
        frame_height=height,
        frame_width=width,
        trained_as=f"{run.parent.name + '/' if is_trial else ''}{run.name}, epoch {progress.epoch}",
    )
    experiment = Experiment.from_json((chosen / begun.BEGUN_AS).read_text(encoding="utf-8"))
    plain = RunConfig()
    traveller = experiment.override(  # folders and addresses of the machine that trained are nobody's business
        {
            "data.root": None,
            "model.weights": None,
            "run.storage": plain.storage,
            "run.tracking_uri": plain.tracking_uri,
        }
    )
    folder.mkdir()
    shutil.copyfile(weights, folder / WEIGHTS)
    (folder / begun.BEGUN_AS).write_text(traveller.to_json(), encoding="utf-8")
    (folder / MODEL).write_text(json.dumps(asdict(described), indent=1) + "\n", encoding="utf-8")
    return described


def weights_of(chosen: Path) -> Path:
    """The file of weights of the checkpoint `chosen`. Raises ValueError where it has none (any more)."""
    weights = chosen / WEIGHTS
    if not weights.is_file():
        raise ValueError(
            f"{chosen} holds no weights: those of trials that cannot win are deleted; take the best, or train again."
        )
    return weights


def read(folder: Path) -> tuple[Description, Experiment]:
    """What `write` wrote, but the weights. Raises ValueError for another format version, and a damaged folder."""
    try:
        values = json.loads((folder / MODEL).read_text(encoding="utf-8"))
        found, writer = values["format_version"], values["written_by"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} is no model of slowfast_ray, or a damaged one ({error}).") from error
    if found != FORMAT_VERSION:
        raise ValueError(
            f"The model in {folder} has format version {found} and was written by {writer}, but this version of "
            f"slowfast_ray ({version('slowfast-ray')}) reads {FORMAT_VERSION}; register it again from its run, or use "
            "the version that wrote it."
        )
    try:
        described = Description(**{**values, "classes": tuple(values["classes"])})
        return described, Experiment.from_json((folder / begun.BEGUN_AS).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"The model in {folder} is damaged: {error}") from error
