"""What an experiment needs of a device, in the words of model/cost.py: before a run, and where a clip did not fit."""

import torch

from slowfast_ray.data import memory
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning.step import DoesNotFitError
from slowfast_ray.model import cost
from slowfast_ray.model.cost import Cost, gibibytes


def cost_of(experiment: Experiment) -> Cost:
    """What a clip and the weights ask for."""
    data = experiment.data
    return cost.estimate(
        experiment.model,
        clip_len=data.clip_len,
        height=data.height,
        width=data.width,
        precision_bytes=_precision_bytes(experiment),
    )


def memory_bytes(needed: Cost, experiment: Experiment, micro_batch: int) -> int:
    """What training takes with so many clips at once [bytes]."""
    learning = experiment.learning
    return cost.memory_bytes(
        needed, micro_batch=micro_batch, optimizer=learning.optimizer, has_average=learning.ema_decay > 0
    )


def what_fits(experiment: Experiment, num_bytes: int) -> str:
    """Which changes let one clip at a time train within so much memory, as a list for an error."""
    data, learning = experiment.data, experiment.learning
    return cost.what_fits(
        experiment.model,
        clip_len=data.clip_len,
        height=data.height,
        width=data.width,
        precision_bytes=_precision_bytes(experiment),
        optimizer=learning.optimizer,
        has_average=learning.ema_decay > 0,
        num_bytes=num_bytes,
    )


def explained(error: DoesNotFitError, experiment: Experiment, device: torch.device) -> DoesNotFitError:
    """The error of a clip that fits into no memory, with what it would have needed, and what would fit."""
    data, num_bytes = experiment.data, memory.of_device(device)
    needed = memory_bytes(cost_of(experiment), experiment, 1)
    return DoesNotFitError(
        f"{error} A clip of `data.clip_len` (={data.clip_len}) frames of `data.height` (={data.height}) x "
        f"`data.width` (={data.width}) needs about {gibibytes(needed)} with `model.width` "
        f"(={experiment.model.width:g}); there are {gibibytes(num_bytes)}. Try {what_fits(experiment, num_bytes)}."
    )


def _precision_bytes(experiment: Experiment) -> int:
    return 4 if experiment.learning.precision == "fp32" else 2
