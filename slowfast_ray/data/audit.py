"""What is wrong with a dataset: leaks, duplicates, label conflicts, missing classes, dead pixels, gaps in time.

`of_dataset` is the cheap part, which every run does before its first epoch; `of_folder` looks at every pixel as well.

The keys, with their severity; where there are two, the finding's numbers or the settings decide:

    data/refused         serious          the dataset cannot be used with these settings, and why (of_folder only)
    leak/time            serious          val clips that overlap train clips in time
    leak/frames          serious          val clips that show frames identical to those of train clips
    leak/widest          serious          more val clips that do either, for the longest clips of a search
    session/one          warning          one session only
    session/shared       note             val samples of sessions that train as well
    session/simultaneous warning          sessions of several sensors at the same time
    session/sensor       warning          recordings that do not name their sensor, while others do (of_folder only)
    duplicate/train      note             train samples at the same moment
    duplicate/val        warning          val samples at the same moment
    duplicate/across     serious          val samples at the moment of a train sample
    window/edge          note             clips that run past their recording
    window/gap           warning, note    frames of clips by the clock that stand for a gap
    class/untrained      serious          classes in val but not in train
    class/unvalidated    warning          classes in train but not in val
    class/few            warning          classes with 1 to 4 train samples
    class/absent         note             classes in neither
    label/tie            warning, note    keyframes without a majority; under majority
    label/outvoted       note             keyframes with a majority and others; under majority
    label/moment         warning          one moment in two images with different labels
    box/missing          serious, note    people without a box of four numbers; serious under person
    box/fractions        serious, warning boxes that are empty or no fractions; serious under person
    box/border           note             boxes that reach over the border
    image/unlabelled     note             images without people
    image/both           warning          image ids in both files
    frame/shared         note             frames that another recording stores as well
    time/absent          warning          recordings without timestamps
    time/unit            serious          timestamps that are hardly milliseconds
    time/backwards       warning          frames before the one they follow
    time/repeated        warning          frames at the time of the one they follow
    time/gap             warning, note    long intervals; a note for clips by the clock
    time/jitter          warning, note    uneven intervals; a note for clips by the clock
    keyframe/time        serious          keyframes that are not the frame at their image's timestamp
    pixel/not-finite     serious          NaN or infinity (this and those below: of_folder only)
    pixel/dead           warning, note    dead pixels
    pixel/never-alive    warning          pixels that are dead throughout a recording
    pixel/stuck          warning          pixels that keep their value while others change
    pixel/implausible    warning          temperatures outside -40 to 100 degrees
    pixel/clipped        warning          recordings with much outside data.min_celsius to data.max_celsius
    frame/repeated       warning, note    frames identical to the one before
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from slowfast_ray.data import (
    audit_clock,
    audit_facts,
    audit_labels,
    audit_pixels,
    audit_samples,
    dataset,
    recording_files,
    recordings,
    source,
    timeline,
)
from slowfast_ray.data.annotations import Annotations
from slowfast_ray.data.audit_facts import Facts
from slowfast_ray.data.audit_findings import Finding, worst_first
from slowfast_ray.data.audit_pixels import Pixels
from slowfast_ray.data.config import DataConfig
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.data.timeline import Timeline


@dataclass(frozen=True)
class Audit:
    """All that was found in a dataset folder."""

    root: Path
    findings: tuple[Finding, ...]
    """The worst first."""
    facts: Facts


def of_dataset(data: Dataset, widest_window: float | None = None) -> tuple[Finding, ...]:
    """What is wrong with a dataset as it is labelled and split, the worst first; no file is read again.

    `widest_window` is the span of the longest clip of a search [frames; ms with data.frame_interval_ms].
    """
    files = (data.source.train, data.source.val)
    return worst_first([*_of_split(data, widest_window), *_of_files(files, data.source.timeline, data.config)])


def of_folder(root: Path, config: DataConfig, widest_window: float | None = None) -> Audit:
    """All that is wrong with the dataset in the folder `root`, under the labels, split and clips of `config`.

    What training refuses is a finding here, as long as the files can be read: the rest is looked at all the same.
    Raises FileNotFoundError or ValueError for a missing folder or file, annotations that are invalid, HDF5 that cannot
    be read, and keyframes outside their recording.
    """
    root = root.expanduser().absolute()
    config = replace(config, root=str(root))
    files = source.read_annotations(root)
    paths = source.paths_of(root / "frames", *files)
    for file in files:
        source.check_keyframes(file, {path.stem: recording_files.shape_NHW(path)[0] for path in paths})
    looked = [audit_pixels.look(recordings.read_raw(path), config) for path in paths]  # one in memory at a time
    refusal: str | None = None
    data: Dataset | None = None
    try:
        data = dataset.load(config)
    except ValueError as error:
        refusal = str(error)
    axis = timeline.build([_described(path) for path in paths]) if data is None else data.source.timeline
    found = [
        *_of_refusal(refusal),
        *([] if data is None else _of_split(data, widest_window)),
        *_of_files(files, axis, config),
        *_of_sensors(looked),
        *audit_pixels.findings(looked, config),
    ]
    facts = audit_facts.gather(data, refusal, files, axis, looked, config, widest_window)
    return Audit(root, worst_first(found), facts)


def _of_split(data: Dataset, widest_window: float | None) -> Iterable[Finding]:
    yield from audit_samples.findings(data, widest_window)
    yield from audit_labels.classes(data)


def _of_files(files: Sequence[Annotations], axis: Timeline, config: DataConfig) -> Iterable[Finding]:
    yield from audit_labels.findings(files, axis, config)
    yield from audit_clock.findings(files, axis, config)


def _of_refusal(refusal: str | None) -> Iterable[Finding]:
    if refusal is not None:
        yield Finding(
            key="data/refused",
            severity="serious",
            title=f"Training on this dataset is refused, so that its samples are not looked at here: {refusal}",
            count=1,
            total=1,
            examples=(),
            remedy="Do what the message says, and audit the dataset again.",
        )


def _of_sensors(looked: Sequence[Pixels]) -> Iterable[Finding]:
    nameless = [each.id for each in looked if each.sensor is None]
    if 0 < len(nameless) < len(looked):
        yield Finding.of(
            nameless,
            key="session/sensor",
            severity="warning",
            title=f"{len(nameless)} of {len(looked)} recordings do not name their sensor: they are taken for those of "
            "another one, and so of another session.",
            total=len(looked),
            remedy="Write the attribute `mac_address` into every recording, or into none.",
        )


@dataclass(frozen=True)
class _Described:
    """What a timeline needs, of a recording that may hold what cannot be repaired."""

    id: str
    times_N: np.ndarray | None
    sensor: str | None
    digests_N: np.ndarray


def _described(path: Path) -> _Described:
    raw = recordings.read_raw(path)
    return _Described(path.stem, raw.times_N, raw.sensor, raw.digests_N())
