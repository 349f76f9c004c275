"""A model card in Markdown: what a model is, what it can and cannot do, and how one knows (Mitchell et al. 2019, doi
10.1145/3287560.3287596).

Every figure is computed from the predictions that are saved with the checkpoint; every limit is one that the data show.
"""

import math
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from slowfast_ray.data.config import DataConfig
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.experiment import OF_THE_PLACE, Experiment
from slowfast_ray.learning import counts
from slowfast_ray.learning.predictions import Predictions
from slowfast_ray.running import scores
from slowfast_ray.running.publishing.model_choice import Choice
from slowfast_ray.running.publishing.model_folder import Description
from slowfast_ray.running.scores import Score

FEW_BLOCKS = 10
"""Stretches of time, from which on bootstrap intervals are too narrow."""
_POLICIES = {
    "majority": "what most people of a keyframe do; ties by `data.ties`",
    "person": "each person is a sample, in a crop around their box",
    "multi": "all that the people of a keyframe do, several at once",
}
_LEFT_OUT = ({*OF_THE_PLACE} - {"run.num_workers"}) | {"data.root", "model.weights"}
"""Paths and addresses of the machines that trained."""
_BOXES = (
    "Boxes are centre x, y, width, height as fractions of the frame, one for each frame [clips, frames, 4]: the crop "
    "follows their centres in the size of the middle one, as in the evaluation above. One for a clip [clips, 4] keeps "
    "it still, of which the figures say nothing. Whole recordings need predict_thermal.py --annotations."
)
_PACKAGES = ("slowfast-ray", "torch", "pytorchvideo", "numpy", "scipy", "mlflow")


def of(
    name: str,
    described: Description,
    chosen: Choice,
    experiment: Experiment,
    data: Dataset,
    predictions: Predictions,
    baselines: tuple[Score, ...],
) -> str:
    """The card of a model that is registered as `name`. `predictions` are those of its checkpoint for the validation
    samples of `data`; `baselines` need no network.
    """
    parts = (
        _what_it_is(name, described, experiment),
        _data(data),
        _figures(chosen, data, predictions, baselines),
        _per_class(data, predictions),
        _limits(chosen, experiment, data, predictions, baselines),
        _calling(name, experiment),
        _preprocessing(described, experiment.data),
        _recipe(experiment),
        _versions(experiment),
    )
    return "\n\n".join(parts) + "\n"


def _what_it_is(name: str, described: Description, experiment: Experiment) -> str:
    model, config = experiment.model, experiment.data
    what = (
        "what a person in a thermal recording does" if config.labels == "person" else "what happens in a thermal clip"
    )
    return f"""# {name}: {described.trained_as}

A SlowFast network (depth {model.depth}, width {model.width:g}, alpha {model.alpha}) that says {what}: one of \
{len(described.classes)} classes{", several at once" if config.labels == "multi" else ""}.

Intended use: recordings like those that it was trained on, from the same sensor and the same kind of place. Its \
figures below hold for those alone. It is no basis for decisions about people that nobody checks."""


def _data(data: Dataset) -> str:
    source, timeline = data.source, data.source.timeline
    height, width = data.frames.size_HW
    return f"""## Data

{
        _table(
            ("", ""),
            [
                ("dataset fingerprint", f"`{source.fingerprint}`"),
                ("split", data.split_name),
                ("split fingerprint", f"`{data.fingerprint}`"),
                ("labels", f"{data.config.labels}: {_POLICIES[data.config.labels]}"),
                ("training samples", len(data.train)),
                ("left out of training, as too close to validation", len(data.dropped_ids)),
                ("validation samples", len(data.val)),
                ("recordings, sessions", f"{len(timeline.recordings)}, {timeline.num_sessions}"),
                ("frames", f"{len(data.frames)} of {height} x {width} pixels"),
            ],
        )
    }"""


def _figures(chosen: Choice, data: Dataset, predictions: Predictions, baselines: tuple[Score, ...]) -> str:
    mine = scores.of_predictions("this model", predictions, data.val)
    metrics = list(mine.intervals)
    rows = [
        (score.name, *(str(score.intervals[metric]) if metric in score.intervals else "" for metric in metrics))
        for score in (mine, *baselines)
    ]
    lifts = []
    for metric in metrics:
        best = scores.best_baseline(baselines, metric)
        lifts.append(
            "" if best is None else f"{mine.intervals[metric].value - best.intervals[metric].value:+.2f} ({best.name})"
        )
    rows.append(("lift over the best without a network", *lifts))
    return f"""## Figures

On the {len(data.val)} validation samples, at epoch {chosen.epoch}; the loss is {
        predictions.metrics()[counts.VAL_LOSS]:.3f}. Value and 95 % interval: top-1 and top-5 Wilson's, class means \
by a bootstrap over stretches of time.

{_table(("", *metrics), rows)}

Leaks: {data.leak_share:.0%} of the validation clips span a moment that a training clip spans."""


def _per_class(data: Dataset, predictions: Predictions) -> str:
    num_train_K = data.train.num_per_class_K(len(data.classes)).tolist()
    rows = [
        (each.name, num_train, each.num_samples, *map(_share, (each.recall, each.precision, each.f1)),
         _share(each.average_precision))
        for each, num_train in zip(predictions.per_class(data.classes), num_train_K, strict=True)
    ]  # fmt: skip
    return "## Classes\n\n" + _table(("class", "training", "validation", "recall", "precision", "F1", "AP"), rows)


