"""What can be refused is refused here: before Ray starts, before anything is written."""

import logging
import os
import re
import uuid
from dataclasses import dataclass
from pathlib import Path

from slowfast_ray.data import audit, baselines, dataset, remote
from slowfast_ray.data.audit import Finding
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checkpoint, counts
from slowfast_ray.learning.learner import check_precision
from slowfast_ray.model import pretrained
from slowfast_ray.model.pretrained_report import Report
from slowfast_ray.run_config import RunConfig
from slowfast_ray.running import data_facts, scores
from slowfast_ray.running.folders import begun, mirror, sending
from slowfast_ray.running.folders.mirror import Mirror
from slowfast_ray.running.refusals import RefusedError
from slowfast_ray.running.scores import Score
from slowfast_ray.running.tracking import tracking
from slowfast_ray.running.tracking.tracking import InUseError, Tracker
from slowfast_ray.running.training import wiring

WEIGHTS = "weights.json"
"""In MLflow: what was taken of the weights that training started from."""

WORKING_FOLDERS = "/runtime_resources/working_dir_files/"
"""In the path of each folder that Ray unpacks a job's `--working-dir` into."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ready:
    """An experiment that can start: paths absolute, classes known, store answering."""

    name: str
    experiment: Experiment
    home: Mirror
    """Where this run or search keeps its files; does not exist yet, unless it is resumed."""
    data: Dataset
    findings: tuple[Finding, ...]
    """What the cheap part of the audit found."""
    baselines: tuple[Score, ...]
    """What no network is needed for."""
    weights: Report | None = None
    """What is taken of the weights that training starts from; None from scratch, and where a run goes on."""

    @property
    def folder(self) -> Path:
        """Of this machine, where the driver writes."""
        return self.home.folder

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

    def tracker(self) -> Tracker:
        """Tells MLflow of this run, and of what lies below it. Raises RefusedError where another process does."""
        assert self.experiment.run.tracking_uri is not None, "preflight resolved it"
        try:
            return Tracker(self.experiment.run.tracking_uri, self.folder)
        except InUseError as error:
            raise RefusedError(str(error)) from error

    def texts(self) -> dict[str, str]:
        """By their names, what a run in MLflow keeps of what it began with."""
        texts = {begun.MEMBERS: self.data.members_json()}
        return texts if self.weights is None else {**texts, WEIGHTS: self.weights.to_json()}

    def tags(self) -> dict[str, str]:
        """Of the run itself; a trial's clips may leak otherwise, and have other baselines."""
        return data_facts.tags_of(self.data, self.baselines)

    def tags_of_trial(self, experiment: Experiment) -> dict[str, str]:
        """Of a trial: without the baselines that its own clips would need."""
        free = tuple(score for score in self.baselines if score.name not in baselines.OF_CLIPS)
        return data_facts.tags_of(dataset.load(experiment.data), free)


