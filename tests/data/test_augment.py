"""Augmentation: what it must not change, what it may change and how far, and that its draws are shared fairly."""

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from slowfast_ray.data import augment
from slowfast_ray.data.augment import MEAN, STD
from slowfast_ray.data.config import DataConfig

# Shapes: B clips, T frames, H and W height and width.

NOTHING = DataConfig(
    flip_prob=0, max_shift=0, min_crop=1, gain_jitter=0, offset_jitter_celsius=0, erase_prob=0, height=40, width=60
)
"""Training that varies nothing; each test turns on what it is about."""

EVERYTHING = DataConfig(
    flip_prob=0.5, max_shift=0.2, min_crop=0.6, gain_jitter=0.3, offset_jitter_celsius=2, erase_prob=0.7
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_clips(num_clips: int = 3, num_frames: int = 4, height: int = 40, width: int = 60) -> torch.Tensor:
    """Noise within the range of temperatures that is not clipped, even after some warming."""
    return 15 + 12 * torch.rand(num_clips, 1, num_frames, height, width, generator=seeded(99))


def varied(clip_B1THW: torch.Tensor, config: DataConfig, seed: int = 0) -> torch.Tensor:
    return augment.prepare(clip_B1THW, config, augment.draw(config, len(clip_B1THW), seeded(seed)))


def celsius(prepared: torch.Tensor, config: DataConfig) -> torch.Tensor:
    """Back to degrees, where nothing was clipped."""
    return (prepared * STD + MEAN) * (config.max_celsius - config.min_celsius) + config.min_celsius


def assert_close(found: torch.Tensor, expected: torch.Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def test_temperatures_become_normalised_grey_values_and_are_clipped() -> None:
    config = replace(NOTHING, min_celsius=10.0, max_celsius=35.0, height=1, width=5)
    clip_B1THW = torch.tensor([-40.0, 10.0, 22.5, 35.0, 400.0]).view(1, 1, 1, 1, 5)
    expected = (torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]) - MEAN) / STD
    assert_close(augment.prepare(clip_B1THW, config).flatten(), expected, atol=1e-6)
    assert_close(varied(clip_B1THW, config).flatten(), expected, atol=1e-5)


def test_training_that_varies_nothing_is_evaluation() -> None:
    # At the native size, smaller and larger: both ways resize alike, half-pixel centres and all.
    clip_B1THW = some_clips()
    for height, width in ((40, 60), (20, 30), (37, 64), (256, 384)):
        config = replace(NOTHING, height=height, width=width)
        assert_close(varied(clip_B1THW, config), augment.prepare(clip_B1THW, config))


@pytest.mark.parametrize(("height", "width"), [(40, 60), (20, 30), (81, 60)])
def test_the_model_sees_the_size_that_it_asked_for(height: int, width: int) -> None:
    clip_B1THW = some_clips(2, 3)
    config = replace(EVERYTHING, height=height, width=width)
    for prepared in (augment.prepare(clip_B1THW, config), varied(clip_B1THW, config)):
        assert prepared.shape == (2, 1, 3, height, width)
        assert prepared.dtype == torch.float32


def test_evaluation_at_the_native_size_interpolates_nothing() -> None:
    clip_B1THW = some_clips()
    assert_close(celsius(augment.prepare(clip_B1THW, NOTHING), NOTHING), clip_B1THW, atol=1e-5)


def test_evaluation_resizes_each_frame_bilinearly() -> None:
    clip_B1THW = some_clips(2, 3)
    prepared = augment.prepare(clip_B1THW, replace(NOTHING, height=20, width=90))
    for b in range(2):
        for t in range(3):
            alone = F.interpolate(clip_B1THW[b : b + 1, :, t], (20, 90), mode="bilinear", align_corners=False)
            assert_close(celsius(prepared[b, 0, t], NOTHING), alone[0, 0])


def test_the_frames_in_memory_are_not_changed() -> None:
    clip_B1THW = some_clips()
    before = clip_B1THW.clone()
    varied(clip_B1THW, EVERYTHING)
    augment.prepare(clip_B1THW, EVERYTHING)
    assert torch.equal(clip_B1THW, before)


