"""What samples are drawn from, and by whom: distributions, functions of an Optuna trial, Optuna's samplers."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
    json_to_distribution,
)
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler

SamplerName = Literal["tpe", "gp", "cma-es", "random"]
Distributions = dict[str, BaseDistribution]
Suggest = Callable[[optuna.Trial], dict[str, Any]]
"""From an Optuna trial to a sample: dotted names of fields with their values."""

NUM_STARTUP_TRIALS = 10
"""Random trials before TPE and GP begin to model."""


def plain(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A sample as JSON holds it; numpy's numbers become plain ones. Raises TypeError for what cannot be written."""
    found = {name: value.item() if hasattr(value, "item") else value for name, value in sample.items()}
    json.dumps(found)
    return found


def suggests(distributions: Distributions, constants: Mapping[str, Any] = {}) -> Suggest:
    """What draws each name from its distribution, beside constants."""

    def suggest(trial: optuna.Trial) -> dict[str, Any]:
        return {**constants, **{name: _draw(trial, name, each) for name, each in distributions.items()}}

    return suggest


def cannot_become(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a study of parameters with the distributions `before` cannot go on with those of `now`, both as JSON."""
    try:
        for name in set(before) & set(now):
            one, other = (json_to_distribution(json.dumps(each[name])) for each in (before, now))
            check_distribution_compatibility(one, other)
    except ValueError:
        return True
    return False


def sampler(name: SamplerName, seed: int) -> BaseSampler:
    """One of Optuna's samplers, as Optuna ships it."""
    if name == "tpe":
        return TPESampler(n_startup_trials=NUM_STARTUP_TRIALS, seed=seed)
    if name == "gp":
        return GPSampler(n_startup_trials=NUM_STARTUP_TRIALS, seed=seed, deterministic_objective=False)
    if name == "cma-es":
        return CmaEsSampler(seed=seed, consider_pruned_trials=True, warn_independent_sampling=False)
    return RandomSampler(seed=seed)


def _draw(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
