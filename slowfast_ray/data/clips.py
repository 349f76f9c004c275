"""Keyframe + clip_len + interval -> frame indices -> a clip, gathered from frames in memory.

The interval counts frames, or milliseconds: then the frame nearest in time is taken, since a sensor's frames come at
irregular times.

Shapes: B clips, T frames of a clip, N frames of all recordings, H height, W width.
"""

from dataclasses import dataclass

import torch

from slowfast_ray.data.config import DataConfig


@dataclass(frozen=True)
class Clock:
    """The times of all frames as one ascending axis, recording after recording, for nearest-in-time look-ups."""

    axis_N: torch.Tensor
    """int64: milliseconds since the recording began, plus an offset of the recording's own."""

    @staticmethod
    def of(times_N: torch.Tensor, firsts_R: torch.Tensor) -> "Clock":
        """From the times of all frames (int64) and the first frame of each of R recordings, in ascending order.

        Within a recording the times must not run backwards.
        """
        recording_N = torch.zeros_like(times_N)
        recording_N[firsts_R[1:]] = 1
        recording_N = recording_N.cumsum(0)
        since_N = times_N - times_N[firsts_R][recording_N]
        # Recordings so far apart that no clip of one lies near another.
        return Clock(since_N + recording_N * (2 * int(since_N.max()) + 2))

    def nearest(self, targets_BT: torch.Tensor, firsts_B: torch.Tensor, lasts_B: torch.Tensor) -> torch.Tensor:
        """int64 [B, T]: the frame nearest to each time on the axis, within firsts to lasts (ties: the earlier time).

        Of several frames at one time, one that keeps the order of the targets.
        """
        after_BT = torch.searchsorted(self.axis_N, targets_BT).clamp(max=len(self.axis_N) - 1)
        after_BT = torch.minimum(torch.maximum(after_BT, firsts_B[:, None]), lasts_B[:, None])
        before_BT = torch.maximum(after_BT - 1, firsts_B[:, None])
        is_before_BT = targets_BT - self.axis_N[before_BT] <= self.axis_N[after_BT] - targets_BT
        return torch.where(is_before_BT, before_BT, after_BT)


def frame_indices(
    keyframes_B: torch.Tensor, firsts_B: torch.Tensor, lasts_B: torch.Tensor, *, clip_len: int, frame_interval: int
) -> torch.Tensor:
    """int64 [B, T]: every `frame_interval`-th frame around each keyframe, which stands at position clip_len // 2.

    Where a clip would run past its recording, the recording's first or last frame is repeated.
    """
    offsets_T = (torch.arange(clip_len, device=keyframes_B.device) - clip_len // 2) * frame_interval
    indices_BT = keyframes_B[:, None] + offsets_T
    return torch.minimum(torch.maximum(indices_BT, firsts_B[:, None]), lasts_B[:, None])


def frame_indices_ms(
    keyframes_B: torch.Tensor,
    firsts_B: torch.Tensor,
    lasts_B: torch.Tensor,
    clock: Clock,
    *,
    clip_len: int,
    frame_interval_ms: float,
) -> torch.Tensor:
    """int64 [B, T]: the frames nearest to every `frame_interval_ms` around each keyframe, at position clip_len // 2.

    In a gap of the recording, and past its ends, the nearest frame is repeated.
    """
    indices_BT = clock.nearest(_targets_ms(keyframes_B, clock, clip_len, frame_interval_ms), firsts_B, lasts_B)
    indices_BT[:, clip_len // 2] = keyframes_B  # another frame may have been taken at the same time
    return indices_BT


def in_gap(
    keyframes_B: torch.Tensor, indices_BT: torch.Tensor, clock: Clock, *, frame_interval_ms: float
) -> torch.Tensor:
    """bool [B, T]: where the frame that was taken lies further from its time than an interval: it is another."""
    targets_BT = _targets_ms(keyframes_B, clock, indices_BT.shape[1], frame_interval_ms)
    return (clock.axis_N[indices_BT] - targets_BT).abs() > frame_interval_ms


def _targets_ms(keyframes_B: torch.Tensor, clock: Clock, clip_len: int, frame_interval_ms: float) -> torch.Tensor:
    offsets_T = ((torch.arange(clip_len, dtype=torch.float64) - clip_len // 2) * frame_interval_ms).round().long()
    return clock.axis_N[keyframes_B][:, None] + offsets_T


def of_config(
    keyframes_B: torch.Tensor, firsts_B: torch.Tensor, lasts_B: torch.Tensor, clock: Clock | None, config: DataConfig
) -> torch.Tensor:
    """int64 [B, T]: the frames of each clip, by frames or by the clock, as the experiment says."""
    if config.frame_interval_ms is None:
        steps = {"clip_len": config.clip_len, "frame_interval": config.frame_interval}
        return frame_indices(keyframes_B, firsts_B, lasts_B, **steps)
    assert clock is not None, "the dataset makes one where the experiment goes by the clock"
    return frame_indices_ms(
        keyframes_B, firsts_B, lasts_B, clock, clip_len=config.clip_len, frame_interval_ms=config.frame_interval_ms
    )


def spans(
    keyframes_B: torch.Tensor, firsts_B: torch.Tensor, lasts_B: torch.Tensor, clock: Clock | None, config: DataConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """int64 [B], int64 [B]: the first and the last frame that each clip shows."""
    indices_BT = of_config(keyframes_B, firsts_B, lasts_B, clock, config)
    return indices_BT[:, 0], indices_BT[:, -1]


def windows(
    keyframes_B: torch.Tensor, firsts_B: torch.Tensor, lasts_B: torch.Tensor, clock: Clock | None, width: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """int64 [B], int64 [B]: the first and the last frame that a clip of this or a smaller span can show.

    `width` counts frames; with a clock, milliseconds. The span is taken on both sides of the keyframe alike, so that it
    holds every clip_len x interval up to `width`.
    """
    reach = int(-(-width // 2))
    if clock is None:
        return torch.maximum(keyframes_B - reach, firsts_B), torch.minimum(keyframes_B + reach, lasts_B)
    ends_B2 = clock.axis_N[keyframes_B][:, None] + torch.tensor([-reach, reach])
    nearest_B2 = clock.nearest(ends_B2, firsts_B, lasts_B)
    return nearest_B2[:, 0], nearest_B2[:, 1]


def gather(frames_NHW: torch.Tensor, indices_BT: torch.Tensor) -> torch.Tensor:
    """float32 [B, 1, T, H, W] in degrees Celsius at native size, on the device of the frames."""
    return frames_NHW[indices_BT.to(frames_NHW.device)][:, None]
