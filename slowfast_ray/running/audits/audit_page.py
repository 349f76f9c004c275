"""The page of an audit: one HTML file that needs nothing but itself, for researchers to show to colleagues.

Everything from the data is text on it: names and ids are anybody's, so the template escapes them, and the page forbids
scripts and requests to the browser that shows it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from slowfast_ray.data.annotations import Image
from slowfast_ray.data.audit_facts import Facts
from slowfast_ray.data.audit_findings import Finding
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.data.samples import Split
from slowfast_ray.running.audits import audit_frames, audit_pictures, audit_words
from slowfast_ray.running.audits.audit_frames import Person
from slowfast_ray.running.audits.audit_pictures import Picture
from slowfast_ray.running.audits.audit_words import MEANINGS
from slowfast_ray.running.audits.auditing import SEVERITIES, Report

NUM_SAMPLES = 12
"""Sample frames shown; more where there are more classes, so that each is seen."""
MAX_SAMPLES = 36
MAX_PICTURES = 24
"""Recordings and sessions that get a picture of their own: the page must stay small enough to send."""
SHOWN_PERCENTILES = (0.5, 99.8)
"""Temperatures from the one to the other span the colours of frames: people are warm and few."""


@dataclass(frozen=True)
class _Chosen:
    """A sample to show."""

    side: str
    split: Split
    position: int


def render(found: Report) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=PackageLoader("slowfast_ray.running.audits", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    facts = found.audit.facts
    metrics = audit_words.metrics_of(found.scores)
    dead = [each for each in facts.recordings if each.num_dead_frames]
    worst_share = max((float(each.dead_HW.max()) for each in dead), default=0.0)
    return environment.get_template("audit_page.html").render(
        name=found.audit.root.name,
        root=str(found.audit.root),
        headline=audit_words.headline(found),
        num_findings=found.num_findings(),
        plural=audit_words.plural,
        findings=[(severity, _of(severity, found.audit.findings)) for severity in SEVERITIES],
        facts=facts,
        tiles=_tiles(facts),
        metrics=metrics,
        scores=[
            (
                score.name,
                MEANINGS[score.name],
                [audit_words.percent(score.intervals[m]) if m in score.intervals else "-" for m in metrics],
            )
            for score in found.scores
        ],
        num_val=0 if found.data is None else len(found.data.val),
        baselines=audit_pictures.baselines(found.scores, metrics) if found.scores else None,
        samples=[] if found.data is None else list(_samples(found.data)),
        temperatures=None if found.data is None else audit_frames.temperatures(_span_celsius(found.data)),
        classes=audit_pictures.classes(facts.classes),
        timelines=list(_timelines(facts)),
        dead_pixels=[audit_pictures.dead_pixels(each, worst_share) for each in dead[:MAX_PICTURES]],
        num_dead=len(dead),
        frame_intervals=_frame_intervals(facts),
        max_pictures=MAX_PICTURES,
        when=audit_words.when,
        intervals_of=audit_words.intervals_of,
    )


def _of(severity: str, findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity == severity]


def _tiles(facts: Facts) -> list[tuple[str, str]]:
    """The numbers at the top, each with its word."""
    num_train, num_val = audit_words.num_samples(facts)
    present = None if num_train is None else sum(bool(each.num_train or each.num_val) for each in facts.classes)
    leaking = "-" if facts.num_leaking is None else f"{facts.num_leaking} of {num_val}"
    return [
        (audit_words.number(num_train), "train samples"),
        (audit_words.number(num_val), "val samples"),
        (leaking, "val windows share moments with train"),
        (f"{audit_words.number(present)} of {len(facts.classes)}", "classes occur"),
        (str(len(facts.sessions)), "independent sessions" if len(facts.sessions) > 1 else "session"),
        (str(len(facts.recordings)), "recordings"),
        (f"{sum(each.num_frames for each in facts.recordings):,}", "frames"),
    ]


def _timelines(facts: Facts) -> Iterator[Picture]:
    for number, session in enumerate(facts.sessions[:MAX_PICTURES]):
        members = [each for each in facts.recordings if each.session == number]
        if session.start_ms is not None:
            yield audit_pictures.timeline(session, number + 1, members[:MAX_PICTURES])


def _frame_intervals(facts: Facts) -> Picture | None:
    told = [each for each in facts.recordings if len(each.intervals_ms)]
    return audit_pictures.frame_intervals(told[:MAX_PICTURES]) if told else None


def _span_celsius(data: Dataset) -> tuple[float, float]:
    shown = torch.arange(0, len(data.frames), max(1, len(data.frames) // 500))
    low, high = np.percentile(data.frames.gather(shown[None]).numpy(), SHOWN_PERCENTILES)
    return float(low), float(max(high, low + 1))


def _samples(data: Dataset) -> Iterator[Picture]:
    span_celsius = _span_celsius(data)
    timeline = data.source.timeline
    people_at: dict[int, list[Image]] = {}
    for image in data.source.images:
        first = int(timeline.firsts[timeline.index(image.recording)])
        people_at.setdefault(first + image.keyframe, []).append(image)
    for chosen in _chosen(data):
        split, position = chosen.split, chosen.position
        keyframe, first = int(split.keyframes_S[position]), int(split.firsts_S[position])
        asked = None
        if split.tracks is not None:
            row = int(split.tracks.rows_S[position]) + keyframe - first
            asked = (*split.tracks.centers_M2[row].tolist(), *split.tracks.sizes_S2[position].tolist())
        people = [
            Person(
                data.classes[person.label], person.box, asked is None or bool(np.allclose(asked, person.box, atol=1e-4))
            )
            for image in people_at[keyframe]
            for person in image.people
            if person.box is not None
        ]
        recording = timeline.recordings[int(np.searchsorted(timeline.firsts, first))]
        label = " and ".join(data.classes[label] for label in _labels(split, position))
        caption = f"{chosen.side}: {label} ({recording}, frame {keyframe - first})"
        alt = f"Thermal frame of the {caption}; boxes: {', '.join(each.name for each in people) or 'none'}"
        words = (audit_words.printable(alt), audit_words.printable(caption))
        frame_HW = data.frames.gather(torch.tensor([[keyframe]]))[0, 0, 0].numpy()
        yield audit_frames.frame(frame_HW, people, span_celsius, words)


def _chosen(data: Dataset) -> list[_Chosen]:
    """A sample of each class, the rarest first, in turn of val and train; then others, evenly over val."""
    holders: dict[int, list[_Chosen]] = {}
    for side, split in (("val", data.val), ("train", data.train)):
        for position in range(len(split)):
            for label in _labels(split, position):
                holders.setdefault(label, []).append(_Chosen(f"{side} sample", split, position))
    chosen: list[_Chosen] = []
    seen: set[int] = set()

    def take(candidates: Sequence[_Chosen]) -> None:
        for each in candidates:
            keyframe = int(each.split.keyframes_S[each.position])
            if keyframe not in seen:
                seen.add(keyframe)
                chosen.append(each)
                return

    rarest_first = sorted(holders, key=lambda label: len(holders[label]))
    for turn, label in enumerate(rarest_first[:MAX_SAMPLES]):
        candidates = holders[label]
        middle = len(candidates) // 2  # neither the first nor the last of a class: those stand at its edges in time
        candidates = candidates[middle:] + candidates[:middle]
        side = ("val sample", "train sample")[turn % 2]
        take(sorted(candidates, key=lambda each, side=side: each.side != side))
    for position in np.linspace(0, len(data.val) - 1, NUM_SAMPLES).round().astype(int).tolist():
        if len(chosen) < NUM_SAMPLES:
            take([_Chosen("val sample", data.val, position)])
    return chosen


def _labels(split: Split, position: int) -> list[int]:
    label = split.labels_S[position]
    return [int(label)] if label.ndim == 0 else label.nonzero().flatten().tolist()
