"""Locks between the processes that fill one cache: they end with their process, however that ends."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock

log = logging.getLogger(__name__)

HOST = socket.gethostname()


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Holds a lock, and says whether it does: where the file system knows none, nobody waits, and work may be done
    twice. A file that stands for a lock would outlive a machine that goes away, and all others would wait for ever.
    """
    with ExitStack() as stack:
        is_held = True
        try:
            stack.enter_context(FileLock(path, fallback_to_soft=False))
        except (OSError, NotImplementedError) as error:
            log.info("%s cannot be locked (%s): processes that start together work alone.", path, error)
            is_held = False
        yield is_held


def own(name: str) -> str:
    """A name that no other process uses, on whatever machine."""
    return f"{name}.{HOST}-{os.getpid()}"
