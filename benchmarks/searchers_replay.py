"""A recorded grid of learning curves, and what searches over it would have done; searchers.py prints what they cost.

A search draws from the space that the grid spans: for curves_2026-11-25.csv search_spaces/thermal.py as it ships. A
learning rate is answered by the nearest recorded one. The default is the laptop preset, or what the grid has next to
it. One trial runs at a time; an epoch costs the median seconds of the epochs with its batch and clip length. The
searches of this package are driven through the code that ships: study.Study, suggesting.sampler, search_rules.pruner.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from curves import GRID
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from slowfast_ray.experiment import LAPTOP, Experiment
from slowfast_ray.learning import counts
from slowfast_ray.running.searching import pruning, search_rules, search_space, study, suggesting
from slowfast_ray.running.searching.config import SearchConfig
from slowfast_ray.running.searching.pruning import Pruner
from slowfast_ray.running.searching.search_space import Drawable

Array = np.ndarray
SEARCH = SearchConfig()
HORIZON = 60.0
"""Each search goes on until it has cost so much [full trainings]; what it did not reach by then counts as this."""
NUM_TRIALS = (10, 15, 20, 25, 30, 35, 40)
"""After which searches are compared; each does the most of them at least."""


@dataclass(frozen=True)
class Curves:
    """A recorded grid: C configurations, E epochs. Higher is better."""

    configurations: tuple[tuple[Any, ...], ...]
    """In the order of GRID's names."""
    value_CE: Array
    """As each epoch reported it."""
    seconds_C: Array
    """Of an epoch."""
    standard_error: float
    """Of a value, from the validation samples."""

    @staticmethod
    def read(path: Path, objective: str, standard_error: float) -> "Curves":
        """Raises ValueError where a configuration lacks epochs that others have."""
        rows = pd.read_csv(path)
        sign = 1 if counts.HIGHER_IS_BETTER[objective] else -1
        table = sign * rows.pivot_table(index=list(GRID), columns="epoch", values=objective)
        if table.isna().to_numpy().any():
            raise ValueError(f"{path} lacks epochs of some configurations; run curves.py until it is done.")
        by_size = rows.groupby(["learning.batch_size", "data.clip_len"])[counts.EPOCH_SECONDS].median()
        seconds = [by_size[batch, clip] for _, batch, clip, _ in table.index]
        return Curves(tuple(table.index), table.to_numpy(), np.array(seconds), standard_error)

    @cached_property
    def space(self) -> Drawable:
        """What the grid spans."""
        columns = dict(zip(GRID, zip(*self.configurations, strict=True), strict=True))
        rates = columns.pop("learning.lr")
        choices = {name: tune.choice(sorted({int(each) for each in column})) for name, column in columns.items()}
        return search_space.drawable({"learning.lr": tune.loguniform(min(rates), max(rates)), **choices})

    @cached_property
    def default(self) -> dict[str, Any]:
        """The laptop preset, or what lies next to it."""
        found = search_space.first_of(self.space, LAPTOP)
        for name, column in zip(GRID, zip(*self.configurations, strict=True), strict=True):
            if name != "learning.lr":
                found[name] = min(map(int, column), key=lambda level, own=found[name]: abs(level - own))
        return found

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


def laptop_for(num_epochs: int) -> Experiment:
    """The laptop preset with so many epochs, as curves.py trains it."""
    return LAPTOP.override({"learning.num_epochs": num_epochs})


def shipped_pruner(curves: Curves) -> Pruner | None:
    """Who stops trials by default."""
    return search_rules.pruner(laptop_for(curves.num_epochs), curves.space, SEARCH)


def rungs_from(first: int, reduction: float) -> Callable[[Curves], Pruner]:
    """Other rungs: the first [epochs], and 1 in `reduction` goes on."""

    def pruner(curves: Curves) -> Pruner:
        return pruning.Rungs(pruning.rungs(first=first, num_epochs=curves.num_epochs, reduction=reduction), reduction)

    return pruner


@dataclass(frozen=True)
class Strategy:
    """A way to search with this package's own parts."""

    sampler: suggesting.SamplerName
    pruner: Callable[[Curves], Pruner | None] | None = None
    """None: nothing is pruned."""
    default_first: bool = True

    def replay(self, curves: Curves, seed: int) -> Replayed:
        """One search."""
        trials = study.Study(
            curves.space.suggest,
            higher_is_better=(True,),
            sampler=partial(suggesting.sampler, self.sampler),
            pruner=None if self.pruner is None else self.pruner(curves),
            seed=seed,
            first=curves.default if self.default_first else {},
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


def replay_with_foresight(curves: Curves, seed: int) -> Replayed:
    """Random search that knows how a trial will end as soon as its objective is a mean over all the epochs that it
    takes, and goes on with those alone that end within one standard error of the best: no rule that stops random trials
    then or later costs less.
    """
    trials = study.Study(
        curves.space.suggest,
        higher_is_better=(True,),
        sampler=partial(suggesting.sampler, "random"),
        pruner=None,
        seed=seed,
        first={},
        path=None,
    )
    ledger, end_C = _Ledger(curves), curves.worth_CE[:, -1]
    while not ledger.is_over:
        trial = trials.ask()
        c = curves.find(trial.sample)
        is_good = bool(end_C[c] >= end_C.max() - curves.standard_error)
        trials.tell(trial.number, "finished", (float(end_C[c]),))
        ledger.add(c, curves.num_epochs if is_good else SEARCH.smooth_epochs, (is_good, float(end_C[c])))
    return ledger.replayed()


def replay_ray(curves: Curves, seed: int) -> Replayed:
    """A search by Ray's own parts, driven as Tune drives them."""
    metric, time = "value", "training_iteration"
    searcher = OptunaSearch(dict(curves.space.distributions), metric=metric, mode="max", seed=seed)
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
