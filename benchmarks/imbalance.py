"""Which remedy for rare classes helps on the thermal dataset, once nothing leaks?

Trains the laptop model on person crops of the purged split with each remedy at its usual strength, over all folds;
every sample validates once, and folds are pooled. Values are of the last epoch: nothing was chosen on the validation
samples. Runs that are done lie in --out and are not repeated.

Run       python benchmarks/imbalance.py --root PATH --out FOLDER
Cost      about 20 minutes on two CPU cores for one seed
Expected  benchmarks/results/imbalance_*.txt
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rich
import tyro
from rich.box import SIMPLE_HEAD
from rich.table import Table
from trainings import NUM_FOLDS, machine, purged_persons, said, train_all

from slowfast_ray.data import dataset
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import counts
from slowfast_ray.running.scores import Pooled

REMEDIES: dict[str, dict[str, Any]] = {
    "none": {},
    "class_balance 0.5": {"data.class_balance": 0.5},
    "class_balance 1": {"data.class_balance": 1.0},
    "inverse_frequency": {"learning.class_weights": "inverse_frequency"},
    "effective_number 0.99": {"learning.class_weights": "effective_number"},
    "focal, gamma 2": {"learning.loss": "focal"},
    "logit_adjustment 1": {"learning.logit_adjustment": 1.0},
}


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What to train."""

    root: Path
    """Folder of the thermal dataset."""

    out: Path
    """Folder for the runs; what is there already is not trained again."""

    seeds: int = 1
    """Trainings of each fold [count]."""

    num_epochs: int = 12
    """Length of each training [epochs]."""


def experiment_of(flags: Flags, remedy: str, fold: int, seed: int) -> Experiment:
    """One run of the table."""
    plain = purged_persons(flags.root, fold=fold, seed=seed, num_epochs=flags.num_epochs)
    return plain.override(REMEDIES[remedy])


def main() -> None:
    """Trains what is missing and prints the table."""
    flags = tyro.cli(Flags, description=(__doc__ or "").splitlines()[0])
    flags.out.mkdir(parents=True, exist_ok=True)
    runs: dict[tuple[str, int, int], tuple[Experiment, Path]] = {}
    for remedy, seed, fold in itertools.product(REMEDIES, range(flags.seeds), range(NUM_FOLDS)):
        folder = flags.out / f"{remedy.replace(' ', '-').replace(',', '')}-fold{fold}-seed{seed}"
        runs[remedy, fold, seed] = experiment_of(flags, remedy, fold, seed), folder
    train_all(list(runs.values()), counts.VAL_MEAN_CLASS)

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("remedy", "top-1", "mean-class"):
        table.add_column(column, no_wrap=True)
    data = [dataset.load(experiment_of(flags, "none", fold, 0).data) for fold in range(NUM_FOLDS)]
    for remedy in REMEDIES:
        by_fold = []
        for fold, each in enumerate(data):
            rows = []
            for seed in range(flags.seeds):
                rows.append(said(runs[remedy, fold, seed][1]))
            by_fold.append((each, np.stack(rows)))
        pooled = Pooled.of(by_fold)
        table.add_row(remedy, str(pooled.top1()), str(pooled.mean_class()))
    rich.print(table)
    print(
        f"Person crops, purged split, {NUM_FOLDS} folds pooled, {flags.seeds} seed(s), last epochs; 95 % intervals:\n"
        "Wilson for top-1, bootstrap over stretches of 10 s for mean-class."
    )
    print(machine())


if __name__ == "__main__":
    main()
