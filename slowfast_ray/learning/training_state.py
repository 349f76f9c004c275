"""What training needs beside the evaluated weights in order to go on exactly where it stopped, as a file.

It is read with weights_only: nothing in it is unpickled but tensors and plain values.
"""

from pathlib import Path

import torch

from slowfast_ray.learning.learner import Learner


def save(learner: Learner, file: Path) -> None:
    """Optimiser, schedule, random generators, micro-batch; where weights are averaged, also the network that trains."""
    device = next(learner.model.parameters()).device
    state = {
        "optimizer": learner.optimizer.state_dict(),
        "scheduler": learner.scheduler.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "micro_batch": learner.micro_batch,
        "cpu_generator": torch.get_rng_state(),
    }
    if learner.average is not None:
        state["model"] = learner.model.state_dict()
        state["num_averaged"] = int(learner.average.n_averaged)
    if device.type == "cuda":
        state["cuda_generator"] = torch.cuda.get_rng_state(device)
    torch.save(state, file)


def load(file: Path, learner: Learner) -> None:
    """Puts it back. Raises whatever torch raises for a damaged or foreign file."""
    device = next(learner.model.parameters()).device
    state = torch.load(file, map_location="cpu", weights_only=True)
    if learner.average is not None:
        learner.model.load_state_dict(state["model"])
        learner.average.n_averaged.fill_(state["num_averaged"])
    learner.scaler.load_state_dict(state["scaler"])
    learner.micro_batch = min(learner.micro_batch, state["micro_batch"])  # what was found to fit still does
    learner.optimizer.load_state_dict(state["optimizer"])
    learner.scheduler.load_state_dict(state["scheduler"])
    torch.set_rng_state(state["cpu_generator"])
    if device.type == "cuda" and "cuda_generator" in state:
        torch.cuda.set_rng_state(state["cuda_generator"], device)
