"""Finalists: who is chosen, what they keep of their promise, who wins; by hand, and simulated where truth is known."""

import math

import numpy as np
import pytest
import torch

from slowfast_ray.learning.predictions import Predictions
from slowfast_ray.running.searching import finalists
from slowfast_ray.running.searching.finalists import Candidate, Chosen, Finalist, Report, Winner

# Shapes: S samples, K classes.

MEAN_CLASS, TOP1, LOSS, MEAN_AP = "val/mean_class", "val/top1", "val/loss", "val/mean_ap"
BLOCKS = np.arange(60) // 3


def candidate(number: int, wrong: list[int], value: float | None = None) -> Candidate:
    """A trial that has all of 60 samples of two classes right but `wrong`."""
    target = torch.arange(60) % 2
    said = target.clone()
    said[wrong] = 1 - said[wrong]
    predictions = Predictions(torch.eye(2)[said], target)
    return Candidate(number, predictions.metrics()[MEAN_CLASS] if value is None else value, predictions)


def plain(*values: float) -> list[Candidate]:
    return [Candidate(number, value) for number, value in enumerate(values)]


def test_the_best_are_chosen_in_their_order_and_what_is_not_finite_never() -> None:
    trials = plain(0.3, math.nan, 0.9, math.inf, 0.5, -math.inf)
    assert finalists.choose(trials, 2, MEAN_AP, BLOCKS) == Chosen((2, 4), 0)
    assert finalists.choose(trials, 2, LOSS, BLOCKS) == Chosen((0, 4), 0)
    assert finalists.choose(trials, 2, "cost/gpu_seconds", BLOCKS) == Chosen((0, 4), 0)


@pytest.mark.parametrize("k", [0, 3])
def test_more_finalists_than_finite_trials_are_refused(k: int) -> None:
    with pytest.raises(ValueError, match=rf"`search.finalists` \(={k}\) must be 1 to .* \(=2 of 3\); ask for fewer"):
        finalists.choose(plain(0.1, 0.2, math.nan), k, MEAN_CLASS, BLOCKS)


def test_without_predictions_only_equal_values_are_tied_and_twice_k_is_the_most() -> None:
    assert finalists.choose(plain(0.5, 0.7, 0.5, 0.499, 0.5, 0.5), 2, MEAN_CLASS, BLOCKS) == Chosen((1, 0, 2, 4), 1)
    assert finalists.choose(plain(0.5, 0.7, 0.5), 1, MEAN_CLASS, BLOCKS) == Chosen((1,), 0)


@pytest.mark.parametrize("metric", [MEAN_CLASS, TOP1])
def test_tied_is_who_the_bootstrap_over_stretches_of_time_cannot_tell_from_the_last_chosen(metric: str) -> None:
    best = candidate(0, [0])
    # Two more wrong than the best, in two stretches of twenty: some draws hold neither. Forty more are no luck.
    close, far = candidate(1, [0, 6, 12]), candidate(2, list(range(40)))
    assert finalists.choose([far, close, best], 1, metric, BLOCKS) == Chosen((0, 1), 0)
    assert finalists.choose([far, close, best], 2, metric, BLOCKS) == Chosen((0, 1), 0)
    assert finalists.choose([far, close, best], 1, LOSS, BLOCKS).numbers == (2,)
    # In one stretch of time nothing is known of another.
    assert finalists.choose([far, close, best], 1, metric, np.zeros(60)) == Chosen((0,), 0)


def test_a_tie_is_judged_at_the_objective_that_was_smoothed() -> None:
    # Alike in the last epoch, but far apart over the last three.
    best, other = candidate(0, [0, 6], value=0.9), candidate(1, [3, 9], value=0.6)
    assert finalists.choose([best, other], 1, MEAN_CLASS, BLOCKS) == Chosen((0,), 0)
    assert finalists.choose([best, candidate(1, [3, 9], value=0.89)], 1, MEAN_CLASS, BLOCKS) == Chosen((0, 1), 0)


def test_of_many_tied_trials_the_best_by_value_are_taken_and_the_rest_counted() -> None:
    trials = [candidate(number, [number], value=0.95 - number / 1000) for number in range(7)]
    assert finalists.choose(trials, 2, MEAN_CLASS, BLOCKS) == Chosen((0, 1, 2, 3), 3)


def test_trials_on_other_samples_do_not_compare() -> None:
    other = Predictions(torch.eye(2)[torch.zeros(60, dtype=torch.int64)], torch.zeros(60, dtype=torch.int64))
    with pytest.raises(AssertionError, match="trials 0 and 1 validated on other samples"):
        finalists.choose([candidate(0, [1]), Candidate(1, 0.5, other)], 1, MEAN_CLASS, BLOCKS)


