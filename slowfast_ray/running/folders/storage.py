"""Whether files can be written where they shall go: asked before anything is started."""

import tempfile
from pathlib import Path


def check_place(path: Path, setting: str) -> None:
    """Raises ValueError unless a file or folder can be made at `path`; leaves none."""
    if not path.parent.is_dir():
        raise ValueError(f"`{setting}` (={path}) lies in no folder: {path.parent} is none; make it first.")
    check_writable(path.parent, setting)


def check_writable(folder: Path, setting: str) -> None:
    """Raises ValueError unless a file can be made in `folder`; leaves none."""
    try:  # a real attempt: permission bits say little to root, and nothing of a full or read-only disk
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"`{setting}` cannot be written: {folder} ({error.strerror}); name another.") from error
