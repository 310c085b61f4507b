"""Memory of a CUDA device for one sweep: CuPy's pool, made to keep a cap and to outlive the sweep where results need it."""

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
    """A CuPy memory pool of its own, and the bytes held beside it, under one cap that both together keep.

    CuPy counts freed blocks that are kept for reuse against the limit of a pool. Near the limit its pool gives them back by cudaFree, which
    waits for the device every time, collects garbage, gives back again, and refuses only then (seen with CuPy 14.2); a request above the
    limit alone it refuses at once. What plans of FFTs and CuPy's default pool hold it leaves alone: `flush` gives those back, too.

    Parameters
    ----------
    index : int
        Of the device.
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
        """Memory for an array: what CuPy calls inside `computing`."""
        import cupy

        if nbytes == 0:
            return self.pool.malloc(0)
        start, before = (0.0, 0) if self.gave_back is None else (time.perf_counter(), self.pool.total_bytes())
        try:
            block = self.pool.malloc(nbytes)
        except MemoryError as error:
            log.debug("%s; what is kept for reuse is given back, which waits for the device", error)
            self.flush()
            block = self.pool.malloc(nbytes)
        after = self._note()
        if self.gave_back is not None and after != before:  # the block is a new one
            given_back = before + -(-nbytes // BLOCK) * BLOCK - after
            if given_back > 0:
                self.gave_back(start, given_back)
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

    def _note(self) -> int:
        """Bytes of the pool, counted into the peak."""
        with self.lock:
            total = int(self.pool.total_bytes())
            self.peak = max(self.peak, self.held_beside + total)
        return total

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
