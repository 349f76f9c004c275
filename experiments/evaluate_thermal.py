"""Where is a checkpoint right, where is it wrong, and how sure is it of both?

Run       python experiments/evaluate_thermal.py runs/NAME --clips 3 --crops 3
Laptop    python experiments/evaluate_thermal.py runs/NAME           (its best epoch; runs/NAME/epoch-012: that one)
Cost      10 seconds on the real thermal dataset on two busy CPU cores (AMD EPYC), 20 with 3 clips and 3 crops
Expected  eval/top1 as in training (one view); on a default run of train_thermal.py 0.82 from one view and from nine
          (seed 0, n = 1 run of the recipe before, 73 clips of the provided split, which leaks: see the README)

Validation samples again, on which the best epoch was chosen: that flatters. A trial of a search is
runs/SEARCH/trial-003.
"""

import math

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from slowfast_ray.learning import counts
from slowfast_ray.running import commands
from slowfast_ray.running.evaluations import evaluating, evaluation_files
from slowfast_ray.running.evaluations.evaluating import Evaluation
from slowfast_ray.running.flags import EvaluateFlags


def main() -> None:
    """Scores, shows, writes, and adds to the run's entry in MLflow."""
    flags = commands.parse_plain(EvaluateFlags, __doc__ or "")
    with commands.exits_cleanly():
        plan = evaluating.check(
            flags.checkpoint, num_clips=flags.clips, num_crops=flags.crops, out=flags.out, root=flags.root
        )
        evaluation = evaluating.score(plan)
        evaluation_files.write(evaluation)
    show(evaluation)
    if flags.track:
        attach(evaluation)


def show(evaluation: Evaluation) -> None:
    """The classes one by one, then the figures with their intervals, then what makes them mislead."""
    plan, data = evaluation.plan, evaluation.data
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(f"class, at epoch {plan.progress.epoch}", overflow="fold")
    for name in ("val samples", "predicted", "recall", "precision", "F1", "AP"):
        table.add_column(name, justify="right")
    for each in evaluation.predictions.per_class(data.classes):
        if each.num_samples or each.num_predicted:
            shares = (each.recall, each.precision, each.f1, each.average_precision)
            shown = ("-" if math.isnan(share) else f"{share:.2f}" for share in shares)
            table.add_row(Text(each.name), str(each.num_samples), str(each.num_predicted), *shown)
    Console().print(table)
    print(
        f"{data.split_name}, {data.config.labels}; {len(plan.views)} view(s) of each sample; best epoch by "
        f"{plan.progress.objective}: {plan.progress.best_epoch}; 95 % intervals"
    )
    for name, value in evaluation.metrics().items():
        if name not in (counts.EVAL_SAMPLES, counts.EVAL_LEAK_SHARE):
            print(f"  {name:22} {evaluation.intervals.get(name, f'{value:.2f}')}")
    for warning in evaluation.warnings():
        print(f"warning: {warning}")
    if evaluation.predictions.is_multi:
        print("Samples can have several labels: mean AP in place of the class mean, and no confusion matrix.")
    print(f"Written to     {plan.out}")


def attach(evaluation: Evaluation) -> None:
    """Says where in MLflow the results are now, or why they are not."""
    try:
        run_id = evaluating.attach(evaluation)
    except ValueError as error:
        print(f"Not in MLflow: {error}")
        return
    if run_id is None:
        print(f"Not in MLflow: it has no entry of {evaluation.plan.run_folder}.")
    else:
        print(f"In MLflow      run {run_id}, artifacts under evaluation/")


if __name__ == "__main__":
    main()
