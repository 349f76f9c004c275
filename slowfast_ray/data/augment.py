"""From degrees Celsius at native size to what the model sees: vary, normalise, and resize once, last.

All frames of a clip are varied alike, and all clips of a batch in one pass on their device. The region around a person,
flip, shift and crop are one affine map of coordinates that the final resize applies, so that a clip is interpolated
exactly once.

What varies is drawn on the CPU for the whole batch, and each worker takes its share of the draws: a batch is the same
however many workers share it, and on any device.

Shapes: B clips, T frames, H and W height and width before the resize.
"""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F

from slowfast_ray.data.config import DataConfig

# Kinetics weights expect grey values normalised like this; PySlowFast and pytorchvideo both use these two numbers.
MEAN = 0.45
STD = 0.225
MAX_ERASED = 0.4
"""Longest side of an erased rectangle [fraction of the side]: at most 16 % of the picture is lost."""


@dataclass(frozen=True)
class Region:
    """The part of each frame that a clip is about, in fractions of the frame's width and height."""

    center_BT2: torch.Tensor
    """x and y; one T for all frames of a clip, or one for each."""
    half_B2: torch.Tensor
    """Half the width and half the height."""


@dataclass(frozen=True)
class Variation:
    """What is varied, one row a clip. Positions and sizes are fractions of the side."""

    scale_B2: torch.Tensor
    """Crop size in (x, y), negative where flipped."""
    shift_B2: torch.Tensor
    """Crop centre in (x, y), from the middle, where -1 and 1 are the borders."""
    gain_B: torch.Tensor
    offset_celsius_B: torch.Tensor
    erased_B4: torch.Tensor
    """Rectangle (top, bottom, left, right); empty where nothing is erased."""

    def rows(self, part: slice) -> "Variation":
        """The same for some of the clips."""
        return Variation(**{each.name: getattr(self, each.name)[part] for each in fields(self)})


