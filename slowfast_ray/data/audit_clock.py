"""What is wrong with the times: sessions at one time, none at all, other units, gaps, jitter, keyframes beside theirs.

Legend: N frames of all recordings.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

import numpy as np

from slowfast_ray.data.annotations import Annotations
from slowfast_ray.data.audit_findings import MAX_EXAMPLES, Finding
from slowfast_ray.data.config import DataConfig
from slowfast_ray.data.timeline import SESSION_GAP_MS, Timeline

PLAUSIBLE_INTERVAL_MS = (2, 10_000)
"""Between two frames that show motion; outside, the unit is hardly milliseconds."""
GAP_MEDIANS = 5
GAP_MS = 1000
"""An interval is a gap from so many medians and so many milliseconds on."""
JITTER = 3
"""Times are irregular where 1 interval in 20 is this many times as long as another 1 in 20."""
MIN_INTERVALS = 20
"""Of fewer intervals that run forwards, nothing is said about their spread."""


def findings(files: Sequence[Annotations], timeline: Timeline, config: DataConfig) -> list[Finding]:
    """All of this page, in the order of its keys in audit.py."""
    return [
        *_simultaneous(timeline),
        *_stored_twice(timeline),
        *_absent(timeline),
        *_unit(timeline),
        *_order(timeline),
        *_irregular(timeline, config),
        *_keyframes(files, timeline),
    ]


def simultaneous_sessions(timeline: Timeline) -> list[tuple[int, int]]:
    """The pairs of sessions that run at the same time; of one sensor they would be one session."""
    stretches = sorted(
        (start, end, session)
        for session in range(timeline.num_sessions)
        for start, end in _stretches(timeline, session)
    )
    pairs: set[tuple[int, int]] = set()
    running: list[tuple[int, int]] = []
    for start, end, session in stretches:
        running = [each for each in running if each[0] >= start]
        pairs |= {(min(session, other), max(session, other)) for _, other in running if other != session}
        running.append((end, session))
    return sorted(pairs)


def _stretches(timeline: Timeline, session: int) -> list[tuple[int, int]]:
    """From when to when a session runs, with its pauses: identical frames may join recordings that lie days apart."""
    mine = np.flatnonzero((timeline.sessions == session) & timeline.has_times)
    times = [timeline.times_N[timeline.firsts[i] :][: timeline.lengths[i]] for i in mine]
    found: list[tuple[int, int]] = []
    for start, end in sorted((int(each.min()), int(each.max())) for each in times):
        if found and start - found[-1][1] <= SESSION_GAP_MS:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _simultaneous(timeline: Timeline) -> Iterable[Finding]:
    pairs = simultaneous_sessions(timeline)
    if pairs:
        concerned = {session for pair in pairs for session in pair}
        yield Finding(
            key="session/simultaneous",
            severity="warning",
            title=f"{len(concerned)} of {timeline.num_sessions} sessions run at the same time as one of another "
            "sensor: if both see one room, leave-one-session-out validates on what it trains on.",
            count=len(concerned),
            total=timeline.num_sessions,
            examples=tuple(
                f"{timeline.session_name(one)} and {timeline.session_name(other)}"
                for one, other in pairs[:MAX_EXAMPLES]
            ),
            remedy="Give their recordings one `mac_address` if they see the same room.",
        )


def _stored(timeline: Timeline) -> np.ndarray:
    """int64 [each, 2]: every moment with each recording that stores it, once, in their order."""
    owner_N = np.repeat(np.arange(len(timeline.recordings)), timeline.lengths)
    return np.unique(np.stack([timeline.moments_N, owner_N], axis=1), axis=0)


def shared_frames(timeline: Timeline) -> dict[tuple[str, str], int]:
    """How many moments each two recordings both store, where there are any."""
    stored = _stored(timeline)
    starts = np.flatnonzero(np.diff(stored[:, 0], prepend=-1))
    pairs = Counter(
        pair
        for owners in np.split(stored[:, 1], starts[1:])
        if len(owners) > 1
        for pair in combinations(owners.tolist(), 2)
    )
    return {(timeline.recordings[a], timeline.recordings[b]): count for (a, b), count in sorted(pairs.items())}


def _stored_twice(timeline: Timeline) -> Iterable[Finding]:
    shared = shared_frames(timeline)
    if shared:
        low, high = min(shared.values()), max(shared.values())
        num_owners = np.bincount(_stored(timeline)[:, 0])
        count, total = int((num_owners[timeline.moments_N] > 1).sum()), len(timeline.moments_N)
        yield Finding(
            key="frame/shared",
            severity="note",
            title=f"{count} of {total} frames are stored in another recording as well: {len(shared)} "
            f"{'pair' if len(shared) == 1 else 'pairs'} of recordings share "
            f"{low if low == high else f'{low} to {high}'} frames each.",
            count=count,
            total=total,
            examples=tuple(f"{a} and {b}: {num} frames" for (a, b), num in list(shared.items())[:MAX_EXAMPLES]),
            remedy="Cut the recordings without an overlap, or choose a --data.split that knows of it: purged.",
        )


def _absent(timeline: Timeline) -> Iterable[Finding]:
    silent = [name for name, has_times in zip(timeline.recordings, timeline.has_times, strict=True) if not has_times]
    if silent:
        yield Finding.of(
            silent,
            key="time/absent",
            severity="warning",
            title=f"{len(silent)} of {len(timeline.recordings)} recordings have no timestamps: their sessions and "
            "their overlaps can only be told by identical frames.",
            total=len(timeline.recordings),
            remedy="Write `timestamps`, in milliseconds, beside `frames`.",
        )


def _intervals(timeline: Timeline) -> Iterator[tuple[str, np.ndarray]]:
    """The id and the intervals [ms] of each recording of several frames that tells its times."""
    for name, first, length, has_times in zip(
        timeline.recordings, timeline.firsts, timeline.lengths, timeline.has_times, strict=True
    ):
        if has_times and length > 1:
            yield name, np.diff(timeline.times_N[first : first + length])


def _is_plausible(intervals: np.ndarray) -> bool:
    low, high = PLAUSIBLE_INTERVAL_MS
    return low <= np.median(np.abs(intervals)) <= high


def _unit(timeline: Timeline) -> Iterable[Finding]:
    told = list(_intervals(timeline))
    odd = [
        f"{name}: {np.median(np.abs(intervals)):g} from frame to frame"
        for name, intervals in told
        if not _is_plausible(intervals)
    ]
    if odd:
        yield Finding.of(
            odd,
            key="time/unit",
            severity="serious",
            title=f"{len(odd)} of {len(told)} recordings have timestamps that can hardly be milliseconds: sessions, "
            "and what overlaps, are misjudged.",
            total=len(told),
            remedy="Write `timestamps` in milliseconds since 1970.",
        )


def _order(timeline: Timeline) -> Iterable[Finding]:
    told = [(name, intervals) for name, intervals in _intervals(timeline) if _is_plausible(intervals)]
    total = sum(len(intervals) for _, intervals in told)
    backwards = [f"{name} frame {i + 1}" for name, intervals in told for i in np.flatnonzero(intervals < 0)]
    if backwards:
        yield Finding.of(
            backwards,
            key="time/backwards",
            severity="warning",
            title=f"{len(backwards)} of {total} frames were taken before the frame they follow: clips jump in time.",
            total=total,
            remedy="Sort the frames of the recording by time, and number the keyframes again.",
        )
    repeated = [f"{name} frame {i + 1}" for name, intervals in told for i in np.flatnonzero(intervals == 0)]
    if repeated:
        yield Finding.of(
            repeated,
            key="time/repeated",
            severity="warning",
            title=f"{len(repeated)} of {total} frames have the timestamp of the frame they follow.",
            total=total,
            remedy="Export the times of the frames again, each its own.",
        )


def _irregular(timeline: Timeline, config: DataConfig) -> Iterable[Finding]:
    told = [(name, intervals) for name, intervals in _intervals(timeline) if _is_plausible(intervals)]
    # By the clock, clips span the same time whatever the intervals.
    severity, remedy = (
        ("warning", "Choose --data.frame-interval-ms, so that clips of equal length span equal times.")
        if config.frame_interval_ms is None
        else ("note", "Choose keyframes where frames follow each other closely.")
    )
    gaps = [
        (int(intervals[i]), f"{name} frame {i}: {intervals[i]} ms")
        for name, intervals in told
        for i in np.flatnonzero(intervals >= max(GAP_MS, GAP_MEDIANS * np.median(intervals)))
    ]
    if gaps:
        longest_first = sorted(gaps, key=lambda gap: -gap[0])
        total = sum(len(intervals) for _, intervals in told)
        yield Finding(
            key="time/gap",
            severity=severity,
            title=f"{len(gaps)} of {total} frames are followed by a gap, of up to {longest_first[0][0]} ms.",
            count=len(gaps),
            total=total,
            examples=tuple(text for _, text in longest_first[:MAX_EXAMPLES]),
            remedy=remedy,
        )
    # Intervals that run backwards are told of elsewhere.
    forwards = [(name, intervals[intervals > 0]) for name, intervals in told]
    spread = [(name, *np.percentile(each, (5, 50, 95))) for name, each in forwards if len(each) >= MIN_INTERVALS]
    uneven = [
        f"{name}: {low:.0f} to {high:.0f} ms, half of them below {median:.0f}"
        for name, low, median, high in spread
        if high >= JITTER * low
    ]
    if uneven:
        yield Finding.of(
            uneven,
            key="time/jitter",
            severity=severity,
            title=f"{len(uneven)} of {len(told)} recordings have irregular times: the longest 1 in 20 of their "
            f"intervals is {JITTER} times the shortest 1 in 20, or more.",
            total=len(told),
            remedy=remedy,
        )


def _keyframes(files: Sequence[Annotations], timeline: Timeline) -> Iterable[Finding]:
    """Images whose own timestamp lies nearer to another frame than to their keyframe."""
    judged = {name for name, intervals in _intervals(timeline) if _is_plausible(intervals)}
    offsets: list[int] = []
    examples: list[str] = []
    total = 0
    for file in files:
        for image in file.images:
            if image.timestamp_ms is None or image.recording not in judged:
                continue
            total += 1
            i = timeline.index(image.recording)
            times = timeline.times_N[timeline.firsts[i] : timeline.firsts[i] + timeline.lengths[i]]
            away = np.abs(times - image.timestamp_ms)
            nearest = int(away.argmin())
            if away[nearest] < away[image.keyframe]:
                offsets.append(image.keyframe - nearest)
                examples.append(f"{image.id}: frame_idx {image.keyframe}, but its timestamp is that of frame {nearest}")
    if offsets:
        (offset, times_seen), *_ = Counter(offsets).most_common(1)
        direction = "late" if offset > 0 else "early"
        frames = "frame" if abs(offset) == 1 else "frames"
        yield Finding(
            key="keyframe/time",
            severity="serious",
            title=f"{len(offsets)} of {total} keyframes are not the frame at their image's timestamp: {times_seen} of "
            f"them lie {abs(offset)} {frames} too {direction}.",
            count=len(offsets),
            total=total,
            examples=tuple(examples[:MAX_EXAMPLES]),
            remedy="Count `frame_idx` from 0 within the recording, and write the annotations again.",
        )
