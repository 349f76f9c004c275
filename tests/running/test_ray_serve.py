"""Ray Serve answers many sensors at once as the network does alone, and refuses what it does not understand."""

import io
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray import serve

from slowfast_ray.data import dataset, recordings
from slowfast_ray.experiment import Experiment
from slowfast_ray.running import preflight
from slowfast_ray.running.predicting import Predictor
from slowfast_ray.running.predictions import serving
from slowfast_ray.running.predictions.serving import Settings
from slowfast_ray.running.predictions.serving_requests import MAX_BODY_MB, MAX_CLIPS, MAX_FRAMES, NPY
from slowfast_ray.running.publishing import registering
from slowfast_ray.running.tracking import tracking_models
from slowfast_ray.running.training import worker

pytestmark = pytest.mark.ray
CHAMPION = "models:/slowfast-thermal@champion"
NUM_SENSORS = 8


@pytest.fixture(scope="module")
def run(tiny_in: Callable[[Path], Experiment], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model is the champion of its store."""
    ready = preflight.check(tiny_in(tmp_path_factory.mktemp("served")), name="a", objective="val/top1")
    preflight.claim(ready)
    worker.train(ready.experiment, ready.folder, "val/top1", lambda row: None)
    registering.register(registering.check(ready.folder, name=tracking_models.DEFAULT_NAME))
    return ready.folder


@pytest.fixture(scope="module")
def uri(run: Path) -> str:
    return f"sqlite:///{run.parents[1]}/mlflow.db"


@pytest.fixture(scope="module")
def predictor(uri: str) -> Predictor:
    return Predictor.load(tracking_models.fetch(CHAMPION, uri))


@pytest.fixture(scope="module")
def address(own_ray: None, uri: str) -> Iterator[str]:
    """Of Ray Serve with the champion, which waits long enough to see all sensors in one batch."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    settings = Settings(model=CHAMPION, tracking_uri=uri, max_batch_size=NUM_SENSORS, batch_wait_timeout_s=0.5)
    serve.run(serving.application(settings))
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


@pytest.fixture(scope="module")
def clips_STHW(run: Path) -> np.ndarray:
    """float32 [8, 16, 40, 60]: clips of a recording."""
    root = dataset.load(Experiment.from_json((run / "experiment.json").read_text()).data).root
    frames_NHW = recordings.read(sorted((root / "frames").glob("*.h5"))[0]).frames_NHW
    return np.stack([frames_NHW[first : first + 16] for first in range(100, 100 + 16 * NUM_SENSORS, 16)])


def ask(address: str, body: bytes | None, kind: str = "application/json", method: str | None = None) -> tuple[int, Any]:
    """Status and JSON of an answer."""
    request = urllib.request.Request(address, body, {"Content-Type": kind}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)


def as_json(frames: np.ndarray) -> bytes:
    return json.dumps({"frames": frames.tolist()}).encode()


def as_npy(frames: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, frames)
    return file.getvalue()


def all_at_once(address: str, requests: list[tuple[bytes, str]]) -> list[tuple[int, Any]]:
    with ThreadPoolExecutor(len(requests)) as threads:
        return list(threads.map(lambda request: ask(address, *request), requests))


def test_sensors_get_the_networks_answers_from_one_batch(
    address: str, predictor: Predictor, clips_STHW: np.ndarray
) -> None:
    expected_SK = predictor.probabilities_SK(predictor.of_clips(clips_STHW).logits_SK).numpy()
    for write, kind in ((as_json, "application/json"), (as_npy, NPY)):
        before = ask(f"{address}/health", None)[1]
        found = all_at_once(address, [(write(clip), kind) for clip in clips_STHW])
        after = ask(f"{address}/health", None)[1]
        assert [status for status, _ in found] == [200] * NUM_SENSORS, found
        rows = [row for _, row in found]
        found_SK = np.array([[row["probabilities"][name] for name in predictor.classes] for row in rows])
        np.testing.assert_allclose(found_SK, expected_SK, rtol=0, atol=1e-6)
        assert [row["class"] for row in rows] == [predictor.classes[k] for k in expected_SK.argmax(axis=1)]
        assert set(rows[0]) == {"class", "probability", "top3", "top3_probabilities", "probabilities", "note"}
        assert after["num_clips"] - before["num_clips"] == NUM_SENSORS
        assert after["num_batches"] - before["num_batches"] <= NUM_SENSORS // 2, "clips are computed together"


def test_several_clips_in_a_request_get_a_list(address: str, predictor: Predictor, clips_STHW: np.ndarray) -> None:
    several = clips_STHW[:3]
    as_list = json.dumps([{"frames": clip.tolist()} for clip in several]).encode()
    (json_status, from_json), (npy_status, from_npy) = all_at_once(
        f"{address}/predict", [(as_list, "application/json"), (as_npy(several), NPY)]
    )
    assert (json_status, npy_status) == (200, 200), (from_json, from_npy)
    expected_SK = predictor.probabilities_SK(predictor.of_clips(several).logits_SK).numpy()
    for rows in (from_json, from_npy):
        found_SK = np.array([list(row["probabilities"].values()) for row in rows])
        np.testing.assert_allclose(found_SK, expected_SK, rtol=0, atol=1e-6)


def test_clips_of_other_sizes_share_a_batch(address: str, predictor: Predictor, clips_STHW: np.ndarray) -> None:
    sizes = [clips_STHW[0], clips_STHW[1, :9], clips_STHW[2].repeat(2, axis=1).repeat(2, axis=2), clips_STHW[3]]
    found = all_at_once(address, [(as_npy(clip), NPY) for clip in sizes])
    for clip, (status, row) in zip(sizes, found, strict=True):
        answer = predictor.of_clips(clip[None])
        assert (status, row.get("note")) == (200, answer.notes_S[0])
        expected_K = predictor.probabilities_SK(answer.logits_SK)[0].tolist()
        np.testing.assert_allclose(list(row["probabilities"].values()), expected_K, rtol=0, atol=1e-6)
    assert "resized" in found[2][1]["note"]
    assert "padded" in found[1][1]["note"]


def test_a_bad_clip_does_not_spoil_its_neighbours(address: str, clips_STHW: np.ndarray) -> None:
    dead = np.full_like(clips_STHW[0], -273.2)  # only the network's own code sees that, in the batch
    spoilt = [*clips_STHW[:3], dead, *clips_STHW[4:]]
    found = all_at_once(address, [(as_npy(clip), NPY) for clip in spoilt])
    assert [status for status, _ in found] == [200, 200, 200, 400, 200, 200, 200, 200]
    assert "nothing was measured" in found[3][1]["message"]
    status, answer = ask(address, as_npy(np.stack(spoilt)), NPY)
    assert (status, answer["message"][:8]) == (400, "Clip 3: ")


def test_bad_requests_are_answered_400_with_the_reason(address: str, clips_STHW: np.ndarray, uri: str) -> None:
    clip = clips_STHW[0].tolist()
    path = uri.removeprefix("sqlite:///")
    objects = as_npy(np.array([[[{}]]], dtype=object))
    for content, says in (
        ("", "is no JSON"),
        ("not json", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("\udcff", "is no JSON"),
        ("7.5", "must be a JSON object"),
        ('"' + path + '"', "must be a JSON object"),
        ("null", "must be a JSON object"),
        ("[]", "1 to 64 clips"),
        ("[[]]", "Clip 0: A clip must be a JSON object"),
        ("{}", "`frames` is missing"),
        ('{"frames": null}', "`frames` is missing"),
        ('{"recording": ' + json.dumps(path) + "}", "knows no `recording`"),
        ('{"frames": ' + json.dumps(path) + "}", "must hold numbers only"),
        ('{"frames": [[["warm"]]]}', "must hold numbers only"),
        ('{"frames": [[[20.0, null]]]}', "must hold numbers only"),
        ('{"frames": [[[true]]]}', "must hold numbers only"),
        ('{"frames": {"a": 1}}', "must hold numbers only"),
        ('{"frames": [[[1.0]], [[1.0, 2.0]]]}', "lists differ in length"),
        ('{"frames": [[[NaN]]]}', "must be finite"),
        ('{"frames": [[[-Infinity]]]}', "must be finite"),
        ('{"frames": [[[1e999]]]}', "must be finite"),
        ('{"frames": [[[1' + 5000 * "0" + "]]]}", "must be finite"),
        ('{"frames": []}', "must have the shape"),
        ('{"frames": [[]]}', "must have the shape"),
        ('{"frames": [[[]]]}', "holds no frame"),
        ('{"frames": ' + 90 * "[" + 90 * "]" + "}", ""),
        (json.dumps({"frames": clip[0]}), "must have the shape"),
        (json.dumps({"frames": [clip]}), "must have the shape"),
        (json.dumps({"frames": (MAX_FRAMES + 1) * [[[20]]]}), f"{MAX_FRAMES} frames or fewer"),
        (json.dumps((MAX_CLIPS + 1) * [{"frames": [[[20]]]}]), f"1 to {MAX_CLIPS} clips"),
        (json.dumps({"frames": clip, "timestamps": [0, 1]}), "a number for each of the 16 frames"),
        (json.dumps({"frames": clip, "box": [0.5, 0.5, 0.1, 0.1]}), "leave out `box`"),
        (json.dumps({"frames": clip, "box": [0.5]}), "`box` must be"),
    ):
        status, answer = ask(address, content.encode(errors="surrogateescape"))
        assert (status, says in answer["message"]) == (400, True), (content[:80], status, answer)
    huge = as_npy(np.zeros((1, 1, 1), np.float32)).replace(b"(1, 1, 1), }", b"(9999999, 999999, 99), }")
    for body, says in (
        (b"", "is no .npy file"),
        (b"PK\x03\x04 a zip", "is no .npy file"),
        (objects, "is no .npy file"),
        (huge, "is no .npy file"),
        (as_npy(clips_STHW[0])[:-1], "is no .npy file"),
        (as_npy(clips_STHW[0]).replace(b"<f4", b"<q9"), "is no .npy file"),
        (as_npy(clips_STHW[0].astype(np.int16)), "convert raw counts first"),
        (as_npy(clips_STHW[0].astype(np.complex64)), "must hold numbers only"),
        (as_npy(clips_STHW[0, 0]), "must have the shape"),
        (as_npy(clips_STHW[:0]), "1 to 64 clips"),
        (as_npy(clips_STHW[:, :0]), "Clip 0: `frames` holds no frame"),
        (as_npy(np.where(clips_STHW[0] > 20, np.nan, clips_STHW[0])), "must be finite"),
    ):
        status, answer = ask(address, body, NPY)
        assert (status, says in answer["message"]) == (400, True), (body[:80], status, answer)
    assert ask(address, as_npy(clips_STHW[0]), NPY)[0] == 200, "the server goes on"


def test_other_refusals_have_their_own_status(address: str) -> None:
    for path, body, method, expected, says in (
        ("/", None, "GET", 405, "There is no GET /; POST clips to /, or GET /health."),
        ("/predict", None, "DELETE", 405, "There is no DELETE /predict"),
        ("/health", b"{}", "POST", 405, "There is no POST /health"),
        ("/invocations", b"{}", "POST", 404, "There is no POST /invocations"),
        ("/docs", None, "GET", 404, "There is no GET /docs"),
        ("/", b" " * (MAX_BODY_MB * 2**20 + 1), "POST", 413, f"{MAX_BODY_MB} MB or less"),
    ):
        status, answer = ask(f"{address}{path}", body, method=method)
        assert (status, says in answer["message"]) == (expected, True), (path, status, answer)


def test_health_says_which_model_answers(address: str, predictor: Predictor) -> None:
    status, found = ask(f"{address}/health", None)
    assert status == 200
    assert (found["model"], found["version"]) == ("slowfast-thermal", 1), "the alias is looked up once"
    assert (tuple(found["classes"]), found["format_version"]) == (predictor.classes, 1)
    assert found["trained_as"] == "a, epoch 1"


def test_a_model_that_leads_nowhere_is_refused_before_anything_starts(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has the versions 1, and the aliases @champion"):
        serving.application(Settings(model="models:/slowfast-thermal@nobody", tracking_uri=uri))
    with pytest.raises(ValueError, match="is no folder of a model"):
        serving.application(Settings(model=str(tmp_path / "nowhere")))
