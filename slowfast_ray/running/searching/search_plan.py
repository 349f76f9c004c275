"""What a search will do and cost, before it starts: trials, rungs, epochs, disk; and time, where it is measured."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from slowfast_ray.data import dataset
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checkpoint
from slowfast_ray.running.nodes import cluster
from slowfast_ray.running.nodes.slots import Slots
from slowfast_ray.running.preflight import Ready
from slowfast_ray.running.searching import pruning, search_rules, search_space, winner
from slowfast_ray.running.searching.config import SearchConfig
from slowfast_ray.running.searching.search_space import Drawable, Space
from slowfast_ray.running.training import needs, plan, wiring
from slowfast_ray.running.training.measuring import share_of

CHECKPOINTS_A_TRIAL = 4
"""The newest two, the best, and the one that is being written."""


def show(ready: Ready, space: Space, config: SearchConfig, *, measured: bool) -> None:
    """Prints the plan within 80 columns; with `measured`, the time that it takes here, by a few steps of the experiment
    itself.
    """
    console = Console()
    for warning in config.without_effect():
        console.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)
    table = Table(box=SIMPLE_HEAD, show_header=False, pad_edge=False, width=min(80, console.width))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows(ready, search_space.drawable(space), config, measured=measured):
        table.add_row(name, Text(text))
    console.print(table)
    if measured:
        console.print("Nothing was trained that is kept, and nothing was written.", highlight=False)


def rows(ready: Ready, space: Drawable, config: SearchConfig, *, measured: bool) -> list[tuple[str, str]]:
    """The plan, line by line."""
    experiment = ready.experiment
    num_epochs = experiment.learning.num_epochs
    rungs = []
    if config.scheduler == "asha" and len(config.names) == 1:
        rungs = [rung for rung in search_rules.rungs_of(experiment, space, config) if rung < num_epochs]
    endings = search_rules.endings_of(ready)
    num_ended = sum(ending is not None for ending in endings)
    num_left = max(config.num_trials, len(endings)) - num_ended
    own, found = cluster.slots_for(experiment.run, config.max_concurrent)
    total = num_left * expected_epochs(rungs, num_epochs)
    known = f", of which {len(endings)} have begun and {num_ended} have ended" if endings else ""
    lines = [
        (
            "trials",
            f"{config.num_trials} by {config.sampler}, the experiment itself first, for {config.objectives}{known}",
        ),
        ("space", ", ".join(space.distributions)),
        ("machines", str(found)),
        ("slots", own.described(found)),
        ("stopping", _stopping(config, rungs, experiment, space)),
        ("epochs", f"about {total:.0f}, of {num_left * num_epochs} if no trial were stopped early"),
    ]
    if config.finalists:
        num_folds, num_seeds = winner.num_folds(ready), winner.num_seeds(ready, config)
        runs = winner.num_runs(ready, config)
        num_done = sum(checkpoint.path(each, num_epochs).is_dir() for each in ready.folder.glob("finalist-*"))
        lines.append(
            (
                "finalists",
                f"{config.finalists}, tied ones and the experiment itself, over {num_seeds} seed(s) x {num_folds} "
                f"fold(s): about {runs} trainings, {runs * num_epochs} epochs"
                + (f", of which {num_done} trainings are done" if num_done else ""),
            )
        )
        total += max(0, runs - num_done) * num_epochs
    lines.append(
        (
            "disk",
            f"at most about {_disk_bytes(ready, config, own.num_concurrent(found)) / 2**20:.0f} MB of checkpoints in "
            f"{ready.home.place}",
        )
    )
    if measured:
        lines.append(time_row(experiment, total, own))
    return lines


def expected_epochs(rungs: list[int], num_epochs: int) -> float:
    """Of a trial, where each rung lets one in REDUCTION pass."""
    ends = [*rungs, num_epochs]
    share, epochs, before = 1.0, 0.0, 0
    for end in ends:
        epochs += share * (end - before)
        share, before = share / pruning.REDUCTION, end
    return epochs


def _stopping(config: SearchConfig, rungs: list[int], experiment: Experiment, space: Drawable) -> str:
    if len(config.names) > 1 or config.scheduler == "none":
        return "none: every trial trains to its end"
    grace, num_epochs = search_rules.grace_of(experiment, space, config), experiment.learning.num_epochs
    if grace >= num_epochs:
        return f"none: no trial of {num_epochs} epochs is stopped before epoch {grace}"
    if config.scheduler == "median":
        return f"whoever's best is below the median of the finished trials, from epoch {grace} on"
    shown = " and ".join(map(str, rungs))
    return f"at epoch {shown} of {num_epochs}, the best 1 in {pruning.REDUCTION:g} of those so far go on"


def _disk_bytes(ready: Ready, config: SearchConfig, at_once: int) -> float:
    experiment = ready.experiment
    # Weights, the average or the weights that train, and the optimiser's state; two numbers a weight for adamw.
    copies = 1 + (experiment.learning.ema_decay > 0) + (2 if experiment.learning.optimizer == "adamw" else 1)
    each = 4 * copies * needs.cost_of(experiment).num_parameters
    num_kept = max(1, config.finalists) + len(config.names) - 1
    if config.finalists:  # and one of each finalist, ties and the experiment itself among them
        num_kept += 2 * config.finalists + 1 + config.train_winner
    return (num_kept + at_once) * CHECKPOINTS_A_TRIAL * each


def time_row(experiment: Experiment, num_epochs: float, slots: Slots) -> tuple[str, str]:
    """Of the plan: how long so many epochs take here, by a few steps of the experiment; or why that is not measured."""
    device = wiring.device_of(experiment.run)
    reason = plan.why_not_measured(experiment, slots, device)
    if reason:
        return "not measured", reason
    where = "GPU" if device.type == "cuda" else "machine"
    num_bytes = plan.num_bytes_of(experiment, device)
    needed = needs.cost_of(experiment)
    measured = plan.measured_on(experiment, needed, device, num_bytes, slots.cpus_per_worker)
    if measured is None:
        return (
            "does not fit",
            f"not even one clip at a time into this {where}: train_thermal.py --dry-run says what would",
        )
    num_steps = len(dataset.load(experiment.data).train) // experiment.learning.batch_size
    minutes = measured.epoch_seconds(num_steps) * num_epochs / 60
    scaled = "" if measured.num_clips == share_of(experiment) else ", scaled from one clip a step"
    return "time", (
        f"about {minutes:.0f} min of training by the experiment's own settings, one training at a time on this "
        f"{where}{scaled}; others of the space cost more or less"
    )
