"""The SlowFast network: one fast clip in, logits out; it picks the slow frames itself.

The layers are pytorchvideo's `create_slowfast`; parameter names are its own (`blocks.0.multipathway_blocks...`), so
that its published weights fit. Feichtenhofer et al. 2019, arXiv 1812.03982.

    fast clip  B x 1 x T x H x W ----------------------------> fast pathway (few channels, every frame)
                  |                                                |  laterals, after the stem and stages 2 to 4
                  +-- every alpha-th frame: B x 1 x T/alpha ---> slow pathway --> pool both --> logits B x K
"""

import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from slowfast_ray.model.config import ModelConfig


@contextmanager
def _without_torchvision() -> Iterator[None]:
    """Lets pytorchvideo be imported without torchvision.

    Its module of heads imports `torchvision.ops.RoIAlign` for a detection head that SlowFast never uses, and a
    torchvision built for another torch fails at import. A stand-in for that one name exists during the import alone.
    """
    names = ("torchvision", "torchvision.ops")
    if any(name in sys.modules for name in names):  # somebody imported a working one
        yield
        return
    package, operators = (types.ModuleType(name) for name in names)
    package.ops, operators.RoIAlign = operators, None  # pyright: ignore[reportAttributeAccessIssue]
    sys.modules.update(zip(names, (package, operators), strict=True))
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


with _without_torchvision():
    from pytorchvideo.models.slowfast import create_slowfast


class SlowFast(nn.Module):
    """Takes clips float [B, 1, T, H, W], T divisible by alpha, H and W of at least 32 or so; gives logits [B, K]."""

    def __init__(self, blocks: nn.ModuleList, alpha: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.alpha = alpha

    def forward(self, clip_B1THW: torch.Tensor) -> torch.Tensor:
        """Logits of a batch of clips."""
        pathways: list[torch.Tensor] | torch.Tensor = [clip_B1THW[:, :, :: self.alpha], clip_B1THW]
        for block in self.blocks:
            pathways = block(pathways)
        assert isinstance(pathways, torch.Tensor)
        return pathways


def build(config: ModelConfig) -> SlowFast:
    """A freshly initialised network; the global torch seed decides its weights.

    Raises ValueError while the number of classes is unknown.
    """
    if config.num_classes is None:
        raise ValueError("`model.num_classes` (=None) must be known to build a network; take it from the dataset.")
    # Its annotations say Tuple[int] where it wants one value a pathway.
    create: Callable[..., nn.Module] = create_slowfast
    network = create(
        input_channels=(1, 1),
        model_depth=config.depth,
        model_num_class=config.num_classes,
        dropout_rate=config.dropout,
        stem_dim_outs=(int(64 * config.width), int(8 * config.width)),
        slowfast_fusion_conv_kernel_size=(config.lateral_kernel, 1, 1),
        slowfast_fusion_conv_stride=(config.alpha, 1, 1),
        # The default pools windows of 7 x 7, right for 224 x 224 pixels only.
        head_pool=nn.AdaptiveAvgPool3d,
    )
    assert isinstance(network.blocks, nn.ModuleList)
    return SlowFast(network.blocks, config.alpha)
