"""The report of a training in MLflow: what its newest checkpoint said of the validation samples, and how it came there.

    confusion.csv, .png     true class by predicted class; not where a sample can have several labels
    per_class.csv           each class: samples, recall, precision, F1, average precision
    predictions.csv         each sample: what it is, what was said, and the probability of every class
    learning_curves.png     loss and scores after each epoch

Made from the folder of a checkpoint alone, without the dataset, whenever it is sent.
"""

import json
from pathlib import Path

from slowfast_ray.learning import checkpoint
from slowfast_ray.running.evaluations import evaluation_pictures, evaluation_tables

NAME = "report"
"""Of the folder among a run's artifacts."""


def write(chosen: Path, members: Path, folder: Path) -> None:
    """Writes the report on the checkpoint `chosen` into the empty `folder`; the file `members`, a run's split.json,
    names the samples. Raises ValueError where they cannot be read, or do not belong together.
    """
    progress = checkpoint.read_progress(chosen)
    found, classes = checkpoint.read_predictions(chosen), progress.classes
    try:
        ids = json.loads(members.read_text(encoding="utf-8"))["val"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{members} does not name the validation samples ({error}).") from error
    if len(ids) != len(found.logits_SK):
        raise ValueError(f"{members} names {len(ids)} validation samples, but {chosen} scored {len(found.logits_SK)}.")
    evaluation_tables.per_class(found, classes, folder / "per_class.csv")
    evaluation_tables.predictions(found, classes, [{"sample": each} for each in ids], folder / "predictions.csv")
    if not found.is_multi:
        evaluation_tables.confusion(found, classes, folder / "confusion.csv")
        evaluation_pictures.confusion(found.confusion_KK().numpy(), classes, folder / "confusion.png")
    best_epoch = progress.best_epoch if len(progress.history) > 1 else None
    evaluation_pictures.learning_curves(progress.history, best_epoch, folder / "learning_curves.png")
