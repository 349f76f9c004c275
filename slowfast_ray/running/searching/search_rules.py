"""How a search suggests and stops: its study and its rungs, from its settings and its experiment."""

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slowfast_ray.experiment import Experiment
from slowfast_ray.running.folders import begun
from slowfast_ray.running.preflight import Ready, RefusedError
from slowfast_ray.running.searching import pruning, search_space, search_start, study, suggesting
from slowfast_ray.running.searching.config import SearchConfig
from slowfast_ray.running.searching.objectives import HIGHER_IS_BETTER
from slowfast_ray.running.searching.pruning import Pruner
from slowfast_ray.running.searching.search_space import Drawable
from slowfast_ray.running.searching.study import Ending, Study

GRACE = 2 / 3
"""Share of a training before which its end cannot be told, since the learning rate falls until the last epoch. On the
curves of benchmarks/curves.py, ranks at the end correlate with those at a quarter of 12 epochs by 0.1 to 0.2, with
those at two thirds by 0.5 to 0.7. Random search that stopped trials at a quarter had 0.8 to 2.4 times the cost of one
that stopped none (benchmarks/searchers.py); at two thirds, 0.9 to 1.05 times.
"""


def open_study(ready: Ready, space: Drawable, config: SearchConfig) -> Study:
    """The study of a search, as it was left, or a new one, with what a warm start knows."""
    path = ready.folder / begun.STUDY
    with _refusing_damaged(path):
        trials = Study(
            space.suggest,
            higher_is_better=tuple(HIGHER_IS_BETTER[name] for name in config.names),
            sampler=functools.partial(suggesting.sampler, config.sampler),
            pruner=pruner(ready.experiment, space, config),
            seed=ready.experiment.run.seed,
            first=search_space.first_of(space, ready.experiment),
            path=path,
        )
    if config.warm_start is not None and not trials.has_begun:
        try:
            known = search_start.trials(ready, space, config)
        except ValueError as error:  # of a search that was killed before, and whose store has changed since
            raise RefusedError(str(error)) from error
        trials.begin_with(config.warm_start, known)
    return trials


def endings_of(ready: Ready) -> list[Ending | None]:
    """How the trials that a search has begun ended, None for those that have not; empty for a new search."""
    path = ready.folder / begun.STUDY
    with _refusing_damaged(path):
        return study.endings(path)


@contextmanager
def _refusing_damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the storage meets a damaged file with a dozen kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RefusedError(
            f"{path} is no study, or a damaged one ({reason}); restore it, or search again under another name."
        ) from error


def grace_of(experiment: Experiment, space: Drawable, config: SearchConfig) -> int:
    """Epochs before which no trial is stopped: past warm-up, in which nothing can be told, past GRACE of all, and not
    before the objective is a mean over as many epochs as at the end. Where the space gives trainings of several
    lengths, of the longest.
    """
    longest = _longest(experiment, space)
    warmup = math.ceil(experiment.learning.warmup_fraction * longest)
    return config.grace_epochs or max(warmup, math.ceil(GRACE * longest), config.smooth_epochs)


def rungs_of(experiment: Experiment, space: Drawable, config: SearchConfig) -> list[int]:
    """The epochs at which asha compares trials, up to the longest training that the space can give."""
    first = grace_of(experiment, space, config)
    return pruning.rungs(first=first, num_epochs=_longest(experiment, space), reduction=pruning.REDUCTION)


def pruner(experiment: Experiment, space: Drawable, config: SearchConfig) -> Pruner | None:
    """Who stops trials; None where nobody does."""
    if config.scheduler == "none" or len(config.names) > 1:
        return None
    if config.scheduler == "median":
        return pruning.below_median(grace_of(experiment, space, config))
    return pruning.Rungs(rungs_of(experiment, space, config), pruning.REDUCTION)


def _longest(experiment: Experiment, space: Drawable) -> int:
    """Of the trainings that the space can give [epochs]."""
    name = "learning.num_epochs"
    return max([experiment.learning.num_epochs, *(each[name] for each in space.samples if name in each)])
