"""Run sweeps on the CPU. Device memory is host memory, a copy is a read, and all work is done when its call returns."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from gpu4d.device.choose import cpu_threads
from gpu4d.device.memory import available_memory
from gpu4d.sizes import format_bytes


class CpuProcessor:
    """The cores this process may use."""

    name: str = "cpu"
    copies: bool = False
    link_rate: float | None = None

    def __init__(self) -> None:
        self.lanes = cpu_threads()

    def free_memory(self) -> int:
        return available_memory()

    def sample(self, dtype: Any) -> None:
        return None

    def workspace(self, cap: int, readers: int, timeline: Any = None) -> CpuWorkspace:
        return CpuWorkspace(cap, readers, timeline)


class CpuWorkspace:
    """Host memory and reader threads of one sweep. Work is done when the call that asks for it returns."""

    def __init__(self, cap: int, readers: int, timeline: Any = None):
        self._device, self._pinned = Account("memory", cap), Account("staging memory", cap)
        self._readers = Readers(readers, timeline)
        self._timeline = timeline

    @property
    def peak(self) -> int:
        return self._device.peak

    @property
    def pinned_peak(self) -> int:
        return self._pinned.peak

    def allocate(self, nbytes: int) -> HostBuffer:
        return HostBuffer(self._device, nbytes, page)

    def pinned(self, nbytes: int) -> HostBuffer:
        return HostBuffer(self._pinned, nbytes, page)

    def stream(self, name: str) -> Done:
        return Done()

    def copy(self, target: Any, source: Any, nbytes: int, stream: Any) -> None:
        np.copyto(target.view((nbytes,), np.uint8), source.view((nbytes,), np.uint8))

    @contextlib.contextmanager
    def computing(self, stream: Any, name: str) -> Iterator[None]:
        start = self.now()
        try:
            yield
        finally:
            if self._timeline is not None:
                self._timeline.span(f"cpu compute {thread_number()}", name, start, self.now())

    def submit(self, function: Callable[..., Any], *args: Any) -> Future:
        return self._readers.submit(function, *args)

    def now(self) -> float:
        return time.perf_counter()

    def trim(self) -> None:
        """Do nothing: freed host memory has gone back already."""

    def close(self) -> None:
        self._readers.close()
        self._device.close()
        self._pinned.close()


class Done:
    """Stream and event of the CPU, where all submitted work is done at once."""

    def record(self) -> Done:
        return self

    def wait(self, event: Any = None) -> None:
        """Do nothing, because all work is done."""

    def synchronize(self) -> None:
        """Do nothing, because all work is done."""


def page(nbytes: int) -> np.ndarray:
    """Allocate pageable memory."""
    if nbytes > available_memory():  # Linux grants more than it has, and would kill the process when it writes to the pages
        raise MemoryError(f"{format_bytes(nbytes)} of host memory asked for, {format_bytes(available_memory())} is free")
    return np.empty(nbytes, dtype=np.uint8)


class Account:
    """Count the bytes that buffers of a workspace hold of one kind of memory, and refuse more than a cap."""

    def __init__(self, kind: str, cap: int):
        self.kind, self.cap, self.held, self.peak = kind, int(cap), 0, 0
        self.buffers: set[HostBuffer] = set()
        self.lock = threading.RLock()  # a buffer may be freed by the garbage collector of the thread that holds it

    def take(self, nbytes: int) -> None:
        with self.lock:
            if self.held + nbytes > self.cap:
                raise MemoryError(
                    f"{format_bytes(nbytes)} of {self.kind} asked for, {format_bytes(self.held)} of {format_bytes(self.cap)} is held"
                )
            self.held += nbytes

    def enter(self, buffer: HostBuffer) -> None:
        """Register a buffer that has its bytes now."""
        with self.lock:
            self.buffers.add(buffer)
            self.peak = max(self.peak, self.held)

    def give(self, nbytes: int) -> None:
        with self.lock:
            self.held -= nbytes

    def close(self) -> None:
        """Free what is still held."""
        for buffer in list(self.buffers):
            buffer.free()


class HostBuffer:
    """Bytes of host memory. `make` allocates them as any object that exports its bytes (PEP 3118)."""

    def __init__(self, account: Account, nbytes: int, make: Callable[[int], Any]):
        self.nbytes = int(nbytes)
        self._account = account
        account.take(self.nbytes)
        try:
            self._bytes: Any = make(self.nbytes)
        except BaseException:
            account.give(self.nbytes)
            raise
        account.enter(self)

    @property
    def address(self) -> int:
        """Address of the first byte."""
        return np.ndarray((self.nbytes,), np.uint8, buffer=self._bytes).ctypes.data

    def view(self, shape: tuple[int, ...], dtype: Any, offset: int = 0) -> np.ndarray:
        return np.ndarray(shape, dtype, buffer=self._bytes, offset=offset)

    def free(self) -> None:
        with self._account.lock:
            if self not in self._account.buffers:
                return
            self._account.buffers.discard(self)
            self._account.give(self.nbytes)
        self._bytes = None  # views keep the memory alive


class Readers:
    """Threads that read ahead. They start with the first read.

    On a timeline every thread is a track, "read 0", and a call appears under the name of its first argument.
    """

    def __init__(self, threads: int, timeline: Any = None):
        self._threads, self._lock, self._closed = max(threads, 1), threading.Lock(), False
        self._timeline = timeline
        self._pool: ThreadPoolExecutor | None = None

    def submit(self, function: Callable[..., Any], *args: Any) -> Future:
        with self._lock:
            if self._closed:
                raise RuntimeError("the workspace is closed")
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="gpu4d-read")
            call = function if self._timeline is None else functools.partial(self._timed, function)
            return self._pool.submit(contextvars.copy_context().run, call, *args)  # gpu4d.using holds in readers too

    def _timed(self, function: Callable[..., Any], *args: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args)
        finally:
            name = f"read {args[0]}" if args else "read"
            self._timeline.span(f"read {thread_number()}", name, start, time.perf_counter())

    def close(self) -> None:
        """Cancel reads that have not started, and wait for the rest."""
        with self._lock:
            self._closed, pool, self._pool = True, self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)


def thread_number() -> int:
    """Return the number at the end of a worker thread's name; 0 for other threads."""
    number = re.search(r"(\d+)$", threading.current_thread().name)
    return int(number.group(1)) if number else 0
