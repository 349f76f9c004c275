"""What MLflow shall know, in order, kept until the store has taken it: an outage costs a call little and loses nothing.

Every entry may be written again: a store that took it, but whose answer was lost, is asked for it once more.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from slowfast_ray.running import tracking_store
from slowfast_ray.running.tracking_store import is_busy, is_refusal, reason_of

log = logging.getLogger(__name__)

SECONDS_BETWEEN_TRIES = 10.0
"""While the store is away it is asked no more often than this, and for no more than a fifth of the time."""
SECONDS_TO_PROBE = 5
MAX_FAILURES = 3
"""An entry that fails so often while the store answers everything else is dropped."""


@dataclass
class _Entry:
    what: str
    write: Callable[[], object]
    num_failures: int = 0


class Queue:
    """Entries for the store at `uri`; `probe` asks it something small, and raises while it is away."""

    def __init__(self, uri: str, probe: Callable[[], object]) -> None:
        self._uri, self._probe = uri, probe
        self._entries: deque[_Entry] = deque()
        self._is_away = False
        self._next_try = 0.0

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, what: str, write: Callable[[], object]) -> None:
        """Writes, after what is still unsent. `what` names the entry, should it be refused."""
        self._entries.append(_Entry(what, write))
        if time.monotonic() >= self._next_try:
            self.flush()

    def flush(self) -> None:
        """Sends what is unsent now, however short ago the store was away."""
        started, was_away, self._next_try = time.monotonic(), self._is_away, 0.0
        try:
            if was_away and self._entries:
                with tracking_store.environment(
                    MLFLOW_HTTP_REQUEST_MAX_RETRIES="0", MLFLOW_HTTP_REQUEST_TIMEOUT=str(SECONDS_TO_PROBE)
                ):
                    self._probe()
            while self._entries:
                self._write_first(is_answering=was_away)
                self._come_back()
        except Exception as error:  # each kind of store and of artifact store raises its own
            now = time.monotonic()
            self._next_try = now + max(SECONDS_BETWEEN_TRIES, 4 * (now - started))
            if not self._is_away:
                self._is_away = True
                log.warning(
                    "MLflow at %s takes no entries; they are kept and sent later (%s).", self._uri, reason_of(error)
                )

    def _write_first(self, *, is_answering: bool) -> None:
        """Writes the first entry or drops it; raises where it stays."""
        entry = self._entries[0]
        try:
            entry.write()
        except Exception as error:
            entry.num_failures += is_answering and not is_busy(error)
            if not is_refusal(error) and entry.num_failures < MAX_FAILURES:
                raise
            log.warning("MLflow at %s refuses %s, which is dropped (%s).", self._uri, entry.what, reason_of(error))
        self._entries.popleft()

    def _come_back(self) -> None:
        if self._is_away:
            self._is_away = False
            log.info("MLflow at %s takes entries again.", self._uri)
