"""What do the laptop preset and its default recipe give on the thermal dataset, over several seeds?

Trains `--preset laptop` as it stands, on whole frames: on the provided split (which leaks) with each seed, and on the
purged folds, each with another seed. Values are of the last epoch, where nothing was chosen on the validation samples,
and of the best epoch, which was. Runs that are done lie in --out and are not repeated.

Run       python benchmarks/default_recipe.py --root PATH --out FOLDER
Cost      about 20 minutes on two CPU cores
Expected  benchmarks/results/default_recipe_*.txt
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from trainings import machine, train_all

from slowfast_ray.data import dataset
from slowfast_ray.data.config import SplitName
from slowfast_ray.experiment import LAPTOP, Experiment
from slowfast_ray.learning import checkpoint, counts
from slowfast_ray.running.scores import Pooled

SPLITS: tuple[SplitName, ...] = ("provided", "purged")
FIND = {"last": checkpoint.newest, "best": checkpoint.best}
NUM_RUNS = 3
"""Seeds on the provided split; folds of the purged one, of which each has a seed of its own."""


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What to train."""

    root: Path
    """Folder of the thermal dataset."""

    out: Path
    """Folder for the runs; what is there already is not trained again."""

    processes: int | None = None
    """Trainings at once. None: one a core, or one on a GPU [count]."""


def experiment_of(flags: Flags, split: SplitName, seed: int) -> Experiment:
    """One run of the table."""
    purged = {"data.num_folds": NUM_RUNS, "data.fold": seed} if split == "purged" else {}
    return LAPTOP.override({"data.root": str(flags.root.absolute()), "data.split": split, "run.seed": seed, **purged})


def main() -> None:
    """Trains what is missing and prints the table."""
    flags = tyro.cli(Flags, description=(__doc__ or "").splitlines()[0])
    flags.out.mkdir(parents=True, exist_ok=True)
    runs: dict[tuple[SplitName, int], tuple[Experiment, Path]] = {
        (split, seed): (experiment_of(flags, split, seed), flags.out / f"{split}-{seed}")
        for split, seed in itertools.product(SPLITS, range(NUM_RUNS))
    }
    train_all(list(runs.values()), counts.VAL_TOP1, flags.processes)

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("split", "epoch", "top-1", "each run", "mean-class"):
        table.add_column(column, no_wrap=True)
    for split, (which, find) in itertools.product(SPLITS, FIND.items()):
        data = [dataset.load(experiment_of(flags, split, seed).data) for seed in range(NUM_RUNS)]
        predicted = [_predicted(find(runs[split, seed][1])) for seed in range(NUM_RUNS)]
        if split == "provided":  # the same samples in each run
            pooled = Pooled.of([(data[0], np.stack(predicted))])
        else:
            pooled = Pooled.of([(each, said_S[None]) for each, said_S in zip(data, predicted, strict=True)])
        right = [(said_S == each.val.labels_S.numpy()).mean() for each, said_S in zip(data, predicted, strict=True)]
        by_run = " ".join(f"{each:.3f}" for each in right)
        table.add_row(split, which, str(pooled.top1()), by_run, str(pooled.mean_class()))
    Console(width=120).print(table)
    print(
        f"--preset laptop: provided, {NUM_RUNS} seeds; purged, {NUM_RUNS} folds pooled, each with a seed of its own.\n"
        "Best epochs were chosen on the samples that they are scored on. 95 % intervals: Wilson for top-1, bootstrap\n"
        "over stretches of 10 s for mean-class."
    )
    print(machine())


def _predicted(folder: Path | None) -> np.ndarray:
    assert folder is not None, "it was trained above"
    return checkpoint.read_predictions(folder).predicted_S().numpy()


if __name__ == "__main__":
    main()
