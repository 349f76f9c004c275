"""A checkpoint scored again on its validation samples, from one view of each or from several.

The samples are those that it validated on, or nothing is scored: the split's fingerprint says so. What comes out is
written by evaluation_files.py and drawn by evaluation_pictures.py.
"""

import math
import os
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
from slowfast_ray.learning.checkpoint import Progress
from slowfast_ray.learning.intervals import Interval
from slowfast_ray.learning.predictions import Predictions
from slowfast_ray.model import slowfast
from slowfast_ray.running import begun, scores, storage, tracking, wiring

_NAME_OF = {
    counts.VAL_LOSS: counts.EVAL_LOSS,
    counts.VAL_TOP1: counts.EVAL_TOP1,
    counts.VAL_TOP5: counts.EVAL_TOP5,
    counts.VAL_MEAN_CLASS: counts.EVAL_MEAN_CLASS,
    counts.VAL_MEAN_AP: counts.EVAL_MEAN_AP,
    counts.VAL_SAMPLES: counts.EVAL_SAMPLES,
}


@dataclass(frozen=True)
class Plan:
    """What is scored, how, and where the results go."""

    checkpoint: Path
    progress: Progress
    experiment: Experiment
    """As the checkpoint holds it; its dataset may have been moved."""
    views: tuple[View, ...]
    suffix: str
    """Names the views, where there are several: -clips3-crops3."""
    out: Path
    """A folder that does not exist yet."""

    @property
    def run_folder(self) -> Path:
        """The folder of the run or trial."""
        return self.checkpoint.parent


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
    place = Path(os.path.normpath(place.expanduser().absolute()))
    chosen = place if (place / "progress.json").is_file() else checkpoint.best_in(place)
    progress = checkpoint.read_progress(chosen)
    try:
        experiment = Experiment.from_json((chosen / begun.BEGUN_AS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{chosen} does not tell its experiment: {error}") from error
    if root is not None:
        experiment = experiment.override({"data.root": root})
    named = (("clips", num_clips), ("crops", num_crops))
    suffix = "".join(f"-{name}{number}" for name, number in named if number > 1)
    out = (out or chosen.parent / f"evaluation-{chosen.name}{suffix}").expanduser()
    if out.exists():
        raise ValueError(f"{out} exists, and nothing is overwritten; name another folder with `--out`.")
    if not out.parent.is_dir():
        raise ValueError(f"`out` (={out}) lies in no folder: {out.parent} is none; make it first.")
    storage.check_writable(out.parent, "out")
    return Plan(chosen, progress, experiment, chosen_views, suffix, out)


def score(plan: Plan) -> Evaluation:
    """Scores the validation samples from every view, on the GPU where there is one.

    Raises ValueError where the dataset gives other samples than the run had, and for weights that do not fit.
    """
    data = dataset.load(plan.experiment.data)
    _check_same_samples(plan, data)
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


def predict(folder: Path, experiment: Experiment, data: Dataset, chosen: Sequence[View]) -> Predictions:
    """What the checkpoint in `folder` says of the validation samples of `data`, averaged over views, on the GPU where
    there is one. Raises ValueError for weights that do not fit.
    """
    experiment = wiring.with_classes(experiment, data)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = slowfast.build(experiment.model).to(device)
    checkpoint.load_weights(folder, model)
    batches = batches_of(experiment, data, device)
    seen = [loop.evaluate(model, batches.val(view), batches.num_val_samples, experiment.learning) for view in chosen]
    if not all(each.logits_SK.isfinite().all() for each in seen):
        raise ValueError(f"The network of {folder} gives values that are no numbers; take an earlier checkpoint.")
    return Predictions.averaged(seen)


def batches_of(experiment: Experiment, data: Dataset, device: torch.device) -> Batches:
    """The batches of a single worker."""
    batch_size, seed = experiment.learning.batch_size, experiment.run.seed
    return Batches(data, experiment.data, batch_size=batch_size, seed=seed, device=device)


def _check_same_samples(plan: Plan, data: Dataset) -> None:
    recorded = begun.split_fingerprint(plan.run_folder)
    if recorded != data.fingerprint:
        raise ValueError(
            f"A checkpoint is scored on the samples that it validated on, but {data.root} gives others than "
            f"{plan.run_folder} had: the split's fingerprint is {data.fingerprint}, but was {recorded}; restore the "
            "data, or name its folder with `--root`."
        )


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
