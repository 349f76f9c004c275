"""Clips: where the keyframe stands, how far apart the frames are, and that no clip leaves its recording."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slowfast_ray.data import clips

# Shapes: B clips, T frames of a clip, N frames of all recordings.


def indices(keyframe: int, first: int, last: int, *, clip_len: int, frame_interval: int) -> list[int]:
    bounds = (torch.tensor([each]) for each in (keyframe, first, last))
    return clips.frame_indices(*bounds, clip_len=clip_len, frame_interval=frame_interval)[0].tolist()


def test_the_keyframe_stands_in_the_middle() -> None:
    assert indices(50, 0, 99, clip_len=4, frame_interval=1) == [48, 49, 50, 51]
    assert indices(50, 0, 99, clip_len=5, frame_interval=3) == [44, 47, 50, 53, 56]
    assert indices(50, 0, 99, clip_len=1, frame_interval=7) == [50]
    # The window of the system before this one: [keyframe - 32, keyframe + 31].
    assert indices(50, 0, 99, clip_len=64, frame_interval=1) == list(range(18, 82))


def test_borders_are_repeated() -> None:
    assert indices(101, 100, 199, clip_len=6, frame_interval=2) == [100, 100, 100, 101, 103, 105]
    assert indices(199, 100, 199, clip_len=6, frame_interval=2) == [193, 195, 197, 199, 199, 199]
    assert indices(7, 7, 7, clip_len=4, frame_interval=3) == [7, 7, 7, 7]


@settings(max_examples=100, deadline=None)
@given(
    data=st.data(),
    clip_len=st.integers(1, 64),
    frame_interval=st.integers(1, 8),
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=4),
)
def test_no_clip_leaves_its_recording(
    data: st.DataObject, clip_len: int, frame_interval: int, lengths: list[int]
) -> None:
    firsts = [sum(lengths[:i]) for i in range(len(lengths))]
    lasts = [first + length - 1 for first, length in zip(firsts, lengths, strict=True)]
    keyframes = [data.draw(st.integers(first, last)) for first, last in zip(firsts, lasts, strict=True)]
    bounds = (torch.tensor(each) for each in (keyframes, firsts, lasts))
    found_BT = clips.frame_indices(*bounds, clip_len=clip_len, frame_interval=frame_interval)
    assert found_BT.dtype == torch.int64
    assert found_BT.shape == (len(lengths), clip_len)
    for row, keyframe, first, last in zip(found_BT.tolist(), keyframes, firsts, lasts, strict=True):
        # Reference: one position after the other. Every clip of a batch has its own recording's borders.
        for position, found in enumerate(row):
            assert found == min(max(keyframe + (position - clip_len // 2) * frame_interval, first), last)
        assert row[clip_len // 2] == keyframe


def test_gather_takes_the_frames_that_the_indices_name() -> None:
    frames_NHW = torch.arange(10 * 2 * 3, dtype=torch.float32).view(10, 2, 3)
    indices_BT = torch.tensor([[3, 3, 9, 0], [5, 4, 1, 1]])
    clip_B1THW = clips.gather(frames_NHW, indices_BT)
    assert clip_B1THW.shape == (2, 1, 4, 2, 3)
    assert clip_B1THW.dtype == torch.float32
    for b, t in ((0, 1), (0, 2), (1, 0), (1, 3)):
        assert torch.equal(clip_B1THW[b, 0, t], frames_NHW[indices_BT[b, t]])


def test_a_gathered_clip_is_its_own() -> None:
    # Augmentation must never reach the frames in memory.
    frames_NHW = torch.zeros(4, 2, 3)
    clips.gather(frames_NHW, torch.tensor([[1, 2]])).add_(1)
    assert frames_NHW.count_nonzero() == 0


def test_a_frame_outside_all_recordings_is_refused() -> None:
    with pytest.raises(IndexError):
        clips.gather(torch.zeros(4, 2, 3), torch.tensor([[4]]))
