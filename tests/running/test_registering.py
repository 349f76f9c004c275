"""A registered model answers as its checkpoint did, and takes the champion's place only where the samples say so."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from slowfast_ray.data import dataset
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checkpoint
from slowfast_ray.learning.predictions import Predictions
from slowfast_ray.running import preflight
from slowfast_ray.running.publishing import model_folder, promoting, registering
from slowfast_ray.running.publishing.registering import Registered
from slowfast_ray.running.tracking import tracking_models
from slowfast_ray.running.training import trainer, worker
from tests.running.conftest import runs_in
from tests.running.other_weights import best_of, other


@pytest.fixture(scope="module")
def run(tiny_in: Callable[[Path], Experiment], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs with its entry in MLflow. Each test registers under a name of its own."""
    experiment = tiny_in(tmp_path_factory.mktemp("runs")).override({"learning.num_epochs": 2})
    ready = preflight.check(experiment, name="a", objective="val/top1")
    trainer.fit(ready, "val/top1", on_row=lambda row: None)
    return ready.folder


@pytest.fixture(scope="module")
def uri(run: Path) -> str:
    return f"sqlite:///{run.parents[1]}/mlflow.db"


def registered(place: Path, name: str, *, force: bool = False) -> Registered:
    return registering.register(registering.check(place, name=name, force=force), force=force)


def aliases(uri: str, name: str) -> dict[str, int]:
    return {alias: int(number) for alias, number in MlflowClient(uri).get_registered_model(name).aliases.items()}


def test_the_first_model_is_champion_and_belongs_to_the_run_that_trained_it(run: Path, uri: str) -> None:
    (before,) = [each for each in runs_in(uri) if each.data.tags["slowfast_ray.folder"] == str(run)]
    found = registered(run, "first")
    assert (found.version.uri, found.is_new, found.before) == ("models:/first/1", True, None)
    assert found.decision.replaces
    assert aliases(uri, "first") == {"champion": 1}
    client = MlflowClient(uri)
    entry = client.get_model_version("first", "1")
    assert entry.run_id == before.info.run_id
    after = client.get_run(before.info.run_id)
    assert (after.info.status, after.info.end_time) == (before.info.status, before.info.end_time)
    assert after.outputs is not None
    logged = client.get_logged_model(after.outputs.model_outputs[-1].model_id)
    assert (logged.artifact_location, logged.status, logged.tags["mlflow.modelVersions"]) == (
        entry.source,
        "READY",
        '[{"name": "first", "version": 1}]',
    )
    assert entry.tags["slowfast_ray.decision"] == "champion"
    assert entry.tags["slowfast_ray.split_fingerprint"] == dataset.load(experiment_of(run).data).fingerprint
    evidence = tracking_models.evidence(uri, found.version)
    assert {each.name for each in evidence.iterdir()} == {
        "predictions.safetensors", "split.json", "decision.json", "model_card.md",
    }  # fmt: skip
    assert json.loads((evidence / "decision.json").read_text())["replaces"] is True
    assert entry.description == (evidence / "model_card.md").read_text()


def test_a_better_model_replaces_the_champion_which_becomes_the_previous_one(
    run: Path, uri: str, tmp_path: Path
) -> None:
    registered(run, "better")
    found = registered(other(run, tmp_path / "b", 1), "better")
    assert found.decision.difference is not None
    assert found.decision.test is not None
    assert found.decision.difference.low > 0
    assert found.decision.test.p_value < 0.05
    assert aliases(uri, "better") == {"champion": 2, "previous": 1}
    assert found.before is not None
    assert found.before.number == 1
    assert found.version.tags["slowfast_ray.difference"] == f"mean class recall {found.decision.difference}"
    # Nobody tracked the copy: it got a run of its own.
    (made,) = [each for each in runs_in(uri) if each.data.tags["slowfast_ray.folder"] == str(tmp_path / "b")]
    assert made.info.run_id == found.version.run_id
    assert made.info.status == "FINISHED"