def check(experiment: Experiment, *, name: str, objective: str, resume: bool = False) -> Ready:
    """Everything that must hold before a run starts. Writes nothing.

    Raises ValueError or OSError with the law, the value, the place and the remedy.
    """
    if objective not in counts.HIGHER_IS_BETTER:
        raise ValueError(f"`metric` (={objective!r}) must be one of {', '.join(counts.HIGHER_IS_BETTER)}.")
    ready = _check(experiment, name=name, objectives=(objective,), resume=resume)
    if resume:
        begun.check_same(ready.experiment, objective, ready.folder, ready.data)
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
            begun.check_same(ready.experiment, None, ready.folder, ready.data)
        except ValueError as error:
            if begun.read_fingerprint(ready.folder, "split") != ready.data.fingerprint:
                raise  # on other samples, values do not compare
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
    experiment = wiring.with_classes(experiment, data)
    valid = counts.metrics_for(labels_are_multi=experiment.data.labels == "multi")
    for objective in objectives:
        if objective in counts.HIGHER_IS_BETTER and objective not in valid:
            setting = "metric" if widest_window is None else "search.objectives"
            raise ValueError(
                f"`{setting}` (={objective}) does not exist under `data.labels` (={experiment.data.labels}); choose "
                f"one of {', '.join(valid)}."
            )
    check_against(experiment, data)
    if widest_window is not None and "?" in experiment.run.storage:
        raise ValueError(
            f"`run.storage` (={experiment.run.storage}) must not hold '?', which SQLite takes for its own."
        )
    if "'" in experiment.run.storage and '"' in experiment.run.storage:
        raise ValueError(
            f"`run.storage` (={experiment.run.storage}) must not hold both kinds of quotes: MLflow could not be asked "
            "for its runs."
        )
    _check_outlives_job(experiment.run)
    storage = experiment.run.storage
    if remote.is_url(storage):
        remote.open_url(storage, "run.storage")
        storage = storage.rstrip("/")
    else:
        storage = os.fspath(Path(storage).expanduser().absolute())
    home = mirror.of(storage, name, "driver")
    if resume:
        sending.bring(home)
    begun.check_home(home, resume=resume, is_search=widest_window is not None)
    uri = tracking.resolve_uri(experiment.run.tracking_uri)
    root = experiment.data.root
    if root is not None and not remote.is_url(root):
        root = os.fspath(data.root)
    weights = experiment.model.weights
    if weights is not None and not remote.is_url(weights):
        weights = os.fspath(Path(weights).expanduser().absolute())
    experiment = experiment.override(
        {"data.root": root, "model.weights": weights, "run.storage": storage, "run.tracking_uri": uri}
    )
    tracking.check(uri)
    return Ready(
        name=name,
        experiment=experiment,
        home=home,
        data=data,
        findings=audit.of_dataset(data, widest_window),
        baselines=scores.of_baselines(data.config),
        weights=None if checkpoint.newest(home.folder) else _check_weights(experiment, data),
    )


def _check_outlives_job(run: RunConfig) -> None:
    """Raises ValueError where results would be kept in the working folder of a submitted job, a copy that Ray makes and
    clears away. Wherever the script was called from: a job may go to another folder first.
    """
    goes = "would lie in the working folder of this job, a copy that Ray makes and clears away"
    if not remote.is_url(run.storage) and _is_of_job(Path(run.storage).expanduser()):
        raise ValueError(
            f"`run.storage` (={run.storage}) {goes}; name a folder from / that every machine sees, or a URL "
            f"({' or '.join(remote.SCHEMES)})."
        )
    uri = tracking.resolve_uri(run.tracking_uri)
    if uri.startswith("sqlite:///") and _is_of_job(Path(uri.removeprefix("sqlite:///"))):
        raise ValueError(
            f"`run.tracking_uri` (={run.tracking_uri}): MLflow's database {goes}; name a server, http://host:5000, or "
            "a file from /, sqlite:////home/me/mlflow.db."
        )


def _is_of_job(path: Path) -> bool:
    return WORKING_FOLDERS in os.fspath(path.resolve())


def _check_weights(experiment: Experiment, data: Dataset) -> Report | None:
    """Reads the weights as training will. Raises ValueError where they do not fit."""
    config = wiring.weights_here(experiment.model)
    if config.weights is None:
        return None
    return pretrained.fit(pretrained.read(config.weights), config, data.classes, partial=config.weights_partial).report


def check_against(experiment: Experiment, data: Dataset) -> None:
    """Raises ValueError where the dataset is too small for a batch or for the workers, or the device cannot compute as
    asked; what the machines of a cluster can do is asked there.
    """
    if experiment.run.cluster_address is None:
        check_precision(experiment.learning, wiring.device_of(experiment.run))
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


def claim(ready: Ready, search: str | None = None) -> None:
    """Makes the folder of a new run, or search, as the one thing that two runs of one name cannot both do.

    Raises RefusedError where another run was faster.
    """
    taken = RefusedError(f"{ready.home.place} was taken by another run just now; choose another --name.")
    if ready.home.url and ready.home.exists():
        raise taken
    try:
        ready.folder.mkdir(parents=True)
    except FileExistsError:
        raise taken from None
    (ready.folder / begun.MEMBERS).write_text(ready.data.members_json(), encoding="utf-8")
    if ready.home.url:
        (ready.folder / begun.IDENTITY).write_text(uuid.uuid4().hex, encoding="utf-8")
    if search is not None:
        (ready.folder / begun.SEARCH).write_text(search, encoding="utf-8")
    # Last, and whole: where it stands, a run began, and can be resumed.
    begun.write_whole(ready.folder / begun.BEGUN_AS, ready.experiment.to_json())
