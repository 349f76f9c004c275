"""Intervals: known values, honest edges, and blocks of samples that look alike widen them."""

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from slowfast_ray.learning import intervals
from slowfast_ray.learning.intervals import Comparison, Interval

# Shapes: S samples, K classes.

RNG = np.random.default_rng(0)


def test_wilson_of_known_counts() -> None:
    # By hand: p = 52/73, z = 1.96; centre (p + z^2/2n) / (1 + z^2/n) = 0.7017, half width 0.1014.
    found = intervals.wilson(52, 73)
    assert (found.value, found.low, found.high) == pytest.approx((52 / 73, 0.600, 0.803), abs=6e-4)
    assert str(found) == "0.71 [0.60, 0.80] n=73"
    found = intervals.wilson(62, 73)
    assert (found.low, found.high) == pytest.approx((0.75, 0.91), abs=0.005)
    narrower = intervals.wilson(62, 73, confidence=0.5)
    assert found.low < narrower.low < narrower.value < narrower.high < found.high


def test_wilson_keeps_a_width_where_all_are_right_or_wrong() -> None:
    # z^2 / (n + z^2) = 3.8415 / 13.8415
    assert (intervals.wilson(0, 10).low, intervals.wilson(0, 10).high) == pytest.approx((0, 0.27753), abs=1e-5)
    assert (intervals.wilson(10, 10).low, intervals.wilson(10, 10).high) == pytest.approx((0.72247, 1), abs=1e-5)


