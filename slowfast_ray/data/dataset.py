"""A dataset in memory: all frames once, and the samples of both splits as tensors that point into them.

The thermal dataset is 38 MB, so a process reads it once, keeps it at native size, and every later run in that process
shares it.

Shapes: N frames of all recordings together, H height, W width, S samples, K classes.
"""

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from slowfast_ray.data import annotations, recordings, synthetic
from slowfast_ray.data.annotations import Annotations

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """The samples that train, or those that validate."""

    ids: tuple[str, ...]
    keyframes_S: torch.Tensor
    """int64: the keyframe, counted over the frames of all recordings [frames]."""
    firsts_S: torch.Tensor
    """int64: the first frame of the sample's recording [frames]."""
    lasts_S: torch.Tensor
    """int64: the last frame of the sample's recording [frames]."""
    labels_S: torch.Tensor
    """int64: index into the classes."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Dataset:
    """Frames, classes and splits."""

    root: Path
    classes: tuple[str, ...]
    frames_NHW: torch.Tensor
    """float32 in degrees Celsius, dead pixels repaired."""
    train: Split
    val: Split
    num_recordings: int
    num_dead_pixels: int
    num_ties: int

    def summary(self) -> str:
        """One line for people: what was read, and what was repaired or decided by rule on the way."""
        height, width = self.frames_NHW.shape[1:]
        return (
            f"{len(self.train)} train and {len(self.val)} val samples of {len(self.classes)} classes; "
            f"{self.num_recordings} recordings, {len(self.frames_NHW)} frames of {height} x {width}; "
            f"{self.num_dead_pixels} dead pixel values repaired; {self.num_ties} labels decided by the tie rule"
        )


def load(root: str | None) -> Dataset:
    """The dataset at `root`, or the made-up one; read once a process.

    Raises FileNotFoundError or ValueError with everything that stands in the way of using it.
    """
    return _load(Path(root).expanduser().absolute() if root is not None else synthetic.cached())


@lru_cache(maxsize=2)
def _load(root: Path) -> Dataset:
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
    loaded = _read_recordings(root / "frames", train, val)
    lengths = [len(recording.frames_NHW) for recording in loaded]
    first_of = dict(zip([recording.id for recording in loaded], np.cumsum([0, *lengths[:-1]]).tolist(), strict=True))
    length_of = dict(zip(first_of, lengths, strict=True))
    dataset = Dataset(
        root=root,
        classes=train.classes,
        frames_NHW=torch.from_numpy(np.concatenate([recording.frames_NHW for recording in loaded])),
        train=_split(train, first_of, length_of),
        val=_split(val, first_of, length_of),
        num_recordings=len(loaded),
        num_dead_pixels=sum(recording.num_dead_pixels for recording in loaded),
        num_ties=train.num_ties + val.num_ties,
    )
    _log_what_was_decided(dataset, loaded, train, val)
    return dataset


def _read_recordings(folder: Path, *files: Annotations) -> list[recordings.Recording]:
    named_in: dict[str, Path] = {}
    for file in files:
        for sample in file.samples:
            named_in.setdefault(sample.recording, file.path)
    missing = [name for name in sorted(named_in) if not (folder / f"{name}.h5").is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(named_in)} recordings named in {folder.parent / 'annotations'} have no file in "
            f"{folder}: {', '.join(f'{name}.h5 ({named_in[name].name})' for name in missing)}."
        )
    loaded = [recordings.read(folder / f"{name}.h5") for name in sorted(named_in)]
    for recording in loaded[1:]:
        if recording.frames_NHW.shape[1:] != loaded[0].frames_NHW.shape[1:]:
            raise ValueError(
                f"All frames must have one size, but {recording.id}.h5 has {recording.frames_NHW.shape[1:]} and "
                f"{loaded[0].id}.h5 has {loaded[0].frames_NHW.shape[1:]} in {folder}."
            )
    return loaded


def _split(file: Annotations, first_of: dict[str, int], length_of: dict[str, int]) -> Split:
    for sample in file.samples:
        if not 0 <= sample.keyframe < length_of[sample.recording]:
            raise ValueError(
                f"A keyframe must lie inside its recording, but {sample.id} in {file.path} has frame_idx "
                f"{sample.keyframe}, and {sample.recording} has {length_of[sample.recording]} frames."
            )
    firsts_S = torch.tensor([first_of[sample.recording] for sample in file.samples])
    return Split(
        ids=tuple(sample.id for sample in file.samples),
        keyframes_S=firsts_S + torch.tensor([sample.keyframe for sample in file.samples]),
        firsts_S=firsts_S,
        lasts_S=firsts_S + torch.tensor([length_of[sample.recording] - 1 for sample in file.samples]),
        labels_S=torch.tensor([sample.label for sample in file.samples]),
    )


def _log_what_was_decided(dataset: Dataset, loaded: list[recordings.Recording], *files: Annotations) -> None:
    log.info("Read %s: %s.", dataset.root, dataset.summary())
    for recording in loaded:
        if recording.num_dead_pixels:
            log.info(
                "%s: %d dead pixel values in %d of %d frames repaired from the nearest good frame.",
                *(recording.id, recording.num_dead_pixels, recording.num_dead_frames, len(recording.frames_NHW)),
            )
    for file in files:
        if file.num_conflicts:
            log.info(
                "%s: the people of %d of %d samples carry different labels; the majority decides, and in %d ties the "
                "lowest category id.",
                *(file.path.name, file.num_conflicts, len(file.samples), file.num_ties),
            )
        if file.num_unlabelled:
            log.warning("%s: %d images without annotations were left out.", file.path.name, file.num_unlabelled)
