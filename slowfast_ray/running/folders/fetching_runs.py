"""Brings a run that is kept at a URL to a folder of this machine."""

from collections.abc import Callable
from pathlib import Path

from slowfast_ray.data import remote
from slowfast_ray.running.folders import storage
from slowfast_ray.running.folders.mirror import Mirror


def check(url: str, folder: Path) -> tuple[Mirror, dict[str, int]]:
    """What would be fetched: the files, each with its size [bytes]. Raises ValueError where there is nothing, or where
    something would be overwritten.
    """
    if not remote.is_url(url):
        raise ValueError(f"`url` (={url}) is a folder already; a run at {' or '.join(remote.SCHEMES)} is fetched.")
    if folder.exists():
        raise ValueError(f"`folder` (={folder}) exists, and nothing is overwritten; name another.")
    storage.check_place(folder.absolute(), "folder")
    files = {name: info.size for name, info in remote.files_at(url.rstrip("/"), "url").items()}
    if not files:
        raise ValueError(f"`url` (={url}) holds nothing; it must be that of a run, a search or a trial.")
    return Mirror(folder, url.rstrip("/")), files


def fetch(home: Mirror, files: dict[str, int], on_file: Callable[[int], None]) -> None:
    """Brings the files into a folder that gets its name once it is whole. Raises ValueError where the storage fails."""
    part = Mirror(home.folder.with_name(f".{home.folder.name}.part"), home.url)
    part.bring(lambda name: name in files, on_file)
    part.folder.rename(home.folder)
