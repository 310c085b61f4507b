"""Run sweeps on a CUDA device through CuPy: memory under a hard cap, streams, events, and errors as our own types.

Three kinds of memory are used. No block is reused while the device still works on it:

* Buffers of the ring come from cudaMalloc, not from a pool. Copy and compute streams both use them, but a pool orders the reuse of a
  block by one stream only. They are freed after all streams are idle.
* Arrays made in `computing`, including work areas of FFT plans, come from a private pool. CuPy's pools keep freed blocks apart by the
  stream that was current when they were made, so a block is reused in the order of that stream. A workspace has one compute stream,
  and only that stream touches them. To read a result on another stream, wait for an event or for `Stream.synchronize` first.
* Page-locked buffers are read by copies only. After all streams are idle they go to a store that keeps some for the next sweep
  (`page_locked`).

Tables that launchers keep between updates (`tables`) are arrays of the pool. They are dropped if memory runs short.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from gpu4d.device.page_locked import Block, PinnedBuffer, page_locked, store
from gpu4d.device.processors.cpu import Account, Readers
from gpu4d.device.processors.cuda_errors import in_our_words, out_of_memory
from gpu4d.device.processors.cuda_memory import Pool, current
from gpu4d.device.tables import Tables, release, using_tables
from gpu4d.errors import DeviceError

log = logging.getLogger("gpu4d")

TABLES_SHARE = 0.25  # share of a sweep's memory; tables that do not fit are made again with every update

# Objects of a lost device. Their destructors would raise, and their memory is freed only when the process ends.
_abandoned: list[Any] = []


class CudaProcessor:
    """One CUDA device. Creating this object imports nothing and makes no context.

    Use a workspace from as few threads as possible, best from one thread for each device. If a thread's current device has no CUDA
    context yet, gpu4d cannot switch back to it afterwards: the device of the workspace stays current.
    """

    copies: bool = True
    lanes: int = 1

    def __init__(self, index: int = 0):
        self.index = int(index)
        self.name = f"cuda:{self.index}"

    @property
    def link_rate(self) -> float | None:
        """Rate of the link to the host: of the card's slot as NVML reports it, else of PCI Express 4.0 with 16 lanes."""
        from gpu4d.device.choose import bus_ids, cuda_devices
        from gpu4d.device.nvml import Link, readings

        link = readings(bus_ids(cuda_devices())[self.index : self.index + 1])
        return ((link and link[0].max_link) or Link(4, 16)).rate

    def free_memory(self) -> int:
        """Count free bytes of the device, including free blocks of CuPy's own pool, which a workspace reclaims when it needs them."""
        import cupy

        with in_our_words(self.name), current(self.index):
            return int(cupy.cuda.runtime.memGetInfo()[0]) + int(cupy.get_default_memory_pool().free_bytes())

    def sample(self, dtype: Any) -> Any:
        import cupy

        with in_our_words(self.name), current(self.index):
            return cupy.empty((0, 0, 0, 0), dtype=dtype)

    def workspace(self, cap: int, readers: int, timeline: Any = None) -> CudaWorkspace:
        return CudaWorkspace(self, cap, readers, timeline)


