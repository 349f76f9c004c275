"""From how many a checkpoint was chosen on the samples that it is judged by: the more, the more its figures flatter."""

from dataclasses import dataclass
from pathlib import Path

from slowfast_ray.learning import checkpoint
from slowfast_ray.running.folders import begun


@dataclass(frozen=True)
class Choice:
    """How a checkpoint was chosen."""

    epoch: int
    """Its own."""
    objective: str
    """By which the best epoch was chosen."""
    num_epochs: int
    """That the run validated after."""
    is_best: bool
    num_trials: int
    """Of the search that the run belongs to; 0 without a search."""

    @staticmethod
    def of(folder: Path) -> "Choice":
        """That of the checkpoint in `folder`, which lies in the folder of its run or trial."""
        progress, newest = checkpoint.read_progress(folder), checkpoint.newest(folder.parent)
        latest = progress if newest is None else checkpoint.read_progress(newest)
        above = folder.absolute().parent.parent
        return Choice(
            epoch=progress.epoch,
            objective=progress.objective,
            num_epochs=len(latest.history),
            is_best=progress.epoch == latest.best_epoch,
            num_trials=len(list(above.glob("trial-*"))) if (above / begun.SEARCH).is_file() else 0,
        )
