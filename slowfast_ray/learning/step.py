"""One step of the optimiser: a whole batch, in as many micro-batches as memory asks for, over all workers.

Where a micro-batch does not fit into a GPU, all workers halve it together and take the step again, so that the
optimiser sees the same batch. Gradients are summed over the workers here, in one message with whether they all fitted:
a worker that ran out of memory in the middle of a step leaves nobody waiting. What is not taken back of the failed try
are its draws of dropout, and that BatchNorm's running statistics saw its clips.

Shapes: B clips of this worker, T frames, H and W height and width, K classes.
"""

import logging
import re
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from slowfast_ray.learning import mixing
from slowfast_ray.learning.config import LearningConfig
from slowfast_ray.learning.counts import Counts
from slowfast_ray.learning.learner import Learner
from slowfast_ray.learning.loss import Loss
from slowfast_ray.learning.mixing import Mixed

log = logging.getLogger(__name__)


class DoesNotFitError(RuntimeError):
    """A single clip does not fit into the memory of a GPU."""


@dataclass
class Leaving:
    """Whether training is left after a step, to go on elsewhere: as soon as one worker must, all do."""

    wanted: bool = False
    """By this worker, before the step."""
    agreed: bool = False
    """By all, after it."""


_NO_WAY_FITTED = re.compile(r"unable to find an engine|CUDNN_STATUS_ALLOC_FAILED|CUBLAS_STATUS_ALLOC_FAILED")
"""How cuDNN and cuBLAS put it where memory is short: cuDNN passes over each way that lacks it, until none is left."""


def autocast(device: torch.device, config: LearningConfig) -> torch.autocast:
    """The context in which the network computes."""
    dtype = torch.float16 if config.precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=config.precision != "fp32")


def take(
    learner: Learner,
    clip_B1THW: torch.Tensor,
    target: torch.Tensor,
    config: LearningConfig,
    loss: Loss,
    total: Counts,
    leaving: Leaving | None = None,
) -> torch.Tensor:
    """Moves the weights by one batch, of which this is the worker's share; gives the mean loss over all workers.

    The clips are added to `total`; on `leaving` all workers agree, in the message of their gradients. Raises
    DoesNotFitError where not even one clip at a time fits.
    """
    leaving = leaving or Leaving()
    mixed = mixing.mix(clip_B1THW, target, config)
    while True:
        learner.optimizer.zero_grad(set_to_none=True)
        outputs = _gradients(learner, mixed, config, loss)
        mean_loss, all_fit = _over_workers(learner, None if outputs is None else outputs[1].mean(), leaving)
        if all_fit:
            break
        _halve(learner, num_clips=len(clip_B1THW))
    assert outputs is not None, "it is one of those that fitted"
    learner.scaler.unscale_(learner.optimizer)
    nn.utils.clip_grad_norm_(learner.model.parameters(), config.max_grad_norm)
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    learner.scheduler.step()
    if learner.average is not None:
        learner.average.update_parameters(learner.model)
    total.add(outputs[0], target, outputs[1])
    return mean_loss


def _gradients(
    learner: Learner, mixed: Mixed, config: LearningConfig, loss: Loss
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Adds up the gradients of the mean loss of this worker's clips; gives their logits [B, K] and losses [B].

    None where memory ran out: nothing then holds what was computed until there.
    """
    num_clips = len(mixed.clip_B1THW)
    logits, losses = [], []
    try:
        for first in range(0, num_clips, learner.micro_batch):
            part = slice(first, first + learner.micro_batch)
            with autocast(mixed.clip_B1THW.device, config):
                logits_MK = learner.model(mixed.clip_B1THW[part])
            loss_M = mixed.loss(loss, logits_MK, part)
            learner.scaler.scale(loss_M.sum() / num_clips).backward()
            logits.append(logits_MK.detach())
            losses.append(loss_M.detach())
    except torch.OutOfMemoryError:
        return None
    except RuntimeError as error:
        # With one clip it is no question of memory: a kind of number that the GPU cannot compute with, perhaps.
        if learner.micro_batch == 1 or not _NO_WAY_FITTED.search(str(error)):
            raise
        return None
    return torch.cat(logits), torch.cat(losses)


def _over_workers(learner: Learner, loss: torch.Tensor | None, leaving: Leaving) -> tuple[torch.Tensor, bool]:
    """Averages the gradients over the workers; gives the mean loss, and whether all of them had the memory."""
    if not dist.is_initialized():
        leaving.agreed = leaving.wanted
        return (torch.tensor(0.0), False) if loss is None else (loss, True)
    learning = [each for each in learner.model.parameters() if each.requires_grad]
    if loss is None:
        learner.optimizer.zero_grad(set_to_none=True)
    # Zeros also for what no clip reached: the message has the same length from all.
    gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in learning]
    device = learning[0].device
    told = torch.tensor([float(loss is None), float(leaving.wanted), 0.0], device=device)
    if loss is not None:
        told[2] = loss
    message = torch.cat([told, *(each.flatten() for each in gradients)])
    dist.all_reduce(message)
    message /= dist.get_world_size()
    lacks_memory, leaves = (message[:2] > 0).tolist()
    leaving.agreed = leaves
    if lacks_memory:
        return torch.tensor(0.0), False
    parts = message[3:].split([each.numel() for each in learning])
    for parameter, part in zip(learning, parts, strict=True):
        parameter.grad = part.view_as(parameter)
    return message[2].clone(), True  # a copy: a part would keep the whole message alive


def _halve(learner: Learner, num_clips: int) -> None:
    """To half of the clips at once or less, into equal parts: a part of one clip may be too small for BatchNorm."""
    if learner.micro_batch == 1:
        raise DoesNotFitError("Not even one clip at a time fits into the GPU's memory.")
    half = learner.micro_batch // 2
    learner.micro_batch = next(size for size in range(half, 0, -1) if num_clips % size == 0)
    log.warning(
        "The GPU's memory is too small: from here on %d clip(s) at a time, with gradients added up to the same batch.",
        learner.micro_batch,
    )
    learner.optimizer.zero_grad(set_to_none=True)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
