"""How much faster do more workers train one model?

The real path, trainer.fit: one worker in this process, several as a Ray Train group, over NCCL where there are GPUs and
over gloo where there are none. Strong scaling: the batch stays, each worker has a share of it. Weak scaling: the share
of a worker stays, the batch grows. Efficiency is clips a second over what as many workers alone would do together.
Clips a second are the rows' own, the median of the epochs after the first; evaluations and checkpoints are not in it.
To start is the time from the call to the first row, less its epoch: Ray runs already.

On the CPU the cores are shared out, so that two workers on two cores have a thread each. One worker is measured with as
many threads as each of several has, which is what efficiency is of, and with all cores, which is what is lost or won by
splitting a machine that one worker would have used anyway.

Run       python benchmarks/scaling.py
          python benchmarks/scaling.py --workers 1 2 4 8 --preset gpu --batch 64 --share 8     # on a machine of 8 GPUs
Cost      about 5 minutes on two cores
Expected  benchmarks/results/scaling_*.txt
"""

import gc
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray
import torch
import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from trainings import machine

from slowfast_ray.data import synthetic
from slowfast_ray.experiment import GPU, LAPTOP, Experiment
from slowfast_ray.learning import counts
from slowfast_ray.running import preflight
from slowfast_ray.running.nodes import cluster
from slowfast_ray.running.training import trainer
from slowfast_ray.running.training.worker import Row

