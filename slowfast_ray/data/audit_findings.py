"""What a finding is: one thing that is wrong with a dataset, with its numbers, examples and remedy."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Severity = Literal["serious", "warning", "note"]
"""serious: numbers measured on this data mislead. warning: look at it before you trust them. note: good to know."""

MAX_EXAMPLES = 5


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, with what to do about it."""

    key: str
    """Stable name for programs: `leak/time`."""
    severity: Severity
    title: str
    """One sentence for people, with the numbers in it."""
    count: int
    """How many it concerns."""
    total: int
    """Of how many."""
    examples: tuple[str, ...]
    """The first few, by name."""
    remedy: str

    @staticmethod
    def of(names: Sequence[str], *, key: str, severity: Severity, title: str, total: int, remedy: str) -> "Finding":
        """A finding about what `names` lists: they are counted, and the first few are its examples."""
        return Finding(key, severity, title, len(names), total, tuple(names[:MAX_EXAMPLES]), remedy)


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Sorted by severity; equally severe ones stay in their order."""
    return tuple(sorted(findings, key=lambda finding: get_args(Severity).index(finding.severity)))