def test_a_model_that_is_not_shown_to_be_better_does_not_replace_it_unless_forced(
    run: Path, uri: str, tmp_path: Path
) -> None:
    registered(other(run, tmp_path / "good", 0.9), "worse")
    worse = other(run, tmp_path / "worse", 0.5)
    found = registered(worse, "worse")
    assert "Not shown to be better" in found.decision.reason
    assert (found.version.number, aliases(uri, "worse")) == (2, {"champion": 1})
    with pytest.raises(ValueError, match=r"registered already, as models:/worse/2; --force makes"):
        registered(worse, "worse")
    forced = registered(worse, "worse", force=True)
    assert (forced.version.number, forced.is_new, forced.decision.is_forced) == (2, False, True)
    assert aliases(uri, "worse") == {"champion": 2, "previous": 1}
    assert MlflowClient(uri).get_model_version("worse", "2").tags["slowfast_ray.decision"] == "champion"
    with pytest.raises(ValueError, match="and is the champion"):
        registered(worse, "worse", force=True)


def test_models_on_other_samples_do_not_compare(run: Path, uri: str, tmp_path: Path) -> None:
    registered(run, "samples")
    purged = experiment_of(run).override({"data.split": "purged", "run.storage": str(tmp_path)})
    ready = preflight.check(purged, name="c", objective="val/top1")
    preflight.claim(ready)
    worker.train(ready.experiment, ready.folder, "val/top1", lambda row: None)
    found = registered(ready.folder, "samples")
    assert "other samples" in found.decision.reason
    assert (found.decision.difference, aliases(uri, "samples")) == (None, {"champion": 1})


def test_a_champion_of_somebody_else_has_no_evidence(run: Path, uri: str) -> None:
    client = MlflowClient(uri)
    client.create_registered_model("foreign")
    client.create_model_version("foreign", (run / "nothing").as_uri())
    client.set_registered_model_alias("foreign", "champion", "1")
    found = registered(run, "foreign")
    assert "evidence of models:/foreign/1 cannot be read" in found.decision.reason
    assert aliases(uri, "foreign") == {"champion": 1}
    with pytest.raises(ValueError, match=r"no model of slowfast_ray; foreign in .* has the versions 1, 2"):
        tracking_models.fetch("models:/foreign@champion", uri)


