"""What happens in whole recordings, second by second, as a trained model sees it?

Run       python experiments/predict_thermal.py models:/slowfast-thermal@champion RECORDING.h5 [FOLDER ...]
Laptop    python experiments/predict_thermal.py MODEL_FOLDER RECORDING.h5 --annotations DATASET_FOLDER
Cost      5 seconds of CPU time and 0.4 for each recording of 85 s, picture included, by a model of quarter width
          (AMD EPYC core)
Expected  a quarter-width model of 12 epochs on the provided split has 0.73 of the 387 annotated keyframes of the real
          dataset right (n = 1 run; most of them trained it, so that this says nothing of new recordings)

A model of people (data.labels person) needs --annotations for their boxes. Where RAY_ADDRESS names a cluster, or many
recordings take long, they are predicted side by side through Ray. Ends with code 1 where a recording, or its picture,
failed; the others are written.
"""

from pathlib import Path

from rich.console import Console

from slowfast_ray.running import commands
from slowfast_ray.running.flags import PredictFlags
from slowfast_ray.running.predictions import prediction_files, prediction_plan, prediction_run, prediction_view
from slowfast_ray.running.predictions.prediction_plan import Plan
from slowfast_ray.running.predictions.prediction_run import Done
from slowfast_ray.running.preflight import RefusedError

EXIT_FAILED = 1
"""Of a prediction that lacks a recording, or a picture of one."""


def main() -> None:
    """Predicts, writes a table and pictures, and sums up."""
    flags = commands.parse_plain(PredictFlags, __doc__ or "")
    with commands.exits_cleanly():
        plan = prediction_plan.check(
            flags.model,
            flags.recordings,
            every=flags.every,
            smooth=flags.smooth,
            out=flags.out,
            annotations=flags.annotations,
            tracking_uri=flags.tracking_uri,
        )
    found: list[Done] = []
    undrawn: list[str] = []
    with commands.exits_cleanly(RefusedError, interrupted="Interrupted; what was done by then is written."):
        try:
            predict(plan, found, undrawn, verbose=flags.verbose)
        finally:
            # Also after an interruption: what was predicted by then is not lost.
            found.sort(key=lambda each: plan.recordings.index(each.path))
            table = prediction_files.write_table(plan, found, flags.format)
    show(plan, found, table)
    for reason in undrawn:
        print(f"no picture: {reason}")
    if undrawn or any(each.error for each in found):
        raise SystemExit(EXIT_FAILED)


def predict(plan: Plan, found: list[Done], undrawn: list[str], *, verbose: bool) -> None:
    """Adds each recording to `found` as soon as it is done, and draws it; to `undrawn`, why it has no picture."""
    with prediction_view.PredictView(len(plan.recordings), Console()) as view:
        for done in prediction_run.run(plan, verbose=verbose, on_windows=view.windows):
            found.append(done)
            if not done.error:
                try:
                    prediction_files.draw(plan, done)
                except Exception as error:  # the table of all recordings is worth more than a picture of one
                    undrawn.append(f"{done.path.stem}: {type(error).__name__}: {error}")
            view.recording()


def show(plan: Plan, found: list[Done], table: Path | None) -> None:
    """What was found, what makes it worth less, and what failed."""
    good = [each for each in found if not each.error]
    if good:
        Console().print(prediction_view.summary(good))
    print(f"Model          {plan.name}: {plan.description.trained_as}")
    if any(each.is_right for each in good):
        print(f"Keyframes      {prediction_view.share_right(good)} right, 95 % interval")
    for warning in prediction_view.warnings(plan, good):
        print(f"warning: {warning}")
    if table is not None:
        print(f"Written to     {table}, and a picture of each recording beside it")
    for each in found:
        if each.error:
            print(f"failed: {each.path.stem}: {each.error}")


if __name__ == "__main__":
    main()
