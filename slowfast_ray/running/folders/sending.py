"""Keeps what a driver writes at a URL as well, while it writes it: the study, the journal of MLflow, what the run began
as. With these and the trials' checkpoints, which their workers send, a search goes on after its machine is lost.

Whoever drives a run says so there, again and again: a second driver waits until the first one is silent.
"""

import json
import logging
import os
import shutil
import signal
import socket
import sqlite3
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import TracebackType

from slowfast_ray.running.folders import begun, logs
from slowfast_ray.running.folders.mirror import Mirror, patiently
from slowfast_ray.running.refusals import RefusedError

log = logging.getLogger(__name__)

DRIVER = "driver.json"
"""At the URL: which process drives the run, and how often it has said so."""
OWN = ".driver"
"""In the copy of this machine: the ids of the drivers that wrote it here, a line each. Never sent, nor brought."""
SECONDS_BETWEEN_SENDS = 5.0
NUM_SENDS_OF_LONG = 12
"""Files that only grow go with each so many-th send, a minute apart, and at the end: MLflow's journal reaches 40 MB in
a search of 1,000 trials, and what is lost of it is in the checkpoints."""
SECONDS_OF_SILENCE = 75.0
"""A driver that has said nothing for so long is gone. Its sign comes each 5 s, and may take a minute in bad times."""
_LONG = (".jsonl", ".txt")
_NOT_SENT = (".lock", "-journal", "-wal", "-shm", ".part")


class Sender:
    """While it is entered, threads say that this driver is there, and send what changed in its folder. Without a URL
    nothing is sent.

    Where another driver has taken the run over, since nothing was heard of this one, this one sends nothing more: it is
    interrupted as by Ctrl-C, and leaving raises RefusedError.
    """

    def __init__(self, home: Mirror) -> None:
        self._home = home
        self._sent: dict[str, tuple[int, int]] = {}
        self._id, self._taken_by = uuid.uuid4().hex, ""
        self._beats = self._num_sends = 0
        self._lock, self._is_leaving, self._has_ended = threading.Lock(), threading.Event(), threading.Event()
        # What is sent may take minutes, in which this driver is not to seem gone.
        self._saying = threading.Thread(target=self._again, args=(self._say, self._has_ended), name="saying")
        self._sending = threading.Thread(target=self._again, args=(self._send, self._is_leaving), name="sending")
        self._saying.daemon = self._sending.daemon = True

    def __enter__(self) -> "Sender":
        if not self._home.url:
            return self
        is_main = threading.current_thread() is threading.main_thread()
        if (
            is_main and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        ):  # how a shell's script starts what ends in `&`
            signal.signal(signal.SIGINT, signal.default_int_handler)
        with (self._home.folder / OWN).open("a") as own:  # before others can see it
            own.write(f"{self._id}\n")
        patiently(self._say)
        self._saying.start()
        try:
            patiently(self._send)
        except BaseException as error:
            self._end()
            if isinstance(error, _TakenError):
                raise self._refusal() from error
            raise
        self._sending.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._home.url:
            return
        self._is_leaving.set()
        try:
            self._sending.join()
            if kind is None:
                patiently(lambda: self._send(is_end=True))
            else:
                self._send(is_end=True)
            self._end()
            self._say(is_end=True)
        except ValueError as failed:
            log.warning(
                "Not all is at %s; the rest is in %s, and goes with --resume: %s",
                *(self._home.url, self._home.folder, failed),
            )
        except (_TakenError, KeyboardInterrupt):
            if not self._taken_by:
                raise
        finally:
            self._end()
        if self._taken_by:
            raise self._refusal() from error

    def flush(self) -> None:
        """Sends at once what changed. A storage that is away is asked for five minutes; then, and where another driver
        has taken the run over, raises ValueError.
        """
        if not self._home.url:
            return
        try:
            patiently(self._send)
        except _TakenError as error:
            raise ValueError(f"{self._home.url} is driven by another process, on {self._taken_by}.") from error

    def _end(self) -> None:
        self._is_leaving.set()
        self._has_ended.set()
        self._saying.join()

    def _refusal(self) -> RefusedError:
        return RefusedError(
            f"The run at {self._home.url} is driven by another process now, on {self._taken_by}, where it goes on: "
            f"nothing was heard of this one for {SECONDS_OF_SILENCE:g} s. What this one did since is lost."
        )

    def _again(self, action: Callable[[], None], end: threading.Event) -> None:
        is_away = False
        while not end.wait(SECONDS_BETWEEN_SENDS):
            try:
                action()
                is_away = False
            except ValueError as error:
                if not is_away:
                    log.warning("%s is asked again: %s", self._home.url, error)
                is_away = True
            except _TakenError:
                if action == self._say and not self._is_leaving.is_set():
                    log.error("Another process, on %s, drives the run; this one ends.", self._taken_by)
                    os.kill(os.getpid(), signal.SIGINT)
                return

    def _send(self, *, is_end: bool = False) -> None:
        with self._lock:
            self._check_own()
            try:
                for name in list(self._changed()):
                    if is_end or not name.endswith(_LONG) or self._num_sends % NUM_SENDS_OF_LONG == 0:
                        self._send_file(name)
                for name in [each for each in self._sent if not (self._home.folder / each).exists()]:
                    self._home.remove(name)  # as MLflow's journal, once all of it is told
                    del self._sent[name]
                self._num_sends += 1
            except (OSError, sqlite3.Error) as error:
                raise ValueError(f"{self._home.folder} cannot be read: {error}") from error

    def _changed(self) -> Iterator[str]:
        for folder, below, files in os.walk(self._home.folder):
            below[:] = [each for each in below if not each.startswith(("epoch-", ".", "ray_"))]
            for file in files:
                path = Path(folder, file)
                name = path.relative_to(self._home.folder).as_posix()
                is_workers = file == logs.LOG and Path(folder) != self._home.folder
                if is_workers or file.startswith(".") or file.endswith(_NOT_SENT) or file == DRIVER:
                    continue
                facts = path.stat()
                if self._sent.get(name) != (facts.st_size, facts.st_mtime_ns):
                    yield name

    def _send_file(self, name: str) -> None:
        path = self._home.folder / name
        facts = path.stat()
        if path.name == begun.STUDY:
            with tempfile.TemporaryDirectory() as folder:  # a copy that is whole, while the study is written
                copy = Path(folder) / path.name
                with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
                    source.backup(target)
                Mirror(Path(folder), self._home.url).send(name)
        else:
            self._home.send(name)
        self._sent[name] = (facts.st_size, facts.st_mtime_ns)

    def _say(self, *, is_end: bool = False) -> None:
        if self._beats:
            self._check_own()
        said = {"id": self._id, "host": socket.gethostname(), "beats": self._beats + 1, "ended": is_end}
        try:
            begun.write_whole(self._home.folder / DRIVER, json.dumps(said))
        except OSError as error:
            raise ValueError(f"{self._home.folder} cannot be written: {error}") from error
        self._home.send(DRIVER)
        self._beats += 1

    def _check_own(self) -> None:
        """Raises _TakenError once another driver said that it drives this run."""
        there = _driver_at(self._home)
        if there.get("id", self._id) != self._id:
            self._taken_by = str(there.get("host"))
        if self._taken_by:
            raise _TakenError


