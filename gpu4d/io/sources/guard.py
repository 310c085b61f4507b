"""Mapped files that are cut short while they are being read: an error afterwards, not the end of the process.

Touching a page behind the end of a mapped file raises SIGBUS, which by default ends the process. Checking the file's size
before every block leaves the block that is in work when the file shrinks. So a handler puts zeros under the rest of the
map and marks it lost; whoever reads from it next, and `sweep` at its end, gets an error. Other programs' faults go on to
the handler that was there before.

The handler is Python, called through ctypes. That is safe here because the signal is synchronous: it arrives at a load from
the map, in compute code, with or without the interpreter's lock, never inside an allocator or the interpreter itself.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import signal
import sys
import threading
import weakref
from typing import Any

_SA_SIGINFO, _MAP_FIXED, _SI_ADDR = 4, 0x10, 16  # Linux on 64-bit x86 and ARM


class Watched:
    """A mapped range of addresses, and whether its file was found shorter."""

    def __init__(self, start: int, length: int):
        self.start, self.stop = start, start + length
        self.lost = False


class _Sigaction(ctypes.Structure):
    _fields_ = (("handler", ctypes.c_void_p), ("mask", ctypes.c_ulong * 16), ("flags", ctypes.c_int), ("restorer", ctypes.c_void_p))


_ranges: dict[int, Watched] = {}
_installing = threading.Lock()
_installed: list[Any] = []  # what the handler needs to stay alive; empty until the first map


def watch(mapped: mmap.mmap, address: int) -> Watched:
    """Guard a map for as long as it lives; where the system is not known, only the size checks are left."""
    watched = Watched(address, len(mapped))
    if sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64"):
        with _installing:
            if not _installed:
                _install()
            _ranges[id(watched)] = watched
        weakref.finalize(mapped, _ranges.pop, id(watched), None)
    return watched


def _install() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    put = libc.mmap
    put.restype, put.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
    before = _Sigaction()

    @ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    def on_bus_error(_number: int, info: int, _context: int) -> None:
        address = ctypes.c_uint64.from_address(info + _SI_ADDR).value
        for watched in tuple(_ranges.values()):
            if watched.start <= address < watched.stop:
                watched.lost = True
                page = address - address % mmap.PAGESIZE
                put(page, watched.stop - page, mmap.PROT_READ, flags, -1, 0)
                return
        libc.sigaction(signal.SIGBUS, ctypes.byref(before), None)  # not ours: the load is repeated under the old handler

    action = _Sigaction(handler=ctypes.cast(on_bus_error, ctypes.c_void_p).value, flags=_SA_SIGINFO)
    if libc.sigaction(signal.SIGBUS, ctypes.byref(action), ctypes.byref(before)) == 0:
        _installed.extend((on_bus_error, before))
