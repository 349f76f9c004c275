"""What MLflow shall know, in order, kept in a journal until the store has taken it. A thread of its own sends it, so
that no outage and no slow store costs a training anything.

Every entry may be written again: a store that took it, but whose answer was lost, is asked for it once more.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from slowfast_ray.running.tracking import tracking_store
from slowfast_ray.running.tracking.tracking_entries import Entry, Opened
from slowfast_ray.running.tracking.tracking_journal import Journal
from slowfast_ray.running.tracking.tracking_store import is_busy, is_refusal, reason_of

log = logging.getLogger(__name__)

SECONDS_BETWEEN_TRIES = 10.0
"""While the store is away it is asked no more often than this."""
SECONDS_TO_PROBE = 5
MAX_FAILURES = 3
"""An entry that fails so often while the store answers lets the others pass: it stays unsent, and is tried again by the
next flush."""
SECONDS_OF_SILENCE = 15.0
"""A flush that takes longer says so; to draw the first pictures takes seconds on a slow machine."""


class Writer(Protocol):
    """Who writes to the store."""

    def write(self, entry: Entry) -> str | None:
        """Writes an entry; gives the id of its run. Raises while the store is away, and where it refuses."""
        ...

    def probe(self) -> object:
        """Asks the store something small. Raises while it is away."""
        ...


class Queue:
    """Entries for the store at `uri`, beginning with what `journal` holds unsent. `took` hears what the store took, and
    under which id, or None where it was refused.
    """

    def __init__(self, uri: str, journal: Journal, writer: Writer, took: Callable[[Entry, str | None], None]) -> None:
        self._uri, self._journal, self._writer, self._took = uri, journal, writer, took
        self._changed = threading.Condition()
        self._is_away = self._is_closed = False
        self._next_try = 0.0
        self._num_failures_of_first = 0
        self._warned_of: set[str] = set()
        self.num_refused = 0
        """Entries that the store will never take; each is named in a warning or in the log."""
        # A flush waits until all is sent, or a try has failed that began after it was asked for.
        self._num_flushes = self._num_flushes_in_vain = 0
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return self._journal.num_unsent

    def put(self, entry: Entry) -> None:
        """Notes an entry, and returns; it is sent after all that came before it."""
        with self._changed:
            self._journal.append(entry)
            self._changed.notify_all()

    def flush(self) -> None:
        """Sends what is unsent now, however short ago the store was away; returns once it is sent, or cannot be."""
        with self._changed:
            self._journal.take_back()
            self._num_flushes += 1
            mine, self._next_try = self._num_flushes, 0.0
            self._changed.notify_all()

            def is_over() -> bool:
                return not self._journal.unsent or self._num_flushes_in_vain >= mine

            if not self._changed.wait_for(is_over, SECONDS_OF_SILENCE):
                log.warning(
                    "%d entries are on their way to MLflow at %s. Ctrl-C leaves them to experiments/sync_tracking.py.",
                    *(len(self), self._uri),
                )
                self._changed.wait_for(is_over)

    def close(self) -> None:
        """Flushes, and ends; what is unsent stays in the journal."""
        self.flush()
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()
        self._journal.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._is_closed and not (self._journal.unsent and time.monotonic() >= self._next_try):
                    wait = self._next_try - time.monotonic() if self._journal.unsent else None
                    self._changed.wait(wait)
                if self._is_closed:
                    return
                num_flushes = self._num_flushes
            if not self._send():
                with self._changed:
                    # Asked for anew while it failed: at once. It counts from the end of the try, which may have hung.
                    if self._num_flushes == num_flushes:
                        self._next_try = time.monotonic() + SECONDS_BETWEEN_TRIES
                    self._num_flushes_in_vain = num_flushes
                    self._changed.notify_all()

    def _send(self) -> bool:
        """Sends until nothing is left; False where the store takes no more."""
        was_away = self._is_away
        try:
            if was_away:
                with tracking_store.environment(
                    MLFLOW_HTTP_REQUEST_MAX_RETRIES="0", MLFLOW_HTTP_REQUEST_TIMEOUT=str(SECONDS_TO_PROBE)
                ):
                    self._writer.probe()
            while self._journal.unsent and not self._is_closed:
                self._write_first(is_answering=was_away)
        except Exception as error:  # each kind of store and of artifact store raises its own
            if not self._is_away:
                self._is_away = True
                log.warning(
                    "MLflow at %s takes no entries; they are kept in %s and sent later (%s).",
                    *(self._uri, self._journal.path, reason_of(error)),
                )
            return False
        return True

    def _write_first(self, *, is_answering: bool) -> None:
        """Writes the first entry, drops it or lets the others pass; raises where it stays the first."""
        _, entry = self._journal.unsent[0]
        run_id = None
        try:
            run_id = self._writer.write(entry)
        except Exception as error:
            if is_refusal(error):
                self.num_refused += 1
                self._tell("refuses %s, which is dropped", entry, error)
            else:
                self._num_failures_of_first += is_answering and not is_busy(error)
                # Nothing can pass the beginning of its run.
                if self._num_failures_of_first < MAX_FAILURES or isinstance(entry, Opened):
                    raise
                self._num_failures_of_first = 0
                self._tell("fails to take %s; it is tried again", entry, error)
                with self._changed:
                    self._journal.put_aside()
                    self._changed.notify_all()
                return
        else:
            self._come_back()
        self._num_failures_of_first = 0
        self._took(entry, run_id)
        with self._changed:
            self._journal.take_first(run_id)
            self._changed.notify_all()

    def _tell(self, what: str, entry: Entry, error: Exception) -> None:
        """One warning a run: one that was deleted in MLflow would give one an epoch. The log has all."""
        level = logging.INFO if entry.run in self._warned_of else logging.WARNING
        self._warned_of.add(entry.run)
        log.log(level, f"MLflow at %s {what} (%s).", self._uri, entry.what, reason_of(error))

    def _come_back(self) -> None:
        if self._is_away:
            self._is_away = False
            log.info("MLflow at %s takes entries again.", self._uri)
