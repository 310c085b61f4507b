"""Define what a sweep holds on an accounting device: buffers, streams, events and jobs of readers. `accounting` describes the model."""

from __future__ import annotations

import contextvars
import math
import mmap
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu4d.device.timeline import Timeline
from gpu4d.sizes import format_bytes
from gpu4d.testing.virtual_clock import Access, Accesses, Actor, Moment

if TYPE_CHECKING:
    from gpu4d.testing.accounting import AccountingProcessor

FRESH, FREED = 0xA5, 0xDB  # values of bytes before they are written, and after they were given back


class AccountingWorkspace:
    """Memory, streams and readers of one sweep on an AccountingProcessor."""

    def __init__(self, processor: AccountingProcessor, cap: int, readers: int, timeline: Any):
        self.processor, self.cap = processor, cap
        self.timeline = Timeline(most=0) if timeline is None else timeline
        self.held = self.pinned_held = self.peak = self.pinned_peak = 0
        self.host = Actor("the host", processor.over)
        self.streams: list[AccountingStream] = []
        self.owners: dict[int, AccountingBuffer] = {}  # by the id of the array that owns the bytes
        self.closed = False
        self._buffers: list[AccountingBuffer] = []
        self._leaks: list[str] = []
        self._jobs: list[Actor] = []
        self._readers = [(processor.over, number) for number in range(readers)]  # idle readers: since when, and their numbers
        self._pool = ThreadPoolExecutor(readers, "gpu4d-read") if processor.readers_in_threads and readers else None

    def allocate(self, nbytes: int) -> AccountingBuffer:
        return self._new("allocate", "device", int(nbytes))

    def pinned(self, nbytes: int) -> AccountingBuffer:
        return self._new("pinned", "pinned", int(nbytes))

    def _new(self, operation: str, kind: str, nbytes: int) -> AccountingBuffer:
        self.called(operation)
        with self.processor.lock:
            self.take(nbytes, kind)
            buffer = AccountingBuffer(self, kind, nbytes, f"{kind} buffer {self.processor.counts[operation]}")
            self._buffers.append(buffer)
        return buffer

    def stream(self, name: str) -> AccountingStream:
        self.called("stream")
        with self.processor.lock:
            stream = AccountingStream(self, name)
            self.streams.append(stream)
        return stream

    def copy(self, target: AccountingBuffer, source: AccountingBuffer, nbytes: int, stream: AccountingStream) -> None:
        self.called("copy")
        p = self.processor
        if (source.kind, target.kind) != ("pinned", "device"):
            p.fault(f"misuse: copy from {source} to {target}: copies go from page-locked to device memory")
        source.check("copy from", 0, nbytes)
        target.check("copy to", 0, nbytes)
        with p.lock:
            actor = self._put_into(stream)
            what = f"copy {p.counts['copy']}"
            start, actor.time = p.link.take(actor.time, p.link_latency + nbytes / p.link_rate)
            p.counts["bytes copied"] += nbytes
            self.access(source, actor, what, False, 0, nbytes, start)
            self.access(target, actor, what, True, 0, nbytes, start)
            actor.finish()
            self.timeline.span(f"{p.name} copy", what, start, actor.time, bytes=nbytes, stream=stream.name)
        if p.moves_bytes:
            target.bytes[:nbytes] = source.bytes[:nbytes]

    @contextmanager
    def computing(self, stream: AccountingStream, name: str) -> Iterator[None]:
        thread = self.processor.thread
        early, thread.early = thread.early, []
        self.called("compute")
        before = thread.stream, thread.computes
        with self.processor.lock:
            actor = self._put_into(stream)
            start, actor.doing = actor.time, f"compute {name!r}"
            thread.stream, thread.computes = actor, self
        try:
            for buffer, first, last in early:
                if buffer.workspace is self and not buffer.freed:
                    self.access(buffer, actor, actor.doing, False, first, last)
            yield
        finally:
            thread.stream, thread.computes = before
            with self.processor.lock:
                actor.finish()
                self.timeline.span(f"{self.processor.name} compute", name, start, actor.time, stream=stream.name)

    def submit(self, function: Callable[..., Any], *args: Any) -> AccountingPending:
        self.called("submit")
        with self.processor.lock:
            caller = self.caller()
            job = next((j for j in self._jobs if not j.at_work and caller.knows(j, j.step - 1)), None)
            if job is None:  # a finished job is reused only if the caller knows it has finished, because then its accesses are in order
                job = Actor(f"reader job {len(self._jobs)}")
                self._jobs.append(job)
            job.at_work, job.time = True, 0.0
            job.after(caller.moment())
        pending = AccountingPending(self, job)
        if self._pool is not None:
            run = contextvars.copy_context().run  # gpu4d.using holds in readers too
            pending.future = self._pool.submit(run, self._run, job, pending, function, args)
            return pending
        try:
            pending.future.set_result(self._run(job, pending, function, args))
        except BaseException as error:  # also Ctrl-C: as from a thread, the caller gets it with the result
            pending.future.set_exception(error)
        return pending

    def _run(self, job: Actor, pending: AccountingPending, function: Callable[..., Any], args: tuple) -> Any:
        """Run a job on the clock of the reader that has been idle longest."""
        p, thread = self.processor, self.processor.thread
        with p.lock:
            if not self._readers:
                p.fault("misuse: no reader is there for the job: the workspace has none, or a job submitted a job")
            reader = min(self._readers)
            self._readers.remove(reader)
            start = job.time = max(job.time, reader[0])
        before, (thread.job, thread.stream, thread.computes) = (thread.job, thread.stream, thread.computes), (job, None, None)
        try:
            self.called("job")
            job.doing = f"job {p.counts['job']}"
            for array in _arrays_in(args):
                self.touch(array, write=True)
            return function(*args)
        finally:
            thread.job, thread.stream, thread.computes = before
            with p.lock:
                job.finish()
                pending.end, job.at_work = job.moment(), False
                self._readers.append((job.time, reader[1]))
                self.timeline.span(f"read {reader[1]}", job.doing, start, job.time)

    def now(self) -> float:
        return self.caller().time

    def trim(self) -> None:
        self.called("trim")
        for stream in list(self.streams):
            self.caller().after(stream.actor.moment())

    def close(self) -> None:
        if self.closed:
            return
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        with self.processor.lock:
            self.closed = True
            self._leaks = [str(buffer) for buffer in self._buffers]
            self.host.time = max(a.time for a in (self.host, *(s.actor for s in self.streams), *self._jobs))
            self.processor.over = max(self.processor.over, self.host.time)
            for buffer in list(self._buffers):
                buffer.give_back()
            for kind, left in (("device", self.held), ("pinned", self.pinned_held)):
                if left > 0:  # Ctrl-C came after the bytes of a buffer were counted, and before the buffer was
                    self.give(left, kind)

    def leaks(self) -> list[str]:
        """Return what was not given back before `close`, or is held now."""
        return self._leaks if self.closed else [str(buffer) for buffer in self._buffers]

    def caller(self) -> Actor:
        """Return the actor of the calling thread: a job of a reader, or the host."""
        return self.processor.thread.job or self.host

    def called(self, operation: str) -> None:
        self.processor.thread.host = self.host
        if self.closed:
            self.processor.fault(f"misuse: {operation} after close")
        self.processor.called(operation)

    def _put_into(self, stream: AccountingStream) -> Actor:
        """Let the caller put work into a stream. That work comes after everything the caller has done so far."""
        caller = self.caller()
        caller.time += self.processor.launch_latency
        stream.actor.after(caller.moment())
        return stream.actor

    def take(self, nbytes: int, kind: str) -> None:
        """Count bytes that are allocated, or raise MemoryError."""
        p = self.processor
        with p.lock:
            if kind == "device":
                mine, has = self.held, p.memory - p.held - p.held_by_others
            else:
                mine, has = self.pinned_held, p.pinned_memory - p.pinned_held
            if nbytes > min(self.cap - mine, has):
                raise MemoryError(
                    f"{p.name}: {format_bytes(nbytes)} of {kind} memory asked, {format_bytes(has)} is free "
                    f"and {format_bytes(self.cap - mine)} left of the cap of {format_bytes(self.cap)}"
                )
            self.give(-nbytes, kind)

    def give(self, nbytes: int, kind: str) -> None:
        p = self.processor
        with p.lock:
            for holder in (self, p):
                if kind == "device":
                    holder.held -= nbytes
                    holder.peak = max(holder.peak, holder.held)
                else:
                    holder.pinned_held -= nbytes
                    holder.pinned_peak = max(holder.pinned_peak, holder.pinned_held)

    def touch(self, array: Any, write: bool) -> None:
        """Note that the work of the calling thread reads or writes an array. Arrays that are not in a buffer are ignored."""
        root = array
        while isinstance(getattr(root, "base", None), np.ndarray):
            root = root.base
        buffer = self.owners.get(id(root))
        if buffer is not None:
            first = array.__array_interface__["data"][0] - root.__array_interface__["data"][0]
            last = first + array.itemsize + sum((n - 1) * step for n, step in zip(array.shape, array.strides)) if array.size else first
            buffer.check("use of a view", first, last - first)
            self.use(buffer, write, first, last)

    def use(self, buffer: AccountingBuffer, write: bool, first: int, last: int) -> None:
        """Note that the work of the calling thread reads or writes bytes of a buffer, until it ends."""
        actor = self.processor.thread.stream or self.caller()
        try:
            self.access(buffer, actor, actor.doing, write, first, last)
        finally:
            if actor is self.host:  # the end of its work is not reported
                actor.finish()

    def access(
        self, buffer: AccountingBuffer, actor: Actor, what: str, write: bool, first: int, last: int, start: float | None = None
    ) -> None:
        p = self.processor
        if first >= last:
            return
        with p.lock:
            new = Access(actor, what, write, first, last, actor.step, actor.time if start is None else start)
            actor.open.append(new)
            old = buffer.accesses.add(new)
        if old is not None and not p.lost:
            p.fault(f"race: nothing puts in order, in {buffer}: {old}; {new}")


