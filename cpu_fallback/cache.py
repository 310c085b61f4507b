"""Remove compiled code on disk that was not made from the present sources.

numba keeps compiled functions in a folder. It compiles a function again only if the function's own file has changed. Functions here
call functions of other files, whose code is compiled into them. After an upgrade or a pull they could run with old versions of
those. So the folder has a digest of all files beside this one. It is emptied when the digest has changed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from numba import njit

STAMP = "gpu4d-sources"  # a file beside what numba writes


@njit(nogil=True, cache=True)
def _anything() -> None:
    """Do nothing. numba's record of it says where compiled code is kept: in `__pycache__`, or elsewhere if that is read-only."""


def discard_stale() -> None:
    """Empty the folder of compiled code if it was not made from these sources. A folder that cannot be emptied is left as it is."""
    stats = getattr(_anything, "stats", None)  # None if numba does not compile (NUMBA_DISABLE_JIT)
    if stats is None or stats.cache_path is None:
        return
    folder, now = Path(stats.cache_path), digest(Path(__file__).parent)
    stamp = folder / STAMP
    try:
        if stamp.exists() and stamp.read_text() == now:
            return
        for kind in ("*.nbi", "*.nbc"):
            for compiled in folder.glob(kind):
                compiled.unlink(missing_ok=True)  # another process may have deleted it
        stamp.write_text(now)
    except OSError:
        return


def digest(folder: Path) -> str:
    """Return the digest of all Python files in a folder."""
    found = hashlib.sha256()
    for file in sorted(folder.glob("*.py")):
        found.update(f"{file.name} {file.stat().st_size}\n".encode())
        found.update(file.read_bytes())
    return found.hexdigest()
