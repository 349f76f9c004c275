"""The timeline: which recordings are one session, and which frames are one moment."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slowfast_ray.data import timeline
from slowfast_ray.data.recordings import Recording
from slowfast_ray.data.timeline import SESSION_GAP_MS
from tests.data.conftest import recording

HOUR = SESSION_GAP_MS


def sessions(*loaded: Recording) -> list[int]:
    return timeline.build(loaded).sessions.tolist()


def test_frames_lie_one_recording_after_the_other() -> None:
    line = timeline.build([recording("a", [1, 2, 3], [10, 20, 40]), recording("b", [4, 5]), recording("c", [6], [7])])
    assert line.recordings == ("a", "b", "c")
    assert line.firsts.tolist() == [0, 3, 5]
    assert line.lengths.tolist() == [3, 2, 1]
    assert line.has_times.tolist() == [True, False, True]
    assert line.times_N.tolist() == [10, 20, 40, 0, 1, 7]  # without times, the position
    assert line.index("b") == 1


def test_identical_frames_are_one_moment_wherever_they_lie() -> None:
    line = timeline.build([recording("a", [1, 2, 1, None]), recording("b", [2, 3, None, None])])
    moments = line.moments_N.tolist()
    assert moments[0] == moments[2]
    assert moments[1] == moments[4]
    # Frames that show nothing are no moment that two recordings could share, nor one another's.
    assert len(set(moments)) == 3 + 3


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (0, [0, 0]),  # at the same time
        (100, [0, 0]),  # overlapping
        (200 + HOUR, [0, 0]),  # following within the hour
        (201 + HOUR, [0, 1]),  # a longer pause
        (-200 - HOUR, [0, 0]),  # before it: the order of the files is not that of time
        (-201 - HOUR, [1, 0]),
    ],
)
def test_recordings_of_a_sensor_that_follow_each_other_are_one_session(start: int, expected: list[int]) -> None:
    first, second = recording("a", [1, 2], [0, 200]), recording("b", [3, 4], [start, start + 200])
    assert sessions(first, second) == expected


def test_a_long_recording_holds_those_together_that_lie_in_it() -> None:
    # The last one follows the long first one, not the short second one, which ended hours before.
    long = recording("a", [1, 2], [0, 5 * HOUR])
    short = recording("b", [3, 4], [10, 20])
    last = recording("c", [5, 6], [5 * HOUR + 9, 5 * HOUR + 10])
    assert sessions(long, short, last) == [0, 0, 0]


def test_a_chain_of_recordings_is_one_session() -> None:
    chain = [recording(f"R{i}", [2 * i, 2 * i + 1], [i * HOUR, i * HOUR + 10]) for i in range(6)]
    assert sessions(*chain) == [0] * 6
    assert sessions(*(chain[i] for i in (3, 0, 5, 2))) == [1, 0, 2, 1]  # without 1 and 4


def test_times_that_run_backwards_count_from_the_earliest_to_the_latest() -> None:
    assert sessions(recording("a", [1, 2, 3], [5, 2 * HOUR, 3]), recording("b", [4], [3 * HOUR])) == [0, 0]


def test_sensors_are_apart_even_at_one_time() -> None:
    a, b = recording("a", [1, 2], [0, 9], sensor="A"), recording("b", [3, 4], [0, 9], sensor="B")
    assert sessions(a, b) == [0, 1]
    assert sessions(a, b, recording("c", [5, 6], [50, 60], sensor="A")) == [0, 1, 0]


def test_without_a_sensor_all_are_one() -> None:
    assert sessions(recording("a", [1, 2], [0, 9]), recording("b", [3, 4], [0, 9])) == [0, 0]


def test_recordings_without_times_are_apart() -> None:
    assert sessions(recording("a", [1, 2]), recording("b", [3, 4]), recording("c", [5], [0])) == [0, 1, 2]


def test_one_identical_frame_joins_sessions() -> None:
    late = 9 * HOUR
    apart = [recording("a", [1, 2], [0, 1], "A"), recording("b", [3, 4], [late, late + 1], "B"), recording("c", [5, 6])]
    assert sessions(*apart) == [0, 2, 1]
    assert sessions(*apart, recording("d", [2, 4])) == [0, 0, 1, 0]
    assert sessions(*apart, recording("d", [6, 1, 3])) == [0, 0, 0, 0]


def test_frames_that_show_nothing_join_nothing() -> None:
    assert sessions(recording("a", [None, 1]), recording("b", [None, 2]), recording("c", [None])) == [0, 1, 2]


def test_sessions_are_counted_in_the_order_of_time_and_named() -> None:
    line = timeline.build(
        [
            recording("c", [1], [8 * HOUR]),
            recording("a", [2], [0]),
            recording("d", [3], [8 * HOUR + 1]),
            recording("b", [4], [4 * HOUR]),
        ]
    )
    assert line.sessions.tolist() == [2, 0, 2, 1]
    assert line.num_sessions == 3
    assert [line.session_name(i) for i in range(3)] == ["a", "b", "c to d (2 recordings)"]


def test_times_compare_within_a_session_and_those_without_times_with_none() -> None:
    line = timeline.build(
        [
            recording("a", [1, 2], [0, 1]),
            recording("b", [3], [9]),
            recording("c", [2, 4]),  # shows what `a` shows: its session, without its times
            recording("d", [5], [9 * HOUR]),
            recording("e", [6]),
        ]
    )
    assert line.sessions[0] == line.sessions[2]
    axes = line.axes_of(np.array([0, 1, 2, 3, 4, 2, 0])).tolist()
    assert axes[0] == axes[1] == axes[6]
    assert axes[2] == axes[5]
    assert len(set(axes)) == 4


@settings(max_examples=100, deadline=None)
@given(
    spans=st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 4), st.sampled_from("AB"), st.integers(0, 8)),
        min_size=1,
        max_size=8,
    )
)
def test_sessions_agree_with_joining_pair_after_pair(spans: list[tuple[int, int, str, int]]) -> None:
    # Reference: joins every pair that the sentence in the docstring names, until nothing changes. In half hours.
    half = HOUR // 2
    loaded = [
        recording(f"R{i}", [shown, 100 + i], [start * half, (start + length) * half], sensor)
        for i, (start, length, sensor, shown) in enumerate(spans)
    ]
    expected = list(range(len(spans)))
    for _ in spans:
        for i, (start, length, sensor, shown) in enumerate(spans):
            for j, (other_start, other_length, other_sensor, other_shown) in enumerate(spans):
                pause = max(start, other_start) - min(start + length, other_start + other_length)
                if (sensor == other_sensor and pause <= 2) or shown == other_shown:
                    expected[i] = expected[j] = min(expected[i], expected[j])
    found = sessions(*loaded)
    assert len(set(found)) == len(set(expected)) == len(set(zip(found, expected, strict=True)))
    firsts = [min(start for (start, *_), session in zip(spans, found, strict=True) if session == s) for s in set(found)]
    assert firsts == sorted(firsts)
    assert set(found) == set(range(max(found) + 1))
    assert np.array_equal(timeline.build(loaded).sessions, found)
