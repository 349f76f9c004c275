"""Folders at a URL, in S3 or Google Cloud Storage: asked for, and kept on this machine while it works with them.

Credentials are those of the machine: its role, AWS_PROFILE, AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS; another
S3 server is named by AWS_ENDPOINT_URL.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from pathlib import Path

import platformdirs
from pyarrow import ArrowInvalid, fs

from slowfast_ray.data.locks import HOST, locked, own
from slowfast_ray.data.long_work import SHOWN, LongWork

log = logging.getLogger(__name__)

SCHEMES = ("s3://", "gs://")
PARTS_OF_A_DATASET = ("annotations", "frames")
FETCHED = ".fetched.json"
"""In a folder's copy on this machine: size and time of each file at its URL when it was fetched."""
SECONDS_TO_ANSWER = 30
NUM_FETCHED_AT_ONCE = 8
"""A file comes over one connection, which S3 serves at some 50 to 100 MB/s."""
_CHUNK_BYTES = 1 << 22
_PART = "part"
"""Of the name of a file that is not whole yet."""
_OF_CREDENTIALS = ("AWS_", "GOOGLE_", "CLOUDSDK_")


def is_url(place: str) -> bool:
    """Whether a place is a URL and no folder of this machine."""
    return "://" in place


def cache_of(url: str, kind: str) -> Path:
    """Where this machine keeps what it has of a URL, by kinds."""
    url = url.rstrip("/")
    digest = hashlib.sha256(url.encode()).hexdigest()[:12]
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", url.split("://", 1)[1])[-60:].strip("-")
    return platformdirs.user_cache_path("slowfast_ray") / kind / f"{readable}-{digest}"


def open_url(url: str, setting: str) -> tuple[fs.FileSystem, str]:
    """The file system of a URL, and the path in it. Raises ValueError where it is none that can be reached."""
    if not url.startswith(SCHEMES):
        raise ValueError(f"`{setting}` (={url}) must be a folder, or begin with {' or '.join(SCHEMES)}.")
    if "@" in url or "?" in url:
        raise ValueError(
            f"`{setting}` must hold no keys and no settings, which would be kept with the run: name the bucket and the "
            "path alone, and give keys by AWS_PROFILE, AWS_ACCESS_KEY_ID or a role, a server by AWS_ENDPOINT_URL."
        )
    path = url.split("://", 1)[1].strip("/")
    if not path:
        raise ValueError(
            f"`{setting}` (={url}) names no bucket; say {url.rstrip('/')}//BUCKET/PATH.".replace("///", "/")
        )
    # By name: MLflow's thread may remove a variable of its own meanwhile.
    names = sorted(name for name in os.environ if name.startswith(_OF_CREDENTIALS))
    given = tuple((name, os.environ[name]) for name in names)
    try:
        return _file_system(url.split("://")[0], path.split("/")[0], given), path
    except (OSError, ArrowInvalid) as error:
        raise ValueError(unreachable(url, setting, error)) from error


@lru_cache(maxsize=16)
def _file_system(scheme: str, bucket: str, given: tuple[tuple[str, str], ...]) -> fs.FileSystem:
    """One for all files of a bucket, as long as the environment gives it the same: each asks anew where the bucket is,
    and connects anew.
    """
    if scheme == "gs":
        return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=SECONDS_TO_ANSWER))
    return fs.FileSystem.from_uri(f"s3://{bucket}")[0]


def files_at(url: str, setting: str) -> dict[str, fs.FileInfo]:
    """The files below a URL, by their paths from there; none where there is nothing. Raises ValueError."""
    filesystem, root = open_url(url, setting)
    try:
        found = filesystem.get_file_info(fs.FileSelector(root, allow_not_found=True, recursive=True))
    except OSError as error:
        raise ValueError(unreachable(url, setting, error)) from error
    return {each.path[len(root) + 1 :]: each for each in found if each.type == fs.FileType.File}


def check_readable(url: str, setting: str) -> None:
    """Raises ValueError unless this machine may ask for what is at a URL."""
    filesystem, path = open_url(url, setting)
    try:
        filesystem.get_file_info(path)
    except OSError as error:
        raise ValueError(unreachable(url, setting, error)) from error


def fetched_dataset(url: str) -> Path:
    """The dataset at a URL, as a folder of this machine; what is there and unchanged is not fetched again.

    Raises ValueError where it cannot be reached, or does not fit on the disk.
    """
    listed = files_at(url, "data.root")
    files = {name: info for name, info in listed.items() if name.split("/", 1)[0] in PARTS_OF_A_DATASET}
    if not files:
        raise ValueError(f"`data.root` (={url}) must hold frames/ and annotations/, but holds neither.")
    return _fetched(url, "data.root", files)


def fetched_weights(url: str) -> Path:
    """The file or the checkpoint folder at a URL, on this machine; with the errors of `fetched_dataset`."""
    files = files_at(url, "model.weights")
    if files:
        return _fetched(url, "model.weights", files)
    filesystem, root = open_url(url, "model.weights")
    info = filesystem.get_file_info(root)
    if info.type != fs.FileType.File:
        raise ValueError(f"`model.weights` (={url}) is neither a file nor a folder; check its name.")
    return _fetched(url, "model.weights", {info.base_name: info}) / info.base_name


