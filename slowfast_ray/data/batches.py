"""The iterator that training and evaluation read: which clips, in which order, for which worker.

A batch has `batch_size` clips over all workers; each worker takes its share of it. Order and variation of a batch
depend on seed, epoch and step alone, so that a run continues after a stop as if there had been none, and gives the same
batches however many workers share them.

Shapes: B clips of this worker, S samples of a split, T frames, H and W height and width of the model's input.
"""

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from slowfast_ray.data import augment, loading, memory
from slowfast_ray.data.clip_reader import ClipReader, Wanted
from slowfast_ray.data.config import DataConfig
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.data.samples import Split
from slowfast_ray.data.views import View

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """Clips ready for the model, with their labels, on the device."""

    clip_B1THW: torch.Tensor
    label_B: torch.Tensor
    """int64 [B]; under the labels `multi` float32 [B, K], 1 for each class that occurs."""
    index_B: torch.Tensor
    """int64, on the CPU: the clip's position in its split."""


_Step = tuple[torch.Tensor, augment.Variation | None]
"""Positions in a split, int64 [B], and how their clips are varied."""


class Batches:
    """The batches of one worker.

    `batch_size` counts the clips of all workers. Training leaves out the last, incomplete batch of each epoch's order,
    another one each time; evaluation takes every sample exactly once, over all workers.

    Where frames stay on disk, `num_loaders` processes read ahead, 0 for none; None is as many as this process has CPUs
    for: `num_cpus`, or, where that is None, all of the machine's, with nobody beside it. Batches are the same, but of
    several iterators only the newest can be read.
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
        num_loaders: int | None = None,
        num_cpus: int | None = None,
    ) -> None:
        self._dataset, self._config = dataset, config
        if num_loaders is None:
            num_loaders = loading.num_loaders(num_cpus)
        if dataset.is_streamed:
            num_loaders = _check_buffers(dataset, config, -(-batch_size // num_workers), num_loaders, num_cpus)
        self._reader = ClipReader(dataset.frames.on(device, num_loaders), dataset.clock, config)
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

    def train(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """This worker's share of every batch of an epoch, from a step on, counted from 0."""
        return self._read(self._dataset.train, self._train_steps(epoch, first_step))

    def _train_steps(self, epoch: int, first_step: int) -> Iterator[_Step]:
        order_S = self._order(self._generator(epoch, 0))
        for step in range(first_step, self.num_train_steps):
            chosen = order_S[step * self._batch_size : (step + 1) * self._batch_size]
            variation = augment.draw(self._config, self._batch_size, self._generator(epoch, step + 1))
            yield chosen[self._share], variation.rows(self._share)

    def val(self, view: View | None = None) -> Iterator[Batch]:
        """This worker's share of the validation samples; the shares differ by one sample at most.

        `view` is which look at them is taken; None is View(), the keyframe in the middle and nothing cropped.
        """
        view = view or View()
        return self._read(self._dataset.val, self._val_steps(view), view)

    def _val_steps(self, view: View) -> Iterator[_Step]:
        mine = torch.arange(self._rank, len(self._dataset.val), self._num_workers)
        for chosen in mine.split(max(1, self._batch_size // self._num_workers)):
            yield chosen, None if view.crop is None else augment.crop(self._config, len(chosen), view.crop)

    def _order(self, generator: torch.Generator) -> torch.Tensor:
        """int64 [S]: a permutation of the training samples, or draws that favour rare classes."""
        num_samples, balance = len(self._dataset.train), self._config.class_balance
        if balance == 0:
            return torch.randperm(num_samples, generator=generator)
        weights_S = draw_weights(self._dataset.train.labels_S, len(self._dataset.classes), balance)
        return torch.multinomial(weights_S, num_samples, replacement=True, generator=generator)

    def _read(self, split: Split, steps: Iterable[_Step], view: View | None = None) -> Iterator[Batch]:
        """The batches of some steps, of which the reader takes some ahead."""
        taken: deque[torch.Tensor] = deque()

        def wanted() -> Iterator[Wanted]:
            for chosen_B, variation in steps:
                taken.append(chosen_B)
                keyframes_B, bounds = split.keyframes_S[chosen_B], (split.firsts_S[chosen_B], split.lasts_S[chosen_B])
                if view is not None:
                    keyframes_B = view.moved(keyframes_B, *bounds, self._dataset.clock, self._config)
                tracks = None if split.tracks is None else split.tracks.rows(chosen_B)
                yield Wanted(keyframes_B, *bounds, tracks, variation)

        for clip_B1THW in self._reader.stream(wanted()):
            chosen_B = taken.popleft()
            yield Batch(
                clip_B1THW=clip_B1THW,
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


def _check_buffers(dataset: Dataset, config: DataConfig, num_clips: int, num_loaders: int, num_cpus: int | None) -> int:
    """How many processes can read ahead for batches of `num_clips` clips; warns where memory is short."""
    bytes_of_clip = loading.clip_bytes(dataset.frames, config.clip_len)
    wanted, wanted_bytes = num_loaders, loading.buffer_bytes(bytes_of_clip, num_clips, num_loaders)
    needed = wanted_bytes
    while num_loaders and not loading.fit_into_shared_memory(needed, num_cpus):
        num_loaders -= 1
        needed = loading.buffer_bytes(bytes_of_clip, num_clips, num_loaders)
    if num_loaders < wanted:
        log.warning(
            "Clips are read from disk by %s in place of %d processes, which would pass them on through %.2g GB of "
            "shared memory (%s); give the container more, as by --shm-size.",
            *(num_loaders or "the training process itself", wanted, wanted_bytes / 1e9, loading.SHARED_MEMORY),
        )
    if needed > memory.budget_bytes(config.memory_budget):
        log.warning(
            "Reading clips from disk takes about %.2g GB of memory itself, more than `data.memory_budget` (=%.2g) "
            "allows; lower `learning.batch_size` or `data.clip_len`.",
            *(needed / 1e9, memory.budget_bytes(config.memory_budget) / 1e9),
        )
    return num_loaders
