"""The SlowFast network: one fast clip in, logits out; it picks the slow frames itself.

The layers are pytorchvideo's `create_slowfast`; parameter names are its own (`blocks.0.multipathway_blocks...`), so
that its published weights fit. Feichtenhofer et al. 2019, arXiv 1812.03982.

    fast clip  B x C x T x H x W ----------------------------> fast pathway (few channels, every frame)
                  |                                                |  laterals, after the stem and stages 2 to 4
                  +-- T/alpha of its frames ---------------------> slow pathway --> pool both --> logits B x K
"""

import sys
import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from slowfast_ray.model.config import NUM_STAGES, ModelConfig


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
    from pytorchvideo.models.slowfast import FastToSlowFusionBuilder, create_slowfast


class SlowFast(nn.Module):
    """Takes clips float [B, C, T, H, W], T divisible by alpha, H and W of at least 32 or so; gives logits [B, K].

    `blocks` are the stem, four residual stages, the pooling and the classifier.
    """

    def __init__(self, blocks: nn.ModuleList, config: ModelConfig) -> None:
        super().__init__()
        self.blocks = blocks
        self._alpha, self._slow_frames = config.alpha, config.slow_frames
        self._recomputes = config.gradient_checkpointing

    def forward(self, clip_BCTHW: torch.Tensor) -> torch.Tensor:
        """Logits of a batch of clips."""
        pathways: list[torch.Tensor] | torch.Tensor = [self._slow(clip_BCTHW), clip_BCTHW]
        for number, block in enumerate(self.blocks):
            if self._recomputes and torch.is_grad_enabled() and number < NUM_STAGES:
                assert isinstance(pathways, list), "stages give both pathways"
                pathways = _checkpointed(block, pathways)
            else:
                pathways = block(pathways)
        assert isinstance(pathways, torch.Tensor)
        return pathways

    def _slow(self, clip_BCTHW: torch.Tensor) -> torch.Tensor:
        num_frames = clip_BCTHW.shape[2]
        if self._slow_frames == "every":
            return clip_BCTHW[:, :, :: self._alpha]
        # As PySlowFast and pytorchvideo have it: fractions are cut off.
        return clip_BCTHW[:, :, torch.linspace(0, num_frames - 1, num_frames // self._alpha).long()]


def _checkpointed(stage: nn.Module, pathways: list[torch.Tensor]) -> list[torch.Tensor]:
    return checkpoint(  # pyright: ignore[reportReturnType]
        lambda *parts: stage(list(parts)),  # a list of its own: the stage puts its results there
        *pathways,
        use_reentrant=False,
        context_fn=lambda: _computed_again(stage),
    )


def _computed_again(stage: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For the first pass through a stage nothing special; for the one on the way back, which sees the same clips:
    BatchNorm's running statistics have taken them in already, and stand still.
    """

    @contextmanager
    def with_statistics_at_rest() -> Iterator[None]:
        norms = [each for each in stage.modules() if isinstance(each, nn.BatchNorm3d)]
        momenta = [each.momentum for each in norms]
        for each in norms:
            each.momentum = 0.0
        try:
            yield
        finally:
            for each, momentum in zip(norms, momenta, strict=True):
                each.momentum = momentum

    return nullcontext(), with_statistics_at_rest()


class _Mean(nn.Module):
    """The mean over time and space. AdaptiveAvgPool3d(1) is the same, but has no deterministic way back on CUDA."""

    def forward(self, features_BCTHW: torch.Tensor) -> torch.Tensor:
        return features_BCTHW.mean(dim=(2, 3, 4), keepdim=True)


def build(config: ModelConfig) -> SlowFast:
    """A freshly initialised network; the global torch seed decides its weights, `config.weights` is not looked at.

    Raises ValueError while the number of classes is unknown.
    """
    if config.num_classes is None:
        raise ValueError("`model.num_classes` (=None) must be known to build a network; take it from the dataset.")
    slow_channels, fast_channels = int(64 * config.width), int(8 * config.width)
    laterals = FastToSlowFusionBuilder(
        slowfast_channel_reduction_ratio=8,
        conv_fusion_channel_ratio=2,
        conv_kernel_size=(config.lateral_kernel, 1, 1),  # pyright: ignore[reportArgumentType]
        conv_stride=(config.alpha, 1, 1),  # pyright: ignore[reportArgumentType]
        norm=nn.BatchNorm3d if config.lateral_norm else None,  # pyright: ignore[reportArgumentType]
        activation=nn.ReLU if config.lateral_norm else None,  # pyright: ignore[reportArgumentType]
    )
    # Its annotations say Tuple[int] where it wants one value a pathway.
    create: Callable[..., nn.Module] = create_slowfast
    network = create(
        input_channels=(config.channels, config.channels),
        model_depth=config.depth,
        model_num_class=config.num_classes,
        dropout_rate=config.dropout,
        stem_dim_outs=(slow_channels, fast_channels),
        fusion_builder=laterals.create_module,
        # The default pools windows of 7 x 7, right for 224 x 224 pixels only.
        head_pool=nn.AdaptiveAvgPool3d,
    )
    assert isinstance(network.blocks, nn.ModuleList)
    network.blocks[NUM_STAGES].pool = nn.ModuleList([_Mean(), _Mean()])
    return SlowFast(network.blocks, config)
