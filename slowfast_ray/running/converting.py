"""Converts a file of weights into one of ours: the flags, and the way from the one to the other."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from slowfast_ray.model import pretrained
from slowfast_ray.model.pretrained_report import Report
from slowfast_ray.running import fetching
from slowfast_ray.running.fetching import Published


@dataclass(frozen=True)
class ConvertFlags:
    """Flags of a conversion, which trains nothing."""

    paths: tyro.conf.Positional[tuple[Path, ...]]
    """IN, a file or checkpoint folder, and OUT, a new file [paths]. With --fetch, OUT alone."""

    fetch: Published | None = None
    """Fetch published weights of Kinetics-400 instead of reading IN; they stay in the user's cache."""

    verbose: bool = False
    """Show the logs of every step."""

    def __post_init__(self) -> None:
        num_wanted = 2 if self.fetch is None else 1
        if len(self.paths) != num_wanted:
            wanted = "IN and OUT" if self.fetch is None else f"OUT alone, since --fetch {self.fetch} is the source"
            shown = " ".join(map(str, self.paths)) or "nothing"
            raise ValueError(f"Name {wanted}; but got {shown}.")


@dataclass(frozen=True)
class Converted:
    """A file that was written, and what was found in its source."""

    out: Path
    sha256: str
    """Of the source."""
    remark: str
    report: Report


def convert(flags: ConvertFlags) -> Converted:
    """Reads, checks and writes.

    Raises ValueError where the source cannot be had, is not what its name says, is no whole SlowFast network, or where
    OUT exists.
    """
    out = flags.paths[-1]
    if out.exists():
        raise ValueError(f"{out} exists already; nothing is overwritten: name another file.")
    if not out.parent.is_dir():
        raise ValueError(f"The folder of {out} does not exist; make it first.")
    if flags.fetch is not None:
        fetched = fetching.fetch(fetching.ADDRESSES[flags.fetch], fetching.cache())
        source, sha256, remark = fetched.path, fetched.sha256, fetched.remark
    else:
        source = flags.paths[0]
        weights_file = source / "weights.safetensors" if source.is_dir() else source
        sha256 = fetching.check_name(weights_file) if weights_file.is_file() else ""
        remark = "its name says so" if fetching.name_digest(source) else "its name does not tell what it should be"
    weights = pretrained.read(source)
    pretrained.refuse_incomplete(weights.report)
    pretrained.write(weights, out, sha256)
    return Converted(out, sha256, remark, weights.report)
