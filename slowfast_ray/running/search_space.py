"""A search space: fields of an Experiment, each with a domain in ray.tune's words; checked before anything starts."""

import itertools
import math
from collections.abc import Iterable
from typing import Any

from ray.tune.search.sample import Categorical, Domain, Float, Integer

from slowfast_ray.data import dataset
from slowfast_ray.experiment import Experiment
from slowfast_ray.running import preflight, searcher

Space = dict[str, Any]
"""Dotted names of fields, each with a domain."""

MAX_CHECKED_COMBINATIONS = 2_000
NOT_SEARCHED = ("data.root", "model.num_classes", "run.num_workers", "run.storage", "run.tracking_uri")
"""Fields that belong to the search as a whole."""


def check(space: Space, experiment: Experiment) -> None:
    """Raises ValueError unless every value that the space can give makes an experiment that its data can train.

    Ends of ranges and all choices are tried in all combinations, or one by one where those are too many.
    """
    if not space:
        raise ValueError("The search space is empty; name at least one field.")
    data = dataset.load(experiment.data.root)
    preflight.check_against(experiment, data)
    own = experiment.flatten()
    edges: dict[str, list[Any]] = {}
    for name, domain in space.items():
        if name in NOT_SEARCHED:
            raise ValueError(f"`{name}` is the same for all trials of a search; take it out of the search space.")
        experiment.override({name: own.get(name)})  # an unknown name is refused here
        edges[name] = edges_of(name, domain)
        if not _holds(domain, own[name]):
            raise ValueError(
                f"The first trial is the experiment itself, but its `{name}` (={own[name]}) lies outside the search "
                f"space ({edges[name][0]} to {edges[name][-1]}); choose a value inside, or widen the space."
            )
    searcher.convert(space)
    combinations: Iterable[dict[str, Any]] = (
        dict(zip(edges, values, strict=True)) for values in itertools.product(*edges.values())
    )
    if math.prod(map(len, edges.values())) > MAX_CHECKED_COMBINATIONS:
        combinations = ({name: value} for name, values in edges.items() for value in values)
    for sample in combinations:
        try:
            preflight.check_against(experiment.override(sample), data)
        except ValueError as error:
            shown = ", ".join(f"{name}={value}" for name, value in sample.items())
            raise ValueError(f"The search space gives a refused experiment ({shown}): {error}") from error


def edges_of(name: str, domain: Any) -> list[Any]:
    """All choices of a domain, or the two ends of a range. Raises ValueError for what has neither."""
    if isinstance(domain, Categorical):
        return list(domain.categories)
    if isinstance(domain, Integer):
        return [domain.lower, domain.upper - 1]  # ray.tune's upper ends of whole numbers are exclusive
    if isinstance(domain, Float):
        return [domain.lower, domain.upper]
    kind = "a sampler without ends" if isinstance(domain, Domain) else f"{domain!r}"
    raise ValueError(f"`{name}` in the search space is {kind}; use tune.choice, uniform, loguniform or randint.")


def _holds(domain: Any, value: Any) -> bool:
    if isinstance(domain, Categorical):
        return value in domain.categories
    return isinstance(value, int | float) and domain.lower <= value <= domain.upper
