"""What can be refused is refused here: before Ray starts, before anything is written."""

import json
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from slowfast_ray.data import audit, baselines, dataset
from slowfast_ray.data.audit import Finding
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checkpoint, counts
from slowfast_ray.learning.learner import check_precision
from slowfast_ray.model import pretrained
from slowfast_ray.model.pretrained_report import Report
from slowfast_ray.running import scores, storage, tracking, worker
from slowfast_ray.running.config import SearchConfig
from slowfast_ray.running.scores import Score

BEGUN_AS = "experiment.json"
"""In a run's folder: the experiment that it began as."""
SEARCH = "search.json"
"""In a search's folder: its space and its settings, as it began."""
MEMBERS = "split.json"
"""In a run's folder: which samples train, validate, and were left out."""
WEIGHTS = "weights.json"
"""In MLflow: what was taken of the weights that training started from."""

log = logging.getLogger(__name__)


class RefusedError(ValueError):
    """What can only be refused at the start itself: a folder taken meanwhile, or a cluster that is too small."""


@dataclass(frozen=True)
class Ready:
    """An experiment that can start: paths absolute, classes known, store answering."""

    name: str
    experiment: Experiment
    folder: Path
    """Where this run or search keeps its files; does not exist yet, unless it is resumed."""
    data: Dataset
    findings: tuple[Finding, ...]
    """What the cheap part of the audit found."""
    baselines: tuple[Score, ...]
    """What no network is needed for."""
    weights: Report | None = None
    """What is taken of the weights that training starts from; None from scratch, and where a run goes on."""

    def warnings(self) -> list[str]:
        """What a user should know before they trust the result, and settings that do nothing."""
        experiment = self.experiment
        found = self.data.warnings() + experiment.warnings()
        corrections = [
            f"`{name}` (={value})"
            for name, value, plain in (
                ("data.class_balance", experiment.data.class_balance, 0.0),
                ("learning.class_weights", experiment.learning.class_weights, "none"),
                ("learning.logit_adjustment", experiment.learning.logit_adjustment, 0.0),
            )
            if value != plain
        ]
        if len(corrections) > 1:
            found.append(
                f"{' and '.join(corrections)} correct the same imbalance, together too far: each is computed from the "
                "classes as they come."
            )
        return found

    def texts(self) -> dict[str, str]:
        """By their names, what a run in MLflow keeps of what it began with."""
        texts = {MEMBERS: self.data.members_json()}
        return texts if self.weights is None else {**texts, WEIGHTS: self.weights.to_json()}

    def tags(self) -> dict[str, str]:
        """Of the run itself; a trial's clips may leak otherwise, and have other baselines."""
        return tags_of(self.data, self.baselines)

    def tags_of_trial(self, experiment: Experiment) -> dict[str, str]:
        """Of a trial: without the baselines that its own clips would need."""
        free = tuple(score for score in self.baselines if score.name not in baselines.OF_CLIPS)
        return tags_of(dataset.load(experiment.data), free)


def tags_of(data: Dataset, scored: tuple[Score, ...]) -> dict[str, str]:
    """What a run in MLflow says of its data: only runs with equal fingerprints compare."""
    tags = {
        "split": data.split_name,
        "split_fingerprint": data.fingerprint,
        "dataset_fingerprint": data.source.fingerprint,
        "leak_share": f"{data.leak_share:.4f}",
        "num_sessions": str(data.source.timeline.num_sessions),
        "labels": data.config.labels,
        "num_train": str(len(data.train)),
        "num_val": str(len(data.val)),
    }
    for score in scored:
        for metric, interval in score.intervals.items():
            tags[f"baseline.{score.name}.{metric.split('/')[1]}"] = str(interval)
    return {f"slowfast_ray.{name}": value for name, value in tags.items()}


