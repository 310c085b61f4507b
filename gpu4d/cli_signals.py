"""End the command line on Ctrl-C and on signals to end: cleanly, and within two seconds also while functions are compiled."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

AGAIN_AFTER = 0.05  # seconds until an ignored signal is repeated
PATIENCE = 1.0  # seconds that the compiler has to stop by itself: LLVM may work on one long function for longer
was_stopped = threading.Event()


class Stopped(BaseException):
    """Ctrl-C or a signal to end. It is not a KeyboardInterrupt, because click prints an empty line for those."""


def end_cleanly_on_signals(say: Callable[[], object]) -> None:
    """End cleanly on Ctrl-C, when the terminal is closed, and when a batch system ends the process.

    Parameters
    ----------
    say : function
        Says that the run was stopped. It is called if the process is ended while it compiles; else `Stopped` is raised.
    """
    import _thread
    import signal

    if threading.current_thread() is not threading.main_thread():
        return

    def stop(*_: Any) -> None:
        was_stopped.set()
        raise Stopped

    def again(ignored: Any) -> None:
        """Stop a little later if the signal came in a callback, for example of the compiler: Python ignores errors there."""
        if ignored.exc_type is Stopped:
            threading.Timer(AGAIN_AFTER, _thread.interrupt_main).start()
        else:
            sys.__unraisablehook__(ignored)

    sys.unraisablehook = again
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), stop)
    if sys.platform != "win32":
        # Python calls `stop` between two steps of the main thread, which may be inside LLVM. Into the pipe the signal comes at once.
        arrived, signals = os.pipe()
        os.set_blocking(signals, False)
        signal.set_wakeup_fd(signals, warn_on_full_buffer=False)
        threading.Thread(target=_end_the_compiler, args=(arrived, say), name="gpu4d-signals", daemon=True).start()


def _end_the_compiler(arrived: int, say: Callable[[], object]) -> None:
    """Wait for a signal. If the process still compiles a while later, remove what it was writing, and end it."""
    os.read(arrived, 1)
    time.sleep(PATIENCE)
    while not _compiles():
        time.sleep(AGAIN_AFTER)
    if leftovers := sys.modules.get("gpu4d.io.leftovers"):  # else nothing is being written
        leftovers.remove_unfinished()
    if sys.stderr.isatty():
        sys.stderr.write("\x1b[?25h\n")  # progress bars hide the cursor
    say()
    os._exit(1)


def _compiles() -> bool:
    """Return True if another thread holds numba's lock."""
    module = sys.modules.get("numba.core.compiler_lock")
    lock = getattr(getattr(module, "global_compiler_lock", None), "_lock", None)
    if lock is None:
        return False
    free = bool(lock.acquire(blocking=False))
    if free:
        lock.release()
    return not free
