"""What does one configuration give?

Run       python experiments/train_thermal.py --data.root PATH
Laptop    python experiments/train_thermal.py           (made-up data; half of that)
Cost      8 minutes on the real thermal dataset on one of two busy CPU cores (AMD EPYC)
Expected  val/top1 0.822, at the best epoch and at the last (seeds 0 to 2, 73 clips of the provided split, which leaks;
          on purged stretches 0.63 at the last epoch: docs/recipe.md)

With one worker it trains in this process: a debugger works. --resume goes on after a stop.

    --dry-run               what it would cost in memory and time, measured on a few steps
    --overfit-batches 2     can the network learn two batches by heart? Ends with code 1 where it cannot
    --preset earlier        the recipe of the earlier system: hours on a GPU, so look at its --dry-run first
"""

from pathlib import Path

from slowfast_ray.data import remote
from slowfast_ray.learning import checkpoint
from slowfast_ray.learning.step import DoesNotFitError
from slowfast_ray.running import commands, follow_ups, preflight, summary
from slowfast_ray.running.flags import TrainFlags
from slowfast_ray.running.folders import begun
from slowfast_ray.running.nodes import cluster
from slowfast_ray.running.progress import TrainView
from slowfast_ray.running.refusals import RefusedError
from slowfast_ray.running.training import plan, sanity, trainer, worker
from slowfast_ray.running.training.verdicts import UnfitMachineError


def main() -> None:
    """Checks, trains, and says what came out."""
    flags = commands.parse(TrainFlags, __doc__ or "")
    with commands.exits_cleanly():
        cluster.check_fits(flags.experiment.run, max_concurrent=1)
        ready = preflight.check(flags.experiment, name=flags.name, objective=flags.metric, resume=flags.resume)
    if flags.experiment.data.root is None:
        print("No --data.root: training on the built-in, made-up dataset.")
    summary.opening(ready, flags.metric)
    if flags.dry_run:
        with commands.exits_cleanly(RefusedError), cluster.joined(ready.experiment.run, verbose=flags.verbose):
            plan.show(ready)
        return
    if flags.overfit_batches is not None:
        with commands.exits_cleanly(ValueError, DoesNotFitError):
            is_learnt = sanity.show(ready, flags.overfit_batches)
        raise SystemExit(0 if is_learnt else commands.EXIT_NOT_LEARNT)
    newest = checkpoint.newest(ready.folder)
    view = TrainView(
        flags.name,
        num_epochs=ready.experiment.learning.num_epochs,
        num_epochs_done=0 if newest is None else checkpoint.read_progress(newest).epoch,
        batch_size=ready.experiment.learning.batch_size,
    )
    # What a setting alone brings about is said in one line; anything else is a bug, and keeps its traceback.
    with commands.exits_cleanly(RefusedError, UnfitMachineError, DoesNotFitError, FloatingPointError), view:
        try:
            outcome = trainer.fit(
                ready, flags.metric, resume=flags.resume, verbose=flags.verbose, on_row=view.update, on_step=view.step
            )
        except KeyboardInterrupt:
            has_begun = (ready.folder / begun.BEGUN_AS).exists()
            go_on = f" Go on with the same command, --name {flags.name} and --resume." if has_begun else ""
            print(f"Interrupted.{go_on}")
            raise SystemExit(commands.EXIT_INTERRUPTED) from None
    summary.per_class(ready)
    summary.closing(ready, flags.metric, flags.name, outcome.row, ready.experiment)
    print(f"Checkpoint:    {outcome.row[worker.CHECKPOINT]}")
    if remote.is_url(ready.home.place):
        print(f"To fetch it:   {follow_ups.fetch_command(ready)}")
    else:
        print(f"For others:    {follow_ups.register_command(Path(outcome.row[worker.CHECKPOINT]))}")
    if outcome.num_unsent:
        print(f"MLflow lacks {outcome.num_unsent} entries; once it is back: {follow_ups.sync_command(ready)}")
    print(f"Compare runs:  {follow_ups.mlflow_command(outcome.tracking_uri)}")


if __name__ == "__main__":
    main()