def check(experiment: Experiment, *, name: str, objective: str, resume: bool = False) -> Ready:
    """Everything that must hold before a run starts. Writes nothing.

    Raises ValueError or OSError with the law, the value, the place and the remedy.
    """
    if objective not in counts.HIGHER_IS_BETTER:
        raise ValueError(f"`metric` (={objective!r}) must be one of {', '.join(counts.HIGHER_IS_BETTER)}.")
    ready = _check(experiment, name=name, objectives=(objective,), resume=resume)
    if resume:
        check_same(ready.experiment, objective, ready.folder, ready.data)
    return ready


def check_search(
    experiment: Experiment,
    *,
    name: str,
    objectives: tuple[str, ...],
    resume: bool,
    anyway: bool,
    widest_window: float,
) -> Ready:
    """The same for a search. `widest_window` is that of its space: leaks are looked for in it as well. `anyway` only
    warns of what is not as the search began.
    """
    ready = _check(experiment, name=name, objectives=objectives, resume=resume, widest_window=widest_window)
    if resume:
        try:
            check_same(ready.experiment, None, ready.folder, ready.data)
        except ValueError as error:
            if not anyway:
                raise ValueError(f"{str(error).rstrip('.')}, or say --resume-anyway.") from error
            log.warning("Going on all the same: %s", error)
    return ready


