"""What a dataset holds, as plain numbers: sessions in time, recordings, classes, and what each policy would keep.

Legend: N frames of a recording, H height, W width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slowfast_ray.data import audit_clock, audit_samples, labels, splits
from slowfast_ray.data.annotations import Annotations
from slowfast_ray.data.audit_pixels import Pixels
from slowfast_ray.data.config import DataConfig, Labels, Ties
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.data.timeline import Timeline

Span = tuple[int, int]
"""From the first to the last frame that a clip can show, on the time axis of the session [ms]."""


POLICIES: tuple[tuple[Labels, Ties | None], ...] = (
    ("majority", "lowest"),
    ("majority", "drop"),
    ("majority", "rarest"),
    ("person", None),
    ("multi", None),
)


@dataclass(frozen=True)
class SessionFacts:
    """Recordings that overlap or follow each other in time."""

    name: str
    recordings: tuple[str, ...]
    """Their ids, in alphabetical order."""
    start_ms: int | None
    """When the first frame was taken [ms]; None where a recording of the session does not say."""
    end_ms: int | None
    """When the last frame was taken [ms]; None where a recording of the session does not say."""
    num_train: int | None
    """Samples that train; None where the dataset is refused, as the two below."""
    num_val: int | None
    num_dropped: int | None
    """Samples that neither train nor validate, under a purged split."""
    train_windows_ms: tuple[Span, ...]
    """The window of each training sample, in the order of time; none where a recording of the session has no times."""
    val_windows_ms: tuple[Span, ...]
    """The same of each validation sample."""


@dataclass(frozen=True)
class RecordingFacts:
    """One file, before any repair."""

    id: str
    session: int
    """Index into `Facts.sessions`."""
    sensor: str | None
    num_frames: int
    start_ms: int | None
    """None where the file does not say."""
    end_ms: int | None
    dead_share: float
    """Dead values among all values of all frames."""
    num_dead_frames: int
    """Frames with at least one dead pixel."""
    dead_HW: np.ndarray
    """float64: share of the frames in which each pixel is dead."""
    intervals_ms: np.ndarray
    """int64 [N - 1]: from each frame to the next; empty where the file has no times."""


@dataclass(frozen=True)
class ClassFacts:
    """One class, in the samples as they are labelled and split, and among all people."""

    name: str
    num_train: int | None
    """Samples that train; None where the dataset is refused."""
    num_val: int | None
    """Samples that validate; None where the dataset is refused."""
    num_train_people: int
    """People annotated in train.json."""
    num_val_people: int
    """People annotated in val.json."""


@dataclass(frozen=True)
class PolicyFacts:
    """What a label policy would make of train.json and val.json."""

    labels: Labels
    ties: Ties | None
    """None where the policy knows no ties."""
    num_train: int | None
    """Samples from train.json; None where the policy is refused, as all numbers below."""
    num_val: int | None
    """Samples from val.json."""
    num_conflicts: int | None
    """Keyframes whose people carry different labels."""
    num_ties: int | None
    """Keyframes whose label the rule for ties decides, or which it drops."""
    num_dropped: int | None
    """Keyframes that give no sample."""
    refusal: str | None
    """Why the policy cannot be used here; None where it can."""


@dataclass(frozen=True)
class Facts:
    """A dataset in numbers, for pages and programs."""

    sessions: tuple[SessionFacts, ...]
    """In the order of time."""
    recordings: tuple[RecordingFacts, ...]
    """In alphabetical order."""
    shared_frames: tuple[tuple[str, str, int], ...]
    """Two recordings, and how many moments both store, wherever there are any."""
    classes: tuple[ClassFacts, ...]
    policies: tuple[PolicyFacts, ...]
    """majority with each rule for ties (lowest, drop, rarest), person, multi."""
    split_name: str
    """For people: `purged, fold 0 of 5`."""
    num_leaking: int | None
    """Validation samples whose window shares a moment with that of a training sample; None where refused."""
    num_leaking_widest: int | None
    """The same for the widest clip of a search; None where none was named as well."""
    dataset_fingerprint: str | None
    """Equal for equal frames, times and annotations; None where the dataset is refused."""
    split_fingerprint: str | None
    """Equal where the same samples with the same labels train and validate; None where the dataset is refused."""
    window: float
    """Span of a clip, in `window_unit`."""
    widest_window: float | None
    """Span of the widest clip of a search, in `window_unit`; None where none was named."""
    window_unit: str
    """frames or ms."""
    refusal: str | None
    """Why the dataset cannot be used with these settings; None where it can."""


def gather(
    data: Dataset | None,
    refusal: str | None,
    files: Sequence[Annotations],
    timeline: Timeline,
    looked: Sequence[Pixels],
    config: DataConfig,
    widest_window: float | None,
) -> Facts:
    """The facts of a dataset, or, where it is refused, those that its files tell alone."""
    return Facts(
        sessions=tuple(_session(session, timeline, data) for session in range(timeline.num_sessions)),
        recordings=tuple(_recording(i, timeline, each) for i, each in enumerate(looked)),
        shared_frames=tuple((*pair, count) for pair, count in audit_clock.shared_frames(timeline).items()),
        classes=_classes(files, data),
        policies=_policies(files),
        split_name=config.split if data is None else data.split_name,
        num_leaking=None if data is None else int(data.leaks_S.sum()),
        num_leaking_widest=None
        if data is None or widest_window is None
        else int(audit_samples.leaks(data, widest_window).sum()),
        dataset_fingerprint=None if data is None else data.source.fingerprint,
        split_fingerprint=None if data is None else data.fingerprint,
        window=config.window,
        widest_window=widest_window,
        window_unit="frames" if config.frame_interval_ms is None else "ms",
        refusal=refusal,
    )


def _session(session: int, timeline: Timeline, data: Dataset | None) -> SessionFacts:
    mine = np.flatnonzero(timeline.sessions == session)
    has_times = bool(timeline.has_times[mine].all())
    times = np.concatenate([timeline.times_N[timeline.firsts[i] :][: timeline.lengths[i]] for i in mine])
    windows: list[tuple[Span, ...]] = [(), (), ()]
    counts: list[int | None] = [None, None, None]
    if data is not None:
        starts_S, ends_S = splits.spans(data.pool, timeline)
        for part, members in enumerate((data.members.train, data.members.val, data.members.dropped)):
            chosen = members[np.isin(data.pool.recordings_S[members], mine)]
            counts[part] = len(chosen)
            if has_times:
                windows[part] = tuple(sorted(zip(starts_S[chosen].tolist(), ends_S[chosen].tolist(), strict=True)))
    return SessionFacts(
        name=timeline.session_name(session),
        recordings=tuple(timeline.recordings[i] for i in mine),
        start_ms=int(times.min()) if has_times else None,
        end_ms=int(times.max()) if has_times else None,
        num_train=counts[0],
        num_val=counts[1],
        num_dropped=counts[2],
        train_windows_ms=windows[0],
        val_windows_ms=windows[1],
    )


def _recording(i: int, timeline: Timeline, looked: Pixels) -> RecordingFacts:
    times_N = looked.times_N
    return RecordingFacts(
        id=looked.id,
        session=int(timeline.sessions[i]),
        sensor=looked.sensor,
        num_frames=looked.shape_NHW[0],
        start_ms=None if times_N is None else int(times_N.min()),
        end_ms=None if times_N is None else int(times_N.max()),
        dead_share=looked.dead_share,
        num_dead_frames=looked.num_dead_frames,
        dead_HW=looked.dead_HW / looked.shape_NHW[0],
        intervals_ms=np.array([], dtype=np.int64) if times_N is None else np.diff(times_N),
    )


def _classes(files: Sequence[Annotations], data: Dataset | None) -> tuple[ClassFacts, ...]:
    names = files[0].classes
    people = [
        np.bincount([person.label for image in file.images for person in image.people], minlength=len(names))
        for file in files
    ]
    samples: list[list[int] | list[None]] = [[None] * len(names)] * 2
    if data is not None:
        samples = [part.num_per_class_K(len(names)).tolist() for part in (data.train, data.val)]
    columns = zip(names, *samples, *(counts.tolist() for counts in people), strict=True)
    return tuple(ClassFacts(*column) for column in columns)


def _policies(files: Sequence[Annotations]) -> tuple[PolicyFacts, ...]:
    labelled = [person.label for file in files for image in file.images for person in image.people]
    num_people_K = np.bincount(labelled, minlength=len(files[0].classes)).tolist()
    found = []
    for policy, ties in POLICIES:
        try:
            train, val = (labels.apply(file.images, policy, ties or "lowest", num_people_K) for file in files)
        except ValueError as error:
            found.append(PolicyFacts(policy, ties, None, None, None, None, None, str(error)))
            continue
        both = train + val
        numbers = (both.num_conflicts, both.num_ties, both.num_dropped)
        found.append(PolicyFacts(policy, ties, len(train.samples), len(val.samples), *numbers, None))
    return tuple(found)
