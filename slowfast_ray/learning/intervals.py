"""How far a figure of few samples can be trusted: intervals, and comparisons of two models on the same samples.

Keyframes of one stretch of time look alike: ten of them tell little more than one. Where that matters, functions take
`block_S`, a number for each sample that says in which stretch (block) it lies, and draw whole blocks again instead of
single samples: the cluster bootstrap, Field and Welsh 2007 (doi 10.1111/j.1467-9868.2007.00593.x). Blocks have any size
and need not be in order. The bounds are percentiles of what the draws score (Efron and Tibshirani 1993, chapter 13).
They are too narrow where blocks are few, ten or less, and have no width where all samples are right: no draw sees an
error then.

Shapes: S samples, M blocks, R draws, K classes, P samples of one class, N runs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

CONFIDENCE = 0.95

_CHUNK = 4_000_000
"""Weights of samples in draws that are in memory at once: 32 MB."""


@dataclass(frozen=True)
class Interval:
    """A figure with its bounds, NaN where they are unknown, and the samples (or runs) that it was computed from."""

    value: float
    low: float
    high: float
    num_samples: int

    def __str__(self) -> str:
        low, high = ("?" if math.isnan(bound) else f"{bound:.2f}" for bound in (self.low, self.high))
        return f"{self.value:.2f} [{low}, {high}] n={self.num_samples}"


@dataclass(frozen=True)
class Comparison:
    """Two models on the same samples."""

    num_only_a: int
    """Samples that model a alone has right."""
    num_only_b: int
    p_value: float
    """Probability of a difference at least as large, if both were right equally often."""


def wilson(num_right: int, num_samples: int, confidence: float = CONFIDENCE) -> Interval:
    """The interval of a share of independent samples (Wilson 1927). Raises ValueError for impossible counts.

    Samples in blocks are not independent: the interval is too narrow for them.
    """
    if num_samples < 1 or not 0 <= num_right <= num_samples:
        raise ValueError(f"`num_right` (={num_right}) must be 0 to `num_samples` (={num_samples}), and that 1 or more.")
    bounds = stats.binomtest(num_right, num_samples).proportion_ci(confidence, method="wilson")
    return Interval(num_right / num_samples, float(bounds.low), float(bounds.high), num_samples)


def mean_class(
    label_S: npt.ArrayLike,
    predicted_S: npt.ArrayLike,
    block_S: npt.ArrayLike,
    *,
    seed: int = 0,
    num_resamples: int = 2000,
) -> Interval:
    """Recall averaged over the classes that occur, with the bounds of a bootstrap over blocks at 95 %.

    A class that a draw lacks keeps its recall in that draw. With fewer than two blocks, the bounds are NaN. Raises
    ValueError where the lengths differ or are 0.
    """
    label_S, predicted_S, block_S = _same_length(label_S=label_S, predicted_S=predicted_S, block_S=block_S)
    return _bootstrap(_mean_class_of(label_S, predicted_S), block_S, seed, num_resamples)


def mean_ap(
    score_SK: npt.ArrayLike,
    target_SK: npt.ArrayLike,
    block_S: npt.ArrayLike,
    *,
    seed: int = 0,
    num_resamples: int = 2000,
) -> Interval:
    """Average precision averaged over the classes that occur, with the bounds of a bootstrap over blocks at 95 %.

    `score_SK` ranks the samples of each class (logits will do); `target_SK` holds ones where a sample has a class, and
    zeros. A class that a draw lacks keeps its figure in that draw. A draw holds some samples several times, with one
    score, which lifts average precision: near chance the bounds lie somewhat high. With fewer than two blocks, the
    bounds are NaN. Raises ValueError where shapes differ, are empty, or no class occurs.
    """
    score_SK, target_SK = np.asarray(score_SK), np.asarray(target_SK)
    if score_SK.ndim != 2 or score_SK.shape != target_SK.shape:
        raise ValueError(
            f"`score_SK` and `target_SK` must have one shape [S, K], but have {score_SK.shape} and {target_SK.shape}."
        )
    _, _, block_S = _same_length(score_SK=score_SK[:, :1].ravel(), target_SK=target_SK[:, :1].ravel(), block_S=block_S)
    if not target_SK.any():
        raise ValueError("`target_SK` must name a class for one sample at least, but all are zeros.")
    return _bootstrap(_mean_ap_of(score_SK, target_SK > 0), block_S, seed, num_resamples)


def mcnemar(right_a_S: npt.ArrayLike, right_b_S: npt.ArrayLike) -> Comparison:
    """Whether two models are right equally often: the exact test of McNemar 1947 (doi 10.1007/BF02295996), two-sided.

    Only samples that one model alone has right count. They are taken as independent: with samples in blocks the
    probability is too small; see `paired_bootstrap`. Raises ValueError where the lengths differ or are 0.
    """
    right_a_S, right_b_S = (each.astype(bool) for each in _same_length(right_a_S=right_a_S, right_b_S=right_b_S))
    num_only_a, num_only_b = int((right_a_S & ~right_b_S).sum()), int((right_b_S & ~right_a_S).sum())
    differing = num_only_a + num_only_b
    p_value = float(stats.binomtest(num_only_a, differing).pvalue) if differing else 1.0
    return Comparison(num_only_a, num_only_b, p_value)


def paired_bootstrap(
    label_S: npt.ArrayLike,
    predicted_a_S: npt.ArrayLike,
    predicted_b_S: npt.ArrayLike,
    block_S: npt.ArrayLike,
    *,
    seed: int = 0,
    num_resamples: int = 2000,
) -> Interval:
    """By how much model a's `mean_class` exceeds model b's: the same draws of blocks score both, so that what is hard
    for both cancels out. Bounds on one side of 0 speak for a difference.

    With fewer than two blocks, the bounds are NaN. Raises ValueError where the lengths differ or are 0.
    """
    label_S, predicted_a_S, predicted_b_S, block_S = _same_length(
        label_S=label_S, predicted_a_S=predicted_a_S, predicted_b_S=predicted_b_S, block_S=block_S
    )
    of_a, of_b = _mean_class_of(label_S, predicted_a_S), _mean_class_of(label_S, predicted_b_S)
    return _bootstrap(lambda weight_RS: of_a(weight_RS) - of_b(weight_RS), block_S, seed, num_resamples)


def paired_top1(
    right_a_S: npt.ArrayLike,
    right_b_S: npt.ArrayLike,
    block_S: npt.ArrayLike,
    *,
    seed: int = 0,
    num_resamples: int = 2000,
) -> Interval:
    """By how much larger the share of samples that model a has right is than model b's, from the same draws of blocks.

    With fewer than two blocks, the bounds are NaN. Raises ValueError where the lengths differ or are 0.
    """
    right_a_S, right_b_S, block_S = _same_length(right_a_S=right_a_S, right_b_S=right_b_S, block_S=block_S)
    lead_S1 = (right_a_S.astype(float) - right_b_S.astype(float))[:, None]
    return _bootstrap(
        lambda weight_RS: weight_RS @ lead_S1 / weight_RS.sum(axis=1, keepdims=True), block_S, seed, num_resamples
    )


def mean_of_runs(value_N: npt.ArrayLike, test_over_train: float = 0.0) -> Interval:
    """The mean of runs with Student's t bounds at 95 %, NaN for less than two runs; without width where all are equal.

    Runs of k folds share training samples: `test_over_train`, 1 / (k - 1) there, widens the bounds for that (the
    corrected resampled t of Nadeau and Bengio 2003, doi 10.1023/A:1024068626366).
    """
    value_N = np.asarray(value_N, float)
    num_runs = len(value_N)
    if num_runs < 2:
        return Interval(float(value_N.sum()) if num_runs else math.nan, math.nan, math.nan, num_runs)
    mean, factor = float(value_N.mean()), stats.t.ppf((1 + CONFIDENCE) / 2, num_runs - 1)
    margin = float(factor * value_N.std(ddof=1) * math.sqrt(1 / num_runs + test_over_train))
    return Interval(mean, mean - margin, mean + margin, num_runs)


Statistic = Callable[[np.ndarray], np.ndarray]
"""From how often each draw holds each sample, [R, S], to what it scores on each class, [R, K]; NaN where a draw holds
no sample of the class."""


def _bootstrap(statistic: Statistic, block_S: np.ndarray, seed: int, num_resamples: int) -> Interval:
    num_samples = len(block_S)
    value_K = statistic(np.ones((1, num_samples)))[0]
    value = float(value_K.mean())
    names_M, place_S = np.unique(block_S, return_inverse=True)
    num_blocks = len(names_M)
    if num_blocks < 2:  # one stretch of time does not say how another would differ
        return Interval(value, math.nan, math.nan, num_samples)
    times_RM = np.random.default_rng(seed).multinomial(num_blocks, np.full(num_blocks, 1 / num_blocks), num_resamples)
    drawn_RK = np.concatenate(
        [
            statistic(chunk_RM[:, place_S].astype(float))
            for chunk_RM in np.array_split(times_RM, math.ceil(num_resamples * num_samples / _CHUNK))
        ]
    )
    # A class that a draw lacks keeps its figure: leaving it out would compare means over other classes, and lift the
    # bounds far above the figure where rare classes are the hard ones.
    drawn_R = np.where(np.isnan(drawn_RK), value_K, drawn_RK).mean(axis=1)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(drawn_R, [tail, 100 - tail])
    return Interval(value, float(low), float(high), num_samples)


def _mean_class_of(label_S: np.ndarray, predicted_S: np.ndarray) -> Statistic:
    is_label_SK = (label_S[:, None] == np.unique(label_S)).astype(float)
    is_right_SK = is_label_SK * (label_S == predicted_S)[:, None]

    def statistic(weight_RS: np.ndarray) -> np.ndarray:
        return _where_occurring(weight_RS @ is_right_SK, weight_RS @ is_label_SK)

    return statistic


def _mean_ap_of(score_SK: np.ndarray, is_true_SK: np.ndarray) -> Statistic:
    is_true_SK, score_SK = is_true_SK[:, is_true_SK.any(axis=0)], score_SK[:, is_true_SK.any(axis=0)]
    order_SK = np.argsort(-score_SK, axis=0, kind="stable")

    def statistic(weight_RS: np.ndarray) -> np.ndarray:
        # The sum over a class's samples of the precision at their score, and their number.
        precision_sum_RK, num_true_RK = np.empty((2, len(weight_RS), order_SK.shape[1]))
        for k, order_S in enumerate(order_SK.T):
            sorted_S, is_true_S = score_SK[order_S, k], is_true_SK[order_S, k]
            weight_sorted_RS = weight_RS[:, order_S]
            # Equal scores are told apart by no threshold: precision is that behind the last of them.
            end_P = np.searchsorted(-sorted_S, -sorted_S[is_true_S], side="right") - 1
            num_said_RP = weight_sorted_RS.cumsum(axis=1)[:, end_P]
            weight_RP = weight_sorted_RS[:, is_true_S]
            before_P = np.searchsorted(np.flatnonzero(is_true_S), end_P, side="right") - 1
            num_right_RP = weight_RP.cumsum(axis=1)[:, before_P]
            # Where a draw holds none of the samples said so far, it holds none with this score, and adds 0.
            precision_sum_RK[:, k] = (weight_RP * num_right_RP / np.maximum(num_said_RP, 1)).sum(axis=1)
            num_true_RK[:, k] = weight_RP.sum(axis=1)
        return _where_occurring(precision_sum_RK, num_true_RK)

    return statistic


def _where_occurring(sum_RK: np.ndarray, num_RK: np.ndarray) -> np.ndarray:
    """sum / num for the classes with samples in a draw, [R, K]; NaN for the others."""
    return np.where(num_RK > 0, sum_RK / np.maximum(num_RK, 1), np.nan)


def _same_length(**arrays: npt.ArrayLike) -> list[np.ndarray]:
    """The arrays, if all are [S] for one S above 0."""
    found = {name: np.asarray(array) for name, array in arrays.items()}
    shapes = {array.shape for array in found.values()}
    if len(shapes) != 1 or any(len(shape) != 1 or 0 in shape for shape in shapes):
        shown = ", ".join(f"`{name}` {list(array.shape)}" for name, array in found.items())
        raise ValueError(f"All must have one length, 1 or more, but the shapes are {shown}.")
    return list(found.values())
