"""The journal of a run or a search: what MLflow shall know is on disk first, and goes to the store from there.

One file in the run's folder for each store, `tracking-<digest>.jsonl`: a line that names the store, then a line for
each entry, and one for each that the store took. A line that was cut off by a kill is left out. The file goes when all
is sent; one that lies there, and is not locked, is what a dead driver left (experiments/sync_tracking.py).
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
from collections import deque
from io import FileIO
from pathlib import Path
from typing import Any

from slowfast_ray.running.tracking import tracking_entries
from slowfast_ray.running.tracking.tracking_entries import Ended, Entry, Opened

log = logging.getLogger(__name__)

VERSION = 1
PATTERN = "tracking-*.jsonl"


class InUseError(ValueError):
    """Another process writes this journal."""


class Journal:
    """Opens the journal of `folder` for one store, or makes it. Raises InUseError where another process has it open,
    and ValueError for one that cannot be read.
    """

    def __init__(self, folder: Path, uri: str, experiment: str) -> None:
        digest = hashlib.sha256(f"{uri} {experiment}".encode()).hexdigest()[:8]
        self.path = folder / f"tracking-{digest}.jsonl"
        self.unsent: deque[tuple[int, Entry]] = deque()
        """What the store has not taken, in order, with the numbers of the entries."""
        self.aside: deque[tuple[int, Entry]] = deque()
        """What is unsent as well, but failed while others did not: it is tried again after them."""
        self.run_ids: dict[str, str | None] = {}
        """The ids of the runs that the store took before, by their folders; None of those that it refused."""
        self.unended: list[str] = []
        """Runs that were opened and not ended, in order, by their folders: those of a driver that lives, or died."""
        self._num_entries = 0
        self._is_failing = False
        folder.mkdir(parents=True, exist_ok=True)
        self._file = _opened(self.path)
        try:
            self._size = self._read()
        except ValueError:
            self._file.close()
            raise
        if not self._size:
            self._write({"journal": VERSION, "uri": uri, "experiment": experiment})

    def append(self, entry: Entry) -> None:
        """Notes an entry that is not sent yet."""
        self.unsent.append((self._num_entries, entry))
        self._follow(entry)
        self._write({"entry": self._num_entries, **tracking_entries.to_json(entry)})
        self._num_entries += 1

    def take_first(self, run_id: str | None) -> None:
        """Notes that the store took the first unsent entry, or refused it for ever, and the id of its run."""
        number, entry = self.unsent.popleft()
        values: dict[str, Any] = {"sent": number}
        if isinstance(entry, Opened):
            values |= {"run": entry.run, "id": run_id}
        self._write(values)

    @property
    def num_unsent(self) -> int:
        """Entries that the store did not take yet."""
        return len(self.unsent) + len(self.aside)

    def put_aside(self) -> None:
        """Lets the others pass the first unsent entry."""
        self.aside.append(self.unsent.popleft())

    def take_back(self) -> None:
        """What was put aside is in the queue again, behind all others."""
        self.unsent.extend(self.aside)
        self.aside.clear()

    def close(self) -> None:
        """Closes the file, and deletes it where nothing is unsent and no run is left open."""
        if not self.num_unsent and not self.unended:
            self.path.unlink(missing_ok=True)
        self._file.close()

    def _follow(self, entry: Entry) -> None:
        if isinstance(entry, Opened | Ended) and entry.run in self.unended:
            self.unended.remove(entry.run)
        if isinstance(entry, Opened):
            self.unended.append(entry.run)

    def _write(self, values: dict[str, Any]) -> None:
        line = (json.dumps(values, separators=(",", ":")) + "\n").encode()
        try:
            # No fsync: a kill of the process loses nothing, and after a power cut the checkpoints know all epochs.
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._size += len(line)
        except OSError as error:
            with contextlib.suppress(OSError):  # half a line would spoil the next one
                self._file.truncate(self._size)
            if not self._is_failing:
                log.warning("%s cannot be written (%s): what MLflow lacks is kept in memory only.", self.path, error)
            self._is_failing = True

    def _read(self) -> int:
        """Reads what is there; gives its length in bytes, without a line that a kill cut off."""
        self._file.seek(0)
        content = self._file.readall() or b""
        whole, _, _ = content.rpartition(b"\n")
        entries: dict[int, Entry] = {}
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                values = json.loads(line)
                if number == 1 and values["journal"] != VERSION:
                    raise ValueError(f"its format is {values['journal']}, and this version writes {VERSION}")
                if "sent" in values:
                    entries.pop(values["sent"], None)
                    if "run" in values:
                        self.run_ids[values["run"]] = values["id"]
                elif "entry" in values:
                    at = values.pop("entry")
                    entries[at] = tracking_entries.from_json(values)
                    self._follow(entries[at])
                    self._num_entries = max(self._num_entries, at + 1)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"Line {number} of {self.path}, the journal of what MLflow lacks, cannot be read ({error}); move "
                    "it away: --resume tells MLflow again what is on disk."
                ) from error
        self.unsent.extend(sorted(entries.items()))
        size = len(whole) + 1 if whole else 0
        self._file.truncate(size)
        return size


def of_store(path: Path) -> tuple[str, str]:
    """The URI and the MLflow experiment that a journal is for. Raises ValueError for another file."""
    try:
        with path.open(encoding="utf-8") as file:
            values = json.loads(file.readline())
        return values["uri"], values["experiment"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no journal, or a damaged one ({error}).") from error


def _opened(path: Path) -> FileIO:
    while True:
        file = FileIO(path, "a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise InUseError(
                f"{path.parent} is being written by another process, which also tells MLflow; wait for its end."
            ) from None
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # whoever had it sent all and deleted it in this very moment
