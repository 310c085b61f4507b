"""Remove what a killed process has left: files and folders that were being written when it ended.

A process that writes holds a lock on what it writes. The system gives the lock back when the process ends, however it ends. So the next
process can tell what no process writes any more, also on a network drive. On systems without such locks nothing is removed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

YOUNG = 60  # seconds: what is younger may not be locked yet by the process that has just made it


_unfinished: set[Path] = set()  # of this process


@contextlib.contextmanager
def held(path: str | os.PathLike[str], unfinished: bool = False) -> Iterator[None]:
    """Mark a file or folder as being written while the block runs. What is `unfinished` is of no use if the process ends before."""
    descriptor = None
    with contextlib.suppress(OSError):  # a drive without locks: what a killed process leaves there stays
        descriptor = os.open(path, os.O_RDONLY) if fcntl is not None else None
        if descriptor is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if unfinished:
        _unfinished.add(Path(path))
    try:
        yield
    finally:
        _unfinished.discard(Path(path))
        if descriptor is not None:
            os.close(descriptor)


def remove_unfinished() -> None:
    """Remove what this process is writing and has not finished. The process must end then."""
    remove([path for path in list(_unfinished) if path.exists()])


def abandoned(folder: str | os.PathLike[str], prefix: str, suffix: str = "", young: float = YOUNG) -> list[Path]:
    """Return the files and folders with such names that were made a while ago and that no process writes any more.

    Parameters
    ----------
    folder : path
    prefix, suffix : str
        Beginning and end of their names. What lies between them has only letters, digits and "_".
    young : float
        Seconds. What was changed later than this is not looked at, because its process may not hold it yet.
    """
    found: list[Path] = []
    if fcntl is None:
        return found
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            middle = entry.name[len(prefix) : len(entry.name) - len(suffix)]
            if not (entry.name.startswith(prefix) and entry.name.endswith(suffix) and middle.replace("_", "").isalnum()):
                continue
            with contextlib.suppress(OSError):
                if not entry.is_symlink() and time.time() - entry.stat().st_mtime >= young and _is_free(entry.path):
                    found.append(Path(entry.path))
    return found


def remove(paths: list[Path]) -> None:
    """Remove files and folders; what cannot be removed stays."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def _is_free(path: str) -> bool:
    """Say whether no process holds a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
