"""A dataset as an experiment sees it: labels by its policy, samples by its split, tensors that point into the frames.

Shapes: N frames of all recordings together, H height, W width, S samples, K classes.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from slowfast_ray.data import clips, labels, memory, source, splits
from slowfast_ray.data.clips import Clock
from slowfast_ray.data.config import DataConfig
from slowfast_ray.data.frames import Frames, MemoryFrames
from slowfast_ray.data.labels import Labelled, Sample
from slowfast_ray.data.samples import Positions, Split, multi_hot, split_of
from slowfast_ray.data.source import FINGERPRINT_DIGITS, Source
from slowfast_ray.data.splits import Members, Pool
from slowfast_ray.data.timeline import Timeline

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    """Frames, classes and splits."""

    source: Source
    config: DataConfig
    train: Split
    val: Split
    leaks_S: np.ndarray
    """bool, one for each validation sample: whether its clip spans a moment that a training sample's clip spans."""
    dropped_ids: tuple[str, ...]
    """Training samples left out by a purged split."""
    labelled: Labelled
    pool: Pool
    """Where `labelled.samples` lie, one by one, with the windows of the clip."""
    members: Members
    """Which of them train, validate, and were left out."""
    clock: Clock | None
    """For clips by the clock."""
    gap_share: float
    """Share of the frames of all clips that stand for a moment of which there is none; 0 for clips by frames."""
    fingerprint: str
    """Of the split: equal where the same samples with the same labels train and validate."""

    @property
    def root(self) -> Path:
        """The folder that it was read from."""
        return self.source.root

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""
        return self.source.classes

    @property
    def frames(self) -> Frames:
        """Of all recordings: in memory, or on disk."""
        return self.source.frames

    @property
    def is_streamed(self) -> bool:
        """Whether frames stay on disk, and clips are read as they are needed."""
        return not isinstance(self.frames, MemoryFrames)

    @property
    def frames_NHW(self) -> torch.Tensor:
        """float32, all frames of `frames` at once. Raises ValueError where they stay on disk."""
        if not isinstance(self.frames, MemoryFrames):
            raise ValueError(
                f"All frames of {self.root} cannot be had at once: they are "
                f"{memory.place(self.frames.num_bytes, self.config.memory_budget)}; raise the budget, or take some of "
                "them by `frames.gather`."
            )
        return self.frames.frames_NHW

    @property
    def leak_share(self) -> float:
        """Share of the validation samples whose clip spans a moment that the clip of a training sample spans."""
        return float(self.leaks_S.mean())

    @property
    def split_name(self) -> str:
        """For people: `purged, fold 0 of 5`."""
        config = self.config
        if config.split in ("provided", "all"):
            return config.split
        return f"{config.split}, fold {config.fold}" + (f" of {config.num_folds}" if config.split == "purged" else "")

    def summary(self) -> str:
        """One line for people: what was read, and what was repaired or decided by rule on the way."""
        height, width = self.frames.size_HW
        dropped = f" ({len(self.dropped_ids)} dropped, since they share moments with val)" if self.dropped_ids else ""
        ties = ""
        if self.config.labels == "majority":
            what = (
                "keyframes without a majority left out"
                if self.config.ties == "drop"
                else "labels decided by the tie rule"
            )
            ties = f"; {self.labelled.num_ties} {what}"
        place = memory.place(self.frames.num_bytes, self.config.memory_budget, is_streamed=self.is_streamed)
        gaps = f"; {self.gap_share:.1%} of the clips' frames stand for gaps" if self.clock is not None else ""
        return (
            f"{len(self.train)} train{dropped} and {len(self.val)} val samples of {len(self.classes)} classes, "
            f"split {self.split_name}; {len(self.source.timeline.recordings)} recordings of "
            f"{self.source.timeline.num_sessions} sessions, {len(self.frames)} frames of {height} x {width}, {place}; "
            f"{self.source.num_dead_pixels} dead pixel values repaired{ties}{gaps}"
        )

    def warnings(self) -> list[str]:
        """What a user should know before they trust the result: classes without training."""
        num_train_K = self.train.num_per_class_K(len(self.classes))
        num_val_K = self.val.num_per_class_K(len(self.classes))
        unlearnt = [
            f"{name} ({int(num)} val)"
            for name, trained, num in zip(self.classes, num_train_K, num_val_K, strict=True)
            if trained == 0 and num > 0
        ]
        if not unlearnt:
            return []
        return [f"No training sample, so that they are always missed: {', '.join(unlearnt)}."]

    def members_json(self) -> str:
        """Which samples train, validate, and were left out, by their ids."""
        members = {
            "split": self.split_name,
            "split_fingerprint": self.fingerprint,
            "dataset_fingerprint": self.source.fingerprint,
            "labels": self.config.labels,
            "train": self.train.ids,
            "val": self.val.ids,
            "dropped": self.dropped_ids,
            "without_majority": self.labelled.dropped_ids,
        }
        return json.dumps(members, indent=1) + "\n"


