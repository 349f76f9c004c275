"""What a clip is and how it is varied in training: the settings of this wing, with their laws."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """From recordings in degrees Celsius to clips of the model's size."""

    root: str | None = None
    """Dataset folder with frames/ and annotations/ [path]. None: a made-up dataset, generated once."""

    clip_len: int = 32
    """Frames in a clip, the keyframe in the middle [frames]; a multiple of model.alpha."""

    frame_interval: int = 2
    """Step between neighbouring frames of a clip [frames of the recording]."""

    height: int = 40
    """Height that the model sees; clips are resized once, last [pixels]."""

    width: int = 60
    """Width that the model sees [pixels]."""

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
        for name in ("clip_len", "frame_interval", "height", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"`data.{name}` (={getattr(self, name)}) must be 1 or more.")
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