class _TakenError(Exception):
    """Another driver has taken the run over."""


def bring(home: Mirror) -> None:
    """What a driver of a run that goes on needs, on this machine. Where the last driver wrote here, that stays: it may
    be newer than what came to the URL. Raises ValueError where the storage cannot be reached.
    """
    if not home.url:
        return
    there = _driver_at(home)
    own = home.folder / OWN
    if there and own.is_file() and there.get("id") in own.read_text(encoding="utf-8").split():
        return
    shutil.rmtree(home.folder, ignore_errors=True)  # a copy of what it was once
    home.bring(lambda name: "epoch-" not in name and "/ray_train/" not in name and name != DRIVER)


def wait_until_alone(home: Mirror) -> None:
    """Returns once no other driver of this run says that it is there, with what the last one wrote. Raises RefusedError
    where one still does.
    """
    if not home.url:
        return
    before = _driver_at(home)
    if before and not before.get("ended"):
        log.warning(
            "%s was driven by %s; waiting %g s for a sign of it.", home.url, before.get("host"), SECONDS_OF_SILENCE
        )
        silent_since = time.monotonic()
        while time.monotonic() - silent_since < SECONDS_OF_SILENCE:
            time.sleep(min(SECONDS_BETWEEN_SENDS, SECONDS_OF_SILENCE))
            try:
                _check_silent(home, before)
            except RefusedError:
                raise
            except ValueError as error:  # away for the other one as well
                log.warning("%s Waiting on.", error)
                silent_since = time.monotonic()
    bring(home)
    _check_silent(home, before)


def _check_silent(home: Mirror, before: dict[str, object]) -> None:
    """Raises RefusedError where a driver has said something since."""
    now = _driver_at(home)
    if now != before:
        raise RefusedError(
            f"The run at {home.url} is driven by another process, on {now.get('host')}; wait for its end, or end it."
        )


def _driver_at(home: Mirror) -> dict[str, object]:
    try:
        return dict(json.loads(home.read(DRIVER)))
    except FileNotFoundError:
        return {}
