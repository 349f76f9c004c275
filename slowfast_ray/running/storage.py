"""Whether files can be written where they shall go: asked before anything is started."""

import tempfile
from pathlib import Path


def check_writable(folder: Path, setting: str) -> None:
    """Raises ValueError unless a file can be made in `folder`; leaves none."""
    try:  # a real attempt: permission bits say little to root, and nothing of a full or read-only disk
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"`{setting}` cannot be written: {folder} ({error.strerror}); name another.") from error
