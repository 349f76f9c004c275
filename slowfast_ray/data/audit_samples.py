"""What is wrong with the samples of a split: moments seen on both sides, sessions, duplicates, windows past the end.

Legend: S samples, T frames of a clip, N frames of all recordings.
"""

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import torch

from slowfast_ray.data import clips, dataset, splits
from slowfast_ray.data.audit_findings import MAX_EXAMPLES, Finding, Severity
from slowfast_ray.data.config import DataConfig
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.data.samples import Split

MANY_GAPS = 0.1
"""From this share of clip frames that stand for gaps on, clips no longer show what they say."""
BOX_DIGITS = 3
"""Boxes that agree so far are the same: a thousandth of a frame 60 pixels wide is a sixteenth of a pixel."""


def findings(data: Dataset, widest_window: float | None) -> list[Finding]:
    """All of this page, in the order of its keys in audit.py."""
    return [*_leaks(data, widest_window), *_sessions(data), *_duplicates(data), *_windows(data)]


def leaks(data: Dataset, width: float) -> np.ndarray:
    """bool, one a val sample: whether its window, for clips of this span, shares a moment with a train window."""
    pool, members = dataset.pool_of(data, width), data.members
    return splits.sharing(pool, data.source.timeline, members.val, members.train)


def _leaks(data: Dataset, widest_window: float | None) -> Iterable[Finding]:
    members = data.members
    num_val, unit = len(members.val), "frames" if data.clock is None else "ms"
    overlaps = splits.overlapping_in_time(data.pool, data.source.timeline, members.val, members.train)
    if overlaps.any():
        yield Finding(
            key="leak/time",
            severity="serious",
            title=f"{overlaps.sum()} of {num_val} val samples overlap in time with train samples: "
            f"{_clips(data.config)}, span the same moments.",
            count=int(overlaps.sum()),
            total=num_val,
            examples=_pairs(_overlapping(data, members.val[overlaps][:MAX_EXAMPLES])),
            remedy=_other_split(data),
        )
    identical, elsewhere = _showing_identical_frames(data)
    if identical.any():
        yield Finding(
            key="leak/frames",
            severity="serious",
            title=f"{identical.sum()} of {num_val} val samples show frames that train samples show as well, "
            f"{elsewhere.sum()} of them in another recording that stores the same moments again.",
            count=int(identical.sum()),
            total=num_val,
            # Those across recordings first: nobody finds them by looking at one file.
            examples=_ids(data, members.val[np.lexsort((~elsewhere, ~identical))][: identical.sum()]),
            remedy=_other_split(data),
        )
    if widest_window is None:
        return
    num_now, shares = int(data.leaks_S.sum()), leaks(data, widest_window)
    if (num_widest := int(shares.sum())) > num_now:
        yield Finding(
            key="leak/widest",
            severity="serious",
            title=f"{num_widest} of {num_val} val samples share moments with train samples once clips are as long as "
            f"the search may make them, {widest_window:g} {unit}; {num_now} do for {_clips(data.config)}.",
            count=num_widest,
            total=num_val,
            examples=_ids(data, members.val[shares]),
            remedy=f"Set --data.purge-window {widest_window:g}, or take the longest clips out of the search space."
            if data.config.split == "purged"
            else _other_split(data),
        )


def _clips(config: DataConfig) -> str:
    """For people: `clips of 32 frames, every 2nd`."""
    if config.frame_interval_ms is not None:
        return f"clips of {config.clip_len} frames, every {config.frame_interval_ms:g} ms"
    step = config.frame_interval
    if step == 1:
        return f"clips of {config.clip_len} frames, one after the other"
    ending = "th" if step % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(step % 10, "th")
    return f"clips of {config.clip_len} frames, every {step}{ending}"


def _other_split(data: Dataset) -> str:
    if data.source.timeline.num_sessions > 1:
        return "Choose --data.split purged, or --data.split leave-one-session-out."
    return "Choose --data.split purged, or record another session and validate on it."


