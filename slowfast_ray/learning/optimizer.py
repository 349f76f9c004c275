"""The optimiser of a network, how fast each part of it learns, and the learning-rate schedule."""

from collections import defaultdict
from collections.abc import Callable

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from slowfast_ray.learning import schedule
from slowfast_ray.learning.config import LearningConfig

DepthOf = Callable[[str], int]
"""Tells of a parameter, by its name, how far it is from the output: 0 in the classifier."""


def all_alike(parameter_name: str) -> int:
    """The depth of a parameter where all learn at the same rate."""
    return 0


def build(
    model: nn.Module, config: LearningConfig, num_steps: int, depth_of: DepthOf = all_alike
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """SGD with Nesterov momentum or AdamW, and a scheduler that is stepped once a step, `num_steps` times.

    The classifier learns at `config.peak_lr`; the groups go from there to the input.
    """
    members: dict[tuple[int, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # Norms and biases do not decay: PySlowFast's recipes set BN.WEIGHT_DECAY to 0.
            members[depth_of(name), parameter.ndim <= 1].append(parameter)
    groups = [
        {
            "params": members[depth, is_plain],
            "lr": config.peak_lr * lr_factor(config, depth),
            "weight_decay": 0.0 if is_plain else config.weight_decay,
        }
        for depth, is_plain in sorted(members)
    ]
    if config.optimizer == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            groups, lr=config.peak_lr, momentum=config.momentum, nesterov=config.momentum > 0
        )
    else:
        optimizer = torch.optim.AdamW(groups, lr=config.peak_lr)
    num_warmup_steps = round(num_steps * config.warmup_fraction)
    return optimizer, LambdaLR(
        optimizer, lambda step: schedule.factor(step, num_steps=num_steps, num_warmup_steps=num_warmup_steps)
    )


def lr_factor(config: LearningConfig, depth: int) -> float:
    """Learning rate of a part of the network as a share of the classifier's, whose depth is 0."""
    return 1.0 if depth == 0 else config.backbone_lr * config.layer_decay**depth
