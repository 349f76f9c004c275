"""Is this checkpoint good enough for others to use, and is it better than the model that they use now?

Run       python experiments/register_thermal.py runs/NAME
Laptop    the same; a trial of a search is runs/SEARCH/trial-003, one epoch runs/NAME/epoch-012
Cost      7 seconds of one CPU core (AMD EPYC) on the real thermal dataset
Expected  a new version of slowfast-thermal in MLflow, with its model card; the first one becomes the champion, a later
          one where it is better on the same validation samples, beyond chance (running/publishing/promoting.py)

Then      mlflow.pyfunc.load_model("models:/slowfast-thermal@champion").predict("recording.h5")
"""

from slowfast_ray.running import commands
from slowfast_ray.running.flags import RegisterFlags
from slowfast_ray.running.publishing import registering
from slowfast_ray.running.publishing.registering import Plan, Registered
from slowfast_ray.running.tracking import tracking_models


def main() -> None:
    """Judges, registers, and says what came of it."""
    flags = commands.parse_plain(RegisterFlags, __doc__ or "")
    with commands.exits_cleanly():
        plan = registering.check(flags.checkpoint, name=flags.name, root=flags.root, force=flags.force)
        registered = registering.register(plan, force=flags.force)
    show(plan, registered)


def show(plan: Plan, registered: Registered) -> None:
    """Which version it is, how it was decided, and where it is found."""
    made, decision = registered.version, registered.decision
    print(f"{'Registered' if registered.is_new else 'As before':14} {made.uri}: {plan.checkpoint}")
    print(f"Decision       {decision.reason}")
    if decision.replaces:
        print(f"Champion       models:/{made.name}@{tracking_models.CHAMPION} is version {made.number} now")
    if registered.before is not None:
        print(f"Before         version {registered.before.number} is @{tracking_models.PREVIOUS} now")
    for note in registered.notes:
        print(f"warning: {note}")
    print(f"In MLflow      run {made.run_id}, store {plan.uri}")


if __name__ == "__main__":
    main()
