"""A real MLflow server that hangs, is killed and started again, or whose answers are lost: all arrives, and once."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from slowfast_ray.experiment import LAPTOP
from slowfast_ray.running.tracking import tracking_queue
from slowfast_ray.running.tracking.tracking import STATE, Tracker
from tests.running.conftest import ASK_STORE, ROOT

SECONDS_TO_ANSWER = 30
"""Of each request, long enough for a machine that is busy."""
SECONDS_OF_A_HANG = 5
"""The same where the server hangs: so long each request takes."""
HISTORY = [{"val/top1": 0.1 * epoch, "val/loss": 1.0 / epoch} for epoch in range(1, 6)]


class Server:
    """`mlflow server` over an SQLite file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [
            *(
                sys.executable,
                "-m",
                "mlflow",
                "server",
                "--host",
                "127.0.0.1",
                "--port",
                str(self.port),
                "--workers",
                "1",
            ),
            *("--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"),
            *("--artifacts-destination", str(self.folder / "artifacts")),
        ]
        self.process = subprocess.Popen(
            command,
            cwd=self.folder,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.uri}{ASK_STORE}", timeout=60)
                return
            assert self.process.poll() is None, "the server does not start"
            time.sleep(0.1)
        pytest.fail("the server does not start")

    def send(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "mlflow.db").write_bytes(empty_store.read_bytes())
    server = Server(folder)
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def own_experiment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", tmp_path.name)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    patience(monkeypatch, SECONDS_TO_ANSWER)


