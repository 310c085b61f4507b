"""How many bytes the machine has free."""

from __future__ import annotations

import os
from pathlib import Path


def available_memory() -> int:
    """Bytes of host memory that can be taken without swapping, a container's limit included."""
    free = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free.append(int(line.split()[1]) * 1024)
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            free.append(int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except OSError:
        pass
    if not free and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        free.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    return max(min(free, default=4 * 10**9), 0)


def default_budget() -> int:
    """What `memory=None` allows: half of what is free, at most 4 GB; a stream needs no more."""
    return min(available_memory() // 2, 4 * 10**9)
