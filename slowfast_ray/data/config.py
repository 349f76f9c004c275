"""What a clip is and how it is varied in training: the settings of this wing, with their laws."""

from dataclasses import dataclass
from typing import Literal, get_args

SplitName = Literal["provided", "purged", "leave-one-session-out", "all"]
Labels = Literal["majority", "person", "multi"]
Ties = Literal["lowest", "drop", "rarest"]

MAX_INTERVAL_MS = 3_600_000
MAX_WINDOW = 1e11
"""Wider than any recording, and still a number that indices hold [frames; ms with frame_interval_ms]."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """From recordings in degrees Celsius to clips of the model's size."""

    root: str | None = None
    """Dataset with frames/ and annotations/: a folder [path], s3://BUCKET/PATH or gs://BUCKET/PATH. None: a made-up
    dataset, generated once."""

    split: SplitName = "provided"
    """Who validates. provided: val.json. purged: a stretch of time of each session, and nothing that shares a moment
    with it trains. leave-one-session-out: a whole session. all: every sample trains, val.json's too, so that figures
    say nothing: for a last training once all is decided."""

    fold: int = 0
    """Which part validates, under purged and leave-one-session-out [0 to the number of folds - 1]."""

    num_folds: int = 5
    """Parts that a session is cut into under purged [count]."""

    split_seed: int = 0
    """Seed of where purged cuts; apart from run.seed, so that runs with other seeds validate on the same samples."""

    purge_window: float | None = None
    """Span around a keyframe that training and validation may not share, under purged [frames; ms with
    data.frame_interval_ms]. None: that of the clip. A search sets the widest of its space."""

    labels: Labels = "majority"
    """majority: what most people of a keyframe do. person: each person is a sample, in a crop around their box. multi:
    all that the people of a keyframe do."""

    ties: Ties = "lowest"
    """Label of a keyframe without a majority: the lowest category id, none (drop), or the rarest class."""

    person_margin: float = 0.6
    """How much larger than a person's box its crop is, under person [fraction of the box's longer side]."""

    class_balance: float = 0.0
    """How far training draws rare classes more often: 0 as they come, 1 all classes alike [exponent]."""

    clip_len: int = 32
    """Frames in a clip, the keyframe in the middle [frames]; a multiple of model.alpha."""

    frame_interval: int = 2
    """Step between neighbouring frames of a clip [frames of the recording]."""

    frame_interval_ms: float | None = None
    """The same by the clock: the frame nearest in time is taken [ms]. None: by frames."""

    height: int = 40
    """Height that the model sees; clips are resized once, last [pixels]."""

    width: int = 60
    """Width that the model sees [pixels]."""

    memory_budget: float | None = None
    """Frames that take more than this stay on disk, and clips are read from there as training asks for them [GB]. None:
    a quarter of the memory."""

    min_celsius: float = 10.0
    """Temperature that becomes 0; what is colder is clipped [degrees Celsius]."""

    max_celsius: float = 35.0
    """Temperature that becomes 1; what is warmer is clipped [degrees Celsius]."""

    flip_prob: float = 0.5
    """Chance of a left-right and, drawn apart, of an up-down flip in training [probability]."""

    max_shift: float = 0.1
    """Largest shift of a training clip along each side [fraction of the side]."""

    min_crop: float = 0.8
    """Smallest side of a training crop, enlarged to the full size [fraction of the side]."""

    gain_jitter: float = 0.1
    """Largest change of a training clip's contrast around its mean [fraction]."""

    offset_jitter_celsius: float = 1.0
    """Largest warming or cooling of a whole training clip [degrees Celsius]."""

    erase_prob: float = 0.25
    """Chance that a rectangle of a training clip is filled with the clip's mean [probability]."""

    def __post_init__(self) -> None:
        for name, most in (("clip_len", 10_000), ("frame_interval", 100_000), ("height", 10_000), ("width", 10_000)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"`data.{name}` (={getattr(self, name)}) must be within 1..{most}.")
        for name, valid in (("split", SplitName), ("labels", Labels), ("ties", Ties)):
            if getattr(self, name) not in get_args(valid):
                raise ValueError(
                    f"`data.{name}` (={getattr(self, name)!r}) must be one of {', '.join(get_args(valid))}."
                )
        if self.fold < 0:
            raise ValueError(f"`data.fold` (={self.fold}) must be 0 or more.")
        if not 2 <= self.num_folds <= 10_000:
            raise ValueError(f"`data.num_folds` (={self.num_folds}) must be within 2..10000; try 5.")
        if not 0 <= self.split_seed < 2**32:
            raise ValueError(f"`data.split_seed` (={self.split_seed}) must be 0 or more and below 2**32; try 0.")
        if not 0 <= self.person_margin <= 100:
            raise ValueError(f"`data.person_margin` (={self.person_margin}) must be within 0..100; try 0.6.")
        if not 0 <= self.class_balance <= 1:
            raise ValueError(f"`data.class_balance` (={self.class_balance}) must be within 0..1; try 0.5.")
        if self.frame_interval_ms is not None and not 0 < self.frame_interval_ms <= MAX_INTERVAL_MS:
            raise ValueError(
                f"`data.frame_interval_ms` (={self.frame_interval_ms}) must be above 0 and at most {MAX_INTERVAL_MS}, "
                "or None; try 170."
            )
        if self.purge_window is not None and not self.window <= self.purge_window <= MAX_WINDOW:
            raise ValueError(
                f"`data.purge_window` (={self.purge_window}) must not be narrower than the clip, {self.window:g} "
                f"(clip_len x interval), nor wider than {MAX_WINDOW:g}; leave it out."
            )
        if self.memory_budget is not None and not 0 <= self.memory_budget < float("inf"):
            raise ValueError(f"`data.memory_budget` (={self.memory_budget:g}) must be 0 or more [GB], or None; try 8.")
        for name in ("flip_prob", "erase_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`data.{name}` (={getattr(self, name)}) is a probability and must be within 0..1.")
        if not 0 <= self.max_shift < 1:
            raise ValueError(f"`data.max_shift` (={self.max_shift}) is a fraction of the side, within 0..1; try 0.1.")
        if not 0 < self.min_crop <= 1:
            raise ValueError(f"`data.min_crop` (={self.min_crop}) is a fraction of the side, above 0 to 1; try 0.8.")
        if not 0 <= self.gain_jitter < 1:
            raise ValueError(f"`data.gain_jitter` (={self.gain_jitter}) must be within 0..1; try 0.1.")
        if not 0 <= self.offset_jitter_celsius < float("inf"):
            raise ValueError(f"`data.offset_jitter_celsius` (={self.offset_jitter_celsius}) must be 0 or more.")
        if not -273.15 <= self.min_celsius < self.max_celsius < float("inf"):
            raise ValueError(
                f"`data.min_celsius` (={self.min_celsius}) must lie below `data.max_celsius` (={self.max_celsius}), "
                "both above -273.15."
            )

    @property
    def window(self) -> float:
        """Span of a clip [frames; ms with frame_interval_ms]."""
        return self.clip_len * (self.frame_interval if self.frame_interval_ms is None else self.frame_interval_ms)

    def without_effect(self) -> list[str]:
        """Settings that were changed and do nothing beside the others, each with its reason, for a warning."""
        plain = DataConfig()
        reasons = {
            "fold": self.split in ("provided", "all") and f"data.split is {self.split}",
            "num_folds": self.split != "purged" and f"data.split is {self.split}",
            "purge_window": self.split != "purged" and f"data.split is {self.split}",
            "split_seed": self.split != "purged" and f"data.split is {self.split}",
            "ties": self.labels != "majority" and f"data.labels is {self.labels}",
            "person_margin": self.labels != "person" and f"data.labels is {self.labels}",
            "frame_interval": self.frame_interval_ms is not None and "data.frame_interval_ms is set",
        }
        return [
            f"`data.{name}` (={getattr(self, name)}) has no effect, since {reason}."
            for name, reason in reasons.items()
            if reason and getattr(self, name) != getattr(plain, name)
        ]
