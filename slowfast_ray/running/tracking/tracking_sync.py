"""Sends what dead drivers left in their journals, and ends the runs that they left open."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from slowfast_ray.running.tracking import tracking, tracking_journal
from slowfast_ray.running.tracking.tracking_entries import Ended
from slowfast_ray.running.tracking.tracking_journal import InUseError, Journal
from slowfast_ray.running.tracking.tracking_queue import Queue
from slowfast_ray.running.tracking.tracking_writer import StoreWriter


@dataclass(frozen=True)
class Synced:
    """What became of a journal."""

    folder: Path
    """Of the run or the search."""
    uri: str
    """Of the store."""
    num_sent: int = 0
    num_unsent: int = 0
    num_refused: int = 0
    """Entries that the store will never take, and that are dropped."""
    num_ended: int = 0
    """Runs that were open, and are stopped now."""
    is_in_use: bool = False
    """Whether a process that lives writes it, and sends it itself."""


def journals(places: Sequence[Path]) -> list[Path]:
    """The journals in some folders of runs or searches, or of several of these.

    Raises ValueError for a folder that does not exist.
    """
    for place in places:
        if not place.is_dir():
            raise ValueError(f"There is no folder {place}; name that of a run, of a search, or of all of them.")
    found = [
        path
        for place in places
        for path in (*place.glob(tracking_journal.PATTERN), *place.glob(f"*/{tracking_journal.PATTERN}"))
    ]
    return sorted({path.absolute() for path in found})


def send(path: Path, uri: str | None = None, on_entry: Callable[[], None] = lambda: None) -> Synced:
    """Sends the journal at `path` to its store, or to that store under another address, `uri`.

    Raises ValueError where it cannot be read, where the store does not answer, and where it is another one.
    """
    own_uri, experiment = tracking_journal.of_store(path)
    uri = tracking.resolve_uri(uri or own_uri)
    try:
        journal = Journal(path.parent, own_uri, experiment)
    except InUseError:
        return Synced(path.parent, uri, is_in_use=True)
    writer = StoreWriter(uri, experiment, journal.run_ids)
    try:
        tracking.check(uri)
        writer.check_known()
    except ValueError:
        journal.close()
        raise
    num_unsent, open_runs = len(journal.unsent), list(reversed(journal.unended))  # children before their parents
    queue = Queue(uri, journal, writer, lambda *_: on_entry())
    for run in open_runs:
        queue.put(Ended(run, "stopped", "Its driver died; --resume goes on with it.", int(time.time() * 1000)))
    queue.close()
    num_sent = num_unsent + len(open_runs) - len(queue) - queue.num_refused
    return Synced(path.parent, uri, num_sent, len(queue), queue.num_refused, len(open_runs))


def num_entries(path: Path) -> int:
    """About how many entries are to be sent, for a progress bar: lines that are not crossed out."""
    lines = path.read_bytes().splitlines()
    num_sent = sum(line.startswith(b'{"sent"') for line in lines)
    return max(0, len(lines) - 1 - 2 * num_sent)