@lru_cache(maxsize=32)
def load(config: DataConfig) -> Dataset:
    """The dataset that `config` names, labelled and split as it says; its folder is read once a process.

    Raises FileNotFoundError or ValueError with everything that stands in the way of using it.
    """
    data = source.read(source.locate(config.root), config.memory_budget)
    num_people_K = data.num_people_K()
    provided = [labels.apply(file.images, config.labels, config.ties, num_people_K) for file in (data.train, data.val)]
    labelled = provided[0] + provided[1]
    if not labelled.samples:
        raise ValueError(f"`data.ties` (={config.ties}) leaves no sample of {data.root}: every keyframe is a tie.")
    is_val_S = np.arange(len(labelled.samples)) >= len(provided[0].samples)
    clock = None if config.frame_interval_ms is None else _clock(data, config)
    width = max(config.window, config.purge_window or 0)
    pool = _pool(labelled.samples, is_val_S, data, *_windows(labelled.samples, data, clock, width))
    members = splits.choose(pool, data.timeline, config)
    for name, chosen in (("train", members.train), ("val", members.val)):
        if not len(chosen):
            raise ValueError(f"No {name} sample is left under `data.ties` (={config.ties}); choose another rule.")
    spans = clips.spans(*Positions.of(labelled.samples, data.timeline).as_tensors(), clock, config)
    own_pool = _pool(labelled.samples, is_val_S, data, *spans)
    dataset = Dataset(
        source=data,
        config=config,
        train=split_of(labelled.samples, members.train, data, config),
        val=split_of(labelled.samples, members.val, data, config),
        leaks_S=splits.sharing(own_pool, data.timeline, members.val, members.train),
        dropped_ids=tuple(labelled.samples[i].id for i in members.dropped),
        labelled=labelled,
        pool=own_pool,
        members=members,
        clock=clock,
        gap_share=0.0 if clock is None else _gap_share(labelled.samples, data.timeline, clock, config),
        fingerprint=_fingerprint(labelled.samples, members, data, config),
    )
    log.info("%s.", dataset.summary())
    return dataset


def pool_of(data: Dataset, width: float) -> Pool:
    """`data.pool` with windows that hold every clip up to a width [frames; ms with data.frame_interval_ms]."""
    samples = data.labelled.samples
    return _pool(samples, data.pool.is_provided_val_S, data.source, *_windows(samples, data.source, data.clock, width))


def _windows(
    samples: Sequence[Sample], data: Source, clock: Clock | None, width: float
) -> tuple[torch.Tensor, torch.Tensor]:
    return clips.windows(*Positions.of(samples, data.timeline).as_tensors(), clock, width)


def _pool(
    samples: Sequence[Sample], is_val_S: np.ndarray, data: Source, first_S: torch.Tensor, last_S: torch.Tensor
) -> Pool:
    positions = Positions.of(samples, data.timeline)
    return Pool(
        keyframes_S=positions.keyframes_S,
        recordings_S=positions.recordings_S,
        firsts_S=first_S.numpy(),
        lasts_S=last_S.numpy(),
        classes_SK=multi_hot(samples, len(data.classes)),
        is_provided_val_S=is_val_S,
    )


def _clock(data: Source, config: DataConfig) -> Clock:
    timeline = data.timeline
    for name, first, length, has_times in zip(
        timeline.recordings, timeline.firsts, timeline.lengths, timeline.has_times, strict=True
    ):
        path = data.root / "frames" / f"{name}.h5"
        if not has_times:
            raise ValueError(
                f"`data.frame_interval_ms` (={config.frame_interval_ms:g}) needs the time of every frame, but {path} "
                "has no `timestamps`; add them, or use data.frame_interval."
            )
        backwards = np.flatnonzero(np.diff(timeline.times_N[first : first + length]) < 0)
        if len(backwards):
            raise ValueError(
                f"`data.frame_interval_ms` (={config.frame_interval_ms:g}) needs times that ascend, but those of "
                f"{path} run backwards {len(backwards)} times, first after frame {backwards[0]}; sort the frames, or "
                "use data.frame_interval."
            )
    # torch.tensor copies: what another process shares is read-only.
    return Clock.of(torch.tensor(timeline.times_N), torch.tensor(timeline.firsts))


def _gap_share(samples: Sequence[Sample], timeline: Timeline, clock: Clock, config: DataConfig) -> float:
    assert config.frame_interval_ms is not None, "clips by the clock"
    keyframes_S, starts_S, ends_S = Positions.of(samples, timeline).as_tensors()
    indices_ST = clips.of_config(keyframes_S, starts_S, ends_S, clock, config)
    gaps_ST = clips.in_gap(keyframes_S, indices_ST, clock, frame_interval_ms=config.frame_interval_ms)
    return float(gaps_ST.float().mean())


def _fingerprint(samples: Sequence[Sample], members: Members, data: Source, config: DataConfig) -> str:
    named = [  # with its place, since both files may number their images from 0
        sorted((samples[i].id, samples[i].recording, samples[i].keyframe, *sorted(samples[i].labels)) for i in part)
        for part in (members.train, members.val)
    ]
    text = json.dumps([data.fingerprint, config.labels, *named])
    return hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_DIGITS]
