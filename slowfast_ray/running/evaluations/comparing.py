"""Two runs on the same validation samples: is one better, or was it luck?

Runs compare only where the same samples with the same labels trained and validated: their fingerprints say so.
"""

from dataclasses import dataclass
from pathlib import Path

from slowfast_ray.data import dataset
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checkpoint, intervals
from slowfast_ray.learning.intervals import Comparison, Interval
from slowfast_ray.running import scores
from slowfast_ray.running.folders import begun
from slowfast_ray.running.scores import Score


@dataclass(frozen=True)
class Compared:
    """What two runs score, at the best epoch of each, and what lies between them."""

    scores: tuple[Score, Score]
    data: Dataset
    test: Comparison
    """McNemar's exact test of top-1."""
    mean_class_difference: Interval | None
    """Of the first run over the second, by a paired bootstrap over stretches of time; None under the labels `multi`."""
    objectives: tuple[str, str]
    """By which metric the best epoch of each was chosen."""


def compare(folder_a: Path, folder_b: Path) -> Compared:
    """Compares the best checkpoints of two runs or trials, from the predictions saved with them.

    Raises ValueError for a folder without a checkpoint, and where the runs validated on other samples than each other,
    or than the dataset would give now.
    """
    best = [checkpoint.best_in(folder) for folder in (folder_a, folder_b)]
    data = [dataset.load(_experiment(each).data) for each in best]
    recorded = [begun.split_fingerprint(folder) for folder in (folder_a, folder_b)]
    for folder, fingerprint, each in zip((folder_a, folder_b), recorded, data, strict=True):
        if fingerprint != each.fingerprint:
            raise ValueError(
                f"The data in {each.root} changed since {folder} was trained: the split's fingerprint is "
                f"{each.fingerprint}, but was {fingerprint}; restore the data, or train again."
            )
    if recorded[0] != recorded[1]:
        raise ValueError(
            f"Only runs on the same samples compare, but {folder_a} trained and validated on {data[0].split_name} "
            f"({data[0].config.labels}, fingerprint {recorded[0]}) and {folder_b} on {data[1].split_name} "
            f"({data[1].config.labels}, {recorded[1]}); train one of them again with the data.* flags of the other."
        )
    a, b = (checkpoint.read_predictions(each) for each in best)
    difference = None
    if not a.is_multi:
        difference = intervals.paired_bootstrap(
            a.target.numpy(), a.predicted_S().numpy(), b.predicted_S().numpy(), data[0].val.blocks_S
        )
    return Compared(
        scores=(
            scores.of_predictions(str(folder_a), a, data[0].val),
            scores.of_predictions(str(folder_b), b, data[0].val),
        ),
        data=data[0],
        test=intervals.mcnemar(a.right_S().numpy(), b.right_S().numpy()),
        mean_class_difference=difference,
        objectives=(checkpoint.read_progress(best[0]).objective, checkpoint.read_progress(best[1]).objective),
    )


def _experiment(best: Path) -> Experiment:
    return Experiment.from_json((best / begun.BEGUN_AS).read_text(encoding="utf-8"))
