"""For tests of data: recordings and whole datasets of a few tiny frames, each frame written as one number."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from slowfast_ray.data import clips
from slowfast_ray.data.clips import Clock
from slowfast_ray.data.recordings import Raw, Recording
from slowfast_ray.data.splits import Pool
from slowfast_ray.data.timeline import Timeline

# Legend: N frames, S samples.

CLASSES = ("sitting", "standing", "lying")

Someone = Mapping[str, Any]
"""What an annotation says, without its ids."""
Image = tuple[str, int, Sequence[int | Someone]]
"""Recording, keyframe, and the people, or only their categories."""


def pictures(values: Iterable[int | None]) -> np.ndarray:
    """float32 [N, 2, 2]: equal frames for equal values, others for others; for None a frame that shows nothing."""
    corners_HW = np.array([[0.0, 0.25], [0.5, 0.75]], np.float32)
    return np.stack([np.full((2, 2), 20, np.float32) if value is None else value + corners_HW for value in values])


def recording(
    name: str, values: Sequence[int | None], times: Sequence[int] | None = None, sensor: str | None = None
) -> Recording:
    """A recording as it would be read from a file."""
    times_N = None if times is None else np.array(times, dtype=np.int64)
    raw = Raw(Path(f"{name}.h5"), pictures(values), times_N, sensor)
    return Recording(name, raw.frames_NHW, times_N, sensor, raw.digests_N(), num_dead_pixels=0, num_dead_frames=0)


def pool_of(
    line: Timeline,
    keyframes: Sequence[tuple[int, int]],
    width: float,
    *,
    classes_SK: np.ndarray | None = None,
    clock: Clock | None = None,
) -> Pool:
    """The pool of samples at (recording, keyframe), with windows of this width."""
    recordings_S = np.array([index for index, _ in keyframes])
    firsts_S = line.firsts[recordings_S]
    keyframes_S = firsts_S + np.array([keyframe for _, keyframe in keyframes])
    bounds = (keyframes_S, firsts_S, firsts_S + line.lengths[recordings_S] - 1)
    window_firsts_S, window_lasts_S = clips.windows(*map(torch.from_numpy, bounds), clock, width)
    return Pool(
        keyframes_S=keyframes_S,
        recordings_S=recordings_S,
        firsts_S=window_firsts_S.numpy(),
        lasts_S=window_lasts_S.numpy(),
        classes_SK=np.ones((len(keyframes), 1), dtype=bool) if classes_SK is None else classes_SK,
        is_provided_val_S=np.zeros(len(keyframes), dtype=bool),
    )


def write_recording(path: Path, frames_NHW: np.ndarray, times: Sequence[int] | None, sensor: str | None = None) -> Path:
    """One HDF5 file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["frames"] = frames_NHW
        if times is not None:
            file["timestamps"] = np.array(times)
        if sensor is not None:
            file.attrs["mac_address"] = sensor
    return path


def write_annotations(path: Path, images: Sequence[Image], classes: Sequence[str] = CLASSES, first_id: int = 0) -> Path:
    """One COCO-style file, whose images are numbered from `first_id`."""
    people = [
        {"image_id": first_id + i, **({"category_id": someone} if isinstance(someone, int) else someone)}
        for i, (_, _, everybody) in enumerate(images)
        for someone in everybody
    ]
    content = {
        "images": [
            {"id": first_id + i, "sensor_id": name, "frame_idx": keyframe}
            for i, (name, keyframe, _) in enumerate(images)
        ],
        "annotations": [{"id": i, **each} for i, each in enumerate(people)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes)],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_dataset(
    root: Path,
    films: Mapping[str, tuple[np.ndarray, Sequence[int] | None]],
    train: Sequence[Image],
    val: Sequence[Image],
    *,
    classes: Sequence[str] = CLASSES,
    first_val_id: int = 1000,
) -> Path:
    """A dataset folder of some recordings, each its frames and times."""
    for name, (frames_NHW, times) in films.items():
        write_recording(root / "frames" / f"{name}.h5", frames_NHW, times)
    write_annotations(root / "annotations" / "train.json", train, classes)
    write_annotations(root / "annotations" / "val.json", val, classes, first_val_id)
    return root
