"""The optimiser of a network and its learning-rate schedule."""

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from slowfast_ray.learning import schedule
from slowfast_ray.learning.config import LearningConfig


def build(model: nn.Module, config: LearningConfig, num_steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """SGD with Nesterov momentum or AdamW, and a scheduler that is stepped once a step, `num_steps` times."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [each for each in parameters if each.ndim > 1], "weight_decay": config.weight_decay},
        # Norms and biases do not decay: PySlowFast's recipes set BN.WEIGHT_DECAY to 0.
        {"params": [each for each in parameters if each.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0
        )
    else:
        optimizer = torch.optim.AdamW(groups, lr=config.lr)
    num_warmup_steps = round(num_steps * config.warmup_fraction)
    return optimizer, LambdaLR(
        optimizer, lambda step: schedule.factor(step, num_steps=num_steps, num_warmup_steps=num_warmup_steps)
    )
