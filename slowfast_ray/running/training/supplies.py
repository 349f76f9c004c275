"""What a driver gives to the workers of its runs."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ray.actor import ActorHandle

from slowfast_ray.data import dataset
from slowfast_ray.data.config import DataConfig
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning.learner import UnfitDeviceError, check_precision
from slowfast_ray.running.folders import begun, mirror
from slowfast_ray.running.folders.mirror import Mirror
from slowfast_ray.running.nodes import cluster, node_frames
from slowfast_ray.running.nodes.slots import Slots
from slowfast_ray.running.training.pulse import Watch
from slowfast_ray.running.training.verdicts import UnfitMachineError, UnfitPrecisionError

SECONDS_TO_APPEAR = 60.0
"""For what another machine has just written into a folder that both see: NFS remembers so long what was not there."""


@dataclass(frozen=True)
class Supplies:
    """Travels with the function that trains."""

    slots: Slots
    pulse: ActorHandle[Any]
    """Of pulse.Watch: hears that they get on."""
    readers: ActorHandle[Any] | None
    """Of node_frames.sharing."""
    fingerprint: str
    """Of the dataset that the driver sees."""
    identity: str
    """Of the run or search (begun.py): a worker's machine may still have what an earlier one of that name left."""

    def check_machine(self, experiment: Experiment, name: str) -> None:
        """In a worker, before it trains as `experiment`. Raises UnfitMachineError where its machine cannot, whatever
        the run: its folder is not the driver's, torch cannot use its GPU, or not in this precision.
        """
        host = socket.gethostname()
        home = self.home_of(experiment, name.split("/")[0])
        if not home.url and not _appears(home.folder / begun.BEGUN_AS):
            raise UnfitMachineError(
                f"on {host}: `run.storage` (={experiment.run.storage}) must be one folder that every machine sees, or "
                f"a URL, but {home.folder} is not there as it is where the run was started"
            )
        device = cluster.device_of_process()
        if device.type == "cuda" and not torch.cuda.is_available():
            raise UnfitMachineError(
                f"on {host}: A GPU was given to this process, but torch {torch.__version__} cannot use it: it is a "
                "build for CPUs, or one for a newer driver; install one that fits, or say --run.gpus-per-worker 0."
            )
        try:
            check_precision(experiment.learning, device)
        except UnfitDeviceError as error:
            raise UnfitPrecisionError(f"on {host}: {error}") from error

    def home_of(self, experiment: Experiment, name: str) -> Mirror:
        """In a worker: where the run called `name` (or `search/trial`) keeps its files."""
        return mirror.of(experiment.run.storage, name, f"worker/{self.identity}")

    def read_data(self, config: DataConfig) -> None:
        """In a worker, before it trains: reads what its machine has. Raises ValueError where that is other data than
        the driver's: figures would not compare.
        """
        node_frames.take(self.readers, config)
        found = dataset.load(config).source
        if found.fingerprint != self.fingerprint:
            raise ValueError(
                f"`data.root` (={config.root or found.root}) holds other data on {socket.gethostname()} (fingerprint "
                f"{found.fingerprint}) than where the run was started ({self.fingerprint}); copy it again, or name one "
                "place for all machines."
            )


def _appears(path: Path) -> bool:
    until = time.monotonic() + SECONDS_TO_APPEAR
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(1.0)
    return True


@contextmanager
def supplied(slots: Slots, data: Dataset, identity: str, hang_timeout_min: float) -> Iterator[tuple[Supplies, Watch]]:
    """In the driver: supplies for the duration of the block, and who watches that the workers get on.

    `identity` is that of the run or search (begun.py), `data` what they all read.
    """
    with Watch(hang_timeout_min) as watch, node_frames.sharing(data) as readers:
        yield Supplies(slots, watch.pulse, readers, data.source.fingerprint, identity), watch
