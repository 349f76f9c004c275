"""Starts an MLflow server for a team: runs in PostgreSQL, artifacts in a folder or on S3, a password for each user.

Run       python cluster/mlflow_server.py \\
              --database postgresql+psycopg2://mlflow@localhost/mlflow --artifacts /srv/mlflow
Secrets   MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD: the first administrator; the database's password in
          PGPASSWORD or ~/.pgpass
Needs     pip install 'mlflow[auth]' psycopg2-binary    (and boto3 for S3)
Stop      Ctrl-C or SIGTERM: it stays in the foreground, for a terminal or systemd
More      docs/shared_server.md
"""

import argparse
import errno
import os
import secrets
import socket
import stat
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import sqlalchemy

from slowfast_ray.running.tracking import tracking_database

DEFAULT_FOLDER = Path("~/.config/slowfast_ray/mlflow_server")
SECONDS_TO_ANSWER = 5.0
"""A database that is silent for so long is reported as not answering."""
MIN_PASSWORD = 12
"""MLflow's own rule [characters]."""
KNOWN_PASSWORD = "password1234"
"""Older versions of MLflow shipped it for the administrator."""
AUTH_INI = """\
[mlflow]
# What a user may do in an experiment of another user, without a grant. With READ, MLflow's default, a second search in
# the same experiment is refused.
default_permission = EDIT
# Users, beside the runs: one database to back up. Its password comes from PGPASSWORD or ~/.pgpass here as well.
# A request takes 13 ms instead of 220, since its password is looked up once in so many seconds. So long an old password
# may still be taken.
auth_cache_ttl_seconds = 60
database_uri = {database}
"""


def main() -> None:
    """Checks all that can be wrong, then becomes the server."""
    parser = _parser()
    flags = parser.parse_args()
    try:
        environment = _prepare(flags)
    except ValueError as error:
        parser.exit(2, f"error: {error}\n")
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth"),
        *("--backend-store-uri", flags.database, "--artifacts-destination", _destination(flags.artifacts)),
        *("--host", flags.host, "--port", str(flags.port), "--workers", str(flags.workers)),
    ]
    os.execve(sys.executable, command, environment)


def _parser() -> argparse.ArgumentParser:
    what, _, usage = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=what, epilog=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--database", required=True, help="postgresql+psycopg2://USER@HOST/NAME, without the password")
    parser.add_argument("--artifacts", required=True, help="a folder of this machine, or s3://BUCKET/PATH")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=5000, help="port to listen on (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes of the server (%(default)s)")
    parser.add_argument(
        "--folder", type=Path, default=DEFAULT_FOLDER, help="for its key and settings, closed to others (%(default)s)"
    )
    return parser


def _prepare(flags: argparse.Namespace) -> dict[str, str]:
    """The server's environment, once all is in order; ValueError names what is not."""
    user, password = _administrator()
    if not flags.database.startswith("postgresql"):
        shown = tracking_database.without_password(flags.database)
        raise ValueError(f"`--database` (={shown}) must be a PostgreSQL URI: postgresql+psycopg2://USER@HOST/NAME.")
    _check_artifacts(flags.artifacts)
    _check_port(flags.host, flags.port)
    if tracking_database.check(flags.database, "--database", SECONDS_TO_ANSWER):
        _check_known(flags.database, user, password)
    folder = flags.folder.expanduser().absolute()
    _check_private(folder)
    ini = folder / "basic_auth.ini"
    _write_private(ini, AUTH_INI.format(database=flags.database.replace("%", "%%")))
    environment = {
        **os.environ,
        "MLFLOW_AUTH_CONFIG_PATH": os.fspath(ini),
        "MLFLOW_AUTH_ADMIN_USERNAME": user,
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": os.environ.get("MLFLOW_FLASK_SERVER_SECRET_KEY") or _key(folder),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its jobs are for language models, and run code on the server
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_URI"):
        environment.pop(name, None)  # for clients
    return environment


def _administrator() -> tuple[str, str]:
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in ("USERNAME", "PASSWORD"))
    if not user or not password:
        raise ValueError(
            f"The server needs an administrator; set MLFLOW_TRACKING_USERNAME "
            f"({f'={user}' if user else 'not set'}) and MLFLOW_TRACKING_PASSWORD ({'set' if password else 'not set'})."
        )
    if len(password) < MIN_PASSWORD or password == KNOWN_PASSWORD:
        raise ValueError(
            f"The password of {user} in MLFLOW_TRACKING_PASSWORD must have {MIN_PASSWORD} characters or more (it has "
            f"{len(password)}), and must not be the one that MLflow once shipped; try: openssl rand -base64 18"
        )
    return user, password


def _check_artifacts(artifacts: str) -> None:
    if artifacts.startswith("s3://"):
        if find_spec("boto3") is None:
            raise ValueError(f"`--artifacts` (={artifacts}) needs boto3, which is not installed; pip install boto3.")
        return
    if "://" in artifacts:
        raise ValueError(f"`--artifacts` (={artifacts}) must be a folder or s3://BUCKET/PATH.")
    try:
        Path(_destination(artifacts)).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=_destination(artifacts)):
            pass
    except OSError as error:
        raise ValueError(
            f"`--artifacts` (={artifacts}) cannot be written by this user ({error.strerror}); choose another folder, "
            "or give it to the user: chown."
        ) from error


def _destination(artifacts: str) -> str:
    return artifacts if artifacts.startswith("s3://") else os.fspath(Path(artifacts).expanduser().absolute())


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that has just ended is no hindrance
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        reason = "is taken by another process" if taken else f"cannot be listened on ({error})"
        raise ValueError(f"`--port` (={port}) of `--host` (={host}) {reason}; choose another.") from error


def _check_known(database: str, user: str, password: str) -> None:
    """MLflow keeps the first password of an administrator, and takes no notice of another one."""
    from werkzeug.security import check_password_hash

    engine = sqlalchemy.create_engine(database)
    with engine.connect() as connection:
        if not sqlalchemy.inspect(connection).has_table("users"):
            return
        known = sqlalchemy.text("SELECT password_hash FROM users WHERE username = :user")
        found = connection.execute(known, {"user": user}).scalar()
    if found is not None and not check_password_hash(found, password):
        raise ValueError(
            f"The user {user} has another password in {database} than MLFLOW_TRACKING_PASSWORD says; start with the "
            "old one, and change it on the running server (docs/shared_server.md, Users)."
        )


def _check_private(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = stat.S_IMODE(folder.stat().st_mode)
    except OSError as error:
        raise ValueError(f"`--folder` (={folder}) cannot be made ({error.strerror}); choose another.") from error
    if mode & 0o077:
        raise ValueError(f"`--folder` (={folder}) must be closed to others (mode {mode:o}); chmod 700 {folder}")


def _key(folder: Path) -> str:
    """What signs the forms of all its processes, the same at each start."""
    file = folder / "secret_key"
    if not file.exists():
        _write_private(file, secrets.token_hex(32))
    return file.read_text(encoding="utf-8")


def _write_private(file: Path, text: str) -> None:
    try:
        with tempfile.NamedTemporaryFile("w", dir=file.parent, encoding="utf-8", delete=False) as new:  # mode 600
            new.write(text)
        Path(new.name).replace(file)
    except OSError as error:
        raise ValueError(f"`--folder` (={file.parent}) cannot be written ({error.strerror}).") from error


if __name__ == "__main__":
    main()
