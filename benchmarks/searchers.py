"""Which way to search finds a good configuration at what cost? Replays searches on recorded learning curves.

The table of curves.py holds a whole grid, each configuration trained once, to the end; searchers_replay.py drives
searches over it. What ships is replayed by the code that ships. Beside it stands what most people wire: Ray's
OptunaSearch and ASHAScheduler with their defaults, told the metric of each epoch.

Here a trial is worth the mean of its last epochs, and a search recommends the finished trial that is worth most. Ray's
recommends, as its get_best_result does, the best last report, of stopped trials too. What is recommended is judged by
what its configuration is worth at the end: as recorded; and, since one training is partly luck, averaged with its
neighbours in learning rate, which count half. A configuration that is drawn again learns as it did before: that
flatters whoever spreads, and not whoever comes back.

What the tables can show is limited. Their objective is val/mean_class of 136 or 167 samples, of whose 7 or 8 classes
two are ever recognised. In curves_2026-11-25.csv (the thermal search space, whole frames) 586 of all 1296 epochs and 61
of the 108 last ones hold the very same 0.2508, and what a trial is worth after 3 epochs hardly tells its end (rank
correlation 0.20). As recorded, 7 configurations lie within one standard error of the best, all by a few samples of one
training; averaged with their neighbours it is 41. curves_wide_2026-11-25.csv (learning rates of three and a half
decades, person crops) is less flat, and no clearer before two thirds of the epochs. There the default is the second
best: who starts with it has nothing left to find. So the tables show what stopping early costs where early epochs tell
little, and that next to nothing is gained by a sampler that learns; neither ranks the best configurations among
themselves.

Run       python benchmarks/searchers.py
          python benchmarks/searchers.py --table benchmarks/results/curves_wide_2026-11-25.csv
Cost      2 to 4 minutes on one CPU thread
Expected  benchmarks/results/searchers_*.txt
"""

import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import rich.console
import tyro
from rich.box import SIMPLE_HEAD
from rich.table import Table
from searchers_replay import (
    HORIZON,
    NUM_TRIALS,
    SEARCH,
    Array,
    Curves,
    Judge,
    Replayed,
    Strategy,
    laptop_for,
    replay_ray,
    replay_with_foresight,
    rungs_from,
    shipped_pruner,
)
from trainings import machine

from slowfast_ray.learning import counts
from slowfast_ray.running.searching import search_rules, suggesting

COSTS = (10, 20, 40)
STANDARD_ERRORS = {"curves_2026-11-25.csv": 0.012, "curves_wide_2026-11-25.csv": 0.0035}
"""Of val/mean_class of the best configuration at its last epoch, by a bootstrap over stretches of 10 s."""


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What to replay."""

    table: Path | None = None
    """CSV file of curves.py. None: the newest benchmarks/results/curves_DATE.csv."""

    objective: str = counts.VAL_MEAN_CLASS
    """What is looked for."""

    standard_error: float | None = None
    """Of the objective, from its validation samples. None: of the tables in results/, as STANDARD_ERRORS says."""

    seeds: int = 200
    """Searches of each strategy [count]."""

    processes: int = 2
    """Searches at once [count]."""

    variants: bool = False
    """Replay other rungs and samplers instead, without the default, and print what even and what odd seeds say of
    them."""


Replay = Callable[[Curves, int], Replayed]
SAMPLERS: dict[str, suggesting.SamplerName] = {"random": "random", "TPE": "tpe"}
SHIPPED, STOCK, BASE = "what ships: random, rungs, default first", "Ray: OptunaSearch, ASHAScheduler", "random"
STRATEGIES: dict[str, Replay] = {
    BASE: Strategy("random", default_first=False).replay,
    "random, default first": Strategy("random").replay,
    "random, rungs": Strategy("random", shipped_pruner, default_first=False).replay,
    SHIPPED: Strategy(SEARCH.sampler, shipped_pruner).replay,
    "TPE": Strategy("tpe", default_first=False).replay,
    "TPE, default first": Strategy("tpe").replay,
    "TPE, rungs": Strategy("tpe", shipped_pruner, default_first=False).replay,
    "TPE, rungs, default first": Strategy("tpe", shipped_pruner).replay,
    STOCK: replay_ray,
    f"a bound: random, foresight after {SEARCH.smooth_epochs} epochs": replay_with_foresight,
}
VARIANTS: dict[str, Replay] = {
    **{name: STRATEGIES[name] for name in (BASE, SHIPPED, STOCK)},
    **{
        f"{name}, rungs from {first}, 1 in {reduction}": Strategy(
            sampler, rungs_from(first, reduction), default_first=False
        ).replay
        for name, sampler in SAMPLERS.items()
        for first in (3, 6, 8)
        for reduction in (2, 3)
    },
    **{f"{name}, no rungs": Strategy(sampler, default_first=False).replay for name, sampler in SAMPLERS.items()},
}


def interval(of: Callable[[Array], Array], num_seeds: int, digits: int = 1) -> str:
    """A statistic of the seeds in each row, [R, S] to [R], with the bounds of a bootstrap over seeds at 95 %."""
    drawn_RS = np.random.default_rng(0).integers(num_seeds, size=(2000, num_seeds))
    low, high = np.percentile(of(drawn_RS), [2.5, 97.5])
    return f"{of(np.arange(num_seeds)[None])[0]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def mean(value_S: Array) -> Callable[[Array], Array]:
    """For `interval`."""
    return lambda drawn_RS: value_S[drawn_RS].mean(axis=1)


def costs_table(found: Mapping[str, list[Replayed]], judge: Judge, seeds: str = "") -> Table:
    """A row for each strategy."""
    table = _table(
        f"Judged by the end {judge.name}: cost in full trainings until within one standard error, and regret at a cost"
        + (f"; {seeds} seeds" if seeds else ""),
        ["strategy", "mean cost", "median", "minutes", "of random", "reached", *(f"at {cost}" for cost in COSTS)],
    )
    base_S = np.array([judge.cost(each) for each in found[BASE]])
    for name, searches in found.items():
        cost_S, num = np.array([judge.cost(each) for each in searches]), len(searches)
        regrets = [np.mean([judge.regret_at_cost(each, cost) for each in searches]) for cost in COSTS]
        table.add_row(
            name,
            interval(mean(cost_S), num),
            interval(lambda drawn_RS, cost_S=cost_S: np.median(cost_S[drawn_RS], axis=1), num),
            f"{cost_S.mean() * judge.full_seconds / 60:.0f}",
            interval(lambda d_RS, cost_S=cost_S: cost_S[d_RS].mean(axis=1) / base_S[d_RS].mean(axis=1), num, 2),
            f"{np.mean(cost_S < HORIZON):.0%}",
            *(f"{regret:.4f}" for regret in regrets),
        )
    return table


def trials_table(found: Mapping[str, list[Replayed]], judge: Judge) -> Table:
    """What ships beside Ray's stock wiring after equally many trials."""
    table = _table(
        f"Judged by the end {judge.name}: regret after so many trials, and their cost in full trainings",
        ["trials", "ships", "Ray", "ships - Ray", "cost of ships", "of Ray"],
    )
    for num in NUM_TRIALS:
        ours_S, ray_S = (np.array([judge.regret_T(each)[num - 1] for each in found[name]]) for name in (SHIPPED, STOCK))
        spent = [np.mean([each.spent_T[num - 1] for each in found[name]]) for name in (SHIPPED, STOCK)]
        table.add_row(
            str(num),
            f"{ours_S.mean():.4f}",
            f"{ray_S.mean():.4f}",
            interval(mean(ours_S - ray_S), len(ours_S), 4),
            *(f"{each / judge.full_seconds:.1f}" for each in spent),
        )
    return table