@pytest.mark.parametrize(("num_right", "num_samples"), [(1, 0), (0, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(num_right: int, num_samples: int) -> None:
    with pytest.raises(
        ValueError, match=rf"`num_right` \(={num_right}\) must be 0 to `num_samples` \(={num_samples}\)"
    ):
        intervals.wilson(num_right, num_samples)


def test_an_unknown_bound_is_a_question_mark() -> None:
    assert str(Interval(0.286, math.nan, math.nan, 73)) == "0.29 [?, ?] n=73"
    assert str(Interval(-0.05, -0.123, 0.004, 7)) == "-0.05 [-0.12, 0.00] n=7"


def classified(num_samples: int, num_classes: int = 5, share_right: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    label_S = RNG.integers(0, num_classes, num_samples)
    guess_S = RNG.integers(0, num_classes, num_samples)
    return label_S, np.where(RNG.random(num_samples) < share_right, label_S, guess_S)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@settings(max_examples=40, deadline=None)
@given(data=st.data(), num_samples=st.integers(1, 40))
def test_mean_class_is_scikit_learns_and_lies_within_its_bounds(data: st.DataObject, num_samples: int) -> None:
    numbers = st.lists(st.integers(0, 4), min_size=num_samples, max_size=num_samples)
    label_S, predicted_S, block_S = (np.array(data.draw(numbers)) for _ in range(3))
    found = intervals.mean_class(label_S, predicted_S, block_S, num_resamples=50)
    expected = np.mean([(predicted_S[label_S == k] == k).mean() for k in np.unique(label_S)])
    assert found.value == pytest.approx(expected)
    assert found.num_samples == num_samples
    if len(np.unique(block_S)) < 2:
        assert math.isnan(found.low)
        assert math.isnan(found.high)
    else:
        assert 0 <= found.low <= found.high <= 1


def test_mean_class_of_single_samples_agrees_with_wilson() -> None:
    # One class, each sample a block of its own: the bootstrap of a share, which 400 samples know well.
    right_S = np.arange(400) < 280
    found = intervals.mean_class(np.ones(400, int), right_S.astype(int), np.arange(400))
    wilson = intervals.wilson(280, 400)
    assert (found.value, found.low, found.high) == pytest.approx((wilson.value, wilson.low, wilson.high), abs=0.004)


def test_blocks_of_samples_that_look_alike_give_a_wider_interval() -> None:
    # 20 stretches of 20 samples, all right or all wrong: 400 samples tell as much as 20. sqrt(20) = 4.5 times wider.
    label_S = np.ones(400, int)
    block_S = np.repeat(np.arange(20), 20)
    predicted_S = (block_S % 10 < 7).astype(int)
    by_block = intervals.mean_class(label_S, predicted_S, block_S)
    by_sample = intervals.mean_class(label_S, predicted_S, np.arange(400))
    assert by_block.value == by_sample.value == 0.7
    wider = (by_block.high - by_block.low) / (by_sample.high - by_sample.low)
    assert wider == pytest.approx(math.sqrt(20), rel=0.15)
    of_twenty = intervals.mean_class(label_S[:20], np.arange(20) % 10 < 7, np.arange(20))
    assert (by_block.low, by_block.high) == pytest.approx((of_twenty.low, of_twenty.high))


def test_bounds_hold_the_truth_about_as_often_as_they_say() -> None:
    # 40 blocks of 5 samples that share a fate of 70 %; percentiles of so few blocks are a little too narrow.
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(200):
        right_S = np.repeat(rng.random(40) < 0.7, 5).astype(int)
        found = intervals.mean_class(np.ones(200, int), right_S, np.repeat(np.arange(40), 5), num_resamples=300)
        held += found.low <= 0.7 <= found.high
    assert 0.88 <= held / 200 <= 0.99


def test_the_order_and_the_names_of_blocks_say_nothing_and_the_seed_says_all() -> None:
    label_S, predicted_S = classified(60)
    block_S = np.arange(60) // 6
    found = intervals.mean_class(label_S, predicted_S, block_S)
    assert intervals.mean_class(label_S, predicted_S, 100 + 7 * block_S) == found
    shuffled = RNG.permutation(60)
    again = intervals.mean_class(label_S[shuffled], predicted_S[shuffled], block_S[shuffled])
    assert (again.value, again.low, again.high) == pytest.approx((found.value, found.low, found.high))
    assert intervals.mean_class(label_S, predicted_S, block_S, seed=1) != found


def test_draws_in_several_chunks_are_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    label_S, predicted_S = classified(60)
    found = intervals.mean_class(label_S, predicted_S, np.arange(60) // 6)
    monkeypatch.setattr(intervals, "_CHUNK", 1000)
    assert intervals.mean_class(label_S, predicted_S, np.arange(60) // 6) == found


def scored(num_samples: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores with ties, better than chance; the last class does not occur."""
    target_SK = RNG.random((num_samples, num_classes)) < 0.2
    target_SK[:, -1] = False
    return (RNG.normal(size=target_SK.shape) + target_SK).round(1), target_SK


def test_mean_ap_is_scikit_learns() -> None:
    score_SK, target_SK = scored(120, 6)
    found = intervals.mean_ap(score_SK, target_SK.astype(np.float32), np.arange(120) // 5)
    expected = metrics.average_precision_score(target_SK[:, :5], score_SK[:, :5], average="macro")
    assert found.value == pytest.approx(expected)
    assert found.low < found.value < found.high
    assert found.num_samples == 120


def test_a_draw_scores_as_scikit_learn_scores_weighted_samples() -> None:
    score_SK, target_SK = scored(40, 4)
    weight_RS = RNG.integers(0, 3, (5, 40)).astype(float)
    found_RK = intervals._mean_ap_of(score_SK, target_SK)(weight_RS)
    for weight_S, found_K in zip(weight_RS, found_RK, strict=True):
        each = [
            metrics.average_precision_score(target_SK[:, k], score_SK[:, k], sample_weight=weight_S) for k in (0, 1, 2)
        ]
        assert found_K == pytest.approx(each)


def test_a_class_that_a_draw_lacks_keeps_its_figure() -> None:
    # Two blocks; one holds all of class 0, perfectly ranked, the other all of class 1, ranked last of two.
    score_SK = np.array([[2.0, 1.0], [1.0, 2.0], [1.0, 3.0], [0.0, 2.0]])
    target_SK = np.array([[1, 0], [0, 0], [0, 0], [0, 1]])
    found = intervals.mean_ap(score_SK, target_SK, [0, 0, 1, 1])
    # Class 1 by score: 3 no, then 2 no and yes together: 1/3. Draws: block 0 alone (1, kept 1/3), block 1 alone
    # (kept 1, 1/2), both as found.
    assert found.value == pytest.approx((1 + 1 / 3) / 2)
    assert (found.low, found.high) == pytest.approx(((1 + 1 / 3) / 2, (1 + 1 / 2) / 2))


def test_what_is_always_the_same_has_no_width() -> None:
    # Always the same class: one over the number of classes, whichever blocks are drawn.
    label_S = np.array([0] * 30 + [1] * 3 + [2])
    found = intervals.mean_class(label_S, np.zeros(34, int), np.arange(34) // 4)
    assert (found.value, found.low, found.high) == pytest.approx((1 / 3, 1 / 3, 1 / 3))


def test_mcnemar_by_hand() -> None:
    # 10 samples that one model alone has right, 8 of them a's: 2 * (C(10,8) + C(10,9) + C(10,10)) / 2^10 = 112 / 1024.
    right_a_S = [1] * 30 + [1] * 8 + [0] * 2 + [0] * 5
    right_b_S = [1] * 30 + [0] * 8 + [1] * 2 + [0] * 5
    found = intervals.mcnemar(right_a_S, right_b_S)
    assert (found.num_only_a, found.num_only_b) == (8, 2)
    assert found.p_value == pytest.approx(0.109375)
    assert intervals.mcnemar(right_b_S, right_a_S) == Comparison(2, 8, found.p_value)
    assert intervals.mcnemar([True, False], [True, False]) == Comparison(0, 0, 1.0)


def test_a_paired_difference_is_one_of_means_and_hard_blocks_cancel_out() -> None:
    # In every block b misses one sample that a has right; blocks differ much in how hard they are.
    label_S = np.ones(200, int)
    block_S = np.repeat(np.arange(20), 10)
    a_S = (np.arange(200) % 10 < 1 + block_S % 9).astype(int)
    b_S = a_S * (np.arange(200) % 10 > 0)
    found = intervals.paired_bootstrap(label_S, a_S, b_S, block_S)
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    alone = intervals.mean_class(label_S, a_S, block_S)
    assert alone.high - alone.low > 0.1
    swapped = intervals.paired_bootstrap(label_S, b_S, a_S, block_S)
    assert swapped.value == pytest.approx(-0.1)
    assert str(intervals.paired_bootstrap(label_S, a_S, b_S, np.zeros(200))) == "0.10 [?, ?] n=200"


def test_equal_models_do_not_differ() -> None:
    label_S, predicted_S = classified(50)
    found = intervals.paired_bootstrap(label_S, predicted_S, predicted_S, np.arange(50))
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_one_stretch_of_time_has_no_bounds() -> None:
    label_S, predicted_S = classified(30)
    assert str(intervals.mean_class(label_S, predicted_S, np.zeros(30))).endswith("[?, ?] n=30")
    score_SK, target_SK = scored(30, 4)
    assert str(intervals.mean_ap(score_SK, target_SK, np.zeros(30))).endswith("[?, ?] n=30")


def test_lengths_that_differ_or_are_0_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`label_S` \[3\], `predicted_S` \[2\], `block_S` \[3\]"):
        intervals.mean_class([0, 1, 2], [0, 1], [0, 0, 1])
    with pytest.raises(ValueError, match="1 or more"):
        intervals.mean_class([], [], [])
    with pytest.raises(ValueError, match="one length"):
        intervals.mcnemar([True], [True, False])
    with pytest.raises(ValueError, match="one length"):
        intervals.mcnemar([], [])
    with pytest.raises(ValueError, match="one length"):
        intervals.mcnemar([[True]], [[True]])
    with pytest.raises(ValueError, match="one length"):
        intervals.paired_bootstrap([0], [0], [0, 1], [0])
    with pytest.raises(ValueError, match="one shape"):
        intervals.mean_ap(np.zeros((3, 2)), np.zeros((3, 4)), [0, 1, 2])
    with pytest.raises(ValueError, match="one length"):
        intervals.mean_ap(np.zeros((3, 2)), np.ones((3, 2)), [0, 1])
    with pytest.raises(ValueError, match="all are zeros"):
        intervals.mean_ap(np.zeros((3, 2)), np.zeros((3, 2)), [0, 1, 2])


def test_five_hundred_samples_take_no_time() -> None:
    label_S, predicted_S = classified(500, 14)
    started = time.process_time()
    intervals.mean_class(label_S, predicted_S, np.arange(500))
    assert time.process_time() - started < 0.5


def test_the_lead_in_top1_is_the_difference_of_the_shares_and_its_bounds_are_paired() -> None:
    right_b_S = np.arange(60) % 3 == 0
    right_a_S = right_b_S | (np.arange(60) % 3 == 1)
    # In each block of six, a has two more right than b: however blocks are drawn, the lead is a third.
    found = intervals.paired_top1(right_a_S, right_b_S, np.arange(60) // 6)
    assert (found.value, found.low, found.high) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    # The lead of one block alone is uncertain, and may be none.
    right_a_S = right_b_S.copy()
    right_a_S[:6] = True
    found = intervals.paired_top1(right_a_S, right_b_S, np.arange(60) // 6)
    assert found.value == pytest.approx(4 / 60)
    assert found.low == 0 < found.value < found.high < 1 / 3


def test_the_mean_of_runs_by_hand() -> None:
    # Mean 0.2, deviation 0.1; t of 2 degrees of freedom is 4.3027: 4.3027 * 0.1 * sqrt(1/3) = 0.2484.
    found = intervals.mean_of_runs([0.1, 0.2, 0.3])
    assert (found.value, found.low, found.high) == pytest.approx((0.2, -0.0484, 0.4484), abs=1e-4)
    assert found.num_samples == 3
    # Three folds, one validation sample for two training samples: 4.3027 * 0.1 * sqrt(1/3 + 1/2) = 0.3928.
    found = intervals.mean_of_runs([0.1, 0.2, 0.3], 1 / 2)
    assert (found.low, found.high) == pytest.approx((-0.1928, 0.5928), abs=1e-4)
    assert str(intervals.mean_of_runs([0.3])) == "0.30 [?, ?] n=1"
    assert math.isnan(intervals.mean_of_runs([]).value)
    assert intervals.mean_of_runs([]).num_samples == 0


def share_held(
    num_seeds: int, num_folds: int, test_over_train: float, *, fold: float, rng: np.random.Generator
) -> float:
    """How often the bounds hold the truth, 0: runs are the sum of an effect of the fold and one of the seed (1)."""
    held = 0
    for _ in range(1500):
        runs = fold * rng.normal(size=num_folds) + rng.normal(size=(num_seeds, num_folds))
        found = intervals.mean_of_runs(runs.ravel(), test_over_train)
        held += found.low <= 0 <= found.high
    return held / 1500


@pytest.mark.parametrize(("num_seeds", "num_folds"), [(1, 3), (2, 2), (1, 5), (2, 3), (3, 2)])
def test_bounds_of_few_runs_over_folds_hold_the_truth_as_often_as_they_say(num_seeds: int, num_folds: int) -> None:
    # Over 20 000 draws with a fold effect of 1: 0.978, 0.984, 0.986, 0.986, 0.989.
    rng = np.random.default_rng(3)
    assert 0.96 <= share_held(num_seeds, num_folds, 1 / (num_folds - 1), fold=1, rng=rng) <= 1


def test_without_the_correction_runs_that_share_a_fold_claim_too_much() -> None:
    rng = np.random.default_rng(4)
    assert share_held(2, 3, 0.0, fold=1, rng=rng) < 0.91
    assert share_held(3, 1, 0.0, fold=0, rng=rng) == pytest.approx(0.95, abs=0.02)
