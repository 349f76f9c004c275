"""A search space: fields of an Experiment with what they may be, checked before anything starts.

A dict of dotted names: domains in ray.tune's words, and constants. Or, where a choice decides what else is chosen, or a
value follows from others, a function of an Optuna trial that gives such a dict of values.
"""

import itertools
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution, distribution_to_json
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.sample import Categorical, Domain, Float, Integer

from slowfast_ray.data import dataset
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.experiment import OF_THE_PLACE, Experiment
from slowfast_ray.running import preflight
from slowfast_ray.running.searching import suggesting
from slowfast_ray.running.searching.suggesting import Distributions, Suggest

log = logging.getLogger(__name__)

Space = Mapping[str, Any] | Callable[[Any], dict[str, Any]]
"""Dotted names of fields, each with a domain or a constant; or a function of an Optuna trial that gives values."""
Sample = dict[str, Any]

MAX_CHECKED_COMBINATIONS = 2_000
NUM_DRAWN = 300
"""Samples by which a function is checked, and its parameters are found."""
NOT_SEARCHED = (
    "data.root", "data.split", "data.fold", "data.num_folds", "data.split_seed", "data.purge_window", "data.labels",
    "data.ties", "model.num_classes", "model.weights", *OF_THE_PLACE,
)  # fmt: skip
"""Fields that belong to the search as a whole: all trials score the same validation samples."""
BY_WEIGHTS = ("model.width", "model.depth", "model.lateral_kernel", "model.lateral_norm")
"""Fields that pretrained weights fix."""


@dataclass(frozen=True)
class Drawable:
    """A space that can be searched."""

    suggest: Suggest
    distributions: Distributions
    """Of each parameter that is drawn; of a function, of those that were seen."""
    samples: tuple[Sample, ...]
    """Some that it can give: the corners of a dict, drawn ones of a function."""
    is_listed: bool
    """Whether the samples hold all choices and all ends of ranges."""

    def to_json(self) -> dict[str, Any]:
        """What decides whether two searches have the same space."""
        constant = {} if not self.samples else {
            name: value
            for name, value in self.samples[0].items()
            if name not in self.distributions and all(each.get(name) == value for each in self.samples)
        }  # fmt: skip
        drawn = {name: json.loads(distribution_to_json(each)) for name, each in sorted(self.distributions.items())}
        return {"drawn": drawn, "constant": constant}


def drawable(space: Space) -> Drawable:
    """Raises ValueError for a domain that cannot be drawn from, and for a function that fails."""
    if not callable(space):
        domains = {name: domain for name, domain in space.items() if isinstance(domain, Domain)}
        constants = {name: value for name, value in space.items() if name not in domains}
        edges = {name: edges_of(name, domain) for name, domain in domains.items()}
        edges |= {name: [value] for name, value in constants.items()}
        if not domains:
            raise ValueError("The search space is empty; give at least one field a domain, such as tune.loguniform.")
        try:
            constants = suggesting.plain(constants)
            _ = [suggesting.plain(dict.fromkeys([name], each)) for name, values in edges.items() for each in values]
        except TypeError as error:
            raise ValueError(f"The search space holds what no flag could say: {error}.") from error
        suggest = suggesting.suggests(_converted(domains), constants)
        return Drawable(suggest, _converted(domains), tuple(_corners(edges)), is_listed=True)
    trials = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    samples, distributions = [], {}
    for _ in range(NUM_DRAWN):
        trial = trials.ask()
        try:
            sample = space(trial)
            samples.append(suggesting.plain(sample) if isinstance(sample, Mapping) else sample)
        except Exception as error:  # whatever a user's function raises
            raise ValueError(f"The search space's function raised {type(error).__name__}: {error}") from error
        if not isinstance(samples[-1], dict):
            raise ValueError(f"The search space's function must give a dict, but gave {type(samples[-1]).__name__}.")
        for name, each in trial.distributions.items():
            if distributions.setdefault(name, each) != each:
                raise ValueError(
                    f"`{name}` in the search space is drawn from {each} in one trial and {distributions[name]} in "
                    "another; give each its own name."
                )
    if not distributions:
        raise ValueError("The search space's function draws nothing; use trial.suggest_float and the like.")
    return Drawable(space, distributions, tuple(samples), is_listed=False)


def check(space: Drawable, experiment: Experiment) -> None:
    """Raises ValueError for a name that is no field or belongs to the search, for a choice that no trial could be
    trained with, and where the experiment itself, which is the first trial, lies outside.

    Combinations that cannot be trained are allowed, and counted in a warning: such trials end as infeasible.
    """
    data = dataset.load(experiment.data)
    preflight.check_against(experiment, data)
    check_names({name: None for sample in space.samples for name in sample}, experiment)
    own = experiment.flatten()
    for name, distribution in space.distributions.items():
        if name in own and not _holds(distribution, own[name]):
            raise ValueError(
                f"The first trial is the experiment itself, but its `{name}` (={own[name]}) lies outside the search "
                f"space ({_shown(distribution)}); choose a value inside, or widen the space."
            )
    refusals = [_refusal(experiment, sample, data) for sample in space.samples]
    trainable = [sample for sample, why in zip(space.samples, refusals, strict=True) if why is None]
    refused = [(sample, why) for sample, why in zip(space.samples, refusals, strict=True) if why is not None]
    for sample, why in refused:
        if not trainable or (space.is_listed and not all(_is_in(name, sample, trainable) for name in sample)):
            raise ValueError(f"The search space gives a refused experiment ({_words(sample)}): {why}")
    if refused:
        sample, why = refused[0]
        log.warning(
            "%d of %d combinations of the search space that were looked at cannot be trained, and will end as "
            "infeasible; one is %s: %s",
            len(refused),
            len(space.samples),
            _words(sample),
            why,
        )


