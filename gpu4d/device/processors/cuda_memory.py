"""Manage memory of a CUDA device for one sweep: a CuPy pool that keeps a cap, and that outlives the sweep if results need it."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from gpu4d.sizes import format_bytes

log = logging.getLogger("gpu4d")

BLOCK = 512  # bytes: CuPy's pools round every request up to a multiple


class Pool:
    """A private CuPy memory pool, and a count of the bytes held beside it. One cap limits both together.

    CuPy counts freed blocks that it keeps for reuse against the limit of a pool. Near the limit the pool gives them back by cudaFree,
    which waits for the device each time, then collects garbage, tries again, and only then refuses (seen with CuPy 14.2). It does not
    give back memory of FFT plans and of CuPy's default pool. `flush` does.

    Parameters
    ----------
    index : int
        Number of the device.
    cap : int
        Bytes.
    flush : callable
        Gives back everything that is only kept for reuse.
    gave_back : callable, optional
        Called with the time at which memory was asked for and the bytes of the pool that were given back to make room for it.
    """

    def __init__(self, index: int, cap: int, flush: Callable[[], None], gave_back: Callable[[float, int], None] | None = None):
        import cupy

        self.index, self.cap, self.flush, self.gave_back = index, int(cap), flush, gave_back
        self.pool = cupy.cuda.MemoryPool()
        self.lock = threading.RLock()
        self.held_beside = self.peak = 0
        self.closed = False
        self._limit()

    def malloc(self, nbytes: int) -> Any:
        """Allocate memory for an array. CuPy calls this inside `computing`."""
        import cupy

        if nbytes == 0:
            return self.pool.malloc(0)
        start, before = (0.0, 0) if self.gave_back is None else (time.perf_counter(), self.pool.total_bytes())
        try:
            block = self.pool.malloc(nbytes)
        except MemoryError as error:
            log.debug("%s; memory kept for reuse is given back, which waits for the device", error)
            self.flush()
            block = self.pool.malloc(nbytes)
        after = self._note()
        if self.gave_back is not None and after != before:  # CuPy made a new block
            given_back = before + -(-nbytes // BLOCK) * BLOCK - after
            if given_back > 0:
                self.gave_back(start, given_back)
        lease = PooledBlock(self, block)
        return cupy.cuda.MemoryPointer(cupy.cuda.UnownedMemory(block.ptr, nbytes, lease, self.index), 0)

    @contextlib.contextmanager
    def beside(self, nbytes: int) -> Iterator[None]:
        """Count bytes held beside the pool. They stay counted unless the block raises."""
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
            with contextlib.suppress(Exception):  # fails on a lost device
                self._limit()

    def give_back(self) -> None:
        """Free blocks that are only kept for reuse."""
        self.pool.free_all_blocks()

    def close(self) -> None:
        self.give_back()
        self.closed, self.flush = True, _nothing  # results keep the pool alive, but not the workspace

    def _note(self) -> int:
        """Return the bytes of the pool, and update the peak."""
        with self.lock:
            total = int(self.pool.total_bytes())
            self.peak = max(self.peak, self.held_beside + total)
        return total

    def _limit(self) -> None:
        with current(self.index):
            self.pool.set_limit(size=max(self.cap - self.held_beside, 1))  # 0 would mean no limit


def _nothing() -> None:
    """Do nothing: a pool without its workspace has nothing left to flush."""


class PooledBlock:
    """A block of a pool, together with the pool itself. Every array made in a sweep holds one.

    A CuPy block does not keep its pool alive, and a pool that is destroyed frees all of its memory, also under living arrays. Results may
    outlive the workspace. A block that is freed after the workspace has closed is given back to the device at once.
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
    """Make a device the current one of this thread inside the block.

    The earlier device is restored only if it has a context. Since CUDA 12, making a device current creates a context on it, which costs
    some hundred megabytes on a card that is not used.
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
    """Say whether this process has a context on a device; True if that cannot be found out."""
    if index not in _with_context and _context_there(index):
        _with_context.add(index)  # a context stays until the process ends
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