def test_all_frames_of_a_clip_are_varied_alike() -> None:
    # What moves in a still picture would be motion that nobody made.
    still_B1THW = some_clips(8, 1).expand(-1, -1, 5, -1, -1)
    prepared = varied(still_B1THW, EVERYTHING)
    assert torch.equal(prepared, prepared[:, :, :1].expand_as(prepared))


def test_clips_of_a_batch_are_varied_apart() -> None:
    same_B1THW = some_clips(1, 2).expand(8, -1, -1, -1, -1)
    prepared = varied(same_B1THW, EVERYTHING)
    assert not any(torch.allclose(prepared[i], prepared[j]) for i in range(8) for j in range(i))


def test_flips_mirror_the_picture_and_nothing_else() -> None:
    config = replace(NOTHING, flip_prob=0.5)
    clip_B1THW = some_clips(40, 2)
    plain = augment.prepare(clip_B1THW, config)
    mirrors = {(1.0, 1.0): [], (-1.0, 1.0): [-1], (1.0, -1.0): [-2], (-1.0, -1.0): [-2, -1]}
    variation = augment.draw(config, 40, seeded())
    found = augment.prepare(clip_B1THW, config, variation)
    kinds = [tuple(row) for row in variation.scale_B2.tolist()]
    assert set(kinds) == set(mirrors)  # x and y are drawn apart
    for b, kind in enumerate(kinds):
        assert_close(found[b], plain[b].flip(mirrors[kind]))


def test_a_flip_that_is_certain_always_comes() -> None:
    clip_B1THW = some_clips(20, 1)
    plain = augment.prepare(clip_B1THW, NOTHING)
    assert_close(varied(clip_B1THW, replace(NOTHING, flip_prob=1)), plain.flip(-2, -1))


def test_a_shift_moves_the_picture_by_whole_pixels_where_it_is_told_to() -> None:
    # A shift of 2 * 6 / 60 in units where the picture is 2 wide looks 6 pixels further right; the border is repeated.
    variation = augment.draw(NOTHING, 1, seeded())
    clip_B1THW = some_clips(1, 2)
    plain = augment.prepare(clip_B1THW, NOTHING)
    moved = augment.prepare(clip_B1THW, NOTHING, replace(variation, shift_B2=torch.tensor([[2 * 6 / 60, 2 * -5 / 40]])))
    assert_close(moved[..., 5:, :-6], plain[..., :-5, 6:])
    assert_close(moved[..., 5:, -6:], plain[..., :-5, -1:].expand(-1, -1, -1, -1, 6))
    assert_close(moved[..., :5, :-6], plain[..., :1, 6:].expand(-1, -1, -1, 5, -1))


def test_a_crop_enlarges_a_part_of_the_picture() -> None:
    # The middle half of the picture, at half the size: pixel for pixel.
    variation = augment.draw(NOTHING, 1, seeded())
    clip_B1THW = some_clips(1, 2)
    half = replace(NOTHING, height=20, width=30)
    cropped = augment.prepare(clip_B1THW, half, replace(variation, scale_B2=torch.full((1, 2), 0.5)))
    assert_close(cropped, augment.prepare(clip_B1THW, NOTHING)[..., 10:30, 15:45])


def test_without_a_shift_crops_stay_inside_the_picture() -> None:
    variation = augment.draw(replace(NOTHING, min_crop=0.5, flip_prob=0.5), 2000, seeded())
    size_B2, shift_B2 = variation.scale_B2.abs(), variation.shift_B2.abs()
    assert (size_B2 + shift_B2 <= 1 + 1e-6).all()
    assert torch.equal(size_B2[:, 0], size_B2[:, 1])  # nobody is stretched
    # They use the room that they have.
    assert (size_B2 >= 0.5).all()
    assert size_B2.min() < 0.52
    assert size_B2.max() > 0.98
    assert (size_B2 + shift_B2).max() > 0.97


def test_shifts_jitter_and_gains_fill_their_range_and_keep_it() -> None:
    config = replace(NOTHING, max_shift=0.1, gain_jitter=0.2, offset_jitter_celsius=3.0)
    variation = augment.draw(config, 2000, seeded())
    for values, middle, most in (
        (variation.shift_B2, 0, 0.2),  # 0.1 of a side that is 2 long
        (variation.gain_B, 1, 0.2),
        (variation.offset_celsius_B, 0, 3.0),
    ):
        assert (values - middle).abs().max() <= most * (1 + 1e-6)
        assert values.min() < middle - 0.95 * most
        assert values.max() > middle + 0.95 * most