def draw(config: DataConfig, num_clips: int, generator: torch.Generator) -> Variation:
    """Variations for `num_clips` clips, from a CPU generator."""

    def uniform(low: float, high: float, *columns: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(num_clips, *columns, generator=generator)

    size_B1 = uniform(config.min_crop, 1.0, 1)
    flips_B2 = torch.where(uniform(0.0, 1.0, 2) < config.flip_prob, -1.0, 1.0)
    # A crop may lie anywhere inside the picture; the shift moves it further, over the border, which is repeated.
    shift_B2 = uniform(-1.0, 1.0, 2) * (1 - size_B1) + uniform(-2 * config.max_shift, 2 * config.max_shift, 2)
    height_width_B2 = uniform(0.1, MAX_ERASED, 2)
    height_width_B2 = torch.where(uniform(0.0, 1.0, 1) < config.erase_prob, height_width_B2, 0.0)
    top_left_B2 = uniform(0.0, 1.0, 2) * (1 - height_width_B2)
    bottom_right_B2 = top_left_B2 + height_width_B2
    return Variation(
        scale_B2=size_B1 * flips_B2,
        shift_B2=shift_B2,
        gain_B=uniform(1 - config.gain_jitter, 1 + config.gain_jitter),
        offset_celsius_B=uniform(-config.offset_jitter_celsius, config.offset_jitter_celsius),
        erased_B4=torch.stack([top_left_B2, bottom_right_B2], dim=2).flatten(1),
    )


def crop(config: DataConfig, num_clips: int, place: float) -> Variation:
    """One crop for all of `num_clips` clips, and nothing else varied: of the size that training crops have on average.

    `place` is where it lies along the longer side of what the model sees (ties: the width): -1 at its beginning, 0 in
    the middle, 1 at its end.
    """
    size = (1 + config.min_crop) / 2
    shift = place * (1 - size)
    shift_2 = torch.tensor([shift, 0.0] if config.width >= config.height else [0.0, shift])
    return Variation(
        scale_B2=torch.full((num_clips, 2), size),
        shift_B2=shift_2.expand(num_clips, 2),
        gain_B=torch.ones(num_clips),
        offset_celsius_B=torch.zeros(num_clips),
        erased_B4=torch.zeros(num_clips, 4),
    )


def prepare(
    clip_B1THW: torch.Tensor, config: DataConfig, variation: Variation | None = None, region: Region | None = None
) -> torch.Tensor:
    """float32 [B, 1, T, config.height, config.width], normalised, from clips in degrees Celsius at native size.

    Without a variation this is what evaluation and prediction see; without a region, of the whole frame. Where a region
    reaches over the border, the border is repeated.
    """
    # In float32, also where the network that takes the clips computes otherwise: in 16 bits a grid is off by pixels.
    with torch.autocast(clip_B1THW.device.type, enabled=False):
        return _prepared(clip_B1THW, config, variation, region)


def _prepared(
    clip_B1THW: torch.Tensor, config: DataConfig, variation: Variation | None, region: Region | None
) -> torch.Tensor:
    if variation is not None:
        variation = Variation(
            **{
                each.name: getattr(variation, each.name).to(clip_B1THW.device, non_blocking=True)
                for each in fields(variation)
            }
        )
        clip_B1THW = _erase(_jitter(clip_B1THW, variation), variation.erased_B4, region)
    span_celsius = config.max_celsius - config.min_celsius
    clip_B1THW = (((clip_B1THW - config.min_celsius) / span_celsius).clamp(0, 1) - MEAN) / STD
    clip_BTHW = clip_B1THW[:, 0]  # frames stand in for channels: the 2D resize below treats all of them alike
    size = (config.height, config.width)
    if region is not None:
        clip_BTHW = _resample_region(clip_BTHW, region, variation, size)
    elif variation is not None:
        clip_BTHW = _resample(clip_BTHW, variation, size)
    elif clip_BTHW.shape[2:] != size:
        clip_BTHW = F.interpolate(clip_BTHW, size, mode="bilinear", align_corners=False)
    return clip_BTHW[:, None]


def _jitter(clip_B1THW: torch.Tensor, variation: Variation) -> torch.Tensor:
    mean_B1111 = clip_B1THW.mean(dim=(1, 2, 3, 4), keepdim=True)
    gain_B1111 = variation.gain_B.view(-1, 1, 1, 1, 1)
    offset_B1111 = variation.offset_celsius_B.view(-1, 1, 1, 1, 1)
    return mean_B1111 + (clip_B1THW - mean_B1111) * gain_B1111 + offset_B1111


def _erase(clip_B1THW: torch.Tensor, erased_B4: torch.Tensor, region: Region | None) -> torch.Tensor:
    height, width = clip_B1THW.shape[3:]
    # Centres of the pixels as fractions of the side.
    rows_H = (torch.arange(height, device=clip_B1THW.device) + 0.5) / height
    columns_W = (torch.arange(width, device=clip_B1THW.device) + 0.5) / width
    top_B1, bottom_B1, left_B1, right_B1 = erased_B4.split(1, dim=1)
    if region is not None:  # the rectangle is one of the region, and moves with it
        (left_B1, top_B1), (right_B1, bottom_B1) = (
            (region.center_BT2 + (2 * corner_B2[:, None] - 1) * region.half_B2[:, None]).unbind(dim=2)
            for corner_B2 in (torch.cat([left_B1, top_B1], dim=1), torch.cat([right_B1, bottom_B1], dim=1))
        )
    inside_BTH = (rows_H >= top_B1[..., None]) & (rows_H < bottom_B1[..., None])
    inside_BTW = (columns_W >= left_B1[..., None]) & (columns_W < right_B1[..., None])
    inside_B1THW = (inside_BTH[..., :, None] & inside_BTW[..., None, :])[:, None]
    return torch.where(inside_B1THW, clip_B1THW.mean(dim=(1, 2, 3, 4), keepdim=True), clip_B1THW)


def _resample(clip_BTHW: torch.Tensor, variation: Variation, size: tuple[int, int]) -> torch.Tensor:
    num_clips = len(clip_BTHW)
    theta_B23 = clip_BTHW.new_zeros(num_clips, 2, 3)
    theta_B23[:, [0, 1], [0, 1]] = variation.scale_B2
    theta_B23[:, :, 2] = variation.shift_B2
    grid_BHW2 = F.affine_grid(theta_B23, [num_clips, 1, *size], align_corners=False)
    return F.grid_sample(clip_BTHW, grid_BHW2, mode="bilinear", padding_mode="border", align_corners=False)


def _resample_region(
    clip_BTHW: torch.Tensor, region: Region, variation: Variation | None, size: tuple[int, int]
) -> torch.Tensor:
    num_clips, num_frames = clip_BTHW.shape[:2]
    scale_BT2 = region.half_B2[:, None].expand(num_clips, num_frames, 2) * 2
    shift_BT2 = (2 * region.center_BT2 - 1).expand(num_clips, num_frames, 2)
    if variation is not None:  # the variation moves inside the region
        shift_BT2 = shift_BT2 + scale_BT2 * variation.shift_B2[:, None]
        scale_BT2 = scale_BT2 * variation.scale_B2[:, None]
    theta_BT23 = clip_BTHW.new_zeros(num_clips, num_frames, 2, 3)
    theta_BT23[..., [0, 1], [0, 1]] = scale_BT2
    theta_BT23[..., 2] = shift_BT2
    grid = F.affine_grid(theta_BT23.flatten(0, 1), [num_clips * num_frames, 1, *size], align_corners=False)
    frames = clip_BTHW.flatten(0, 1)[:, None]
    resized = F.grid_sample(frames, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return resized.view(num_clips, num_frames, *size)
