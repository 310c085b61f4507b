"""Keep small arrays on a device between calls: masks, indices, tables of a template, and what launchers derive from them.

One upload costs the host 15 to 20 µs, more than most kernels take for a chunk. So a host array that is never written to again is uploaded
once (`beside`). A table that follows from a few numbers is made once (`named`). What a launcher derives from either is made once, too
(`made_of`). Arrays of the caller are not kept: they may change between two calls.

A sweep over a link has tables of its own, in its own memory pool. They count against `memory=` and are dropped with the sweep. Other
calls share the tables of the process, at most `KEPT_BYTES`. Tables are kept apart by device and stream, so work on a table, and its end,
always follow in the order of the stream that made it.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import numpy as np

from gpu4d import arrays

KEPT_BYTES = 64 << 20  # of the process: the tables of some ten templates of 256 × 256 pixels
PER_THREAD = 2  # cudaStreamPerThread: one address for as many streams as there are threads


class Tables:
    """Arrays kept on devices. Beyond `cap` bytes the least recently used ones are dropped.

    Parameters
    ----------
    cap : int
        Bytes. A table that is larger by itself is not kept.
    """

    def __init__(self, cap: int = KEPT_BYTES):
        self.cap, self.held = int(cap), 0
        self._kept: OrderedDict[Hashable, _Table] = OrderedDict()
        self._by_address: dict[Hashable, _Table] = {}
        self._lock = threading.RLock()  # a host array may be freed by garbage collection in the middle of a call of the same thread

    def beside(self, host: np.ndarray, like: Any) -> Any:
        """Return a host array in the library and on the device of `like`. The copy is kept as long as the host array exists."""
        if not arrays.is_cuda(like):
            return arrays.from_numpy(host, like)
        key = id(host), *_place(like)
        found = self._find(key)
        if found is not None and found.host is not None and found.host() is host:
            return found.array
        end = weakref.ref(host, lambda _: self._drop(key))
        return self._keep(key, arrays.from_numpy(host, like), end)

    def named(self, name: Hashable, make: Callable[[], np.ndarray], like: Any) -> Any:
        """Return the host array `make()`, which follows from `name` alone, on the device of `like`."""
        if not arrays.is_cuda(like):
            return arrays.from_numpy(make(), like)
        key = name, *_place(like)
        found = self._find(key)
        return self._keep(key, arrays.from_numpy(make(), like), None) if found is None else found.array

    def made_of(self, source: Any, name: Hashable, make: Callable[[], Any]) -> Any:
        """Return what `make()` derives from a device array. It is kept with `source` if that is a kept table."""
        with self._lock:
            table = self._by_address.get(_address(source)) if self._by_address and arrays.is_cuda(source) else None
            if table is not None and name in table.made:
                return table.made[name]
        made = make()
        if table is not None:
            with self._lock:
                if table.key in self._kept:
                    table.made[name] = made
                    table.nbytes += _nbytes(made)
                    self.held += _nbytes(made)
                    self._shrink(table)
        return made

    def clear(self) -> int:
        """Drop all tables, and return how many bytes they had."""
        with self._lock:
            held, self.held = self.held, 0
            self._kept.clear()
            self._by_address.clear()
        return held

    def _find(self, key: Hashable) -> _Table | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _keep(self, key: Hashable, array: Any, host: Any) -> Any:
        table = _Table(key, array, host)
        if table.nbytes <= self.cap:
            with self._lock:
                self._drop(key)
                self._kept[key], self._by_address[table.address] = table, table
                self.held += table.nbytes
                self._shrink(table)
        return array

    def _shrink(self, spared: _Table) -> None:
        while self.held > self.cap and len(self._kept) > 1:
            oldest = next(key for key in self._kept if key != spared.key)
            self._drop(oldest)
        if self.held > self.cap:
            self._drop(spared.key)

    def _drop(self, key: Hashable) -> None:
        with self._lock:
            table = self._kept.pop(key, None)
            if table is not None:
                self.held -= table.nbytes
                self._by_address.pop(table.address, None)


class _Table:
    """A kept array, and what was derived from it, by name."""

    __slots__ = ("address", "array", "host", "key", "made", "nbytes")

    def __init__(self, key: Hashable, array: Any, host: Any):
        view = arrays.cupy_view(array)
        self.key, self.array, self.host, self.nbytes = key, array, host, int(view.nbytes)
        self.made: dict[Hashable, Any] = {}
        self.address = _address(view)


def _place(like: Any) -> tuple[Hashable, ...]:
    """Return library, device and current stream of an array on a CUDA device."""
    return type(like).__module__, str(arrays.device(like)), _stream(like)


def _stream(like: Any) -> Hashable:
    """Return the current stream of the array's library; JAX does not tell it."""
    if arrays.is_torch(like):
        import torch

        # Tensors made in inference mode take no part in gradients later.
        return _of_thread(torch.cuda.current_stream(like.device).cuda_stream), torch.is_inference_mode_enabled()
    import cupy

    return _of_thread(cupy.cuda.get_current_stream(like.device.id if isinstance(like, cupy.ndarray) else -1).ptr)


