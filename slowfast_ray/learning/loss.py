"""The training loss, per clip, so that sums over workers divide once.

Shapes: B clips, K classes.
"""

import torch
import torch.nn.functional as F


def per_clip(
    logits_BK: torch.Tensor, label_B: torch.Tensor, weights_K: torch.Tensor | None, label_smoothing: float
) -> torch.Tensor:
    """Weighted cross entropy with smoothed targets, float32 [B]; the mean over B is what the optimiser lowers.

    It is divided by the number of clips, not by their weights' sum: shares of a batch then add up to the whole batch.
    """
    return F.cross_entropy(
        logits_BK.float(), label_B, weight=weights_K, label_smoothing=label_smoothing, reduction="none"
    )


def inverse_frequency(labels_S: torch.Tensor, num_classes: int) -> torch.Tensor:
    """float32 [K]: weights proportional to 1 / frequency, with a mean of 1 over the samples; 1 for absent classes."""
    counts_K = torch.bincount(labels_S, minlength=num_classes).float()
    present_K = counts_K > 0
    # A mean of 1: sum over samples of c / counts[label] = c * (classes present), which shall be the number of samples.
    scale = len(labels_S) / present_K.sum()
    return torch.where(present_K, scale / counts_K.clamp(min=1), 1.0)
