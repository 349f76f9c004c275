"""What a network said of samples, as CSV tables: each sample, each class, and class by class.

Legend: S samples, K classes.
"""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from slowfast_ray.learning.predictions import Predictions


def per_class(found: Predictions, classes: Sequence[str], path: Path) -> None:
    """Each class: samples, recall, precision, F1, average precision."""
    rows = [{**asdict(each), "f1": each.f1} for each in found.per_class(classes)]
    _write(path, list(rows[0]), (each.values() for each in rows))


def confusion(found: Predictions, classes: Sequence[str], path: Path) -> None:
    """True class by predicted class [samples]; not where a sample can have several labels."""
    rows = ([name, *row] for name, row in zip(classes, found.confusion_KK().tolist(), strict=True))
    _write(path, ["truth \\ predicted", *classes], rows)


def predictions(found: Predictions, classes: Sequence[str], places: Sequence[Mapping[str, object]], path: Path) -> None:
    """Each sample: where it is (`places`, a mapping of columns for each), what is true, what was said, and the
    probability of every class.
    """
    probability_SK = found.probabilities_SK()
    top_S3 = probability_SK.argsort(dim=1, descending=True, stable=True)[:, :3]
    header = [*places[0], "truth", "predicted", "is_right", "probability"]
    header += [f"top{rank}" for rank in range(1, top_S3.shape[1] + 1)] + [f"p({name})" for name in classes]
    _write(
        path,
        header,
        (
            [
                *place.values(), _names(is_true_K, classes), _names(is_said_K, classes), int(is_right),
                probability_K.max(), *(classes[k] for k in top_3), *probability_K,
            ]
            for place, is_true_K, is_said_K, is_right, probability_K, top_3 in zip(
                places, found.is_true_SK().numpy(), found.is_said_SK().numpy(), found.right_S().tolist(),
                probability_SK.numpy(), top_S3.tolist(), strict=True,
            )
        ),
    )  # fmt: skip


def _names(chosen_K: np.ndarray, classes: Sequence[str]) -> str:
    return " | ".join(classes[k] for k in np.flatnonzero(chosen_K).tolist())


def _write(path: Path, header: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """A table; fractions with six digits, and nothing where one is unknown."""
    with path.open("x", encoding="utf-8", errors="replace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([_cell(value) for value in row] for row in rows)


def _cell(value: object) -> object:
    if isinstance(value, float):  # numpy's float64 is one
        return "" if math.isnan(value) else f"{value:.6f}"
    return value
