"""Read free memory and sizes given as text, and tell work on a chunk how much memory it may take."""

from __future__ import annotations

import contextlib
import contextvars
import os
import re
from collections.abc import Iterator
from pathlib import Path

from gpu4d.errors import InputError

UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def parse_memory(size: int | float | str) -> int:
    """Return the bytes of a number or of a text such as "512 MB", "1.5 GiB".

    Examples
    --------
    >>> parse_memory("512 MB"), parse_memory("1 GiB")
    (512000000, 1073741824)
    """
    if isinstance(size, int | float) and not isinstance(size, bool):
        count = float(size)
    else:
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-zA-Z]*)\s*", str(size))
        unit = (match.group(2).lower() or "b") if match else ""
        if match is None or unit not in UNITS:
            raise InputError(f"memory={size!r}: need bytes or a text like '512 MB' (units {', '.join(u.upper() for u in UNITS)})")
        count = float(match.group(1)) * UNITS[unit]
    if not 1 <= count < float("inf"):
        raise InputError(f"memory={size!r}: need a finite number of bytes, at least one")
    return int(count)


def available_memory() -> int:
    """Return the bytes of host memory that can be taken without swapping. The limit of a container counts."""
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
    """Return the bytes that `memory=None` allows: half of the free memory, at most 4 GB. A sweep needs no more."""
    return min(available_memory() // 2, 4 * 10**9)


_room: contextvars.ContextVar[int | None] = contextvars.ContextVar("gpu4d_room", default=None)


def room() -> int | None:
    """Return the bytes that work on a chunk may take beside those its reductions asked for. None outside of a sweep."""
    return _room.get()


@contextlib.contextmanager
def leaving(nbytes: int) -> Iterator[None]:
    """Allow work on a chunk to take so many bytes inside the block."""
    token = _room.set(max(0, int(nbytes)))
    try:
        yield
    finally:
        _room.reset(token)