def _arrays_in(thing: Any) -> Iterator[np.ndarray]:
    """Find NumPy arrays among arguments, also in tuples, lists, mappings and partial functions."""
    if isinstance(thing, np.ndarray):
        yield thing
    elif isinstance(thing, partial):
        yield from _arrays_in((thing.args, thing.keywords))
    elif isinstance(thing, dict):
        yield from _arrays_in(list(thing.values()))
    elif isinstance(thing, list | tuple):
        for one in thing:
            yield from _arrays_in(one)


class AccountingBuffer:
    """Bytes of the device, or page-locked bytes of the host."""

    def __init__(self, workspace: AccountingWorkspace, kind: str, nbytes: int, name: str):
        self.workspace, self.kind, self.nbytes, self.name = workspace, kind, nbytes, name
        self.accesses = Accesses()
        self.freed = False
        if workspace.processor.moves_bytes:
            self.bytes = np.full(nbytes, FRESH, dtype=np.uint8)
        else:  # read-only pages that are never touched take no memory
            pages = mmap.mmap(-1, max(nbytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
            self.bytes = np.frombuffer(pages, dtype=np.uint8, count=nbytes)
        workspace.owners[id(self.bytes)] = self
        weakref.finalize(self.bytes, workspace.owners.pop, id(self.bytes), None).atexit = False

    def view(self, shape: tuple[int, ...], dtype: Any, offset: int = 0) -> np.ndarray:
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        self.check("view", offset, size)
        if offset % dtype.itemsize:
            self.workspace.processor.fault(f"misuse: view of {dtype} at byte {offset} of {self} is not aligned")
        thread = self.workspace.processor.thread
        if thread.stream is not None:
            self.workspace.use(self, False, offset, offset + size)
        elif thread.job is not None:
            self.workspace.use(self, True, offset, offset + size)
        elif self.kind == "device":
            thread.early.append((self, offset, offset + size))
        return self.bytes[offset : offset + size].view(dtype).reshape(shape)

    def check(self, what: str, first: int, nbytes: int) -> None:
        """Raise AssertionError for bytes that were freed or are beyond the end."""
        if self.freed:
            self.workspace.processor.fault(f"misuse: {what} {self} after it was freed")
        if first < 0 or nbytes < 0 or first + nbytes > self.nbytes:
            self.workspace.processor.fault(f"misuse: {what} {self}, bytes {first}…{first + nbytes}: beyond its end")

    def free(self) -> None:
        with self.workspace.processor.lock:
            if self.freed:
                return
            actor = self.workspace.caller()
            try:
                self.workspace.access(self, actor, "free", True, 0, self.nbytes)
            finally:
                actor.finish()
                self.give_back()

    def give_back(self) -> None:
        self.freed = True
        if self.workspace.processor.moves_bytes:
            self.bytes.fill(FREED)  # so that a view that was kept shows it
        self.bytes = self.bytes[:0].copy()
        self.workspace._buffers.remove(self)
        self.workspace.give(self.nbytes, self.kind)

    def __str__(self) -> str:
        return f"{self.name} of {format_bytes(self.nbytes)}"


class AccountingStream:
    """Work that is done in the order it was submitted."""

    def __init__(self, workspace: AccountingWorkspace, name: str):
        self.workspace, self.name = workspace, name
        self.actor = Actor(f"stream {name!r}", workspace.host.time)

    def record(self) -> AccountingEvent:
        self.workspace.called("record")
        with self.workspace.processor.lock:
            self.actor.after(self.workspace.caller().moment())
            return AccountingEvent(self.workspace, self.actor.moment())

    def wait(self, event: AccountingEvent) -> None:
        self.workspace.called("wait")
        with self.workspace.processor.lock:
            self.actor.after(self.workspace.caller().moment())
            self.actor.after(event.moment)

    def synchronize(self) -> None:
        self.workspace.called("wait")
        with self.workspace.processor.lock:
            self.workspace.caller().after(self.actor.moment())


class AccountingEvent:
    """A point in the work of a stream."""

    def __init__(self, workspace: AccountingWorkspace, moment: Moment):
        self.workspace, self.moment = workspace, moment

    def wait(self) -> None:
        self.workspace.called("wait")
        with self.workspace.processor.lock:
            self.workspace.caller().after(self.moment)


class AccountingPending:
    """The result of a reader's job. Taking it orders the caller after the end of the job."""

    def __init__(self, workspace: AccountingWorkspace, job: Actor):
        self.workspace, self.job = workspace, job
        self.future: Future = Future()
        self.end: Moment | None = None

    def result(self) -> Any:
        try:
            return self.future.result()
        finally:
            with self.workspace.processor.lock:
                if self.end is not None:
                    self.workspace.caller().after(self.end)

    def cancel(self) -> bool:
        cancelled = self.future.cancel()
        if cancelled:
            self.job.at_work = False
        return cancelled