def _limits(
    chosen: Choice, experiment: Experiment, data: Dataset, predictions: Predictions, baselines: tuple[Score, ...]
) -> str:
    timeline, num_blocks = data.source.timeline, len(np.unique(data.val.blocks_S))
    num_val_K = data.val.num_per_class_K(len(data.classes)).tolist()
    num_train_K = data.train.num_per_class_K(len(data.classes)).tolist()
    untrained = [name for name, number in zip(data.classes, num_train_K, strict=True) if not number]
    untested = [name for name, number in zip(data.classes, num_val_K, strict=True) if not number]
    found = [
        *not_above(predictions, data, baselines),
        f"All data come from {timeline.num_sessions} session(s) of {len(timeline.recordings)} recording(s) with frames "
        "of one size: what the model does with another sensor, room or time of year was not measured.",
        f"The epoch is the best of {chosen.num_epochs} by {chosen.objective} on these same samples, which flatters the "
        "figures."
        if chosen.is_best and chosen.num_epochs > 1
        else "",
        f"The run is one of {chosen.num_trials} trials of a search, which compared them on these same samples: that "
        "flatters the figures further."
        if chosen.num_trials
        else "",
        "It was trained on its validation samples (data.split all): its figures say nothing."
        if experiment.data.split == "all"
        else "",
        f"The split leaks ({data.leak_share:.0%}): the figures say little of new recordings."
        if data.leak_share and experiment.data.split != "all"
        else "",
        f"Never trained, so that they are never to be expected: {', '.join(untrained)}." if untrained else "",
        f"Without a validation sample, so that nothing is known of them: {', '.join(untested)}." if untested else "",
        f"The validation samples lie in {num_blocks} stretch(es) of time: so few make the intervals of class means too "
        "narrow."
        if num_blocks <= FEW_BLOCKS
        else "",
        "What is none of its classes gets one of them all the same."
        if experiment.data.labels != "multi"
        else "",
    ]  # fmt: skip
    return "## Limits\n\n" + "\n".join(f"- {each}" for each in found if each)


def not_above(predictions: Predictions, data: Dataset, baselines: tuple[Score, ...]) -> list[str]:
    """A sentence for each metric by which a prediction without a network is as good as the model, or better."""
    found = []
    for metric, interval in scores.of_predictions("", predictions, data.val).intervals.items():
        best = scores.best_baseline(baselines, metric)
        if best is not None and best.intervals[metric].value >= interval.value:
            found.append(
                f"By {metric} it is no better than {best.name}, which needs no network: {interval} against "
                f"{best.intervals[metric]}."
            )
    return found


def _calling(name: str, experiment: Experiment) -> str:
    more = ""
    if experiment.data.frame_interval_ms is not None:
        more += ', "timestamps": times_NT'
    recordings, boxes = 'model.predict("recording.h5")  # windows over a whole recording\n', ""
    if experiment.data.labels == "person":
        more += ', "boxes": boxes_NT4'
        recordings, boxes = "", f"\n{_BOXES}\n"
    clips = f'{{"frames": frames_NTHW{more}}}' if more else "frames_NTHW"
    return f"""## Calling it

```python
import mlflow

model = mlflow.pyfunc.load_model("models:/{name}@champion")
model.predict({clips})  # degrees Celsius [clips, frames, height, width], the moment in question in the middle
{recordings}```
{boxes}
A table comes back, a row a clip: class, probability, top3, top3_probabilities, probabilities (of every class), note \
(what was padded, repaired or resized). Over HTTP, from `mlflow models serve`, the same as JSON: \
`{{"inputs": {{"frames": [...]}}}}`; paths are refused there."""


def _preprocessing(described: Description, config: DataConfig) -> str:
    step = (
        f"{config.frame_interval} frames apart"
        if config.frame_interval_ms is None
        else f"those nearest to steps of {config.frame_interval_ms:g} ms"
    )
    crop = ", around the person in question" if config.labels == "person" else ""
    return f"""## What happens to a recording

A dead pixel takes its value from the nearest frame where it is alive. Frames of another size than \
{described.frame_height} x {described.frame_width} are resized to it. A clip is {config.clip_len} frames, {step}, with \
its moment in the middle; at an end of the recording the outermost frame is repeated. Temperatures from \
{config.min_celsius:g} to {config.max_celsius:g} degrees Celsius become 0 to 1, colder and warmer ones are clipped; \
then they are normalised, and the clip is resized to {config.height} x {config.width}{crop}."""


def _recipe(experiment: Experiment) -> str:
    flat = experiment.flatten()
    rows = [(f"`{name}`", value) for name, value in flat.items() if name not in _LEFT_OUT]
    return "## Training\n\n" + _table(("setting", "value"), rows)


def _versions(experiment: Experiment) -> str:
    weights = experiment.model.weights
    licence = (
        "The weights were trained from scratch on the data above."
        if weights is None
        else f"Training started from `{Path(weights).name}`: the licence of those weights holds for these as well, and "
        "is not known here."
    )
    rows = [("Python", platform.python_version()), *((name, version(name)) for name in _PACKAGES)]
    return f"## Versions and licence\n\n{_table(('registered with', ''), rows)}\n\n{licence}"


def _table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
