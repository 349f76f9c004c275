"""Checkpoints with other weights, and with the predictions that belong to them."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from slowfast_ray.data import dataset
from slowfast_ray.data.clip_reader import ClipReader
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checkpoint, checksums, loop
from slowfast_ray.model import slowfast
from slowfast_ray.running.evaluations import evaluating

HEAD_WEIGHT, HEAD_BIAS = "blocks.6.proj.weight", "blocks.6.proj.bias"


def other(run: Path, to: Path, share_right: float) -> Path:
    """A copy of a run whose best epoch has so many of its validation samples right [fraction]: another classifier on
    the same features.
    """
    copied = Path(shutil.copytree(run, to))
    best = best_of(copied)
    experiment, data = _read(best)
    target_S = data.val.labels_S
    is_right_S = torch.arange(len(target_S)) < share_right * len(target_S)
    said_S = torch.where(is_right_S, target_S, (target_S + 1) % len(data.classes))
    features_SD = _features(best, experiment, data)
    mean_D = features_SD.mean(dim=0)
    wanted_SK = torch.nn.functional.one_hot(said_S, len(data.classes)).double() * 5
    weight_DK = torch.linalg.pinv(features_SD - mean_D, rtol=1e-6) @ wanted_SK
    weights = load_file(best / "weights.safetensors")
    weights[HEAD_WEIGHT] = weight_DK.T.float().reshape(weights[HEAD_WEIGHT].shape).contiguous()
    weights[HEAD_BIAS] = (-mean_D @ weight_DK).float()
    save_file(weights, best / "weights.safetensors")
    judge_again(best)
    assert torch.equal(checkpoint.read_predictions(best).predicted_S(), said_S)
    return copied


def judge_again(folder: Path) -> None:
    """Gives a checkpoint the predictions of the weights that it has now."""
    experiment, data = _read(folder)
    checksums.write(folder)
    model = slowfast.build(experiment.model)
    checkpoint.load_weights(folder, model)
    batches = evaluating.batches_of(experiment, data, torch.device("cpu"))
    found = loop.evaluate(model, batches.val(), len(data.val), experiment.learning)
    (folder / "predictions.safetensors").unlink()
    found.save(folder / "predictions.safetensors")
    checksums.write(folder)


def best_of(run: Path) -> Path:
    """The best checkpoint of a run."""
    best = checkpoint.best(run)
    assert best is not None
    return best


def _read(folder: Path) -> tuple[Experiment, Dataset]:
    experiment = Experiment.from_json((folder / "experiment.json").read_text())
    return experiment, dataset.load(experiment.data)


def _features(folder: Path, experiment: Experiment, data: Dataset) -> torch.Tensor:
    """float64 [S, D]: what the classifier sees of each validation sample."""
    model = slowfast.build(experiment.model).eval()
    checkpoint.load_weights(folder, model)
    reader, val = ClipReader(data.frames_NHW, data.clock, experiment.data), data.val
    found: list[torch.Tensor] = []
    head = model.get_submodule("blocks.6.proj")
    head.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].double().flatten(1, -2).mean(dim=1)))
    with torch.inference_mode():
        model(reader.read(val.keyframes_S, val.firsts_S, val.lasts_S))
    return found[0]
