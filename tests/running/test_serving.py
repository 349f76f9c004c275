"""A registered model outside of the checkout: behind MLflow's scoring server, and where only its wheel is installed."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from slowfast_ray.data import dataset, recordings
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checkpoint
from slowfast_ray.running import preflight
from slowfast_ray.running.predicting import Predictor
from slowfast_ray.running.publishing import model_folder, registering
from slowfast_ray.running.tracking import tracking_models
from slowfast_ray.running.training import worker
from tests.running.conftest import ASK_STORE, ROOT, environment
from tests.running.other_weights import HEAD_BIAS, judge_again

SECONDS_TO_START = 900


@pytest.fixture(scope="module")
def run(tiny_in: Callable[[Path], Experiment], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model is the champion of its store."""
    ready = preflight.check(tiny_in(tmp_path_factory.mktemp("served")), name="a", objective="val/top1")
    preflight.claim(ready)
    worker.train(ready.experiment, ready.folder, "val/top1", lambda row: None)
    registering.register(registering.check(ready.folder, name=tracking_models.DEFAULT_NAME))
    return ready.folder


@contextmanager
def started(folder: Path, uri: str, health: str, *words: str) -> Iterator[str]:
    """The address of a program of MLflow's on this machine, which answers at `health`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "log.txt").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
            env={
                **environment(folder),
                "MLFLOW_TRACKING_URI": uri,
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            },
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + SECONDS_TO_START
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}{health}", timeout=60).close()
                break
            except OSError:
                assert server.poll() is None, (folder / "log.txt").read_text()
                assert time.monotonic() < deadline, (folder / "log.txt").read_text()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=300)


@pytest.fixture(scope="module")
def address(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of `mlflow models serve` with the champion."""
    uri, words = f"sqlite:///{run.parents[1]}/mlflow.db", ("-m", "models:/slowfast-thermal@champion")
    folder = tmp_path_factory.mktemp("served")
    with started(folder, uri, "/ping", "models", "serve", *words, "--env-manager", "local") as found:
        yield f"{found}/invocations"


