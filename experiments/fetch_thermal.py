"""How does a run that is kept in S3 or Google Cloud Storage come to this machine?

Run       python experiments/fetch_thermal.py s3://BUCKET/runs/NAME runs/NAME
Laptop    the same; a trial alone: s3://BUCKET/runs/NAME/trial-007
Cost      as long as the network takes; a search of the thermal dataset is about 100 MB
Expected  the folder as it would be after a run here: evaluate_thermal.py, register_thermal.py and --resume take it
"""

from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

from slowfast_ray.running import commands
from slowfast_ray.running.flags import FetchFlags
from slowfast_ray.running.folders import fetching_runs


def main() -> None:
    """Checks, fetches, and says what came."""
    flags = commands.parse_plain(FetchFlags, __doc__ or "")
    with commands.exits_cleanly():
        home, files = fetching_runs.check(flags.url, flags.folder)
    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    with commands.exits_cleanly(), Progress(*columns, transient=True) as progress:
        task = progress.add_task(flags.folder.name, total=sum(files.values()))
        fetching_runs.fetch(home, files, lambda num_bytes: progress.advance(task, num_bytes))
    print(f"{flags.folder}: {len(files)} files, {sum(files.values()) / 2**20:.1f} MB from {flags.url}.")


if __name__ == "__main__":
    main()
