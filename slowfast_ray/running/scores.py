"""What a figure is worth: validation scores with their intervals, beside what needs no network at all.

A score of a checkpoint is computed from the predictions saved with it, never from memory: what is printed can be found
again.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from slowfast_ray.data import baselines, dataset
from slowfast_ray.data.config import DataConfig
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.data.samples import Split
from slowfast_ray.learning import checkpoint, counts, intervals
from slowfast_ray.learning.intervals import Interval
from slowfast_ray.learning.predictions import Predictions

FINAL, BEST = "final", "best"
"""What a run's newest checkpoint, and that of its best epoch, score: prefixes of metrics, with bounds beside."""


@dataclass(frozen=True)
class Score:
    """How one way to predict does on the validation samples."""

    name: str
    intervals: Mapping[str, Interval]
    """By the names of metrics; all but the loss."""


def of_predictions(name: str, predictions: Predictions, val: Split) -> Score:
    """The score of a network's predictions for all samples of `val`, in their order.

    Top-1 and top-5 with Wilson's interval, class means with a bootstrap over stretches of time.
    """
    num_samples = len(val)
    found = {
        metric: intervals.wilson(round(predictions.metrics()[metric] * num_samples), num_samples)
        for metric in (counts.VAL_TOP1, counts.VAL_TOP5)
    }
    if predictions.is_multi:
        found[counts.VAL_MEAN_AP] = intervals.mean_ap(predictions.logits_SK, predictions.target, val.blocks_S)
    else:
        predicted_S = predictions.predicted_S().numpy()
        found[counts.VAL_MEAN_CLASS] = intervals.mean_class(predictions.target.numpy(), predicted_S, val.blocks_S)
    return Score(name, found)


def of_checkpoint(name: str, folder: Path, data: Dataset) -> Score:
    """The score of the checkpoint in `folder`, from the predictions saved with it."""
    return of_predictions(name, checkpoint.read_predictions(folder), data.val)


def metrics_of(score: Score, prefix: str) -> dict[str, float]:
    """Figures and their bounds under names of their own, for MLflow: final/top1, final/top1_low,
    final/top1_high. With 4 digits: MLflow shows all that there are.
    """
    return {
        f"{prefix}/{name.split('/')[1]}{suffix}": round(value, 4)
        for name, interval in score.intervals.items()
        for suffix, value in (("", interval.value), ("_low", interval.low), ("_high", interval.high))
        if math.isfinite(value)
    }


def per_class_json(folder: Path, data: Dataset) -> str:
    """How the checkpoint in `folder` does on each class; figures that are undefined are null."""
    rows = [asdict(each) for each in checkpoint.read_predictions(folder).per_class(data.classes)]
    known = [{name: None if value != value else value for name, value in row.items()} for row in rows]
    return json.dumps(known, indent=1, allow_nan=False) + "\n"


@lru_cache(maxsize=32)
def of_baselines(config: DataConfig) -> tuple[Score, ...]:
    """What a network must beat on this data (see data/baselines.py); once a process, as the data is read."""
    data = dataset.load(config)
    return tuple(_of_baseline(name, predict(data), data) for name, predict in baselines.ALL.items())


def _of_baseline(name: str, predicted: np.ndarray, data: Dataset) -> Score:
    labels = data.val.labels_S.numpy()
    if labels.ndim == 2:
        target_SK, score_SK = torch.from_numpy(labels), torch.from_numpy(predicted).float()
        scored = of_predictions(name, Predictions(score_SK, target_SK), data.val)
        return Score(name, {key: value for key, value in scored.intervals.items() if key != counts.VAL_TOP5})
    return Score(
        name,
        {
            counts.VAL_TOP1: intervals.wilson(int((predicted == labels).sum()), len(labels)),
            counts.VAL_MEAN_CLASS: intervals.mean_class(labels, predicted, data.val.blocks_S),
        },
    )


def best_baseline(found: tuple[Score, ...], metric: str) -> Score | None:
    """The baseline with the highest value of `metric`; None where they have none (the loss)."""
    scored = [score for score in found if metric in score.intervals]
    return max(scored, key=lambda score: score.intervals[metric].value, default=None)


@dataclass(frozen=True)
class Pooled:
    """What several trainings say of the samples of all folds together: every sample validated once in each training."""

    labels_S: np.ndarray
    predicted_RS: np.ndarray
    """One row a training."""
    blocks_S: np.ndarray

    @staticmethod
    def of(folds: Sequence[tuple[Dataset, np.ndarray]]) -> "Pooled":
        """From the datasets of the folds and the predictions for their validation samples, int64 [R, S] each."""
        blocks, offset = [], 0
        for data, _ in folds:  # stretches of two folds are not the same
            blocks.append(data.val.blocks_S + offset)
            offset += int(data.val.blocks_S.max()) + 1
        return Pooled(
            np.concatenate([data.val.labels_S.numpy() for data, _ in folds]),
            np.concatenate([predicted_RS for _, predicted_RS in folds], axis=1),
            np.concatenate(blocks),
        )

    def top1(self) -> Interval:
        """Mean over trainings, with Wilson's interval for the number of samples."""
        num_samples = len(self.labels_S)
        value = float((self.predicted_RS == self.labels_S).mean())
        bounds = intervals.wilson(round(value * num_samples), num_samples)
        return Interval(value, bounds.low, bounds.high, num_samples)

    def mean_class(self) -> Interval:
        """Mean over trainings, with a bootstrap over stretches of time: one is drawn for all trainings at once."""
        num_trainings = len(self.predicted_RS)
        found = intervals.mean_class(
            np.tile(self.labels_S, num_trainings), self.predicted_RS.reshape(-1), np.tile(self.blocks_S, num_trainings)
        )
        return Interval(found.value, found.low, found.high, len(self.labels_S))

    def spread(self) -> float:
        """Standard deviation of top-1 over trainings; NaN for one."""
        per_training_R = (self.predicted_RS == self.labels_S).mean(axis=1)
        return float(per_training_R.std(ddof=1)) if len(per_training_R) > 1 else math.nan
