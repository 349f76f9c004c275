"""What does a trial cost beside its training?

Runs the same tiny search twice, one trial after the other: once with trials of one worker, which train in the trial's
own process, used again for the next trial; once with trials of two workers, each a Ray Train group (a TorchTrainer).
Overhead is the whole search on a running Ray, less the seconds that the epochs themselves report, divided by the
trials: starting processes, importing, building, checkpoints, reporting, MLflow, and the search's own beginning and end.

Run       python benchmarks/search_overhead.py
Cost      about 3 minutes on two cores
Expected  one worker at most 1 s a trial, and at least 10 times less than a group
"""

import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import rich
import torch
import tyro
from rich.table import Table

from search_spaces.thermal import THERMAL
from slowfast_ray.data import synthetic
from slowfast_ray.experiment import LAPTOP
from slowfast_ray.learning import counts
from slowfast_ray.running.nodes import cluster
from slowfast_ray.running.searching import tuner
from slowfast_ray.running.searching.config import SearchConfig
from slowfast_ray.running.tracking.tracking import Tracker


@dataclass(frozen=True, kw_only=True)
class Flags:
    """How many trials of each kind."""

    num_trials: int = 16
    """Trials of one worker [trials]."""

    num_group_trials: int = 4
    """Trials of a Ray Train group of two workers [trials]."""


@dataclass(frozen=True)
class Measured:
    """Seconds of one search."""

    num_trials: int
    seconds: float
    training_seconds: float

    @property
    def overhead(self) -> float:
        """A trial [s]."""
        return (self.seconds - self.training_seconds) / self.num_trials


def measure(num_workers: int, num_trials: int, folder: Path) -> Measured:
    """One search of one-epoch trials, one at a time, on a dataset of 34 training clips."""
    experiment = LAPTOP.override(
        {
            "data.root": str(folder / "data"),
            "model.width": 0.125,
            "learning.num_epochs": 1,
            "run.num_workers": num_workers,
            "run.storage": str(folder / "runs"),
            "run.tracking_uri": f"sqlite:///{folder}/mlflow.db",
        }
    )
    config = SearchConfig(num_trials=num_trials, max_concurrent=1)
    ready = tuner.check(experiment, THERMAL, config, name=f"workers-{num_workers}")
    with cluster.connected(experiment.run, verbose=False):
        result = tuner.search(ready, THERMAL, config)
    assert {trial.state for trial in result.trials} == {"finished"}, "a trial failed: nothing was measured"
    training = sum(epoch[counts.EPOCH_SECONDS] for trial in result.trials for epoch in trial.history)
    return Measured(num_trials, result.seconds, training)


def main() -> None:
    """Measures both ways and prints them side by side."""
    flags = tyro.cli(Flags, description=__doc__)
    with tempfile.TemporaryDirectory(prefix="overhead-", dir="/tmp") as name:
        folder = Path(name)
        synthetic.write(folder / "data", num_recordings=2, num_frames=260)
        with Tracker(f"sqlite:///{folder}/mlflow.db", folder) as tracker:  # makes its tables before the clock runs
            tracker.open("first", LAPTOP, folder)
        own_process = measure(1, flags.num_trials, folder)
        group = measure(2, flags.num_group_trials, folder)
    table = Table(title="Seconds a trial that are not training")
    for column in ("way", "trials", "total s", "training s", "overhead s / trial"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for way, each in (("trial's own process, used again", own_process), ("Ray Train group of two workers", group)):
        table.add_row(
            way, str(each.num_trials), f"{each.seconds:.1f}", f"{each.training_seconds:.1f}", f"{each.overhead:.2f}"
        )
    rich.print(table)
    print(f"ratio {group.overhead / own_process.overhead:.1f}")
    print(f"{time.strftime('%Y-%m-%d')}, {platform.processor() or platform.machine()}, torch {torch.__version__}, "
          f"Python {platform.python_version()}, one search each")  # fmt: skip


if __name__ == "__main__":
    main()
