"""How long a training will take, by a few real steps on real batches where it would train. Keeps and writes nothing."""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from slowfast_ray.data.batches import Batch
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import step
from slowfast_ray.running.training.wiring import Prepared

NUM_STEPS = 3
"""That are measured, after one that warms up."""
MAX_SECONDS = 20.0
"""After which no further step is measured [s]."""


@dataclass(frozen=True)
class Measured:
    """What some steps took, on one worker."""

    step_seconds: float
    """Of a whole step, its batch included."""
    evaluation_seconds: float
    """Of all validation clips of this worker."""
    statistics_seconds: float
    """Of taking BatchNorm's statistics anew, in each epoch."""
    num_steps: int
    num_clips: int
    """That a measured step had."""
    micro_batch: int
    """Clips that went through the network at once in the end: a GPU that runs out of memory halves them."""
    peak_bytes: int | None
    """On a GPU: the most memory that tensors took."""

    def epoch_seconds(self, num_train_steps: int) -> float:
        """Of training and evaluation."""
        return num_train_steps * self.step_seconds + self.statistics_seconds + self.evaluation_seconds


def measure(prepared: Prepared, num_clips: int) -> Measured:
    """The time of a step and of an evaluation, by steps of the first `num_clips` clips of each batch.

    The network of `prepared` is changed by it. Raises DoesNotFitError where a GPU is too small for one clip.
    """
    experiment, device = prepared.experiment, next(prepared.learner.model.parameters()).device
    # The last epoch costs the most: all that thaws has thawed.
    prepared.begin_epoch(experiment.learning.num_epochs)
    share = share_of(experiment)
    batch_seconds: list[float] = []
    learn_seconds: list[float] = []
    for batch, seconds in itertools.islice(_timed(_forever(prepared)), NUM_STEPS + 1):
        started = time.perf_counter()
        float(prepared.train_step(_first(batch, num_clips)))  # a number: it waits for the GPU
        batch_seconds.append(seconds)
        learn_seconds.append(time.perf_counter() - started)
        if len(learn_seconds) == 1 and device.type == "cuda":  # what did not fit at first is no peak
            torch.cuda.reset_peak_memory_stats(device)
        if len(learn_seconds) > 1 and sum(learn_seconds[1:]) > MAX_SECONDS:
            break
    num_steps = len(learn_seconds) - 1
    step_seconds = (sum(batch_seconds[1:]) + sum(learn_seconds[1:]) * share / num_clips) / num_steps
    clip_seconds = _seconds_a_scored_clip(prepared, num_clips)
    num_val = len(prepared.data.val) // experiment.run.num_workers
    return Measured(
        step_seconds=step_seconds,
        evaluation_seconds=clip_seconds * num_val,
        statistics_seconds=clip_seconds * share * experiment.learning.precise_batch_norm,
        num_steps=num_steps,
        num_clips=num_clips,
        micro_batch=prepared.learner.micro_batch,
        peak_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    )


def _forever(prepared: Prepared) -> Iterator[Batch]:
    return (batch for epoch in itertools.count(1) for batch in prepared.batches.train(epoch))


def _timed(batches: Iterator[Batch]) -> Iterator[tuple[Batch, float]]:
    while True:
        started = time.perf_counter()
        batch = next(batches)
        yield batch, time.perf_counter() - started


def _first(batch: Batch, num_clips: int) -> Batch:
    return Batch(batch.clip_B1THW[:num_clips], batch.label_B[:num_clips], batch.index_B[:num_clips])


@torch.inference_mode()
def _seconds_a_scored_clip(prepared: Prepared, num_clips: int) -> float:
    model = prepared.learner.evaluated.eval()
    # Twice, since the first time warms up; a clip that takes seconds does not need it.
    num_times = 1 if num_clips < share_of(prepared.experiment) else 2
    seconds = 0.0
    for _ in range(num_times):
        started = time.perf_counter()
        clip_B1THW = next(prepared.batches.val()).clip_B1THW[:num_clips]
        with step.autocast(clip_B1THW.device, prepared.experiment.learning):
            float(model(clip_B1THW).sum())
        seconds = (time.perf_counter() - started) / len(clip_B1THW)
    return seconds


def share_of(experiment: Experiment) -> int:
    """Clips of a batch that each worker has."""
    return experiment.learning.batch_size // experiment.run.num_workers
