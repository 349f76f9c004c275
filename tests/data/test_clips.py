"""Clips: where the keyframe stands, how far apart the frames are, and that no clip leaves its recording."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slowfast_ray.data import clips
from slowfast_ray.data.clips import Clock
from slowfast_ray.data.config import DataConfig

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


# By the clock


def clock_of(*times: list[int]) -> tuple[Clock, list[int], list[int]]:
    """The clock of some recordings, and the first and the last frame of each."""
    lengths = [len(each) for each in times]
    firsts = [sum(lengths[:i]) for i in range(len(lengths))]
    clock = Clock.of(torch.tensor([time for each in times for time in each]), torch.tensor(firsts))
    return clock, firsts, [first + length - 1 for first, length in zip(firsts, lengths, strict=True)]


def by_clock(keyframe: int, times: list[int], *, clip_len: int, frame_interval_ms: float) -> list[int]:
    clock, firsts, lasts = clock_of(times)
    bounds = (torch.tensor([keyframe]), torch.tensor(firsts), torch.tensor(lasts))
    return clips.frame_indices_ms(*bounds, clock, clip_len=clip_len, frame_interval_ms=frame_interval_ms)[0].tolist()


def gaps(keyframe: int, times: list[int], found: list[int], frame_interval_ms: float) -> list[bool]:
    clock, _, _ = clock_of(times)
    marked_BT = clips.in_gap(
        torch.tensor([keyframe]), torch.tensor([found]), clock, frame_interval_ms=frame_interval_ms
    )
    return marked_BT[0].tolist()


def test_the_frame_nearest_in_time_is_taken() -> None:
    times = [0, 90, 210, 290, 400, 520, 590]
    assert by_clock(3, times, clip_len=4, frame_interval_ms=100) == [1, 2, 3, 4]  # 90, 190, 290 and 390 ms
    assert by_clock(3, times, clip_len=3, frame_interval_ms=200) == [1, 3, 5]  # 90, 290, 490
    assert by_clock(3, times, clip_len=1, frame_interval_ms=50) == [3]
    # An interval below that of the sensor repeats frames.
    assert by_clock(3, times, clip_len=6, frame_interval_ms=30) == [2, 2, 3, 3, 3, 4]  # 200, 230, ..., 350


def test_between_two_frames_the_earlier_is_taken() -> None:
    assert by_clock(1, [0, 100, 200], clip_len=4, frame_interval_ms=50) == [0, 0, 1, 1]
    assert by_clock(1, [0, 100, 200], clip_len=4, frame_interval_ms=51) == [0, 0, 1, 2]


def test_clips_by_the_clock_repeat_the_ends_of_their_recording() -> None:
    times = [0, 100, 200]
    assert by_clock(0, times, clip_len=4, frame_interval_ms=100) == [0, 0, 0, 1]
    assert by_clock(2, times, clip_len=5, frame_interval_ms=100) == [0, 1, 2, 2, 2]
    assert by_clock(0, [7], clip_len=4, frame_interval_ms=100) == [0] * 4


def test_gaps_are_repeated_and_marked() -> None:
    times = [0, 100, 200, 1000, 1100]
    found = by_clock(2, times, clip_len=8, frame_interval_ms=150)
    # At -400, -250, -100, 50, 200, 350, 500, 650 ms.
    assert found == [0, 0, 0, 0, 2, 2, 2, 3]
    # 150 ms away still stands for its time, as 350 does for 200; more does not, nor before the recording began.
    assert gaps(2, times, found, 150) == [True, True, False, False, False, False, True, True]


def test_of_frames_at_one_time_the_keyframe_is_in_its_place() -> None:
    times = [0, 100, 100, 100, 200]
    for keyframe in (1, 2, 3):
        found = by_clock(keyframe, times, clip_len=3, frame_interval_ms=100)
        assert found == [0, keyframe, 4]


@st.composite
def some_times(draw: st.DrawFn) -> list[list[int]]:
    """The times of one to four recordings: irregular, with gaps and equal times, and far apart or overlapping."""
    step = st.one_of(st.integers(0, 30), st.just(0), st.integers(500, 3000))
    return [
        [
            draw(st.integers(0, 5000)) + total
            for total in itertools.accumulate(draw(st.lists(step, min_size=1, max_size=25)))
        ]
        if draw(st.booleans())
        else list(range(0, 40, draw(st.integers(1, 9))))
        for _ in range(draw(st.integers(1, 4)))
    ]


@st.composite
def clips_by_clock(draw: st.DrawFn) -> tuple[list[list[int]], list[int]]:
    """Times of recordings, and a keyframe in each."""
    times = [sorted(each) for each in draw(some_times())]
    return times, [draw(st.integers(0, len(each) - 1)) for each in times]


@settings(max_examples=100, deadline=None)
@given(made=clips_by_clock(), clip_len=st.integers(1, 12), interval=st.one_of(st.integers(1, 400), st.floats(0.3, 900)))
def test_clips_by_the_clock_agree_with_a_search_of_every_frame(
    made: tuple[list[list[int]], list[int]], clip_len: int, interval: float
) -> None:
    times, keyframes = made
    clock, firsts, lasts = clock_of(*times)
    keys_B = torch.tensor([first + keyframe for first, keyframe in zip(firsts, keyframes, strict=True)])
    found_BT = clips.frame_indices_ms(
        keys_B, torch.tensor(firsts), torch.tensor(lasts), clock, clip_len=clip_len, frame_interval_ms=interval
    )
    assert found_BT.dtype == torch.int64
    assert found_BT.shape == (len(times), clip_len)
    gap_BT = clips.in_gap(keys_B, found_BT, clock, frame_interval_ms=interval)
    for row, marked, mine, keyframe, first in zip(
        found_BT.tolist(), gap_BT.tolist(), times, keyframes, firsts, strict=True
    ):
        assert row[clip_len // 2] == first + keyframe
        # In the order of time, save for a keyframe among others of its time.
        assert [mine[each - first] for each in row] == sorted(mine[each - first] for each in row)
        for position, (found, is_gap) in enumerate(zip(row, marked, strict=True)):
            assert 0 <= found - first < len(mine)  # never another recording's
            target = mine[keyframe] + round((position - clip_len // 2) * interval)
            nearest = min(mine, key=lambda time: (abs(time - target), time))
            assert mine[found - first] == nearest
            if abs(abs(nearest - target) - interval) > 1e-3:
                assert is_gap == (abs(nearest - target) > interval)


@settings(max_examples=100, deadline=None)
@given(
    made=clips_by_clock(),
    goes_by_clock=st.booleans(),
    width=st.floats(1, 3000),
    shares=st.lists(st.tuples(st.integers(1, 40), st.floats(0.01, 1)), min_size=1, max_size=8),
)
def test_a_window_holds_every_frame_that_a_narrower_clip_shows(
    made: tuple[list[list[int]], list[int]], goes_by_clock: bool, width: float, shares: list[tuple[int, float]]
) -> None:
    times, keyframes = made
    clock, firsts, lasts = clock_of(*times)
    bounds = (
        torch.tensor([first + keyframe for first, keyframe in zip(firsts, keyframes, strict=True)]),
        torch.tensor(firsts),
        torch.tensor(lasts),
    )
    if not goes_by_clock:
        width = width % 60 + 1
    first_B, last_B = clips.windows(*bounds, clock if goes_by_clock else None, width)
    assert ((bounds[1] <= first_B) & (first_B <= bounds[0])).all()
    assert ((bounds[0] <= last_B) & (last_B <= bounds[2])).all()
    for clip_len, share in shares:
        if goes_by_clock:
            interval = width * share / clip_len
            found_BT = clips.frame_indices_ms(*bounds, clock, clip_len=clip_len, frame_interval_ms=interval)
        else:
            whole = int(width * share / clip_len)
            if whole < 1:
                continue
            found_BT = clips.frame_indices(*bounds, clip_len=clip_len, frame_interval=whole)
        assert (found_BT >= first_B[:, None]).all()
        assert (found_BT <= last_B[:, None]).all()


def test_a_window_reaches_half_its_width_to_both_sides() -> None:
    bounds = (torch.tensor([50, 3, 98]), torch.tensor([0, 0, 0]), torch.tensor([99, 99, 99]))
    first_B, last_B = clips.windows(*bounds, None, 64)
    assert (first_B.tolist(), last_B.tolist()) == ([18, 0, 66], [82, 35, 99])
    first_B, last_B = clips.windows(*bounds, None, 7)  # an odd one a half further: 5 x 1 and 1 x 7 alike
    assert (first_B.tolist(), last_B.tolist()) == ([46, 0, 94], [54, 7, 99])
    clock, firsts, lasts = clock_of([0, 100, 200, 320, 400, 500])
    first_B, last_B = clips.windows(torch.tensor([3]), torch.tensor(firsts), torch.tensor(lasts), clock, 300)
    assert (first_B.tolist(), last_B.tolist()) == ([2], [5])  # 170 and 470 ms


def test_the_experiment_says_whether_frames_or_the_clock_count() -> None:
    times = [0, 90, 210, 290, 400, 520, 590]
    clock, firsts, lasts = clock_of(times)
    bounds = (torch.tensor([3]), torch.tensor(firsts), torch.tensor(lasts))
    frames = DataConfig(clip_len=3, frame_interval=3)
    assert clips.of_config(*bounds, None, frames).tolist() == [[0, 3, 6]]
    assert clips.of_config(*bounds, clock, frames).tolist() == [[0, 3, 6]]
    ms = DataConfig(clip_len=3, frame_interval=3, frame_interval_ms=200)
    assert clips.of_config(*bounds, clock, ms).tolist() == [[1, 3, 5]]
