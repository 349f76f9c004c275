"""The folder that an evaluation leaves: figures as JSON, tables as CSV, pictures as PNG.

    metrics.json          figures with their intervals, calibration, views and leaks; what is unknown is null
    per_class.csv         each class: samples, recall, precision, F1, average precision
    predictions.csv       each sample: what it is, what was said, and the probability of every class
    reliability.png       what probabilities are worth
    worst_mistakes.png    the most confident mistakes, as the model sees them; none where there are none
    confusion.csv, .png   true class by predicted class; not where a sample can have several labels

Legend: S samples, K classes, T frames, H and W height and width as the model sees them.
"""

import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from slowfast_ray.data.augment import MEAN, STD
from slowfast_ray.data.labels import Sample
from slowfast_ray.learning.calibration import NUM_BINS
from slowfast_ray.running.evaluations import evaluating, evaluation_pictures, evaluation_tables
from slowfast_ray.running.evaluations.evaluating import Evaluation
from slowfast_ray.running.evaluations.evaluation_pictures import Mistake

FORMAT = 1
"""Of metrics.json: raised when a key goes or changes its meaning, not when one comes."""
MAX_MISTAKES = 8
NUM_FRAMES = 7
"""Of each mistake's clip, from its first frame to its last, the keyframe in the middle."""


def write(evaluation: Evaluation) -> None:
    """Writes all files into `evaluation.plan.out`, a new folder.

    Raises FileExistsError where it came to be since it was checked.
    """
    final, found, classes = evaluation.plan.out, evaluation.predictions, evaluation.data.classes
    # Under another name until it is whole: a full disk leaves nothing that stands in the way of the next try.
    out = final.with_name(f".{final.name}.{os.getpid()}")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    (out / "metrics.json").write_text(metrics_json(evaluation), encoding="utf-8")
    evaluation_tables.per_class(found, classes, out / "per_class.csv")
    places = [
        {"sample": each.id, "recording": each.recording, "keyframe": each.keyframe} for each in _samples(evaluation)
    ]
    evaluation_tables.predictions(found, classes, places, out / "predictions.csv")
    evaluation_pictures.reliability(evaluation.calibration, found.is_multi, out / "reliability.png")
    mistakes = worst_mistakes(evaluation)
    if mistakes:
        config = evaluation.plan.experiment.data
        span_celsius = (config.min_celsius, config.max_celsius)
        evaluation_pictures.gallery(mistakes, span_celsius, out / "worst_mistakes.png")
    if not found.is_multi:
        evaluation_tables.confusion(found, classes, out / "confusion.csv")
        evaluation_pictures.confusion(found.confusion_KK().numpy(), classes, out / "confusion.png")
    if final.exists():
        raise FileExistsError(f"{final} came to be meanwhile, and nothing is overwritten; the results are in {out}.")
    out.rename(final)


def metrics_json(evaluation: Evaluation) -> str:
    """All figures for programs; what is unknown is null."""
    plan, data = evaluation.plan, evaluation.data
    content = {
        "format": FORMAT,
        "checkpoint": str(plan.checkpoint),
        "epoch": plan.progress.epoch,
        "best_epoch_by": plan.progress.objective,
        "root": str(data.root),
        "split": data.split_name,
        "labels": data.config.labels,
        "split_fingerprint": data.fingerprint,
        "dataset_fingerprint": data.source.fingerprint,
        "metrics": evaluation.metrics(),
        "intervals": {name: asdict(interval) for name, interval in evaluation.intervals.items()},
        "views": [asdict(view) for view in plan.views],
        "leak_share": {"as_trained": data.leak_share, "of_these_views": evaluation.leak_share},
        "calibration": {
            "error": evaluation.calibration.error,
            "binning": f"{NUM_BINS} bins of equal width from 0 to 1, weighted by the number in each",
            "of": "every class for every sample" if evaluation.predictions.is_multi else "the most likely class",
            "bins": [asdict(each) for each in evaluation.calibration.bins_M],
        },
        "warnings": evaluation.warnings(),
    }
    return json.dumps(_known(content), indent=1, allow_nan=False) + "\n"


def worst_mistakes(evaluation: Evaluation) -> list[Mistake]:
    """The samples whose most likely class is wrong, the most confident first, with frames of their unshifted clips."""
    found, classes = evaluation.predictions, evaluation.data.classes
    probability_SK, is_true_SK = found.probabilities_SK(), found.is_true_SK()
    confidence_S, predicted_S = probability_SK.max(dim=1)
    wrong = (~found.right_S()).nonzero().flatten()
    chosen = wrong[confidence_S[wrong].argsort(descending=True, stable=True)][:MAX_MISTAKES].tolist()
    frames_of = _frames_of(evaluation, chosen)
    samples = _samples(evaluation)
    return [
        Mistake(
            where=f"{samples[s].recording}, keyframe {samples[s].keyframe}, sample {samples[s].id}",
            said=(classes[int(predicted_S[s])], float(confidence_S[s])),
            truth=[(classes[k], float(probability_SK[s, k])) for k in is_true_SK[s].nonzero().flatten().tolist()],
            frames_THW=frames_of[s],
        )
        for s in chosen
    ]


def _frames_of(evaluation: Evaluation, chosen: Sequence[int]) -> dict[int, np.ndarray]:
    """NUM_FRAMES of each clip, the first and the last among them; 0 to 1 between the experiment's temperatures."""
    found: dict[int, np.ndarray] = {}
    config = evaluation.plan.experiment.data
    # Rounded up, so that the middle one is the keyframe's, at clip_len // 2.
    position_T = (np.linspace(0, config.clip_len - 1, min(NUM_FRAMES, config.clip_len)) + 0.5).astype(int)
    batches = evaluating.batches_of(evaluation.plan.experiment, evaluation.data, torch.device("cpu"))
    for batch in batches.val():
        for s, clip_1THW in zip(batch.index_B.tolist(), batch.clip_B1THW, strict=True):
            if s in chosen:
                found[s] = clip_1THW[0, position_T].numpy() * STD + MEAN
    return found


def _samples(evaluation: Evaluation) -> list[Sample]:
    """The validation samples, in the order of the predictions."""
    return [evaluation.data.labelled.samples[i] for i in evaluation.data.members.val]


def _known(content: Any) -> Any:
    """The same with null for NaN."""
    if isinstance(content, dict):
        return {name: _known(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_known(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
