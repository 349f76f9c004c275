"""What a search's run in MLflow says of itself, as Markdown: the question, the command, the answer, links to the best.

Links to runs are written by their folders; whoever writes them to the store puts their pages there.
"""

from collections.abc import Sequence
from urllib.parse import quote

from slowfast_ray.data import dataset
from slowfast_ray.running import follow_ups, scores
from slowfast_ray.running.folders import begun
from slowfast_ray.running.preflight import Ready
from slowfast_ray.running.searching import search_summary
from slowfast_ray.running.searching.config import SearchConfig
from slowfast_ray.running.searching.search_space import Drawable
from slowfast_ray.running.searching.trials import Trial, best_first, describe
from slowfast_ray.running.searching.winner import Decision

MOST_TRIALS = 10
MOST_LETTERS = 7_000
"""MLflow keeps 8000 of a tag, and links to runs grow a little when they are written."""


def opening(ready: Ready, space: Drawable, config: SearchConfig) -> str:
    """The question, and the command that asks it."""
    names = ", ".join(f"`{name}`" for name in space.distributions)
    return (
        f"**Which {names} give the best {config.objectives} on {ready.data.root.name}?** "
        f"Split: {ready.data.split_name}; labels: {ready.data.config.labels}; {len(ready.data.val)} validate.\n\n"
        f"    {begun.first_command(ready.folder)}\n"
    )


def closing(
    ready: Ready, space: Drawable, config: SearchConfig, trials: Sequence[Trial], decision: Decision | None
) -> str:
    """The same with the answer: the best trials with their intervals, what needs no network, what is doubtful."""
    ranked = best_first(trials, config.metric)[:MOST_TRIALS]
    rows = [
        f"| {_link(ready, trial.name, trial.name)} | {trial.state} | "
        f"{' | '.join(search_summary.shown_values(ready, config, trial))} | {trial.epoch} | "
        f"{describe(trial.sample, trial.experiment)} |"
        for trial in ranked
    ]
    columns = ["trial", "state", *config.names, "epochs", "configuration"]
    lines = [
        opening(ready, space, config),
        f"| {' | '.join(columns)} |",
        f"|{' --- |' * len(columns)}",
        *rows,
        "",
        f"{len(trials)} trials; each is worth its mean over the last {config.smooth_epochs} epoch(s); 95 % intervals.",
    ]
    baseline = scores.best_baseline(ready.baselines, config.metric)
    if baseline is not None:
        lines.append(f"Best without a network: {baseline.intervals[config.metric]} ({baseline.name}).")
    if decision is None:
        lines.append("The best of many flatters: no finalists were trained again.")
    leak_share = dataset.load(ready.experiment.data).leak_share
    if leak_share:
        lines.append(f"**{leak_share:.0%} of these samples leak: the figures say little of new recordings.**")
    lines.append(f"\nGo on: `{follow_ups.resume_command(ready)}`")
    if decision is not None:
        lines += ["", "Finalists, trained again with other seeds and on all folds:", ""]
        lines += decision.report.to_markdown().splitlines()
    while len(lines) > 1 and len("\n".join(lines)) > MOST_LETTERS:
        lines.pop()
    return "\n".join(lines)


def _link(ready: Ready, title: str, name: str) -> str:
    return f"[{title}](run:{quote(ready.home.place_of(name))})"
