"""When each frame was taken, which frames are one moment stored twice, and which recordings form a session.

Recordings are often cut from one stream with an overlap, and people look for their validation clips in all of them.
What was seen is therefore told by moments, not by files: identical frames are one moment, in whatever recording they
lie.

Legend: N frames of all recordings, one recording after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SESSION_GAP_MS = 60 * 60 * 1000
"""Recordings of one sensor with a shorter pause between them are one session: the same people in the same room, dressed
as they were, at much the same temperature."""


class Described(Protocol):
    """What must be known of a recording, whether its frames are in memory or not."""

    @property
    def id(self) -> str:
        """Its name."""
        ...

    @property
    def times_N(self) -> np.ndarray | None:
        """int64 [N]: when each frame was taken [ms]; None where the file does not say."""
        ...

    @property
    def sensor(self) -> str | None:
        """Which sensor recorded; None where the file does not say."""
        ...

    @property
    def digests_N(self) -> np.ndarray:
        """uint64 [N]: equal for identical frames."""
        ...


@dataclass(frozen=True)
class Timeline:
    """All frames of a dataset in time."""

    recordings: tuple[str, ...]
    """Their ids, in the order of their frames."""
    firsts: np.ndarray
    """int64, one a recording: its first frame."""
    lengths: np.ndarray
    """int64, one a recording [frames]."""
    has_times: np.ndarray
    """bool, one a recording: whether its file says when each frame was taken."""
    times_N: np.ndarray
    """int64: when a frame was taken [ms]; where a recording does not say, its position in the recording."""
    moments_N: np.ndarray
    """int64: equal for identical frames."""
    sessions: np.ndarray
    """int64, one a recording: its session, counted from 0 in the order of time."""

    @property
    def num_sessions(self) -> int:
        """Independent sessions."""
        return int(self.sessions.max()) + 1

    def index(self, recording: str) -> int:
        """The position of a recording."""
        return self.recordings.index(recording)

    def axes_of(self, recordings_S: np.ndarray) -> np.ndarray:
        """int64, one for each of the recordings (by their positions): equal for those whose times compare.

        Times compare within a session. Those of a recording that does not tell them count from 0: they compare with
        none but its own.
        """
        return np.where(self.has_times[recordings_S], self.sessions[recordings_S], -1 - recordings_S)

    def session_name(self, session: int) -> str:
        """For people: the first and the last recording of a session."""
        members = [self.recordings[i] for i in np.flatnonzero(self.sessions == session)]
        return members[0] if len(members) == 1 else f"{members[0]} to {members[-1]} ({len(members)} recordings)"


def build(loaded: Sequence[Described]) -> Timeline:
    """The timeline of some recordings."""
    lengths = np.array([len(each.digests_N) for each in loaded], dtype=np.int64)
    times = [np.arange(len(each.digests_N)) if each.times_N is None else each.times_N for each in loaded]
    _, moments_N = np.unique(np.concatenate([each.digests_N for each in loaded]), return_inverse=True)
    return Timeline(
        recordings=tuple(each.id for each in loaded),
        firsts=np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64),
        lengths=lengths,
        has_times=np.array([each.times_N is not None for each in loaded]),
        times_N=np.concatenate(times).astype(np.int64),
        moments_N=moments_N.astype(np.int64),
        sessions=_sessions(loaded, lengths, moments_N),
    )


def _sessions(loaded: Sequence[Described], lengths: np.ndarray, moments_N: np.ndarray) -> np.ndarray:
    """Groups recordings that overlap or follow each other on one sensor, or that store the same moments."""
    pairs: list[tuple[int, int]] = []
    spans = [None if each.times_N is None else (each.times_N.min(), each.times_N.max()) for each in loaded]
    for sensor in {each.sensor for each in loaded}:
        # Where no file names its sensor, all are taken for one: a session too large leaks nothing.
        mine = [i for i, each in enumerate(loaded) if each.sensor == sensor and spans[i] is not None]
        mine.sort(key=lambda i: spans[i] or (0, 0))
        latest = None
        for i in mine:
            start, end = spans[i] or (0, 0)
            if latest is not None and start - latest[0] <= SESSION_GAP_MS:
                pairs.append((latest[1], i))
            if latest is None or end > latest[0]:
                latest = (end, i)
    owner_N = np.repeat(np.arange(len(loaded)), lengths)
    order_N = np.lexsort((owner_N, moments_N))
    same = moments_N[order_N][1:] == moments_N[order_N][:-1]
    twice = np.stack([owner_N[order_N][:-1][same], owner_N[order_N][1:][same]], axis=1)
    pairs += [(int(a), int(b)) for a, b in np.unique(twice[twice[:, 0] != twice[:, 1]], axis=0)]
    first, second = np.array(pairs, dtype=int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(pairs)), (first, second)), shape=(len(loaded), len(loaded)))
    _, component = connected_components(graph, directed=False)
    starts = [(0 if span is None else int(span[0]), each.id) for span, each in zip(spans, loaded, strict=True)]
    in_time = sorted(set(component), key=lambda c: min(starts[i] for i in np.flatnonzero(component == c)))
    return np.array([in_time.index(each) for each in component], dtype=np.int64)
