"""What an earlier search in the same MLflow store has found, for a study that begins with it.

Only trials that a search like this one could have had are taken: on the same samples of the same data, and with the
same values for all that is not searched now.
"""

import logging

from optuna.trial import FrozenTrial, TrialState, create_trial

from slowfast_ray.experiment import OF_THE_PLACE, Experiment
from slowfast_ray.running.preflight import Ready
from slowfast_ray.running.searching import objectives
from slowfast_ray.running.searching.config import SearchConfig
from slowfast_ray.running.searching.search_space import Drawable
from slowfast_ray.running.tracking import tracking
from slowfast_ray.running.tracking.tracking import TrackedTrial

log = logging.getLogger(__name__)

FINGERPRINTS = ("slowfast_ray.split_fingerprint", "slowfast_ray.dataset_fingerprint")
FREE = (*OF_THE_PLACE, "run.seed", "model.num_classes", "learning.micro_batch")
"""Fields that may differ: where and over how many processes a trial ran, and what comes from its data."""


def check(ready: Ready, space: Drawable, config: SearchConfig) -> None:
    """Raises ValueError where the earlier search has no trial for this one, and says what stands in the way."""
    if len(config.names) > 1:
        raise ValueError(f"`search.warm_start` (={config.warm_start}) knows a single objective; drop one of the two.")
    found = _trials_of(ready, config)
    reasons = [_obstacle(each, ready, space) for each in found]
    if all(reason is not None for reason in reasons):
        why = next((reason for reason in reasons if reason is not None), "it has no trials")
        raise ValueError(
            f"`search.warm_start` (={config.warm_start}) has no trial that this search could learn of: {why}."
        )


def trials(ready: Ready, space: Drawable, config: SearchConfig) -> list[FrozenTrial]:
    """Finished and pruned trials of the earlier search, in the words of this one's study."""
    found = _trials_of(ready, config)
    usable = [each for each in found if _obstacle(each, ready, space) is None]
    log.warning("%d of %d trials of %s are known from the start.", len(usable), len(found), config.warm_start)
    return [_as_optuna(each, ready, space, config) for each in usable]


def _trials_of(ready: Ready, config: SearchConfig) -> list[TrackedTrial]:
    """The trials of the earlier search; the runs of its finalists, which repeat some of them, are left out."""
    assert config.warm_start is not None
    assert ready.experiment.run.tracking_uri is not None
    found = tracking.trials_of(ready.experiment.run.tracking_uri, config.warm_start, config.metric)
    return [each for each in found if tracking.FINALIST not in each.tags]


def _obstacle(trial: TrackedTrial, ready: Ready, space: Drawable) -> str | None:
    """Why a trial cannot be taken; None where it can."""
    tags = ready.tags()
    for name in FINGERPRINTS:
        if trial.tags.get(name) != tags[name]:
            return f"its {name.split('.')[1].replace('_', ' ')} is {trial.tags.get(name)}, and this one's {tags[name]}"
    if trial.state not in ("finished", "pruned") or not trial.curve:
        return f"{trial.number_name} is {trial.state}"
    own = ready.experiment.flatten()
    for name, value in own.items():
        if name not in space.distributions and name not in FREE and trial.params.get(name) != str(value):
            return f"its `{name}` is {trial.params.get(name)}, and this one's {value}"
    for name, distribution in space.distributions.items():
        if name not in own or name not in trial.params:
            return f"`{name}` is a parameter of this space alone"
        try:
            value = _value_of(trial, name, ready.experiment)
        except ValueError:
            return f"its `{name}` is {trial.params.get(name)}"
        if not distribution._contains(distribution.to_internal_repr(value)):
            return f"its `{name}` (={value}) lies outside this space"
    return None


def _value_of(trial: TrackedTrial, name: str, experiment: Experiment) -> object:
    """A parameter as the value that it was: MLflow keeps text."""
    text = trial.params[name]
    for kind in (int, float):
        try:
            return experiment.override({name: kind(text)}).flatten()[name]
        except ValueError:
            continue
    plain: object = {"None": None, "True": True, "False": False}.get(text, text)
    return experiment.override({name: plain}).flatten()[name]


def _as_optuna(trial: TrackedTrial, ready: Ready, space: Drawable, config: SearchConfig) -> FrozenTrial:
    epochs = sorted(trial.curve)
    history = [{config.metric: trial.curve[epoch]} for epoch in epochs]
    curve = {
        epoch: objectives.value(history[: number + 1], config.metric, smooth_epochs=config.smooth_epochs, num_devices=1)
        for number, epoch in enumerate(epochs)
    }
    return create_trial(
        state=TrialState.COMPLETE if trial.state == "finished" else TrialState.PRUNED,
        value=curve[epochs[-1]],
        params={name: _value_of(trial, name, ready.experiment) for name in space.distributions},
        distributions=dict(space.distributions),
        intermediate_values=curve,
    )
