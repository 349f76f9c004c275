"""What the terminal says at the end of a search: what its trials are worth, by their last epochs."""

import math
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from slowfast_ray.data import dataset
from slowfast_ray.learning import checkpoint
from slowfast_ray.learning.intervals import Interval
from slowfast_ray.running import scores
from slowfast_ray.running.charts import search_pictures
from slowfast_ray.running.charts.search_pictures import Line
from slowfast_ray.running.preflight import Ready
from slowfast_ray.running.searching import objectives
from slowfast_ray.running.searching.config import SearchConfig
from slowfast_ray.running.searching.finalists import COLUMNS
from slowfast_ray.running.searching.study import Study
from slowfast_ray.running.searching.trials import Trial
from slowfast_ray.running.searching.winner import Decision


def checkpoint_of(ready: Ready, trial: Trial) -> Path | None:
    """The newest checkpoint of a trial: its objective was measured there, not at its luckiest epoch."""
    return checkpoint.newest(ready.folder / trial.name)


def interval_of(ready: Ready, name: str, trial: Trial, value: float) -> Interval | None:
    """The interval of a trial's value, as wide as that of its newest epoch; None where the metric has none."""
    newest = checkpoint_of(ready, trial)
    if newest is None or not trial.has_value or name == objectives.GPU_SECONDS:
        return None
    return objectives.around(value, scores.of_checkpoint(trial.name, newest, ready.data).intervals.get(name))


def shown_values(ready: Ready, config: SearchConfig, trial: Trial) -> list[str]:
    """Each objective of a trial in a few characters."""
    if not trial.values:
        return ["-"] * len(config.names)
    return [
        f"{value:.4g}" if found is None else str(found).split(" n=")[0]
        for name, value in zip(config.names, trial.values, strict=True)
        for found in (interval_of(ready, name, trial, value),)
    ]


def draw(ready: Ready, config: SearchConfig, study: Study, trials: Sequence[Trial]) -> Path:
    """Draws the search into its folder; gives where."""
    folder = ready.folder / "pictures"
    folder.mkdir(exist_ok=True)
    lines = []
    for trial in trials:
        found = interval_of(ready, config.metric, trial, trial.value)
        lines.append(
            Line(
                number=trial.number,
                ending=trial.state or "stopped",
                sample=trial.sample,
                curve=trial.curve(config),
                value=trial.value,
                low=math.nan if found is None else found.low,
                high=math.nan if found is None else found.high,
                seconds=trial.gpu_seconds,
            )
        )
    if len(config.names) > 1:
        study.optuna.set_metric_names(list(config.names))
    higher = objectives.HIGHER_IS_BETTER[config.metric]
    search_pictures.draw(study.optuna, lines, objective=config.metric, higher_is_better=higher, folder=folder)
    return folder


def finalists(decision: Decision) -> None:
    """Who was trained again, what each kept of its promise, and who wins."""
    console = Console()
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for column in COLUMNS:
        table.add_column(column)
    for row in decision.report.rows():
        table.add_row(*row)
    console.print(table)
    for line in decision.report.lines():
        _say(console, line)
    if decision.num_tied_left_out:
        _say(console, f"{decision.num_tied_left_out} more trials are tied with the last of them, and were left out.")


def closing(ready: Ready, config: SearchConfig, best: Trial) -> None:
    """What the best trial is worth, beside the best that needs no network, and what is doubtful about it."""
    console = Console()
    metric = config.metric
    found = interval_of(ready, metric, best, best.value)
    _say(console, f"Best {metric}: {found or f'{best.value:.4g}'} by {best.name}, after {best.epoch} epochs")
    baseline = scores.best_baseline(scores.of_baselines(best.experiment.data), metric)
    if baseline is not None and found is not None:
        against = baseline.intervals[metric]
        lift = round(found.value, 2) - round(against.value, 2)  # of the figures as they are shown
        _say(console, f"Best without a network: {against} by {baseline.name}; lift {lift:+.2f}")
    if not config.finalists:
        _say(console, "The best of many flatters; --search.finalists 3 trains the best again with other seeds.")
    leak_share = dataset.load(best.experiment.data).leak_share
    if leak_share:
        _say(console, f"{leak_share:.0%} of these samples leak: the figures say little of new recordings.")


def _say(console: Console, line: str) -> None:
    console.print(Text(line), soft_wrap=True)
