"""What checking a tracking URI says of a database, and of what is no MLflow server."""

import http.server
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from slowfast_ray.running.tracking import tracking

pytest.importorskip("psycopg2", reason="the package psycopg2-binary is not installed")

from tests.running.team_server import DATABASE_PASSWORD, postgres, refusal_of

CHECK = """
import sys
from slowfast_ray.running.tracking import tracking

tracking.SECONDS_TO_ANSWER = 1.0
try:
    tracking.check(sys.argv[1])
except ValueError as error:
    print(error, flush=True)
"""


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgres() as uri:
        yield uri


@pytest.mark.parametrize(("status", "body"), [(200, "<html>"), (404, "<html>"), (404, '{"detail": ""}'), (200, "{}")])
def test_what_is_no_mlflow_server_is_told(status: int, body: str) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        assert "is no MLflow server" in refusal_of(f"http://127.0.0.1:{other.server_port}")
        other.shutdown()


@pytest.mark.parametrize(
    ("address", "password", "expected"),
    [
        ("mlflow@{host}/mlflow", "not the password", "password authentication failed"),
        ("mlflow@{host}/mlflow", None, "no password supplied"),
        ("mlflow@{host}/other", DATABASE_PASSWORD, "does not exist"),
        ("mlflow@{host}/postgres", DATABASE_PASSWORD, "may make none"),
        ("mlflow@127.0.0.1:1/mlflow", DATABASE_PASSWORD, "does not answer"),
        ("mlflow:not the password@{host}/mlflow", None, "without its password"),
        ("mlflow:a/not the password@b@{host}/mlflow", None, "without its password"),
        ("mlflow@{host}/mlflow?password=not the password", None, "without its password"),
    ],
)
def test_a_database_that_cannot_be_used_as_a_store_is_told(
    database: str, monkeypatch: pytest.MonkeyPatch, address: str, password: str | None, expected: str
) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    if password is not None:
        monkeypatch.setenv("PGPASSWORD", password)
    host = urlsplit(database).netloc.partition("@")[2]
    assert expected in refusal_of(f"postgresql+psycopg2://{address.format(host=host)}")


def test_a_database_that_can_be_used_as_a_store(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", DATABASE_PASSWORD)
    tracking.check(database)


@pytest.mark.parametrize("scheme", ["postgresql+psycopg2://mlflow@", "http://"])
@pytest.mark.slow
def test_a_store_that_is_silent_keeps_no_process_from_ending(scheme: str) -> None:
    stopped = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as silent:

        def trickle() -> None:  # each byte is in time, and the answer never is
            with silent.accept()[0] as client:
                while not stopped.wait(0.2):
                    client.sendall(b"H" if scheme == "http://" else b"")

        threading.Thread(target=trickle, daemon=True).start()
        uri = f"{scheme}127.0.0.1:{silent.getsockname()[1]}"
        process = subprocess.Popen([sys.executable, "-c", CHECK, uri], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert "did not answer within 1 s" in process.stdout.readline()
        process.wait(timeout=60)
        stopped.set()
        process.stdout.close()
