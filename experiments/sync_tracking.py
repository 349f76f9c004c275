"""What did MLflow miss, because it was away when a run or a search ended or died?

Run       python experiments/sync_tracking.py runs            (all runs in the folder; or runs/NAME)
Laptop    the same
Cost      about 20 ms an entry on SQLite, 100 ms over HTTP
Expected  a line for each journal that was left; no line where nothing was

What was missed is sent. A search that lives sends its own. Runs that a dead driver left open are marked as stopped;
--resume goes on with them.
"""

import sys

from rich.progress import Progress

from slowfast_ray.running import commands
from slowfast_ray.running.flags import SyncFlags
from slowfast_ray.running.tracking import tracking_sync
from slowfast_ray.running.tracking.tracking_sync import Synced


def main() -> None:
    """Sends each journal, and says what became of it."""
    flags = commands.parse_plain(SyncFlags, __doc__ or "")
    with commands.exits_cleanly():
        found = tracking_sync.journals(flags.folders)
    if not found:
        print("Nothing is left to be sent.")
        return
    is_all_sent = True
    with Progress(transient=True) as progress:
        for path in found:
            task = progress.add_task(path.parent.name, total=tracking_sync.num_entries(path))
            try:
                synced = tracking_sync.send(path, flags.tracking_uri, lambda task=task: progress.advance(task))
            except ValueError as error:  # others may have another store
                line, is_all_sent = f"error: {path.parent}: {error}", False
            else:
                line, is_all_sent = line_of(synced), is_all_sent and not (synced.num_unsent or synced.num_refused)
            progress.console.print(line, highlight=False, markup=False, soft_wrap=True)
    if not is_all_sent:
        sys.exit(1)


def line_of(synced: Synced) -> str:
    """What became of a journal, for people."""
    if synced.is_in_use:
        return f"{synced.folder}: its run lives, and sends what is left itself."
    ended = f"; {synced.num_ended} open run(s) marked as stopped" if synced.num_ended else ""
    left = f"; {synced.num_unsent} not taken, try again later" if synced.num_unsent else ""
    refused = f"; {synced.num_refused} refused for good" if synced.num_refused else ""
    return f"{synced.folder}: {synced.num_sent} entries sent to {synced.uri}{ended}{left}{refused}."


if __name__ == "__main__":
    main()
