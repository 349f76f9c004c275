"""Calibration: a hand count, scikit-learn's curve, and both kinds of labels."""

import math

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve

from slowfast_ray.learning import calibration
from slowfast_ray.learning.predictions import Predictions

# Shapes: N probabilities, M bins, S samples, K classes.


def test_against_a_hand_count() -> None:
    # Two bins: 0.2 and 0.4, one of two right; 0.9 twice, both right. A border belongs to the bin below it.
    found = calibration.of(np.array([0.2, 0.4, 0.9, 0.9]), np.array([True, False, True, True]), num_bins=2)
    lower, upper = found.bins_M
    assert (lower.number, lower.share_right, upper.number, upper.share_right) == (2, 0.5, 2, 1)
    assert (lower.mean_probability, upper.mean_probability) == pytest.approx((0.3, 0.9))
    assert found.error == pytest.approx((2 * 0.2 + 2 * 0.1) / 4)
    (low, _) = calibration.of(np.array([0.5]), np.array([True]), num_bins=2).bins_M
    assert low.number == 1


def test_bins_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    probability_N = rng.random(500) ** 2
    is_right_N = rng.random(500) < probability_N**2
    found = calibration.of(probability_N, is_right_N)
    share_M, mean_M = calibration_curve(is_right_N, probability_N, n_bins=calibration.NUM_BINS)
    assert [each.share_right for each in found.bins_M] == pytest.approx(share_M.tolist())
    assert [each.mean_probability for each in found.bins_M] == pytest.approx(mean_M.tolist())
    assert sum(each.number for each in found.bins_M) == 500
    assert found.error > 0.1, "what comes true less often than it is said is not calibrated"


def test_ends_belong_to_a_bin_and_empty_bins_weigh_nothing() -> None:
    found = calibration.of(np.array([0.0, 1.0]), np.array([False, True]))
    assert found.error == 0
    assert [each.number for each in found.bins_M] == [1, *[0] * 8, 1]
    assert math.isnan(found.bins_M[4].share_right)


def test_with_one_label_the_most_likely_class_counts() -> None:
    logits_SK = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1]]).log()
    found = calibration.of_predictions(Predictions(logits_SK, torch.tensor([0, 2])))
    assert sum(each.number for each in found.bins_M) == 2
    assert found.error == pytest.approx((0.3 + 0.6) / 2)


def test_with_several_labels_every_class_of_every_sample_counts() -> None:
    probability_SK = torch.tensor([[0.95, 0.35], [0.15, 0.55]])
    found = calibration.of_predictions(Predictions(probability_SK.logit(), torch.tensor([[1.0, 0.0], [0.0, 0.0]])))
    assert sum(each.number for each in found.bins_M) == 4
    assert found.error == pytest.approx((0.05 + 0.35 + 0.15 + 0.55) / 4, abs=1e-6)


@pytest.mark.parametrize(
    ("probability_N", "is_right_N"),
    [([], []), ([0.5], [True, False]), ([[0.5]], [[True]]), ([1.5], [True]), ([-0.1], [True]), ([math.nan], [True])],
)
def test_what_is_no_probability_is_refused(probability_N: list, is_right_N: list) -> None:
    with pytest.raises(ValueError, match="`probability_N`"):
        calibration.of(np.array(probability_N), np.array(is_right_N, dtype=bool))
