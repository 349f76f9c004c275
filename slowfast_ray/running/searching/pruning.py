"""When a trial of a search is stopped early: rules that need nothing but the curves of all trials.

A rule is a function of the values that the study holds, and keeps no state of its own: after a restart it decides as it
would have without one. It compares trials at the same absolute epoch.
"""

import math
from collections.abc import Sequence

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

Pruner = optuna.pruners.BasePruner

REDUCTION = 3.0
"""Of a search: at each rung one in so many goes on."""


class Rungs(optuna.pruners.BasePruner):
    """Asynchronous successive halving (Li et al. 2020, arXiv 1810.05934): at each rung the best 1 / `reduction` of the
    trials that have come so far go on, and whoever comes first.
    """

    def __init__(self, epochs: Sequence[int], reduction: float) -> None:
        self.epochs, self.reduction = tuple(epochs), reduction

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the trial is stopped at its newest epoch."""
        epoch = trial.last_step
        if epoch not in self.epochs:
            return False
        others = [
            other.intermediate_values[epoch]
            for other in study.get_trials(deepcopy=False)
            if other.number != trial.number and other.state != TrialState.FAIL and epoch in other.intermediate_values
        ]
        value = trial.intermediate_values[epoch]
        if not others:
            return False
        sign = 1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1
        cutoff = np.quantile(sign * np.array([*others, value]), 1 - 1 / self.reduction)
        return bool(sign * value < cutoff)


def rungs(*, first: int, num_epochs: int, reduction: float) -> list[int]:
    """The epochs at which trials are compared: `first`, and each `reduction` times the one before, below num_epochs."""
    found = []
    epoch = float(first)
    while math.ceil(epoch) < num_epochs:
        found.append(math.ceil(epoch))
        epoch *= reduction
    return found


def below_median(grace: int) -> Pruner:
    """Stops what is below the median of the finished trials at the same epoch, from the epoch `grace` on."""
    return optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=grace)
