"""Fetches published weights into the user's cache: goes on where it was interrupted, and checks what came.

The addresses are those of MMAction2's configs/recognition/slowfast/README.md and of pytorchvideo's
models/hub/slowfast.py. The last 8 hexadecimal digits of an MMAction2 file's name begin its SHA-256; of the others none
is published, so that the first one that came is noted beside the file and holds from then on.
"""

import hashlib
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Literal, get_args

import platformdirs

Published = Literal["slowfast_r50_4x16", "slowfast_r50_8x8", "slowfast_r101_8x8"]

_MMACTION2 = "https://download.openmmlab.com/mmaction/v1.0/recognition/slowfast"
_PYTORCHVIDEO = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics"
ADDRESSES: dict[Published, str] = {
    "slowfast_r50_4x16": f"{_MMACTION2}/slowfast_r50_8xb8-4x16x1-256e_kinetics400-rgb/"
    "slowfast_r50_8xb8-4x16x1-256e_kinetics400-rgb_20220901-701b0f6f.pth",
    "slowfast_r50_8x8": f"{_PYTORCHVIDEO}/SLOWFAST_8x8_R50.pyth",
    "slowfast_r101_8x8": f"{_PYTORCHVIDEO}/SLOWFAST_8x8_R101.pyth",
}
assert set(ADDRESSES) == set(get_args(Published))

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30
"""Without a word from the server."""


@dataclass(frozen=True)
class Fetched:
    """A file that was fetched, now or earlier."""

    path: Path
    sha256: str
    remark: str
    """What its SHA-256 was compared with."""


def cache() -> Path:
    """Where fetched weights lie."""
    return platformdirs.user_cache_path("slowfast_ray") / "weights"


def fetch(address: str, folder: Path) -> Fetched:
    """The file at `address`, in `folder`.

    Raises ValueError, with what to do, where it cannot be reached, stops on the way, or is not what it should be.
    """
    path = folder / address.rsplit("/", 1)[1]
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        _download(address, part)
        digest = sha256(part)
        if not digest.startswith(name_digest(path) or ""):
            part.unlink()
            raise ValueError(
                f"What {address} sent has the SHA-256 {digest}, but its name says {name_digest(path)}; it was removed. "
                "Try again, or fetch it elsewhere."
            )
        part.rename(path)
    return _checked(path)


def name_digest(path: Path) -> str | None:
    """How the SHA-256 of a file of MMAction2's zoo begins, by its name; None for other names."""
    # After a date always; without one, a name that ends in eight decimal digits ends in a date.
    found = re.search(r"(?:_\d{8}-([0-9a-f]{8})|[_-](?=\d*[a-f])([0-9a-f]{8}))\.pth$", path.name)
    return found[1] or found[2] if found else None


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_name(path: Path) -> str:
    """The SHA-256 of a file. Raises ValueError where its name says another one."""
    digest, begin = sha256(path), name_digest(path)
    if begin is not None and not digest.startswith(begin):
        raise ValueError(
            f"{path} has the SHA-256 {digest}, but its name says that it begins with {begin}: it is damaged, or "
            "another file; fetch it again."
        )
    return digest


def _checked(path: Path) -> Fetched:
    digest = check_name(path)
    if name_digest(path) is not None:
        return Fetched(path, digest, "its name says so")
    note = path.with_name(f"{path.name}.sha256")
    if not note.exists():
        note.write_text(f"{digest}\n", encoding="ascii")
        return Fetched(path, digest, f"nobody publishes it: noted in {note}, and compared from now on")
    noted = note.read_text(encoding="ascii").strip()
    if digest != noted:
        raise ValueError(f"{path} has the SHA-256 {digest}, but {note} says {noted}; remove both to fetch it again.")
    return Fetched(path, digest, f"as noted when it was first fetched, in {note}")


def _download(address: str, part: Path) -> None:
    """Appends to `part` until it is whole."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            _receive(response, part, have)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing follows byte `have`
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return
            raise ValueError(f"{part} is longer than what {address} has; remove it, and try again.") from error
        raise ValueError(f"{address} answers {error.code} {error.reason}; it may have moved.") from error
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        come = part.stat().st_size if part.exists() else 0
        kept = f" {come} bytes have come, and are kept: the same command goes on there." if come else ""
        raise ValueError(
            f"{address} cannot be fetched: {reason}.{kept} Without a network, fetch it on another machine and name the "
            "file instead of --fetch."
        ) from error


def _receive(response: HTTPResponse, part: Path, have: int) -> None:
    """Raises OSError where the answer ends early."""
    goes_on = response.status == 206
    if goes_on and not (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
        raise OSError(f"the server sent {response.headers.get('Content-Range')} instead of what follows byte {have}")
    length = response.headers.get("Content-Length")
    start = have if goes_on else 0  # a server that knows no ranges sends everything again
    with part.open("ab" if goes_on else "wb") as file:
        while chunk := response.read(CHUNK_BYTES):
            file.write(chunk)
        come = file.tell() - start
    if length is not None and come != int(length):
        raise OSError(f"the server stopped after {come} of {length} bytes")
