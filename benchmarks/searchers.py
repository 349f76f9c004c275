"""Which way to search finds a good configuration at what cost? Replays searches on recorded learning curves.

The table of curves.py holds a whole grid, each configuration trained once, to the end. Searches draw from
search_spaces/thermal.py as it ships; a learning rate is answered by the nearest recorded one. One trial runs at a time,
and an epoch costs the median seconds of the epochs with its batch and clip length. What ships is replayed by the code
that ships: study.Study, study.sampler, pruning.Rungs. Beside it stands what most people wire: Ray's OptunaSearch and
ASHAScheduler with their defaults, told the metric of each epoch.

Here a trial is worth the mean of its last epochs, and a search recommends the finished trial that is worth most. Ray's
recommends, as its get_best_result does, the best last report, of stopped trials too. What is recommended is judged by
what its configuration is worth at the end: as recorded; and, since one training is partly luck, averaged with its
neighbours in learning rate, which count half. A configuration that is drawn again learns as it did before: that
flatters whoever spreads, and not whoever comes back.

Run       python benchmarks/searchers.py
Cost      about 3 minutes on two CPU threads
Expected  benchmarks/results/searchers_*.txt
"""

import math
import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import rich
import rich.console
import tyro
from curves import GRID
from optuna.samplers import BaseSampler
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from trainings import machine

from search_spaces.thermal import THERMAL
from slowfast_ray.experiment import LAPTOP
from slowfast_ray.learning import counts
from slowfast_ray.running import pruning, search_space, study
from slowfast_ray.running.config import SearchConfig

Array = np.ndarray
SEARCH = SearchConfig()
SPACE = search_space.drawable(THERMAL)
DEFAULT = search_space.first_of(SPACE, LAPTOP)
HORIZON = 60.0
"""Each search goes on until it has cost so much [full trainings]; what it did not reach by then counts as this."""
COSTS = (10, 20, 40)
NUM_TRIALS = (10, 15, 20, 25, 30, 35, 40)


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What to replay."""

    table: Path | None = None
    """CSV file of curves.py. None: the newest benchmarks/results/curves_*.csv."""

    objective: str = counts.VAL_MEAN_CLASS
    """What is looked for."""

    standard_error: float = 0.012
    """Of the objective, from its validation samples: of the best configuration of curves_cpu_2026-11-25.csv, by a
    bootstrap over stretches of 10 s."""

    seeds: int = 200
    """Searches of each strategy [count]."""

    processes: int = 2
    """Searches at once [count]."""

    variants: bool = False
    """Replay other rungs, samplers and spaces instead, and print what even and what odd seeds say of them."""


@dataclass(frozen=True)
class Curves:
    """A recorded grid: C configurations, E epochs. Higher is better."""

    configurations: tuple[tuple[Any, ...], ...]
    """In the order of GRID's names."""
    value_CE: Array
    """As each epoch reported it."""
    seconds_C: Array
    """Of an epoch."""

    @staticmethod
    def read(path: Path, objective: str) -> "Curves":
        """Raises ValueError where a configuration lacks epochs that others have."""
        rows = pd.read_csv(path)
        sign = 1 if counts.HIGHER_IS_BETTER[objective] else -1
        table = sign * rows.pivot_table(index=list(GRID), columns="epoch", values=objective)
        if table.isna().to_numpy().any():
            raise ValueError(f"{path} lacks epochs of some configurations; run curves.py until it is done.")
        by_size = rows.groupby(["learning.batch_size", "data.clip_len"])[counts.EPOCH_SECONDS].median()
        seconds = [by_size[batch, clip] for _, batch, clip, _ in table.index]
        return Curves(tuple(table.index), table.to_numpy(), np.array(seconds))

    @property
    def num_epochs(self) -> int:
        """Of each training."""
        return self.value_CE.shape[1]

    @property
    def worth_CE(self) -> Array:
        """The mean of the last epochs, after each."""
        means = [
            self.value_CE[:, max(0, e - SEARCH.smooth_epochs) : e].mean(axis=1) for e in range(1, self.num_epochs + 1)
        ]
        return np.stack(means, axis=1)

    @property
    def full_seconds(self) -> float:
        """Of an average training to its end."""
        return self.num_epochs * float(self.seconds_C.mean())

    def smoothed(self, value_C: Array) -> Array:
        """The mean with the neighbours in learning rate, each counting half."""
        rates = sorted({each[0] for each in self.configurations})
        place = {each: c for c, each in enumerate(self.configurations)}
        found = []
        for rate, *others in self.configurations:
            at = rates.index(rate)
            near = {rates[i]: 1 if i == at else 0.5 for i in (at - 1, at, at + 1) if 0 <= i < len(rates)}
            values = [value_C[place[each, *others]] for each in near]
            found.append(np.average(values, weights=list(near.values())))
        return np.array(found)

    def find(self, sample: Mapping[str, Any]) -> int:
        """The configuration that answers a sample."""
        rates = sorted({each[0] for each in self.configurations})
        rate, *others = (sample[name] for name in GRID)
        nearest = min(rates, key=lambda each: abs(np.log(each / rate)))
        return self.configurations.index((nearest, *others))


