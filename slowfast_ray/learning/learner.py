"""A network on its way: the weights, and what moves them."""

from dataclasses import dataclass, field

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from slowfast_ray.learning import averaging
from slowfast_ray.learning.config import LearningConfig
from slowfast_ray.learning.optimizer import DepthOf, all_alike
from slowfast_ray.learning.optimizer import build as build_optimizer


class UnfitDeviceError(ValueError):
    """A device cannot compute as it is asked to, whatever is trained on it; that of another machine may."""


@dataclass
class Learner:
    """A network on its way: what changes from step to step, and what a checkpoint therefore holds."""

    model: nn.Module
    optimizer: Optimizer
    scheduler: LambdaLR
    micro_batch: int
    """Clips that go through the network at once on this worker; all workers have the same."""
    average: AveragedModel | None = None
    """Of the weights over the steps, where they are averaged."""
    scaler: GradScaler = field(default_factory=lambda: GradScaler("cpu", enabled=False))
    num_epochs_done: int = 0

    @staticmethod
    def start(
        model: nn.Module,
        config: LearningConfig,
        num_train_steps: int,
        *,
        num_workers: int = 1,
        depth_of: DepthOf = all_alike,
    ) -> "Learner":
        """A learner before its first step. Raises UnfitDeviceError where the device cannot compute in
        `config.precision`.
        """
        device = next(model.parameters()).device
        check_precision(config, device)
        return Learner(
            model,
            *build_optimizer(model, config, num_train_steps * config.num_epochs, depth_of),
            micro_batch=config.micro_batch or config.batch_size // num_workers,
            average=averaging.start(model, config.ema_decay) if config.ema_decay else None,
            scaler=GradScaler(device.type, enabled=config.precision == "fp16"),
        )

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated and kept: the average, or the one that trains."""
        return self.model if self.average is None else self.average.module


def check_precision(config: LearningConfig, device: torch.device) -> None:
    """Raises UnfitDeviceError where a device cannot train in `config.precision`."""
    if config.precision == "fp16" and device.type != "cuda":
        raise UnfitDeviceError(
            f"`learning.precision` (=fp16) needs a GPU, but this trains on {device.type}; choose fp32 or bf16."
        )
    is_native = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if config.precision == "bf16" and not is_native:
        raise UnfitDeviceError(
            f"`learning.precision` (=bf16) needs a GPU of Ampere's generation or newer, but this trains on "
            f"{torch.cuda.get_device_name(device)}; choose fp16 or fp32."
        )
