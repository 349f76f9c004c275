"""The training loss, per clip, so that sums over workers divide once; and the plain one that validation reports.

A target is one label a clip, int64 [B], or several, float [B, K] of zeros and ones (multi-hot). One label means a
softmax and cross entropy; several mean a sigmoid a class, and binary cross entropy averaged over the classes.

Shapes: B clips, K classes.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from slowfast_ray.learning.config import LearningConfig


def is_multi_hot(target: torch.Tensor) -> bool:
    """Whether a target holds several labels a clip, [B, K], instead of one, [B]."""
    return target.ndim == 2


def plain(logits_BK: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross entropy, or binary cross entropy averaged over classes, float32 [B]: no weights, no smoothing.

    Validation reports it, so that trials with different training losses compare.
    """
    if is_multi_hot(target):
        terms_BK = F.binary_cross_entropy_with_logits(logits_BK.float(), target.float(), reduction="none")
        return terms_BK.mean(dim=1)
    return F.cross_entropy(logits_BK.float(), target, reduction="none")


@dataclass(frozen=True, eq=False)
class Loss:
    """The loss of a training: what the settings ask for, with what it needs to know of the training set."""

    config: LearningConfig
    weights_K: torch.Tensor
    log_prior_K: torch.Tensor
    """log of the share of training samples with each class."""
    log_odds_K: torch.Tensor
    """log of the samples with each class by those without it."""

    @staticmethod
    def of(config: LearningConfig, num_per_class_K: torch.Tensor, num_samples: int, device: torch.device) -> "Loss":
        """The loss of `config` for a training set of `num_samples`, of which `num_per_class_K` carry each class."""
        num_with_K = num_per_class_K.double().cpu()
        # A class that no sample carries, or that all carry, is off by half a sample: its logarithms stay finite.
        with_K, without_K = num_with_K.clamp(min=0.5), (num_samples - num_with_K).clamp(min=0.5)
        return Loss(
            config=config,
            weights_K=class_weights(config, num_with_K).to(device),
            log_prior_K=(with_K / num_samples).log().float().to(device),
            log_odds_K=(with_K / without_K).log().float().to(device),
        )

    def __call__(self, logits_BK: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Float32 [B]; the mean over B is what the optimiser lowers.

        It is divided by the number of clips, not by their weights' sum: shares of a batch then add up to the whole.
        """
        if is_multi_hot(target):
            return self._several_labels(logits_BK.float(), target.float())
        return self._one_label(logits_BK.float(), target)

    def _one_label(self, logits_BK: torch.Tensor, label_B: torch.Tensor) -> torch.Tensor:
        adjusted_BK = logits_BK + self.config.logit_adjustment * self.log_prior_K
        loss_B = F.cross_entropy(
            adjusted_BK, label_B, self.weights_K, label_smoothing=self.config.label_smoothing, reduction="none"
        )
        if self.config.loss == "focal":
            log_true_B = -F.cross_entropy(adjusted_BK, label_B, reduction="none")
            loss_B = loss_B * self._focus(-torch.expm1(log_true_B))
        return loss_B

    def _several_labels(self, logits_BK: torch.Tensor, target_BK: torch.Tensor) -> torch.Tensor:
        # Each class is a question of yes or no of its own, so the log of its odds takes the place of its log prior.
        adjusted_BK = logits_BK + self.config.logit_adjustment * self.log_odds_K
        smoothing = self.config.label_smoothing
        smoothed_BK = target_BK * (1 - smoothing) + smoothing / 2
        terms_BK = self.weights_K * F.binary_cross_entropy_with_logits(adjusted_BK, smoothed_BK, reduction="none")
        if self.config.loss == "focal":
            terms_BK = terms_BK * self._focus(torch.sigmoid((1 - 2 * target_BK) * adjusted_BK))
        return terms_BK.mean(dim=1)

    def _focus(self, wrong: torch.Tensor) -> torch.Tensor:
        """(1 - p)^gamma of Lin et al. 2017, equation 4, from the probability of all but the truth, 1 - p."""
        # Below 1, the power's slope at 0 is infinite, and 0 times that would make the gradient NaN.
        return wrong.clamp(min=torch.finfo(wrong.dtype).tiny) ** self.config.focal_gamma


def class_weights(config: LearningConfig, num_per_class_K: torch.Tensor) -> torch.Tensor:
    """float32 [K]: what each class weighs, with a mean of 1 over the labels of the training set; 1 for absent classes.

    inverse_frequency: proportional to 1 / n. effective_number: to (1 - beta) / (1 - beta^n), Cui et al. 2019.
    With one label a sample, a mean over labels is one over samples.
    """
    num_with_K = num_per_class_K.double()
    if config.class_weights == "none":
        return torch.ones_like(num_with_K, dtype=torch.float32)
    if config.class_weights == "inverse_frequency":
        weights_K = 1 / num_with_K
    else:
        beta = torch.tensor(config.effective_number_beta, dtype=torch.float64)
        weights_K = (1 - beta) / -torch.expm1(num_with_K * beta.log())  # 1 - beta^n, also where beta is almost 1
    present_K = num_with_K > 0
    scale = num_with_K.sum() / (num_with_K * weights_K)[present_K].sum()
    return torch.where(present_K, scale * weights_K, 1.0).float()
