"""What does a search lose when many trials run at once?

A rung that few have reached stops few, and a sampler that learns knows nothing of trials that have not ended. Replays
searches on a recorded grid of learning curves (see searchers_replay.py) with 1, 8, 64 or more trials in flight: the
study, the sampler and the rungs are those that ship; the clock is made up, an epoch takes its recorded seconds.

Learnt is what the suggestions of the second half are worth at their ends, smoothed over neighbours in learning rate,
beside the mean of the whole grid: 0 for who suggests blindly. Regret is that of the best finished trial.

Run       python benchmarks/in_flight.py
Cost      about 5 minutes on one CPU thread
Expected  benchmarks/results/in_flight_*.txt
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from searchers_replay import Curves, shipped_pruner
from trainings import machine

from slowfast_ray.learning import counts
from slowfast_ray.running.searching import study, suggesting
from slowfast_ray.running.searching.suggesting import SamplerName


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What is replayed."""

    table: Path = Path(__file__).parent / "results" / "curves_wide_2026-11-25.csv"
    """CSV file of curves.py."""
    num_trials: int = 200
    """Of a search."""
    in_flight: tuple[int, ...] = (1, 8, 64, 200)
    """Trials at once."""
    samplers: tuple[SamplerName, ...] = ("random", "tpe")
    """Who suggests."""
    seeds: int = 10
    """Searches of each kind."""


@dataclass(frozen=True)
class Replayed:
    """One search."""

    wall: float
    """Until the last trial has ended [full trainings]."""
    cost: float
    """Of all trials [full trainings]."""
    num_stopped: int
    learnt: float
    regret: float


def replay(curves: Curves, sampler: SamplerName, in_flight: int, num_trials: int, seed: int) -> Replayed:
    """One search with so many trials at once."""
    trials = study.Study(
        curves.space.suggest,
        higher_is_better=(True,),
        sampler=partial(suggesting.sampler, sampler),
        pruner=shipped_pruner(curves),
        seed=seed,
        first=curves.default,
        path=None,
    )
    worth_CE = curves.worth_CE
    rng = np.random.default_rng(seed)
    playing: list[tuple[float, int, int, int, float]] = []
    chosen: list[int] = []
    finished: list[int] = []
    now, cost = 0.0, 0.0

    def begin() -> None:
        trial = trials.ask()
        c = curves.find(trial.sample)
        chosen.append(c)
        seconds = float(curves.seconds_C[c]) * rng.uniform(0.9, 1.1)
        heapq.heappush(playing, (now + seconds, trial.number, c, 1, seconds))

    while len(chosen) < min(in_flight, num_trials):
        begin()
    while playing:
        now, number, c, epoch, seconds = heapq.heappop(playing)
        cost += seconds
        is_stopped = trials.report(number, epoch, float(worth_CE[c, epoch - 1]))
        if not is_stopped and epoch < curves.num_epochs:
            heapq.heappush(playing, (now + seconds, number, c, epoch + 1, seconds))
            continue
        trials.tell(number, "pruned" if is_stopped else "finished", (float(worth_CE[c, epoch - 1]),))
        if not is_stopped:
            finished.append(c)
        if len(chosen) < num_trials:
            begin()
    end_C = curves.smoothed(worth_CE[:, -1])
    best = max(finished, key=lambda c: worth_CE[c, -1])
    return Replayed(
        wall=now / curves.full_seconds,
        cost=cost / curves.full_seconds,
        num_stopped=num_trials - len(finished),
        learnt=float(end_C[chosen[num_trials // 2 :]].mean() - end_C.mean()),
        regret=float(end_C.max() - end_C[best]),
    )


def table_of(curves: Curves, flags: Flags) -> Table:
    """A row for each sampler and number in flight."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=f"{flags.num_trials} trials", title_justify="left")
    columns = ("sampler", "in flight", "wall", "cost", "busy", "stopped", "learnt", "regret")
    for column in columns:
        table.add_column(column, no_wrap=True, justify="left" if column == "sampler" else "right")
    for sampler in flags.samplers:
        for num in flags.in_flight:
            found = [replay(curves, sampler, num, flags.num_trials, seed) for seed in range(flags.seeds)]
            busy = [each.cost / (each.wall * min(num, flags.num_trials)) for each in found]
            table.add_row(
                *(sampler, str(num)),
                mean([each.wall for each in found], 1),
                mean([each.cost for each in found], 0),
                f"{np.mean(busy):.0%}",
                mean([each.num_stopped for each in found], 0),
                mean([each.learnt for each in found], 4),
                mean([each.regret for each in found], 4),
            )
    return table


def mean(values: Sequence[float], digits: int) -> str:
    """With its standard error."""
    error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{np.mean(values):.{digits}f} +- {error:.{digits}f}"


def main() -> None:
    """Replays all and prints a table."""
    flags = tyro.cli(Flags, description=(__doc__ or "").splitlines()[0])
    curves = Curves.read(flags.table, counts.VAL_MEAN_CLASS, standard_error=0.0)
    Console(width=120).print(table_of(curves, flags))
    print(
        f"{flags.table.name}: {len(curves.configurations)} configurations of {curves.num_epochs} epochs. Wall and cost "
        f"in full trainings; means of {flags.seeds} searches with standard errors.\n{machine()}"
    )


if __name__ == "__main__":
    main()
