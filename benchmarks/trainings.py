"""The trainings behind a table: as many at once as there are cores, each to its end; what is done stays as it is."""

import multiprocessing
import os
import platform
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slowfast_ray.experiment import LAPTOP, Experiment
from slowfast_ray.learning import checkpoint
from slowfast_ray.running.training import worker
from slowfast_ray.running.training.wiring import Place

RECIPE_BEFORE: dict[str, Any] = {
    "learning.lr": 0.05,
    "learning.batch_size": 8,
    "learning.optimizer": "sgd",
    "learning.num_epochs": 12,
    "learning.ema_decay": 0.0,
    "learning.mixup": 0.0,
    "model.dropout": 0.2,
}
"""The laptop preset's recipe until 2026-11-24, which several tables were measured with; docs/recipe.md has today's."""


PERSON: dict[str, Any] = {"data.labels": "person", "data.height": 32, "data.width": 32}
"""Crops are square, and 32 pixels hold the largest box with its margin."""
NUM_FOLDS = 3
"""Of the purged split: with five, each run would cost as much, and each fold validate on less."""


def purged_persons(root: Path, *, fold: int, seed: int, num_epochs: int) -> Experiment:
    """The laptop preset with the recipe before, on person crops of one fold of the purged split."""
    return LAPTOP.override(
        {
            **RECIPE_BEFORE,
            **PERSON,
            "data.root": str(root.absolute()),
            "data.split": "purged",
            "data.num_folds": NUM_FOLDS,
            "data.fold": fold,
            "learning.num_epochs": num_epochs,
            "run.seed": seed,
        }
    )


def train_all(runs: Sequence[tuple[Experiment, Path]], objective: str, num_processes: int | None = None) -> None:
    """Trains every experiment into its folder, or on from its newest checkpoint, one thread each, and says how far.

    `objective` chooses the best epoch. `num_processes` trainings at once; None: one a core, or one on a GPU.
    """
    started = time.monotonic()
    num_processes = num_processes or (1 if torch.cuda.is_available() else os.cpu_count() or 1)
    with ProcessPoolExecutor(num_processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for number, _ in enumerate(pool.map(partial(_train, objective), *zip(*runs, strict=True)), start=1):
            print(f"{number} of {len(runs)} runs, {(time.monotonic() - started) / 60:.1f} min", flush=True)


def _train(objective: str, experiment: Experiment, folder: Path) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    worker.train(experiment, folder, objective, lambda row: None, Place(device=device, num_threads=1))


def last_checkpoint(folder: Path) -> Path:
    """Of a run that `train_all` has trained."""
    newest = checkpoint.newest(folder)
    assert newest is not None, f"{folder} was trained"
    return newest


def said(folder: Path) -> np.ndarray:
    """What the last epoch of a run said of its validation samples, int64 [S]."""
    return checkpoint.read_predictions(last_checkpoint(folder)).predicted_S().numpy()


def machine() -> str:
    """For the last line of a table: where and when it was measured."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    date = time.strftime("%Y-%m-%d")
    return f"{platform.machine()}, {os.cpu_count()} cores, {device}, torch {torch.__version__}, {date}."
