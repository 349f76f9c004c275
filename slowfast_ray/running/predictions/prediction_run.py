"""Predicts many recordings: one after the other, or side by side through Ray Data.

Both ways do the same with each recording; what fails for one is told, and costs no other one.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import ray
import ray.data
import torch
from ray.exceptions import RayError

from slowfast_ray.data import recordings
from slowfast_ray.run_config import RunConfig
from slowfast_ray.running.nodes import cluster
from slowfast_ray.running.predicting import Predictor
from slowfast_ray.running.predictions import prediction_truths, windows
from slowfast_ray.running.predictions.prediction_plan import Plan
from slowfast_ray.running.predictions.prediction_truths import Truth

MIN_FOR_RAY = 8
PATIENCE_S = 20.0
"""Ray is started where so many recordings are left after so many seconds: before, its own start would take longer (10 s
on two busy CPU cores, where a network of a quarter of the width needs 0.15 s for a recording of 500 frames)."""
MAX_CPU_WORKERS = 8
"""Networks at once without a GPU; they share the cores."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Done:
    """A recording that was predicted, or why it was not."""

    path: Path
    table: pd.DataFrame | None = None
    """Of windows.of_frames; None where it failed."""
    truths: tuple[Truth, ...] = ()
    is_right: tuple[bool | None, ...] = ()
    """One for each truth; None where the network does not know its class."""
    num_dead_pixels: int = 0
    """Values that were repaired [pixels]."""
    error: str = ""
    """Empty where it did not fail."""


def run(plan: Plan, *, verbose: bool, on_windows: Callable[[int], None] = lambda _: None) -> Iterator[Done]:
    """Each recording as soon as it is done, in any order; `on_windows` hears of windows where they are done in here.

    Side by side on the cluster that RAY_ADDRESS names; without one, as soon as that is quicker than one by one.
    """
    left = plan.recordings
    if RunConfig().cluster_address is None:
        started = time.monotonic()
        for done in one_by_one(plan, on_windows):
            yield done
            left = left[1:]
            # A single GPU is busy already.
            is_worth_it = len(left) >= MIN_FOR_RAY and torch.cuda.device_count() != 1
            if is_worth_it and time.monotonic() - started > PATIENCE_S:
                break
    if left:
        with cluster.connected(RunConfig(), verbose=verbose):
            yield from side_by_side(replace(plan, recordings=left), verbose=verbose)


def one_by_one(plan: Plan, on_windows: Callable[[int], None] = lambda _: None) -> Iterator[Done]:
    """In this process, in the order of the plan."""
    predictor = Predictor.load(plan.model)
    for path in plan.recordings:
        yield predicted(predictor, plan, path, on_windows)


def side_by_side(plan: Plan, *, verbose: bool) -> Iterator[Done]:
    """On the connected Ray: as many networks as there are GPUs, or as cores allow. All machines must see the model and
    the recordings under the same paths.
    """
    if not verbose:
        _quieten()
    left = dict.fromkeys(plan.recordings)
    try:
        for done in _pass(plan, plan.recordings):
            del left[done.path]
            yield done
    except RayError:
        log.info("A process died.", exc_info=True)
    # Nobody knows which recording killed it: from now on each has a process of its own. Not within the `except`, whose
    # traceback would hold the other processes, and what they occupy.
    for path in left:
        try:
            yield from _pass(plan, (path,))
        except RayError as error:
            yield Done(path, error=f"its process died ({str(error).splitlines()[0]})")


def _pass(plan: Plan, paths: Sequence[Path]) -> Iterator[Done]:
    """Raises RayError where a process dies, after what was done by then."""
    available = ray.cluster_resources()
    num_gpus, num_cpus = int(available.get("GPU", 0)), int(available.get("CPU", 1))
    num_workers = min(len(paths), num_gpus or min(num_cpus, MAX_CPU_WORKERS))
    rows = [{"path": str(path)} for path in paths]
    found = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Worker,  # pyright: ignore[reportArgumentType]
        fn_constructor_args=(plan,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=num_workers),
        num_gpus=1 if num_gpus else 0,
        num_cpus=1 if num_gpus else max(1, num_cpus // num_workers),
        max_restarts=0,  # else a recording that kills its process is tried for ever
    )
    for row in found.iter_rows():
        yield row["done"]


def predicted(predictor: Predictor, plan: Plan, path: Path, on_windows: Callable[[int], None] = lambda _: None) -> Done:
    """What the network says of a recording. An error, of whatever kind, is part of the answer."""
    try:
        recording = recordings.read(path)
        table = windows.of_frames(
            predictor,
            recording,
            every=plan.every,
            smooth=plan.smooth,
            images=plan.annotated.images,
            on_batch=on_windows,
        )
        truths = plan.annotated.of_recording(recording.id, predictor.experiment.data)
        is_right = tuple(prediction_truths.are_right(table, truths, predictor.classes))
        return Done(path, table, truths, is_right, recording.num_dead_pixels)
    except Exception as error:  # hours of other recordings are worth more than a traceback, which the log has
        log.info("%s failed.", path, exc_info=True)
        known = isinstance(error, ValueError | OSError)
        return Done(path, error=str(error) if known else f"{type(error).__name__}: {error}")


class _Worker:
    """A process of Ray with the network in memory."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._predictor = Predictor.load(plan.model, cluster.device_of_process())

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        done = np.empty(len(batch["path"]), dtype=object)
        done[:] = [predicted(self._predictor, self._plan, Path(str(path))) for path in batch["path"]]
        return {"done": done}


def _quieten() -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
