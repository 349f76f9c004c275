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

from slowfast_ray.data import augment, clips
from slowfast_ray.data.config import DataConfig
from slowfast_ray.data.dataset import Dataset, Split


@dataclass(frozen=True)
class Batch:
    """Clips ready for the model, with their labels, on the device."""

    clip_B1THW: torch.Tensor
    label_B: torch.Tensor


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
        self._frames_NHW = dataset.frames_NHW.to(device)
        self._device, self._seed = device, seed
        self._batch_size, self._rank, self._num_workers = batch_size, rank, num_workers
        share = batch_size // num_workers
        self._share = slice(rank * share, (rank + 1) * share)

    @property
    def num_train_steps(self) -> int:
        """Steps in an epoch [steps]."""
        return len(self._dataset.train) // self._batch_size

    def train(self, epoch: int) -> Iterator[Batch]:
        """This worker's share of every batch of an epoch."""
        order_S = torch.randperm(len(self._dataset.train), generator=self._generator(epoch, 0))
        for step in range(self.num_train_steps):
            chosen = order_S[step * self._batch_size : (step + 1) * self._batch_size]
            variation = augment.draw(self._config, self._batch_size, self._generator(epoch, step + 1))
            yield self._batch(self._dataset.train, chosen[self._share], variation.rows(self._share))

    def val(self) -> Iterator[Batch]:
        """This worker's share of the validation samples; the shares differ by one sample at most."""
        mine = torch.arange(self._rank, len(self._dataset.val), self._num_workers)
        for chosen in mine.split(max(1, self._batch_size // self._num_workers)):
            yield self._batch(self._dataset.val, chosen, None)

    def _batch(self, split: Split, chosen_B: torch.Tensor, variation: augment.Variation | None) -> Batch:
        indices_BT = clips.frame_indices(
            split.keyframes_S[chosen_B],
            split.firsts_S[chosen_B],
            split.lasts_S[chosen_B],
            clip_len=self._config.clip_len,
            frame_interval=self._config.frame_interval,
        )
        clip_B1THW = clips.gather(self._frames_NHW, indices_BT)
        return Batch(
            clip_B1THW=augment.prepare(clip_B1THW, self._config, variation),
            label_B=split.labels_S[chosen_B].to(self._device, non_blocking=True),
        )

    def _generator(self, epoch: int, step: int) -> torch.Generator:
        # Torch seeds its CPU generator with 32 bits; SeedSequence mixes three numbers well into them.
        (mixed,) = np.random.SeedSequence([self._seed, epoch, step]).generate_state(1)
        return torch.Generator().manual_seed(int(mixed))
