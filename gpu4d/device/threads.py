"""The threads that compute on the CPU: one pool for all that a process asks for, and whoever asks works along.

The pool has a thread less than `cpu_threads()` says, is started with the first work and kept. Who shares out work does what no
thread has begun rather than wait for it, so calls under way at the same time never wait for each other's end, whatever their
callbacks do; work that shares out work of its own does it in the thread it is in. Compiled code holds no lock and calls no BLAS, whose
threads would come on top.
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
    """Whether a thread is at work that was shared out."""

    yes = False


_lock, _inside, _numbers = threading.Lock(), _Inside(), itertools.count(1)
_nothing = Future[Any]()  # in place of a result that was handed on
_nothing.set_result(None)
_pool: ThreadPoolExecutor | None = None
_size = 0


def submit(work: Callable[..., Any], *args: Any) -> Future:
    """Hand work to the pool, in a copy of the caller's context (`gpu4d.using` holds there); in one of its threads, do it now.

    Who waits for it calls `finish` or `future.cancel()` first: the pool may be busy with what waits for the caller.
    """
    if _inside.yes:
        return _done(work, args)
    with _lock:
        return _of_size(max(1, cpu_threads() - 1)).submit(contextvars.copy_context().run, work, *args)


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
    """`map`, shared out among the pool and the caller: results in order; nothing is still at work when it ends, with an error too.

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
        untouched = 0  # of the calls before, none waits to be begun
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
    """The caller works along with the pool: what it shares out in here it does itself."""
    before, _inside.yes = _inside.yes, True
    try:
        yield
    finally:
        _inside.yes = before


def _done(work: Callable[..., Any], args: tuple) -> Future:
    """What became of work done now; Ctrl-C is raised at once."""
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
            _pool.shutdown(wait=False)  # what it has begun or queued is done
        _numbers = itertools.count(1)
        _pool, _size = ThreadPoolExecutor(size, thread_name_prefix="gpu4d-compute", initializer=_enter), size
    return _pool


def _enter() -> None:
    _inside.yes = True
    threading.current_thread().name = f"gpu4d-compute-{next(_numbers)}"  # 0 is the caller's on a timeline


def _forked() -> None:
    """A child process has the pool's memory, and none of its threads."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
