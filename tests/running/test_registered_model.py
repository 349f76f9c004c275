"""A registered model, as MLflow loads it, answers as its checkpoint did; its card says how good it is."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowException
from mlflow.pyfunc import PyFuncModel

from slowfast_ray.data import dataset, recordings
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checkpoint
from slowfast_ray.learning.predictions import Predictions
from slowfast_ray.running import preflight, scores
from slowfast_ray.running.predicting import Predictor
from slowfast_ray.running.predictions import windows
from slowfast_ray.running.publishing import model_card, model_folder, registering
from slowfast_ray.running.publishing.model_choice import Choice
from slowfast_ray.running.publishing.model_folder import Description
from slowfast_ray.running.publishing.registering import Registered
from slowfast_ray.running.scores import Score
from slowfast_ray.running.tracking import tracking_models, tracking_store
from slowfast_ray.running.training import trainer, worker
from tests.running.conftest import environment

COLUMNS = ["class", "probability", "top3", "top3_probabilities", "probabilities", "note"]


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


@pytest.fixture(scope="module")
def model(run: Path, uri: str) -> PyFuncModel:
    """The champion of the default name, as MLflow loads it."""
    registered(run, tracking_models.DEFAULT_NAME)
    with tracking_store.environment(MLFLOW_TRACKING_URI=uri):
        return mlflow.pyfunc.load_model(f"models:/{tracking_models.DEFAULT_NAME}@champion")


def test_mlflow_says_what_the_network_says_bit_for_bit(model: PyFuncModel, run: Path, tmp_path: Path) -> None:
    data = dataset.load(experiment_of(run).data)
    model_folder.write(tmp_path / "model", best_of(run), data)
    predictor = Predictor.load(tmp_path / "model")
    frames_STHW = np.stack([first_frames(run)[k : k + 16] for k in (0, 100, 200)])
    answer = predictor.of_clips(frames_STHW)
    expected_SK = predictor.probabilities_SK(answer.logits_SK).numpy()
    loaded = model.unwrap_python_model().predictor.of_clips(frames_STHW)
    assert torch.equal(loaded.logits_SK, answer.logits_SK)
    for given in (frames_STHW, frames_STHW.astype(np.float64), {"frames": frames_STHW.tolist()}, list(frames_STHW)):
        rows = model.predict(given)
        assert list(rows.columns) == COLUMNS
        assert [list(each.values()) for each in rows["probabilities"]] == expected_SK.tolist()
        assert [list(each) for each in rows["probabilities"]] == [list(data.classes)] * 3
        assert rows["class"].tolist() == [data.classes[k] for k in expected_SK.argmax(axis=1)]
        assert rows["probability"].tolist() == expected_SK.max(axis=1).tolist()
        assert [row[0] for row in rows["top3"]] == rows["class"].tolist()
        assert all(row == sorted(row, reverse=True) and len(row) == 3 for row in rows["top3_probabilities"])


def test_recordings_give_the_rows_of_their_windows(model: PyFuncModel, run: Path) -> None:
    paths = sorted(str(each) for each in (dataset.load(experiment_of(run).data).root / "frames").glob("*.h5"))[:2]
    predictor = model.unwrap_python_model().predictor
    expected = [windows.of_recording(predictor, Path(path)) for path in paths]
    one, both = model.predict(paths[0]), model.predict(paths)
    assert list(one.columns)[-len(COLUMNS) :] == COLUMNS
    assert one["class"].tolist() == expected[0]["class"].tolist()
    assert len(both) == len(expected[0]) + len(expected[1])
    assert both["recording"].unique().tolist() == [Path(path).stem for path in paths]
    pd.testing.assert_frame_equal(model.predict(pd.DataFrame({"recording": paths})), both)
    pd.testing.assert_frame_equal(model.predict(np.array(paths)), both)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (np.zeros((16, 40, 60)), "must have the shape"),
        (np.zeros((1, 16, 40, 60), int), "must hold floats"),
        (np.full((1, 16, 40, 60), np.nan), "must be finite"),
        ({"frames": [[[[20.0]]], [[[20.0], [20.0]]]]}, "its parts differ in shape"),
        ({"frames": np.zeros((1, 2, 4, 6)), "boxes": [[0.5, 0.5, 0.1, 0.1]]}, "leave out the boxes"),
        ({"images": []}, "it knows no `images`"),
        ({"frames": None}, "`frames` is missing"),
        ({"frames": "a.h5"}, "must hold numbers, but is str; .* paths of recordings, alone or in a list"),
        ("", "path of a recording must not be empty"),
        (["", "a.h5"], "path of a recording must not be empty"),
        (pd.DataFrame(), "`frames` is missing"),
        (None, "`frames` is missing"),
        ("nowhere.h5", "No such recording"),
    ],
)
def test_what_cannot_be_understood_is_a_bad_request(model: PyFuncModel, given: object, says: str) -> None:
    with pytest.raises(MlflowException, match=says) as refused:
        model.predict(given)
    assert refused.value.error_code == "INVALID_PARAMETER_VALUE"
    assert refused.value.get_http_status_code() == 400


def test_a_served_model_opens_no_files(model: PyFuncModel, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(next((dataset.load(experiment_of(run).data).root / "frames").glob("*.h5")))
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
    for given in (path, [path], np.array([path]), pd.DataFrame({"recording": [path]}), {"frames": path}):
        with pytest.raises(MlflowException, match=r"opens no files|must hold numbers"):
            model.predict(given)
    degrees = np.full((1, 16, 40, 60), 20)  # JSON of a language that writes 20.0 as 20
    assert model.predict(degrees)["class"].tolist() == model.predict(degrees.astype(float))["class"].tolist()


@pytest.mark.slow
def test_nothing_is_unpickled_on_the_way(model: PyFuncModel, uri: str, run: Path, tmp_path: Path) -> None:
    path = next((dataset.load(experiment_of(run).data).root / "frames").glob("*.h5"))
    code = f"""