def test_gain_stretches_around_the_mean_and_offset_warms() -> None:
    config = replace(NOTHING, gain_jitter=0.3, offset_jitter_celsius=2)
    clip_B1THW = some_clips()
    variation = augment.draw(config, 3, seeded())
    found = celsius(augment.prepare(clip_B1THW, config, variation), config)
    for b in range(3):
        mean, gain, offset = clip_B1THW[b].mean(), variation.gain_B[b], variation.offset_celsius_B[b]
        assert_close(found[b], mean + gain * (clip_B1THW[b] - mean) + offset, atol=1e-3)


def test_an_erased_rectangle_holds_the_mean_and_a_sixth_of_the_picture_at_most() -> None:
    config = replace(NOTHING, erase_prob=1)
    clip_B1THW = some_clips(200, 2)
    plain, found = augment.prepare(clip_B1THW, NOTHING), varied(clip_B1THW, config)
    is_erased_BTHW = ((found - plain).abs() > 1e-3)[:, 0]
    for b in range(200):
        # A noisy pixel may equal the mean by chance: the rectangle is the one around all changed pixels.
        is_erased_HW = is_erased_BTHW[b].any(dim=0)
        rows, columns = is_erased_HW.nonzero().T
        top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        rectangle = celsius(found[b, 0, :, top:bottom, left:right], config)
        assert_close(rectangle, clip_B1THW[b].mean().expand_as(rectangle), atol=1e-3)
        assert 0 < rectangle[0].numel() <= 0.16 * 40 * 60
        assert is_erased_HW.sum() > 0.97 * rectangle[0].numel() - 1  # and full, not a scatter
    share_B = is_erased_BTHW[:, 0].float().mean(dim=(1, 2))
    assert share_B.max() > 0.12
    assert is_erased_BTHW.any(dim=0)[0].float().mean() > 0.85  # anywhere, save that a corner is hard to reach


@pytest.mark.parametrize("prob", [0.0, 0.25, 1.0])
def test_flips_and_rectangles_come_as_often_as_they_are_asked_for(prob: float) -> None:
    variation = augment.draw(replace(NOTHING, erase_prob=prob, flip_prob=prob), 4000, seeded())
    is_erased_B = variation.erased_B4[:, 1] > variation.erased_B4[:, 0]
    assert is_erased_B.float().mean().item() == pytest.approx(prob, abs=0.03 * (0 < prob < 1))
    for share in (variation.scale_B2 < 0).float().mean(dim=0).tolist():
        assert share == pytest.approx(prob, abs=0.03 * (0 < prob < 1))