def patience(monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    """Requests wait so long for their answers from now on."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(seconds))
    monkeypatch.setattr(tracking_queue, "SECONDS_TO_PROBE", seconds)


def tell_of_a_search(tracker: Tracker, folder: Path) -> None:
    """Two trials, as the driver tells of them, or tells of them again."""
    search = tracker.open("search", LAPTOP, folder)
    for name in ("trial-000", "trial-001"):
        trial = tracker.open(name, LAPTOP, folder / name, parent=search)
        for epoch, metrics in enumerate(HISTORY[:3], start=1):
            tracker.log_epoch(trial, epoch, metrics)
        tracker.log_missing_epochs(trial, HISTORY)
        tracker.end(trial, "finished")
    tracker.end(search, "finished")


def in_store(server: Server, name: str) -> dict[str, Run]:
    """The runs of an experiment by their names, none twice; each trial with all its points, none twice."""
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    by_name = {run.info.run_name or "": run for run in runs}
    assert len(by_name) == len(runs)
    assert sorted(by_name) == ["search", "trial-000", "trial-001"]
    for run_name, run in by_name.items():
        assert (run.info.status, run.data.tags[STATE]) == ("FINISHED", "finished")
        assert run.data.params == {key: str(value) for key, value in LAPTOP.flatten().items()}
        assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["experiment.json"]
        for key in HISTORY[0] if run_name != "search" else ():
            points = sorted(client.get_metric_history(run.info.run_id, key), key=lambda point: point.step)
            assert [(p.step, p.value) for p in points] == [(n, each[key]) for n, each in enumerate(HISTORY, start=1)]
    return by_name


@pytest.mark.slow
def test_a_server_that_hangs_costs_nobody_anything(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Tracker(server.uri, tmp_path)
    search = tracker.open("search", LAPTOP, tmp_path)
    trial = tracker.open("trial-000", LAPTOP, tmp_path / "trial-000", parent=search)
    tracker.log_epoch(trial, 1, HISTORY[0])
    tracker.flush()
    server.send(signal.SIGSTOP)
    patience(monkeypatch, SECONDS_OF_A_HANG)
    try:
        started = time.monotonic()
        tracker.log_epoch(trial, 2, HISTORY[1])
        tell_of_a_search(tracker, tmp_path)
        assert time.monotonic() - started < SECONDS_OF_A_HANG, "it waited for no answer"
        tracker.flush()
        # Two requests: the one that was on its way, and the one of the flush. Each entry asked for would be many more.
        assert tracker.num_unsent > 10
        assert time.monotonic() - started < 2 * SECONDS_OF_A_HANG + 30, "a flush is over once the server was silent"
    finally:
        patience(monkeypatch, SECONDS_TO_ANSWER)
        server.send(signal.SIGCONT)
    tracker.close()
    assert tracker.num_unsent == 0
    in_store(server, tmp_path.name)
    assert len([record for record in caplog.records if "sent later" in record.getMessage()]) == 1


@pytest.mark.parametrize("path", ["experiments/create", "runs/create", "runs/log-batch", "artifacts/", "runs/update"])
@pytest.mark.slow
def test_an_answer_that_is_lost_doubles_nothing(server: Server, tmp_path: Path, path: str) -> None:
    with losing_an_answer(server.port, path) as (uri, lost):
        tracker = Tracker(uri, tmp_path)
        tell_of_a_search(tracker, tmp_path)
        tracker.flush()
        assert lost.is_set()
        tracker.close()
        assert tracker.num_unsent == 0
    in_store(server, tmp_path.name)


def test_mlflows_own_tries_make_no_second_run(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    with losing_an_answer(server.port, "runs/create") as (uri, _):
        tracker = Tracker(uri, tmp_path)
        tell_of_a_search(tracker, tmp_path)
        tracker.flush()
        tracker.close()
    in_store(server, tmp_path.name)


def test_what_a_killed_driver_left_is_sent_by_the_next_one(server: Server, tmp_path: Path) -> None:
    first = Tracker(server.uri, tmp_path)
    trial = first.open("trial-000", LAPTOP, tmp_path / "trial-000", parent=first.open("search", LAPTOP, tmp_path))
    first.log_epoch(trial, 1, HISTORY[0])
    first.flush()
    server.kill()
    driver = "\n".join(  # another process, which is killed with what it could not send
        [
            "import os, pathlib, signal, sys",
            "from slowfast_ray.experiment import LAPTOP",
            "from tests.running.test_tracking_outage import tell_of_a_search, Tracker",
            "folder = pathlib.Path(sys.argv[2])",
            "tell_of_a_search(Tracker(sys.argv[1], folder), folder)",
            "os.kill(os.getpid(), signal.SIGKILL)",
        ]
    )
    first.close()
    told = subprocess.run([sys.executable, "-c", driver, server.uri, str(tmp_path)], cwd=ROOT, env=dict(os.environ))
    assert told.returncode == -signal.SIGKILL
    (journal,) = tmp_path.glob("tracking-*.jsonl")
    with journal.open("a") as file:
        file.write('{"entry": 99, "kin')  # cut off in the middle of a line
    server.start()
    with Tracker(server.uri, tmp_path) as second:
        assert second.num_unsent > 10
    assert second.num_unsent == 0
    before = in_store(server, tmp_path.name)
    with Tracker(server.uri, tmp_path) as third:
        tell_of_a_search(third, tmp_path)
    after = in_store(server, tmp_path.name)
    assert {name: dict(run.info) for name, run in after.items()} == {
        name: dict(run.info) for name, run in before.items()
    }


@contextlib.contextmanager
def losing_an_answer(port: int, path: str) -> Iterator[tuple[str, threading.Event]]:
    """A proxy before the server, and whether it has lost the first answer to a request that names `path`."""
    lost = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", port)) as upstream:
            doomed = threading.Event()
            threading.Thread(target=answer, args=(client, upstream, doomed), daemon=True).start()
            while data := receive(client):
                if path.encode() in data.split(b"\r\n")[0] and not data.startswith(b"GET") and not lost.is_set():
                    lost.set()
                    doomed.set()
                upstream.sendall(data)

    def answer(client: socket.socket, upstream: socket.socket, doomed: threading.Event) -> None:
        while (data := receive(upstream)) and not doomed.is_set():
            client.sendall(data)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    with listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", lost


def receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1 << 16)
    except OSError:
        return b""
