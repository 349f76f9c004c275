"""What a network said of every validation sample, in the split's order: all that is reported of it follows from that.

Metrics, confusions and intervals are computed from the whole, once, and not from the shares of workers: an average
precision does not add up. Where several labels a sample are possible, the target is multi-hot; see learning/loss.py.

Shapes: S validation samples, N those of one worker, J classes that are looked at, K classes, V views.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from slowfast_ray.learning import counts
from slowfast_ray.learning.counts import Counts, is_hit
from slowfast_ray.learning.loss import is_multi_hot, plain


@dataclass(frozen=True)
class PerClass:
    """How one class does. What is undefined is NaN: recall of a class that does not occur, precision of one never said.

    With one label a sample, the most likely class is said; with several, each class of a probability above 1/2.
    """

    name: str
    num_samples: int
    num_predicted: int
    recall: float
    precision: float
    average_precision: float
    """Area under precision over recall, one class against the rest, as scikit-learn computes it: without interpolation;
    NaN where the class does not occur."""

    @property
    def f1(self) -> float:
        """Harmonic mean of recall and precision, 0 where both are; NaN where the class does not occur."""
        return 2 * self.recall * self.num_samples / (self.num_samples + self.num_predicted or math.nan)


@dataclass(frozen=True, eq=False)
class Predictions:
    """Logits and truth of all validation samples, on the CPU. Raises ValueError where they do not fit each other."""

    logits_SK: torch.Tensor
    """float32, as the network gave them: no softmax, no adjustment."""
    target: torch.Tensor
    """int64 [S], the label of each sample; or float32 [S, K] of zeros and ones, the labels of each (multi-hot)."""

    def __post_init__(self) -> None:
        logits, target = self.logits_SK, self.target
        if logits.dtype != torch.float32 or logits.ndim != 2 or 0 in logits.shape:
            raise ValueError(f"`logits_SK` must be float32 [S, K], but is {_described(logits)}.")
        if self.is_multi:
            if (
                target.dtype != torch.float32
                or target.shape != logits.shape
                or not ((target == 0) | (target == 1)).all()
            ):
                raise ValueError(
                    f"`target` must be float32 {list(logits.shape)} of zeros and ones, as the logits are, but is "
                    f"{_described(target)}."
                )
        elif target.dtype != torch.int64 or target.shape != logits.shape[:1]:
            raise ValueError(f"`target` must be int64 [{len(logits)}], as the logits are, but is {_described(target)}.")
        elif not 0 <= int(target.min()) <= int(target.max()) < logits.shape[1]:
            raise ValueError(
                f"`target` (={int(target.min())} to {int(target.max())}) must name the classes 0 to "
                f"{logits.shape[1] - 1} of the logits."
            )

    @staticmethod
    def over_workers(
        index_N: torch.Tensor, logits_NK: torch.Tensor, target: torch.Tensor, num_samples: int
    ) -> "Predictions":
        """The predictions of all workers, the same on each, from the samples that this one scored.

        `index_N` (int64) says where they stand in the split. Raises RuntimeError unless every one of the split's
        `num_samples` was scored exactly once.
        """
        scored_S = torch.zeros(num_samples, dtype=torch.int64, device=logits_NK.device)
        scored_S.index_add_(0, index_N, torch.ones_like(index_N))
        logits_SK = torch.zeros(num_samples, logits_NK.shape[1], device=logits_NK.device)
        logits_SK[index_N] = logits_NK.float()
        whole = torch.zeros(num_samples, *target.shape[1:], dtype=target.dtype, device=target.device)
        whole[index_N] = target
        if dist.is_initialized():
            for each in (scored_S, logits_SK, whole):  # a row is zero on all workers but one
                dist.all_reduce(each)
        wrong = (scored_S != 1).nonzero().flatten().tolist()
        if wrong:
            raise RuntimeError(
                f"Each of {num_samples} validation samples must be scored exactly once over all workers, but "
                f"{len(wrong)} were not: sample {wrong[0]} was scored {int(scored_S[wrong[0]])} times."
            )
        return Predictions(logits_SK.cpu(), whole.float().cpu() if is_multi_hot(whole) else whole.cpu())

    @staticmethod
    def averaged(views: Sequence["Predictions"]) -> "Predictions":
        """What several views of the same samples say together: the mean of their probabilities.

        Its logits are the logarithms of these means, whose softmax gives the means back; with several labels a sample,
        log(p / (1 - p)), whose sigmoid does. Raises ValueError without views, and where their truths differ.
        """
        if not views or any(not torch.equal(each.target, views[0].target) for each in views):
            raise ValueError(f"`views` (={len(views)} predictions) must be 1 or more, of the same samples and truth.")
        logits_VSK = torch.stack([each.logits_SK for each in views]).double()
        if views[0].is_multi:
            # The number of views cancels out.
            logits_SK = F.logsigmoid(logits_VSK).logsumexp(dim=0) - F.logsigmoid(-logits_VSK).logsumexp(dim=0)
        else:
            logits_SK = logits_VSK.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(views))
        return Predictions(logits_SK.float(), views[0].target)

    @property
    def is_multi(self) -> bool:
        """Whether a sample can have several labels."""
        return is_multi_hot(self.target)

    def loss(self) -> float:
        """The plain loss: cross entropy, or binary cross entropy, averaged over samples."""
        return self._counts().loss()

    def metrics(self) -> dict[str, float]:
        """The metrics of a validation pass, under the names of learning/counts.py.

        With several labels a sample, top1 and top5 are the shares of samples of which one label, at least, is the most
        likely class, or is among the five most likely (hit@1 and hit@5); mean_ap is NaN where no sample has a label.
        """
        sums = self._counts()
        if self.is_multi:
            occurring = [each for each in self._average_precisions() if not math.isnan(each)]
            by_class = {counts.VAL_MEAN_AP: sum(occurring) / len(occurring) if occurring else math.nan}
        else:
            by_class = {counts.VAL_MEAN_CLASS: _mean_class(self.confusion_KK())}
        return {
            counts.VAL_LOSS: sums.loss(),
            counts.VAL_TOP1: sums.top1(),
            counts.VAL_TOP5: sums.top5(),
            **by_class,
            counts.VAL_SAMPLES: len(self.logits_SK),
        }

    def macro_f1(self) -> float:
        """F1 averaged over the classes that occur among the labels; NaN where none does.

        With one label a sample, the most likely class is said; with several, each class of a probability above 1/2.
        """
        is_true_SK, is_said_SK = self.is_true_SK(), self.is_said_SK()
        num_right_K = (is_true_SK & is_said_SK).sum(dim=0).double()
        f1_K = 2 * num_right_K / (is_true_SK.sum(dim=0) + is_said_SK.sum(dim=0))
        return float(f1_K[is_true_SK.any(dim=0)].mean())

    def probabilities_SK(self) -> torch.Tensor:
        """float64 [S, K]: of each class; with one label a sample they add up to 1."""
        logits_SK = self.logits_SK.double()
        return logits_SK.sigmoid() if self.is_multi else logits_SK.softmax(dim=1)

    def is_true_SK(self) -> torch.Tensor:
        """bool [S, K]: the labels of each sample."""
        return self.target > 0 if self.is_multi else _one_hot(self.target, self.logits_SK.shape[1])

    def is_said_SK(self) -> torch.Tensor:
        """bool [S, K]: the most likely class; with several labels a sample, each of a probability above 1/2."""
        return self.logits_SK > 0 if self.is_multi else _one_hot(self.predicted_S(), self.logits_SK.shape[1])

    def predicted_S(self) -> torch.Tensor:
        """The most likely class of each sample, int64 [S]."""
        return self.logits_SK.argmax(dim=1)

    def right_S(self) -> torch.Tensor:
        """Whether the most likely class is the label of its sample, or one of them, bool [S]."""
        return is_hit(self.predicted_S()[:, None], self.target)

    def confusion_KK(self) -> torch.Tensor:
        """Samples by true class (row) and most likely class (column), int64. One label a sample only."""
        if self.is_multi:
            raise ValueError("A confusion matrix needs one label a sample, but these have several; see `per_class`.")
        num_classes = self.logits_SK.shape[1]
        flat_S = self.target * num_classes + self.predicted_S()
        return torch.bincount(flat_S, minlength=num_classes**2).view(num_classes, num_classes)

    def per_class(self, classes: Sequence[str]) -> list[PerClass]:
        """How each class does, in the order of `classes`, which name them."""
        if len(classes) != self.logits_SK.shape[1]:
            raise ValueError(
                f"`classes` (={len(classes)} names) must name the {self.logits_SK.shape[1]} of the logits."
            )
        is_true_SK, is_said_SK = self.is_true_SK(), self.is_said_SK()
        return [
            PerClass(
                name=name,
                num_samples=num_samples,
                num_predicted=num_predicted,
                recall=num_right / num_samples if num_samples else math.nan,
                precision=num_right / num_predicted if num_predicted else math.nan,
                average_precision=average_precision,
            )
            for name, num_samples, num_predicted, num_right, average_precision in zip(
                classes,
                is_true_SK.sum(dim=0).tolist(),
                is_said_SK.sum(dim=0).tolist(),
                (is_true_SK & is_said_SK).sum(dim=0).tolist(),
                self._average_precisions(),
                strict=True,
            )
        ]

    def save(self, path: Path) -> None:
        """Writes a safetensors file."""
        save_file({"logits_SK": self.logits_SK.contiguous(), "target": self.target.contiguous()}, path)

    @staticmethod
    def load(path: Path) -> "Predictions":
        """Reads what `save` wrote. Raises ValueError for a missing, damaged or foreign file."""
        try:
            tensors = load_file(path)
            if set(tensors) != {"logits_SK", "target"}:
                raise ValueError(f"it holds {', '.join(sorted(tensors)) or 'nothing'} instead of logits_SK and target.")
            return Predictions(**tensors)
        except (OSError, SafetensorError, ValueError) as error:
            raise ValueError(f"The predictions {path} cannot be loaded: {error}") from error

    def _counts(self) -> Counts:
        found = Counts.zero(self.logits_SK.device)
        found.add(self.logits_SK, self.target, plain(self.logits_SK, self.target))
        return found

    def _average_precisions(self) -> list[float]:
        # Imported here: it takes a second, and a training on one label a sample, in every worker, does without.
        from sklearn.metrics import average_precision_score

        # Samples are ranked by probability. A sigmoid keeps the order of logits, but float32 would round into ties.
        scores_SK = self.logits_SK.double()
        if not self.is_multi:
            scores_SK = scores_SK.log_softmax(dim=1)
        return [
            float(average_precision_score(is_true_S, scores_S)) if is_true_S.any() else math.nan
            for is_true_S, scores_S in zip(self.is_true_SK().T.numpy(), scores_SK.T.numpy(), strict=True)
        ]


def _described(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _one_hot(class_S: torch.Tensor, num_classes: int) -> torch.Tensor:
    return class_S[:, None] == torch.arange(num_classes)


def _mean_class(confusion_KK: torch.Tensor) -> float:
    """Recall averaged over the classes that occur among the labels (balanced accuracy)."""
    per_class_K = confusion_KK.sum(dim=1)
    present_K = per_class_K > 0
    return float((confusion_KK.diagonal()[present_K].double() / per_class_K[present_K]).mean())
