"""How much memory there is, and how much of it frames may take."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

import torch

SHARE = 4
"""Without a budget, frames may take one part of so many of the memory."""
_GROUPS_OF_PROCESS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")


def budget_bytes(memory_budget: float | None) -> int:
    """What `data.memory_budget` [GB] allows [bytes]; None: a quarter of the memory."""
    return of_machine() // SHARE if memory_budget is None else int(memory_budget * 1e9)


def of_machine() -> int:
    """All memory of the machine, or of the container, job or service where that has less [bytes]."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit in _limits():
        with suppress(OSError, ValueError):  # there is no such control group, or "max"
            found.append(int(limit.read_text()))
    return min(found)


def _limits() -> Iterator[Path]:
    """Where limits stand: of this process's control group, and of all that it is nested in, by versions 1 and 2."""
    try:
        lines = _GROUPS_OF_PROCESS.read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            root, name = _GROUPS, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = _GROUPS / "memory", "memory.limit_in_bytes"
        else:
            continue
        # Inside a container the first of these may be the machine's names, which lead nowhere; the last is its own.
        nested = PurePosixPath(group.lstrip("/"))
        yield from (root / each / name for each in (nested, *nested.parents))


def of_device(device: torch.device) -> int:
    """What this process may have of a GPU, which trials may share, or of the machine for a CPU [bytes]."""
    if device.type != "cuda":
        return of_machine()
    share = torch.cuda.get_per_process_memory_fraction(device.index)
    return int(share * torch.cuda.get_device_properties(device).total_memory)


def place(num_bytes: int, memory_budget: float | None, *, is_streamed: bool = True) -> str:
    """For people, where frames are that take so much: `38 MB in memory`, or on disk, and why."""
    size = f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.3g} MB"
    if not is_streamed:
        return f"{size} in memory"
    if num_bytes <= budget_bytes(memory_budget):
        return f"{size} on disk, read as needed"
    budget = f"{budget_bytes(memory_budget) / 1e9:.3g}"
    source = "" if memory_budget is not None else ", a quarter of the memory"
    return f"{size} on disk, read as needed: more than data.memory_budget (={budget}{source})"