class CudaWorkspace:
    """Memory, streams and reader threads of one sweep on a CUDA device."""

    def __init__(self, processor: CudaProcessor, cap: int, readers: int, timeline: Any = None):
        self.name, self.index, self.lost = processor.name, processor.index, False
        self._pinned = Account("page-locked memory", cap)
        self._readers = Readers(readers, timeline)
        self._streams: dict[str, CudaStream] = {}
        self._buffers: set[DeviceBuffer] = set()
        self._plans: dict[int, Any] = {}  # caches of FFT plans, one for each thread that computed
        self._tables = Tables(int(cap * TABLES_SHARE))
        self._timeline, self._spans = timeline, []  # type: ignore[var-annotated]
        with self.calling():
            self.pool = Pool(self.index, cap, self._flush, None if timeline is None else self._note_given_back)
            self._zero = self._start_of_time() if timeline is not None else None

    @property
    def peak(self) -> int:
        return self.pool.peak

    @property
    def pinned_peak(self) -> int:
        return self._pinned.peak

    def allocate(self, nbytes: int) -> DeviceBuffer:
        import cupy

        with self.calling(), self.pool.beside(int(nbytes)):
            buffer = DeviceBuffer(self, int(nbytes), self._retry_after_flush(lambda: cupy.cuda.Memory(int(nbytes))))
        self._buffers.add(buffer)
        return buffer

    def pinned(self, nbytes: int) -> PinnedBuffer:
        with self.calling():
            return PinnedBuffer(self, int(nbytes))

    def stream(self, name: str) -> CudaStream:
        """Return the stream of this name. The same name gives the same stream."""
        if name not in self._streams:
            with self.calling():
                self._streams[name] = CudaStream(self, name)
        return self._streams[name]

    def copy(self, target: Any, source: Any, nbytes: int, stream: Any) -> None:
        from cupy.cuda import runtime

        if nbytes > min(target.nbytes, source.nbytes):
            raise ValueError(f"a copy of {nbytes} bytes between buffers of {source.nbytes} and {target.nbytes}")
        with self.calling():
            begin = self._mark(stream)
            runtime.memcpyAsync(target.address, source.address, nbytes, runtime.memcpyHostToDevice, stream.cupy.ptr)
            self._note("copy", "copy", begin, stream, bytes=nbytes)

    @contextlib.contextmanager
    def computing(self, stream: Any, name: str) -> Iterator[None]:
        """Compute in this stream, as `Workspace` says. Make the stream wait for events before entering: the block counts as computing."""
        import cupy

        with self.calling():
            self._own_plans(cupy.fft.config.get_plan_cache())
            with cupy.cuda.using_allocator(self.pool.malloc), stream.cupy, using_tables(self._tables):
                begin = self._mark(stream)
                yield
                self._note("compute", name, begin, stream)

    def submit(self, function: Callable[..., Any], *args: Any) -> Future:
        return self._readers.submit(function, *args)

    def now(self) -> float:
        return time.perf_counter()

    def trim(self) -> None:
        with self.calling():
            release()  # before the pool that holds it is emptied
            self._flush()
            store().shrink(0)

    def close(self) -> None:
        self._readers.close()
        if not self.lost:
            try:
                with self.calling():
                    self._wait_for_streams()
                    self._write_spans()
                    for buffer in self._held():
                        buffer.free()
                    self._flush()
                    self.pool.close()
            except Exception as error:  # no caller could do anything about it
                log.warning("%s could not be left in order: %s", self.name, error)
                self.lost = True
        if self.lost:
            self._tables.clear()
            _abandoned.append((self.pool, dict(self._streams), list(self._spans), self._zero, list(self._plans.values())))
            for buffer in self._held():
                buffer.free()
        self._plans.clear()

    # ------------------------------------------------------------ for buffers, streams and events

    @contextlib.contextmanager
    def calling(self) -> Iterator[None]:
        """Make this device the current one of the thread inside the block, and turn errors into MemoryError or DeviceError."""
        try:
            with in_our_words(self.name), current(self.index):
                yield
        except DeviceError:
            self.lost = True
            _abandoned.extend(store().abandon())
            raise

    def free(self, buffer: Any) -> None:
        """Free a buffer once the device has finished with it. Never raises: memory of a lost device stays until the process ends."""
        if not self.lost:
            try:
                with self.calling():  # the memory is freed in here, because freeing acts on the current device
                    self._wait_for_streams()
                    buffer.give_back()
                return
            except Exception as error:
                log.warning("%s: memory could not be freed: %s", self.name, error)
        _abandoned.append(buffer.held)
        buffer.drop()

    def dropped(self, buffer: DeviceBuffer) -> bool:
        """Remove a buffer from the account, and return False if it is not in it any more."""
        with self.pool.lock:
            if buffer not in self._buffers:
                return False
            self._buffers.discard(buffer)
        self.pool.left_beside(buffer.nbytes)
        return True

    # ------------------------------------------------------------ memory

    def _retry_after_flush(self, make: Callable[[], Any]) -> Any:
        """Try again after giving back memory that is only kept for reuse."""
        try:
            return make()
        except Exception as error:
            if not out_of_memory(error):
                raise
        self._flush()
        return make()

    def page_locked(self, nbytes: int) -> Block:
        """Take a block from an earlier sweep, or make a new one. Blocks in use and blocks kept stay under this sweep's cap together."""
        block = store().take(nbytes)
        store().shrink(self._pinned.cap - self._pinned.held)  # which counts the block already
        if block is not None:
            return block
        try:
            return Block(self.index, nbytes, page_locked(nbytes))
        except Exception as error:
            if not out_of_memory(error):
                raise
        store().shrink(0)
        self._flush()
        return Block(self.index, nbytes, page_locked(nbytes))

    def _wait_for_streams(self) -> None:
        """Wait until all work in the streams is done."""
        for stream in self._streams.values():
            stream.cupy.synchronize()

    def _held(self) -> list[Any]:
        return [*self._buffers, *self._pinned.buffers]

    def _flush(self) -> None:
        """Give back what is kept for reuse, by this workspace and by CuPy itself."""
        import cupy

        self._wait_for_streams()
        self._tables.clear()
        for plans in self._plans.values():
            _clear(plans)
        self.pool.give_back()
        cupy.get_default_memory_pool().free_all_blocks()
        cupy.get_default_pinned_memory_pool().free_all_blocks()

    def _own_plans(self, cache: Any) -> None:
        """Drop FFT plans of this thread that were made earlier, and note the cache so that new ones go with the workspace.

        CuPy keeps plans by thread, with their work areas. Work that the caller has put into another stream may still use the areas of
        earlier plans, and those areas are not counted against the cap.
        """
        if id(cache) not in self._plans:
            _clear(cache)
            self._plans[id(cache)] = cache

    # ------------------------------------------------------------ the timeline

    def _start_of_time(self) -> tuple[Any, float]:
        """Record an event, and the clock's time at which the device reached it."""
        import cupy

        event = reached(cupy.cuda.Stream(non_blocking=True), timed=True)
        event.synchronize()
        return event, self.now()

    def _mark(self, stream: Any) -> Any:
        """Record a timed event at this point of a stream, if there is a timeline."""
        return None if self._timeline is None else reached(stream.cupy, timed=True)

    def _note(self, track: str, name: str, begin: Any, stream: Any, **details: Any) -> None:
        if begin is not None:
            self._spans.append((track, name, begin, self._mark(stream), details))

    def _note_given_back(self, start: float, nbytes: int) -> None:
        """Note that memory ran short and was reclaimed without an error. That waits for the device, and only the trace shows it."""
        self._timeline.span(f"{self.name} memory", "kept memory given back to make room", start, self.now(), bytes=nbytes)

    def _write_spans(self) -> None:
        """Write spans to the timeline. The times of events are known only after the device has reached them."""
        from cupy.cuda import get_elapsed_time

        if self._zero is None:
            return
        zero, clock = self._zero
        for track, name, begin, end, details in self._spans:
            start, stop = (clock + get_elapsed_time(zero, event) * 1e-3 for event in (begin, end))
            self._timeline.span(f"{self.name} {track}", name, start, stop, **details)
        self._spans.clear()


