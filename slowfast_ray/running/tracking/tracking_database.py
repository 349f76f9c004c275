"""Whether a database answers, PostgreSQL or a file, told within seconds and without a password in the text.

Imports nothing of the package: cluster/mlflow_server.py runs it on machines without torch and Ray.
"""

import contextlib
import re
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import sqlalchemy
from sqlalchemy.exc import SQLAlchemyError

T = TypeVar("T")


def without_password(message: str) -> str:
    """A text with the passwords of all URIs in it as ***."""
    message = re.sub(r"(://[^/:@\s]*):.*@", r"\1:***@", message)  # to the last @: a password may hold some
    return re.sub(r"(?i)([?&](?:ssl)?password=)[^&]*", r"\1***", message)


def has_tables_in_file(uri: str) -> bool:
    """Whether the SQLite file at `uri` has MLflow's tables, or gets them with the first entry. Raises ValueError
    where it is no database; MLflow would try ten times over, for two minutes.
    """
    path = Path(uri.removeprefix("sqlite:///"))
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            return bool(database.execute("SELECT name FROM sqlite_master WHERE name = 'experiments'").fetchall())
    except sqlite3.Error as error:
        raise ValueError(
            f"The tracking store {uri} does not answer; check `run.tracking_uri` and that it is MLflow's ({error})."
        ) from error


def within(seconds: float, call: Callable[[], T]) -> T:
    """The result of `call`, or what it raises; TimeoutError after `seconds`.

    What is still running then is left behind, and does not keep the process from exiting, as a ThreadPoolExecutor does.
    """
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(call())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError
    return results[0]


def check(uri: str, name: str, seconds: float) -> bool:
    """Whether the PostgreSQL database at `uri` holds MLflow's tables already. Writes nothing.

    Raises ValueError, which calls the URI by `name`, unless the database answers within `seconds`, takes the password,
    and lets the user make tables where there are none.
    """
    shown = without_password(uri)
    if shown != uri:
        raise ValueError(
            f"The database `{name}` (={shown}) must be named without its password, which files and lists of processes "
            "would show; take it out, and set PGPASSWORD or write ~/.pgpass."
        )
    # MLflow itself tries ten times, over 100 s, under a lock that no other store gets past.
    try:
        has_tables, may_create = within(seconds, lambda: _look(uri, seconds))
    except TimeoutError as error:
        raise ValueError(
            f"The database `{name}` (={shown}) did not answer within {seconds:g} s; check its host and port, "
            "and that nothing between drops the connection."
        ) from error
    except ModuleNotFoundError as error:
        raise ValueError(
            f"The database `{name}` (={shown}) needs {error.name}, which is not installed; write "
            "postgresql+psycopg2:// with pip install psycopg2-binary, or postgresql:// with pip install "
            "'psycopg[binary]'."
        ) from error
    except (SQLAlchemyError, ValueError) as error:
        raise ValueError(
            f"The database `{name}` (={shown}) refuses or does not answer ({_reason_of(error)}); check that it runs, "
            "its name, the user, and the password in PGPASSWORD or ~/.pgpass."
        ) from error
    if not has_tables and not may_create:
        raise ValueError(
            f"The database `{name}` (={shown}) has no MLflow tables, and its user may make none; let the user own it: "
            "CREATE DATABASE ... OWNER ..."
        )
    return has_tables


def _look(uri: str, seconds: float) -> tuple[bool, bool]:
    # libpq waits so long for each address, and localhost has two.
    engine = sqlalchemy.create_engine(uri, connect_args={"connect_timeout": int(seconds)})
    try:
        with engine.connect() as connection:
            has_tables = sqlalchemy.inspect(connection).has_table("experiments")
            allowed = connection.execute(
                sqlalchemy.text("SELECT has_schema_privilege(current_schema(), 'CREATE')")
            ).scalar()
            return has_tables, bool(allowed)
    finally:
        engine.dispose()


def _reason_of(error: Exception) -> str:
    """The driver's own words, in one line."""
    words = str(getattr(error, "orig", None) or error)
    return "; ".join(line.strip() for line in words.splitlines() if line.strip())
