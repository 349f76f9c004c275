"""All that lies in a dataset folder, read once a process: frames in memory at native size, images, and their times.

The thermal dataset is 38 MB, so every run in a process shares one reading of it, whatever its labels, split and clips.

Legend: N frames of all recordings together, H height, W width, K classes.
"""

import hashlib
import json
import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from slowfast_ray.data import annotations, recordings, synthetic, timeline
from slowfast_ray.data.annotations import Annotations, Image
from slowfast_ray.data.recordings import Recording
from slowfast_ray.data.timeline import Timeline

log = logging.getLogger(__name__)

FINGERPRINT_DIGITS = 12


@dataclass(frozen=True)
class Source:
    """A dataset folder in memory."""

    root: Path
    classes: tuple[str, ...]
    frames_NHW: torch.Tensor
    """float32 in degrees Celsius, dead pixels repaired."""
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
    """The folder of a dataset, absolute; without a root, of the made-up one, which is made at the first call."""
    return Path(root).expanduser().absolute() if root is not None else synthetic.cached()


@lru_cache(maxsize=2)
def read(root: Path) -> Source:
    """The dataset in the folder `root`.

    Raises FileNotFoundError or ValueError with everything that stands in the way of using it.
    """
    train, val = read_annotations(root)
    loaded = [recordings.read(path) for path in paths_of(root / "frames", train, val)]
    for recording in loaded[1:]:
        if recording.frames_NHW.shape[1:] != loaded[0].frames_NHW.shape[1:]:
            raise ValueError(
                f"All frames must have one size, but {recording.id}.h5 has {recording.frames_NHW.shape[1:]} and "
                f"{loaded[0].id}.h5 has {loaded[0].frames_NHW.shape[1:]} in {root / 'frames'}."
            )
    length_of = {recording.id: len(recording.frames_NHW) for recording in loaded}
    for file in (train, val):
        check_keyframes(file, length_of)
    source = Source(
        root=root,
        classes=train.classes,
        frames_NHW=torch.from_numpy(np.concatenate([recording.frames_NHW for recording in loaded])),
        timeline=timeline.build(loaded),
        train=train,
        val=val,
        num_dead_pixels=sum(recording.num_dead_pixels for recording in loaded),
        fingerprint=_fingerprint(loaded, train, val),
    )
    _log_what_was_done(source, loaded)
    return source


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


def _fingerprint(loaded: list[Recording], *files: Annotations) -> str:
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


def _log_what_was_done(source: Source, loaded: list[Recording]) -> None:
    num_sessions = source.timeline.num_sessions
    log.info("Read %s: %d recordings of %d sessions.", source.root, len(loaded), num_sessions)
    for recording in loaded:
        if recording.num_dead_pixels:
            log.info(
                "%s: %d dead pixel values in %d of %d frames repaired from the nearest good frame.",
                *(recording.id, recording.num_dead_pixels, recording.num_dead_frames, len(recording.frames_NHW)),
            )
    for file in (source.train, source.val):
        if file.num_unlabelled:
            log.warning("%s: %d images without annotations were left out.", file.path.name, file.num_unlabelled)
