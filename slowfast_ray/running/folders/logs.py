"""What the package has to say of a run, kept in a file of its folder, whatever the terminal shows."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOG = "log.txt"
"""In the folder of a run, a trial or a search, and in MLflow."""

PACKAGE = logging.getLogger("slowfast_ray")


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Appends the package's log, from INFO on, to `folder`/log.txt for the duration of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder / LOG, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    level = PACKAGE.level
    PACKAGE.addHandler(handler)
    PACKAGE.setLevel(logging.INFO)  # the terminal has a level of its own (commands.quiet_logs)
    try:
        yield
    finally:
        PACKAGE.setLevel(level)
        PACKAGE.removeHandler(handler)
        handler.close()
