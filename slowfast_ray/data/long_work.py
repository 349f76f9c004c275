"""Tells how far long work on data is, in lines that a terminal shows without --verbose, too."""

import logging
import time

SHOWN = {"is_shown": True}
"""Marks a note of the log that people wait for (running/commands.py)."""
TELL_EVERY_S = 20.0


class LongWork:
    """Work on so many bytes; short work says nothing."""

    def __init__(self, log: logging.Logger, done: str, num_bytes: int) -> None:
        """`done` begins each line: `Scanned`."""
        self._log, self._done = log, done
        self._num_bytes, self._done_bytes = num_bytes, 0
        self._started = self._told = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._started

    @property
    def is_long(self) -> bool:
        """Whether people have waited for it."""
        return self.seconds > TELL_EVERY_S

    def advance(self, num_bytes: int) -> None:
        """So many more bytes are done."""
        self._done_bytes += num_bytes
        now = time.monotonic()
        if now - self._told > TELL_EVERY_S and self._done_bytes:
            self._told = now
            left_s = self.seconds * (self._num_bytes / self._done_bytes - 1)
            sizes = (self._done_bytes / 1e9, self._num_bytes / 1e9)
            self._log.info("%s %.1f of %.1f GB; about %.0f s left.", self._done, *sizes, left_s, extra=SHOWN)