import sys
found = []
sys.addaudithook(lambda event, _: found.append(event) if event == "pickle.find_class" else None)
import mlflow, torch
def refuse(*_, **__):
    raise AssertionError("torch.load")
torch.load = refuse
model = mlflow.pyfunc.load_model("models:/slowfast-thermal@champion")
assert len(model.predict({str(path)!r})) > 10
print(found, [name for name in ("joblib", "dill") if name in sys.modules])
import pickle
pickle.loads(pickle.dumps(print))
print(found)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment(tmp_path), "MLFLOW_TRACKING_URI": uri, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    # The last line shows that the hook would have seen it.
    assert done.stdout.splitlines() == ["[] []", "['pickle.find_class']"]


def test_mlflow_knows_what_it_needs_and_shows_an_example(model: PyFuncModel, uri: str) -> None:
    assert model.metadata.signature is not None
    assert model.metadata.signature.outputs.input_names() == COLUMNS
    assert set(model.metadata.metadata["inputs"]) == {"frames", "timestamps", "boxes", "path or paths"}
    with tracking_store.environment(MLFLOW_TRACKING_URI=uri):
        requirements = mlflow.pyfunc.get_model_dependencies(f"models:/{tracking_models.DEFAULT_NAME}@champion")
    needed = {line.partition("==")[0] for line in Path(requirements).read_text().splitlines()}
    assert {"slowfast-ray", "torch", "mlflow"} <= needed
    assert model.input_example is not None
    assert model.predict(model.input_example)["note"].tolist() == [
        "resized from 4 x 6 to 40 x 60; padded: frames at its ends repeated"
    ]


@pytest.mark.parametrize("changes", [{"data.frame_interval_ms": 170.0}, {"data.labels": "person"}])
@pytest.mark.slow
def test_the_example_holds_what_the_model_needs(tiny: Experiment, changes: dict[str, float | str]) -> None:
    ready = preflight.check(tiny.override(changes), name="needs", objective="val/top1")
    preflight.claim(ready)
    worker.train(ready.experiment, ready.folder, "val/top1", lambda row: None)
    found = registered(ready.folder, "needs")
    assert tiny.run.tracking_uri is not None
    with tracking_store.environment(MLFLOW_TRACKING_URI=tiny.run.tracking_uri):
        loaded = mlflow.pyfunc.load_model(found.version.uri)
    assert loaded.input_example is not None
    assert len(loaded.predict(loaded.input_example)) == 1
    needed = ({"timestamps", "boxes"} & set(loaded.input_example)).pop()
    with pytest.raises(MlflowException, match=needed):
        loaded.predict({"frames": loaded.input_example["frames"]})
    card = (tracking_models.evidence(tiny.run.tracking_uri, found.version) / "model_card.md").read_text()
    of_people = needed == "boxes"
    assert ("keeps it still" in card) == of_people, "evaluation follows people, one box does not"
    assert ('model.predict("recording.h5")' in card) != of_people


