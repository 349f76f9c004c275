"""A checkpoint scored again on its validation samples, from one view of each or from several.

The samples are those that it validated on, or nothing is scored: the split's fingerprint says so. What comes out is
written by evaluation_files.py and drawn by evaluation_pictures.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from slowfast_ray.data import dataset, views
from slowfast_ray.data.batches import Batches
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.data.views import View
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import calibration, checkpoint, counts, loop
from slowfast_ray.learning.calibration import Calibration
from slowfast_ray.learning.intervals import Interval
from slowfast_ray.learning.predictions import Predictions
from slowfast_ray.model import slowfast
from slowfast_ray.running import scores
from slowfast_ray.running.folders import chosen, storage
from slowfast_ray.running.folders.chosen import Chosen
from slowfast_ray.running.tracking import tracking
from slowfast_ray.running.training import wiring

_NAME_OF = {
    counts.VAL_LOSS: counts.EVAL_LOSS,
    counts.VAL_TOP1: counts.EVAL_TOP1,
    counts.VAL_TOP5: counts.EVAL_TOP5,
    counts.VAL_MEAN_CLASS: counts.EVAL_MEAN_CLASS,
    counts.VAL_MEAN_AP: counts.EVAL_MEAN_AP,
    counts.VAL_SAMPLES: counts.EVAL_SAMPLES,
}


@dataclass(frozen=True)
class Plan(Chosen):
    """What is scored, how, and where the results go."""

    views: tuple[View, ...]
    suffix: str
    """Names the views, where there are several: -clips3-crops3."""
    out: Path
    """A folder that does not exist yet."""


@dataclass(frozen=True)
class Evaluation:
    """What a checkpoint says of its validation samples."""

    plan: Plan
    data: Dataset
    predictions: Predictions
    """Averaged over the views."""
    intervals: dict[str, Interval]
    """By the names eval/..., for those metrics that have one."""
    calibration: Calibration
    leak_share: float
    """Share of the validation samples of which a view spans a moment that a training clip spans."""

    def metrics(self) -> dict[str, float]:
        """All figures, under the names eval/... of learning/counts.py."""
        return {
            **{_NAME_OF[name]: value for name, value in self.predictions.metrics().items()},
            counts.EVAL_MACRO_F1: self.predictions.macro_f1(),
            counts.EVAL_CALIBRATION_ERROR: self.calibration.error,
            counts.EVAL_LEAK_SHARE: self.leak_share,
        }

    def warnings(self) -> list[str]:
        """What one should know before one trusts the figures."""
        found = []
        if self.leak_share > self.data.leak_share:
            found.append(
                f"Shifted clips reach further than the split allows for: {self.leak_share:.0%} of the samples show "
                f"moments of training clips, against {self.data.leak_share:.0%} without shifts; a better figure may "
                "come from that alone."
            )
        elif self.leak_share:
            found.append(f"{self.leak_share:.0%} of these samples leak: the figures say little of new recordings.")
        if self.plan.views[0].crop is not None and self.plan.experiment.data.min_crop == 1:
            found.append("`crops` has no effect, since data.min_crop is 1: every crop is the whole frame.")
        return found


def check(
    place: Path, *, num_clips: int = 1, num_crops: int = 1, out: Path | None = None, root: str | None = None
) -> Plan:
    """The plan to evaluate `place`: the folder of a checkpoint, or of a run or trial, whose best epoch it takes.

    Loads and writes nothing. Raises ValueError or OSError for unknown views, a folder without a checkpoint, and where
    `out` exists or cannot be made.
    """
    chosen_views = views.views(num_clips, num_crops)
    found = chosen.choose(place, root)
    named = (("clips", num_clips), ("crops", num_crops))
    suffix = "".join(f"-{name}{number}" for name, number in named if number > 1)
    out = (out or found.run_folder / f"evaluation-{found.checkpoint.name}{suffix}").expanduser()
    if out.exists():
        raise ValueError(f"{out} exists, and nothing is overwritten; name another folder with `--out`.")
    storage.check_place(out, "out")
    return Plan(found.checkpoint, found.progress, found.experiment, chosen_views, suffix, out)


def score(plan: Plan) -> Evaluation:
    """Scores the validation samples from every view, on the GPU where there is one.

    Raises ValueError where the dataset gives other samples than the run had, and for weights that do not fit.
    """
    data = dataset.load(plan.experiment.data)
    chosen.check_same_samples(plan, data, "A checkpoint is scored on the samples that it validated on")
    predictions = predict(plan.checkpoint, plan.experiment, data, plan.views)
    scored = scores.of_predictions(plan.run_folder.name, predictions, data.val)
    return Evaluation(
        plan=plan,
        data=data,
        predictions=predictions,
        intervals={_NAME_OF[name]: interval for name, interval in scored.intervals.items()},
        calibration=calibration.of_predictions(predictions),
        leak_share=float(views.leaks_of(data, plan.views).mean()),
    )


def predict(folder: Path, experiment: Experiment, data: Dataset, chosen_views: Sequence[View]) -> Predictions:
    """What the checkpoint in `folder` says of the validation samples of `data`, averaged over views, on the GPU where
    there is one. Raises ValueError for weights that do not fit.
    """
    experiment = wiring.with_classes(experiment, data)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = slowfast.build(experiment.model).to(device)
    checkpoint.load_weights(folder, model)
    batches = batches_of(experiment, data, device)
    num_samples, learning = batches.num_val_samples, experiment.learning
    seen = [loop.evaluate(model, batches.val(view), num_samples, learning) for view in chosen_views]
    if not all(each.logits_SK.isfinite().all() for each in seen):
        raise ValueError(f"The network of {folder} gives values that are no numbers; take an earlier checkpoint.")
    return Predictions.averaged(seen)


def batches_of(experiment: Experiment, data: Dataset, device: torch.device) -> Batches:
    """The batches of a single worker."""
    batch_size, seed = experiment.learning.batch_size, experiment.run.seed
    return Batches(data, experiment.data, batch_size=batch_size, seed=seed, device=device)


def attach(evaluation: Evaluation) -> str | None:
    """Adds figures and files, once written, to the run's entry in MLflow, whose state stays as it is.

    Figures of several views have the views in their names, eval-clips3-crops3/top1. Gives the entry's id, None where
    there is none. Raises ValueError where the store does not answer or does not take them, and where the entry holds
    an evaluation of these views already.
    """
    plan = evaluation.plan
    metrics = {
        name.replace("eval/", f"eval{plan.suffix}/", 1): value
        for name, value in evaluation.metrics().items()
        if math.isfinite(value)
    }
    return tracking.attach(
        tracking.resolve_uri(plan.experiment.run.tracking_uri),
        plan.run_folder,
        metrics,
        plan.progress.epoch,
        plan.out,
        f"evaluation/{plan.checkpoint.name}{plan.suffix}",
    )