def rows_of(variation: augment.Variation) -> list[Any]:
    return [getattr(variation, each.name).tolist() for each in fields(variation)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_network_that_computes_in_16_bits_sees_the_same_clips(dtype: torch.dtype) -> None:
    expected = varied(some_clips(), EVERYTHING)
    with torch.autocast("cpu", dtype=dtype):
        found = varied(some_clips(), EVERYTHING)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_equal_generators_draw_equal_variations() -> None:
    first, again, other = (rows_of(augment.draw(EVERYTHING, 6, seeded(seed))) for seed in (1, 1, 2))
    assert first == again
    assert all(mine != others for mine, others in zip(first, other, strict=True))


def test_drawing_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    varied(some_clips(), EVERYTHING)
    assert torch.equal(torch.get_rng_state(), before)


def test_shares_of_the_draws_put_together_are_the_whole() -> None:
    whole = augment.draw(EVERYTHING, 6, seeded())
    shares = [whole.rows(slice(0, 2)), whole.rows(slice(2, 6))]
    for each in fields(whole):
        assert torch.equal(torch.cat([getattr(share, each.name) for share in shares]), getattr(whole, each.name))


def test_a_clip_is_prepared_alike_in_any_batch() -> None:
    # Whoever shares a batch among workers, or predicts one clip, gets what the whole batch would have given.
    clip_B1THW = some_clips(6)
    config = replace(EVERYTHING, height=30, width=50)
    variation = augment.draw(config, 6, seeded())
    whole = augment.prepare(clip_B1THW, config, variation)
    for part in (slice(0, 1), slice(1, 4), slice(4, 6)):
        assert_close(augment.prepare(clip_B1THW[part], config, variation.rows(part)), whole[part], atol=1e-5)
        assert_close(augment.prepare(clip_B1THW[part], config), augment.prepare(clip_B1THW, config)[part], atol=1e-6)


# Regions


def region_of(*rows: tuple[float, float, float, float]) -> augment.Region:
    """A region for each clip: centre and half side, x before y, the same for all its frames."""
    numbers = torch.tensor(rows)
    return augment.Region(center_BT2=numbers[:, None, :2], half_B2=numbers[:, 2:])


WHOLE = (0.5, 0.5, 0.5, 0.5)


@pytest.mark.parametrize(("height", "width"), [(40, 60), (20, 30), (37, 64)])
def test_a_region_over_the_whole_frame_is_the_whole_frame(height: int, width: int) -> None:
    clip_B1THW = some_clips(5)
    region = region_of(*[WHOLE] * 5)
    config = replace(EVERYTHING, height=height, width=width)
    found = augment.prepare(clip_B1THW, config, region=region)
    assert_close(found, augment.prepare(clip_B1THW, config), atol=1e-4)
    variation = augment.draw(config, 5, seeded())
    expected = augment.prepare(clip_B1THW, config, variation)
    assert_close(augment.prepare(clip_B1THW, config, variation, region), expected, atol=1e-5)
    # One centre for all frames, or the same for each.
    each = augment.Region(region.center_BT2.expand(-1, 4, -1), region.half_B2)
    assert_close(augment.prepare(clip_B1THW, config, variation, each), expected, atol=1e-5)


def test_a_region_is_cut_out_pixel_for_pixel() -> None:
    clip_B1THW = some_clips(2)
    config = replace(NOTHING, height=20, width=30)
    # Columns 15 to 44 and rows 4 to 23; columns 0 to 29 and rows 20 to 39.
    region = region_of((30 / 60, 14 / 40, 0.25, 0.25), (15 / 60, 30 / 40, 0.25, 0.25))
    found = celsius(augment.prepare(clip_B1THW, config, region=region), config)
    assert_close(found[0], clip_B1THW[0, :, :, 4:24, 15:45])
    assert_close(found[1], clip_B1THW[1, :, :, 20:40, 0:30])


def test_a_region_moves_with_its_frames() -> None:
    clip_B1THW = some_clips(1, 3)
    config = replace(NOTHING, height=20, width=30)
    center_BT2 = torch.tensor([[[15 / 60, 10 / 40], [20 / 60, 12 / 40], [45 / 60, 30 / 40]]])
    region = augment.Region(center_BT2, torch.tensor([[0.25, 0.25]]))
    found = celsius(augment.prepare(clip_B1THW, config, region=region), config)[0, 0]
    for t, (left, top) in enumerate([(0, 0), (5, 2), (30, 20)]):
        assert_close(found[t], clip_B1THW[0, 0, t, top : top + 20, left : left + 30])


def test_over_the_border_the_border_is_repeated() -> None:
    clip_B1THW = some_clips(1)
    config = replace(NOTHING, height=40, width=60)
    # Half a picture to the left and up: the corner pixel fills a quarter.
    found = celsius(augment.prepare(clip_B1THW, config, region=region_of((0.0, 0.0, 0.5, 0.5))), config)[0, 0]
    assert_close(found[:, 20:, 30:], clip_B1THW[0, 0, :, :20, :30])
    assert_close(found[:, :20, :30], clip_B1THW[0, 0, :, :1, :1].expand(-1, 20, 30))


def test_flips_and_shifts_are_those_of_the_region() -> None:
    clip_B1THW = some_clips(1)
    config = replace(NOTHING, height=20, width=30)
    region = region_of((0.5, 0.5, 0.25, 0.25))  # columns 15 to 44, rows 10 to 29
    plain = augment.prepare(clip_B1THW, config, region=region)
    nothing = augment.draw(config, 1, seeded())
    for scale, axes in (((-1.0, 1.0), [4]), ((1.0, -1.0), [3]), ((-1.0, -1.0), [3, 4])):
        flipped = replace(nothing, scale_B2=torch.tensor([scale]))
        assert_close(augment.prepare(clip_B1THW, config, flipped, region), plain.flip(axes))
    # A shift of 0.2, where 1 is the border: a tenth of the region's side, 3 of 30 columns and 2 of 20 rows.
    shifted = replace(nothing, shift_B2=torch.tensor([[0.2, -0.2]]))
    found = celsius(augment.prepare(clip_B1THW, config, shifted, region), config)
    assert_close(found[0], clip_B1THW[0, :, :, 8:28, 18:48])
    # A crop of half the side, in the middle of the region.
    half = replace(nothing, scale_B2=torch.tensor([[0.5, 0.5]]))
    even = region_of((0.5, 0.5, 0.2, 0.2))  # columns 18 to 41, rows 12 to 27; half of it: 24 to 35 and 16 to 23
    found = celsius(augment.prepare(clip_B1THW, replace(config, height=8, width=12), half, even), config)
    assert_close(found[0], clip_B1THW[0, :, :, 16:24, 24:36])


def test_what_is_erased_lies_in_the_region_and_moves_with_it() -> None:
    # Looked at from outside: the variation of a clip with a region, at native size, over the whole frame.
    clip_B1THW = some_clips(200, 3)
    variation = augment.draw(replace(NOTHING, erase_prob=1), 200, seeded())
    center_BT2 = 0.3 + 0.4 * torch.rand(200, 3, 2, generator=seeded(5))
    half_B2 = 0.05 + 0.2 * torch.rand(200, 2, generator=seeded(6))
    region = augment.Region(center_BT2, half_B2)
    erased = augment._erase(clip_B1THW, variation.erased_B4, region)
    x_W, y_H = (torch.arange(60) + 0.5) / 60, (torch.arange(40) + 0.5) / 40
    top_B, bottom_B, left_B, right_B = variation.erased_B4.T
    num_erased = 0
    for b in range(200):
        for t in range(3):
            low, high = center_BT2[b, t] - half_B2[b], center_BT2[b, t] + half_B2[b]
            size = high - low
            inside_W = (x_W >= low[0] + left_B[b] * size[0] - 1e-6) & (x_W < low[0] + right_B[b] * size[0] + 1e-6)
            inside_H = (y_H >= low[1] + top_B[b] * size[1] - 1e-6) & (y_H < low[1] + bottom_B[b] * size[1] + 1e-6)
            inside_HW = inside_H[:, None] & inside_W
            changed_HW = erased[b, 0, t] != clip_B1THW[b, 0, t]
            assert not (changed_HW & ~inside_HW).any()
            assert (changed_HW | ~inside_HW).float().mean() > 0.999
            num_erased += int(changed_HW.any())
            rows, columns = changed_HW.nonzero().T
            if len(rows):
                assert low[0] <= x_W[columns].min()
                assert x_W[columns].max() <= high[0]
                assert low[1] <= y_H[rows].min()
                assert y_H[rows].max() <= high[1]
    assert num_erased > 300  # small ones fall between the pixels


def test_without_erasing_a_region_changes_nothing() -> None:
    clip_B1THW = some_clips(20)
    variation = augment.draw(NOTHING, 20, seeded())
    center_BT2 = torch.rand(20, 4, 2, generator=seeded(5))
    region = augment.Region(center_BT2, torch.full((20, 2), 0.3))
    assert torch.equal(augment._erase(clip_B1THW, variation.erased_B4, region), clip_B1THW)


def test_a_clip_with_a_region_is_prepared_alike_in_any_batch() -> None:
    clip_B1THW = some_clips(4)
    config = replace(EVERYTHING, height=24, width=24)
    variation = augment.draw(config, 4, seeded())
    center_BT2, half_B2 = torch.rand(4, 4, 2, generator=seeded(5)), torch.full((4, 2), 0.2)
    whole = augment.prepare(clip_B1THW, config, variation, augment.Region(center_BT2, half_B2))
    assert whole.shape == (4, 1, 4, 24, 24)
    for part in (slice(0, 1), slice(1, 4)):
        region = augment.Region(center_BT2[part], half_B2[part])
        assert_close(augment.prepare(clip_B1THW[part], config, variation.rows(part), region), whole[part], atol=1e-5)
