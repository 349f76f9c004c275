"""Which learning rate, batch size, clip length and frame interval suit the thermal sensor?

Run       python experiments/tune_thermal.py --data.root PATH
Laptop    python experiments/tune_thermal.py --learning.num-epochs 12    (made-up data; about 3 minutes on two cores)
Go on     python experiments/tune_thermal.py --resume NAME    (after a kill or a crash; more: --search.num-trials 20)
Cost      12 trials of 12 epochs on the real thermal dataset, purged: 6.5 minutes on two CPU cores (AMD EPYC); the
          default of 30 epochs takes two to three times as long; --dry-run measures it here
Expected  docs/search.md
"""

import rich
from rich.box import SIMPLE_HEAD
from rich.table import Table

from search_spaces.thermal import THERMAL, THERMAL_MS
from slowfast_ray.data import remote
from slowfast_ray.running import commands, follow_ups, preflight, summary
from slowfast_ray.running.flags import TuneFlags
from slowfast_ray.running.nodes import cluster
from slowfast_ray.running.preflight import Ready
from slowfast_ray.running.searching import search_plan, search_summary, tuner
from slowfast_ray.running.searching.trials import Trial, best_first, describe_value, is_spent
from slowfast_ray.running.searching.tuner import SearchResult


def main() -> None:
    """Checks, searches, and says what was found and how to go on."""
    flags = commands.parse(TuneFlags, __doc__ or "")
    resume = flags.resume is not None
    with commands.exits_cleanly():
        space = THERMAL if flags.experiment.data.frame_interval_ms is None else THERMAL_MS
        ready = tuner.check(
            flags.experiment, space, flags.search, name=flags.name, resume=resume, anyway=flags.resume_anyway
        )
    if flags.experiment.data.root is None:
        print("No --data.root: searching on the built-in, made-up dataset.")
    summary.opening(ready, flags.search.metric)
    interrupted = f"Interrupted; what was done is kept. Go on: {follow_ups.resume_command(ready)}"
    with (
        commands.exits_cleanly(preflight.RefusedError, interrupted=interrupted),
        cluster.joined(ready.experiment.run, verbose=flags.verbose),
    ):
        search_plan.show(ready, space, flags.search, measured=flags.dry_run)
        if flags.dry_run:
            return
        result = tuner.search(ready, space, flags.search, resume=resume, verbose=flags.verbose)
    show(result, ready, flags)
    if result.interrupted or result.halted:
        raise SystemExit(commands.EXIT_INTERRUPTED)
    if result.best is None:
        raise SystemExit(1)


def show(result: SearchResult, ready: Ready, flags: TuneFlags) -> None:
    """The best trials as a table, what the best is worth, and the commands that go on from here."""
    config = flags.search
    kept = f"{result.kept_bytes / 2**20:.0f} MB of checkpoints kept"
    print(f"\n{flags.name}: {len(result.trials)} trials in {result.seconds / 60:.1f} min, {kept}")
    scale = f"the mean over the last {config.smooth_epochs} epochs" if config.smooth_epochs > 1 else "the last epoch"
    print(f"{config.objectives} on {len(ready.data.val)} samples ({scale}), with 95 % intervals where there is one:")
    rich.print(_table(best_first(result.trials, config.metric)[:10], ready, flags))
    if result.front:
        names = ", ".join(trial.name for trial in result.front)
        print(f"Beaten by none in all of {config.objectives} (Pareto front): {names}")
    if result.halted:
        rich.print(f"[red]The search had to stop:[/] {result.halted}. Mend it, and go on with the command below.")
    if result.interrupted:
        rich.print("The search was interrupted; what was done is kept.")
    if result.best is None:
        rich.print(f"[red]There is no best trial:[/] {result.reason or 'none had completed an epoch'}.")
    else:
        again = follow_ups.command_again(result.best.experiment, flags.preset, config.best_epoch_by)
        if result.decision is not None:
            search_summary.finalists(result.decision)
        elif config.finalists:
            print("No finalists yet: they wait for the last trial; go on with the command below.")
        search_summary.closing(ready, config, result.best)
        print(f"Checkpoint:       {result.checkpoint}")
        print(f"Train it again:   {again}")
        if result.checkpoint is not None:
            print(f"For others:       {follow_ups.register_command(result.checkpoint)}")
    if remote.is_url(ready.home.place):
        print(f"To fetch all:     {follow_ups.fetch_command(ready)}")
    if result.num_unsent:
        print(f"MLflow lacks {result.num_unsent} entries; once it is back: {follow_ups.sync_command(ready)}")
    print(f"Pictures:         {ready.folder / 'pictures' / 'search.html'}")
    is_open = len(result.trials) < config.num_trials or any(trial.state == "stopped" for trial in result.trials)
    more = "" if is_open or result.halted else f" --search.num-trials {2 * config.num_trials}"
    if is_open and config.budget_gpu_hours is not None and is_spent(result.trials, config):
        more += f" --search.budget-gpu-hours {2 * config.budget_gpu_hours:g}"
    print(f"Go on:            {follow_ups.resume_command(ready)}{more}")
    print(f"Compare trials:   {follow_ups.mlflow_command(result.tracking_uri)}")


def _table(trials: list[Trial], ready: Ready, flags: TuneFlags) -> Table:
    # Narrow padding: 80 columns must hold it, since a table that is too wide loses its last columns.
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for column in ("#", "state", *(name.split("/")[1] for name in flags.search.names), "epochs"):
        table.add_column(column, no_wrap=True)
    for name in trials[0].sample if trials else ():
        words = name.split(".")[1].replace("_", " ")
        shown = [describe_value(trial.sample.get(name, "-")) for trial in trials]
        # Wide enough for its values and its longest word: broken between words, never cut.
        table.add_column(words, overflow="fold", min_width=max(map(len, [*words.split(), *shown])))
    for trial in trials:
        values = search_summary.shown_values(ready, flags.search, trial)
        sample = [describe_value(trial.sample.get(name, "-")) for name in trials[0].sample]
        table.add_row(str(trial.number), trial.state, *values, str(trial.epoch), *sample)
    return table


if __name__ == "__main__":
    main()
