"""Predictions: scikit-learn's numbers, the same whole on every worker, and nothing on disk believed unread."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import save_file
from sklearn import metrics
from torch import nn

from slowfast_ray.learning import counts, loop
from slowfast_ray.learning.config import LearningConfig
from slowfast_ray.learning.predictions import PerClass, Predictions

# Shapes: B clips, S samples, K classes.

NAMES = ["sitting", "standing", "lying"]


def one_label(num_samples: int = 60, num_classes: int = 7, seed: int = 0) -> Predictions:
    """Right more often than chance; the last class never occurs among the labels."""
    generator = torch.Generator().manual_seed(seed)
    label_S = torch.randint(max(1, num_classes - 1), (num_samples,), generator=generator)
    logits_SK = torch.randn(num_samples, num_classes, generator=generator)
    return Predictions(logits_SK + F.one_hot(label_S, num_classes), label_S)


def several_labels(num_samples: int = 60, num_classes: int = 7, seed: int = 0) -> Predictions:
    """Right more often than chance; some samples have no label, and the last class never occurs."""
    generator = torch.Generator().manual_seed(seed)
    target_SK = (torch.rand(num_samples, num_classes, generator=generator) < 0.25).float()
    target_SK[:, -1] = 0
    return Predictions(torch.randn(num_samples, num_classes, generator=generator) + target_SK, target_SK)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
@pytest.mark.parametrize(("num_samples", "num_classes"), [(200, 14), (50, 6), (1, 7), (9, 5)])
def test_metrics_of_one_label_are_scikit_learns(num_samples: int, num_classes: int) -> None:
    found = one_label(num_samples, num_classes)
    labels, predicted = found.target.numpy(), found.predicted_S().numpy()
    classes = list(range(num_classes))
    assert found.confusion_KK().tolist() == metrics.confusion_matrix(labels, predicted, labels=classes).tolist()
    assert found.right_S().tolist() == (labels == predicted).tolist()
    probabilities = found.logits_SK.double().softmax(dim=1).numpy()
    expected = {
        "val/loss": metrics.log_loss(labels, probabilities, labels=classes),
        "val/top1": metrics.accuracy_score(labels, predicted),
        "val/top5": metrics.top_k_accuracy_score(labels, probabilities, k=5, labels=classes) if num_classes > 5 else 1,
        "val/mean_class": metrics.balanced_accuracy_score(labels, predicted),
        "val/num_samples": num_samples,
    }
    assert found.metrics() == pytest.approx(expected, rel=1e-5)
    assert found.loss() == found.metrics()["val/loss"]


def test_recall_is_averaged_over_the_classes_that_occur() -> None:
    # Class 0: 3 of 4 right. Class 1: 0 of 1. Class 2 was never there, though predicted once: it has no recall.
    found = Predictions(F.one_hot(torch.tensor([0, 0, 0, 2, 0]), 3).float(), torch.tensor([0, 0, 0, 0, 1]))
    assert found.confusion_KK().tolist() == [[3, 0, 1], [1, 0, 0], [0, 0, 0]]  # rows are true, columns predicted
    assert found.metrics()["val/mean_class"] == pytest.approx((3 / 4 + 0) / 2)
    assert found.metrics()["val/top1"] == pytest.approx(3 / 5)


def test_metrics_of_several_labels_by_hand() -> None:
    # Class 0, from the highest score down: yes, no, yes, no: precision 1 at the first label, 2/3 at the second.
    # Class 1: no, no, yes, yes with the last two tied: precision 2/4 at both. Class 2 does not occur.
    logits_SK = torch.tensor([[4.0, 1.0, 9.0], [3.0, 3.0, -9.0], [2.0, 2.0, -9.0], [1.0, 1.0, -9.0]])
    target_SK = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    found = Predictions(logits_SK, target_SK)
    assert found.metrics()["val/mean_ap"] == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2)
    # Most likely are classes 2, 0, 0 (the first of equals), 0: only the third sample has its.
    assert found.right_S().tolist() == [False, False, True, False]
    assert found.metrics()["val/top1"] == 1 / 4
    assert found.metrics()["val/top5"] == 3 / 4  # three classes hold every label, but one sample has none
    assert found.metrics()["val/num_samples"] == 4


def test_metrics_of_several_labels_are_scikit_learns() -> None:
    found = several_labels()
    target_SK, logits_SK = found.target.numpy(), found.logits_SK.numpy()
    expected = metrics.average_precision_score(target_SK[:, :6], logits_SK[:, :6], average="macro")
    assert found.metrics()["val/mean_ap"] == pytest.approx(expected)
    assert found.metrics()["val/loss"] == pytest.approx(
        float(F.binary_cross_entropy_with_logits(found.logits_SK, found.target)), rel=1e-5
    )


@pytest.mark.parametrize("made", [one_label, several_labels])
def test_validation_reports_every_metric_that_a_search_may_look_for(made: Callable[[], Predictions]) -> None:
    found = made()
    reported = found.metrics()
    assert set(reported) == {*counts.metrics_for(found.is_multi), "val/num_samples"}
    assert {type(value) for value in reported.values()} == {int, float}


@pytest.mark.parametrize("made", [one_label, several_labels])
def test_macro_f1_is_scikit_learns_over_the_classes_that_occur(made: Callable[[], Predictions]) -> None:
    found = made()
    truth, said = (found.target, found.is_said_SK()) if found.is_multi else (found.target, found.predicted_S())
    expected = metrics.f1_score(truth.numpy(), said.numpy(), labels=list(range(6)), average="macro")
    assert found.macro_f1() == pytest.approx(expected)
    rows = found.per_class([f"class {k}" for k in range(7)])
    assert sum(row.f1 for row in rows[:6]) / 6 == pytest.approx(expected)
    assert math.isnan(rows[6].f1)


def test_macro_f1_without_any_label_is_unknown() -> None:
    assert math.isnan(Predictions(torch.zeros(3, 2), torch.zeros(3, 2)).macro_f1())


@pytest.mark.parametrize("made", [one_label, several_labels])
def test_views_are_averaged_as_probabilities(made: Callable[..., Predictions]) -> None:
    first, other = made(), made(seed=1)
    second = Predictions(4 * other.logits_SK, first.target)
    found = Predictions.averaged([first, second, second])
    expected = (first.probabilities_SK() + 2 * second.probabilities_SK()) / 3
    torch.testing.assert_close(found.probabilities_SK(), expected, rtol=1e-5, atol=1e-7)
    assert found.predicted_S().tolist() == expected.argmax(dim=1).tolist()
    assert not torch.equal(found.predicted_S(), (first.logits_SK + 2 * second.logits_SK).argmax(dim=1))


@pytest.mark.parametrize("made", [one_label, several_labels])
def test_the_average_of_one_view_is_that_view(made: Callable[[], Predictions]) -> None:
    alone = made()
    found = Predictions.averaged([alone])
    assert found.metrics() == pytest.approx(alone.metrics(), rel=1e-5)
    torch.testing.assert_close(found.probabilities_SK(), alone.probabilities_SK(), rtol=1e-5, atol=1e-7)


def test_views_that_are_certain_stay_finite() -> None:
    logits_SK = torch.tensor([[2000.0, 0.0, -2000.0]])
    one = Predictions.averaged([Predictions(logits_SK, torch.tensor([0]))] * 2)
    several = Predictions.averaged([Predictions(logits_SK, torch.tensor([[1.0, 0.0, 0.0]]))] * 2)
    assert one.logits_SK.isfinite().all()
    assert several.logits_SK.isfinite().all()


def test_views_must_be_of_the_same_samples() -> None:
    with pytest.raises(ValueError, match=r"`views` \(=0 predictions\)"):
        Predictions.averaged([])
    with pytest.raises(ValueError, match="same samples and truth"):
        Predictions.averaged([one_label(), one_label(seed=1)])


def test_without_any_label_there_is_no_average_precision() -> None:
    assert math.isnan(Predictions(torch.zeros(3, 2), torch.zeros(3, 2)).metrics()["val/mean_ap"])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@pytest.mark.parametrize("made", [one_label, several_labels])
def test_classes_one_by_one_are_scikit_learns(made: Callable[[], Predictions]) -> None:
    found = made()
    if found.is_multi:
        truth_SK, said_SK, scores_SK = (
            found.target,
            (found.logits_SK.sigmoid() > 0.5).float(),
            found.logits_SK.sigmoid(),
        )
    else:
        truth_SK, said_SK = F.one_hot(found.target, 7), F.one_hot(found.predicted_S(), 7)
        scores_SK = found.logits_SK.softmax(dim=1)
    rows = found.per_class([f"class {k}" for k in range(7)])
    assert [row.name for row in rows] == [f"class {k}" for k in range(7)]
    for k, row in enumerate(rows):
        truth_S, said_S = truth_SK[:, k].numpy(), said_SK[:, k].numpy()
        assert (row.num_samples, row.num_predicted) == (truth_S.sum(), said_S.sum())
        expected = (
            metrics.recall_score(truth_S, said_S, zero_division=math.nan),  # pyright: ignore
            metrics.precision_score(truth_S, said_S, zero_division=math.nan),  # pyright: ignore
            metrics.average_precision_score(truth_S, scores_SK[:, k].numpy()) if truth_S.any() else math.nan,
        )
        assert (row.recall, row.precision, row.average_precision) == pytest.approx(expected, nan_ok=True)


def test_what_is_undefined_of_a_class_is_nan() -> None:
    # Two samples of the first class, one said to be of the third; nobody is or is said to be of the second.
    found = Predictions(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), torch.tensor([0, 0])).per_class(NAMES)
    assert found[0] == PerClass("sitting", 2, 1, recall=0.5, precision=1.0, average_precision=1.0)
    assert (found[1].num_samples, found[1].num_predicted) == (0, 0)
    assert all(map(math.isnan, (found[1].recall, found[1].precision, found[1].average_precision)))
    assert found[2].precision == 0
    assert math.isnan(found[2].recall)


def test_ranks_of_almost_certain_samples_are_not_rounded_into_ties() -> None:
    # In float32 both have probability 1 of the first class; the surer one is right.
    found = Predictions(torch.tensor([[30.0, 0.0], [20.0, 0.0]]), torch.tensor([0, 1]))
    assert found.per_class(["a", "b"])[0].average_precision == 1


def test_names_must_fit_and_confusions_need_one_label() -> None:
    with pytest.raises(ValueError, match=r"`classes` \(=3 names\) must name the 7"):
        one_label().per_class(NAMES)
    with pytest.raises(ValueError, match="one label a sample"):
        several_labels().confusion_KK()


@pytest.mark.parametrize(
    ("logits_SK", "target", "law"),
    [
        (torch.zeros(2, 3).double(), torch.tensor([0, 1]), r"float32 \[S, K\], but is float64 \[2, 3\]"),
        (torch.zeros(0, 3), torch.zeros(0).long(), "`logits_SK`"),
        (torch.zeros(3), torch.zeros(3).long(), "`logits_SK`"),
        (torch.zeros(2, 3), torch.tensor([0, 1, 2]), r"int64 \[2\], as the logits are, but is int64 \[3\]"),
        (torch.zeros(2, 3), torch.tensor([0.0, 1.0]), r"int64 \[2\], as the logits are, but is float32 \[2\]"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), r"\(=0 to 3\) must name the classes 0 to 2"),
        (torch.zeros(2, 3), torch.tensor([-1, 0]), r"\(=-1 to 0\)"),
        (torch.zeros(2, 3), torch.zeros(2, 4), r"float32 \[2, 3\] of zeros and ones"),
        (torch.zeros(2, 3), torch.full((2, 3), 0.5), r"zeros and ones"),
        (torch.zeros(2, 3), torch.full((2, 3), math.nan), r"zeros and ones"),
    ],
)
def test_logits_and_truth_must_fit_each_other(logits_SK: torch.Tensor, target: torch.Tensor, law: str) -> None:
    with pytest.raises(ValueError, match=law):
        Predictions(logits_SK, target)


@pytest.mark.parametrize("made", [one_label, several_labels])
def test_saved_and_loaded(tmp_path: Path, made: Callable[[], Predictions]) -> None:
    saved = made()
    saved.save(tmp_path / "predictions.safetensors")
    loaded = Predictions.load(tmp_path / "predictions.safetensors")
    assert torch.equal(loaded.logits_SK, saved.logits_SK)
    assert torch.equal(loaded.target, saved.target)
    assert (loaded.target.dtype, loaded.is_multi) == (saved.target.dtype, saved.is_multi)


def test_a_damaged_or_foreign_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "predictions.safetensors"
    one_label().save(path)
    whole = path.read_bytes()
    for kept in (0, 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=r"predictions .*predictions\.safetensors cannot be loaded"):
            Predictions.load(path)
    for foreign in (
        {"weight": torch.zeros(2)},
        {"logits_SK": torch.zeros(2, 3)},
        {"logits_SK": torch.zeros(2, 3), "target": torch.tensor([0, 3])},
        {"logits_SK": torch.zeros(2, 3), "target": torch.tensor([0, 1]), "more": torch.zeros(1)},
    ):
        save_file(foreign, path)
        with pytest.raises(ValueError, match=r"predictions\.safetensors cannot be loaded"):
            Predictions.load(path)
    path.unlink()
    with pytest.raises(ValueError, match=r"predictions\.safetensors cannot be loaded"):
        Predictions.load(path)


@pytest.mark.parametrize("made", [one_label, several_labels])
def test_samples_scored_in_any_order_stand_in_the_splits(made: Callable[[], Predictions]) -> None:
    whole = made()
    index_N = torch.randperm(60, generator=torch.Generator().manual_seed(2))
    found = Predictions.over_workers(index_N, whole.logits_SK[index_N], whole.target[index_N], 60)
    assert torch.equal(found.logits_SK, whole.logits_SK)
    assert torch.equal(found.target, whole.target)


@pytest.mark.parametrize(
    ("scored", "law"), [([0, 1, 1], "1 were not: sample 1 was scored 2"), ([0, 2], "sample 1 .* 0")]
)
def test_a_sample_left_out_or_scored_twice_is_an_error(scored: list[int], law: str) -> None:
    index_N = torch.tensor(scored)
    with pytest.raises(RuntimeError, match=law):
        Predictions.over_workers(
            index_N, torch.zeros(len(scored), 2), torch.zeros(len(scored)).long(), 3 if 2 in scored else 2
        )


@dataclass
class Batch:
    clip_B1THW: torch.Tensor
    label_B: torch.Tensor
    index_B: torch.Tensor


@dataclass
class Share:
    """The batches of one worker: clips that are the logits, every `num_workers`-th sample from `rank` on."""

    whole: Predictions
    rank: int
    num_workers: int
    num_train_steps: int = 0

    @property
    def num_val_samples(self) -> int:
        return len(self.whole.logits_SK)

    def train(self, epoch: int, first_step: int = 0) -> Iterator[Any]:
        raise NotImplementedError

    def val(self) -> Iterator[Batch]:
        for index_B in torch.arange(self.rank, self.num_val_samples, self.num_workers).split(4):
            logits_BK = self.whole.logits_SK[index_B]
            yield Batch(logits_BK[:, None, :, None, None], self.whole.target[index_B], index_B)


def evaluate_share(rank: int, folder: str) -> None:
    """What one of two processes does: the whole from its half, then a sample that both score."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for made in (one_label, several_labels):
        found = loop.evaluate(nn.Flatten(), Share(made(11), rank, 2).val(), 11, LearningConfig())
        found.save(Path(folder) / f"{made.__name__}-{rank}")
    with pytest.raises(RuntimeError, match=r"11 were not: sample 0 was scored 2 times"):
        loop.evaluate(nn.Flatten(), Share(one_label(11), 0, 1).val(), 11, LearningConfig())
    dist.destroy_process_group()


def test_two_workers_hold_the_same_whole(tmp_path: Path) -> None:
    # 11 samples: one worker scores 6, the other 5.
    # Forked, since nothing here has threads that a child would miss: a fresh process imports torch for seconds.
    torch.multiprocessing.start_processes(evaluate_share, (str(tmp_path),), nprocs=2, start_method="fork")
    for made in (one_label, several_labels):
        whole = made(11)
        for rank in range(2):
            found = Predictions.load(tmp_path / f"{made.__name__}-{rank}")
            assert torch.equal(found.logits_SK, whole.logits_SK)
            assert torch.equal(found.target, whole.target)
