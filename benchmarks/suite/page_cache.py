"""Drop the pages of a file from the system's cache, and say how many are left there."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
from pathlib import Path

import numpy as np
from gpu4d.benchmarks.suite.workload import Unavailable

MOST_LEFT = 0.02  # of the pages: a disk that is read for 98 % of a file is what is measured
CAN_ASK = hasattr(os, "posix_fadvise")


def ask_to_drop(path: Path) -> None:
    """Write a file to its disk, and ask the system to drop its pages. Some file systems keep them."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)  # pages that are not yet written cannot be dropped
        if CAN_ASK:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)


def drop(path: Path) -> None:
    """Drop the pages of a file, so that the next reader waits for the disk.

    Pages that a process has mapped stay: whoever mapped the file must have let it go.

    Raises
    ------
    Unavailable
        The system keeps the pages.
    """
    if not CAN_ASK:
        raise Unavailable("this system has no posix_fadvise, so that pages of a file cannot be dropped: run on Linux")
    ask_to_drop(path)
    if not resident(path) <= MOST_LEFT:
        gc.collect()  # a mapping in a cycle of references is let go only now
        ask_to_drop(path)
    left = resident(path)
    if np.isnan(left):
        raise Unavailable("this system does not say which pages of a file are in memory: run on Linux")
    if left > MOST_LEFT:  # without its path: results are published
        raise Unavailable(
            f"{left:.0%} of the pages of a file stay in memory after they were dropped: give a folder on a disk, not in memory (tmpfs) "
            "or on a network (--scratch)"
        )


def resident(path: Path) -> float:
    """Return the share of a file's pages that are in memory; NaN if the system does not say."""
    mapped = np.memmap(path, np.uint8, "r")  # nothing is read by mapping
    found = np.zeros(-(-len(mapped) // mmap.PAGESIZE), np.uint8)
    address, size, to = (ctypes.c_void_p(mapped.ctypes.data), ctypes.c_size_t(len(mapped)), ctypes.c_void_p(found.ctypes.data))
    try:
        failed = ctypes.CDLL(None).mincore(address, size, to)
    except AttributeError:
        return float("nan")
    return float("nan") if failed else float((found & 1).mean())
