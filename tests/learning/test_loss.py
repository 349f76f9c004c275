"""The training loss: torch's cross entropy clip by clip, so that shares of a batch add up to the batch."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from slowfast_ray.learning import loss

# Shapes: B clips, S samples, K classes.


def some_logits(num_clips: int = 12, num_classes: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits_BK = 3 * torch.randn(num_clips, num_classes, generator=generator)
    return logits_BK, torch.randint(num_classes, (num_clips,), generator=generator)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_without_weights_it_is_torchs_cross_entropy(label_smoothing: float) -> None:
    logits_BK, label_B = some_logits()
    found_B = loss.per_clip(logits_BK, label_B, None, label_smoothing)
    assert found_B.shape == (12,)
    expected = F.cross_entropy(logits_BK, label_B, label_smoothing=label_smoothing)
    torch.testing.assert_close(found_B.mean(), expected)


def test_it_is_what_the_hand_computes() -> None:
    # Two classes with probabilities 1/4 and 3/4; the second class weighs 3.
    logits_BK = torch.tensor([[0.0, math.log(3.0)]] * 2)
    found_B = loss.per_clip(logits_BK, torch.tensor([0, 1]), torch.tensor([1.0, 3.0]), 0.0)
    torch.testing.assert_close(found_B, torch.tensor([math.log(4), 3 * math.log(4 / 3)]))
    # Smoothing by 0.2 gives a tenth of each target to either class.
    found_B = loss.per_clip(logits_BK, torch.tensor([0, 1]), None, 0.2)
    first, second = math.log(4), math.log(4 / 3)
    torch.testing.assert_close(found_B, torch.tensor([0.9 * first + 0.1 * second, 0.9 * second + 0.1 * first]))


@pytest.mark.parametrize("weights_K", [None, torch.tensor([0.1, 5.0, 1.0, 2.0, 0.5])])
def test_shares_of_a_batch_average_to_the_whole(weights_K: torch.Tensor | None) -> None:
    # torch's own weighted mean divides by the weights of each share, and workers would pull apart.
    logits_BK, label_B = some_logits()
    whole = loss.per_clip(logits_BK, label_B, weights_K, 0.1).mean()
    shares = [
        loss.per_clip(logits_BK[part], label_B[part], weights_K, 0.1).mean() for part in (slice(0, 6), slice(6, 12))
    ]
    torch.testing.assert_close(torch.stack(shares).mean(), whole)


def test_half_precision_logits_lose_nothing_more() -> None:
    logits_BK, label_B = some_logits()
    half_BK = logits_BK.bfloat16()
    found_B = loss.per_clip(half_BK, label_B, None, 0.1)
    assert found_B.dtype == torch.float32
    assert torch.equal(found_B, loss.per_clip(half_BK.float(), label_B, None, 0.1))


@settings(max_examples=60, deadline=None)
@given(labels=st.lists(st.integers(0, 6), min_size=1, max_size=60))
def test_inverse_frequency_gives_every_class_the_same_say(labels: list[int]) -> None:
    labels_S = torch.tensor(labels)
    weights_K = loss.inverse_frequency(labels_S, 8)
    assert weights_K.dtype == torch.float32
    assert weights_K[labels_S].mean().item() == pytest.approx(1, rel=1e-5)
    counts_K = torch.bincount(labels_S, minlength=8)
    present_K = counts_K > 0
    say_K = (weights_K * counts_K)[present_K]
    torch.testing.assert_close(say_K, say_K[:1].expand_as(say_K))
    assert (weights_K[~present_K] == 1).all()


def test_inverse_frequency_by_hand() -> None:
    # 6 samples, 2 classes present: each says 3. One class has 4 samples, the other 2, the third none.
    weights_K = loss.inverse_frequency(torch.tensor([0, 0, 2, 0, 2, 0]), 3)
    torch.testing.assert_close(weights_K, torch.tensor([0.75, 1.0, 1.5]))
