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
NOT_SEARCHED = (
    "data.root", "data.split", "data.fold", "data.num_folds", "data.split_seed", "data.purge_window", "data.labels",
    "data.ties", "model.num_classes", "model.weights", "run.num_workers", "run.storage", "run.tracking_uri",
)  # fmt: skip
"""Fields that belong to the search as a whole: all trials score the same validation samples."""


BY_WEIGHTS = ("model.width", "model.depth", "model.lateral_kernel", "model.lateral_norm")
"""Fields that pretrained weights fix."""


def check(space: Space, experiment: Experiment) -> None:
    """Raises ValueError unless every value that the space can give makes an experiment that its data can train.

    Ends of ranges and all choices are tried in all combinations, or one by one where those are too many.
    """
    if not space:
        raise ValueError("The search space is empty; name at least one field.")
    data = dataset.load(experiment.data)
    preflight.check_against(experiment, data)
    own = experiment.flatten()
    edges: dict[str, list[Any]] = {}
    for name, domain in space.items():
        if name in NOT_SEARCHED:
            raise ValueError(f"`{name}` is the same for all trials of a search; take it out of the search space.")
        experiment.override({name: own.get(name)})  # an unknown name is refused here
        if experiment.model.weights is not None and name in BY_WEIGHTS:
            raise ValueError(
                f"`{name}` in the search space is decided by `model.weights` (={experiment.model.weights}); drop it."
            )
        if name == "data.frame_interval" and experiment.data.frame_interval_ms is not None:
            raise ValueError(
                "`data.frame_interval` in the search space has no effect, since `data.frame_interval_ms` "
                f"(={experiment.data.frame_interval_ms:g}) is set; search data.frame_interval_ms instead."
            )
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


def widest_window(space: Space, experiment: Experiment) -> float:
    """The widest span of a clip that the space can give [frames; ms where the experiment goes by the clock]."""
    name = "data.frame_interval" if experiment.data.frame_interval_ms is None else "data.frame_interval_ms"
    longest = {each: max(edges_of(each, space[each])) for each in ("data.clip_len", name) if each in space}
    own = experiment.flatten()
    clip_len, interval = (longest.get(each, own[each]) for each in ("data.clip_len", name))
    return float(clip_len * interval)


def with_widest_window(space: Space, experiment: Experiment) -> Experiment:
    """`experiment` with a purge as wide as any clip of the space, where its split purges and names no width itself."""
    if experiment.data.split != "purged" or experiment.data.purge_window is not None:
        return experiment
    return experiment.override({"data.purge_window": widest_window(space, experiment)})


def _holds(domain: Any, value: Any) -> bool:
    if isinstance(domain, Categorical):
        return value in domain.categories
    return isinstance(value, int | float) and domain.lower <= value <= domain.upper