def _of_thread(stream: int) -> Hashable:
    """Identify a stream by its address. Default streams of threads share one address, so the thread is added."""
    return (PER_THREAD, threading.get_ident()) if int(stream) == PER_THREAD else int(stream)


def _address(array: Any) -> Hashable:
    """Identify a CuPy array by address, shape, dtype, layout and stream, whatever object shows it."""
    import cupy

    view = arrays.cupy_view(array)
    contiguous = bool(view.flags.c_contiguous)
    return int(view.data.ptr), view.shape, view.dtype.str, contiguous, _of_thread(cupy.cuda.get_current_stream(view.device.id).ptr)


def _nbytes(made: Any) -> int:
    return sum(map(_nbytes, made)) if isinstance(made, tuple) else int(getattr(made, "nbytes", 0))


_of_process = Tables()
_current: contextvars.ContextVar[Tables | None] = contextvars.ContextVar("gpu4d_tables", default=None)


@contextlib.contextmanager
def using_tables(tables: Tables) -> Iterator[None]:
    """Keep tables in `tables` inside the block, as a sweep does."""
    token = _current.set(tables)
    try:
        yield
    finally:
        _current.reset(token)


def beside(host: np.ndarray, like: Any) -> Any:
    """Do `arrays.from_numpy` for a host array that is never written to again: it is uploaded once for each device and stream.

    Parameters
    ----------
    host : array
    like : array
        An array of the library and on the device where the host array is needed.

    Returns
    -------
    array
        Not to be written to either. Without a CUDA device it is `host` itself, or what `from_numpy` makes of it.
    """
    return host if isinstance(like, np.ndarray) else (_current.get() or _of_process).beside(host, like)


def named(name: Hashable, make: Callable[[], np.ndarray], like: Any) -> Any:
    """Return a table that follows from a few numbers. It is made and uploaded once for each device and stream.

    Parameters
    ----------
    name : hashable
        Name of the table, including the numbers it follows from.
    make : callable
        Gives the host array.
    like : array
        As for `beside`.
    """
    return (_current.get() or _of_process).named(name, make, like)


def made_of(source: Any, name: Hashable, make: Callable[[], Any]) -> Any:
    """Return what a launcher derives from a device array: made once if the array is a kept table, else with every call.

    Parameters
    ----------
    source : device array
    name : hashable
        Name of the result, including everything it depends on beside `source`.
    make : callable
        Gives an array or a tuple of arrays.
    """
    return (_current.get() or _of_process).made_of(source, name, make)


def release() -> int:
    """Drop the tables of the process, and return how many bytes they had. Tables of running sweeps stay."""
    return _of_process.clear()
