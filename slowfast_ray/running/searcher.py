"""Optuna behind Ray Tune: told what a trial really scored, what was pruned, and what failed.

Ray's own OptunaSearch tells Optuna an early-stopped trial as complete with its last value, and leaves a trial that
scored NaN running for ever. Here a trial scores its best value so far, a stopped one is told as pruned with the values
of its epochs, a failed one as failed.
"""

import logging
import math
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search.optuna import OptunaSearch

from slowfast_ray.running import worker
from slowfast_ray.running.worker import Row

TRIAL = "trial"
"""The number of a trial, in its sample beside the fields: the same for Optuna, MLflow and the folder."""


class Searcher(OptunaSearch):
    """TPE as Optuna ships it, over a space in ray.tune's words; `first` is tried before anything is sampled."""

    def __init__(self, space: dict[str, Any], *, mode: str, first: dict[str, Any], seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        super().__init__(
            space=OptunaSearch.convert_search_space(space),
            metric=worker.BEST_VALUE,
            mode=mode,
            points_to_evaluate=[first],
            sampler=optuna.samplers.TPESampler(seed=seed),
        )

    @property
    def study(self) -> optuna.Study:
        """What Optuna knows of the trials."""
        assert self._ot_study is not None, "made with the space"
        return self._ot_study

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """The next sample, with the trial's number."""
        sample = super().suggest(trial_id)
        assert sample is not None, "Optuna never runs out of samples"
        return {**sample, TRIAL: self._ot_trials[trial_id].number}

    def on_trial_result(self, trial_id: str, result: Row) -> None:
        """Notes the best value so far, at the epoch that it was reached by."""
        if trial_id not in self._completed_trials and math.isfinite(result[worker.BEST_VALUE]):
            self._ot_trials[trial_id].report(result[worker.BEST_VALUE], result[worker.EPOCH])

    def on_trial_complete(self, trial_id: str, result: Row | None = None, error: bool = False) -> None:
        """Tells Optuna how the trial ended."""
        if trial_id in self._completed_trials:
            return
        self._completed_trials.add(trial_id)
        trial = self._ot_trials[trial_id]
        value = (result or {}).get(worker.BEST_VALUE)
        if error or value is None or not math.isfinite(value):
            self.study.tell(trial, state=TrialState.FAIL)
        elif result is not None and result.get(worker.FINISHED):
            self.study.tell(trial, value)
        else:  # Optuna keeps the last noted value of a pruned trial
            self.study.tell(trial, state=TrialState.PRUNED)


def convert(space: dict[str, Any]) -> dict[str, optuna.distributions.BaseDistribution]:
    """The space in Optuna's words. Raises ValueError for a domain that Optuna cannot sample."""
    try:
        return OptunaSearch.convert_search_space(space)
    except (ValueError, NotImplementedError) as error:
        raise ValueError(f"Optuna cannot sample this search space: {error}") from error


logging.getLogger("ray.tune.search.optuna").setLevel(logging.ERROR)
