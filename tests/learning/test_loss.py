"""The losses: torch's cross entropy clip by clip, every option by hand, and laws that tie the options together."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from slowfast_ray.learning.config import LearningConfig
from slowfast_ray.learning.loss import Loss, class_weights, plain

# Shapes: B clips, S samples, K classes.

CPU = torch.device("cpu")
LN2, LN3, LN4 = math.log(2), math.log(3), math.log(4)


def made(num_per_class: list[int], num_samples: int | None = None, **options: Any) -> Loss:
    """The loss of a training set, of one label a sample unless the number of samples is given."""
    counts_K = torch.tensor(num_per_class)
    return Loss.of(LearningConfig(**options), counts_K, num_samples or sum(num_per_class), CPU)


def some_logits(num_clips: int = 12, num_classes: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits_BK = 3 * torch.randn(num_clips, num_classes, generator=generator)
    return logits_BK, torch.randint(num_classes, (num_clips,), generator=generator)


def some_target(is_multi: bool, num_clips: int = 12, num_classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    logits_BK, label_B = some_logits(num_clips, num_classes)
    if not is_multi:
        return logits_BK, label_B
    return logits_BK, (torch.rand(num_clips, num_classes, generator=torch.Generator().manual_seed(1)) < 0.4).float()


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_by_default_it_is_torchs_cross_entropy(label_smoothing: float) -> None:
    logits_BK, label_B = some_logits()
    found_B = made([4, 1, 0, 9, 2], label_smoothing=label_smoothing)(logits_BK, label_B)
    assert found_B.shape == (12,)
    assert torch.equal(found_B, F.cross_entropy(logits_BK, label_B, label_smoothing=label_smoothing, reduction="none"))


def test_weights_and_smoothing_of_one_label_by_hand() -> None:
    # Two classes with probabilities 1/4 and 3/4; of 8 samples, 6 and 2, so that the second weighs 3 times the first:
    # each class says 4, and 4 / 6 = 2/3, 4 / 2 = 2.
    logits_BK, label_B = torch.tensor([[0.0, LN3]] * 2), torch.tensor([0, 1])
    found_B = made([6, 2], class_weights="inverse_frequency")(logits_BK, label_B)
    torch.testing.assert_close(found_B, torch.tensor([2 / 3 * LN4, 2 * (LN4 - LN3)]))
    # Smoothing by 0.2 gives a tenth of each target to either class.
    found_B = made([6, 2], label_smoothing=0.2)(logits_BK, label_B)
    torch.testing.assert_close(
        found_B, torch.tensor([0.9 * 1.386294 + 0.1 * 0.287682, 0.9 * 0.287682 + 0.1 * 1.386294])
    )


def test_focal_of_one_label_by_hand() -> None:
    # Probabilities 1/4 and 3/4: the first clip keeps (3/4)^2 of its loss ln 4, the second (1/4)^2 of ln 4/3.
    logits_BK, label_B = torch.tensor([[0.0, LN3]] * 2), torch.tensor([0, 1])
    found_B = made([6, 2], loss="focal")(logits_BK, label_B)
    torch.testing.assert_close(found_B, torch.tensor([9 / 16 * 1.386294, 1 / 16 * 0.287682]))
    found_B = made([6, 2], loss="focal", focal_gamma=0.5)(logits_BK, label_B)
    torch.testing.assert_close(found_B, torch.tensor([0.866025 * 1.386294, 0.5 * 0.287682]))
    # With smoothing, what is kept is of the smoothed loss: 9/16 of 0.9 ln 4 + 0.1 ln 4/3.
    found_B = made([6, 2], loss="focal", label_smoothing=0.2)(logits_BK, label_B)
    assert found_B[0].item() == pytest.approx(9 / 16 * (0.9 * 1.386294 + 0.1 * 0.287682), rel=1e-5)


def test_logit_adjustment_of_one_label_by_hand() -> None:
    # Logits 0 for both of two classes with shares 3/4 and 1/4: adjusted, the probabilities are the shares.
    logits_BK, label_B = torch.zeros(2, 2), torch.tensor([0, 1])
    found_B = made([6, 2], logit_adjustment=1.0)(logits_BK, label_B)
    torch.testing.assert_close(found_B, torch.tensor([0.287682, 1.386294]))  # ln 4/3, ln 4
    # tau = 2: shares 9/16 and 1/16, that is 9/10 and 1/10.
    found_B = made([6, 2], logit_adjustment=2.0)(logits_BK, label_B)
    torch.testing.assert_close(found_B, torch.tensor([0.105361, 2.302585]))  # ln 10/9, ln 10


@pytest.mark.parametrize("is_multi", [False, True])
def test_focus_is_on_what_is_wrong_after_the_adjustment(is_multi: bool) -> None:
    # Shares 3/4 and 1/4. One label: adjusted probabilities 3/4 and 1/4, of which the first is right: (1/4)^2 of ln 4/3.
    # Several labels, truth yes and no: adjusted odds 3 and 1/3, so that both terms are the same (1/4)^2 of ln 4/3.
    target = torch.tensor([[1.0, 0.0]]) if is_multi else torch.tensor([0])
    found_B = made([6, 2], 8, loss="focal", logit_adjustment=1.0)(torch.zeros(1, 2), target)
    assert found_B.item() == pytest.approx(1 / 16 * 0.287682, rel=1e-5)


def test_an_absent_class_counts_as_half_a_sample() -> None:
    # 4 samples of class 0, none of class 1: adjusted logits are ln 1 and ln 1/8, so class 1 has probability 1/9.
    found_B = made([4, 0], logit_adjustment=1.0)(torch.zeros(1, 2), torch.tensor([1]))
    assert found_B.item() == pytest.approx(math.log(9))
    # Several labels: of 4 samples, all carry class 0 and none class 1: odds of 4 to 1/2 and of 1/2 to 4.
    found_B = made([4, 0], 4, logit_adjustment=1.0)(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]))
    assert found_B.item() == pytest.approx(math.log(9))  # both terms: -ln(1 - 8/9) and -ln(1/9)


def test_several_labels_by_hand() -> None:
    # Logits 0 and ln 3 are probabilities 1/2 and 3/4; the truth is no, yes. Terms: ln 2 and ln 4/3.
    logits_BK, target_BK = torch.tensor([[0.0, LN3]]), torch.tensor([[0.0, 1.0]])

    def found(**options: Any) -> float:
        # 8 samples, of which 4 carry the first class, 2 the second, some none.
        found_B = made([4, 2], 8, **options)(logits_BK, target_BK)
        assert found_B.shape == (1,)
        return found_B.item()

    assert found() == pytest.approx((0.693147 + 0.287682) / 2)
    # Smoothing by 0.2: targets 0.1 and 0.9; the second class's other answer costs ln 4.
    assert found(label_smoothing=0.2) == pytest.approx((0.693147 + 0.9 * 0.287682 + 0.1 * 1.386294) / 2)
    # 6 labels in 2 classes: each class says 3, so they weigh 3/4 and 3/2.
    assert found(class_weights="inverse_frequency") == pytest.approx((0.75 * 0.693147 + 1.5 * 0.287682) / 2)
    # The wrong answers have probabilities 1/2 and 1/4: squared, 1/4 and 1/16.
    assert found(loss="focal") == pytest.approx((0.693147 / 4 + 0.287682 / 16) / 2)
    # Shares 1/2 and 1/4: odds 1 and 1/3, which turn logits 0 and ln 3 into 0 and 0.
    assert found(logit_adjustment=1.0) == pytest.approx(0.693147)


def test_a_clip_without_labels_says_no_to_every_class() -> None:
    found_B = made([1, 1], 4)(torch.zeros(1, 2), torch.zeros(1, 2))
    assert found_B.item() == pytest.approx(LN2)


def test_effective_number_by_hand() -> None:
    # beta 1/2, counts 1, 2 and none: (1 - b) / (1 - b^n) = 1 and (1/2) / (3/4) = 2/3. Over the 3 samples they sum to
    # 1 + 2 * 2/3 = 7/3, which shall be 3: times 9/7.
    config = LearningConfig(class_weights="effective_number", effective_number_beta=0.5)
    torch.testing.assert_close(class_weights(config, torch.tensor([1, 2, 0])), torch.tensor([9 / 7, 6 / 7, 1.0]))


def test_inverse_frequency_by_hand() -> None:
    # 6 samples, 2 classes present: each says 3. One class has 4 samples, the other 2, the third none.
    config = LearningConfig(class_weights="inverse_frequency")
    torch.testing.assert_close(class_weights(config, torch.tensor([4, 0, 2])), torch.tensor([0.75, 1.0, 1.5]))


NUM_PER_CLASS = st.lists(st.integers(0, 500), min_size=1, max_size=8)


@settings(max_examples=100, deadline=None)
@given(
    num_per_class=NUM_PER_CLASS,
    kind=st.sampled_from(["none", "inverse_frequency", "effective_number"]),
    beta=st.floats(0, 0.99999),
)
def test_weights_average_to_1_over_the_samples_and_are_1_for_absent_classes(
    num_per_class: list[int], kind: Any, beta: float
) -> None:
    config = LearningConfig(class_weights=kind, effective_number_beta=beta)
    counts_K = torch.tensor(num_per_class)
    weights_K = class_weights(config, counts_K)
    assert weights_K.dtype == torch.float32
    assert weights_K.isfinite().all()
    assert (weights_K > 0).all()
    assert (weights_K[counts_K == 0] == 1).all()
    if counts_K.sum() > 0:
        assert float((weights_K * counts_K).sum() / counts_K.sum()) == pytest.approx(1, rel=1e-5)
    if kind == "inverse_frequency":  # every class has the same say
        say_K = (weights_K * counts_K)[counts_K > 0]
        torch.testing.assert_close(say_K, say_K[:1].expand_as(say_K))


@settings(max_examples=50, deadline=None)
@given(num_per_class=NUM_PER_CLASS)
def test_effective_number_goes_from_no_weights_to_inverse_frequency(num_per_class: list[int]) -> None:
    def weights(kind: Any, beta: float = 0.0) -> torch.Tensor:
        config = LearningConfig(class_weights=kind, effective_number_beta=beta)
        return class_weights(config, torch.tensor(num_per_class))

    torch.testing.assert_close(weights("effective_number", 0.0), weights("none"))
    torch.testing.assert_close(
        weights("effective_number", 1 - 1e-12), weights("inverse_frequency"), rtol=1e-3, atol=1e-6
    )


@pytest.mark.parametrize("is_multi", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"loss": "focal", "focal_gamma": 0.0},
        {"logit_adjustment": 0.0},
        {"class_weights": "effective_number", "effective_number_beta": 0.0},
    ],
)
def test_an_option_at_0_is_off(is_multi: bool, options: dict[str, Any]) -> None:
    logits_BK, target = some_target(is_multi)
    assert torch.equal(made([7, 1, 0, 3, 2], 13, **options)(logits_BK, target), plain(logits_BK, target))


EVERYTHING: dict[str, Any] = {
    "loss": "focal", "label_smoothing": 0.1, "class_weights": "effective_number", "logit_adjustment": 1.0,
}  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 999), num_clips=st.integers(1, 6), is_multi=st.booleans(), options=st.sampled_from(
    [{}, {"class_weights": "inverse_frequency"}, EVERYTHING]
))  # fmt: skip
def test_shares_of_a_batch_average_to_the_whole(
    seed: int, num_clips: int, is_multi: bool, options: dict[str, Any]
) -> None:
    # torch's own weighted mean divides by the weights of each share, and workers would pull apart.
    logits_BK, label_B = some_logits(2 * num_clips, seed=seed)
    target = F.one_hot(label_B, 5).float() if is_multi else label_B
    loss = made([7, 1, 0, 3, 2], **options)
    shares = [loss(logits_BK[part], target[part]).mean() for part in (slice(0, num_clips), slice(num_clips, None))]
    torch.testing.assert_close(torch.stack(shares).mean(), loss(logits_BK, target).mean())


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 999), gamma=st.floats(0.01, 8), is_multi=st.booleans())
def test_focus_only_takes_away_and_least_from_the_worst(seed: int, gamma: float, is_multi: bool) -> None:
    logits_BK, label_B = some_logits(seed=seed)
    target = F.one_hot(label_B, 5).float() if is_multi else label_B
    plain_B = plain(logits_BK, target)
    focal_B = made([1] * 5, loss="focal", focal_gamma=gamma)(logits_BK, target)
    assert (focal_B <= plain_B).all()
    if not is_multi:  # the share that is kept grows with the loss
        order_B = plain_B.argsort()
        kept_B = (focal_B / plain_B)[order_B]
        assert (kept_B.diff() >= -1e-5).all()


@pytest.mark.parametrize("is_multi", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("confidence", [1.0, 30.0, 300.0])
def test_gradients_are_finite_however_sure_the_network_is(is_multi: bool, gamma: float, confidence: float) -> None:
    logits_BK = torch.tensor([[confidence, -confidence], [-confidence, confidence]], requires_grad=True)
    target = torch.tensor([[1.0, 0.0], [1.0, 0.0]]) if is_multi else torch.tensor([0, 0])
    loss_B = made([2, 0], loss="focal", focal_gamma=gamma, logit_adjustment=1.0)(logits_BK, target)
    loss_B.mean().backward()
    assert loss_B.isfinite().all()
    assert logits_BK.grad is not None
    assert logits_BK.grad.isfinite().all()


@pytest.mark.parametrize("is_multi", [False, True])
def test_half_precision_logits_lose_nothing_more(is_multi: bool) -> None:
    logits_BK, target = some_target(is_multi)
    half_BK = logits_BK.bfloat16()
    for loss in (made([7, 1, 0, 3, 2], **EVERYTHING), plain):
        found_B = loss(half_BK, target)
        assert found_B.dtype == torch.float32
        assert torch.equal(found_B, loss(half_BK.float(), target))


def test_the_plain_loss_is_torchs() -> None:
    logits_BK, label_B = some_target(is_multi=False)
    torch.testing.assert_close(plain(logits_BK, label_B), -logits_BK.log_softmax(1)[torch.arange(12), label_B])
    logits_BK, target_BK = some_target(is_multi=True)
    torch.testing.assert_close(
        plain(logits_BK, target_BK).mean(), F.binary_cross_entropy(logits_BK.sigmoid(), target_BK)
    )
