"""What trains, wired from the three wings and ready for its first step; and where it stands among its workers."""

import os
from dataclasses import dataclass, field, replace

import torch

from slowfast_ray.data import dataset, remote
from slowfast_ray.data.batches import Batch, Batches
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import step
from slowfast_ray.learning.counts import Counts
from slowfast_ray.learning.learner import Learner
from slowfast_ray.learning.loss import Loss
from slowfast_ray.model import freezing, pretrained, slowfast
from slowfast_ray.model.config import ModelConfig
from slowfast_ray.model.slowfast import SlowFast
from slowfast_ray.run_config import RunConfig

CONTEXTS_LEAVE = 0.95
"""Of a share of a GPU. An H100's 80 GB leave 2 GB for a context in each half, a T4's 16 GB 0.4 GB."""


@dataclass(frozen=True)
class Place:
    """Where this process stands among the workers of a run, and what it computes on."""

    rank: int = 0
    num_workers: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    num_threads: int | None = None
    """Threads of torch on the CPU; None leaves its own choice."""
    gpu_share: float = 1.0
    """Of the GPU's memory, where several trials share it."""


def device_of(run: RunConfig) -> torch.device:
    """For a run in this process: a GPU where there is one, unless it shall have none."""
    return torch.device("cuda" if run.gpus_per_worker != 0 and torch.cuda.is_available() else "cpu")


def with_classes(experiment: Experiment, data: Dataset) -> Experiment:
    """`experiment` with the number of classes of its dataset. Raises ValueError where it names another one."""
    num_classes = experiment.model.num_classes
    if num_classes not in (None, len(data.classes)):
        raise ValueError(
            f"`model.num_classes` (={num_classes}) must be the {len(data.classes)} classes that {data.root} lists; "
            "leave it out."
        )
    return experiment.override({"model.num_classes": len(data.classes)})


def weights_here(config: ModelConfig) -> ModelConfig:
    """`config` with its weights on this machine; those at a URL are fetched, as far as they are not here."""
    if config.weights is None or not remote.is_url(config.weights):
        return config
    return replace(config, weights=os.fspath(remote.fetched_weights(config.weights)))


@dataclass(frozen=True)
class Prepared:
    """What trains, before its first step: the wings, wired."""

    experiment: Experiment
    """With its classes known."""
    data: Dataset
    batches: Batches
    learner: Learner
    loss: Loss

    def train_step(self, batch: Batch) -> torch.Tensor:
        """Moves the weights by one batch; gives its mean loss."""
        total = Counts.zero(batch.clip_B1THW.device)
        return step.take(self.learner, batch.clip_B1THW, batch.label_B, self.experiment.learning, self.loss, total)

    def begin_epoch(self, epoch: int) -> None:
        """Puts the network into the state in which it trains in an epoch, counted from 1."""
        assert isinstance(self.learner.model, SlowFast)
        freezing.begin_epoch(self.learner.model, self.experiment.model, epoch)


def prepare(experiment: Experiment, place: Place, *, goes_on: bool = False) -> Prepared:
    """Reads the data and builds the network that `experiment` describes, with the weights that it starts from; without
    them where it goes on from a checkpoint.
    """
    compute_as(experiment, place)
    data = dataset.load(experiment.data)
    experiment = with_classes(experiment, data)
    torch.manual_seed(experiment.run.seed)
    model = slowfast.build(experiment.model).to(place.device)
    if experiment.model.weights is not None and not goes_on:
        pretrained.load(model, weights_here(experiment.model), data.classes)
    batches = Batches(
        data,
        experiment.data,
        batch_size=experiment.learning.batch_size,
        seed=experiment.run.seed,
        device=place.device,
        rank=place.rank,
        num_workers=place.num_workers,
        num_cpus=place.num_threads,
    )
    learner = Learner.start(
        model,
        experiment.learning,
        batches.num_train_steps,
        num_workers=place.num_workers,
        depth_of=freezing.depth_of,
    )
    num_train_K = data.train.num_per_class_K(len(data.classes))
    loss = Loss.of(experiment.learning, num_train_K, len(data.train), place.device)
    return Prepared(experiment, data, batches, learner, loss)


def compute_as(experiment: Experiment, place: Place) -> None:
    """Settings of this whole process; Tune trains one trial after the other in it."""
    if place.device.type == "cuda":  # whoever takes more runs out of memory alone, and not with its neighbours
        # Each process has a context of its own there, of some hundred MB, which torch does not count.
        share = place.gpu_share if place.gpu_share == 1 else place.gpu_share * CONTEXTS_LEAVE
        # torch takes no device without an index here; None is the current one.
        torch.cuda.set_per_process_memory_fraction(float(share), place.device.index)
    is_deterministic = experiment.run.deterministic
    if is_deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses
    torch.use_deterministic_algorithms(is_deterministic)
    if is_deterministic and place.device.type == "cpu":
        torch.set_num_threads(1)  # threads add in another order on a machine with other cores
    elif place.num_threads is not None:
        torch.set_num_threads(place.num_threads)
