"""Share work on the CPU among one pool of threads and the calling thread.

The pool has one thread less than `cpu_threads()` says. It starts with the first work and is kept. The calling thread runs tasks that no
pool thread has started instead of waiting for them. Concurrent calls therefore never block each other. Nested calls run in the thread
they are made from. Compiled code in these threads holds no interpreter lock and calls no BLAS, because BLAS would start threads of its
own.
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from gpu4d.device.choose import cpu_threads


class _Inside(threading.local):
    """Whether the current thread is running shared-out work."""

    yes = False


_lock, _inside, _numbers = threading.Lock(), _Inside(), itertools.count(1)
_nothing = Future[Any]()  # stands for a result that was already handed to the caller
_nothing.set_result(None)
_pool: ThreadPoolExecutor | None = None
_size = 0


def submit(work: Callable[..., Any], *args: Any) -> Future:
    """Hand work to the pool. In a thread of the pool, do it at once.

    The work runs in a copy of the caller's context, so `gpu4d.using` holds there. Before waiting for the result, call `finish` or
    `future.cancel()`: all threads of the pool may be busy with work that waits for the caller.
    """
    if _inside.yes:
        return _done(work, args)
    with _lock:
        return _of_size(max(1, cpu_threads() - 1)).submit(contextvars.copy_context().run, work, *args)


@contextlib.contextmanager
def beside(count: int, name: str) -> Iterator[Callable[..., Future]]:
    """Give a `submit` to `count` threads outside the pool, for work that mostly waits and computes nothing."""
    with ThreadPoolExecutor(count, thread_name_prefix=name) as own:
        yield lambda work, *args: own.submit(contextvars.copy_context().run, work, *args)


def finish(futures: Iterable[Future]) -> None:
    """Cancel what has not started, and wait for the rest, whether it succeeds or fails."""
    begun = [future for future in futures if not future.cancel()]
    wait(begun)


def in_threads(work: Callable[..., Any], *columns: Iterable[Any]) -> Iterator[Any]:
    """Map a function over columns in the pool and in the calling thread.

    Results come in order. When the iterator ends, also with an error, no task is still running.

    Examples
    --------
    >>> list(in_threads(pow, (2, 3), (3, 2)))
    [8, 9]
    """
    calls = list(zip(*columns))
    if len(calls) < 2 or cpu_threads() == 1 or _inside.yes:
        yield from (work(*call) for call in calls)
        return
    futures = [submit(work, *call) for call in calls]
    try:
        untouched = 0  # all calls before this one have started
        for i in range(len(calls)):
            while not futures[i].done():
                while untouched < len(calls) and not futures[untouched].cancel():
                    untouched += 1
                if untouched == len(calls):
                    break
                with along():
                    futures[untouched] = _done(work, calls[untouched])
            yield futures[i].result()
            futures[i] = _nothing
    finally:
        finish(futures)


@contextlib.contextmanager
def along() -> Iterator[None]:
    """Let the calling thread do shared-out work itself inside the block."""
    before, _inside.yes = _inside.yes, True
    try:
        yield
    finally:
        _inside.yes = before


def _done(work: Callable[..., Any], args: tuple) -> Future:
    """Do work now and return its result as a future. Ctrl-C is raised at once."""
    done: Future = Future()
    try:
        done.set_result(work(*args))
    except Exception as error:
        done.set_exception(error)
    return done


def _of_size(size: int) -> ThreadPoolExecutor:
    global _pool, _size, _numbers
    if _pool is None or _size != size:
        if _pool is not None:
            _pool.shutdown(wait=False)  # tasks that are started or queued are still finished
        _numbers = itertools.count(1)
        _pool, _size = ThreadPoolExecutor(size, thread_name_prefix="gpu4d-compute", initializer=_enter), size
    return _pool


def _enter() -> None:
    _inside.yes = True
    threading.current_thread().name = f"gpu4d-compute-{next(_numbers)}"  # 0 is the calling thread's number on a timeline


def _forked() -> None:
    """Forget the pool in a child process: a fork copies its memory, but none of its threads."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
