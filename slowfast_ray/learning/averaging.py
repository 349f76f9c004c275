"""What is evaluated and kept: an average of the weights over the steps, and BatchNorm statistics taken anew."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import PARAM_LIST, AveragedModel, get_ema_multi_avg_fn

WARMUP_STEPS = 10
"""In step n the average forgets by (1 + n) / (10 + n) where this is less than its decay, as TensorFlow's
ExponentialMovingAverage does with `num_updates`: a short training is not held back by its first weights."""


def start(model: nn.Module, decay: float) -> AveragedModel:
    """An average that begins as `model` is now, buffers included; `update_parameters(model)` takes in a step."""

    @torch.no_grad()
    def update(averages: PARAM_LIST, currents: PARAM_LIST, _: torch.Tensor | int) -> None:
        # Not the number that torch hands over: it lies on the GPU, which would be waited for in each step.
        num_steps = int(averaged.n_averaged)
        if averages[0].is_floating_point():  # they come by their kind
            now = min(decay, (1 + num_steps) / (WARMUP_STEPS + num_steps))
            get_ema_multi_avg_fn(now)(averages, currents, num_steps)
        else:  # BatchNorm's count of batches
            for average, current in zip(averages, currents, strict=True):
                average.copy_(current)

    averaged = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    return averaged


@torch.no_grad()
def take_statistics(model: nn.Module, clips: Iterable[torch.Tensor], learning_norms: Iterable[str]) -> None:
    """Replaces the running statistics of the BatchNorms that are named by plain means over some batches of clips.

    All else stays as in evaluation: nothing is dropped, and a frozen norm keeps its statistics.
    """
    model.eval()
    with _counting_each_alike([model.get_submodule(name) for name in learning_norms]):
        for clip_B1THW in clips:
            model(clip_B1THW)
    model.eval()


def norms_that_learn(model: nn.Module) -> list[str]:
    """The names of the BatchNorms that take their batch's statistics in training as `model` stands."""
    return [name for name, each in model.named_modules() if isinstance(each, _BatchNorm) and each.training]


@contextmanager
def _counting_each_alike(norms: list[nn.Module]) -> Iterator[None]:
    batch_norms = [each for each in norms if isinstance(each, _BatchNorm)]
    momenta = [each.momentum for each in batch_norms]
    for each in batch_norms:
        each.train()
        each.reset_running_stats()
        each.momentum = None  # torch's word for a plain mean
    try:
        yield
    finally:
        for each, momentum in zip(batch_norms, momenta, strict=True):
            each.momentum = momentum


@torch.no_grad()
def over_workers(model: nn.Module, learning_norms: Iterable[str]) -> None:
    """The running statistics of the BatchNorms that are named, averaged over workers: each saw its own share, and all
    evaluate one network. Frozen norms are the same on all, and stay so to the last bit.
    """
    if not dist.is_initialized():
        return
    for name in learning_norms:
        for buffer in model.get_submodule(name).buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= dist.get_world_size()