def _check(
    experiment: Experiment,
    *,
    name: str,
    objectives: tuple[str, ...],
    resume: bool,
    widest_window: float | None = None,
) -> Ready:
    """`widest_window` is given for a search.

    Raises ValueError or OSError with the law, the value, the place and the remedy.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ValueError(f"`name` (={name!r}) becomes a folder: use letters, digits, '.', '_' and '-' only.")
    data = dataset.load(experiment.data)
    experiment = worker.with_classes(experiment, data)
    valid = counts.metrics_for(labels_are_multi=experiment.data.labels == "multi")
    for objective in objectives:
        if objective in counts.HIGHER_IS_BETTER and objective not in valid:
            setting = "metric" if widest_window is None else "search.objectives"
            raise ValueError(
                f"`{setting}` (={objective}) does not exist under `data.labels` (={experiment.data.labels}); choose "
                f"one of {', '.join(valid)}."
            )
    check_against(experiment, data)
    if "://" in experiment.run.storage:
        raise ValueError(f"`run.storage` (={experiment.run.storage}) must be a folder, not a URL; mount it first.")
    storage = Path(experiment.run.storage).expanduser().absolute()
    folder = storage / name
    check_folder(folder, resume=resume, is_search=widest_window is not None)
    uri = tracking.resolve_uri(experiment.run.tracking_uri)
    root = None if experiment.data.root is None else os.fspath(data.root)
    weights = experiment.model.weights
    if weights is not None:
        weights = os.fspath(Path(weights).expanduser().absolute())
    experiment = experiment.override(
        {"data.root": root, "model.weights": weights, "run.storage": os.fspath(storage), "run.tracking_uri": uri}
    )
    tracking.check(uri)
    return Ready(
        name=name,
        experiment=experiment,
        folder=folder,
        data=data,
        findings=audit.of_dataset(data, widest_window),
        baselines=scores.of_baselines(data.config),
        weights=None if checkpoint.newest(folder) else _check_weights(experiment, data),
    )


def _check_weights(experiment: Experiment, data: Dataset) -> Report | None:
    """Reads the weights as training will. Raises ValueError where they do not fit."""
    config = experiment.model
    if config.weights is None:
        return None
    return pretrained.fit(pretrained.read(config.weights), config, data.classes, partial=config.weights_partial).report


def check_against(experiment: Experiment, data: Dataset) -> None:
    """Raises ValueError where the dataset is too small for a batch or for the workers, or the device cannot compute as
    asked; what the machines of a cluster can do is asked there.
    """
    if not os.environ.get("RAY_ADDRESS"):
        check_precision(experiment.learning, "cuda" if torch.cuda.is_available() else "cpu")
    batch_size, num_workers = experiment.learning.batch_size, experiment.run.num_workers
    if batch_size > len(data.train):
        raise ValueError(
            f"`learning.batch_size` (={batch_size}) must not exceed the {len(data.train)} training samples of "
            f"{data.root}; try {min(8, len(data.train))}."
        )
    if num_workers > len(data.val):
        raise ValueError(
            f"`run.num_workers` (={num_workers}) must not exceed the {len(data.val)} validation samples of {data.root}."
        )


def check_same(experiment: Experiment, objective: str | None, folder: Path, data: Dataset) -> None:
    """Raises ValueError where a run would be resumed as another experiment than it began as, or on other data."""
    before = Experiment.from_json((folder / BEGUN_AS).read_text(encoding="utf-8")).flatten()
    now = experiment.flatten()
    newest = checkpoint.newest(folder)
    if newest is not None:
        before["metric"], now["metric"] = checkpoint.read_progress(newest).objective, objective
    # Where a run is written, and how many processes share it, may change; what is learnt may not.
    free = ("run.storage", "run.tracking_uri", "run.num_workers")
    changed = [name for name in now if now[name] != before[name] and name not in free]
    if changed:
        shown = ", ".join(f"`{name}` (={now[name]}, was {before[name]})" for name in changed)
        raise ValueError(
            f"A run is resumed as the experiment that it began as, but {shown} in {folder}; give the same flags, or "
            "another --name."
        )
    for name, value in (("dataset", data.source.fingerprint), ("split", data.fingerprint)):
        began_with = read_fingerprint(folder, name)
        if began_with != value:
            raise ValueError(
                f"The {name} is not the one that the run in {folder} began with: its fingerprint is {value}, but was "
                f"{began_with}; restore the data, or choose another --name."
            )


def split_fingerprint(folder: Path) -> str:
    """Of the split that a run or trial began with; for a trial, its search noted it above. Raises ValueError."""
    above = folder.absolute().parent
    return read_fingerprint(folder if (folder / MEMBERS).is_file() else above, "split")


def read_fingerprint(folder: Path, name: str) -> str:
    """The fingerprint of the `dataset` or the `split` that the run in `folder` began with.

    Raises ValueError where it was not noted.
    """
    try:
        return str(json.loads((folder / MEMBERS).read_text(encoding="utf-8"))[f"{name}_fingerprint"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / MEMBERS} does not say on which samples the run began ({type(error).__name__}); it was written "
            "by another version, or damaged: train again under another --name."
        ) from error


def read_search(folder: Path) -> SearchConfig:
    """The settings that the search in `folder` began with. Raises ValueError where they cannot be read."""
    try:
        return SearchConfig(**json.loads((folder / SEARCH).read_text(encoding="utf-8"))["search"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / SEARCH} does not say how the search began ({error}); it was written by another version, or "
            "damaged: search again under another name."
        ) from error


def check_folder(folder: Path, *, resume: bool, is_search: bool = False) -> None:
    """Raises unless `folder` is free and can be made, or, to resume, holds a run that began."""
    if resume:
        if not (folder / BEGUN_AS).is_file():
            raise ValueError(f"There is nothing to resume: {folder} holds no run; leave out --resume.")
        if (folder / SEARCH).is_file() != is_search:
            holds, other = ("a single run", "train_thermal.py") if is_search else ("a search", "tune_thermal.py")
            raise ValueError(f"{folder} holds {holds}, which {other} resumes; choose another name.")
    elif folder.exists():
        raise ValueError(f"{folder} exists, and nothing is overwritten; choose another --name.")
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    storage.check_writable(existing, "run.storage")


def claim(ready: Ready, search: str | None = None) -> None:
    """Makes the folder of a new run, or search, as the one thing that two runs of one name cannot both do.

    Raises RefusedError where another run was faster.
    """
    try:
        ready.folder.mkdir(parents=True)
    except FileExistsError:
        raise RefusedError(f"{ready.folder} was taken by another run just now; choose another --name.") from None
    (ready.folder / MEMBERS).write_text(ready.data.members_json(), encoding="utf-8")
    if search is not None:
        (ready.folder / SEARCH).write_text(search, encoding="utf-8")
    # Last: where it stands, a run began, and can be resumed.
    (ready.folder / BEGUN_AS).write_text(ready.experiment.to_json(), encoding="utf-8")
