"""Whether the predictions that a checkpoint is judged by are those of its weights: they are computed again.

Shapes: S validation samples that are compared, K classes.
"""

import tempfile
from pathlib import Path

import torch

from slowfast_ray.data.clip_reader import ClipReader
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import loop
from slowfast_ray.learning.predictions import Predictions
from slowfast_ray.running.predicting import Predictor
from slowfast_ray.running.publishing import model_folder

MAX_SAMPLES = 256
"""Of more, so many are compared, spread over all."""
TOLERANCE = {"fp32": 0.01, "bf16": 0.1, "fp16": 0.1}
"""How far logits may lie apart, as a fraction of the largest one, or of 1: GPUs convolve in TF32 even under fp32, and
what was trained on one may be registered on a machine without."""


def check(checkpoint: Path, experiment: Experiment, data: Dataset, predictions: Predictions) -> None:
    """Raises ValueError unless the weights of `checkpoint`, of a run of `experiment`, can be used, and say of the
    validation samples of `data` what its `predictions` say.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        model_folder.write(folder, checkpoint, data)
        try:
            predictor = Predictor.load(folder)
        except ValueError as error:
            raise ValueError(
                f"The weights of {checkpoint} cannot be used ({error.__cause__ or error}); copy it again, or take "
                "another checkpoint."
            ) from error
    if predictions.target.shape != data.val.labels_S.shape or not torch.equal(predictions.target, data.val.labels_S):
        raise ValueError(
            f"The predictions of {checkpoint} are of other samples than its {len(data.val)} validation samples; copy "
            "it again, or take another checkpoint."
        )
    step = -(-len(data.val) // MAX_SAMPLES)
    chosen_S = torch.arange(0, len(data.val), step)
    saved_SK, found_SK = predictions.logits_SK[chosen_S], _logits(predictor, data, chosen_S)
    # As it was trained: the predictor computes fp16 in fp32 where there is no GPU.
    allowed = TOLERANCE[experiment.learning.precision] * max(1.0, float(saved_SK.abs().max()))
    is_other_S = ~((found_SK - saved_SK).abs() <= allowed).all(dim=1)  # NaN is no number within bounds
    if is_other_S.any():
        raise ValueError(
            f"The weights and the predictions of {checkpoint} do not belong together: of {len(chosen_S)} validation "
            f"samples that were computed again, {int(is_other_S.sum())} have logits that differ by more than "
            f"{allowed:.2g}; copy it again, or take another checkpoint."
        )


def _logits(predictor: Predictor, data: Dataset, chosen_S: torch.Tensor) -> torch.Tensor:
    """float32 [S, K], on the CPU."""
    reader = ClipReader(data.frames.on(predictor.device), data.clock, predictor.experiment.data)
    val, learning, found = data.val, predictor.experiment.learning, []
    for chosen in chosen_S.split(learning.batch_size):
        tracks = None if val.tracks is None else val.tracks.rows(chosen)
        clip_B1THW = reader.read(val.keyframes_S[chosen], val.firsts_S[chosen], val.lasts_S[chosen], tracks)
        found.append(loop.logits_of(predictor.model, clip_B1THW, learning).cpu())
    return torch.cat(found)
