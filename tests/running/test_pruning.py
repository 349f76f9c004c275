"""Which trials are stopped, and at which epoch."""

import optuna
import pytest

from slowfast_ray.running.searching import pruning


def stopped_at(curves: list[list[float]], pruner: pruning.Pruner, direction: str = "maximize") -> list[int | None]:
    """One trial after the other: the epoch at which each is stopped, None where it is not."""
    study = optuna.create_study(direction=direction, pruner=pruner)
    found: list[int | None] = []
    for curve in curves:
        trial = study.ask()
        found.append(None)
        for epoch, value in enumerate(curve, start=1):
            trial.report(value, epoch)
            if trial.should_prune():
                found[-1] = epoch
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, curve[-1])
    return found


def test_at_a_rung_the_best_third_goes_on_and_whoever_comes_first() -> None:
    curves = [[0, value, value] for value in (0.5, 0.6, 0.4, 0.45, 0.7)]
    assert stopped_at(curves, pruning.Rungs([2], 3)) == [None, None, 2, 2, None]


def test_between_rungs_nobody_is_stopped() -> None:
    assert stopped_at([[1, 1, 1], [0, 0, 0]], pruning.Rungs([3], 3)) == [None, 3]
    assert stopped_at([[1, 1, 1], [0, 0, 0]], pruning.Rungs([], 3)) == [None, None]


def test_a_loss_is_better_when_it_is_lower() -> None:
    assert stopped_at([[1.0, 1.0], [2.0, 2.0], [0.5, 0.5]], pruning.Rungs([1], 2), "minimize") == [None, 1, None]


def test_equals_go_on() -> None:
    assert stopped_at([[0.5, 0.5]] * 4, pruning.Rungs([1], 3)) == [None] * 4


def test_trials_that_failed_are_not_compared_with() -> None:
    study = optuna.create_study(direction="maximize", pruner=pruning.Rungs([1], 2))
    failed, trial = study.ask(), study.ask()
    failed.report(1.0, 1)
    study.tell(failed, state=optuna.trial.TrialState.FAIL)
    trial.report(0.1, 1)
    assert not trial.should_prune()


def test_below_the_median_from_its_grace_on() -> None:
    curves = [[value] * 4 for value in (1.0, 2.0, 3.0, 4.0, 0.5)]
    assert stopped_at(curves, pruning.below_median(3)) == [None, None, None, None, 3]


@pytest.mark.parametrize(
    ("first", "num_epochs", "reduction", "expected"),
    [(2, 12, 3, [2, 6]), (4, 12, 3, [4]), (1, 30, 3, [1, 3, 9, 27]), (5, 4, 3, []), (2, 12, 2.5, [2, 5])],
)
def test_rungs_grow_by_the_reduction(first: int, num_epochs: int, reduction: float, expected: list[int]) -> None:
    assert pruning.rungs(first=first, num_epochs=num_epochs, reduction=reduction) == expected
