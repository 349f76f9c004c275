"""Samples as tensors that point into the frames: where they lie, what they are labelled, and whom they follow.

Legend: S samples, K classes, N frames of all recordings together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from slowfast_ray.data import tracks
from slowfast_ray.data.config import DataConfig
from slowfast_ray.data.labels import Sample
from slowfast_ray.data.source import Source
from slowfast_ray.data.timeline import Timeline
from slowfast_ray.data.tracks import Tracks

BLOCK_MS = 10_000
"""Samples of one stretch of time are not independent: intervals resample stretches of this length, about the span of a
clip of 64 frames. Fixed, so that intervals of trials with other clips compare."""
BLOCK_FRAMES = 64
"""The same where a recording does not tell its times."""


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
    """int64 [S], index into the classes; under the labels `multi` float32 [S, K], 1 for each class that occurs."""
    blocks_S: np.ndarray
    """int64: the stretch of time that a sample lies in."""
    tracks: Tracks | None
    """Whom the clips follow, under the labels `person`."""

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, chosen: torch.Tensor) -> "Split":
        """Some of the samples, by their positions (int64)."""
        return Split(
            ids=tuple(self.ids[i] for i in chosen.tolist()),
            keyframes_S=self.keyframes_S[chosen],
            firsts_S=self.firsts_S[chosen],
            lasts_S=self.lasts_S[chosen],
            labels_S=self.labels_S[chosen],
            blocks_S=self.blocks_S[chosen.numpy()],
            tracks=None if self.tracks is None else self.tracks.rows(chosen),
        )

    def num_per_class_K(self, num_classes: int) -> torch.Tensor:
        """int64 [K]: samples that carry each class."""
        if self.labels_S.ndim == 2:
            return self.labels_S.sum(dim=0).long()
        return torch.bincount(self.labels_S, minlength=num_classes)


@dataclass(frozen=True)
class Positions:
    """Where samples lie among all frames: int64 [S] each."""

    recordings_S: np.ndarray
    keyframes_S: np.ndarray
    starts_S: np.ndarray
    """First frame of the recording."""
    ends_S: np.ndarray
    """Last frame of the recording."""

    @staticmethod
    def of(samples: Sequence[Sample], timeline: Timeline) -> "Positions":
        """The positions of some samples."""
        index_of = {name: i for i, name in enumerate(timeline.recordings)}
        recordings_S = np.array([index_of[sample.recording] for sample in samples])
        starts_S = timeline.firsts[recordings_S]
        keyframes_S = starts_S + np.array([sample.keyframe for sample in samples])
        return Positions(recordings_S, keyframes_S, starts_S, starts_S + timeline.lengths[recordings_S] - 1)

    def as_tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Keyframes, starts and ends."""
        return torch.from_numpy(self.keyframes_S), torch.from_numpy(self.starts_S), torch.from_numpy(self.ends_S)


def multi_hot(samples: Sequence[Sample], num_classes: int) -> np.ndarray:
    """bool [S, K]: which classes each sample carries."""
    classes_SK = np.zeros((len(samples), num_classes), dtype=bool)
    for row, sample in zip(classes_SK, samples, strict=True):
        row[list(sample.labels)] = True
    return classes_SK


def split_of(samples: Sequence[Sample], chosen: np.ndarray, data: Source, config: DataConfig) -> Split:
    """Those of `samples` that `chosen` names by their positions, as an experiment with `config` sees them."""
    mine = [samples[i] for i in chosen]
    positions = Positions.of(mine, data.timeline)
    keyframes_S, starts_S, ends_S = positions.as_tensors()
    if config.labels == "multi":
        labels_S = torch.from_numpy(multi_hot(mine, len(data.classes))).float()
    else:
        labels_S = torch.tensor([sample.label for sample in mine])
    return Split(
        ids=tuple(sample.id for sample in mine),
        keyframes_S=keyframes_S,
        firsts_S=starts_S,
        lasts_S=ends_S,
        labels_S=labels_S,
        blocks_S=_blocks(positions, data.timeline),
        tracks=tracks.build(mine, data.images) if config.labels == "person" else None,
    )


def _blocks(positions: Positions, timeline: Timeline) -> np.ndarray:
    has_times_S = timeline.has_times[positions.recordings_S]
    times_S = timeline.times_N[positions.keyframes_S]
    stretch_S = np.where(has_times_S, times_S // BLOCK_MS, times_S // BLOCK_FRAMES)
    axis_S = timeline.axes_of(positions.recordings_S)
    _, blocks_S = np.unique(np.stack([axis_S, stretch_S], axis=1), axis=0, return_inverse=True)
    return blocks_S.reshape(-1).astype(np.int64)
