"""What the terminal says before the first epoch and after the last: whether the data can be trusted, and what the best
figure is worth.
"""

import math

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from slowfast_ray.data import dataset
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checkpoint
from slowfast_ray.learning.intervals import Interval
from slowfast_ray.running import follow_ups, scores
from slowfast_ray.running.preflight import Ready
from slowfast_ray.running.training import worker
from slowfast_ray.running.training.worker import Row

COLORS = {"serious": "bold red", "warning": "yellow", "note": "dim"}


def opening(ready: Ready, metric: str) -> None:
    """The dataset in one line, what is taken of pretrained weights, serious findings of the audit in one short block,
    and what must be beaten.
    """
    console = Console()
    _say(console, f"{ready.data.summary()}.")
    for line in () if ready.weights is None else ready.weights.lines():
        _say(console, line, COLORS["note"])
    for warning in ready.warnings():
        _say(console, f"warning: {warning}", COLORS["warning"])
    # Classes that never train are among the warnings, by name.
    serious = [each for each in ready.findings if each.severity == "serious" and each.key != "class/untrained"]
    for finding in serious:
        _say(console, f"serious: {finding.title} {finding.remedy}", COLORS["serious"])
    others = [each for each in ready.findings if each.severity != "serious"]
    if others:
        command = follow_ups.audit_command(ready.experiment.data)
        _say(console, f"{len(others)} lesser finding(s); all of them: {command}", COLORS["note"])
    scored = [f"{each.name} {each.intervals[metric]}" for each in ready.baselines if metric in each.intervals]
    if scored:
        _say(console, f"To beat without a network, {metric}: {'; '.join(scored)}.")


def closing(ready: Ready, metric: str, name: str, row: Row, experiment: Experiment) -> None:
    """What the best epoch of a run scores, with its interval, beside its last epoch and the best trivial baseline.

    `experiment` is that of the run or trial: with its clips, baselines and leaks are others than at a search's start.
    """
    console = Console()
    data = dataset.load(experiment.data)
    found = _interval(ready, metric, name)
    _say(
        console,
        f"Best {metric}: {_shown(found, row)} by {name}, at its best epoch ({row[worker.BEST_EPOCH]} of "
        f"{row[worker.EPOCH]}); {row[metric]:.2f} at its last",
    )
    baseline = scores.best_baseline(scores.of_baselines(experiment.data), metric)
    if baseline is not None and found is not None:
        against = baseline.intervals[metric]
        lift = round(found.value, 2) - round(against.value, 2)  # of the figures as they are shown
        _say(console, f"Best without a network: {against} by {baseline.name}; lift {lift:+.2f}")
    if data.leak_share:
        _say(console, f"{data.leak_share:.0%} of these samples leak: the figures say little of new recordings.")


def per_class(ready: Ready) -> None:
    """A table of the best epoch of a run: each class that occurs or was predicted."""
    best = checkpoint.best(ready.folder)
    assert best is not None, "a finished run has saved an epoch"
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("class, at the best epoch", overflow="fold")
    for name in ("val samples", "predicted", "recall", "precision", "AP"):
        table.add_column(name, justify="right")
    for each in checkpoint.read_predictions(best).per_class(ready.data.classes):
        if each.num_samples or each.num_predicted:
            shares = (each.recall, each.precision, each.average_precision)
            shown = ("-" if math.isnan(share) else f"{share:.2f}" for share in shares)
            table.add_row(Text(each.name), str(each.num_samples), str(each.num_predicted), *shown)
    Console().print(table)


def best_of(ready: Ready, metric: str, name: str, row: Row) -> str:
    """The best value of a run or a trial with its interval, where the metric has one."""
    return _shown(_interval(ready, metric, name), row)


def _shown(found: Interval | None, row: Row) -> str:
    return f"{row[worker.BEST_VALUE]:.4f}" if found is None else str(found)


def _interval(ready: Ready, metric: str, name: str) -> Interval | None:
    best = checkpoint.best(ready.folder if name == ready.name else ready.folder / name)
    return None if best is None else scores.of_checkpoint(name, best, ready.data).intervals.get(metric)


def _say(console: Console, line: str, style: str = "") -> None:
    console.print(Text(line, style=style), soft_wrap=True)
