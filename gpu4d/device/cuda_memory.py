"""Memory of a CUDA device for one sweep: CuPy's pool, made to keep a cap and to outlive the sweep where results need it."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

from gpu4d.sizes import format_bytes

log = logging.getLogger("gpu4d")


class Pool:
    """A CuPy memory pool of its own, and the bytes held beside it, under one cap that both together keep.

    CuPy counts freed blocks that are kept for reuse against the limit of a pool, and refuses without giving them back.
    """

    def __init__(self, index: int, cap: int, flush: Callable[[], None]):
        import cupy

        self.index, self.cap, self.flush = index, int(cap), flush
        self.pool = cupy.cuda.MemoryPool()
        self.lock = threading.RLock()
        self.held_beside = self.peak = 0
        self.closed = False
        self._limit()

    def malloc(self, nbytes: int) -> Any:
        """Memory for an array: what CuPy calls inside `computing`."""
        import cupy

        if nbytes == 0:
            return self.pool.malloc(0)
        try:
            block = self.pool.malloc(nbytes)
        except MemoryError as error:
            log.debug("%s; what is kept for reuse is given back, which waits for the device", error)
            self.flush()
            block = self.pool.malloc(nbytes)
        self._note()
        lease = Lease(self, block)
        return cupy.cuda.MemoryPointer(cupy.cuda.UnownedMemory(block.ptr, nbytes, lease, self.index), 0)

    @contextlib.contextmanager
    def beside(self, nbytes: int) -> Iterator[None]:
        """Count bytes held beside the pool; they stay counted unless the block raises."""
        with self.lock:
            self.held_beside += nbytes
            self._limit()  # from now on the pool cannot grow into them
        try:
            if self.held_beside + self.pool.total_bytes() > self.cap:
                self.flush()
            with self.lock:
                held = self.held_beside + self.pool.total_bytes()
                if held > self.cap:
                    raise MemoryError(
                        f"{format_bytes(nbytes)} of cuda:{self.index} asked for, "
                        f"{format_bytes(held - nbytes)} of {format_bytes(self.cap)} is held"
                    )
            yield
            self._note()
        except BaseException:
            self.left_beside(nbytes)
            raise

    def left_beside(self, nbytes: int) -> None:
        with self.lock:
            self.held_beside -= nbytes
            with contextlib.suppress(Exception):  # of a lost device
                self._limit()

    def give_back(self) -> None:
        """Free blocks that are only kept for reuse."""
        self.pool.free_all_blocks()

    def close(self) -> None:
        self.give_back()
        self.closed, self.flush = True, _nothing  # results keep the pool, but not the workspace

    def _note(self) -> None:
        with self.lock:
            self.peak = max(self.peak, self.held_beside + self.pool.total_bytes())

    def _limit(self) -> None:
        with current(self.index):
            self.pool.set_limit(size=max(self.cap - self.held_beside, 1))  # 0 would mean no limit


def _nothing() -> None:
    """What is left to flush when the workspace is gone."""


class Lease:
    """What an array holds of the pool: its block, and the pool itself.

    A block of CuPy does not keep its pool, and a pool that goes frees all of its memory, that of living arrays included. Results
    outlive the workspace; what comes back after its end is not kept for reuse.
    """

    __slots__ = ("block", "pool")

    def __init__(self, pool: Pool, block: Any):
        self.pool, self.block = pool, block

    def __del__(self) -> None:
        self.block = None
        if self.pool.closed:
            with contextlib.suppress(Exception), current(self.pool.index):
                self.pool.give_back()


@contextlib.contextmanager
def current(index: int) -> Iterator[None]:
    """Inside it a device is the current one of the thread.

    The one before comes back only if it has a context: since CUDA 12, making a device current makes a context on it, some hundred
    megabytes on a card nobody asked for.
    """
    from cupy.cuda import runtime

    before = runtime.getDevice()
    if before == index:
        yield
        return
    runtime.setDevice(index)
    try:
        yield
    finally:
        if has_context(before):
            runtime.setDevice(before)


_with_context: set[int] = set()


def has_context(index: int) -> bool:
    """Whether this process has a context on a device; True where that cannot be found out."""
    if index not in _with_context and _context_there(index):
        _with_context.add(index)  # it stays
    return index in _with_context


def _context_there(index: int) -> bool:
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return True
    device, flags, active = ctypes.c_int(), ctypes.c_uint(), ctypes.c_int()
    if driver.cuDeviceGet(ctypes.byref(device), index):
        return True
    return bool(driver.cuDevicePrimaryCtxGetState(device, ctypes.byref(flags), ctypes.byref(active)) or active.value)
