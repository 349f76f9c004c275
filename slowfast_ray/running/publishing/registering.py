"""A checkpoint into MLflow's model registry: model folder, model card, evidence, and whether it becomes champion.

The registry knows no transaction. Of two processes that register at once, each is judged against the champion that it
saw (see tracking_models.py); two that register the same checkpoint at once make two versions of the same weights, of
which the one that ended last is champion. From then on a registration of it names one of the two as there already.
"""

import hashlib
import shutil
import tempfile
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from slowfast_ray.data import dataset
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.learning import checkpoint
from slowfast_ray.learning.predictions import Predictions
from slowfast_ray.running import data_facts, scores
from slowfast_ray.running.folders import begun, chosen
from slowfast_ray.running.folders.chosen import Chosen
from slowfast_ray.running.publishing import evidence_check, model_card, model_folder, promoting
from slowfast_ray.running.publishing.model_choice import Choice
from slowfast_ray.running.publishing.promoting import Decision
from slowfast_ray.running.scores import Score
from slowfast_ray.running.tracking import tracking, tracking_models, tracking_registration
from slowfast_ray.running.tracking.tracking_models import DIGEST, Version
from slowfast_ray.running.tracking.tracking_registration import Entry

CARD = "model_card.md"
DIGEST_DIGITS = 16


@dataclass(frozen=True)
class Plan(Chosen):
    """What is registered, as what, and where."""

    name: str
    uri: str
    data: Dataset
    predictions: Predictions
    """Of the checkpoint, for its validation samples."""
    digest: str
    """Of its weights."""
    known: Version | None
    """The version that has these weights already."""


@dataclass(frozen=True)
class Registered:
    """What came of it."""

    version: Version
    decision: Decision
    is_new: bool
    """Whether the version was made, or was there and only became champion."""
    before: Version | None
    """The champion that was replaced: the previous one from now on."""
    notes: tuple[str, ...]


def check(place: Path, *, name: str, root: str | None = None, force: bool = False) -> Plan:
    """The plan to register `place`: the folder of a checkpoint, or of a run or trial, whose best epoch it takes.

    Raises ValueError or OSError for a folder without a checkpoint or without its weights, for data that gives other
    samples than it validated on, for a store that does not answer, a name that it does not take, weights that are
    registered already, unless `force` shall make them the champion, and weights that do not say what its predictions
    say.
    """
    found = chosen.choose(place, root)
    weights = model_folder.weights_of(found.checkpoint)
    uri = tracking.resolve_uri(found.experiment.run.tracking_uri)
    tracking_models.check(uri, name)
    data = dataset.load(found.experiment.data)
    chosen.check_same_samples(found, data, "A model card tells of the samples that a checkpoint validated on")
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:DIGEST_DIGITS]
    known = tracking_models.with_digest(uri, name, digest)
    if known is not None:
        champion = tracking_models.champion(uri, name)
        if champion is not None and champion.number == known.number:
            raise ValueError(f"{found.checkpoint} is registered already, as {known.uri}, and is the champion.")
        if not force:
            raise ValueError(
                f"{found.checkpoint} is registered already, as {known.uri}; --force makes that version the champion."
            )
    predictions = checkpoint.read_predictions(found.checkpoint)
    evidence_check.check(found.checkpoint, found.experiment, data, predictions)
    return Plan(
        name=name,
        uri=uri,
        checkpoint=found.checkpoint,
        progress=found.progress,
        experiment=found.experiment,
        data=data,
        predictions=predictions,
        digest=digest,
        known=known,
    )


def register(plan: Plan, *, force: bool = False) -> Registered:
    """Judges, writes everything into the registry, and makes the model the champion where it shall be.

    Raises ValueError or OSError where the store does not take it; what it took until then stays.
    """
    decision = _decide(plan, force)
    if plan.known is None:
        made = _write(plan, decision)
    else:
        made = plan.known
        tracking_models.tag(plan.uri, made, decision.tags())
    before = tracking_models.promote(plan.uri, made) if decision.replaces else None
    notes = model_card.not_above(plan.predictions, plan.data, scores.of_baselines(plan.experiment.data))
    notes += plan.data.warnings()
    if decision.replaces and (before.uri if before else None) != decision.champion:
        notes.append(
            f"Another champion came meanwhile, {before.uri if before else 'none'}, which this model was not compared "
            "with: the last one stays."
        )
    return Registered(made, decision, plan.known is None, before, tuple(notes))


def _decide(plan: Plan, force: bool) -> Decision:
    champion, evidence = tracking_models.champion(plan.uri, plan.name), None
    if champion is None:
        decision = promoting.decide(plan.data, plan.predictions, None, None)
        if not tracking_models.has_versions(plan.uri, plan.name):
            return decision
        return replace(
            decision, reason="No version was champion: this one becomes it, and was compared with none of the others."
        )
    try:
        evidence = tracking_models.evidence(plan.uri, champion)
    except ValueError as error:
        # What somebody else registered never had any.
        if DIGEST in champion.tags and not force:
            raise ValueError(
                f"The model cannot be compared with the champion, {champion.uri}, whose evidence cannot be read "
                f"({error}); try again, or, where its files are gone for good, --force makes this model champion "
                "without a comparison."
            ) from error
    return promoting.decide(plan.data, plan.predictions, champion.uri, evidence, force=force)


def _write(plan: Plan, decision: Decision) -> Version:
    baselines = scores.of_baselines(plan.experiment.data)
    with tempfile.TemporaryDirectory() as temporary:
        model, evidence = Path(temporary) / "model", Path(temporary) / "evidence"
        described = model_folder.write(model, plan.checkpoint, plan.data)
        card = model_card.of(
            plan.name, described, Choice.of(plan.checkpoint), plan.experiment, plan.data, plan.predictions, baselines
        )
        evidence.mkdir()
        shutil.copyfile(plan.checkpoint / promoting.PREDICTIONS, evidence / promoting.PREDICTIONS)
        (evidence / begun.MEMBERS).write_text(plan.data.members_json(), encoding="utf-8")
        (evidence / promoting.DECISION).write_text(decision.to_json(), encoding="utf-8")
        (evidence / CARD).write_text(card, encoding="utf-8")
        entry = Entry(
            model=model,
            evidence=evidence,
            run_folder=plan.run_folder,
            experiment=plan.experiment,
            epoch=plan.progress.epoch,
            tags={**_tags(plan, baselines), **decision.tags()},
            description=card,
        )
        return tracking_registration.register(plan.uri, plan.name, entry)


def _tags(plan: Plan, baselines: tuple[Score, ...]) -> dict[str, str]:
    scored = scores.of_predictions(plan.name, plan.predictions, plan.data.val)
    return {
        **data_facts.tags_of(plan.data, baselines),
        **{f"slowfast_ray.{name}": str(interval) for name, interval in scored.intervals.items()},
        DIGEST: plan.digest,
        "slowfast_ray.format_version": str(model_folder.FORMAT_VERSION),
        "slowfast_ray.written_by": "slowfast_ray " + version("slowfast-ray"),
        "slowfast_ray.epoch": str(plan.progress.epoch),
    }
