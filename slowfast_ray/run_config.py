"""Where an experiment runs and what it leaves behind: the settings of the first floor, with their laws."""

import os
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where an experiment runs and what it leaves behind."""

    seed: int = 0
    """Seed of weights, order of clips, augmentation and search [whole number, 0 or more]."""

    num_workers: int = 1
    """Training processes that share one model and each batch [count]. 1 trains without communication."""

    address: str | None = None
    """Ray cluster to join: HOST:PORT, or auto for the one on this machine. None: the variable RAY_ADDRESS, else Ray is
    started here."""

    gpus_per_worker: float | None = None
    """GPUs that each worker holds: 1, a fraction of one, which several trials then share, or 0 for the CPU [GPUs].
    None: 1 where there are GPUs."""

    cpus_per_worker: int | None = None
    """CPUs of each worker, as Ray counts and torch computes [cores]. None: its GPU's share of the machine, or an equal
    share."""

    hang_timeout_min: float = 15.0
    """A worker that reads no batch for so long hangs: it is ended, and its run goes on from the newest checkpoint
    [minutes]."""

    storage: str = "runs"
    """Folder for runs and checkpoints [path], on several machines one that all of them see; or s3://BUCKET/PATH or
    gs://BUCKET/PATH."""

    tracking_uri: str | None = None
    """MLflow store [URI]. None: the variable MLFLOW_TRACKING_URI, else sqlite:///mlflow.db here."""

    deterministic: bool = False
    """The same result, bit for bit, each time on the same kind of machine: deterministic kernels, and one thread a
    worker on the CPU. Slower."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"`run.seed` (={self.seed}) must be 0 or more and below 2**32; try 0.")
        if self.num_workers < 1:
            raise ValueError(f"`run.num_workers` (={self.num_workers}) must be 1 or more; try 1.")
        if not self.storage:
            raise ValueError("`run.storage` is empty; name a folder, for example runs.")
        if self.gpus_per_worker is not None:
            if not 0 <= self.gpus_per_worker <= 1:
                raise ValueError(
                    f"`run.gpus_per_worker` (={self.gpus_per_worker:g}) must be within 0..1, since a worker computes "
                    "on one GPU; for more of them raise run.num_workers."
                )
            if 0 < self.gpus_per_worker < 1 and self.num_workers > 1:
                raise ValueError(
                    f"`run.gpus_per_worker` (={self.gpus_per_worker:g}) with `run.num_workers` (={self.num_workers}) "
                    "would put two workers of one trial on one GPU, and NCCL, by which they talk, refuses that; take "
                    "whole GPUs, or one worker."
                )
        if self.cpus_per_worker is not None and self.cpus_per_worker < 1:
            raise ValueError(
                f"`run.cpus_per_worker` (={self.cpus_per_worker}) must be 1 or more; leave it out for a share."
            )
        if not 0 < self.hang_timeout_min < float("inf"):
            raise ValueError(f"`run.hang_timeout_min` (={self.hang_timeout_min:g}) must be above 0; try 15.")

    @property
    def cluster_address(self) -> str | None:
        """The cluster to join: `address`, else the variable RAY_ADDRESS, which `ray job submit` sets. None where Ray is
        started on this machine.
        """
        return self.address or os.environ.get("RAY_ADDRESS") or None

    @property
    def needs_ray(self) -> bool:
        """Whether a single run trains in processes of Ray; otherwise in its own."""
        return self.num_workers > 1 or self.cluster_address is not None

    @property
    def gpu_share(self) -> float:
        """Of its GPU's memory, what a worker may have."""
        return self.gpus_per_worker or 1.0

    @property
    def num_devices(self) -> float:
        """What a run holds while it trains: its GPUs, or its workers where it has none."""
        return self.num_workers * (self.gpus_per_worker or 1.0)
