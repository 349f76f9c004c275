"""What can the thermal dataset teach, once nothing leaks?

Trains the laptop model on the provided split, on purged blocks of time and on one session left out, with whole frames
(majority labels) and with person crops, over several seeds and all folds, beside baselines that need no network. Every
sample of a split validates once; folds are pooled. Values are of the last epoch: nothing was chosen on the validation
samples. Runs that are done lie in --out and are not repeated.

Run       python benchmarks/honest_account.py --root PATH --out FOLDER
Cost      about 80 minutes on two CPU cores; --labels, --splits and --seeds take less
Expected  benchmarks/results/honest_account_*.txt
"""

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from trainings import PERSON, RECIPE_BEFORE, machine, said, train_all

from slowfast_ray.data import baselines, dataset
from slowfast_ray.data.config import SplitName
from slowfast_ray.experiment import LAPTOP, Experiment
from slowfast_ray.learning import counts
from slowfast_ray.running.scores import Pooled

NUM_FOLDS = {"provided": 1, "purged": 3, "leave-one-session-out": 2}
"""Three blocks a session: with five, each run would cost as much and each fold validate on less."""

Labels = Literal["majority", "person"]

SHORT, LONG = "SlowFast, laptop preset", "SlowFast, 30 epochs, half balanced"
RECIPES: dict[str, dict[str, Any]] = {SHORT: {}, LONG: {"learning.num_epochs": 30, "data.class_balance": 0.5}}
"""The second for person crops alone: whole frames learn nothing from more of the same."""


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What to train."""

    root: Path
    """Folder of the thermal dataset."""

    out: Path
    """Folder for the runs; what is there already is not trained again."""

    splits: tuple[SplitName, ...] = ("provided", "purged", "leave-one-session-out")
    """Splits to show."""

    labels: tuple[Labels, ...] = ("majority", "person")
    """Label policies to show."""

    seeds: int = 3
    """Trainings of each fold [count]."""

    long_seeds: int = 1
    """The same for the longer recipe [count]."""

    def runs_of(self, split: SplitName, labels: Labels, recipe: str) -> dict[tuple[int, int], tuple[Experiment, Path]]:
        """The runs of one row of the table, with their folders, by fold and seed."""
        seeds = 0 if (recipe, labels) == (LONG, "majority") else self.seeds if recipe == SHORT else self.long_seeds
        prefix = "" if recipe == SHORT else "long-"
        return {
            (fold, seed): (
                experiment_of(self, split, labels, fold, seed, RECIPES[recipe]),
                self.out / f"{prefix}{split}-{labels}-fold{fold}-seed{seed}",
            )
            for fold, seed in itertools.product(range(NUM_FOLDS[split]), range(seeds))
        }


def experiment_of(
    flags: Flags, split: SplitName, labels: Labels, fold: int, seed: int, recipe: dict[str, Any]
) -> Experiment:
    """One run of the table."""
    changes = {
        "data.root": str(flags.root.absolute()),
        "data.split": split,
        "run.seed": seed,
        **({"data.fold": fold} if split != "provided" else {}),
        **({"data.num_folds": NUM_FOLDS[split]} if split == "purged" else {}),
        **(PERSON if labels == "person" else {"data.labels": labels}),
        **RECIPE_BEFORE,
        **recipe,
    }
    return LAPTOP.override(changes)


def main() -> None:
    """Trains what is missing and prints the table."""
    flags = tyro.cli(Flags, description=(__doc__ or "").splitlines()[0])
    flags.out.mkdir(parents=True, exist_ok=True)
    rows = list(itertools.product(flags.splits, flags.labels, RECIPES))
    runs = [run for row in rows for run in flags.runs_of(*row).values()]
    train_all(runs, counts.VAL_MEAN_CLASS)

    # Markdown, which no width of a terminal cuts.
    print("| split | labels | predicted by | top-1 | mean-class | sd of top-1 | runs |\n|---|---|---|---|---|---|---|")

    def add(split: str, labels: str, name: str, scored: Pooled, num_runs: int) -> None:
        spread = "" if math.isnan(scored.spread()) else f"{scored.spread():.3f}"
        cells = (split, labels, name, scored.top1(), scored.mean_class(), spread, num_runs or "")
        print(f"| {' | '.join(map(str, cells))} |")

    for split in flags.splits:
        for labels in flags.labels:
            folds = range(NUM_FOLDS[split])
            data = [dataset.load(experiment_of(flags, split, labels, fold, 0, {}).data) for fold in folds]
            for name, predict in baselines.ALL.items():
                add(split, labels, name, Pooled.of([(each, predict(each)[None]) for each in data]), 0)
            for recipe in RECIPES:
                trained = flags.runs_of(split, labels, recipe)
                seeds = sorted({seed for _, seed in trained})
                if seeds:
                    predicted = [np.stack([said(trained[fold, seed][1]) for seed in seeds]) for fold in folds]
                    add(split, labels, recipe, Pooled.of(list(zip(data, predicted, strict=True))), len(trained))
    print(
        "Last epochs; mean over seeds, folds pooled; 95 % intervals: Wilson for top-1, bootstrap over stretches of 10 s"
    )
    print(f"for mean-class. {machine()}")


if __name__ == "__main__":
    main()
