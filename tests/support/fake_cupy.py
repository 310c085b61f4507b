"""The part of CuPy that `gpu4d.device.processors.cuda` uses, made of host memory, strict where a GPU is unforgiving.

* Work put into a stream is done as late as possible: when somebody waits for it. Who reads without waiting reads poison.
* Memory that was freed is gone: reading, copying to or from it is an error. Pools behave as CuPy's do: freed blocks are kept apart by
  stream, count against the limit, and are given back, and garbage is collected, before a request is refused; one above the limit
  itself is refused at once. A pool that goes takes its blocks with it, those in use included.
* Making a device current makes a context on it, as CUDA 12 does, and so does any call that needs one.
* Any call can be told to fail, and a lost device fails all of them. Destructors cannot raise: what they would have is kept.

Signatures and names are those of CuPy 13 and 14 (`tests/device/test_cuda_sweeps.py` holds them against CuPy where it is installed).
Arrays on the device are NumPy arrays over its bytes, so that reductions run on them; entering a stream does what was put into it before.

What it does otherwise than CuPy; code that passes here is not shown to be right there:

* Free blocks are found by their exact size. CuPy takes the best fit and splits and merges blocks in steps of 512 bytes. So its pools come
  to hold fragments; giving back keeps a block that is split and in use in part, and a pool that is full of such parts refuses although
  as many bytes are free. `total_bytes` here falls by all that is free, there by whole blocks alone.
* An array is a NumPy array. CuPy's has no buffer and no view on the host, and its `data` is a MemoryPointer.
* An event refuses stream=None. CuPy takes the current stream then; the stricter is right for the library.
* `fft.config` is a module. In CuPy 14 it is an object of `cupy.fft._config` with the same functions.
* Plans of FFTs have no memory. CuPy's have a work area from the allocator that was current when they were made, and a cache of the thread
  and the device keeps it.
"""

import contextlib
import ctypes
import gc
import itertools
import sys
import threading
import types
import weakref

import numpy as np

from gpu4d.device import page_locked

NAMES = {
    2: "cudaErrorMemoryAllocation: out of memory",
    46: "cudaErrorDevicesUnavailable: CUDA-capable device(s) is/are busy or unavailable",
    100: "cudaErrorNoDevice: no CUDA-capable device is detected",
    214: "cudaErrorECCUncorrectable: uncorrectable ECC error encountered",
    400: "cudaErrorInvalidResourceHandle: invalid resource handle",
    700: "cudaErrorIllegalAddress: an illegal memory access was encountered",
    719: "cudaErrorLaunchFailure: unspecified launch failure",
}


class CUDARuntimeError(RuntimeError):
    def __init__(self, status):
        self.status = status
        super().__init__(NAMES[status])


class OutOfMemoryError(MemoryError):
    """CuPy's own, of its pools."""


class Card:
    """One device: memory, contexts, failures."""

    def __init__(self, index, total):
        self.index, self.total, self.held, self.most, self.context, self.lost = index, total, 0, 0, False, None
        self.failures, self.calls, self.streams, self.clock = {}, [], [], 0.0

    def alive(self):
        self.streams = [one for one in self.streams if one() is not None]
        return [one() for one in self.streams]

    def call(self, name):
        """Every call that needs a context comes through here."""
        self.context = True
        self.calls.append(name)
        if self.lost:
            raise CUDARuntimeError(self.lost)
        if self.failures.get(name):
            raise self.failures[name].pop(0)


class Raw:
    """Bytes at an address, given back when nobody holds them."""

    def __init__(self, world, nbytes, card=None):
        self.world, self.card, self.bytes = world, card, np.full(nbytes, 0xEE, np.uint8)
        self.address = self.bytes.ctypes.data
        world.live[self.address] = weakref.ref(self)
        if card is not None:
            card.held += nbytes
            card.most = max(card.most, card.held)
        else:
            world.pinned += nbytes

    def give_back(self):
        where = self.card if self.card is not None else self.world.cards[self.world.here.device]
        if where.lost:
            self.world.unraisable.append(NAMES[where.lost])
            return
        where.context = True
        self.world.freed_on.append(self.world.here.device)
        self.bytes[...] = 0xDD
        del self.world.live[self.address]
        if self.card is not None:
            self.card.held -= len(self.bytes)
        else:
            self.world.pinned -= len(self.bytes)


class _Here(threading.local):
    """What a thread has of its own."""

    def __init__(self):
        self.device, self.allocator, self.current, self.plans = 0, None, [], {}


class World:
    """A machine with CUDA devices."""

    def __init__(self, cards=1, total=1 << 28):
        self.cards = [Card(i, total) for i in range(cards)]
        self.live, self.pinned, self.unraisable, self.freed_on = {}, 0, [], []
        self.addresses = itertools.count(1)  # of streams
        self.here = _Here()

    @property
    def card(self):
        return self.cards[self.here.device]

    def at(self, address):
        """The live memory an address lies in, and the offset."""
        for start, found in list(self.live.items()):
            raw = found()
            if raw is not None and start <= address < start + max(len(raw.bytes), 1):
                return raw, address - start
        raise AssertionError(f"illegal address {address:#x}")


