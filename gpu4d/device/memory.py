"""How many bytes the machine has free, what a sweep leaves to the work on a chunk, and how to give back what is kept."""

from __future__ import annotations

import contextlib
import contextvars
import os
from collections.abc import Iterator
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


_room: contextvars.ContextVar[int | None] = contextvars.ContextVar("gpu4d_room", default=None)


def room() -> int | None:
    """Bytes that a sweep leaves to the work on a chunk, beside what its reductions asked for; None outside of a sweep."""
    return _room.get()


@contextlib.contextmanager
def leaving(nbytes: int) -> Iterator[None]:
    """Inside it work on a chunk may take so many bytes."""
    token = _room.set(max(0, int(nbytes)))
    try:
        yield
    finally:
        _room.reset(token)


def release() -> int:
    """Give back what gpu4d keeps between calls, for other programs or for a process that goes on without it.

    That are page-locked host memory of earlier sweeps over a link (at most 256 MiB, `gpu4d.device.page_locked`), and tables on devices:
    masks, indices and transforms of templates (at most 64 MiB, `gpu4d.device.tables`). The next call makes them anew. What a running sweep
    uses stays. Memory pools of CuPy and torch are theirs: `cupy.get_default_memory_pool().free_all_blocks()`.

    Returns
    -------
    int
        Bytes given back, of the host and of devices together.

    Examples
    --------
    >>> import gpu4d
    >>> _ = gpu4d.device.release()
    >>> gpu4d.device.release()
    0
    """
    from gpu4d.device import page_locked, tables

    return page_locked.store().shrink(0) + tables.release()
