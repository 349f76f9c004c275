"""All that lies in a dataset folder, read once a process: frames at native size, images, and their times.

The thermal dataset is 38 MB, so every run in a process shares one reading of it, whatever its labels, split and clips.
Frames that take more than a budget stay on disk: each recording is scanned once a machine instead, by scans.py.

Legend: N frames of all recordings together, H height, W width, K classes.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from slowfast_ray.data import (
    annotations,
    disk_frames,
    memory,
    recording_files,
    recordings,
    remote,
    scans,
    synthetic,
    timeline,
)
from slowfast_ray.data.annotations import Annotations, Image
from slowfast_ray.data.disk_frames import DiskFrames
from slowfast_ray.data.frames import Frames, MemoryFrames
from slowfast_ray.data.recordings import Recording
from slowfast_ray.data.scans import Scan
from slowfast_ray.data.timeline import Timeline

log = logging.getLogger(__name__)

FINGERPRINT_DIGITS = 12


@dataclass(frozen=True)
class Source:
    """A dataset folder. Pickled, its arrays travel out of band under pickle's protocol 5, frames in memory as well."""

    root: Path
    classes: tuple[str, ...]
    frames: Frames
    """Of all recordings: in memory, or on disk."""
    timeline: Timeline
    train: Annotations
    val: Annotations
    num_dead_pixels: int
    fingerprint: str
    """Equal for equal frames, times and annotations, wherever they lie."""

    @property
    def images(self) -> tuple[Image, ...]:
        """Those of train.json, then those of val.json."""
        return self.train.images + self.val.images

    def num_people_K(self) -> list[int]:
        """People of each class in both files."""
        labels = [person.label for image in self.images for person in image.people]
        return np.bincount(labels, minlength=len(self.classes)).tolist()


def locate(root: str | None) -> Path:
    """The folder of a dataset on this machine, absolute; that of a URL is fetched, as far as it is not here. Without a
    root, that of the made-up one, which is made at the first call.
    """
    if root is None:
        return synthetic.cached()
    return _fetched(root) if remote.is_url(root) else Path(root).expanduser().absolute()


@lru_cache(maxsize=8)
def _fetched(url: str) -> Path:
    """As the data was when this process first looked: a storage that is away later stops nothing."""
    return remote.fetched_dataset(url)


_adopted: dict[Path, Source] = {}


def adopt(source: Source) -> None:
    """From now on `read` gives this one for its folder in this process, whatever the budget; for processes of one
    machine, which share the memory that its frames lie in. To be called before anything reads the folder.
    """
    _adopted[source.root] = source
    read.cache_clear()


def is_adopted(root: Path) -> bool:
    """Whether this process was given the dataset in a folder."""
    return root in _adopted


@lru_cache(maxsize=2)
def read(root: Path, memory_budget: float | None = None) -> Source:
    """The dataset in the folder `root`, whose frames are in memory up to `memory_budget` [GB]; None: up to a quarter of
    the machine's memory.

    Raises FileNotFoundError or ValueError with everything that stands in the way of using it.
    """
    if root in _adopted:
        return _adopted[root]
    train, val = read_annotations(root)
    paths = paths_of(root / "frames", train, val)
    shapes = [recording_files.shape_NHW(path) for path in paths]
    for path, shape_NHW in zip(paths, shapes, strict=True):
        if shape_NHW[1:] != shapes[0][1:]:
            raise ValueError(
                f"All frames must have one size, but {path.name} has {shape_NHW[1:]} and {paths[0].name} has "
                f"{shapes[0][1:]} in {root / 'frames'}."
            )
    for file in (train, val):
        check_keyframes(file, {path.stem: shape_NHW[0] for path, shape_NHW in zip(paths, shapes, strict=True)})
    num_bytes = [4 * int(np.prod(shape_NHW)) for shape_NHW in shapes]
    described: list[Recording] | list[Scan]
    if sum(num_bytes) <= memory.budget_bytes(memory_budget):
        frames, described = _into_memory(paths, shapes)
    else:
        log.info("The frames of %s take %.1f GB: they stay on disk.", root, sum(num_bytes) / 1e9)
        slow = disk_frames.slow_chunks(paths)
        if slow is not None:
            log.warning("%s", slow)
        described = scans.of_all(paths, num_bytes)
        frames = DiskFrames(described)
    source = Source(
        root=root,
        classes=train.classes,
        frames=frames,
        timeline=timeline.build(described),
        train=train,
        val=val,
        num_dead_pixels=sum(recording.num_dead_pixels for recording in described),
        fingerprint=_fingerprint(described, train, val),
    )
    _log_what_was_done(source, described)
    return source