def first_of(space: Drawable, experiment: Experiment) -> Sample:
    """The parameters with which the space gives the experiment itself, as far as they are fields."""
    own = experiment.flatten()
    return {name: own[name] for name in space.distributions if name in own}


def edges_of(name: str, domain: Any) -> list[Any]:
    """All choices of a domain, or the two ends of a range. Raises ValueError for what has neither, or none inside."""
    if isinstance(domain, Categorical):
        if not domain.categories:
            raise ValueError(f"`{name}` in the search space is a choice of nothing; list at least one value.")
        return list(domain.categories)
    if isinstance(domain, Float | Integer):
        # ray.tune's upper ends of whole numbers are exclusive.
        upper = domain.upper - 1 if isinstance(domain, Integer) else domain.upper
        if not domain.lower <= upper:
            raise ValueError(
                f"`{name}` in the search space goes from {domain.lower} to {domain.upper}, the wrong way round; swap "
                "them."
            )
        return [domain.lower, upper]
    kind = "a sampler without ends" if isinstance(domain, Domain) else f"{domain!r}"
    raise ValueError(f"`{name}` in the search space is {kind}; use tune.choice, uniform, loguniform or randint.")


def widest_window(space: Drawable, experiment: Experiment) -> float:
    """The widest span of a clip that the space can give [frames; ms where the experiment goes by the clock]."""
    clip = "data.clip_len"
    interval = "data.frame_interval" if experiment.data.frame_interval_ms is None else "data.frame_interval_ms"
    own = experiment.flatten()
    spans = [(each.get(clip, own[clip]), each.get(interval, own[interval])) for each in space.samples]
    if space.is_listed:  # where there are too many combinations, the widest two meet in none
        return float(max(span[0] for span in spans) * max(span[1] for span in spans))
    return float(max(math.prod(span) for span in spans))


def with_widest_window(space: Drawable, experiment: Experiment) -> Experiment:
    """`experiment` with a purge as wide as any clip of the space, where its split purges and names no width itself."""
    if experiment.data.split != "purged" or experiment.data.purge_window is not None:
        return experiment
    return experiment.override({"data.purge_window": widest_window(space, experiment)})


def _corners(edges: Mapping[str, list[Any]]) -> Iterator[Sample]:
    """All combinations, or one value after the other where those are too many."""
    if math.prod(map(len, edges.values())) <= MAX_CHECKED_COMBINATIONS:
        yield from (dict(zip(edges, values, strict=True)) for values in itertools.product(*edges.values()))
    else:
        yield from ({name: value} for name, values in edges.items() for value in values)


def _converted(domains: Mapping[str, Domain]) -> Distributions:
    """In Optuna's words. Raises ValueError for a domain that Optuna cannot sample."""
    try:
        return OptunaSearch.convert_search_space(dict(domains))
    except (ValueError, NotImplementedError) as error:
        raise ValueError(f"Optuna cannot sample this search space: {error}") from error


def check_names(sample: Iterable[str], experiment: Experiment) -> None:
    """Raises ValueError for a name that is no field, belongs to the search as a whole, or has no effect."""
    for name in sample:
        _check_name(name, experiment)


def _check_name(name: str, experiment: Experiment) -> None:
    if name in NOT_SEARCHED:
        raise ValueError(f"`{name}` is the same for all trials of a search; take it out of the search space.")
    experiment.override({name: experiment.flatten().get(name)})  # an unknown name is refused here
    if experiment.model.weights is not None and name in BY_WEIGHTS:
        raise ValueError(
            f"`{name}` in the search space is decided by `model.weights` (={experiment.model.weights}); drop it."
        )
    if name == "data.frame_interval" and experiment.data.frame_interval_ms is not None:
        raise ValueError(
            "`data.frame_interval` in the search space has no effect, since `data.frame_interval_ms` "
            f"(={experiment.data.frame_interval_ms:g}) is set; search data.frame_interval_ms instead."
        )


def _refusal(experiment: Experiment, sample: Sample, data: Dataset) -> str | None:
    """Why a sample cannot be trained; None where it can."""
    try:
        preflight.check_against(experiment.override(sample), data)
    except ValueError as error:
        return str(error)
    return None


def _is_in(name: str, sample: Sample, trainable: Iterable[Sample]) -> bool:
    """Whether something can be trained with this value of `name`."""
    return any(name in each and each[name] == sample[name] for each in trainable)


def _holds(distribution: optuna.distributions.BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return isinstance(value, int | float) and distribution.low <= value <= distribution.high


def _shown(distribution: optuna.distributions.BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(map(str, distribution.choices))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return f"{distribution.low} to {distribution.high}"


def _words(sample: Sample) -> str:
    return ", ".join(f"{name}={value}" for name, value in sample.items())
