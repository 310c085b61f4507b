"""Simulate a device with counters and a virtual clock. A sweep runs on it as on a GPU, and mistakes with memory and order are found.

Memory is host memory, counted against the cap and against the memory of the device. Work is done at once, with NumPy, but takes
virtual time. The host, every reader and every stream have a clock. Disk and link serve one request after the other. A copy costs the
host `launch_latency`. On its stream it starts when stream, host and link are free, and takes `link_latency` + bytes / `link_rate`.
A computing block costs the host `launch_latency`, and its stream the time that the block spends by `spend`. A job of a reader starts
when the reader is free and the caller has submitted it, and takes the time that it reads by `read_from_disk`. Events, waits and
results pass times on.

They also pass on which work is over (`virtual_clock`). Accesses to a buffer that are not ordered by them are a race and raise
AssertionError. Use of freed memory and copies beyond the end of a buffer raise it too. These are accesses:

* both ends of a copy,
* views that a job gets as arguments or makes itself (written, until the job ends),
* views that a computing block makes, and device views that its thread made since the block before (read, until the block ends),
* `free` (written),
* everything that `touch` is told.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np

from gpu4d.arrays import DType
from gpu4d.device.timeline import Timeline
from gpu4d.errors import DeviceError, InputError
from gpu4d.testing.accounting_workspace import AccountingBuffer, AccountingWorkspace
from gpu4d.testing.virtual_clock import Actor, Resource

OPERATIONS = ("allocate", "pinned", "copy", "record", "wait", "compute", "reserve", "submit", "job", "read", "trim")
NO_MEMORY, NOT_READ = ("allocate", "pinned", "compute", "reserve", "submit"), ("job", "read")
FAILS_WITH: dict[str, type[Exception]] = {**dict.fromkeys(NO_MEMORY, MemoryError), **dict.fromkeys(NOT_READ, InputError)}

Failures = Sequence[tuple] | Callable[[str, int], BaseException | None]


class AccountingProcessor:
    """A simulated device that counts, as the module describes.

    Parameters
    ----------
    name : str
    memory, pinned : float
        Bytes of device memory, and bytes of host memory that can be page-locked.
    link_rate, disk_rate : float
        Bytes per second. Readers share the disk. `disk = other.disk` shares it with another processor.
    link_latency, disk_latency, launch_latency : float
        Seconds before every copy, before every read (readers wait at the same time), and before every return from a call that puts
        work into a stream.
    readers_in_threads : bool
        True makes readers real threads. Counters, failures and races are the same, but times depend on how the threads run.
    moves_bytes : bool
        False makes buffers of pages that are never touched (POSIX). Their views are read-only, and copies only take time.
    lanes : int
    failures : sequence of (operation, number) or (operation, number, error), or callable
        The number-th call (from 1, over all workspaces) of an operation fails, with MemoryError, InputError (job, read) or DeviceError
        (copy, record, wait, trim), or with `error`, a class or an exception. A callable is asked (operation, number) before every one
        and returns an exception or None. "wait" is all waiting for streams and events, "job" the start of a reader's job, "read" is
        `read_from_disk`. After a DeviceError the device is lost: every call but `close` and `free` raises DeviceError.

    Attributes
    ----------
    held, pinned_held, peak, pinned_peak : int
        Bytes of all workspaces: now, and the largest so far.
    held_by_others : int
        Bytes of the device that other programs hold. May be set at any time.
    counts : Counter
        Number of calls of every operation. Bytes are counted as "bytes copied" and "bytes read".
    faults : list of str
        Every race and misuse, also if the AssertionError was caught.
    over : float
        Virtual seconds at which the last closed workspace ended. The next one begins there.
    workspaces : list of AccountingWorkspace
        All workspaces that were made.
    """

    copies = True

    def __init__(
        self,
        name: str = "accounting:0",
        *,
        memory: float = 80e9,
        pinned: float = math.inf,
        link_rate: float = 50e9,
        link_latency: float = 10e-6,
        disk_rate: float = 5e9,
        disk_latency: float = 100e-6,
        launch_latency: float = 5e-6,
        readers_in_threads: bool = False,
        moves_bytes: bool = True,
        lanes: int = 1,
        failures: Failures = (),
    ):
        self.name, self.memory, self.pinned_memory, self.lanes = name, memory, pinned, lanes
        self.link_rate = link_rate
        self.link_latency, self.launch_latency = link_latency, launch_latency
        self.disk_rate, self.disk_latency = disk_rate, disk_latency
        self.readers_in_threads, self.moves_bytes = readers_in_threads, moves_bytes
        self.held = self.pinned_held = self.peak = self.pinned_peak = self.held_by_others = 0
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.lost = False
        self.link, self.disk = Resource(), Resource()
        self.workspaces: list[AccountingWorkspace] = []
        self.over = 0.0
        self.lock = threading.RLock()
        self.thread = _Thread()
        self._failures = failures if callable(failures) else _listed(failures, name)

    def free_memory(self) -> int:
        self._answer()
        return max(0, int(self.memory - self.held - self.held_by_others))

    def sample(self, dtype: DType) -> None:
        return None

    def workspace(self, cap: int, readers: int, timeline: Timeline | None = None) -> AccountingWorkspace:
        self._answer()
        workspace = AccountingWorkspace(self, int(cap), int(readers), timeline)
        with self.lock:
            self.workspaces.append(workspace)
        return workspace

    def leaks(self) -> list[str]:
        """Return what was not given back before its workspace closed, or is still held."""
        return [text for workspace in self.workspaces for text in workspace.leaks()]

    def spend(self, seconds: float) -> None:
        """Add seconds to the clock of the work that runs now: the stream inside `computing`, else the reader, else the host."""
        actor = self.thread.stream or self.thread.caller
        if actor is not None:
            actor.time += seconds

    @contextmanager
    def reserve(self, nbytes: int) -> Iterator[None]:
        """Hold device memory inside the block, as work inside `computing` does. It counts against the cap."""
        workspace = self.thread.computes
        if workspace is None:
            self.fault("misuse: device memory was reserved outside computing")
        workspace.called("reserve")
        workspace.take(int(nbytes), "device")
        try:
            yield
        finally:
            workspace.give(int(nbytes), "device")

    def read_from_disk(self, nbytes: int) -> None:
        """Let the calling reader wait for so many bytes of the disk."""
        self.called("read")
        with self.lock:
            self.counts["bytes read"] += int(nbytes)
            actor = self.thread.caller
            if actor is not None:
                _, actor.time = self.disk.take(actor.time + self.disk_latency, nbytes / self.disk_rate)

    def touch(self, array: np.ndarray, write: bool = False) -> None:
        """Note that the work that runs now reads or writes a view of a buffer. Other arrays are ignored."""
        for workspace in self.workspaces:
            workspace.touch(array, write)

    def called(self, operation: str) -> None:
        """Count a call, and fail if `failures` says so."""
        with self.lock:
            self._answer()
            self.counts[operation] += 1
            error = self._failures(operation, self.counts[operation])
            if error is not None:
                self.lost = self.lost or isinstance(error, DeviceError)
                raise error

    def fault(self, text: str) -> NoReturn:
        """Note a fault of the caller, and raise it."""
        with self.lock:
            self.faults.append(text)
        raise AssertionError(text)

    def _answer(self) -> None:
        if self.lost:
            raise DeviceError(f"{self.name} stopped answering: its memory is lost; restart the sweep on another device")


class _Thread(threading.local):
    """State of the calling thread."""

    job: Actor | None = None  # the reader's job
    host: Actor | None = None  # host of the workspace it called last
    stream: Actor | None = None  # the stream, inside computing
    computes: AccountingWorkspace | None = None

    def __init__(self) -> None:
        self.early: list[tuple[AccountingBuffer, int, int]] = []  # device views taken since the last computing block

    @property
    def caller(self) -> Actor | None:
        return self.job or self.host


def _listed(failures: Iterable[tuple], device: str) -> Callable[[str, int], BaseException | None]:
    """Return the callable for a list of failures."""
    asked: dict[tuple[str, int], Any] = {}
    for operation, number, *error in failures:
        if operation not in OPERATIONS:
            raise InputError(f"failures: {operation!r} is no operation; need one of {', '.join(OPERATIONS)}")
        asked[operation, number] = error[0] if error else FAILS_WITH.get(operation, DeviceError)

    def failure(operation: str, number: int) -> BaseException | None:
        error = asked.get((operation, number))
        if not isinstance(error, type):
            return error
        why = "stopped answering" if issubclass(error, DeviceError) else "failed, as asked"
        return error(f"{device}: {operation} {number} {why}")

    return failure


class VirtualSource:
    """A scan of any size whose patterns are computed from their position. Reading takes the time of the device's disk.

    Parameters
    ----------
    processor : AccountingProcessor
    shape : (Rx, Ry, Qx, Qy)
    dtype : dtype
    blocks : (int, int)
    fill : callable, optional
        fill(rows, columns) returns the patterns of two slices. By default numbers from 0 to 100 that look random.

    Examples
    --------
    >>> processor = AccountingProcessor(disk_rate=1e9)
    >>> source = VirtualSource(processor, (2, 3, 4, 4), "uint16")
    >>> bool((source.read(slice(1, 2), slice(0, 3)) == source.whole[1:]).all()), processor.counts["bytes read"]
    (True, 96)
    """

    resident = False

    def __init__(
        self,
        processor: AccountingProcessor,
        shape: tuple[int, int, int, int],
        dtype: DType,
        blocks: tuple[int, int] = (1, 1),
        fill: Callable[[slice, slice], np.ndarray] | None = None,
    ):
        self.processor, self.shape, self.dtype, self.blocks = processor, shape, np.dtype(dtype), blocks
        self.fill = fill or self._numbers
        self.description = "patterns computed from their position, as from a disk"

    @property
    def whole(self) -> np.ndarray:
        """All patterns (Rx, Ry, Qx, Qy), without using the disk."""
        return self.fill(slice(0, self.shape[0]), slice(0, self.shape[1]))

    def read(self, rows: slice, columns: slice, out: np.ndarray | None = None) -> np.ndarray:
        shape = rows.stop - rows.start, columns.stop - columns.start, *self.shape[2:]
        if out is not None:
            self.processor.touch(out, write=True)
        self.processor.read_from_disk(math.prod(shape) * self.dtype.itemsize)
        if self.processor.moves_bytes:
            if out is None:
                return self.fill(rows, columns)
            out[...] = self.fill(rows, columns)
        return np.broadcast_to(np.zeros((), self.dtype), shape) if out is None else out

    def _numbers(self, rows: slice, columns: slice) -> np.ndarray:
        """Return a number for each pixel by mixing the bits of the pixel's index, so that neighbours look independent."""
        position = np.arange(rows.start, rows.stop, dtype=np.uint64)[:, None] * np.uint64(self.shape[1])
        position = position + np.arange(columns.start, columns.stop, dtype=np.uint64)
        pixel = np.arange(self.shape[2] * self.shape[3], dtype=np.uint64).reshape(self.shape[2:])
        number = position[:, :, None, None] * np.uint64(pixel.size) + pixel
        mixed = (number + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)  # wraps around; 2⁶⁴ over the golden ratio
        return ((mixed >> np.uint64(32)) % np.uint64(101)).astype(self.dtype)
