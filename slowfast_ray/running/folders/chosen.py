"""The checkpoint that a user means, with what it says of itself: where evaluating and registering begin."""

import os
from dataclasses import dataclass
from pathlib import Path

from slowfast_ray.data.dataset import Dataset
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checkpoint as checkpoints
from slowfast_ray.learning.checkpoint import Progress
from slowfast_ray.running.folders import begun


@dataclass(frozen=True)
class Chosen:
    """A checkpoint."""

    checkpoint: Path
    progress: Progress
    experiment: Experiment
    """As the checkpoint holds it; its dataset may have been moved."""

    @property
    def run_folder(self) -> Path:
        """The folder of the run or trial."""
        return self.checkpoint.parent


def choose(place: Path, root: str | None) -> Chosen:
    """What `place` means: the folder of a checkpoint, or of a run or trial, whose best epoch it is; with the dataset in
    `root`, where that is given. Raises ValueError or OSError for a folder without a checkpoint.
    """
    place = Path(os.path.normpath(place.expanduser().absolute()))
    found = place if (place / "progress.json").is_file() else checkpoints.best_in(place)
    progress = checkpoints.read_progress(found)
    try:
        experiment = Experiment.from_json((found / begun.BEGUN_AS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{found} does not tell its experiment: {error}") from error
    if root is not None:
        experiment = experiment.override({"data.root": root})
    return Chosen(found, progress, experiment)


def check_same_samples(chosen: Chosen, data: Dataset, law: str) -> None:
    """Raises ValueError, beginning with `law`, where `data` gives other samples than the run had."""
    recorded = begun.split_fingerprint(chosen.run_folder)
    if recorded != data.fingerprint:
        raise ValueError(
            f"{law}, but {data.root} gives others than {chosen.run_folder} had: the split's fingerprint is "
            f"{data.fingerprint}, but was {recorded}; restore the data, or name its folder with `--root`."
        )
