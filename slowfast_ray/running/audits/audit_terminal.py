"""An audit's report on the terminal: findings, the worst first; what the dataset holds; what a network has to beat."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from slowfast_ray.data.audit_facts import Facts
from slowfast_ray.data.audit_findings import MAX_EXAMPLES
from slowfast_ray.running.audits import audit_words
from slowfast_ray.running.audits.auditing import SEVERITIES, Report
from slowfast_ray.running.summary import COLORS


def show(found: Report, console: Console) -> None:
    """The report for people: findings, the worst first; what the dataset holds; what a network has to beat."""
    facts = found.audit.facts
    _say(console, f"\nAudit of {found.audit.root}", "bold")
    _say(console, audit_words.headline(found))
    _say(
        console,
        f"Findings: {', '.join(audit_words.plural(number, name) for name, number in found.num_findings().items())}.",
    )
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


def _show_facts(facts: Facts, console: Console) -> None:
    sessions = _table("session", "from (UTC)", "to", "train", "val", "dropped")
    for position, each in enumerate(facts.sessions, start=1):
        numbers = map(audit_words.number, (each.num_train, each.num_val, each.num_dropped))
        times = audit_words.when(each.start_ms), audit_words.when(each.end_ms)
        _add_row(sessions, f"{position}  {each.name}", *times, *numbers)
    _say(console, f"\nSessions: {len(facts.sessions)}", "bold")
    console.print(sessions)

    recordings = _table("recording", "session", "frames", "dead pixels", "in frames", "ms between frames")
    for each in facts.recordings:
        dead = f"{100 * each.dead_share:.2f} %" if each.num_dead_frames else "none"
        numbers = str(each.session + 1), str(each.num_frames), dead, str(each.num_dead_frames)
        _add_row(recordings, each.id, *numbers, audit_words.intervals_of(each))
    _say(console, "Recordings (dead pixels: share of all values; ms between frames: least / median / most)", "bold")
    console.print(recordings)

    policies = _table("labels", "ties", "train", "val", "conflicts", "tied", "dropped")
    for each in facts.policies:
        numbers = (each.num_train, each.num_val, each.num_conflicts, each.num_ties, each.num_dropped)
        row = map(audit_words.number, numbers) if each.refusal is None else ("refused", *["-"] * 4)
        _add_row(policies, each.labels, each.ties or "-", *row)
    _say(console, "Label policies (conflicts: keyframes whose people carry different labels)", "bold")
    console.print(policies)

    classes = _table("class", "train", "val", "people in train", "people in val")
    for each in facts.classes:
        numbers = (each.num_train, each.num_val, each.num_train_people, each.num_val_people)
        _add_row(classes, each.name, *map(audit_words.number, numbers))
    _say(console, f"Classes: {len(facts.classes)}", "bold")
    console.print(classes)


def _show_scores(found: Report, console: Console) -> None:
    metrics = audit_words.metrics_of(found.scores)
    table = _table("without a network", *(f"{metric} %" for metric in metrics))
    for score in found.scores:
        shown = (audit_words.percent(score.intervals[name]) if name in score.intervals else "-" for name in metrics)
        _add_row(table, score.name, *shown)
    num_samples = next(iter(found.scores[0].intervals.values())).num_samples
    _say(console, f"What a network has to beat on {num_samples} val samples, with intervals at 95 %", "bold")
    console.print(table)
    for score in found.scores:
        _say(console, f"  {score.name}: {audit_words.MEANINGS[score.name]}", "dim")


def _add_row(table: Table, *cells: str) -> None:
    """A row in which nothing is markup."""
    table.add_row(*(Text(audit_words.printable(cell)) for cell in cells))


def _table(first: str, *numbers: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold")  # broken, never cut
    for name in numbers:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _say(console: Console, line: str, style: str = "") -> None:
    """A line that no width breaks, and in which nothing is markup."""
    blank = "\n" * line.startswith("\n")
    console.print(Text(blank + audit_words.printable(line.removeprefix("\n")), style=style), soft_wrap=True)
