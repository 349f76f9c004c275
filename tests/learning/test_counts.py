"""Counts: scikit-learn's numbers, however the clips were shared."""

import math

import pytest
import torch
import torch.nn.functional as F
from sklearn import metrics

from slowfast_ray.learning import counts
from slowfast_ray.learning.counts import Counts, is_hit
from slowfast_ray.learning.loss import plain

# Shapes: B clips, K classes.

CPU = torch.device("cpu")


def some_logits(num_clips: int, num_classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are right more often than chance; the last class never occurs among the labels."""
    generator = torch.Generator().manual_seed(seed)
    label_B = torch.randint(max(1, num_classes - 1), (num_clips,), generator=generator)
    logits_BK = torch.randn(num_clips, num_classes, generator=generator)
    return logits_BK + F.one_hot(label_B, num_classes), label_B


def counted(logits_BK: torch.Tensor, target: torch.Tensor) -> Counts:
    found = Counts.zero(CPU)
    found.add(logits_BK, target, plain(logits_BK, target))
    return found


def shares(found: Counts) -> list[float]:
    return [float(found.num_clips), found.loss(), found.top1(), found.top5()]


@pytest.mark.parametrize(("num_clips", "num_classes"), [(200, 14), (50, 6), (1, 7), (9, 5)])
def test_shares_are_scikit_learns(num_clips: int, num_classes: int) -> None:
    logits_BK, label_B = some_logits(num_clips, num_classes)
    found = counted(logits_BK, label_B)
    labels, scores, predicted = label_B.numpy(), logits_BK.numpy(), logits_BK.argmax(dim=1).numpy()
    classes = list(range(num_classes))
    assert found.num_clips == num_clips
    assert found.top1() == pytest.approx(metrics.accuracy_score(labels, predicted))
    if num_classes > 5:
        assert found.top5() == pytest.approx(metrics.top_k_accuracy_score(labels, scores, k=5, labels=classes))
    probabilities = logits_BK.double().softmax(dim=1).numpy()
    assert found.loss() == pytest.approx(metrics.log_loss(labels, probabilities, labels=classes), rel=1e-5)


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_five_of_five_classes_or_fewer_always_hold_the_right_one(num_classes: int) -> None:
    assert counted(*some_logits(20, num_classes)).top5() == 1


def test_top5_of_six_can_miss() -> None:
    logits_BK = -torch.arange(6.0).repeat(6, 1)
    assert counted(logits_BK, torch.arange(6)).top5() == pytest.approx(5 / 6)


def test_with_several_labels_one_of_them_is_enough() -> None:
    # From the most likely class 0 to the least likely 6. Labels: 0 and 6; 4 alone; 5 and 6; none.
    logits_BK = -torch.arange(7.0).repeat(4, 1)
    target_BK = torch.zeros(4, 7)
    for clip, label in ((0, 0), (0, 6), (1, 4), (2, 5), (2, 6)):
        target_BK[clip, label] = 1
    found = counted(logits_BK, target_BK)
    assert found.top1() == pytest.approx(1 / 4)
    assert found.top5() == pytest.approx(2 / 4)


def test_one_label_each_is_hit_alike_in_either_form() -> None:
    logits_BK, label_B = some_logits(40, 9)
    likely_BJ = logits_BK.topk(3, dim=1).indices
    hit_B = is_hit(likely_BJ, label_B)
    assert 0 < hit_B.sum() < 40
    assert torch.equal(hit_B, is_hit(likely_BJ, F.one_hot(label_B, 9).float()))


@pytest.mark.parametrize("is_multi", [False, True])
def test_counts_of_parts_add_up_to_counts_of_the_whole(is_multi: bool) -> None:
    logits_BK, label_B = some_logits(30, 7)
    target = F.one_hot(label_B, 7).float() if is_multi else label_B
    whole = counted(logits_BK, target)
    parts = [slice(0, 1), slice(1, 13), slice(13, 30)]
    summed = sum((counted(logits_BK[part], target[part]) for part in parts), Counts.zero(CPU))
    batched = Counts.zero(CPU)
    for part in parts:
        batched.add(logits_BK[part], target[part], plain(logits_BK[part], target[part]))
    for found in (summed, batched):
        assert shares(found) == pytest.approx(shares(whole))


def test_adding_changes_neither_part() -> None:
    first, second = counted(*some_logits(5, 3)), counted(*some_logits(6, 3, seed=1))
    _ = first + second
    assert (first.num_clips, second.num_clips) == (5, 6)


def test_a_million_small_losses_are_not_lost() -> None:
    # In float32 a sum of 2^24 stops growing by ones.
    found = Counts.zero(CPU)
    found.loss_sum += 2**24
    found.add(torch.zeros(1, 2), torch.tensor([0]), torch.ones(1))
    assert float(found.loss_sum) == 2**24 + 1


def test_a_loss_that_learns_is_counted_without_its_graph() -> None:
    logits_BK = torch.zeros(3, 2, requires_grad=True)
    label_B = torch.tensor([0, 1, 1])
    found = Counts.zero(CPU)
    found.add(logits_BK.detach(), label_B, F.cross_entropy(logits_BK, label_B, reduction="none"))
    assert not found.loss_sum.requires_grad  # else the memory of a whole epoch would be kept
    assert found.loss() == pytest.approx(math.log(2))


def test_one_worker_has_the_sums_already() -> None:
    found = counted(*some_logits(5, 3))
    assert found.over_workers() is found


def test_what_a_search_may_look_for_depends_on_the_labels() -> None:
    assert counts.metrics_for(labels_are_multi=False) == ("val/top1", "val/top5", "val/mean_class", "val/loss")
    assert counts.metrics_for(labels_are_multi=True) == ("val/top1", "val/top5", "val/mean_ap", "val/loss")
    both = {*counts.metrics_for(labels_are_multi=False), *counts.metrics_for(labels_are_multi=True)}
    assert set(counts.HIGHER_IS_BETTER) == both
    assert [name for name, higher in counts.HIGHER_IS_BETTER.items() if not higher] == ["val/loss"]
