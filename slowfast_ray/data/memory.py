"""How much memory there is, and how much of it frames may take."""

import os
from contextlib import suppress
from pathlib import Path

import torch

SHARE = 4
"""Without a budget, frames may take one part of so many of the memory."""
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def budget_bytes(memory_budget: float | None) -> int:
    """What `data.memory_budget` [GB] allows [bytes]; None: a quarter of the memory."""
    return of_machine() // SHARE if memory_budget is None else int(memory_budget * 1e9)


def of_machine() -> int:
    """All memory of the machine, or of the container where that has less [bytes]."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit in _LIMITS:
        with suppress(OSError, ValueError):  # there is no such control group, or "max"
            found.append(int(Path(limit).read_text()))
    return min(found)


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
    budget = f"{budget_bytes(memory_budget) / 1e9:.3g}"
    source = "" if memory_budget is not None else ", a quarter of the memory"
    return f"{size} on disk, read as needed: more than data.memory_budget (={budget}{source})"
