"""The cache of what lies at a URL: a full disk, and a file system without locks. A real S3 server, moto's."""

import errno
import fcntl
import os
import resource
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from slowfast_ray.data import locks, remote
from tests.running import s3_server
from tests.running.s3_server import S3

LIMIT_BYTES = 100_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with s3_server.started(tmp_path_factory.mktemp("moto")) as started:
        yield started


@pytest.fixture
def url(server: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Of a dataset with a small file and a larger one; this process can reach it, and has a cache of its own."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, size in (("annotations/train.json", 20), ("frames/a.h5", 3 * LIMIT_BYTES)):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * size)
    server.upload(tmp_path / "data", tmp_path.name)
    return f"s3://{server.bucket}/{tmp_path.name}"


@pytest.fixture
def no_large_files(url: str) -> Iterator[None]:
    """From now on the system refuses to write more into a file, as where a disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("no_large_files")
def test_a_cache_that_cannot_be_written_on_is_named_with_what_to_do(url: str) -> None:
    folder = remote.cache_of(url, "root")
    with pytest.raises(ValueError, match=rf"`data\.root` \(={url}\).* in {folder}, .*too large.*XDG_CACHE_HOME"):
        remote.fetched_dataset(url)
    assert not [name for name in files_in(folder) if ".part" in name], "what was begun takes no room"


def test_what_killed_processes_left_is_removed(url: str) -> None:
    frames = remote.cache_of(url, "root") / "frames"
    frames.mkdir(parents=True)
    (frames / f".a.h5.part.{locks.HOST}-123").write_bytes(b"some")
    others = ".a.h5.part.elsewhere-123"  # which another machine may be writing, whose locks are its own
    (frames / others).write_bytes(b"some")
    folder = remote.fetched_dataset(url)
    kept = {remote.FETCHED, "annotations/train.json", "frames/a.h5", f"frames/{others}"}
    assert files_in(folder) - {".lock"} == kept


def test_a_machine_that_went_away_blocks_nobody_where_the_file_system_has_no_locks(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    folder = remote.cache_of(url, "root")
    others = folder / "frames" / ".a.h5.part.elsewhere-123"
    others.parent.mkdir(parents=True)
    others.write_bytes(b"some")  # which another machine may be writing
    (folder / ".lock").write_text("123\nelsewhere\n")
    fetched: list[Path] = []
    thread = threading.Thread(target=lambda: fetched.append(remote.fetched_dataset(url)), daemon=True)
    thread.start()
    thread.join(20)
    assert fetched == [folder]
    assert (folder / "frames" / "a.h5").stat().st_size == 3 * LIMIT_BYTES
    assert others.read_bytes() == b"some"


def test_no_two_processes_write_one_unfinished_file() -> None:
    assert locks.own(".a.part") == f".a.part.{socket.gethostname()}-{os.getpid()}"