def make(world):
    """The module, to be put in place of cupy."""

    # ------------------------------------------------------------ runtime

    runtime = types.ModuleType("cupy.cuda.runtime")
    runtime.CUDARuntimeError, runtime.memcpyHostToDevice, runtime.hostAllocPortable = CUDARuntimeError, 1, 1

    def setDevice(device, /):
        world.here.device = device
        world.card.call("setDevice")

    def memGetInfo():
        world.card.call("memGetInfo")
        return world.card.total - world.card.held, world.card.total

    def memcpyAsync(dst, src, size, kind, stream, /):
        world.card.call("memcpyAsync")
        assert all(type(n) is int for n in (dst, src, size, kind, stream)) and kind == 1
        (to, a), (of, b) = world.at(dst), world.at(src)
        assert to.card is world.card and of.card is None, "from page-locked memory to the current device"
        assert a + size <= len(to.bytes) and b + size <= len(of.bytes), "out of bounds"
        found = next(s for s in world.card.alive() if s.ptr == stream)

        def copy():
            world.at(dst), world.at(src)  # neither was freed meanwhile
            to.bytes[a : a + size] = of.bytes[b : b + size]

        found._put(copy)

    runtime.getDevice = lambda: world.here.device
    runtime.getDeviceCount = lambda: len(world.cards)
    runtime.setDevice, runtime.memGetInfo, runtime.memcpyAsync = setDevice, memGetInfo, memcpyAsync

    # ------------------------------------------------------------ streams and events

    def destroyed(card):
        if card.lost:
            world.unraisable.append(NAMES[card.lost])

    class Event:
        def __init__(self, block=False, disable_timing=False, interprocess=False):
            world.card.call("eventCreate")
            self.timed, self.stream, self.done, self.device = not disable_timing, None, True, world.here.device
            weakref.finalize(self, destroyed, world.card).atexit = False

        def record(self, stream=None):
            world.card.call("eventRecord")
            assert stream is not None and stream.device_id == self.device == world.here.device, "a stream of this device"
            self.stream, self.done = stream, False

            def reached():
                self.done, self.time = True, world.cards[self.device].clock

            stream._put(reached)

        def synchronize(self):
            world.card.call("eventSynchronize")
            assert world.here.device == self.device
            self._reach()

        def _reach(self):
            while not self.done:
                self.stream._step()

    class Stream:
        def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
            world.card.call("streamCreate")
            self.ptr, self.device_id, self.queue, self.lock = next(world.addresses), world.here.device, [], threading.RLock()
            world.card.streams.append(weakref.ref(self))
            weakref.finalize(self, destroyed, world.card).atexit = False

        def _put(self, work):
            self.queue.append(work)

        def _step(self):
            with self.lock:
                if self.queue:
                    work = self.queue[0]
                    world.cards[self.device_id].clock += 1.0
                    work()
                    self.queue.pop(0)

        def _run(self):
            while self.queue:
                self._step()

        def wait_event(self, event):
            world.card.call("streamWaitEvent")
            self._put(event._reach)

        def synchronize(self):
            world.card.call("streamSynchronize")
            self._run()

        def __enter__(self):
            if world.here.device != self.device_id:
                raise RuntimeError("The device that the stream is created on does not match with the current device")
            self._run()
            world.here.current.append(self)
            return self

        def __exit__(self, *_):
            world.here.current.pop()

    def get_elapsed_time(start_event, end_event):
        world.card.call("eventElapsedTime")
        assert start_event.timed and end_event.timed and start_event.done and end_event.done
        return end_event.time - start_event.time

    # ------------------------------------------------------------ memory

    class Memory:
        def __init__(self, size):
            self.size, self.device_id, self.ptr, self.raw = size, world.here.device, 0, None
            if size:
                world.card.call("malloc")
                if world.card.held + size > world.card.total:
                    raise CUDARuntimeError(2)
                self.raw = Raw(world, size, world.card)
                self.ptr = self.raw.address
                weakref.finalize(self, self.raw.give_back).atexit = False

    class UnownedMemory:
        def __init__(self, ptr, size, owner, device_id=-1):
            assert type(ptr) is int and device_id >= 0
            self.ptr, self.size, self._owner, self.device_id = ptr, size, owner, device_id

    class MemoryPointer:
        def __init__(self, mem, offset):
            assert mem.ptr or not offset
            self.mem, self.ptr, self.device_id = mem, mem.ptr + offset, mem.device_id

    class PooledMemory:
        def __init__(self, chunk, pool):
            self.ptr, self.size, self.device_id, self.pool = chunk.memory.ptr, chunk.memory.size, chunk.memory.device_id, pool

        def __del__(self):
            pool = self.pool()
            if pool is not None:
                chunk = pool.in_use.pop(self.ptr)
                pool.free.setdefault((chunk.stream, chunk.memory.size), []).append(chunk)

    class OneDevice:
        def __init__(self):
            self.in_use, self.free, self.total, self.limit = {}, {}, 0, 0
            self.weak = weakref.ref(self)  # held here: a reference that only garbage holds is cleared before the garbage is finalised

    class MemoryPool:
        def __init__(self, allocator=None):
            self.pools = {}

        def _here(self):
            return self.pools.setdefault(world.here.device, OneDevice())

        def malloc(self, size):
            pool = self._here()
            if size == 0:
                return MemoryPointer(Memory(0), 0)
            size = -(-size // 512) * 512
            stream = world.here.current[-1].ptr if world.here.current else 0
            kept = pool.free.get((stream, size))
            if kept:
                chunk = kept.pop()
            else:
                chunk = types.SimpleNamespace(memory=self._new(pool, size), stream=stream)
            pool.in_use[chunk.memory.ptr] = chunk
            return MemoryPointer(PooledMemory(chunk, pool.weak), 0)

        def _new(self, pool, size):
            for make_room in (None, self.free_all_blocks, self._collect):
                if pool.limit and size > pool.limit:
                    break
                if make_room is not None:
                    make_room()
                if pool.limit and pool.total + size > pool.limit:
                    continue
                try:
                    memory = Memory(size)
                except CUDARuntimeError as error:
                    if error.status != 2:
                        raise
                    continue
                pool.total += size
                return memory
            limit = f", limit set to: {pool.limit:,} bytes" if pool.limit else ""
            raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes (allocated so far: {pool.total:,} bytes{limit}).")

        def _collect(self):
            gc.collect()
            self.free_all_blocks()

        def free_all_blocks(self, stream=None):
            pool = self._here()
            pool.total -= sum(chunk.memory.size for kept in pool.free.values() for chunk in kept)
            pool.free.clear()

        def set_limit(self, size=None, fraction=None):
            assert type(size) is int and size >= 0
            self._here().limit = size

        def total_bytes(self):
            return self._here().total

        def free_bytes(self):
            return sum(chunk.memory.size for kept in self._here().free.values() for chunk in kept)

    class PinnedMemory:
        def __init__(self, size, flags=0):
            world.card.call("hostAlloc")
            assert flags == 1 and size > 0
            self.size, raw = size, Raw(world, size)
            self.ptr, self.raw = raw.address, raw
            weakref.finalize(self, raw.give_back).atexit = False

    class PinnedMemoryPointer:
        """Exports its bytes, and what is made of them keeps it."""

        def __new__(cls, mem, offset):
            exported = type("PinnedMemoryPointer", (ctypes.c_uint8 * (mem.size - offset),), {})
            self = exported.from_buffer(mem.raw.bytes, offset)
            self.mem, self.ptr = mem, mem.ptr + offset
            return self

    class ndarray:
        def __new__(cls, shape, dtype=float, memptr=None, strides=None, order="C"):
            raw, offset = world.at(memptr.ptr)
            found = np.ndarray(shape, dtype, buffer=raw.bytes, offset=offset).view(_View)
            found.kept = memptr.mem
            return found

    class Array:
        """Made by the current allocator."""

        def __init__(self, nbytes):
            self.nbytes, self.data = nbytes, (world.here.allocator or default.malloc)(nbytes)

        def bytes(self):
            raw, offset = world.at(self.data.ptr)
            return raw.bytes[offset : offset + self.nbytes]

    def empty(shape, dtype=float):
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return Array(nbytes) if nbytes else np.empty(shape, dtype)

    @contextlib.contextmanager
    def using_allocator(allocator=None):
        before, world.here.allocator = world.here.allocator, allocator
        try:
            yield
        finally:
            world.here.allocator = before

    class PlanCache:
        def __init__(self):
            self.plans = []

        def get_curr_size(self):
            return len(self.plans)

        def clear(self):
            self.plans.clear()

    default = MemoryPool()
    pinned = types.SimpleNamespace(free_all_blocks=lambda: None)
    cuda = types.ModuleType("cupy.cuda")
    for item in (Event, Stream, get_elapsed_time, Memory, UnownedMemory, MemoryPointer, MemoryPool, PinnedMemory, PinnedMemoryPointer):
        setattr(cuda, item.__name__, item)
    cuda.using_allocator, cuda.runtime = using_allocator, runtime
    config = types.ModuleType("cupy.fft.config")
    config.get_plan_cache = lambda: world.here.plans.setdefault(world.here.device, PlanCache())
    fft = types.ModuleType("cupy.fft")
    fft.config = config
    cupy = types.ModuleType("cupy")
    cupy.cuda, cupy.fft, cupy.ndarray, cupy.empty = cuda, fft, ndarray, empty
    cupy.get_default_memory_pool, cupy.get_default_pinned_memory_pool = lambda: default, lambda: pinned
    return {"cupy": cupy, "cupy.cuda": cuda, "cupy.cuda.runtime": runtime, "cupy.fft": fft, "cupy.fft.config": config}


class _View(np.ndarray):
    """Keeps the memory it looks at, as views of CuPy arrays do."""

    def __array_finalize__(self, other):
        self.kept = getattr(other, "kept", None)


def install(monkeypatch, **options):
    """Put a machine with CUDA devices in place of cupy."""
    world = World(**options)
    for name, module in make(world).items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(page_locked, "_store", page_locked.PageLocked())  # memory of another machine is not there
    return world
