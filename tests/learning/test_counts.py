"""Counts: scikit-learn's numbers, however the clips were shared."""

import math

import pytest
import torch
import torch.nn.functional as F
from sklearn import metrics

from slowfast_ray.learning import counts
from slowfast_ray.learning.counts import Counts

# Shapes: B clips, K classes.

CPU = torch.device("cpu")


def some_logits(num_clips: int, num_classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are right more often than chance; the last class never occurs among the labels."""
    generator = torch.Generator().manual_seed(seed)
    label_B = torch.randint(max(1, num_classes - 1), (num_clips,), generator=generator)
    logits_BK = torch.randn(num_clips, num_classes, generator=generator)
    return logits_BK + F.one_hot(label_B, num_classes), label_B


def counted(logits_BK: torch.Tensor, label_B: torch.Tensor) -> Counts:
    found = Counts.zero(logits_BK.shape[1], CPU)
    found.add(logits_BK, label_B, counts.cross_entropy(logits_BK, label_B))
    return found


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
@pytest.mark.parametrize(("num_clips", "num_classes"), [(200, 14), (50, 6), (1, 7), (9, 5)])
def test_metrics_are_scikit_learns(num_clips: int, num_classes: int) -> None:
    logits_BK, label_B = some_logits(num_clips, num_classes)
    found = counted(logits_BK, label_B)
    labels, scores, predicted = label_B.numpy(), logits_BK.numpy(), logits_BK.argmax(dim=1).numpy()
    classes = list(range(num_classes))
    assert found.num_clips == num_clips
    assert found.top1() == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert found.mean_class() == pytest.approx(metrics.balanced_accuracy_score(labels, predicted))
    if num_classes > 5:
        assert found.top5() == pytest.approx(metrics.top_k_accuracy_score(labels, scores, k=5, labels=classes))
    probabilities = logits_BK.double().softmax(dim=1).numpy()
    assert found.loss() == pytest.approx(metrics.log_loss(labels, probabilities, labels=classes), rel=1e-5)
    assert found.confusion_KK.tolist() == metrics.confusion_matrix(labels, predicted, labels=classes).tolist()


def test_recall_is_averaged_over_the_classes_that_occur() -> None:
    # Class 0: 3 of 4 right. Class 1: 0 of 1. Class 2 was never there, though predicted once: it has no recall.
    logits_BK = F.one_hot(torch.tensor([0, 0, 0, 2, 0]), 3).float()
    found = counted(logits_BK, torch.tensor([0, 0, 0, 0, 1]))
    assert found.confusion_KK.tolist() == [[3, 0, 1], [1, 0, 0], [0, 0, 0]]  # rows are true, columns predicted
    assert found.mean_class() == pytest.approx((3 / 4 + 0) / 2)
    assert found.top1() == pytest.approx(3 / 5)


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_five_of_five_classes_or_fewer_always_hold_the_right_one(num_classes: int) -> None:
    assert counted(*some_logits(20, num_classes)).top5() == 1


def test_top5_of_six_can_miss() -> None:
    logits_BK = -torch.arange(6.0).repeat(6, 1)
    assert counted(logits_BK, torch.arange(6)).top5() == pytest.approx(5 / 6)


def test_counts_of_parts_add_up_to_counts_of_the_whole() -> None:
    logits_BK, label_B = some_logits(30, 7)
    whole = counted(logits_BK, label_B)
    parts = [slice(0, 1), slice(1, 13), slice(13, 30)]
    summed = sum((counted(logits_BK[part], label_B[part]) for part in parts), Counts.zero(7, CPU))
    batched = Counts.zero(7, CPU)
    for part in parts:
        batched.add(logits_BK[part], label_B[part], counts.cross_entropy(logits_BK[part], label_B[part]))
    for found in (summed, batched):
        assert torch.equal(found.confusion_KK, whole.confusion_KK)
        assert torch.equal(found.num_top5, whole.num_top5)
        torch.testing.assert_close(found.loss_sum, whole.loss_sum)
        for name, value in counts.validation_metrics(whole).items():
            assert counts.validation_metrics(found)[name] == pytest.approx(value)


def test_adding_changes_neither_part() -> None:
    first, second = counted(*some_logits(5, 3)), counted(*some_logits(6, 3, seed=1))
    _ = first + second
    assert (first.num_clips, second.num_clips) == (5, 6)


def test_a_million_small_losses_are_not_lost() -> None:
    # In float32 a sum of 2^24 stops growing by ones.
    found = Counts.zero(2, CPU)
    found.loss_sum += 2**24
    found.add(torch.zeros(1, 2), torch.tensor([0]), torch.ones(1))
    assert float(found.loss_sum) == 2**24 + 1


def test_a_loss_that_learns_is_counted_without_its_graph() -> None:
    logits_BK = torch.zeros(3, 2, requires_grad=True)
    label_B = torch.tensor([0, 1, 1])
    found = Counts.zero(2, CPU)
    found.add(logits_BK.detach(), label_B, F.cross_entropy(logits_BK, label_B, reduction="none"))
    assert not found.loss_sum.requires_grad  # else the memory of a whole epoch would be kept
    assert found.loss() == pytest.approx(math.log(2))


def test_one_worker_has_the_sums_already() -> None:
    found = counted(*some_logits(5, 3))
    assert found.over_workers() is found


def test_validation_reports_every_metric_that_a_search_may_look_for() -> None:
    found = counted(*some_logits(8, 6))
    reported = counts.validation_metrics(found)
    assert set(counts.HIGHER_IS_BETTER) <= set(reported)
    assert all(name.startswith("val/") for name in reported)
    assert reported == {
        "val/loss": found.loss(),
        "val/top1": found.top1(),
        "val/top5": found.top5(),
        "val/mean_class": found.mean_class(),
        "val/num_samples": 8,
    }
    assert [name for name, higher in counts.HIGHER_IS_BETTER.items() if not higher] == ["val/loss"]


def test_validation_loss_is_the_plain_one_in_float32() -> None:
    logits_BK, label_B = some_logits(10, 4)
    found_B = counts.cross_entropy(logits_BK.bfloat16(), label_B)
    assert found_B.dtype == torch.float32
    torch.testing.assert_close(found_B, -logits_BK.bfloat16().float().log_softmax(1)[torch.arange(10), label_B])
