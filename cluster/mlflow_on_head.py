"""MLflow on the head of gpu.yaml, whose disk goes with it: runs in SQLite there, artifacts and copies of runs on S3.

Run       python cluster/mlflow_on_head.py s3://BUCKET/mlflow          in the background: gpu.yaml does
Save      python cluster/mlflow_on_head.py s3://BUCKET/mlflow --save   copies the runs now: before `ray down`
Answers   on 127.0.0.1:5000 only, and asks for no password: who may log in to the head may see it
More      mlflow_server.py, for a team, with users
"""

import argparse
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from pyarrow import fs

log = logging.getLogger("mlflow_on_head")

DATABASE = "mlflow.db"
SECONDS_BETWEEN_COPIES = 600
"""So much of the runs' history is lost where the head is lost."""


def main() -> None:
    """Fetches the runs that an earlier head left, starts the server, and copies its runs as long as it lives."""
    what, _, usage = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=what, epilog=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", help="where artifacts and the copy go: s3://BUCKET/PATH")
    parser.add_argument("--folder", type=Path, default=Path("~/mlflow"), help="for the database (%(default)s)")
    parser.add_argument("--port", type=int, default=5000, help="port to listen on (%(default)s)")
    parser.add_argument("--save", action="store_true", help="copy the runs, and end")
    flags = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    database = flags.folder.expanduser().absolute() / DATABASE
    if flags.save:
        save(database, flags.store)
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    if not database.exists():
        fetch(database, flags.store)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that `finally` takes the server along
    server = subprocess.Popen(server_command(database, flags.store, flags.port), env=_environment())
    try:
        _save_while_it_lives(server, database, flags.store)
    finally:
        server.terminate()
    sys.exit(server.wait())


def fetch(database: Path, store: str) -> None:
    """Brings back the runs of an earlier head, if there was one. OSError where the store cannot be asked.

    A server that began empty then would have its emptiness copied over them.
    """
    filesystem, path = fs.FileSystem.from_uri(f"{store}/{DATABASE}")
    if filesystem.get_file_info(path).type == fs.FileType.NotFound:
        log.info("No runs at %s yet: a new database.", store)
        return
    coming = database.with_suffix(".coming")
    fs.copy_files(path, os.fspath(coming), source_filesystem=filesystem, destination_filesystem=fs.LocalFileSystem())
    coming.replace(database)
    log.info("The runs of an earlier head came from %s.", store)


def save(database: Path, store: str) -> None:
    """Copies the runs to the store, whole even where the server writes at that moment. OSError where it cannot."""
    copy = database.with_suffix(".copy")
    copy.unlink(missing_ok=True)
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        connection.execute("VACUUM INTO ?", [os.fspath(copy)])
    finally:
        connection.close()
    filesystem, path = fs.FileSystem.from_uri(f"{store}/{DATABASE}")
    fs.copy_files(os.fspath(copy), path, source_filesystem=fs.LocalFileSystem(), destination_filesystem=filesystem)
    log.info("The runs were copied to %s.", store)


def _save_while_it_lives(server: subprocess.Popen[bytes], database: Path, store: str) -> None:
    due = time.monotonic() + SECONDS_BETWEEN_COPIES
    while server.poll() is None:
        time.sleep(1)
        if time.monotonic() > due:
            due = time.monotonic() + SECONDS_BETWEEN_COPIES
            try:
                save(database, store)
            except (OSError, sqlite3.Error) as error:
                log.error("The runs could not be copied to %s: %s", store, error)


def server_command(database: Path, store: str, port: int) -> list[str]:
    """Of MLflow's, in the foreground."""
    return [
        *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{database}"),
        *("--artifacts-destination", f"{store}/artifacts", "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "1"),
    ]


def _environment() -> dict[str, str]:
    # The jobs are for language models, and run code on the server.
    return {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


if __name__ == "__main__":
    main()
