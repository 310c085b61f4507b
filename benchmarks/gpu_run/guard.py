"""Run a command. End everything it started when it ends, or when the process that started this guard is gone.

    python -I guard.py COMMAND ARGUMENTS...

The starting process holds the other end of the standard input. When that process ends or is killed, the input ends, and all descendants
are killed. Descendants with their own session are found too, because orphans become children of this process. No part of gpu4d is
imported here.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # prctl: orphaned descendants become children of this process


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent ends; where that is unknown, only the process group counts."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(of: int) -> list[int]:
    """Processes started by `of` or by one of them, as /proc has them now."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = entry.read_text().rpartition(")")[2].split()  # behind the name, which may hold anything
            if fields[0] != "Z":
                parents[int(entry.parent.name)] = int(fields[1])
    found, latest = [], [of]
    while latest:
        latest = [child for child, parent in parents.items() if parent in latest and child not in found]
        found += latest
    return found


def end_descendants() -> None:
    """Kill all descendants; again until there are none, because one may be starting another."""
    for _ in range(50):
        there = descendants(os.getpid())
        if not there:
            return
        for one in there:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(one, signal.SIGKILL)
        threading.Event().wait(0.02)


def end_with_the_one_who_asked() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    end_descendants()


def main(command: list[str]) -> int:
    adopt_orphans()
    for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # its end is the end of its input
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=usual_signals)
    threading.Thread(target=end_with_the_one_who_asked, daemon=True).start()
    code = child.wait()
    end_descendants()
    return code if code >= 0 else 128 - code


def usual_signals() -> None:
    """What is ignored stays ignored in a child."""
    for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(one, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
