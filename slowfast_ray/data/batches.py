"""The iterator that training and evaluation read: which clips, in which order, for which worker.

A batch has `batch_size` clips over all workers; each worker takes its share of it. Order and variation of a batch
depend on seed, epoch and step alone, so that a run continues after a stop as if there had been none, and gives the same
batches however many workers share them.

Shapes: B clips of this worker, S samples of a split, T frames, H and W height and width of the model's input.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from slowfast_ray.data import augment
from slowfast_ray.data.clip_reader import ClipReader
from slowfast_ray.data.config import DataConfig
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.data.samples import Split
from slowfast_ray.data.views import View


@dataclass(frozen=True)
class Batch:
    """Clips ready for the model, with their labels, on the device."""

    clip_B1THW: torch.Tensor
    label_B: torch.Tensor
    """int64 [B]; under the labels `multi` float32 [B, K], 1 for each class that occurs."""
    index_B: torch.Tensor
    """int64, on the CPU: the clip's position in its split."""


class Batches:
    """The batches of one worker.

    `batch_size` counts the clips of all workers. Training leaves out the last, incomplete batch of each epoch's order,
    another one each time; evaluation takes every sample exactly once, over all workers.
    """

    def __init__(
        self,
        dataset: Dataset,
        config: DataConfig,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        rank: int = 0,
        num_workers: int = 1,
    ) -> None:
        self._dataset, self._config = dataset, config
        self._reader = ClipReader(dataset.frames_NHW.to(device), dataset.clock, config)
        self._device, self._seed = device, seed
        self._batch_size, self._rank, self._num_workers = batch_size, rank, num_workers
        share = batch_size // num_workers
        self._share = slice(rank * share, (rank + 1) * share)

    @property
    def num_train_steps(self) -> int:
        """Steps in an epoch [steps]."""
        return len(self._dataset.train) // self._batch_size

    @property
    def num_val_samples(self) -> int:
        """Samples that validate, over all workers."""
        return len(self._dataset.val)

    def train(self, epoch: int) -> Iterator[Batch]:
        """This worker's share of every batch of an epoch."""
        order_S = self._order(self._generator(epoch, 0))
        for step in range(self.num_train_steps):
            chosen = order_S[step * self._batch_size : (step + 1) * self._batch_size]
            variation = augment.draw(self._config, self._batch_size, self._generator(epoch, step + 1))
            yield self._batch(self._dataset.train, chosen[self._share], variation.rows(self._share))

    def val(self, view: View | None = None) -> Iterator[Batch]:
        """This worker's share of the validation samples; the shares differ by one sample at most.

        `view` is which look at them is taken; None is View(), the keyframe in the middle and nothing cropped.
        """
        view = view or View()
        mine = torch.arange(self._rank, len(self._dataset.val), self._num_workers)
        for chosen in mine.split(max(1, self._batch_size // self._num_workers)):
            variation = None if view.crop is None else augment.crop(self._config, len(chosen), view.crop)
            yield self._batch(self._dataset.val, chosen, variation, view)

    def _order(self, generator: torch.Generator) -> torch.Tensor:
        """int64 [S]: a permutation of the training samples, or draws that favour rare classes."""
        num_samples, balance = len(self._dataset.train), self._config.class_balance
        if balance == 0:
            return torch.randperm(num_samples, generator=generator)
        weights_S = draw_weights(self._dataset.train.labels_S, len(self._dataset.classes), balance)
        return torch.multinomial(weights_S, num_samples, replacement=True, generator=generator)

    def _batch(
        self, split: Split, chosen_B: torch.Tensor, variation: augment.Variation | None, view: View | None = None
    ) -> Batch:
        keyframes_B, bounds = split.keyframes_S[chosen_B], (split.firsts_S[chosen_B], split.lasts_S[chosen_B])
        if view is not None:
            keyframes_B = view.moved(keyframes_B, *bounds, self._dataset.clock, self._config)
        tracks = None if split.tracks is None else split.tracks.rows(chosen_B)
        return Batch(
            clip_B1THW=self._reader.read(keyframes_B, *bounds, tracks, variation),
            label_B=split.labels_S[chosen_B].to(self._device, non_blocking=True),
            index_B=chosen_B,
        )

    def _generator(self, epoch: int, step: int) -> torch.Generator:
        # Torch seeds its CPU generator with 32 bits; SeedSequence mixes three numbers well into them.
        (mixed,) = np.random.SeedSequence([self._seed, epoch, step]).generate_state(1)
        return torch.Generator().manual_seed(int(mixed))


def draw_weights(labels_S: torch.Tensor, num_classes: int, balance: float) -> torch.Tensor:
    """float64 [S]: how often each sample is drawn, relative to the others: (samples of its class) ** -balance.

    With a balance of 1 all classes are drawn alike; a sample of several labels takes the mean over them.
    """
    is_multi = labels_S.ndim == 2
    labels_SK = labels_S.double() if is_multi else F.one_hot(labels_S, num_classes).double()
    weight_K = labels_SK.sum(dim=0).clamp(min=1) ** -balance
    return (labels_SK * weight_K).sum(dim=1) / labels_SK.sum(dim=1)