def _overlapping(data: Dataset, chosen: np.ndarray) -> Iterable[tuple[str, str]]:
    """The id of each chosen sample, with that of the train sample nearest to it of all that overlap with it."""
    pool, timeline, train = data.pool, data.source.timeline, data.members.train
    starts_S, ends_S = splits.spans(pool, timeline)
    axis_S = timeline.axes_of(pool.recordings_S)
    times_S = timeline.times_N[pool.keyframes_S]
    for i in chosen:
        overlaps = (axis_S[train] == axis_S[i]) & (starts_S[train] <= ends_S[i]) & (ends_S[train] >= starts_S[i])
        there = train[overlaps]
        yield _two(data, i, there[np.abs(times_S[there] - times_S[i]).argmin()])


def _showing_identical_frames(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """bool, bool, one a val sample: whether its clip shows a frame that a train clip shows, and so from another file.

    What counts is what clips show, not the frames that they skip.
    """
    timeline = data.source.timeline
    lowest = np.full(int(timeline.moments_N.max()) + 1, len(timeline.recordings))
    highest = np.full(len(lowest), -1)
    moments_ST, recordings_S = _shown(data, data.train)
    recordings_ST = np.broadcast_to(recordings_S[:, None], moments_ST.shape)
    np.minimum.at(lowest, moments_ST, recordings_ST)
    np.maximum.at(highest, moments_ST, recordings_ST)
    moments_ST, recordings_S = _shown(data, data.val)
    is_seen_ST = highest[moments_ST] >= 0
    is_other_ST = (lowest[moments_ST] < recordings_S[:, None]) | (highest[moments_ST] > recordings_S[:, None])
    return np.any(is_seen_ST, axis=1), np.any(is_seen_ST & is_other_ST, axis=1)


def _shown(data: Dataset, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """int64 [S, T], int64 [S]: the moments that each clip shows, and its recording."""
    indices_ST = clips.of_config(split.keyframes_S, split.firsts_S, split.lasts_S, data.clock, data.config)
    timeline = data.source.timeline
    return timeline.moments_N[indices_ST.numpy()], np.searchsorted(timeline.firsts, split.firsts_S.numpy())


def _sessions(data: Dataset) -> Iterable[Finding]:
    timeline, pool, members = data.source.timeline, data.pool, data.members
    session_S = timeline.sessions[pool.recordings_S]
    if timeline.num_sessions == 1:
        yield Finding(
            key="session/one",
            severity="warning",
            title=f"All {len(timeline.recordings)} recordings are one session: nothing can be said about a new one.",
            count=1,
            total=1,
            examples=(timeline.session_name(0),),
            remedy="Record a second session, an hour or more apart, and validate on it.",
        )
        return
    known = np.isin(session_S[members.val], session_S[members.train])
    if known.any():
        names = [timeline.session_name(session) for session in np.unique(session_S[members.val][known])]
        yield Finding(
            key="session/shared",
            severity="note",
            title=f"{known.sum()} of {len(known)} val samples are from sessions that train as well: the metrics tell "
            "of these rooms and people, not of a new session.",
            count=int(known.sum()),
            total=len(known),
            examples=tuple(names[:MAX_EXAMPLES]),
            remedy="Choose --data.split leave-one-session-out to measure on a new session.",
        )


def _duplicates(data: Dataset) -> Iterable[Finding]:
    at_moment: dict[object, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for side, chosen in enumerate((data.members.train, data.members.val)):
        for i in chosen.tolist():
            at_moment[_what_is_seen(data, i)][side].append(i)
    is_person = data.config.labels == "person"
    what = "show the same person at the same moment" if is_person else "show the same moment"
    by_side: tuple[tuple[str, Severity, int, str], ...] = (
        ("train", "note", 0, "training counts that moment twice"),
        ("val", "warning", 1, "the metrics count that moment twice"),
    )
    for name, severity, side, effect in by_side:
        repeated = [sides[side] for sides in at_moment.values() if len(sides[side]) > 1]
        if repeated:
            count = sum(len(group) - 1 for group in repeated)
            total = len((data.members.train, data.members.val)[side])
            yield Finding(
                key=f"duplicate/{name}",
                severity=severity,
                title=f"{count} of {total} {name} samples {what} as another {name} sample: {effect}.",
                count=count,
                total=total,
                examples=_pairs(_two(data, group[0], group[1]) for group in repeated[:MAX_EXAMPLES]),
                remedy=f"Remove one of each pair from {name}.json.",
            )
    across = [(train[0], val) for train, val in at_moment.values() if train and val]
    if across:
        count = sum(len(val) for _, val in across)
        yield Finding(
            key="duplicate/across",
            severity="serious",
            title=f"{count} of {len(data.members.val)} val samples {what} as a train sample: their answers are learnt.",
            count=count,
            total=len(data.members.val),
            examples=_pairs(_two(data, val[0], train) for train, val in across[:MAX_EXAMPLES]),
            remedy="Remove them from train.json, or choose --data.split purged.",
        )


def _what_is_seen(data: Dataset, i: int) -> object:
    """Equal for samples that ask the same of the same picture."""
    moment = int(data.source.timeline.moments_N[data.pool.keyframes_S[i]])
    box = data.labelled.samples[i].box
    return moment, None if box is None else tuple(round(each, BOX_DIGITS) for each in box)


def _windows(data: Dataset) -> Iterable[Finding]:
    config, chosen = data.config, np.concatenate([data.members.train, data.members.val])
    keyframes_S, firsts_S, lasts_S = (
        torch.cat([getattr(data.train, name), getattr(data.val, name)])
        for name in ("keyframes_S", "firsts_S", "lasts_S")
    )
    offsets_T = torch.arange(config.clip_len) - config.clip_len // 2
    if data.clock is None:
        ends_S2 = keyframes_S[:, None] + offsets_T[[0, -1]] * config.frame_interval
        is_past_S = (ends_S2[:, 0] < firsts_S) | (ends_S2[:, 1] > lasts_S)
    else:
        assert config.frame_interval_ms is not None, "a clock is there for clips by the clock"
        axis_N = data.clock.axis_N
        ends_S2 = axis_N[keyframes_S][:, None] + offsets_T[[0, -1]] * config.frame_interval_ms
        is_past_S = (ends_S2[:, 0] < axis_N[firsts_S]) | (ends_S2[:, 1] > axis_N[lasts_S])
    if is_past_S.any():
        count = int(is_past_S.sum())
        yield Finding(
            key="window/edge",
            severity="note",
            title=f"{count} of {len(chosen)} clips run past an end of their recording: its last frame is repeated.",
            count=count,
            total=len(chosen),
            examples=_ids(data, chosen[is_past_S.numpy()]),
            remedy="Choose keyframes further inside the recording, or a lower --data.clip-len.",
        )
    if data.clock is not None and config.frame_interval_ms is not None:
        indices_ST = clips.of_config(keyframes_S, firsts_S, lasts_S, data.clock, config)
        gaps_ST = clips.in_gap(keyframes_S, indices_ST, data.clock, frame_interval_ms=config.frame_interval_ms)
        if gaps_ST.any():
            count, share = int(gaps_ST.sum()), float(gaps_ST.float().mean())
            worst = np.argsort(-gaps_ST.sum(dim=1).numpy(), kind="stable")
            with_gaps = worst[: int(gaps_ST.any(dim=1).sum())]
            yield Finding(
                key="window/gap",
                severity="warning" if share >= MANY_GAPS else "note",
                title=f"{count} of {gaps_ST.numel()} clip frames ({share:.1%}) stand for a moment of which there is "
                "none: the nearest frame is repeated in gaps and past the ends.",
                count=count,
                total=gaps_ST.numel(),
                examples=_ids(data, chosen[with_gaps]),
                remedy="Choose a lower --data.clip-len or --data.frame-interval-ms, or keyframes away from gaps.",
            )


def _ids(data: Dataset, chosen: np.ndarray) -> tuple[str, ...]:
    return tuple(data.labelled.samples[i].id for i in chosen[:MAX_EXAMPLES])


def _two(data: Dataset, one: int, other: int) -> tuple[str, str]:
    return data.labelled.samples[one].id, data.labelled.samples[other].id


def _pairs(pairs: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(f"{one} and {other}" for one, other in pairs)
