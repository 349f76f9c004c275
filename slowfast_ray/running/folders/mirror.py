"""What a run keeps at a URL: the same folder as on the machine that writes it, so that it outlives that machine.

With a folder that all machines see as `run.storage` there is nothing to mirror: each method then does nothing. A
checkpoint is sent file by file, its checksums last, so that one without them is not whole; whoever goes on anywhere
else brings what is there first.
"""

import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from filelock import FileLock
from pyarrow import fs

from slowfast_ray.data import remote
from slowfast_ray.learning import checkpoint, checksums

log = logging.getLogger(__name__)

SECONDS_BETWEEN_TRIES = 10.0
NUM_TRIES = 30
"""A storage may be away for five minutes where a run begins or ends; between, it is asked again after each epoch."""


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Mirror:
    """A folder of this machine, and its like at a URL."""

    folder: Path
    url: str = ""
    """Empty where the folder itself is what everybody sees."""
    on_progress: Callable[[], None] = field(default=_nothing, compare=False)
    """Called for each file that is sent, and before each new try: whoever waits for it sees that it gets on."""

    def below(self, name: str) -> "Mirror":
        """Of a folder in it."""
        return replace(self, folder=self.folder / name, url=f"{self.url}/{name}" if self.url else "")

    def place_of(self, name: str) -> str:
        """Where others find a file or folder in it."""
        return f"{self.url}/{name}" if self.url else os.fspath(self.folder / name)

    @property
    def place(self) -> str:
        """For people."""
        return self.url or os.fspath(self.folder)

    def num_bytes(self) -> int:
        """What the checkpoints in it take, there or here [bytes]."""
        if self.url:
            return sum(info.size for name, info in self._listed().items() if "/epoch-" in f"/{name}")
        return sum(file.stat().st_size for file in self.folder.glob("**/epoch-*/*") if file.is_file())

    def check_writable(self) -> None:
        """Raises ValueError unless a file can be kept at the URL; leaves none."""
        filesystem, root = remote.open_url(self.url, "run.storage")
        probe = f"{root}/.probe-{uuid.uuid4().hex}"
        try:
            with filesystem.open_output_stream(probe) as stream:
                stream.write(b"probe")
            filesystem.delete_file(probe)
        except OSError as error:
            raise ValueError(remote.unreachable(self.url, "run.storage", error)) from error

    def exists(self) -> bool:
        """Whether anything is kept. Raises ValueError where the storage cannot be reached."""
        return bool(remote.files_at(self.url, "run.storage")) if self.url else self.folder.exists()

    def send(self, *names: str) -> None:
        """Sends files, as they are now. Raises ValueError where that fails."""
        for name in names if self.url else ():
            self._copy_up(self.folder / name, name)

    def bring(self, wanted: Callable[[str], bool], on_file: Callable[[int], None] = lambda num_bytes: None) -> None:
        """Brings the files whose paths are wanted, over those that are here; `on_file` hears of the size of each one
        [bytes]. Raises ValueError where that fails.
        """
        if self.url:
            self._bring({name: info for name, info in self._listed().items() if wanted(name)}, on_file)

    def send_checkpoints(self, *, is_last: bool) -> None:
        """Sends the checkpoints that are not there yet, and removes those there that are no longer here. A storage that
        is away is asked again next time, at the last epoch for five minutes; then raises ValueError.
        """
        if not self.url:
            return
        if is_last:
            patiently(self._send_checkpoints, self.on_progress)
            return
        try:
            self._send_checkpoints()
        except ValueError as error:
            log.warning("The checkpoint stays in %s for now: %s", self.folder, error)

    def bring_checkpoints(
        self, *, without: Iterable[str] = (), with_files: Iterable[str] = (), as_there: bool = False
    ) -> None:
        """Brings whole checkpoints that are newer than those here, or were written by others, and the files beside them
        that are named; leaves out the checkpoints' files named `without`. With `as_there` newer checkpoints that are
        here alone are given up. Raises ValueError where it fails.
        """
        if not self.url:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):  # the workers of a trial on one machine share the copy
            listed = self._listed()
            self._bring({name: listed[name] for name in with_files if name in listed})
            self._bring_checkpoints(listed, {*without}, as_there=as_there)

    def forget(self) -> None:
        """Removes the copy of this machine where all of its checkpoints are at the URL: others may need the room."""
        if not self.url or not self.folder.is_dir():
            return
        with suppress(ValueError):  # the storage is away: what is here may be all there is
            there = self._listed()
            if all(f"{name}/{checksums.CHECKSUMS}" in there for name in self._here()):
                shutil.rmtree(self.folder, ignore_errors=True)

    def _bring_checkpoints(self, listed: dict[str, fs.FileInfo], without: set[str], *, as_there: bool) -> None:
        whole = {name.split("/")[0] for name in listed if name.endswith(f"/{checksums.CHECKSUMS}")}
        here = self._here().keys()
        is_newer = max(map(_position, here), default=(0, 0)) > max(map(_position, whole), default=(0, 0))
        if is_newer and not as_there:
            return  # they were written here, and the storage was away
        for stale in here - whole:  # of an earlier try on this machine; others went on from a later one
            shutil.rmtree(self.folder / stale)
        for epoch in sorted(filter(checkpoint.NAME.fullmatch, whole)):
            files = {name: info for name, info in listed.items() if name.startswith(f"{epoch}/")}
            sums = f"{epoch}/{checksums.CHECKSUMS}"
            try:
                there = self.read(sums)
            except FileNotFoundError:
                continue  # its worker has just replaced it by a later one
            if (self.folder / sums).is_file() and (self.folder / sums).read_bytes() == there:
                files = {name: info for name, info in files.items() if not (self.folder / name).is_file()}
            else:
                for name in files:
                    (self.folder / name).unlink(missing_ok=True)
            self._bring({name: info for name, info in files.items() if name.split("/")[1] not in without})

    def remove(self, *names: str) -> None:
        """Removes files there. Raises ValueError where that fails; what is gone already is fine."""
        if not self.url:
            return
        filesystem, root = remote.open_url(self.url, "run.storage")
        for name in names:
            try:
                filesystem.delete_file(f"{root}/{name}")
            except FileNotFoundError:
                continue
            except OSError as error:
                raise ValueError(f"{self.url}/{name} cannot be removed: {error}") from error

    def _send_checkpoints(self) -> None:
        listed = self._listed()
        here = self._here()
        for name, folder in sorted(here.items()):
            sums = f"{name}/{checksums.CHECKSUMS}"
            if not (self.folder / sums).is_file():
                continue  # it is not whole
            if sums in listed and self.read(sums) == (self.folder / sums).read_bytes():
                continue
            if sums in listed:
                self.remove(sums)  # while its files change, it is not whole
            for file in sorted(folder.iterdir(), key=lambda each: each.name == checksums.CHECKSUMS):
                self._copy_up(file, f"{name}/{file.name}")
        gone = [
            name for name in listed if checkpoint.NAME.fullmatch(name.split("/")[0]) and name.split("/")[0] not in here
        ]
        self.remove(*sorted(gone, key=lambda name: not name.endswith(checksums.CHECKSUMS)))

    def _here(self) -> dict[str, Path]:
        """The checkpoints of this machine, by their names."""
        return {each.name: each for each in self.folder.glob("epoch-*") if checkpoint.NAME.fullmatch(each.name)}

    def _listed(self) -> dict[str, fs.FileInfo]:
        return remote.files_at(self.url, "run.storage")

    def read(self, name: str) -> bytes:
        """A file there. Raises FileNotFoundError where there is none, and ValueError where the storage is away."""
        filesystem, root = remote.open_url(self.url, "run.storage")
        try:
            with filesystem.open_input_stream(f"{root}/{name}") as stream:
                return stream.read()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ValueError(f"{self.url}/{name} cannot be read: {error}") from error

    def _copy_up(self, file: Path, name: str) -> None:
        filesystem, root = remote.open_url(self.url, "run.storage")
        try:
            fs.copy_files(
                str(file), f"{root}/{name}", source_filesystem=fs.LocalFileSystem(), destination_filesystem=filesystem
            )
        except OSError as error:
            raise ValueError(f"{self.url}/{name} cannot be written: {error}") from error
        self.on_progress()

    def _bring(self, files: dict[str, fs.FileInfo], on_file: Callable[[int], None] = lambda num_bytes: None) -> None:
        filesystem, _ = remote.open_url(self.url, "run.storage")
        # Checksums last here, too: a process that is killed on the way leaves no folder that looks whole.
        for name in sorted(files, key=lambda each: each.endswith(checksums.CHECKSUMS)):
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}.part")  # never half a file under its own name
            try:
                fs.copy_files(
                    files[name].path,
                    str(part),
                    source_filesystem=filesystem,
                    destination_filesystem=fs.LocalFileSystem(),
                )
                part.rename(path)
            except OSError as error:
                raise ValueError(f"{self.url}/{name} cannot be read: {error}") from error
            on_file(files[name].size)


def patiently(action: Callable[[], None], on_try: Callable[[], None] = _nothing) -> None:
    """Tries again where the storage is away, for five minutes; then raises its ValueError."""
    for left in reversed(range(NUM_TRIES)):
        try:
            action()
            return
        except ValueError as error:
            if not left:
                raise
            log.warning("%s Trying again.", error)
        time.sleep(SECONDS_BETWEEN_TRIES)
        on_try()


def of(storage: str, name: str, kept_by: str) -> Mirror:
    """Of a run called `name` (or `search/trial`) in a `run.storage`. `kept_by` tells this machine's copies of it apart:
    a driver's may lack weights, so that a worker has another.
    """
    if not remote.is_url(storage):
        return Mirror(Path(storage) / name)
    return Mirror(remote.cache_of(storage, f"runs/{kept_by}") / name, f"{storage.rstrip('/')}/{name}")


def _position(name: str) -> tuple[int, int]:
    return checkpoint.position(Path(name))
