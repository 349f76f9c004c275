"""Real clips to check an export on: of a dataset's validation samples, or from recordings.

Shapes: S clips, N frames of all recordings, R recordings, H and W height and width as recorded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from slowfast_ray.data import clips, dataset, frames, recordings
from slowfast_ray.data.clip_reader import ClipReader
from slowfast_ray.data.clips import Clock
from slowfast_ray.data.frames import ResizedFrames
from slowfast_ray.data.tracks import Tracks
from slowfast_ray.running.predicting import Predictor

NUM_CLIPS = 32


@dataclass(frozen=True)
class CheckClips:
    """Clips within the frames of some recordings."""

    source: str
    """Where they come from, for people."""
    reader: ClipReader
    keyframes_S: torch.Tensor
    firsts_S: torch.Tensor
    lasts_S: torch.Tensor
    tracks: Tracks | None
    """Whom they follow, where a network looks at people."""

    def __len__(self) -> int:
        return len(self.keyframes_S)

    def prepared(self, chosen: torch.Tensor) -> torch.Tensor:
        """float32 [B, 1, T, height, width], normalised: what the network sees of these clips."""
        tracks = None if self.tracks is None else self.tracks.rows(chosen)
        return self.reader.read(self.keyframes_S[chosen], self.firsts_S[chosen], self.lasts_S[chosen], tracks)

    def frames(self, chosen: torch.Tensor) -> torch.Tensor:
        """float32 [B, T, H, W] in degrees Celsius, as recorded: the frames that these clips consist of."""
        place = (self.keyframes_S[chosen], self.firsts_S[chosen], self.lasts_S[chosen])
        indices_BT = clips.of_config(*place, self.reader.clock, self.reader.config)
        return self.reader.frames.gather(indices_BT)[:, 0]


def of_dataset(predictor: Predictor, root: str | None) -> CheckClips:
    """From the validation samples of a dataset folder; without one, of the made-up dataset.

    Raises what dataset.load raises.
    """
    provided = {"data.root": root, "data.split": "provided", "data.fold": 0, "data.purge_window": None}
    data = dataset.load(predictor.experiment.override(provided).data)
    chosen = _evenly(len(data.val))
    return CheckClips(
        source="validation samples of " + ("the made-up dataset" if root is None else "a dataset"),
        reader=ClipReader(ResizedFrames(data.frames, _size_HW(predictor)), data.clock, predictor.experiment.data),
        keyframes_S=data.val.keyframes_S[chosen],
        firsts_S=data.val.firsts_S[chosen],
        lasts_S=data.val.lasts_S[chosen],
        tracks=None if data.val.tracks is None else data.val.tracks.rows(chosen),
    )


def of_recordings(predictor: Predictor, paths: Sequence[Path]) -> CheckClips:
    """From these files, around keyframes that are spread evenly.

    Raises what recordings.read raises, and ValueError for a network that looks at people, and for one that goes by the
    clock where a file's times are missing or run backwards.
    """
    if predictor.looks_at_people:
        raise ValueError(
            "`recordings` do not say where people are, and this model looks at people; name a dataset with boxes by "
            "`--root`, or leave both out."
        )
    loaded = [recordings.read(path) for path in paths]
    lengths_R = torch.tensor([len(each.frames_NHW) for each in loaded])
    ends_R = lengths_R.cumsum(0)
    interval_ms, clock = predictor.experiment.data.frame_interval_ms, None
    if interval_ms is not None:
        times = [torch.from_numpy(each.times_N) for each in loaded if each.times_N is not None]
        if len(times) < len(loaded) or any((each.diff() < 0).any() for each in times):
            raise ValueError(
                f"This model takes a frame every {interval_ms:g} ms, but a recording has no `timestamps`, or some that "
                "run backwards; name others."
            )
        clock = Clock.of(torch.cat(times), ends_R - lengths_R)
    keyframes_S = _evenly(int(ends_R[-1]))
    place_S = torch.searchsorted(ends_R, keyframes_S, right=True)
    size = _size_HW(predictor)
    frames_NHW = torch.cat([frames.resized(torch.from_numpy(each.frames_NHW), size) for each in loaded])
    return CheckClips(
        source=f"{len(loaded)} recording(s)",
        reader=ClipReader(frames_NHW, clock, predictor.experiment.data),
        keyframes_S=keyframes_S,
        firsts_S=(ends_R - lengths_R)[place_S],
        lasts_S=ends_R[place_S] - 1,
        tracks=None,
    )


def _evenly(num: int) -> torch.Tensor:
    """Up to NUM_CLIPS of `num` places."""
    return torch.linspace(0, num - 1, min(num, NUM_CLIPS)).long()


def _size_HW(predictor: Predictor) -> tuple[int, int]:
    """Of the frames that the network was trained on, which the programs take."""
    return predictor.description.frame_height, predictor.description.frame_width
