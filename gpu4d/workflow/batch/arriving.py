"""Tell whether a file that has just appeared is complete: its size stays, and no program has it open for writing."""

from __future__ import annotations

import time
from pathlib import Path

import h5py

HDF5_HEAD = b"\x89HDF\r\n\x1a\n"


class Arrivals:
    """Looks at files again and again, and says which have stopped growing.

    Parameters
    ----------
    still : float
        Seconds for which the size and the time of the last change must stay the same.
    """

    def __init__(self, still: float):
        self.still = still
        self._seen: dict[Path, tuple[tuple[int, int], float]] = {}  # what was seen, and since when

    def settled(self, path: Path) -> bool:
        """Return True if a file, or all of a folder, has not changed for a while and is not open for writing."""
        now, state = time.monotonic(), _state(path)
        before = self._seen.get(path)
        if before is None or before[0] != state:
            self._seen[path] = (state, now)
            return False
        return now - before[1] >= self.still and not is_written(path)


def _state(path: Path) -> tuple[int, int]:
    """Return the bytes of a file or folder, and the time of its last change."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    try:
        about = [p.stat() for p in files]
    except OSError:  # it goes away, or a part of it is being renamed
        return (-1, time.monotonic_ns())
    return sum(one.st_size for one in about), max((one.st_mtime_ns for one in about), default=0)


def is_written(path: Path) -> bool:
    """Return True if an HDF5 file is open for writing. Of other files it is not known."""
    try:
        with open(path, "rb") as file:
            if file.read(len(HDF5_HEAD)) != HDF5_HEAD:
                return False
        h5py.File(path, "r").close()
    except OSError as error:
        text = str(error).lower()
        return "lock" in text or "open for write" in text or "consistency flag" in text
    return False
