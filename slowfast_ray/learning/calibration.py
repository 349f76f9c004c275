"""Whether a probability means what it says: of what is said with 0.8, eight in ten should be right.

Probabilities are put into NUM_BINS bins of equal width from 0 to 1. The expected calibration error is the distance
between mean probability and share of hits of each bin, averaged with the number in the bin as its weight (Guo et al.
2017, arXiv 1706.04599, who take 15 bins for thousands of samples). With few samples it is above 0 also for a network
that is perfectly calibrated.

Legend: N probabilities, M bins.
"""

import math
from dataclasses import dataclass

import numpy as np

from slowfast_ray.learning.predictions import Predictions

NUM_BINS = 10
"""About a hundred validation samples leave more bins empty."""


@dataclass(frozen=True)
class Bin:
    """The probabilities from `low` to `high`; a border belongs to the bin below it."""

    low: float
    high: float
    number: int
    mean_probability: float
    """NaN where the bin is empty."""
    share_right: float
    """NaN where the bin is empty."""


@dataclass(frozen=True)
class Calibration:
    """Bins in ascending order, and what lies between said and seen."""

    bins_M: tuple[Bin, ...]
    error: float
    """Expected calibration error, 0 to 1."""


def of_predictions(predictions: Predictions) -> Calibration:
    """Of the probability of the most likely class, and whether it is the label; with several labels a sample, of the
    probability of every class for every sample, and whether it is one of the labels.
    """
    probability_SK = predictions.probabilities_SK()
    if predictions.is_multi:
        return of(probability_SK.flatten().numpy(), predictions.is_true_SK().flatten().numpy())
    return of(probability_SK.amax(dim=1).numpy(), predictions.right_S().numpy())


def of(probability_N: np.ndarray, is_right_N: np.ndarray, num_bins: int = NUM_BINS) -> Calibration:
    """Of probabilities, float [N], and whether what was said came true, bool [N]. Raises ValueError for other shapes,
    none at all, and for what is no probability.
    """
    if probability_N.ndim != 1 or probability_N.shape != is_right_N.shape or not len(probability_N):
        raise ValueError(
            f"`probability_N` and `is_right_N` must have one shape [N], N 1 or more, but have "
            f"{list(probability_N.shape)} and {list(is_right_N.shape)}."
        )
    if not ((probability_N >= 0) & (probability_N <= 1)).all():
        raise ValueError(
            f"`probability_N` (={probability_N.min()} to {probability_N.max()}) must lie within 0..1 and be finite."
        )
    edges = np.linspace(0, 1, num_bins + 1)
    place_N = np.searchsorted(edges[1:-1], probability_N)
    bins = []
    for m in range(num_bins):
        mine_N = place_N == m
        number = int(mine_N.sum())
        mean, share = (float(each[mine_N].mean()) if number else math.nan for each in (probability_N, is_right_N))
        bins.append(Bin(float(edges[m]), float(edges[m + 1]), number, mean, share))
    distances = (each.number * abs(each.mean_probability - each.share_right) for each in bins if each.number)
    return Calibration(tuple(bins), sum(distances) / len(probability_N))