def _fetched(url: str, setting: str, files: dict[str, fs.FileInfo]) -> Path:
    folder = cache_of(url, setting.split(".")[1])
    with _writable(folder, url, setting):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock") as is_held, _writable(folder, url, setting):
        if is_held:  # then these are of processes of this machine that were killed; of another's a lock may not know
            for part in folder.rglob(f".*.{_PART}.{HOST}-*"):
                part.unlink(missing_ok=True)
        noted = _noted(folder)
        wanted = {name: info for name, info in files.items() if noted.get(name) != _state(info)}
        if wanted:
            _check_room(folder, sum(info.size for info in wanted.values()), url, setting)
            _fetch(url, setting, wanted, folder, noted)
        for name in noted.keys() - files.keys():
            (folder / name).unlink(missing_ok=True)
            del noted[name]
            _note(folder, noted)
    return folder


def _fetch(url: str, setting: str, wanted: dict[str, fs.FileInfo], folder: Path, noted: dict[str, list[int]]) -> None:
    filesystem, _ = open_url(url, setting)
    num_bytes = sum(info.size for info in wanted.values())
    log.info("Fetching %d files, %.2f GB, from %s.", len(wanted), num_bytes / 1e9, url, extra=SHOWN)
    work = LongWork(log, "Fetched", num_bytes)

    ended = threading.Event()

    def fetch(name: str) -> str:
        _copy(filesystem, wanted[name], folder / name, setting, ended)
        return name

    with ThreadPoolExecutor(NUM_FETCHED_AT_ONCE) as pool:
        try:
            for done in as_completed([pool.submit(fetch, name) for name in sorted(wanted)]):
                name = done.result()
                noted[name] = _state(wanted[name])
                _note(folder, noted)
                log.info("Fetched %s.", name)
                work.advance(wanted[name].size)
        except BaseException:
            ended.set()  # nobody waits for what is on its way
            pool.shutdown(cancel_futures=True)
            raise
    log.info("What was fetched is kept in %s.", folder)


def _copy(filesystem: fs.FileSystem, info: fs.FileInfo, path: Path, setting: str, ended: threading.Event) -> None:
    """The file has its name once it is whole. Raises ValueError where it does not become so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(own(f".{path.name}.{_PART}"))
    try:
        with part.open("wb") as file:
            for piece in _pieces(filesystem, info, setting):
                file.write(piece)  # a full disk is no fault of the storage
                if ended.is_set():
                    raise ValueError(f"{info.path} was not fetched to its end.")
        if part.stat().st_size != info.size:
            raise ValueError(f"{info.path} changed while it was fetched; start again once it is whole.")
        part.rename(path)
    except BaseException:
        part.unlink(missing_ok=True)  # its room is needed
        raise


def _pieces(filesystem: fs.FileSystem, info: fs.FileInfo, setting: str) -> Iterator[bytes]:
    try:
        with filesystem.open_input_stream(info.path) as source:
            while piece := source.read(_CHUNK_BYTES):
                yield piece
    except OSError as error:
        raise ValueError(unreachable(info.path, setting, error)) from error


def _state(info: fs.FileInfo) -> list[int]:
    return [info.size, info.mtime_ns]


def _noted(folder: Path) -> dict[str, list[int]]:
    """What is here, as it was at the URL: files that are gone or of another size are not."""
    try:
        noted: dict[str, list[int]] = json.loads((folder / FETCHED).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # the first time, or after a kill
        return {}
    paths = {name: folder / name for name in noted}
    return {
        name: noted[name] for name, path in paths.items() if path.is_file() and path.stat().st_size == noted[name][0]
    }


def _note(folder: Path, noted: dict[str, list[int]]) -> None:
    unfinished = folder / own(f"{FETCHED}.{_PART}")
    unfinished.write_text(json.dumps(noted), encoding="utf-8")
    unfinished.rename(folder / FETCHED)


def _check_room(folder: Path, num_bytes: int, url: str, setting: str) -> None:
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise ValueError(
            f"`{setting}` (={url}) takes {num_bytes / 1e9:.1f} GB on this machine, but {folder} has "
            f"{free / 1e9:.1f} GB left; name a larger disk by XDG_CACHE_HOME."
        )


@contextmanager
def _writable(folder: Path, url: str, setting: str) -> Iterator[None]:
    """A cache that cannot be written is no fault of the run's own folder: says what it is, and what to do."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"`{setting}` (={url}) is kept on this machine in {folder}, which cannot be written ({error}); make room "
            "there, or name a larger disk by XDG_CACHE_HOME."
        ) from error


def unreachable(url: str, setting: str, error: Exception) -> str:
    """What stands in the way of a URL, with what to do, for an error."""
    reason = str(error).split(" (Request ID")[0].splitlines()[0].rstrip(".")
    remedy = "check its name"
    if re.search("ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE|TOKEN|access token|PERMISSION|UNAUTHENTICATED", reason):
        remedy = "check the credentials of this machine (AWS_PROFILE, AWS_ACCESS_KEY_ID, a role, or gcloud's)"
    elif re.search("NETWORK_CONNECTION|UNAVAILABLE|resolve host|REQUEST_TIMEOUT", reason):
        remedy = "check the network, and AWS_ENDPOINT_URL if it is set"
    return f"`{setting}` (={url}) cannot be reached: {reason}; {remedy}."