def post(address: str, content: str, kind: str = "application/json") -> tuple[int, str]:
    """Status and body of an answer."""
    request = urllib.request.Request(address, content.encode(), {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


def frames_of(run: Path) -> np.ndarray:
    """float32 [2, 16, 40, 60]: two clips of a recording."""
    root = dataset.load(Experiment.from_json((run / "experiment.json").read_text()).data).root
    frames_NHW = recordings.read(sorted((root / "frames").glob("*.h5"))[0]).frames_NHW
    return np.stack([frames_NHW[100:116], frames_NHW[200:216]])


@pytest.mark.slow
def test_json_gets_the_predictors_answers_bit_for_bit(run: Path, address: str, tmp_path: Path) -> None:
    best = checkpoint.best(run)
    assert best is not None
    data = dataset.load(Experiment.from_json((run / "experiment.json").read_text()).data)
    model_folder.write(tmp_path / "model", best, data)
    predictor = Predictor.load(tmp_path / "model")
    frames_STHW = frames_of(run)
    expected_SK = predictor.probabilities_SK(predictor.of_clips(frames_STHW).logits_SK).tolist()
    for content in (
        {"inputs": {"frames": frames_STHW.tolist()}},
        {"inputs": frames_STHW.tolist()},
        {"instances": frames_STHW.tolist()},
        {"dataframe_records": [{"frames": clip} for clip in frames_STHW.tolist()]},
    ):
        status, body = post(address, json.dumps(content))
        assert status == 200, body
        rows = json.loads(body)["predictions"]
        assert [list(row["probabilities"].values()) for row in rows] == expected_SK
        assert set(rows[0]) == {"class", "probability", "top3", "top3_probabilities", "probabilities", "note"}


def test_bad_requests_are_answered_400_with_the_reason(run: Path, address: str) -> None:
    path = str(next((run.parents[1]).rglob("*.safetensors")))
    clip = frames_of(run)[:1].tolist()
    for content, says in (
        ('{"inputs": {"frames": [[[[NaN]]]]}}', "must be finite"),
        ('{"inputs": {"frames": [[[[20.0, null]]]]}}', "must hold numbers"),
        (json.dumps({"inputs": {"frames": clip[0]}}), "must have the shape"),
        ('{"inputs": {"frames": []}}', "must have the shape"),
        ('{"inputs": {"frames": [[[["warm"]]]]}}', "must hold numbers"),
        ('{"inputs": {"frames": [[[[1.0]]], [[[1.0, 2.0]]]]}}', ""),  # MLflow's own words
        ('{"inputs": {"frames": "warm"}}', "must hold numbers"),
        ('{"inputs": {}}', "`frames` is missing"),
        ('{"inputs": 7.5}', "must have the shape"),
        ('{"inputs": null}', ""),
        ('{"inputs": [{}]}', ""),
        (json.dumps({"inputs": path}), "opens no files"),
        (json.dumps({"inputs": [path]}), "opens no files"),
        (json.dumps({"dataframe_records": [{"recording": path}]}), "opens no files"),
        (json.dumps({"inputs": {"recording": path}}), "it knows no `recording`"),
        (json.dumps({"inputs": {"frames": clip, "boxes": [[0.5, 0.5, 0.1, 0.1]]}}), "leave out the boxes"),
        ("{}", ""),
        ("not json", ""),
    ):
        status, body = post(address, content)
        assert (status, says in json.loads(body)["message"]) == (400, True), (content[:80], status, body[-300:])
    status, body = post(address, f"recording\n{path}\n", "text/csv")
    assert (status, "opens no files" in json.loads(body)["message"]) == (400, True), body
    assert post(address, json.dumps({"inputs": {"frames": clip}}))[0] == 200, "the server goes on"
    host, _, port = address.removeprefix("http://").removesuffix("/invocations").partition(":")
    bare = http.client.HTTPConnection(host, int(port), timeout=60)
    bare.request("POST", "/invocations", b"{}")  # without a Content-Type: docs/serving.md says what MLflow makes of it
    assert bare.getresponse().status == 500


@pytest.mark.slow
def test_a_tracking_server_keeps_models_as_a_file_does(run: Path, tmp_path: Path) -> None:
    words = ("--backend-store-uri", f"sqlite:///{tmp_path}/far.db", "--artifacts-destination", str(tmp_path / "far"))
    with started(tmp_path, "", ASK_STORE, "server", *words) as uri:
        for name in ("a", "b"):
            shutil.copytree(run, tmp_path / name)
            for file in (tmp_path / name).rglob("experiment.json"):
                experiment = Experiment.from_json(file.read_text()).override({"run.tracking_uri": uri})
                file.write_text(experiment.to_json())
        first = registering.register(registering.check(tmp_path / "a", name="far"))
        assert first.decision.replaces
        with pytest.raises(ValueError, match="registered already, as models:/far/1, and is the champion"):
            registering.check(tmp_path / "b", name="far")
        (weights,) = (tmp_path / "b").glob("epoch-*/weights.safetensors")
        # A bias that all classes share: other weights, and the same answers.
        save_file({k: v + 0.5 if k == HEAD_BIAS else v for k, v in load_file(weights).items()}, weights)
        judge_again(weights.parent)
        second = registering.register(registering.check(tmp_path / "b", name="far"))
        assert (second.version.number, second.decision.replaces) == (2, False)
        assert second.decision.difference is not None
        assert second.decision.difference.value == 0
        fetched = tracking_models.fetch("models:/far/2", uri)
        assert (fetched / "weights.safetensors").read_bytes() == weights.read_bytes()


@pytest.mark.slow  # installs an environment
def test_only_the_wheel_is_needed(run: Path, tmp_path: Path) -> None:
    """In a fresh environment and another folder, the champion is loaded by MLflow and sees a whole recording."""
    pip = ["-m", "pip", "--disable-pip-version-check", "--quiet"]
    wheels, source = tmp_path / "wheels", tmp_path / "source"  # a build leaves files in its source
    for package in ("slowfast_ray", "search_spaces"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    build = [sys.executable, *pip, "wheel", "--no-deps", "--wheel-dir", str(wheels), str(source)]
    subprocess.run(build, check=True, timeout=1200)
    (wheel,) = wheels.glob("slowfast_ray-*.whl")
    venv.create(tmp_path / "fresh", with_pip=True)
    python = str(tmp_path / "fresh" / "bin" / "python")
    install = [python, *pip, "install", "--constraint", str(ROOT / "constraints.txt"), str(wheel)]
    subprocess.run(install, check=True, timeout=2400)
    real = os.environ.get("THERMAL_ACTION_DATASET")
    experiment = Experiment.from_json((run / "experiment.json").read_text())
    root = Path(real) if real else dataset.load(experiment.data).root
    recording = sorted((root / "frames").glob("*.h5"))[0]
    code = f"""
import mlflow, pathlib, slowfast_ray
assert {str(ROOT)!r} not in str(pathlib.Path(slowfast_ray.__file__).resolve()), slowfast_ray.__file__
rows = mlflow.pyfunc.load_model("models:/slowfast-thermal@champion").predict({str(recording)!r})
print(len(rows), rows["class"].isin({list(dataset.load(experiment.data).classes)!r}).all())
"""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    uri = f"sqlite:///{run.parents[1]}/mlflow.db"
    clean = {name: value for name, value in environment(elsewhere).items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-c", code],
        env={**clean, "MLFLOW_TRACKING_URI": uri},
        cwd=elsewhere,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    number, is_known = done.stdout.split()
    assert (int(number) > 10, is_known) == (True, "True")
