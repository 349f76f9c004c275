"""mixup and CutMix: what a clip shows, and what its loss counts, are the same shares of the same two clips."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from slowfast_ray.learning import mixing
from slowfast_ray.learning.config import LearningConfig
from slowfast_ray.learning.loss import Loss

# Shapes: B clips, T frames, H and W height and width, K classes.

NUM_CLIPS = 6


def clips_of_one_value() -> torch.Tensor:
    """Clip b holds the value b everywhere, so that a mixed clip tells what it is made of."""
    return torch.arange(NUM_CLIPS, dtype=torch.float32).view(-1, 1, 1, 1, 1).expand(-1, 1, 4, 10, 12).clone()


def mixed(seed: int, **changes: Any) -> mixing.Mixed:
    torch.manual_seed(seed)
    return mixing.mix(clips_of_one_value(), torch.arange(NUM_CLIPS), LearningConfig(**{"mixup": 0.0, **changes}))


@pytest.mark.parametrize("recipe", [{"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}])
@pytest.mark.parametrize("seed", range(8))
def test_a_clip_shows_its_partner_as_much_as_its_loss_counts_it(recipe: dict[str, float], seed: int) -> None:
    found = mixed(seed, **recipe)
    assert 0 <= found.partner_share <= 0.5
    own_B, partner_B = found.target.float(), found.partner_target.float()
    assert sorted(partner_B.tolist()) == sorted(own_B.tolist())
    assert (own_B != partner_B).all(), "nobody is their own partner"
    shown_B = found.clip_B1THW.mean(dim=(1, 2, 3, 4))
    torch.testing.assert_close(shown_B, own_B + found.partner_share * (partner_B - own_B))


@pytest.mark.parametrize("seed", range(8))
def test_cutmix_exchanges_one_rectangle_of_all_frames(seed: int) -> None:
    found = mixed(seed, cutmix=1.0)
    is_partner_BTHW = (found.clip_B1THW != clips_of_one_value())[:, 0]
    assert (is_partner_BTHW == is_partner_BTHW[:1, :1]).all(), "the same in all clips and frames"
    is_partner_HW = is_partner_BTHW[0, 0]
    rows, columns = is_partner_HW.any(dim=1), is_partner_HW.any(dim=0)
    assert torch.equal(is_partner_HW, rows[:, None] & columns[None])


def test_mixup_and_cutmix_take_turns() -> None:
    is_blend = {bool((mixed(seed, mixup=1.0, cutmix=1.0).clip_B1THW % 1).any()) for seed in range(20)}
    assert is_blend == {True, False}


def test_nothing_is_mixed_or_drawn_unless_asked() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    clip_B1THW = clips_of_one_value()
    found = mixing.mix(clip_B1THW, torch.arange(NUM_CLIPS), LearningConfig(mixup=0.0))
    assert found.clip_B1THW is clip_B1THW
    assert found.partner_share == 0
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("is_multi", [False, True])
def test_the_loss_is_that_of_both_targets_by_their_shares(is_multi: bool) -> None:
    config = LearningConfig(mixup=1.0)
    loss = Loss.of(config, torch.full((NUM_CLIPS,), 3), 18, torch.device("cpu"))
    label_B = torch.arange(NUM_CLIPS)
    torch.manual_seed(1)
    found = mixing.mix(clips_of_one_value(), F.one_hot(label_B).float() if is_multi else label_B, config)
    logits_BK = torch.randn(NUM_CLIPS, NUM_CLIPS, requires_grad=True)
    share = found.partner_share
    assert share > 0.05
    # Both losses are linear in their target: the loss of both is that of the blended target.
    blended_BK = F.one_hot(label_B).float()
    blended_BK = (
        (1 - share) * blended_BK + share * blended_BK[found.partner_target.argmax(1)]
        if is_multi
        else ((1 - share) * blended_BK + share * F.one_hot(found.partner_target, NUM_CLIPS))
    )
    if is_multi:
        expected_B = F.binary_cross_entropy_with_logits(logits_BK, blended_BK, reduction="none").mean(dim=1)
    else:
        expected_B = F.cross_entropy(logits_BK, blended_BK, reduction="none")
    part = slice(2, 5)
    torch.testing.assert_close(found.loss(loss, logits_BK[part], part), expected_B[part])
