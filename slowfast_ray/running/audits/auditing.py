"""An audit with what needs no network beside it, and its JSON for programs.

What is wrong with a dataset is found in data/audit.py; audit_terminal.py and audit_page.py show it to people; here it
gets the baselines that a network has to beat. docs/reading_the_audit.md explains every finding and every key.
"""

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from slowfast_ray.data import audit, dataset, source
from slowfast_ray.data.audit import Audit
from slowfast_ray.data.audit_facts import Facts
from slowfast_ray.data.audit_findings import Severity
from slowfast_ray.data.config import DataConfig
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.learning.intervals import Interval
from slowfast_ray.running import scores
from slowfast_ray.running.folders import storage
from slowfast_ray.running.scores import Score

FORMAT = 1
"""Of the JSON: raised when a key goes or changes its meaning, not when one comes."""

SEVERITIES: tuple[Severity, ...] = get_args(Severity)


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
    return Report(found, data, scores.of_baselines(data.config))


def check_files(json_file: Path | None, html_file: Path | None) -> None:
    """Raises FileExistsError or ValueError unless both, where they are named, can become new files."""
    if json_file is not None and html_file is not None and json_file.resolve() == html_file.resolve():
        raise ValueError(f"`json` and `html` are one file (={json_file}); name two.")
    for flag, path in (("json", json_file), ("html", html_file)):
        if path is None:
            continue
        if path.exists() or path.is_symlink():
            raise FileExistsError(f"`{flag}` (={path}) exists, and nothing is overwritten; name another file.")
        storage.check_place(path, flag)


def write_new(path: Path, text: str) -> None:
    """Writes a file that must not exist. Raises FileExistsError where it came to be since it was checked."""
    with path.open("x", encoding="utf-8", errors="replace") as file:  # JSON can hold half a character, UTF-8 cannot
        file.write(text)


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
