"""What of a network learns in an epoch: frozen stages, which may thaw one after the other, and BatchNorm's policy.

A frozen stage is as it is in evaluation: its weights do not move, and its BatchNorm keeps its statistics.
"""

import re

from torch import nn

from slowfast_ray.model.config import NUM_STAGES, ModelConfig
from slowfast_ray.model.slowfast import SlowFast


def depth_of(parameter_name: str) -> int:
    """How far a parameter is from the output: 0 in the classifier, 1 in the last stage, NUM_STAGES in the stem."""
    found = re.match(r"blocks\.(\d+)\.", parameter_name)
    assert found is not None, parameter_name
    return max(0, NUM_STAGES - int(found[1]))


def num_frozen(config: ModelConfig, epoch: int) -> int:
    """Stages, from the input up, that do not learn in `epoch`, counted from 1."""
    num_thawed = 0 if config.unfreeze_every is None else (epoch - 1) // config.unfreeze_every
    return max(0, config.freeze_stages - num_thawed)


def begin_epoch(model: SlowFast, config: ModelConfig, epoch: int) -> None:
    """Puts the network into the state in which it trains in `epoch`, counted from 1."""
    model.train()
    model.requires_grad_(True)
    for stage in model.blocks[: num_frozen(config, epoch)]:
        stage.eval()
        stage.requires_grad_(False)
    if config.batch_norm == "train":
        return
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm3d):
            norm.eval()
            if config.batch_norm == "frozen":
                norm.requires_grad_(False)
