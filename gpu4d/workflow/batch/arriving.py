"""Tell whether a scan that has just appeared is complete: the sizes of its files stay, and no program has them open for writing."""

from __future__ import annotations

import time
from pathlib import Path

import h5py

from gpu4d.workflow.keeping.identity import files_of_scan

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
        """Return True if the files of a scan, or of a folder, have not changed for a while and none is open for writing."""
        now, state = time.monotonic(), state_of(path)
        before = self._seen.get(path)
        if before is None or before[0] != state:
            self._seen[path] = (state, now)
            return False
        return now - before[1] >= self.still and not any(is_written(file) for file in _files(path))


def state_of(path: Path) -> tuple[int, int]:
    """Return the bytes of a scan with the files beside it that belong to it, or of a folder, and the time of the last change."""
    try:
        about = [p.stat() for p in _files(path)]
    except OSError:  # it goes away, or a part of it is being renamed
        return (-1, time.monotonic_ns())
    return sum(one.st_size for one in about), max((one.st_mtime_ns for one in about), default=0)


def _files(path: Path) -> list[Path]:
    return [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else files_of_scan(path)


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