def test_the_card_says_the_checkpoints_own_figures(run: Path, uri: str) -> None:
    found = registered(run, "card")
    card = (tracking_models.evidence(uri, found.version) / "model_card.md").read_text()
    data, saved = dataset.load(experiment_of(run).data), checkpoint.read_predictions(best_of(run))
    mine = scores.of_checkpoint("a", best_of(run), data)
    assert len(mine.intervals) == 3
    assert f"| this model | {' | '.join(map(str, mine.intervals.values()))} |" in card
    baselines = scores.of_baselines(data.config)
    for baseline in baselines:
        assert f"| {baseline.name} | {baseline.intervals['val/top1']} |" in card
    best = max(baselines, key=lambda each: each.intervals["val/top1"].value)
    lift = mine.intervals["val/top1"].value - best.intervals["val/top1"].value
    assert f"| lift over the best without a network | {lift:+.2f} ({best.name})" in card
    num_train_K = data.train.num_per_class_K(len(data.classes)).tolist()
    for each, num_train in zip(saved.per_class(data.classes), num_train_K, strict=True):
        assert f"| {each.name} | {num_train} | {each.num_samples} | {each.recall:.2f} |" in card
    assert "best of 2 by val/top1" in card
    worse = [metric for metric in ("val/top1", "val/mean_class") if is_below(mine, baselines, metric)]
    assert worse
    assert [line.split()[2] for line in card.splitlines() if line.startswith("- By val/")] == worse
    assert len(found.notes) == len(worse)
    assert data.fingerprint in card
    assert data.source.fingerprint in card
    assert f"{data.leak_share:.0%} of the validation clips" in card
    assert "trained from scratch" in card
    assert str(data.root) not in card
    assert str(run.parent) not in card


def test_the_card_names_what_the_data_cannot_show(tiny: Experiment, tmp_path: Path) -> None:
    everything = tiny.override({"data.split": "all", "model.weights": "/secret/place/kinetics.pyth"})
    data = dataset.load(everything.data)
    target = data.val.labels_S
    said = Predictions(torch.nn.functional.one_hot(target, len(data.classes)).float(), target)
    described = Description(data.classes, 40, 60, "s/trial-003, epoch 2")
    chosen = Choice(epoch=2, objective="val/top1", num_epochs=9, is_best=True, num_trials=20)
    card = model_card.of("m", described, chosen, everything, data, said, ())
    assert "trained on its validation samples" in card
    assert "one of 20 trials" in card
    assert "started from `kinetics.pyth`" in card
    assert "/secret" not in card
    lacking = replace(data, train=replace(data.train, labels_S=torch.zeros_like(data.train.labels_S)))
    assert "Never trained, so that they are never to be expected: walking" in model_card.of(
        "m", described, chosen, tiny, lacking, said, ()
    )


def is_below(mine: Score, baselines: tuple[Score, ...], metric: str) -> bool:
    return any(each.intervals[metric].value >= mine.intervals[metric].value for each in baselines)


def registered(place: Path, name: str, *, force: bool = False) -> Registered:
    return registering.register(registering.check(place, name=name, force=force), force=force)


def best_of(run: Path) -> Path:
    best = checkpoint.best(run)
    assert best is not None
    return best


def experiment_of(run: Path) -> Experiment:
    return Experiment.from_json((run / "experiment.json").read_text())


def first_frames(run: Path) -> np.ndarray:
    root = dataset.load(experiment_of(run).data).root
    return recordings.read(sorted((root / "frames").glob("*.h5"))[0]).frames_NHW
