"""Keyframe + clip_len + frame_interval -> frame indices -> a clip, gathered from frames in memory.

Shapes: B clips, T frames of a clip, N frames of all recordings, H height, W width.
"""

import torch


def frame_indices(
    keyframes_B: torch.Tensor, firsts_B: torch.Tensor, lasts_B: torch.Tensor, *, clip_len: int, frame_interval: int
) -> torch.Tensor:
    """int64 [B, T]: every `frame_interval`-th frame around each keyframe, which stands at position clip_len // 2.

    Where a clip would run past its recording, the recording's first or last frame is repeated.
    """
    offsets_T = (torch.arange(clip_len, device=keyframes_B.device) - clip_len // 2) * frame_interval
    indices_BT = keyframes_B[:, None] + offsets_T
    return torch.minimum(torch.maximum(indices_BT, firsts_B[:, None]), lasts_B[:, None])


def gather(frames_NHW: torch.Tensor, indices_BT: torch.Tensor) -> torch.Tensor:
    """float32 [B, 1, T, H, W] in degrees Celsius at native size, on the device of the frames."""
    return frames_NHW[indices_BT.to(frames_NHW.device)][:, None]