class DeviceBuffer:
    """Bytes of device memory from cudaMalloc. Views keep the memory, but do not count."""

    def __init__(self, workspace: CudaWorkspace, nbytes: int, memory: Any):
        self.nbytes, self._workspace, self.held = nbytes, workspace, memory

    @property
    def address(self) -> int:
        return int(self.held.ptr)

    def view(self, shape: tuple[int, ...], dtype: Any, offset: int = 0) -> Any:
        import cupy

        return cupy.ndarray(shape, dtype=dtype, memptr=cupy.cuda.MemoryPointer(self.held, offset))

    def free(self) -> None:
        if self.held is not None:
            self._workspace.free(self)

    def give_back(self) -> None:
        self.drop()

    def drop(self) -> None:
        if self._workspace.dropped(self):
            self.held = None


def _clear(plans: Any) -> None:
    if plans.get_curr_size():  # clearing collects garbage, which takes its time
        plans.clear()


class CudaStream:
    """A stream that does not wait for the default stream, nor lets it wait."""

    def __init__(self, workspace: CudaWorkspace, name: str):
        import cupy

        self.name, self._workspace = name, workspace
        self.cupy = cupy.cuda.Stream(non_blocking=True)

    def record(self) -> CudaEvent:
        with self._workspace.calling():
            return CudaEvent(self._workspace, reached(self.cupy, timed=False))

    def wait(self, event: Any) -> None:
        with self._workspace.calling():
            self.cupy.wait_event(event.cupy)

    def synchronize(self) -> None:
        with self._workspace.calling():
            self.cupy.synchronize()


class CudaEvent:
    """A point in the work of a stream."""

    def __init__(self, workspace: CudaWorkspace, event: Any):
        self._workspace, self.cupy = workspace, event

    def wait(self) -> None:
        with self._workspace.calling():
            self.cupy.synchronize()

    def __del__(self) -> None:
        if self._workspace.lost:
            _abandoned.append(self.cupy)


def reached(stream: Any, timed: bool) -> Any:
    """Record an event after the work that a CuPy stream has so far. A thread that waits for it sleeps, because readers need the cores."""
    import cupy

    event = cupy.cuda.Event(block=True, disable_timing=not timed)
    try:
        event.record(stream)
    except Exception:
        _abandoned.append(event)  # on a lost device the event's destructor would fail, too
        raise
    return event
