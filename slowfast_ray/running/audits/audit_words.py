"""The words that an audit's report on the terminal and its page have in common."""

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import numpy as np

from slowfast_ray.data.audit_facts import Facts, RecordingFacts
from slowfast_ray.learning import counts
from slowfast_ray.learning.intervals import Interval
from slowfast_ray.running.audits.auditing import Report
from slowfast_ray.running.scores import Score

MEANINGS: Mapping[str, str] = {
    "majority": "the class that most training samples carry, always",
    "nearest_in_time": "the label of the training sample nearest by the clock, in the same session",
    "nearest_in_frames": "the label of the training sample the fewest frames away, in the same recording",
    "mean_frame_regression": "logistic regression on every pixel's mean over the clip: no motion",
}
"""What each baseline predicts, for people."""


def printable(text: str) -> str:
    """`text` on one line and without what steers a terminal: names and ids are anybody's."""
    return "".join(each if each.isprintable() else "?" for each in text)


def number(value: int | None) -> str:
    """For people: a dash where it is unknown."""
    return "-" if value is None else str(value)


def percent(interval: Interval) -> str:
    """For people: `50.68 [39.5, 61.8]`, in percent."""
    low, high = ("?" if math.isnan(bound) else f"{100 * bound:.1f}" for bound in (interval.low, interval.high))
    return f"{100 * interval.value:.2f} [{low}, {high}]"


def plural(number: int, word: str) -> str:
    """For people: `1 warning`, `2 warnings`, `2 serious`."""
    return f"{number} {word}" + ("" if number == 1 or word.endswith("s") else "s")


def metrics_of(found: Iterable[Score]) -> list[str]:
    """The metrics that any of the scores has, in the order in which they are usually read."""
    present = {metric for score in found for metric in score.intervals}
    return [metric for metric in counts.HIGHER_IS_BETTER if metric in present]


def when(time_ms: int | None) -> str:
    """A moment for people: `2025-10-14 22:50:47` UTC; a dash where it is unknown, the number where it is no date."""
    if time_ms is None:
        return "-"
    try:
        return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return f"{time_ms} ms"


def intervals_of(recording: RecordingFacts) -> str:
    """Shortest, median and longest time between frames, for people: `8 / 167 / 2633`."""
    if not len(recording.intervals_ms):
        return "-"
    shortest, longest = recording.intervals_ms.min(), recording.intervals_ms.max()
    return f"{shortest} / {np.median(recording.intervals_ms):.0f} / {longest}"


def num_samples(facts: Facts) -> tuple[int, int] | tuple[None, None]:
    """How many samples train, and how many validate; None and None where the dataset is refused."""
    if facts.refusal is not None:
        return None, None
    return sum(each.num_train or 0 for each in facts.sessions), sum(each.num_val or 0 for each in facts.sessions)


def headline(found: Report) -> str:
    """One line: what there is, or why it cannot be used."""
    facts = found.audit.facts
    if facts.refusal is not None:
        return f"Refused: {facts.refusal}"
    num_train, num_val = num_samples(facts)
    return (
        f"{num_train} train and {num_val} val samples, split {facts.split_name}, in {len(facts.recordings)} recordings "
        f"of {plural(len(facts.sessions), 'session')}. {facts.num_leaking} of {num_val} val windows share moments with "
        "train windows."
    )