def _replay(name: str, curves: Curves, seed: int) -> Replayed:
    return (STRATEGIES | VARIANTS)[name](curves, seed)


def _table(title: str, columns: list[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for place, column in enumerate(columns):
        table.add_column(column, no_wrap=True, justify="right" if place else "left")
    return table


def main() -> None:
    """Replays all strategies and prints what they cost."""
    flags = tyro.cli(Flags, description=(__doc__ or "").splitlines()[0])
    path = flags.table or max((Path(__file__).parent / "results").glob("curves_2*.csv"))
    standard_error = flags.standard_error or STANDARD_ERRORS.get(path.name)
    if standard_error is None:
        raise SystemExit(f"No standard error is known of {path.name}; give --standard-error.")
    curves = Curves.read(path, flags.objective, standard_error)
    strategies = VARIANTS if flags.variants else STRATEGIES
    with ProcessPoolExecutor(flags.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = {
            name: list(pool.map(partial(_replay, name, curves), range(flags.seeds), chunksize=10))
            for name in strategies
        }
    end_C, console = curves.worth_CE[:, -1], rich.console.Console(width=180)
    print(
        f"{path.name}: {len(end_C)} configurations of {curves.num_epochs} epochs, {flags.objective}; a full training "
        f"is {curves.full_seconds / 60:.2f} min. {flags.seeds} searches of each strategy; 95 % intervals by bootstrap "
        "over them."
    )
    rungs = search_rules.rungs_of(laptop_for(curves.num_epochs), curves.space, SEARCH)
    print(f"What ships compares trials after epochs {', '.join(map(str, rungs))}.")
    ranks = pd.DataFrame(curves.worth_CE).corrwith(pd.Series(end_C), method="spearman")
    print("Rank correlation of what trials are worth after 1, 2, ... epochs with their ends: "
          + " ".join(f"{rank:.2f}" for rank in ranks))  # fmt: skip
    seeds = {"": slice(None)} if not flags.variants else {"even": slice(0, None, 2), "odd": slice(1, None, 2)}
    for name, truth_C in (("as recorded", end_C), ("with its neighbours", curves.smoothed(end_C))):
        judge = Judge(name, truth_C, standard_error, curves.full_seconds)
        num_good = int((truth_C >= truth_C.max() - standard_error).sum())
        place = int((truth_C > truth_C[curves.find(curves.default)]).sum()) + 1
        print(
            f"\nThe end {name}: best {truth_C.max():.4f}, median {np.median(truth_C):.4f}; {num_good} lie within one "
            f"standard error ({standard_error:g}) of the best; the default is number {place}."
        )
        for half, which in seeds.items():
            part = {each: searches[which] for each, searches in found.items()}
            console.print(costs_table(part, judge, half))
            if not flags.variants:
                console.print(trials_table(part, judge))
    print(machine())


if __name__ == "__main__":
    main()
