"""Who trains and who validates: as provided, purged blocks of time, or one session left out.

Samples that share a moment tell the same thing twice. A split is honest where no moment that a validation clip can show
is shown by a training clip, neither in the same recording nor in another that stores it again. Under `purged`, training
samples that would break this are dropped and counted; a whole session left out shares nothing by construction.

Legend: S samples, K classes, N frames of all recordings.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from slowfast_ray.data.config import DataConfig
from slowfast_ray.data.timeline import Timeline


@dataclass(frozen=True)
class Pool:
    """What splitting needs to know of all samples, those of train.json first, then those of val.json."""

    keyframes_S: np.ndarray
    """int64: counted over the frames of all recordings [frames]."""
    recordings_S: np.ndarray
    """int64: index into Timeline.recordings."""
    firsts_S: np.ndarray
    """int64: first frame that a clip of the widest window can show [frames]."""
    lasts_S: np.ndarray
    """int64: last one [frames]."""
    classes_SK: np.ndarray
    """bool: which labels a sample carries."""
    is_provided_val_S: np.ndarray
    """bool: whether a sample is from val.json."""


@dataclass(frozen=True)
class Members:
    """Positions in the pool, each in ascending order."""

    train: np.ndarray
    val: np.ndarray
    dropped: np.ndarray
    """Neither: training samples that touch a validation window."""


def choose(pool: Pool, timeline: Timeline, config: DataConfig) -> Members:
    """The members of the fold that `config` names.

    Raises ValueError for a fold that does not exist, for one session under leave-one-session-out, and where a session
    has fewer moments than blocks.
    """
    if config.split == "provided":
        is_val_S = pool.is_provided_val_S
        return Members(np.flatnonzero(~is_val_S), np.flatnonzero(is_val_S), np.array([], dtype=np.int64))
    if config.split == "all":
        every_S = np.arange(len(pool.keyframes_S))
        return Members(every_S, np.flatnonzero(pool.is_provided_val_S), np.array([], dtype=np.int64))
    session_S = timeline.sessions[pool.recordings_S]
    if config.split == "leave-one-session-out":
        fold_S, num_folds = _by_session(session_S, timeline)
    else:
        fold_S, num_folds = _by_blocks(pool, timeline, session_S, config), config.num_folds
    if config.fold >= num_folds:
        raise ValueError(
            f"`data.fold` (={config.fold}) does not exist: {config.split} gives {num_folds} folds here, 0 to "
            f"{num_folds - 1}."
        )
    val = np.flatnonzero(fold_S == config.fold)
    rest = np.flatnonzero(fold_S != config.fold)
    touches = sharing(pool, timeline, rest, val)
    if touches.all():
        raise ValueError(
            f"`data.split` ({config.split}, fold {config.fold}) leaves no training sample: all {len(rest)} share a "
            "moment with a validation clip; lower `data.clip_len` or the interval, or choose fewer `data.num_folds`."
        )
    return Members(train=rest[~touches], val=val, dropped=rest[touches])


def sharing(pool: Pool, timeline: Timeline, these: np.ndarray, others: np.ndarray) -> np.ndarray:
    """bool, one for each of `these` samples: whether its window shares a moment with that of any of `others`.

    A moment is shared where two windows of a session overlap in time, or hold an identical frame.
    """
    return overlapping_in_time(pool, timeline, these, others) | holding_identical_frames(pool, timeline, these, others)


def holding_identical_frames(pool: Pool, timeline: Timeline, these: np.ndarray, others: np.ndarray) -> np.ndarray:
    """bool, one for each of `these` samples: whether its window holds a frame identical to one in those of `others`."""
    is_seen_N = np.zeros(len(timeline.times_N), dtype=bool)
    for first, last in zip(pool.firsts_S[others], pool.lasts_S[others], strict=True):
        is_seen_N[first : last + 1] = True
    is_seen_moment = np.zeros(int(timeline.moments_N.max()) + 1, dtype=bool)
    is_seen_moment[timeline.moments_N[is_seen_N]] = True
    num_seen_N = np.concatenate([[0], np.cumsum(is_seen_moment[timeline.moments_N])])
    return num_seen_N[pool.lasts_S[these] + 1] > num_seen_N[pool.firsts_S[these]]


def overlapping_in_time(pool: Pool, timeline: Timeline, these: np.ndarray, others: np.ndarray) -> np.ndarray:
    """bool, one for each of `these` samples: whether its window overlaps in time with that of any of `others`.

    Only windows of one session can; of one recording, where it does not tell its times.
    """
    overlaps = np.zeros(len(these), dtype=bool)
    starts_S, ends_S = spans(pool, timeline)
    axis_S = timeline.axes_of(pool.recordings_S)
    for axis in np.unique(axis_S[others]):
        mine = np.flatnonzero(axis_S[these] == axis)
        apart = merged([(int(starts_S[i]), int(ends_S[i])) for i in others[axis_S[others] == axis]])
        starts, ends = np.array(apart).T
        at = np.searchsorted(ends, starts_S[these[mine]])  # the first merged span that ends at or after the start
        inside = at < len(starts)
        overlaps[mine[inside]] = starts[at[inside]] <= ends_S[these[mine[inside]]]
    return overlaps


def spans(pool: Pool, timeline: Timeline) -> tuple[np.ndarray, np.ndarray]:
    """int64 [S], int64 [S]: the earliest and the latest time in each window; times may run backwards inside it."""
    windows = [timeline.times_N[first : last + 1] for first, last in zip(pool.firsts_S, pool.lasts_S, strict=True)]
    return np.array([each.min() for each in windows]), np.array([each.max() for each in windows])


def merged(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans from first to last in ascending order, those that touch as one."""
    together: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if together and start <= together[-1][1]:
            together[-1] = (together[-1][0], max(end, together[-1][1]))
        else:
            together.append((start, end))
    return together


