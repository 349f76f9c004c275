"""What Optuna is told of a trial's end."""

from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from ray import tune

from slowfast_ray.running import worker
from slowfast_ray.running.searcher import TRIAL, Searcher

SPACE = {"learning.lr": tune.loguniform(1e-3, 1), "data.clip_len": tune.choice([16, 32])}
FIRST: dict[str, Any] = {"learning.lr": 0.05, "data.clip_len": 32}


def searcher(seed: int = 0, mode: str = "max") -> Searcher:
    return Searcher(SPACE, mode=mode, first=FIRST, seed=seed)


def row(epoch: int, best: float, *, finished: bool = False) -> dict[str, Any]:
    return {worker.EPOCH: epoch, worker.BEST_VALUE: best, worker.FINISHED: finished, "training_iteration": epoch}


def ended(search: Searcher, trial_id: str = "a") -> optuna.trial.FrozenTrial:
    return search.study.trials[search._ot_trials[trial_id].number]


def test_the_experiments_own_values_come_first_and_trials_are_numbered() -> None:
    search = searcher()
    assert search.suggest("a") == {**FIRST, TRIAL: 0}
    assert search.suggest("b")[TRIAL] == 1


def test_same_seed_same_samples() -> None:
    def samples(seed: int) -> list[dict[str, Any]]:
        search = searcher(seed)
        found = []
        for number in range(15):  # past TPE's ten random trials
            found.append(search.suggest(str(number)))
            search.on_trial_complete(str(number), row(1, found[-1]["learning.lr"], finished=True))
        return found

    assert samples(1) == samples(1)
    assert samples(1) != samples(2)


def test_a_finished_trial_scores_its_best_value_so_far() -> None:
    search = searcher()
    search.suggest("a")
    for epoch, best in enumerate([0.4, 0.7, 0.7], start=1):
        search.on_trial_result("a", row(epoch, best))
    search.on_trial_complete("a", row(3, 0.7, finished=True))
    assert (ended(search).state, ended(search).value) == (TrialState.COMPLETE, 0.7)
    assert ended(search).intermediate_values == {1: 0.4, 2: 0.7, 3: 0.7}


def test_a_stopped_trial_is_pruned_with_its_epochs() -> None:
    search = searcher()
    search.suggest("a")
    search.on_trial_result("a", row(1, 0.4))
    search.on_trial_complete("a", row(1, 0.4))
    assert ended(search).state == TrialState.PRUNED
    assert ended(search).intermediate_values == {1: 0.4}


@pytest.mark.parametrize(
    ("last", "error"), [(None, True), (row(2, 0.5), True), (None, False), (row(1, float("nan"), finished=True), False)]
)
def test_what_failed_is_failed_and_nothing_stays_running(last: dict[str, Any] | None, error: bool) -> None:
    search = searcher()
    search.suggest("a")
    if last is not None:
        search.on_trial_result("a", last)
    search.on_trial_complete("a", last, error=error)
    assert ended(search).state == TrialState.FAIL


def test_being_told_twice_changes_nothing() -> None:
    search = searcher()
    search.suggest("a")
    search.on_trial_complete("a", row(3, 0.7, finished=True))
    search.on_trial_complete("a", error=True)
    search.on_trial_result("a", row(4, 0.9))
    assert (ended(search).state, ended(search).value) == (TrialState.COMPLETE, 0.7)


def test_a_loss_is_minimised() -> None:
    assert searcher(mode="min").study.direction == optuna.study.StudyDirection.MINIMIZE
