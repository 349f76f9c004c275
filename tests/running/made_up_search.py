"""A made-up search in a real MLflow store: eight trials and a finalist, and beside it a search on another split,
one trial of which was never trained.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from slowfast_ray.experiment import LAPTOP
from slowfast_ray.running.tracking.tracking import FINALIST, RunHandle, State, Tracker

FIELDS = ("learning.lr", "learning.batch_size", "data.clip_len", "data.frame_interval")
OBJECTIVE = "final/objective"
BOUNDS = (f"{OBJECTIVE}_low", f"{OBJECTIVE}_high")
METRICS = (OBJECTIVE, *BOUNDS, "val/top1", "val/mean_class", "val/loss", "cost/device_seconds")
SAMPLES: list[tuple[float, int, int, int, State]] = [
    (0.1, 8, 32, 2, "finished"),
    (0.0121, 8, 32, 2, "finished"),
    (0.0447, 16, 16, 4, "finished"),
    (0.231, 4, 48, 1, "pruned"),
    (0.0063, 8, 32, 1, "finished"),
    (0.0812, 16, 16, 2, "finished"),
    (0.0305, 4, 48, 2, "finished"),
    (0.152, 16, 48, 4, "finished"),
    (0.152, 16, 48, 8, "infeasible"),
]
SPLIT, OTHER_SPLIT = "5d1f03a29c40", "0b77c1e8d2f5"


def name_of(number: int) -> str:
    lr, batch_size, clip_len, frame_interval, _ = SAMPLES[number]
    return f"trial-{number:03d} lr={lr:.3g} bs={batch_size} {clip_len}x{frame_interval}"


def history_of(number: int) -> list[dict[str, float]]:
    """A training whose best learning rate is 0.05, and whose best clip spans 64 frames."""
    lr, batch_size, clip_len, frame_interval, state = SAMPLES[number]
    last = 0.61 - 0.12 * math.log10(lr / 0.05) ** 2 - 0.09 * abs(math.log2(clip_len * frame_interval / 64))
    last -= 0.01 * math.log2(batch_size / 4)
    num_epochs = {"infeasible": 0, "pruned": 4}.get(state, 12)
    values = [last * (1 - math.exp(-epoch / 3)) for epoch in range(1, num_epochs + 1)]
    return [
        {"val/mean_class": round(value, 4), "val/top1": round(value + 0.06, 4), "val/loss": round(2.1 - 2 * value, 4)}
        for value in values
    ]


def final_of(number: int) -> dict[str, float]:
    """What is told of a trial at its end; nothing where it was never measured."""
    history = history_of(number)
    if not history:
        return {}
    value = history[-1]["val/mean_class"]
    ends = {OBJECTIVE: value, BOUNDS[0]: round(value - 0.09, 4), BOUNDS[1]: round(value + 0.09, 4)}
    return {**ends, "cost/device_seconds": len(history) * (2.0 + SAMPLES[number][2] / 16)}


def write_trial(
    tracker: Tracker, search: RunHandle, folder: Path, name: str, number: int, tags: dict[str, str]
) -> None:
    experiment = LAPTOP.override(dict(zip(FIELDS, SAMPLES[number], strict=False)))
    trial = tracker.open(name, experiment, folder / name.split()[0], parent=search, tags=tags)
    history = history_of(number)
    tracker.log_missing_epochs(trial, history)
    if history:
        tracker.log_epoch(trial, len(history), final_of(number))
    tracker.end(trial, SAMPLES[number][-1], "" if history else "a clip is longer than a recording")


def write_search(tracker: Tracker, folder: Path, numbers: Sequence[int], tags: dict[str, str]) -> RunHandle:
    search = tracker.open(folder.name, LAPTOP, folder, tags=tags)
    for number in numbers:
        write_trial(tracker, search, folder, name_of(number), number, tags)
    tracker.end(search, "finished")
    return search


def write(uri: str, folder: Path) -> str:
    """All runs, in the words of the driver; gives the id of the search of eight trials."""
    tags = {"slowfast_ray.split_fingerprint": SPLIT}
    with Tracker(uri, folder / "first") as tracker:
        first = write_search(tracker, folder / "first", range(8), tags)
        write_trial(tracker, first, folder / "first", "finalist-002 seed=1", 2, {**tags, FINALIST: "2"})
    with Tracker(uri, folder / "other") as other:
        write_search(other, folder / "other", (0, 1, 8), {"slowfast_ray.split_fingerprint": OTHER_SPLIT})
    assert (tracker.num_unsent, other.num_unsent) == (0, 0)
    assert first.id is not None
    return first.id