@dataclass(frozen=True)
class Replayed:
    """A search, after each of its T trials."""

    spent_T: Array
    """Seconds since its start."""
    recommended_T: Array
    """A configuration."""
    epochs_T: Array
    """That the trial did."""


class _Ledger:
    """Notes what trials cost, and what is recommended."""

    def __init__(self, curves: Curves) -> None:
        self.curves, self.spent, self._best = curves, 0.0, None
        self._rows: list[tuple[float, int, int]] = []

    @property
    def is_over(self) -> bool:
        return self.spent >= HORIZON * self.curves.full_seconds and len(self._rows) >= max(NUM_TRIALS)

    def add(self, configuration: int, num_epochs: int, rank: tuple[float, ...]) -> None:
        self.spent += num_epochs * float(self.curves.seconds_C[configuration])
        if self._best is None or rank > self._best[0]:
            self._best = rank, configuration
        self._rows.append((self.spent, self._best[1], num_epochs))

    def replayed(self) -> Replayed:
        spent, recommended, epochs = zip(*self._rows, strict=True)
        return Replayed(np.array(spent), np.array(recommended), np.array(epochs))


@dataclass(frozen=True)
class Strategy:
    """A way to search with this package's own parts."""

    sampler: Callable[[int], BaseSampler]
    rungs: tuple[int, float] | None
    """The first [epochs] and the reduction. None: nothing is pruned."""
    first: Mapping[str, Any]
    suggest: study.Suggest = SPACE.suggest

    def replay(self, curves: Curves, seed: int) -> Replayed:
        """One search."""
        pruner = None
        if self.rungs is not None:
            first, reduction = self.rungs
            epochs = pruning.rungs(first=first, num_epochs=curves.num_epochs, reduction=reduction)
            pruner = pruning.Rungs(epochs, reduction)
        trials = study.Study(
            self.suggest,
            higher_is_better=(True,),
            sampler=self.sampler,
            pruner=pruner,
            seed=seed,
            first=self.first,
            path=None,
        )
        ledger, worth_CE = _Ledger(curves), curves.worth_CE
        while not ledger.is_over:
            trial = trials.ask()
            c, epoch, is_pruned = curves.find(trial.sample), 0, False
            while epoch < curves.num_epochs and not is_pruned:
                epoch += 1
                is_pruned = trials.report(trial.number, epoch, float(worth_CE[c, epoch - 1]))
            worth = float(worth_CE[c, epoch - 1])
            trials.tell(trial.number, "pruned" if is_pruned else "finished", (worth,))
            ledger.add(c, epoch, (epoch, 0.0) if is_pruned else (math.inf, worth))
        return ledger.replayed()


def replay_ray(curves: Curves, seed: int) -> Replayed:
    """A search by Ray's own parts, driven as Tune drives them."""
    metric, time = "value", "training_iteration"
    searcher = OptunaSearch(dict(SPACE.distributions), metric=metric, mode="max", seed=seed)
    scheduler = ASHAScheduler(time_attr=time, metric=metric, mode="max", max_t=curves.num_epochs)
    tune: Any = None  # the scheduler looks at no other part of Tune
    ledger, number = _Ledger(curves), 0
    while not ledger.is_over:
        trial: Any = SimpleNamespace(trial_id=str(number))
        sample = searcher.suggest(trial.trial_id)
        assert sample is not None, "Optuna never runs out of samples"
        scheduler.on_trial_add(tune, trial)
        c, epoch, decision, result = curves.find(sample), 0, ASHAScheduler.CONTINUE, {}
        while decision == ASHAScheduler.CONTINUE:  # the scheduler ends the last epoch as well
            epoch += 1
            result = {time: epoch, metric: float(curves.value_CE[c, epoch - 1])}
            decision = scheduler.on_trial_result(tune, trial, result)
            if decision == ASHAScheduler.CONTINUE:
                searcher.on_trial_result(trial.trial_id, result)
        scheduler.on_trial_complete(tune, trial, result)
        searcher.on_trial_complete(trial.trial_id, result)
        ledger.add(c, epoch, (result[metric],))
        number += 1
    return ledger.replayed()