def _by_session(session_S: np.ndarray, timeline: Timeline) -> tuple[np.ndarray, int]:
    present = np.unique(session_S)
    if len(present) < 2:
        raise ValueError(
            "`data.split` leave-one-session-out needs samples of 2 sessions or more, but all are of one: "
            f"{timeline.session_name(int(present[0]))}; choose purged."
        )
    return np.searchsorted(present, session_S), len(present)


def _by_blocks(pool: Pool, timeline: Timeline, session_S: np.ndarray, config: DataConfig) -> np.ndarray:
    """int64 [S]: the fold of each sample. Each session is cut into `num_folds` blocks of time, one for each fold.

    Blocks of the sessions are put together so that every fold resembles the whole in its classes, as far as whole
    blocks allow: session after session, by the assignment of least distance.
    """
    num_folds = config.num_folds
    rng = np.random.default_rng(config.split_seed)
    num_classes = pool.classes_SK.shape[1]
    fold_S = np.zeros(len(session_S), dtype=np.int64)
    so_far_FK = np.zeros((num_folds, num_classes))
    target_K = np.zeros(num_classes)
    for session in np.unique(session_S):
        members = np.flatnonzero(session_S == session)
        block = _blocks(pool, timeline, members, num_folds, rng, timeline.session_name(int(session)))
        classes_BK = np.stack([pool.classes_SK[members[block == b]].sum(axis=0) for b in range(num_folds)])
        target_K = target_K + classes_BK.mean(axis=0)
        # Rare classes count as much as frequent ones: distances are relative to a fold's fair share.
        after_FBK = so_far_FK[:, None] + classes_BK[None]
        distance_FB = (np.abs(after_FBK - target_K) / np.maximum(target_K, 1e-9)).sum(axis=2, where=target_K > 0)
        _, block_of_fold = linear_sum_assignment(distance_FB)
        fold_of_block = np.argsort(block_of_fold)
        fold_S[members] = fold_of_block[block]
        so_far_FK += classes_BK[block_of_fold]
    return fold_S


def _blocks(
    pool: Pool, timeline: Timeline, members: np.ndarray, num_blocks: int, rng: np.random.Generator, name: str
) -> np.ndarray:
    """int64, one for each of `members`: its block, 0 to num_blocks - 1 in the order of time.

    Blocks have about equally many samples. Equal moments stay together: those at one time, and those of identical
    keyframes.
    """
    keyframes = pool.keyframes_S[members]
    place = _moments(keyframes, timeline, timeline.has_times[pool.recordings_S[members]])
    counts = np.bincount(place)
    if len(counts) < num_blocks:
        fewer = f"try {len(counts)}, or choose" if len(counts) > 1 else "choose"
        raise ValueError(
            f"`data.num_folds` (={num_blocks}) exceeds the labelled moments of the session {name}, {len(counts)}; "
            f"{fewer} leave-one-session-out."
        )
    # Cuts at equal shares of the samples, each moved by up to a quarter of a block, so that seeds give other folds.
    share = len(members) / num_blocks
    wanted = (np.arange(1, num_blocks) + rng.uniform(-0.25, 0.25, num_blocks - 1)) * share
    cuts = np.searchsorted(np.cumsum(counts), wanted)
    # Every block keeps a moment, also where many samples share one.
    cuts = np.maximum.accumulate(np.maximum(cuts, 0) - np.arange(num_blocks - 1)) + np.arange(num_blocks - 1)
    cuts = np.minimum(cuts, len(counts) - num_blocks + np.arange(num_blocks - 1))
    return np.searchsorted(cuts, place, side="left")


def _moments(keyframes: np.ndarray, timeline: Timeline, has_times: np.ndarray) -> np.ndarray:
    """int64, one for each keyframe: its moment, counted from 0 in the order of time.

    Keyframes at one time and identical ones are one moment, and so are all that hang together by either.
    """
    times = timeline.times_N[keyframes]
    # A keyframe of a recording that does not tell its times is at no time but its own.
    _, at = np.unique(np.stack([has_times, np.where(has_times, times, keyframes)]), axis=1, return_inverse=True)
    _, shown = np.unique(timeline.moments_N[keyframes], return_inverse=True)
    at, shown = at.reshape(-1), shown + int(at.max()) + 1
    size = int(shown.max()) + 1
    graph = coo_array((np.ones(len(at)), (at, shown)), shape=(size, size))
    _, component_of = connected_components(graph, directed=False)
    component = component_of[at]
    # Where times lack, a session is the order of its recordings.
    order = times if has_times.all() else keyframes
    earliest = np.full(int(component.max()) + 1, order.max())
    np.minimum.at(earliest, component, order)
    return np.unique(earliest[component], return_inverse=True)[1]
