"""How do all configurations of a small search space learn, epoch by epoch? The table that searchers.py replays.

Trains a full grid, on whole frames or person crops of one fold of the purged split, with the window of the widest clip,
so that all of them train and validate on the same samples: as a search would, without pruning anything. Everything else
is the laptop preset. The grid is the thermal search space (4 learning rates x 3 batches x 3 clip lengths x 3 intervals,
108 configurations); or, with --wide, one whose learning rates span three and a half decades, as those search who know
nothing yet (8 x 3 x 2 x 2, 96 configurations). Runs that are done lie in --out and are not repeated, nor are those that
--table has already; what was interrupted goes on, and Ctrl-C leaves a table of what is done.

Run       python benchmarks/curves.py --root PATH --out FOLDER --table benchmarks/results/curves_DATE.csv
          python benchmarks/curves.py --root PATH --out FOLDER --table benchmarks/results/curves_wide_DATE.csv \
              --wide --persons
Cost      50 minutes each on two CPU threads (AMD EPYC)
Expected  benchmarks/results/curves_*.csv
"""

import csv
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from trainings import NUM_FOLDS, PERSON, machine, train_all

from slowfast_ray.experiment import LAPTOP, Experiment
from slowfast_ray.learning import checkpoint, counts

GRID: dict[str, list[Any]] = {
    "learning.lr": [float(f"{lr:.3g}") for lr in np.geomspace(0.003, 0.3, 4)],
    "learning.batch_size": [4, 8, 16],
    "data.clip_len": [16, 32, 48],
    "data.frame_interval": [1, 2, 3],
}
"""search_spaces/thermal.py, with its range of learning rates at four points."""
WIDE: dict[str, list[Any]] = {
    "learning.lr": [float(f"{lr:.3g}") for lr in np.geomspace(1e-4, 1, 9)[:-1]],
    "learning.batch_size": [4, 8, 16],
    "data.clip_len": [16, 32],
    "data.frame_interval": [1, 3],
}
"""The ends of the clips' ranges; learning rates from where little is learnt to below 1, where trainings diverge."""
METRICS = (counts.VAL_MEAN_CLASS, counts.VAL_TOP1, counts.VAL_LOSS, counts.TRAIN_LOSS, counts.EPOCH_SECONDS)


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What to train."""

    root: Path
    """Folder of the thermal dataset."""

    out: Path
    """Folder for the runs; what is there already is not trained again."""

    table: Path
    """CSV file to write, a row for each epoch of each configuration [path]."""

    persons: bool = False
    """Person crops of 32 x 32 pixels instead of whole frames."""

    wide: bool = False
    """Learning rates of three and a half decades, and fewer clips."""

    num_epochs: int = 12
    """Of each configuration [epochs]."""

    processes: int | None = None
    """Trainings at once. None: one a core, or one on a GPU [count]."""


def experiment_of(flags: Flags, grid: dict[str, list[Any]], sample: dict[str, Any]) -> Experiment:
    """One configuration of the grid."""
    return LAPTOP.override(
        {
            "data.root": str(flags.root.absolute()),
            "data.split": "purged",
            "data.num_folds": NUM_FOLDS,
            "data.purge_window": float(max(grid["data.clip_len"]) * max(grid["data.frame_interval"])),
            "learning.num_epochs": flags.num_epochs,
            **(PERSON if flags.persons else {}),
            **sample,
        }
    )


def main() -> None:
    """Trains what is missing and writes the table."""
    flags = tyro.cli(Flags, description=(__doc__ or "").splitlines()[0])
    flags.out.mkdir(parents=True, exist_ok=True)
    grid = WIDE if flags.wide else GRID
    samples = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    np.random.default_rng(0).shuffle(samples)  # what is slow is spread, so that the time left can be told
    known = _read(flags.table)
    if any(len(rows) != flags.num_epochs for rows in known.values()):
        raise SystemExit(f"{flags.table} does not hold trainings of {flags.num_epochs} epochs; choose another --table.")
    runs = {
        _name_of(sample): (experiment_of(flags, grid, sample), flags.out / _name_of(sample))
        for sample in samples
        if _name_of(sample) not in known
    }
    try:
        train_all(list(runs.values()), METRICS[0], flags.processes)
    finally:
        for sample in samples:
            newest = checkpoint.newest(flags.out / _name_of(sample))
            history = [] if newest is None else checkpoint.read_progress(newest).history
            if len(history) == flags.num_epochs:
                known[_name_of(sample)] = [
                    [*sample.values(), epoch, *(f"{metrics[metric]:.5g}" for metric in METRICS)]
                    for epoch, metrics in enumerate(history, start=1)
                ]
        _write(flags.table, known)
    print(f"{len(known)} configurations of {flags.num_epochs} epochs: {flags.table}")
    print(machine())


def _read(table: Path) -> dict[str, list[list[Any]]]:
    """The rows of each configuration that an earlier start has written."""
    found: dict[str, list[list[Any]]] = {}
    if table.exists():
        with table.open(newline="", encoding="utf-8") as file:
            for row in list(csv.reader(file))[1:]:
                sample = dict(zip(GRID, map(float, row), strict=False))
                found.setdefault(_name_of(sample), []).append(row)
    return found


def _write(table: Path, known: dict[str, list[list[Any]]]) -> None:
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*GRID, "epoch", *METRICS])
        writer.writerows(row for name in sorted(known) for row in known[name])


def _name_of(sample: dict[str, Any]) -> str:
    return "-".join(f"{value:g}" for value in sample.values())


if __name__ == "__main__":
    main()
