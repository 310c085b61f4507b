"""Guard mapped files: a file that is cut short while it is read gives an error, and does not end the process.

Reading beyond the end of a mapped file raises the signal SIGBUS, which by default ends the process. Checking the file's size before
every block is not enough: the file may shrink while the block is in use. Therefore, while the guard is on, a signal handler puts
zeros under the rest of the map and marks the map as lost. The next read from it, and the end of `sweep`, raise an error.

Why the handler is safe: it is machine code (`bus_error`). It runs no Python and needs no interpreter lock. It takes no lock and
allocates nothing. It makes one system call, `mmap`. It acts only on addresses of maps in its table. Every other fault goes to the
handler that was there before.

Its limits: it exists only for Linux on 64-bit x86 and ARM. A handler that another library installs later without calling ours
replaces it. `guard_mapped_files(True)` puts it in front again. A thread that blocks SIGBUS is ended by the system, with or without
a handler.
"""

from __future__ import annotations

import atexit
import collections
import mmap
import os
import platform
import sys
import threading
import weakref

from gpu4d.errors import InputError
from gpu4d.io.sources.bus_error import LOST, SLOTS, START, STOP, BusErrorHandler

VARIABLE = "GPU4D_GUARD_MAPPED_FILES"  # "0" turns the guard off before any file is mapped


class Watched:
    """A mapped range of addresses, and whether its file was found shorter. `slot` is its row in the handler's table."""

    def __init__(self, slot: int | None = None):
        self.slot = slot

    @property
    def lost(self) -> bool:
        """Whether reading from the map has failed."""
        return self.slot is not None and _handler is not None and bool(_handler.slots[self.slot, LOST])


_lock = threading.RLock()  # finalizers may run in the thread that holds it
_handler: BusErrorHandler | None = None  # compiled when the first file is mapped
_wanted: bool | None = None  # None: the environment variable decides
_free: collections.deque[int] = collections.deque(range(SLOTS))


def guard_mapped_files(on: bool) -> None:
    """Turn the guard of mapped files on or off for this process.

    gpu4d maps contiguous HDF5 files and `.npy` files. While the guard is on (the default on Linux), gpu4d has a handler of SIGBUS.
    A file that is cut short during a read then raises an `InputError`. Turn it off in a program that must own this signal. Without the
    guard, the file's size is still checked before every block, but a file that is cut short while a block is in use ends the
    process, or calls the program's own handler. The environment variable ``GPU4D_GUARD_MAPPED_FILES=0`` does the same before gpu4d
    is imported.

    Parameters
    ----------
    on : bool
        False puts the earlier handler back and guards no map any more. True guards the maps made from now on and puts gpu4d's
        handler in front again, if another library has replaced it.

    Examples
    --------
    >>> import gpu4d.io
    >>> gpu4d.io.guard_mapped_files(False)
    >>> gpu4d.io.guard_mapped_files(True)
    """
    global _wanted
    with _lock:
        _wanted = bool(on)
        if _handler is not None and on:
            _handler.install()
        elif _handler is not None:
            _handler.remove()
            _handler.slots[:, STOP] = 0  # also where another handler calls ours


def watch(mapped: mmap.mmap, address: int) -> Watched:
    """Guard a map for as long as it lives. If the guard is off or the table is full, only the size checks remain."""
    global _handler
    with _lock:
        if not _is_wanted():
            return Watched()
        if _handler is None:
            _handler = BusErrorHandler()
            _handler.install()
            atexit.register(_handler.remove)  # the code is freed with the interpreter
        if not _free:
            return Watched()
        # Slots are used again in the order they became free. So the handler never meets one that changes while it looks at it.
        slot = _free.popleft()
        _handler.slots[slot, LOST] = 0
        _handler.slots[slot, START] = address
        _handler.slots[slot, STOP] = address + len(mapped)  # last: it makes the slot valid
        _handler.used[0] = max(int(_handler.used[0]), slot + 1)
    weakref.finalize(mapped, _release, slot)
    return Watched(slot)


def _release(slot: int) -> None:
    with _lock:
        if _handler is not None:
            _handler.slots[slot, STOP] = 0
        _free.append(slot)


def _is_wanted() -> bool:
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        return False
    if _wanted is not None:
        return _wanted
    said = os.environ.get(VARIABLE, "1")
    if said not in ("0", "1"):
        raise InputError(f"{VARIABLE}={said!r}: need 0 (off) or 1 (on, as without the variable)")
    return said == "1"