PRESETS = {"laptop": LAPTOP, "gpu": GPU}


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What is trained, over how many workers."""

    workers: tuple[int, ...] = (1, 2)
    """Workers of a training, 1 among them [count]."""
    preset: str = "laptop"
    """Whose network and clips: laptop or gpu."""
    batch: int = 16
    """Of all workers together, for strong scaling [clips]."""
    share: int = 8
    """Of a worker, for weak scaling [clips]."""
    num_epochs: int = 6
    """Of each training; the first does not count [epochs]."""
    repeats: int = 3
    """Trainings of each kind, in turns [count]."""
    data_frames: int = 785
    """Of each of the 4 made-up recordings, of which 2 train, with a sample for every 15 frames."""


@dataclass(frozen=True, order=True)
class Case:
    """A kind of training."""

    num_workers: int
    batch: int
    threads: int | None
    """Of a worker; None where a GPU computes."""


@dataclass(frozen=True)
class Measured:
    """One training."""

    clips_per_second: float
    seconds_to_start: float


def threads_of_a_worker(most_workers: int) -> int | None:
    """Cores, shared out to the most workers; None where GPUs compute."""
    return None if torch.cuda.is_available() else max(1, (os.cpu_count() or 1) // most_workers)


def cases_of(flags: Flags) -> list[Case]:
    """What is measured: each number of workers with both batches; one worker also with all cores."""
    if 1 not in flags.workers:
        raise ValueError("`workers` must hold 1: it is what the others are compared with.")
    cores, found = os.cpu_count() or 1, set()
    for num in flags.workers:
        for batch in (flags.batch, flags.share * num):
            found.add(Case(num, batch, threads_of_a_worker(num if num > 1 else max(flags.workers))))
            if num == 1 and not torch.cuda.is_available():
                found.add(Case(1, batch, cores))
    # Fewer workers on the CPU have more threads each: then one worker with as many is what they are compared with.
    found |= {Case(1, batch, case.threads) for case in found for batch in (flags.batch, flags.share)}
    return sorted(found, key=lambda case: (case.num_workers, case.batch, case.threads or 0))


def measure(case: Case, flags: Flags, root: Path, folder: Path) -> Measured:
    """Trains once into the empty `folder`."""
    experiment = experiment_of(case, flags, root, folder)
    ready = preflight.check(experiment, name="scaling", objective=counts.VAL_TOP1)
    rows: list[Row] = []
    first: list[float] = []

    def take(row: Row) -> None:
        first.append(time.perf_counter())
        rows.append(row)

    if case.threads is not None:
        torch.set_num_threads(case.threads)
    began = time.perf_counter()
    trainer.fit(ready, counts.VAL_TOP1, on_row=take)
    if torch.cuda.is_available():  # a single worker trains in this process, whose GPU the next group needs
        gc.collect()
        torch.cuda.empty_cache()
    return Measured(
        clips_per_second=float(np.median([row[counts.TRAIN_CLIPS_PER_SECOND] for row in rows[1:]])),
        seconds_to_start=first[0] - began - rows[0][counts.EPOCH_SECONDS],
    )


def experiment_of(case: Case, flags: Flags, root: Path, folder: Path) -> Experiment:
    """A preset on made-up data, over the workers of a case."""
    return PRESETS[flags.preset].override(
        {
            "data.root": str(root),
            "learning.batch_size": case.batch,
            "learning.num_epochs": flags.num_epochs,
            "run.num_workers": case.num_workers,
            "run.storage": str(folder / "runs"),
            "run.tracking_uri": f"sqlite:///{folder}/mlflow.db",
        }
    )


def efficiency(found: dict[Case, list[Measured]], case: Case, base: Case) -> list[float]:
    """Of each repeat: clips a second, over those of one worker times the workers."""
    pairs = zip(found[case], found[base], strict=True)
    return [one.clips_per_second / (case.num_workers * alone.clips_per_second) for one, alone in pairs]


def table_of(found: dict[Case, list[Measured]], flags: Flags) -> Table:
    """A row for each kind of scaling and number of workers."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=f"Clips a second, {flags.preset} preset", title_justify="left")
    for column in ("scaling", "workers", "batch", "a worker", "threads", "clips/s", "efficiency", "to start s"):
        table.add_column(column, no_wrap=True, justify="left" if column == "scaling" else "right")
    for name, batch_of in (("strong", lambda num: flags.batch), ("weak", lambda num: flags.share * num)):
        for case, runs in found.items():
            if case.batch != batch_of(case.num_workers):
                continue
            base = Case(1, batch_of(1), case.threads)
            table.add_row(
                *(name, str(case.num_workers), str(case.batch), str(case.batch // case.num_workers)),
                "-" if case.threads is None else str(case.threads),
                spread([run.clips_per_second for run in runs], 1),
                "1" if case.num_workers == 1 else spread(efficiency(found, case, base), 2),
                spread([run.seconds_to_start for run in runs], 1),
            )
        table.add_section()
    return table


def spread(values: Sequence[float], digits: int) -> str:
    """The median, with the least and the most."""
    low, middle, high = np.quantile(values, [0, 0.5, 1])
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def main() -> None:
    """Measures all cases in turns and prints them."""
    flags = tyro.cli(Flags, description=(__doc__ or "").splitlines()[0])
    cases, load = cases_of(flags), os.getloadavg()[0]
    found: dict[Case, list[Measured]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="scaling-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        synthetic.write(folder / "data", num_recordings=2, num_frames=flags.data_frames)
        largest = experiment_of(Case(max(flags.workers), flags.share * max(flags.workers), None), flags, folder, folder)
        with cluster.connected(largest.run, verbose=False) if max(flags.workers) > 1 else nullcontext():
            for repeat in range(flags.repeats):
                for case in cases if repeat % 2 == 0 else reversed(cases):
                    into = folder / f"{repeat}-{case.num_workers}-{case.batch}-{case.threads}"
                    into.mkdir()
                    found[case].append(measure(case, flags, folder / "data", into))
                    print(repeat, case, found[case][-1], file=sys.stderr, flush=True)
    Console(width=120).print(table_of({case: found[case] for case in cases}, flags))
    print(
        f"Medians of {flags.repeats} training(s) of {flags.num_epochs} epochs each, in turns, with the least and the "
        f"most. Load of the machine before it began: {load:.1f}.\nRay {ray.__version__}; {machine()}"
    )


if __name__ == "__main__":
    main()
