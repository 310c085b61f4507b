"""Compiled code on disk, from these very sources.

numba keeps compiled functions in a folder, and asks only whether the file of a function is the one it compiled. Functions here call
others in other files, whose code is compiled into them: after an upgrade, or a pull, they would run with helpers that are no more. So
the folder carries a digest of all files beside this one, and is emptied when they have changed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from numba import njit

STAMP = "gpu4d-sources"  # a file beside what numba writes


@njit(nogil=True, cache=True)
def _anything() -> None:
    """Asked where numba keeps what it compiles in this folder: in `__pycache__`, or elsewhere where that may not be written."""


def discard_stale() -> None:
    """Empty the folder of compiled code where it was not made from these sources. A folder that cannot be emptied is left as it is."""
    stats = getattr(_anything, "stats", None)  # None where numba is told not to compile (NUMBA_DISABLE_JIT)
    if stats is None or stats.cache_path is None:
        return
    folder, now = Path(stats.cache_path), digest(Path(__file__).parent)
    stamp = folder / STAMP
    try:
        if stamp.exists() and stamp.read_text() == now:
            return
        for kind in ("*.nbi", "*.nbc"):
            for compiled in folder.glob(kind):
                compiled.unlink(missing_ok=True)  # another process may be at it, too
        stamp.write_text(now)
    except OSError:
        return


def digest(folder: Path) -> str:
    """Of all Python files in a folder."""
    found = hashlib.sha256()
    for file in sorted(folder.glob("*.py")):
        found.update(f"{file.name} {file.stat().st_size}\n".encode())
        found.update(file.read_bytes())
    return found.hexdigest()