def ordered(trial: Any) -> dict[str, Any]:
    """The same space with whole numbers that know their order, not categories."""
    return {
        "learning.lr": trial.suggest_float("lr", 0.003, 0.3, log=True),
        "learning.batch_size": 2 ** trial.suggest_int("log2_batch", 2, 4),
        "data.clip_len": trial.suggest_int("clip_len", 16, 48, step=16),
        "data.frame_interval": trial.suggest_int("interval", 1, 3),
    }


Replay = Callable[[Curves, int], Replayed]
RANDOM, TPE = partial(study.sampler, "random"), partial(study.sampler, "tpe")
RUNGS = (2, pruning.REDUCTION)
"""As tuner.py sets them for 12 epochs."""
SHIPPED, STOCK, BASE = "what ships: TPE, rungs, default first", "Ray: OptunaSearch, ASHAScheduler", "random"
STRATEGIES: dict[str, Replay] = {
    BASE: Strategy(RANDOM, None, {}).replay,
    "random, default first": Strategy(RANDOM, None, DEFAULT).replay,
    "random, rungs, default first": Strategy(RANDOM, RUNGS, DEFAULT).replay,
    "TPE, default first": Strategy(TPE, None, DEFAULT).replay,
    SHIPPED: Strategy(partial(study.sampler, SEARCH.sampler), RUNGS, DEFAULT).replay,
    "TPE, rungs": Strategy(TPE, RUNGS, {}).replay,
    STOCK: replay_ray,
}
VARIANTS: dict[str, Replay] = {
    **{name: STRATEGIES[name] for name in (BASE, SHIPPED, STOCK)},
    **{
        f"{name}, rungs from {first}, 1 in {reduction}": Strategy(sampler, (first, reduction), DEFAULT).replay
        for name, sampler in (("random", RANDOM), ("TPE", TPE))
        for first in (2, 3, 4)
        for reduction in (2, 3, 4)
    },
    "TPE, rungs from 2, 1 in 3, ordered": Strategy(TPE, (2, 3), DEFAULT, ordered).replay,
    "TPE, rungs from 3, 1 in 3, ordered": Strategy(TPE, (3, 3), DEFAULT, ordered).replay,
}


@dataclass(frozen=True)
class Judge:
    """What searches are measured by."""

    name: str
    truth_C: Array
    standard_error: float
    full_seconds: float

    def regret_T(self, search: Replayed) -> Array:
        """How far below the best configuration the recommended one is, after each trial."""
        return self.truth_C.max() - self.truth_C[search.recommended_T]

    def cost(self, search: Replayed) -> float:
        """Until what is recommended lies within one standard error of the best [full trainings]."""
        (hits,) = np.nonzero(self.regret_T(search) <= self.standard_error)
        return min(HORIZON, float(search.spent_T[hits[0]]) / self.full_seconds) if len(hits) else HORIZON

    def regret_at_cost(self, search: Replayed, cost: float) -> float:
        """After the trials that had ended by then [full trainings]."""
        num_ended = np.searchsorted(search.spent_T, cost * self.full_seconds, side="right")
        return float(self.regret_T(search)[max(num_ended, 1) - 1])


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
    path = flags.table or max((Path(__file__).parent / "results").glob("curves_*.csv"))
    curves = Curves.read(path, flags.objective)
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
    ranks = pd.DataFrame(curves.worth_CE).corrwith(pd.Series(end_C), method="spearman")
    print("Rank correlation of what trials are worth after 1, 2, ... epochs with their ends: "
          + " ".join(f"{rank:.2f}" for rank in ranks))  # fmt: skip
    seeds = {"": slice(None)} if not flags.variants else {"even": slice(0, None, 2), "odd": slice(1, None, 2)}
    for name, truth_C in (("as recorded", end_C), ("with its neighbours", curves.smoothed(end_C))):
        judge = Judge(name, truth_C, flags.standard_error, curves.full_seconds)
        num_good = int((truth_C >= truth_C.max() - flags.standard_error).sum())
        place = int((truth_C > truth_C[curves.find(DEFAULT)]).sum()) + 1
        print(
            f"\nThe end {name}: best {truth_C.max():.4f}, median {np.median(truth_C):.4f}; {num_good} lie within one "
            f"standard error ({flags.standard_error:g}) of the best; the default is number {place}."
        )
        for half, which in seeds.items():
            part = {each: searches[which] for each, searches in found.items()}
            console.print(costs_table(part, judge, half))
            if not flags.variants:
                console.print(trials_table(part, judge))
    print(machine())


if __name__ == "__main__":
    main()
