"""What does each ingredient of the recipe give on the thermal dataset, once nothing leaks?

Trains the laptop preset on person crops of the purged split, without and with each ingredient, over all folds, each
with a seed of its own; every sample validates once, and folds are pooled. Values are of the last epoch: nothing was
chosen on the validation samples. Differences are paired: the same fold, seed and samples with and without the
ingredient. Views cost no training: the networks of the first row are evaluated again. Runs that are done lie in --out
and are not repeated.

Run       python benchmarks/recipe.py --root PATH --out FOLDER
Cost      about 20 minutes on two CPU cores, and as much for each more repeat
Expected  benchmarks/results/recipe_*.txt
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from trainings import NUM_FOLDS, last_checkpoint, machine, purged_persons, said, train_all

from slowfast_ray.data import dataset
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.data.views import views
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import counts, intervals
from slowfast_ray.running.evaluations import evaluating
from slowfast_ray.running.scores import Pooled

NOTHING = "nothing more"

INGREDIENTS: dict[str, dict[str, Any]] = {
    NOTHING: {},
    "ema_decay 0.98": {"learning.ema_decay": 0.98},
    "mixup 0.2": {"learning.mixup": 0.2},
    "class_balance 0.5": {"data.class_balance": 0.5},
    "layer_decay 0.8": {"learning.layer_decay": 0.8},
    "lr 0.1, dropout 0, ema 0.98": {"learning.lr": 0.1, "model.dropout": 0.0, "learning.ema_decay": 0.98},
}

VIEWS = {"3 clips": (3, 1), "3 crops": (1, 3), "3 clips x 3 crops": (3, 3)}


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What to train."""

    root: Path
    """Folder of the thermal dataset."""

    out: Path
    """Folder for the runs; what is there already is not trained again."""

    repeats: int = 1
    """Trainings of each fold, with other seeds [count]."""

    num_epochs: int = 12
    """Length of each training [epochs]."""

    processes: int | None = None
    """Trainings at once. None: one a core, or one on a GPU [count]."""


def experiment_of(flags: Flags, ingredient: str, fold: int, seed: int) -> Experiment:
    """One run of the table."""
    plain = purged_persons(flags.root, fold=fold, seed=seed, num_epochs=flags.num_epochs)
    # Views reach a quarter of a clip further on each side: purged for all rows, so that all train alike.
    return plain.override({"data.purge_window": 1.5 * plain.data.window, **INGREDIENTS[ingredient]})


def main() -> None:
    """Trains what is missing and prints the table."""
    flags = tyro.cli(Flags, description=(__doc__ or "").splitlines()[0])
    flags.out.mkdir(parents=True, exist_ok=True)
    runs: dict[tuple[str, int, int], tuple[Experiment, Path]] = {}
    for repeat, ingredient, fold in itertools.product(range(flags.repeats), INGREDIENTS, range(NUM_FOLDS)):
        seed = seed_of(repeat, fold)
        folder = flags.out / f"{ingredient.replace(' ', '-').replace(',', '')}-fold{fold}-seed{seed}"
        runs[ingredient, fold, seed] = experiment_of(flags, ingredient, fold, seed), folder
    train_all(list(runs.values()), counts.VAL_MEAN_CLASS, flags.processes)

    data = [dataset.load(experiment_of(flags, NOTHING, fold, 0).data) for fold in range(NUM_FOLDS)]
    rows: dict[str, Pooled] = {}
    for ingredient in INGREDIENTS:
        rows[ingredient] = pooled(
            data, flags.repeats, lambda fold, seed, name=ingredient: said(runs[name, fold, seed][1])
        )
    for name, (num_clips, num_crops) in VIEWS.items():
        rows[name] = pooled(
            data,
            flags.repeats,
            lambda fold, seed, num=(num_clips, num_crops): seen(*runs[NOTHING, fold, seed], data[fold], *num),
        )
    show(rows, flags)


def seed_of(repeat: int, fold: int) -> int:
    """No two runs of an ingredient share a seed; those of two ingredients do."""
    return repeat * NUM_FOLDS + fold


def pooled(data: list[Dataset], num_repeats: int, predicted: Callable[[int, int], np.ndarray]) -> Pooled:
    """All folds together, from `predicted(fold, seed)` -> int64 [S]."""
    return Pooled.of(
        [
            (each, np.stack([predicted(fold, seed_of(repeat, fold)) for repeat in range(num_repeats)]))
            for fold, each in enumerate(data)
        ]
    )


def seen(experiment: Experiment, folder: Path, data: Dataset, num_clips: int, num_crops: int) -> np.ndarray:
    """What the network of the last epoch says from several views, int64 [S]."""
    found = evaluating.predict(last_checkpoint(folder), experiment, data, views(num_clips, num_crops))
    return found.predicted_S().numpy()


def show(rows: dict[str, Pooled], flags: Flags) -> None:
    """The table."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("recipe", "top-1", "difference", "mean-class"):
        table.add_column(column, no_wrap=True)
    plain = rows[NOTHING]
    for name, each in rows.items():
        difference = ""
        if name != NOTHING:
            labels_N, blocks_N = (np.tile(every, flags.repeats) for every in (plain.labels_S, plain.blocks_S))
            found = intervals.paired_top1(
                each.predicted_RS.reshape(-1) == labels_N, plain.predicted_RS.reshape(-1) == labels_N, blocks_N
            )
            difference = f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
        table.add_row(name, str(each.top1()), difference, str(each.mean_class()))
    Console(width=120).print(table)
    print(
        f"Person crops, purged split, {NUM_FOLDS} folds pooled, {flags.repeats} training(s) of each, every one with a "
        f"seed of its own;\nthe last of {flags.num_epochs} epochs. Difference: of top-1, to the first row, paired; "
        "95 % intervals\nby bootstrap over stretches of 10 s, of top-1 by Wilson."
    )
    print(machine())


if __name__ == "__main__":
    main()
