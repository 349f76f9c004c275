"""A PostgreSQL of its own and cluster/mlflow_server.py on it, for tests."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import pytest
import requests

from slowfast_ray.running.tracking import tracking
from tests.running.conftest import ASK_STORE, ROOT

BOSS, BOSS_PASSWORD = "boss", "the%boss's secret"
DATABASE_PASSWORD = "of the database"
USERS = {"anna": "anna's own secret", "bert": "bert's own secret"}
SECRETS = (*USERS.values(), BOSS_PASSWORD, DATABASE_PASSWORD, "not the password")
FOLDERS = ("/usr/lib/postgresql", "/usr/pgsql", "/usr/local/pgsql", "/usr/local", "/opt/homebrew/opt")
"""Where packages put initdb, which Debian keeps out of PATH."""


def programs() -> Path:
    """The folder of PostgreSQL's programs; tests that need it are skipped without."""
    found = shutil.which("initdb")
    candidates = sorted(path for top in FOLDERS for path in Path(top).parent.glob(f"{Path(top).name}*/**/bin/initdb"))
    if found is None and not candidates:
        pytest.skip("PostgreSQL is not installed: no initdb in PATH or the usual folders")
    return Path(found or candidates[-1]).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """A running cluster with the database mlflow and its owner mlflow; gives its URI, without the password."""
    bin_folder, port = programs(), free_port()
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as name:  # short: its socket has room for 100 characters
        who = {}
        if not os.geteuid():  # PostgreSQL refuses to run as root
            nobody = pwd.getpwnam("nobody")
            os.chown(name, nobody.pw_uid, nobody.pw_gid)
            who = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        secret, data = Path(name) / "secret", Path(name) / "data"
        secret.write_text("of the superuser")
        secret.chmod(0o644)
        make = [
            bin_folder / "initdb",
            "-D",
            data,
            "-U",
            "super",
            "--auth=scram-sha-256",
            "--pwfile",
            secret,
            "--no-sync",
        ]
        subprocess.run(make, check=True, cwd=name, stdout=subprocess.DEVNULL, **who)
        run = [bin_folder / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", name, "-F"]
        process = subprocess.Popen(run, cwd=name, stderr=subprocess.DEVNULL, **who)
        try:
            _make_database(port)
            yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/mlflow"
        finally:
            process.send_signal(signal.SIGINT)  # ends without waiting for its clients
            process.wait(timeout=600)


def _make_database(port: int) -> None:
    until = time.monotonic() + 300
    while True:
        try:
            connection = psycopg2.connect(
                host="127.0.0.1", port=port, user="super", password="of the superuser", dbname="postgres"
            )
            break
        except psycopg2.OperationalError:
            assert time.monotonic() < until, "PostgreSQL does not start"
            time.sleep(0.1)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("CREATE ROLE mlflow LOGIN PASSWORD %s", (DATABASE_PASSWORD,))
        cursor.execute("CREATE DATABASE mlflow OWNER mlflow")
    connection.close()


@dataclass
class TeamServer:
    """cluster/mlflow_server.py in a process group of its own."""

    database: str
    folder: Path
    port: int

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self, **flags: str) -> list[str]:
        """The command that starts it, with some flags changed."""
        all_flags = {
            "database": self.database,
            "artifacts": os.fspath(self.folder / "artifacts"),
            "port": str(self.port),
            "folder": os.fspath(self.folder / "private"),
            **flags,
        }
        script = os.fspath(ROOT / "cluster" / "mlflow_server.py")
        return [sys.executable, script, *(text for name, value in all_flags.items() for text in (f"--{name}", value))]

    def environment(self, **changes: str) -> dict[str, str]:
        """The secrets that it starts with, with some changed."""
        return {
            **os.environ,
            "MLFLOW_TRACKING_USERNAME": BOSS,
            "MLFLOW_TRACKING_PASSWORD": BOSS_PASSWORD,
            "PGPASSWORD": DATABASE_PASSWORD,
            **changes,
        }

    def start(self) -> None:
        """Returns once it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), env=self.environment(), stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + 600
        num_in_a_row = 0
        while num_in_a_row < 10:  # it has two processes, and either may answer
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < until, (self.folder / "log").read_text()
            num_in_a_row = num_in_a_row + 1 if self._answers() else 0
            time.sleep(0.1)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return requests.get(f"{self.uri}{ASK_STORE}", auth=(BOSS, BOSS_PASSWORD), timeout=60).ok
        return False

    def stop(self) -> None:
        """Asks it to end, as systemd does, and waits."""
        self.process.terminate()
        self.process.wait(timeout=60)

    def kill(self) -> None:
        """With all its processes, whatever they are at."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=60)

    def add_user(self, name: str, password: str) -> None:
        """As the administrator."""
        answer = requests.post(
            f"{self.uri}/api/2.0/mlflow/users/create",
            json={"username": name, "password": password},
            auth=(BOSS, BOSS_PASSWORD),
            timeout=300,
        )
        assert answer.status_code == 200, answer.text


def refusal_of(uri: str) -> str:
    """The one error of a store that cannot be used: soon, in one line, without a password."""
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"MLflow|tracking|run\.tracking_uri") as caught:
        tracking.check(uri)
    assert time.monotonic() - started < 60, "MLflow itself tries for 100 s and more"
    error = str(caught.value)
    assert "\n" not in error
    assert not any(secret in error for secret in SECRETS)
    return error
