"""Which learning rate, batch size, clip length and frame interval suit the thermal sensor?

Run       python experiments/tune_thermal.py --data.root PATH
Laptop    python experiments/tune_thermal.py --learning.num-epochs 12    (made-up data; about 5 minutes on two cores)
Cost      8 trials of 12 epochs on the real thermal dataset: 8 to 12 minutes on two CPU cores (AMD EPYC); the default of
          30 epochs takes two to three times as long
Expected  best val/top1 0.849 with the recipe before today's (--learning.num-epochs 12 --learning.lr 0.05
          --learning.ema-decay 0 --model.dropout 0.2; seed 0, n = 1 search, 73 clips of the provided split, which leaks:
          see the README)
"""

import rich
from rich.box import SIMPLE_HEAD
from rich.table import Table

from search_spaces.thermal import THERMAL, THERMAL_MS
from slowfast_ray.running import commands, follow_ups, preflight, summary, tuner, worker
from slowfast_ray.running.commands import TuneFlags
from slowfast_ray.running.preflight import Ready
from slowfast_ray.running.trials import SearchResult, best_first, describe_value


def main() -> None:
    """Checks, searches, and says what was found and how to go on."""
    flags = commands.parse(TuneFlags, __doc__ or "")
    with commands.exits_cleanly():
        space = THERMAL if flags.experiment.data.frame_interval_ms is None else THERMAL_MS
        ready = tuner.check(flags.experiment, space, flags.search, name=flags.name)
    if flags.experiment.data.root is None:
        print("No --data.root: searching on the built-in, made-up dataset.")
    summary.opening(ready, flags.search.metric)
    interrupted = "Interrupted; what was done until then is in MLflow."
    with commands.exits_cleanly(preflight.RefusedError, interrupted=interrupted):
        result = tuner.search(ready, space, flags.search, verbose=flags.verbose)
    show(result, ready, flags)
    if result.interrupted:
        raise SystemExit(commands.EXIT_INTERRUPTED)
    if result.best is None:
        raise SystemExit(1)


def show(result: SearchResult, ready: Ready, flags: TuneFlags) -> None:
    """The best trials as a table, where the best checkpoint is, and the commands that go on from here."""
    print(f"\n{flags.name}: {len(result.trials)} trials in {result.seconds / 60:.1f} min")
    print(f"{flags.search.metric} on {len(ready.data.val)} samples, with 95 % intervals where it has one:")
    # Narrow padding: 80 columns must hold it, since a table that is too wide loses its last columns.
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    metric = flags.search.metric
    for column in ("#", "state", "at its best", "epoch", "last"):
        table.add_column(column, no_wrap=True)
    searched = best_first(result.trials, metric)[:10]
    for name in searched[0].sample if searched else ():
        words = name.split(".")[1].replace("_", " ")
        shown = [describe_value(trial.sample[name]) for trial in searched]
        # Wide enough for its values and its longest word: broken between words, never cut.
        table.add_column(words, overflow="fold", min_width=max(map(len, [*words.split(), *shown])))
    for trial in searched:
        score, epoch, last = "-", "0", "-"
        if trial.row is not None:
            score = summary.best_of(ready, metric, trial.name, trial.row).split(" n=")[0]
            last = f"{trial.row[metric]:.2f}"
            epoch = f"{trial.row[worker.BEST_EPOCH]}/{trial.row[worker.EPOCH]}"
        values = map(describe_value, trial.sample.values())
        table.add_row(str(trial.number), trial.state, score, epoch, last, *values)
    rich.print(table)
    if result.interrupted:
        rich.print("The search was interrupted; what was done is in MLflow.")
    if result.best is None or result.best.row is None:
        rich.print("[red]No trial finished an epoch.[/] The runs in MLflow carry their errors as tags.")
    else:
        again = follow_ups.command_again(result.best.experiment, flags.preset, flags.search.metric)
        summary.closing(ready, metric, result.best.name, result.best.row, result.best.experiment)
        print(f"Checkpoint:       {result.best.row[worker.CHECKPOINT]}")
        print(f"Train it again:   {again}")
    if result.num_unsent:
        print(f"MLflow lacks {result.num_unsent} entries; every trial's progress.json in {flags.name} has its metrics.")
    print(f"Compare trials:   {follow_ups.mlflow_command(result.tracking_uri)}")


if __name__ == "__main__":
    main()