def _into_memory(paths: Sequence[Path], shapes: Sequence[tuple[int, int, int]]) -> tuple[Frames, list[Recording]]:
    """All frames, of which those of one recording are in memory twice at a time; recordings hold their part of them."""
    num_frames = sum(shape_NHW[0] for shape_NHW in shapes)
    frames_NHW = np.empty((num_frames, *shapes[0][1:]), dtype=np.float32)
    loaded = []
    first = 0
    for path in paths:
        recording = recordings.read(path)
        mine = frames_NHW[first : first + len(recording.frames_NHW)]
        mine[:] = recording.frames_NHW
        loaded.append(replace(recording, frames_NHW=mine))
        first += len(mine)
    return MemoryFrames(torch.from_numpy(frames_NHW)), loaded


def read_annotations(root: Path) -> tuple[Annotations, Annotations]:
    """train.json and val.json of a dataset folder. Raises FileNotFoundError or ValueError."""
    if not root.is_dir():
        raise FileNotFoundError(f"No such data folder: {root}; `data.root` must hold frames/ and annotations/.")
    train = annotations.read(root / "annotations" / "train.json")
    val = annotations.read(root / "annotations" / "val.json")
    if train.classes != val.classes:
        raise ValueError(
            f"Both splits must list the same categories, but {train.path} lists {len(train.classes)} and {val.path} "
            f"{len(val.classes)}: {', '.join(sorted(set(train.classes) ^ set(val.classes))) or 'in another order'}."
        )
    if len(train.classes) < 2:
        raise ValueError(f"Classification needs 2 categories or more, but {train.path} lists {len(train.classes)}.")
    return train, val


def paths_of(folder: Path, *files: Annotations) -> list[Path]:
    """The recordings that these files name, in alphabetical order. Raises FileNotFoundError with all that lack."""
    named_in: dict[str, Path] = {}
    for file in files:
        for image in file.images:
            named_in.setdefault(image.recording, file.path)
    missing = [name for name in sorted(named_in) if not (folder / f"{name}.h5").is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(named_in)} recordings named in {folder.parent / 'annotations'} have no file in "
            f"{folder}: {', '.join(f'{name}.h5 ({named_in[name].name})' for name in missing)}."
        )
    return [folder / f"{name}.h5" for name in sorted(named_in)]


def check_keyframes(file: Annotations, length_of: dict[str, int]) -> None:
    """Raises ValueError for a keyframe outside its recording, whose lengths in frames are given."""
    for image in file.images:
        if not 0 <= image.keyframe < length_of[image.recording]:
            raise ValueError(
                f"A keyframe must lie inside its recording, but {image.id} in {file.path} has frame_idx "
                f"{image.keyframe}, and {image.recording} has {length_of[image.recording]} frames."
            )


def _fingerprint(loaded: Sequence[Recording | Scan], *files: Annotations) -> str:
    digest = hashlib.sha256()
    for recording in loaded:
        digest.update(recording.id.encode())
        digest.update(recording.digests_N.tobytes())
        digest.update(b"" if recording.times_N is None else recording.times_N.tobytes())
    for file in files:
        images = [
            [image.id, image.recording, image.keyframe, [[p.label, p.box, p.object_id] for p in image.people]]
            for image in file.images
        ]
        digest.update(json.dumps([file.classes, images]).encode())
    return digest.hexdigest()[:FINGERPRINT_DIGITS]


def _log_what_was_done(source: Source, loaded: Sequence[Recording | Scan]) -> None:
    num_sessions = source.timeline.num_sessions
    log.info("Read %s: %d recordings of %d sessions.", source.root, len(loaded), num_sessions)
    for recording in loaded:
        if recording.num_dead_pixels:
            log.info(
                "%s: %d dead pixel values in %d of %d frames repaired from the nearest good frame.",
                *(recording.id, recording.num_dead_pixels, recording.num_dead_frames, len(recording.digests_N)),
            )
    for file in (source.train, source.val):
        if file.num_unlabelled:
            log.warning("%s: %d images without annotations were left out.", file.path.name, file.num_unlabelled)