def over(*values: float, num_folds: int = 1) -> dict[finalists.Run, float]:
    """Runs in the order of seeds, and of folds within one; NaN for one that is missing."""
    runs = {(1 + i // num_folds, i % num_folds): value for i, value in enumerate(values)}
    return {run: value for run, value in runs.items() if not math.isnan(value)}


REPORT = Report(
    (
        Finalist(0, 0.50, over(0.50, 0.40, 0.50, 0.43, num_folds=2), was_chosen=False),
        Finalist(7, 0.80, over(0.70, 0.50, 0.72, 0.56, num_folds=2)),
        Finalist(4, 0.75, over(0.70, 0.52, 0.70, 0.54, num_folds=2)),
    ),
    MEAN_CLASS,
    search_fold=0,
)


def test_a_report_by_hand() -> None:
    by_number = {each.number: each for each in REPORT.summaries()}
    seven = by_number[7]
    # 0.70, 0.50, 0.72, 0.56: mean 0.62, deviation sqrt(0.0344 / 3) = 0.10708; t(3) = 3.18245, two folds:
    # 3.18245 * 0.10708 * sqrt(1/4 + 1) = 0.38101.
    assert (seven.kept.value, seven.spread) == pytest.approx((0.62, 0.10708), abs=1e-5)
    assert (seven.kept.low, seven.kept.high) == pytest.approx((0.62 - 0.38101, 0.62 + 0.38101), abs=1e-4)
    # On fold 0: 0.70 and 0.72; t(1) = 12.7062, 12.7062 * 0.014142 * sqrt(1/2) = 0.12706, seeds alone.
    assert (seven.same_fold.value, seven.same_fold.high) == pytest.approx((0.71, 0.71 + 0.12706), abs=1e-4)
    assert (seven.curse.value, seven.curse.low) == pytest.approx((0.09, 0.09 - 0.12706), abs=1e-4)
    # Over trial 0: 0.20, 0.10, 0.22, 0.13: mean 0.1625, deviation 0.05679; 3.18245 * 0.05679 * 1.11803 = 0.20206.
    assert seven.gain is not None
    assert (seven.gain.value, seven.gain.low) == pytest.approx((0.1625, 0.1625 - 0.20206), abs=1e-4)
    assert seven.gain.num_samples == 4
    assert by_number[0].gain is None
    # 0.80 - 0.71 and 0.75 - 0.70; the reference was not chosen, so that nothing flattered it.
    assert REPORT.mean_curse().value == pytest.approx(0.07)
    assert REPORT.mean_curse().num_samples == 2
    assert REPORT.best_curse().value == pytest.approx(0.09)


def test_the_best_mean_wins_and_who_is_not_told_apart_is_tied() -> None:
    # Trial 4 less 7: 0, 0.02, -0.02, -0.02, around 0; trial 0 less 7: -0.16, up to 0.04, see above.
    assert [each.number for each in REPORT.summaries()] == [7, 4, 0]
    assert REPORT.winner() == Winner(7, (4, 0), ())
    apart = Report(
        (Finalist(0, 0.5, over(0.50, 0.52, 0.51)), Finalist(3, 0.8, over(0.70, 0.71, 0.72))), MEAN_CLASS, search_fold=0
    )
    assert apart.winner() == Winner(3, (), ())


def test_equal_means_go_to_the_lower_number_and_the_default_may_win() -> None:
    values = {9: (0.1, 0.2, 0.3), 5: (0.3, 0.2, 0.1), 0: (0.1, 0.1, 0.1)}
    same = Report(tuple(Finalist(number, 0.5, over(*each)) for number, each in values.items()), TOP1, search_fold=0)
    assert same.winner().number == 5
    best = Report((Finalist(2, 0.9, over(0.4, 0.5)), Finalist(0, 0.5, over(0.6, 0.7), was_chosen=False)), TOP1, 0)
    assert best.winner().number == 0


def test_lower_is_better_turns_curse_and_gain() -> None:
    report = Report((Finalist(0, 2.0, over(2.0, 2.2)), Finalist(1, 1.0, over(1.4, 1.6))), LOSS, search_fold=0)
    assert report.winner().number == 1
    (one, _) = report.summaries()
    assert one.gain is not None
    assert (one.curse.value, one.gain.value) == pytest.approx((0.5, 0.6))
    assert report.best_curse().value == pytest.approx(0.5)


def test_who_lacks_a_run_cannot_win_and_the_pairs_say_how_many_they_are() -> None:
    report = Report(
        (
            Finalist(0, 0.5, over(0.5, 0.5, 0.6), was_chosen=False),
            Finalist(1, 0.9, {(1, 0): 0.9, (2, 0): math.nan, (3, 0): 0.9}),
            Finalist(2, 0.8, {}),
        ),
        MEAN_CLASS,
        search_fold=0,
    )
    # Two pairs of runs tell nothing apart, and none says nothing.
    assert report.winner() == Winner(0, (1,), (1, 2))
    by_number = {each.number: each for each in report.summaries()}
    gains = [by_number[number].gain for number in (1, 2)]
    assert [gain.num_samples for gain in gains if gain] == [2, 0]
    assert gains[0]
    assert gains[0].value == pytest.approx(0.35)  # 0.9 - 0.5 and 0.9 - 0.6
    assert "Trial 1 cannot win: it has 2 run(s), and others 3." in report.lines()
    assert report.mean_curse().num_samples == 1
    with pytest.raises(ValueError, match="none of the 1 finalists has one"):
        Report((Finalist(0, 0.5, {}),), MEAN_CLASS, search_fold=0).winner()


def test_one_run_has_no_bounds_and_ties_with_all() -> None:
    report = Report((Finalist(0, 0.5, over(0.5)), Finalist(1, 0.9, over(0.8))), MEAN_CLASS, search_fold=0)
    assert report.winner() == Winner(1, (0,), ())
    assert report.rows()[0] == (
        "1", "0.90", "0.80 [?, ?] n=1", "0.80 [?, ?] n=1", "0.10 [?, ?] n=1", "0.30 [?, ?] n=1"
    )  # fmt: skip


def test_the_table_in_markdown() -> None:
    lines = REPORT.to_markdown().splitlines()
    assert lines[0] == "| trial | promised | kept | same fold | curse | against the default |"
    assert lines[2] == (
        "| 7 | 0.80 | 0.62 [0.24, 1.00] n=4 | 0.71 [0.58, 0.84] n=2 | 0.09 [-0.04, 0.22] n=2 | 0.16 [-0.04, 0.36] n=4 |"
    )
    assert lines[4].endswith("| - |")
    assert lines[6:8] == [
        "- The winner by mean val/mean_class over 4 run(s) is trial 7.",
        "- Not told apart from it at 95 %: trial 4, 0.",
    ]


def test_the_best_of_equal_trials_is_flattered_and_the_reference_is_not() -> None:
    # 40 trials of one truth, 0.5, each measured on 100 samples: the best lies about 2.2 deviations (0.05) too high.
    rng = np.random.default_rng(0)
    curses = np.zeros((200, 3))
    for row in curses:
        promised = rng.binomial(100, 0.5, 40) / 100
        chosen = finalists.choose(plain(*promised), 1, MEAN_AP, BLOCKS).numbers[0]
        new = {number: over(*(rng.binomial(100, 0.5, 3) / 100)) for number in (0, chosen)}
        entries = {number: Finalist(number, promised[number], new[number], number == chosen) for number in new}
        report = Report(tuple(entries.values()), MEAN_AP, search_fold=0)
        reference = next(each for each in report.summaries() if each.number == 0)
        row[:] = report.best_curse().value, report.mean_curse().value, reference.curse.value
    assert curses[:, 0].mean() == pytest.approx(2.16 * 0.05, abs=0.015)
    assert (curses[:, 1] == curses[:, 0]).all()
    assert curses[:, 2].mean() == pytest.approx(0, abs=0.015)


@pytest.mark.parametrize(
    ("num_seeds", "num_folds", "low", "high"), [(3, 1, 0.92, 0.98), (1, 3, 0.95, 1), (2, 3, 0.96, 1)]
)
def test_the_gain_holds_the_truth_as_often_as_it_says(num_seeds: int, num_folds: int, low: float, high: float) -> None:
    # The truth is 0.03; hard folds are hard for both, and each finalist has its own luck with folds and seeds.
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(800):
        hard = 0.1 * rng.normal(size=num_folds)
        values = [
            truth
            + hard
            + 0.02 * (num_folds > 1) * rng.normal(size=num_folds)
            + 0.02 * rng.normal(size=(num_seeds, num_folds))
            for truth in (0.50, 0.53)
        ]
        report = Report(
            tuple(Finalist(i, 0.5, over(*each.ravel(), num_folds=num_folds)) for i, each in enumerate(values)),
            MEAN_CLASS,
            search_fold=0,
        )
        gain = next(each.gain for each in report.summaries() if each.number == 1)
        assert gain
        held += gain.low <= 0.03 <= gain.high
    # Measured: 0.943, 0.976, 0.989.
    assert low <= held / 800 <= high
