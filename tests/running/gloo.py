"""Training processes of a gloo group, as Ray Train would start them; without Ray and MLflow, so they start fast."""

import json
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # torch's optimisers import it when they are made: once here, instead of in each process
from torch import nn

from slowfast_ray.experiment import Experiment
from slowfast_ray.model import slowfast
from slowfast_ray.running.training import wiring, worker

BUILD = slowfast.build


def without_batch_norm(config: Any) -> slowfast.SlowFast:
    """A SlowFast whose clips do not influence one another: BatchNorm sees a worker's share, GroupNorm one clip."""
    model = BUILD(config)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm3d):
                setattr(module, name, nn.GroupNorm(1, child.num_features))
    return model


def train_share(rank: int, num_workers: int, experiment_json: str, folder: str) -> None:
    """One of the processes of the group."""
    torch.set_num_threads(1)
    wiring.slowfast.build = without_batch_norm
    if num_workers > 1:
        torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", world_size=num_workers, rank=rank)
    rows: list[worker.Row] = []
    place = wiring.Place(rank=rank, num_workers=num_workers)
    worker.train(Experiment.from_json(experiment_json), Path(folder) / "run", "val/top1", rows.append, place)
    Path(folder, f"rows-{rank}.json").write_text(json.dumps(rows))
    if num_workers > 1:
        torch.distributed.destroy_process_group()
