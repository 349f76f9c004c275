"""What a search began as, on disk, so that it goes on as the same; and that one process at a time runs it."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from filelock import FileLock, Timeout

from slowfast_ray.running.folders import begun
from slowfast_ray.running.preflight import Ready, RefusedError
from slowfast_ray.running.searching import suggesting
from slowfast_ray.running.searching.config import SearchConfig
from slowfast_ray.running.searching.search_space import Drawable

log = logging.getLogger(__name__)

LOCK = "search.lock"
FIXED = ("objectives", "smooth_epochs", "warm_start")
"""Settings of a search that a resume may not change: values before and after would not compare."""


def to_json(space: Drawable, config: SearchConfig) -> str:
    """What search.json holds."""
    return json.dumps({"space": space.to_json(), "search": asdict(config)}, indent=2) + "\n"


def note(ready: Ready, space: Drawable, config: SearchConfig) -> None:
    """Flags that are given beside --resume hold from then on."""
    begun.write_whole(ready.folder / begun.SEARCH, to_json(space, config))
    begun.write_whole(ready.folder / begun.BEGUN_AS, ready.experiment.to_json())


def check_same(ready: Ready, space: Drawable, config: SearchConfig, *, anyway: bool) -> None:
    """Raises ValueError where a search would go on with another space, or other objectives; `anyway` allows other ends
    of ranges and other constants, and warns of them.
    """
    path = ready.folder / begun.SEARCH
    before, now = json.loads(path.read_text(encoding="utf-8")), json.loads(to_json(space, config))
    if not isinstance(before, dict) or {*now["space"]} - {*before.get("space", {})} or "search" not in before:
        raise ValueError(f"{path} does not say how the search began; restore it, or search again under another name.")
    changed = [
        f"`search.{name}` (={now['search'][name]}, was {before['search'].get(name)})"
        for name in FIXED
        if now["search"][name] != before["search"].get(name)
    ]
    in_space = [
        f"`{name}` in the search space ({_described(becomes.get(name))}, was {_described(was.get(name))})"
        for was, becomes in ((before["space"][kind], now["space"][kind]) for kind in ("drawn", "constant"))
        for name in sorted({*was, *becomes})
        if was.get(name) != becomes.get(name)
    ]
    changed += in_space
    if not changed:
        return
    told = f"The search in {ready.folder} began otherwise: {', '.join(changed)}"
    if suggesting.cannot_become(before["space"]["drawn"], now["space"]["drawn"]) or len(changed) > len(in_space):
        raise ValueError(
            f"{told}; a study cannot take over another list of choices, another kind of range, or another objective. "
            f"Give it what it began with, or begin a new search with --search.warm-start {ready.name}: it knows the "
            "trials that fit."
        )
    if not anyway:
        raise ValueError(f"{told}; give it what it began with, choose another --name, or say --resume-anyway.")
    log.warning("%s; going on all the same.", told)


def _described(distribution: Any) -> str:
    if isinstance(distribution, dict):
        distribution = distribution.get("attributes", distribution)
    return "nothing" if distribution is None else json.dumps(distribution)


@contextmanager
def alone(ready: Ready) -> Iterator[None]:
    """Raises RefusedError where another process runs this search; a killed one holds nothing."""
    lock = FileLock(ready.folder / LOCK, blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise RefusedError(f"The search in {ready.folder} runs in another process; wait for its end.") from None
    except (OSError, NotImplementedError) as error:
        raise RefusedError(
            f"{ready.folder} cannot be locked ({error}), so that another process could run the same search; name a "
            "`run.storage` on a file system with locks, or a URL."
        ) from error
    try:
        yield
    finally:
        lock.release()
