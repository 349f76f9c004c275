"""What MLflow is told of the data of a run: only runs on the same samples compare."""

import os
from typing import Any

from slowfast_ray.data.dataset import Dataset
from slowfast_ray.running.scores import Score


def tags_of(data: Dataset, scored: tuple[Score, ...]) -> dict[str, str]:
    """What a run in MLflow says of its data: only runs with equal fingerprints compare."""
    tags = {
        "split": data.split_name,
        "split_fingerprint": data.fingerprint,
        "dataset_fingerprint": data.source.fingerprint,
        "leak_share": f"{data.leak_share:.4f}",
        "num_sessions": str(data.source.timeline.num_sessions),
        "labels": data.config.labels,
        "num_train": str(len(data.train)),
        "num_val": str(len(data.val)),
    }
    for score in scored:
        for metric, interval in score.intervals.items():
            tags[f"baseline.{score.name}.{metric.split('/')[1]}"] = str(interval)
    return {f"slowfast_ray.{name}": value for name, value in tags.items()}


def dataset_input(data: Dataset) -> dict[str, Any]:
    """What MLflow's dataset input says: the same for all runs on the same files."""
    source = data.source
    height, width = source.frames.size_HW
    profile = {
        "recordings": len(source.timeline.recordings),
        "sessions": source.timeline.num_sessions,
        "frames": len(source.frames),
        "height": height,
        "width": width,
        "images": len(source.images),
        "classes": dict(zip(source.classes, source.num_people_K(), strict=True)),
    }
    return {
        "name": source.root.name,
        "digest": source.fingerprint,
        "source": os.fspath(source.root),
        "profile": profile,
    }
