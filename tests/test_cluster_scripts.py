"""The scripts that gpu.yaml starts in the background: the watch over spot machines, and MLflow on the head."""

import importlib
import json
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow.cli import cli as mlflow_cli
from ray.scripts.scripts import cli as ray_cli

from tests.running.conftest import ROOT

sys.path.append(str(ROOT / "cluster"))

mlflow_on_head: Any = importlib.import_module("mlflow_on_head")
spot_notice: Any = importlib.import_module("spot_notice")

ENDS = "2026-11-25T12:02:00Z"


class Metadata(ThreadingHTTPServer):
    """What every EC2 machine can ask about itself, version 2: nothing without a token."""

    notice: str | None = None
    token = "secret"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    server: Any

    def do_PUT(self) -> None:
        asked = self.path == "/latest/api/token" and "X-aws-ec2-metadata-token-ttl-seconds" in self.headers
        self._answer(200 if asked else 400, "secret")

    def do_GET(self) -> None:
        if self.headers.get("X-aws-ec2-metadata-token") != self.server.token:
            self._answer(401, "")
        elif self.path != "/latest/meta-data/spot/instance-action" or self.server.notice is None:
            self._answer(404, "")
        else:
            self._answer(200, self.server.notice)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, code: int, text: str) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    with Metadata() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_machine_is_not_taken_away_until_aws_says_so_and_then_at_that_time(metadata: Metadata) -> None:
    assert spot_notice.taken_at(metadata.address) is None
    metadata.notice = json.dumps({"action": "terminate", "time": ENDS})
    assert spot_notice.taken_at(metadata.address) == datetime(2026, 11, 25, 12, 2, tzinfo=UTC)


def test_a_metadata_service_that_refuses_or_is_away_is_no_notice(
    metadata: Metadata, caplog: pytest.LogCaptureFixture
) -> None:
    metadata.notice = json.dumps({"action": "terminate", "time": ENDS})
    metadata.token = "another"
    assert spot_notice.taken_at(metadata.address) is None
    assert "401" in caplog.text
    assert spot_notice.taken_at("http://127.0.0.1:9") is None
    assert "does not answer" in caplog.text


def test_ray_takes_the_flags_by_which_it_is_told() -> None:
    program, name, *flags = spot_notice.drain_command(118)
    assert Path(program).is_file()
    told = ray_cli.commands[name].make_context(name, flags).params
    assert told["reason"] == "DRAIN_NODE_REASON_PREEMPTION"
    assert told["deadline_remaining_seconds"] == 118
    assert told["node_id"] is None, "its own node"


def test_a_ray_that_cannot_be_told_is_told_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setattr(spot_notice, "drain_command", lambda seconds: [sys.executable, "-c", "raise SystemExit(1)"])
    assert not spot_notice.drained(datetime.now(UTC))


@pytest.fixture
def store(tmp_path: Path) -> str:
    (tmp_path / "store").mkdir()
    return f"file://{tmp_path}/store"


def test_runs_come_back_on_the_next_head_whole_although_somebody_was_writing(tmp_path: Path, store: str) -> None:
    database, next_one = tmp_path / "mlflow.db", tmp_path / "next.db"
    with closing(sqlite3.connect(database)) as first, closing(sqlite3.connect(database)) as writer:
        first.execute("CREATE TABLE runs (name TEXT)")
        first.execute("INSERT INTO runs VALUES ('kept')")
        first.commit()
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO runs VALUES ('half')")
        mlflow_on_head.save(database, store)
        mlflow_on_head.save(database, store)  # over the copy before
    mlflow_on_head.fetch(next_one, store)
    with closing(sqlite3.connect(next_one)) as came:
        assert came.execute("SELECT name FROM runs").fetchall() == [("kept",)]
        assert came.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_first_head_begins_empty_but_one_whose_store_cannot_be_read_does_not_begin(
    tmp_path: Path, store: str
) -> None:
    database = tmp_path / "mlflow.db"
    mlflow_on_head.fetch(database, store)
    assert not database.exists()
    (tmp_path / "store" / "mlflow.db").mkdir()  # something is there, and cannot be read
    with pytest.raises(OSError, match=r"mlflow\.db"):
        mlflow_on_head.fetch(database, store)
    assert not database.exists()


def test_nothing_is_saved_where_there_is_no_database(tmp_path: Path, store: str) -> None:
    with pytest.raises(sqlite3.OperationalError):
        mlflow_on_head.save(tmp_path / "none.db", store)
    assert list((tmp_path / "store").iterdir()) == []


def test_mlflow_takes_the_flags_and_answers_on_this_machine_only() -> None:
    command = mlflow_on_head.server_command(Path("/x/mlflow.db"), "s3://bucket/mlflow", 5000)
    assert command[1:4] == ["-m", "mlflow", "server"]
    told = mlflow_cli.commands["server"].make_context("server", command[4:]).params
    assert told["host"] == "127.0.0.1"
    assert told["backend_store_uri"] == "sqlite:////x/mlflow.db"
    assert told["artifacts_destination"] == "s3://bucket/mlflow/artifacts"


@pytest.mark.parametrize("script", ["spot_notice.py", "mlflow_on_head.py"])
def test_a_script_says_what_it_is_for(script: str) -> None:
    done = subprocess.run([sys.executable, ROOT / "cluster" / script, "--help"], capture_output=True, check=True)
    assert b"gpu.yaml does" in done.stdout