def test_of_two_that_register_at_once_the_last_one_wins_and_says_so(
    run: Path, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(other(run, tmp_path / "old", 0.2), "race")
    write = registering._write

    def write_while_another_registers(*arguments: object) -> object:
        monkeypatch.setattr(registering, "_write", write)
        registered(other(run, tmp_path / "rival", 0.9), "race")
        return write(*arguments)

    monkeypatch.setattr(registering, "_write", write_while_another_registers)
    found = registered(run, "race", force=True)
    assert aliases(uri, "race") == {"champion": 3, "previous": 2}
    assert any("Another champion came meanwhile, models:/race/2" in note for note in found.notes)


def decided(experiment: Experiment, tmp_path: Path, **changes: str) -> promoting.Decision:
    """What is decided of a model that is always right over a champion that is always wrong, on the same samples."""
    data = dataset.load(experiment.override({f"data.{name}": value for name, value in changes.items()}).data)
    target = data.val.labels_S
    right_SK = target if target.ndim == 2 else torch.nn.functional.one_hot(target, len(data.classes)).float()
    Predictions(1 - right_SK, target).save(tmp_path / "predictions.safetensors")
    (tmp_path / "split.json").write_text(data.members_json())
    return promoting.decide(data, Predictions(right_SK, target), "models:/m/1", tmp_path)


def test_a_model_that_saw_its_validation_samples_replaces_nobody(tiny: Experiment, tmp_path: Path) -> None:
    found = decided(tiny, tmp_path, split="all")
    assert not found.replaces
    assert "which say nothing" in found.reason
    assert decided(tiny, tmp_path).replaces


def test_several_labels_compare_by_top1(tiny: Experiment, tmp_path: Path) -> None:
    found = decided(tiny, tmp_path, labels="multi")
    assert found.replaces
    assert (found.quantity, found.difference and found.difference.value) == ("top-1", 1)


def test_other_samples_with_the_same_labels_do_not_compare(tiny: Experiment, tmp_path: Path) -> None:
    data = dataset.load(tiny.data)
    right_SK = torch.nn.functional.one_hot(data.val.labels_S, len(data.classes)).float()
    Predictions(1 - right_SK, data.val.labels_S).save(tmp_path / "predictions.safetensors")
    members = json.loads(data.members_json())
    for changes in ({"val": members["val"][::-1]}, {"split_fingerprint": "another"}):
        (tmp_path / "split.json").write_text(json.dumps({**members, **changes}))
        found = promoting.decide(data, Predictions(right_SK, data.val.labels_S), "models:/m/1", tmp_path)
        assert (found.replaces, found.difference) == (False, None)


def test_one_sample_more_proves_nothing(tiny: Experiment, tmp_path: Path) -> None:
    data = dataset.load(tiny.data)
    right_SK = torch.nn.functional.one_hot(data.val.labels_S, len(data.classes)).float()
    before_SK = torch.cat([1 - right_SK[:1], right_SK[1:]])
    Predictions(before_SK, data.val.labels_S).save(tmp_path / "predictions.safetensors")
    (tmp_path / "split.json").write_text(data.members_json())
    found = promoting.decide(data, Predictions(right_SK, data.val.labels_S), "models:/m/1", tmp_path)
    assert found.difference is not None
    assert found.difference.value > 0
    assert not found.replaces


def test_fetch_gives_a_model_folder_or_says_what_exists(uri: str, run: Path, tmp_path: Path) -> None:
    registered(run, tracking_models.DEFAULT_NAME)
    fetched = tracking_models.fetch("models:/slowfast-thermal@champion", uri)
    assert model_folder.read(fetched)[0].trained_as.startswith("a, epoch")
    assert tracking_models.fetch(str(fetched)) == fetched
    numbered = tracking_models.fetch("models:/slowfast-thermal/1", uri)
    assert (numbered / "weights.safetensors").read_bytes() == (best_of(run) / "weights.safetensors").read_bytes()
    for name, says in (
        ("models:/nobody@champion", r"has the models .*slowfast-thermal"),
        ("models:/slowfast-thermal@best", r"has the versions 1, and the aliases @champion \(=1\)"),
        ("models:/slowfast-thermal/9", "has the versions 1,"),
        ("models:/slowfast-thermal/Production", "must be models:/NAME@ALIAS or models:/NAME/VERSION"),
        ("models:/a/b/1", "must be models:/NAME@ALIAS"),
        ("/nowhere", "is no folder of a model"),
        (str(run), "is no model of slowfast_ray"),
    ):
        with pytest.raises(ValueError, match=says):
            tracking_models.fetch(name, uri)
    with pytest.raises(ValueError, match="there is no store at"):
        tracking_models.fetch("models:/slowfast-thermal@champion", f"sqlite:///{tmp_path}/other.db")
    assert not (tmp_path / "other.db").exists()
    with pytest.raises(ValueError, match="does not answer"):
        tracking_models.fetch("models:/slowfast-thermal@champion", "http://127.0.0.1:9")


def test_fetch_refuses_an_older_format(run: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    registered(run, "older")
    monkeypatch.setattr(model_folder, "FORMAT_VERSION", 2)
    with pytest.raises(ValueError, match=r"models:/older/1.* format version 1 and was written by slowfast_ray 0"):
        tracking_models.fetch("models:/older/1", uri)


def test_the_script(
    run: Path, tmp_path: Path, call_script: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    call_script("register_thermal", str(run), "--name", "script")
    shown = capsys.readouterr().out
    assert "Registered     models:/script/1" in shown
    assert "models:/script@champion is version 1 now" in shown
    with pytest.raises(SystemExit) as stopped:
        call_script("register_thermal", str(run), "--name", "script")
    assert stopped.value.code == 2
    assert "is registered already, as models:/script/1, and is the champion" in capsys.readouterr().err
    call_script("register_thermal", str(other(run, tmp_path / "b", 0.1)), "--name", "script")
    assert "models:/script/1 stays champion" in capsys.readouterr().out
    for flags, says in (
        (("/nowhere",), "holds no checkpoint"),
        ((str(run), "--name", "a/b"), "must not be empty, nor hold"),
        ((str(run), "--root", str(tmp_path)), str(tmp_path)),
    ):
        with pytest.raises(SystemExit):
            call_script("register_thermal", *flags)
        assert says in capsys.readouterr().err


def test_a_checkpoint_without_weights_is_refused(run: Path, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(run, tmp_path / "bare"))
    checkpoint.strip(bare)
    with pytest.raises(ValueError, match="holds no weights"):
        registering.check(bare, name="bare")


def experiment_of(run: Path) -> Experiment:
    return Experiment.from_json((run / "experiment.json").read_text())
