"""An audit with what needs no network beside it: as a report on the terminal, or as JSON for programs.

What is wrong with a dataset is found in data/audit.py, the page with pictures is made in audit_page.py; here both get
the baselines that a network has to beat. docs/reading_the_audit.md explains every finding and every key.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from slowfast_ray.data import audit, dataset, source
from slowfast_ray.data.audit import Audit
from slowfast_ray.data.audit_facts import Facts, RecordingFacts
from slowfast_ray.data.audit_findings import MAX_EXAMPLES, Severity
from slowfast_ray.data.config import DataConfig
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.learning import counts
from slowfast_ray.learning.intervals import Interval
from slowfast_ray.running import scores, tracking
from slowfast_ray.running.scores import Score
from slowfast_ray.running.summary import COLORS

FORMAT = 1
"""Of the JSON: raised when a key goes or changes its meaning, not when one comes."""

SEVERITIES: tuple[Severity, ...] = get_args(Severity)

MEANINGS: Mapping[str, str] = {
    "majority": "the class that most training samples carry, always",
    "nearest_in_time": "the label of the training sample nearest by the clock, in the same session",
    "nearest_in_frames": "the label of the training sample the fewest frames away, in the same recording",
    "mean_frame_regression": "logistic regression on every pixel's mean over the clip: no motion",
}
"""What each baseline predicts, for people."""


@dataclass(frozen=True)
class Report:
    """All that is said about a dataset."""

    audit: Audit
    data: Dataset | None
    """None where the dataset is refused: then no network could train on it, and nothing is scored."""
    scores: tuple[Score, ...]
    """What needs no network."""

    def num_findings(self) -> dict[Severity, int]:
        """How many of each severity, the worst first."""
        found = Counter(finding.severity for finding in self.audit.findings)
        return {severity: found[severity] for severity in SEVERITIES}

    def to_json(self) -> str:
        """The report for programs, with the keys that docs/reading_the_audit.md lists; what is unknown is null.

        Maps of dead pixels, single intervals and single windows are left to the page.
        """
        content = {
            "format": FORMAT,
            "root": str(self.audit.root),
            "num_findings": self.num_findings(),
            "findings": [asdict(finding) for finding in self.audit.findings],
            "baselines": {
                score.name: {metric: _interval(interval) for metric, interval in score.intervals.items()}
                for score in self.scores
            },
            "facts": _facts(self.audit.facts),
        }
        return json.dumps(content, indent=2, allow_nan=False) + "\n"


def report(config: DataConfig, widest_window: float | None = None) -> Report:
    """Audits the folder that `config` names, and scores the baselines on its split where it can be used.

    `widest_window` is that of a search space [frames; ms with frame_interval_ms]. Raises what audit.of_folder raises.
    """
    found = audit.of_folder(source.locate(config.root), config, widest_window)
    if found.facts.refusal is not None:
        return Report(found, None, ())
    data = dataset.load(replace(config, root=str(found.root)))  # as the audit did: read once
    return Report(found, data, scores.of_baselines(data))


def check_files(json_file: Path | None, html_file: Path | None) -> None:
    """Raises FileExistsError or ValueError unless both, where they are named, can become new files."""
    if json_file is not None and html_file is not None and json_file.absolute() == html_file.absolute():
        raise ValueError(f"`json` and `html` are one file (={json_file}); name two.")
    for flag, path in (("json", json_file), ("html", html_file)):
        if path is None:
            continue
        if path.exists() or path.is_symlink():
            raise FileExistsError(f"`{flag}` (={path}) exists, and nothing is overwritten; name another file.")
        if not path.parent.is_dir():
            raise ValueError(f"`{flag}` (={path}) lies in no folder: {path.parent} is none; make it first.")
        tracking.check_writable(path.parent, flag)


def write_new(path: Path, text: str) -> None:
    """Writes a file that must not exist. Raises FileExistsError where it came to be since it was checked."""
    with path.open("x", encoding="utf-8", errors="replace") as file:  # JSON can hold half a character, UTF-8 cannot
        file.write(text)


def printable(text: str) -> str:
    """`text` on one line and without what steers a terminal: names and ids are anybody's."""
    return "".join(each if each.isprintable() else "?" for each in text)


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


def show(found: Report, console: Console) -> None:
    """The report for people: findings, the worst first; what the dataset holds; what a network has to beat."""
    facts = found.audit.facts
    _say(console, f"\nAudit of {found.audit.root}", "bold")
    _say(console, headline(found))
    _say(console, f"Findings: {', '.join(plural(number, name) for name, number in found.num_findings().items())}.")
    for severity in SEVERITIES:
        findings = [finding for finding in found.audit.findings if finding.severity == severity]
        if findings:
            _say(console, f"\n{severity.upper()} ({len(findings)})", COLORS[severity])
        for finding in findings:
            _say(console, f"  {finding.title}", "bold" if severity == "serious" else "")
            _say(console, f"      {finding.key}: {finding.count} of {finding.total}", "dim")
            if finding.examples:
                more = ", ..." if finding.count > len(finding.examples) == MAX_EXAMPLES else ""
                _say(console, f"      such as {'; '.join(finding.examples)}{more}", "dim")
            _say(console, f"      {finding.remedy}")
    _show_facts(facts, console)
    if found.scores:
        _show_scores(found, console)


