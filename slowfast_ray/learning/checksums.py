"""Folders that are whole or absent, and whether their files are as they were written: the SHA-256 of each, in a file
beside them.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

CHECKSUMS = "checksums.json"


def write_folder(final: Path, fill: Callable[[Path], None], num_bytes: int) -> None:
    """Makes a folder that `fill` writes, under another name, and renames it once it is whole.

    Raises OSError with errno.ENOSPC where the disk has less than `num_bytes` left; what was there before stays.
    """
    unfinished = final.with_name(f".{final.name}.{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        fill(unfinished)
        write(unfinished)
        for file in unfinished.iterdir():  # a power cut must not leave a renamed folder with empty files
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have their own words for it
        is_full = shutil.disk_usage(final.parent).free < num_bytes
        shutil.rmtree(unfinished, ignore_errors=True)
        if is_full:
            raise OSError(errno.ENOSPC, f"the disk is full, and {final} was not saved") from error
        raise
    if final.exists():  # from a run that stopped between saving and reporting; out of sight before it is half deleted
        aside = final.with_name(f".{final.name}.0")
        shutil.rmtree(aside, ignore_errors=True)
        final.rename(aside)
    unfinished.rename(final)


def write(folder: Path) -> None:
    """Notes the checksums of all files in `folder`."""
    found = {file.name: _sha256(file) for file in sorted(folder.iterdir()) if file.name != CHECKSUMS}
    _write(folder, found)


def forget(folder: Path, names: tuple[str, ...]) -> None:
    """These files are gone on purpose. Nothing where nothing was noted."""
    if (folder / CHECKSUMS).exists():
        _write(folder, {name: digest for name, digest in _read(folder).items() if name not in names})


def check(file: Path) -> None:
    """Raises ValueError where a file is not as it was noted; one that is missing, or was not noted, is not judged."""
    if not (file.parent / CHECKSUMS).exists() or not file.exists():
        return
    expected = _read(file.parent).get(file.name)
    if expected is not None and _sha256(file) != expected:
        raise ValueError(f"{file} is damaged: it is not as it was written, by {file.parent / CHECKSUMS}.")


def flaw_of(folder: Path) -> str:
    """What is not as it was noted, in a clause; empty where all is."""
    try:
        wrong = [name for name, digest in _read(folder).items() if _sha256(folder / name) != digest]
    except (OSError, ValueError) as error:
        return str(error)
    return f"{', '.join(wrong)} changed after being written" if wrong else ""


def _write(folder: Path, checksums: dict[str, str]) -> None:
    unfinished = folder / f".{CHECKSUMS}"
    unfinished.write_text(json.dumps(checksums, indent=1) + "\n", encoding="utf-8")
    unfinished.rename(folder / CHECKSUMS)


def _read(folder: Path) -> dict[str, str]:
    try:
        return dict(json.loads((folder / CHECKSUMS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{folder / CHECKSUMS} cannot be read: {error}.") from error


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
