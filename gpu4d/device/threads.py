"""The threads that compute on the CPU: one pool for all that a process asks for, however many calls are under way.

As many threads as `cpu_threads()` says, started with the first work and kept. Two calls at the same time share them, and work that
shares out work of its own does it in the thread it is in: there are never more threads than cores. Compiled code holds no lock and
calls no BLAS, whose threads would come on top.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from gpu4d.device.choose import cpu_threads

_lock, _inside = threading.Lock(), threading.local()
_pool: ThreadPoolExecutor | None = None
_size = 0


def submit(work: Callable[..., Any], *args: Any) -> Future:
    """Set a thread of the pool to work, in a copy of the caller's context (`gpu4d.using` holds there); in one of its threads, do it now."""
    if getattr(_inside, "yes", False):
        done: Future = Future()
        try:
            done.set_result(work(*args))
        except BaseException as error:
            done.set_exception(error)
        return done
    with _lock:
        return _of_size(cpu_threads()).submit(contextvars.copy_context().run, work, *args)


@contextlib.contextmanager
def beside(count: int, name: str) -> Iterator[Callable[..., Future]]:
    """A `submit` to so many threads beside the pool, for work that waits for others and computes nothing."""
    with ThreadPoolExecutor(count, thread_name_prefix=name) as own:
        yield lambda work, *args: own.submit(contextvars.copy_context().run, work, *args)


def finish(futures: Iterable[Future]) -> None:
    """Cancel what has not begun, and wait for the rest, whatever comes of it."""
    begun = [future for future in futures if not future.cancel()]
    wait(begun)


def in_threads(work: Callable[..., Any], *columns: Iterable[Any]) -> Iterator[Any]:
    """`map`, shared out among the threads: results in order; nothing is still at work when it ends, with an error too.

    Examples
    --------
    >>> list(in_threads(pow, (2, 3), (3, 2)))
    [8, 9]
    """
    calls = list(zip(*columns))
    if len(calls) < 2 or cpu_threads() == 1:
        yield from (work(*call) for call in calls)
        return
    futures = deque(submit(work, *call) for call in calls)
    try:
        while futures:
            yield futures.popleft().result()
    finally:
        finish(futures)


def _of_size(size: int) -> ThreadPoolExecutor:
    global _pool, _size
    if _pool is None or _size != size:
        if _pool is not None:
            _pool.shutdown(wait=False)  # what it has begun or queued is done
        _pool, _size = ThreadPoolExecutor(size, thread_name_prefix="gpu4d-compute", initializer=_enter), size
    return _pool


def _enter() -> None:
    _inside.yes = True


def _forked() -> None:
    """A child process has the pool's memory, and none of its threads."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