def headline(found: Report) -> str:
    """One line: what there is, or why it cannot be used."""
    facts = found.audit.facts
    if facts.refusal is not None:
        return f"Refused: {facts.refusal}"
    num_train, num_val = (sum(getattr(each, name) for each in facts.sessions) for name in ("num_train", "num_val"))
    return (
        f"{num_train} train and {num_val} val samples, split {facts.split_name}, in {len(facts.recordings)} recordings "
        f"of {plural(len(facts.sessions), 'session')}. {facts.num_leaking} of {num_val} val windows share moments with "
        "train windows."
    )


def _show_facts(facts: Facts, console: Console) -> None:
    sessions = _table("session", "from (UTC)", "to", "train", "val", "dropped")
    for each in facts.sessions:
        numbers = map(str, (each.num_train, each.num_val, each.num_dropped))
        sessions.add_row(printable(each.name), when(each.start_ms), when(each.end_ms), *numbers)
    _say(console, f"\nSessions: {len(facts.sessions)}", "bold")
    console.print(sessions)

    recordings = _table("recording", "session", "frames", "dead pixels", "in frames", "ms between frames")
    for each in facts.recordings:
        dead = f"{100 * each.dead_share:.2f} %" if each.num_dead_frames else "none"
        row = (str(each.session + 1), str(each.num_frames), dead, str(each.num_dead_frames), intervals_of(each))
        recordings.add_row(printable(each.id), *row)
    _say(console, "Recordings (dead pixels: share of all values; ms between frames: least / median / most)", "bold")
    console.print(recordings)

    policies = _table("labels", "ties", "train", "val", "conflicts", "tied", "dropped")
    for each in facts.policies:
        numbers = (each.num_train, each.num_val, each.num_conflicts, each.num_ties, each.num_dropped)
        row = map(str, numbers) if each.refusal is None else ("refused", *[""] * 4)
        policies.add_row(each.labels, each.ties or "-", *row)
    _say(console, "Label policies (conflicts: keyframes whose people carry different labels)", "bold")
    console.print(policies)

    classes = _table("class", "train", "val", "people in train", "people in val")
    for each in facts.classes:
        numbers = (each.num_train, each.num_val, each.num_train_people, each.num_val_people)
        classes.add_row(printable(each.name), *map(str, numbers))
    _say(console, f"Classes: {len(facts.classes)}", "bold")
    console.print(classes)


def _show_scores(found: Report, console: Console) -> None:
    metrics = metrics_of(found.scores)
    table = _table("without a network", *(f"{metric} %" for metric in metrics))
    for score in found.scores:
        table.add_row(
            score.name, *(percent(score.intervals[name]) if name in score.intervals else "-" for name in metrics)
        )
    num_samples = next(iter(found.scores[0].intervals.values())).num_samples
    _say(console, f"What a network has to beat on {num_samples} val samples, with intervals at 95 %", "bold")
    console.print(table)
    for score in found.scores:
        _say(console, f"  {score.name}: {MEANINGS[score.name]}", "dim")


def _table(first: str, *numbers: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold")  # broken, never cut
    for name in numbers:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _say(console: Console, line: str, style: str = "") -> None:
    """A line that no width breaks, and in which nothing is markup."""
    blank = "\n" * line.startswith("\n")
    console.print(Text(blank + printable(line.removeprefix("\n")), style=style), soft_wrap=True)


def _interval(interval: Interval) -> dict[str, float | int | None]:
    return {name: None if math.isnan(value) else value for name, value in asdict(interval).items()}


def _facts(facts: Facts) -> dict[str, Any]:
    content = asdict(facts)
    content["shared_frames"] = [
        {"recordings": list(pair), "num_frames": number} for *pair, number in facts.shared_frames
    ]
    for session in content["sessions"]:
        del session["train_windows_ms"], session["val_windows_ms"]
    for recording, each in zip(content["recordings"], facts.recordings, strict=True):
        del recording["dead_HW"]
        del recording["intervals_ms"]
        known = len(each.intervals_ms) > 0
        recording["interval_ms"] = {
            "min": int(each.intervals_ms.min()) if known else None,
            "median": float(np.median(each.intervals_ms)) if known else None,
            "max": int(each.intervals_ms.max()) if known else None,
        }
    return content
