"""A stage's command: its output line by line as it comes, its end and that of everything it started at a given moment."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

GUARD = Path(__file__).with_name("guard.py")
GRACE = 2.0  # seconds a guard has to end what it started, before its group is killed
LONGEST_LINE = 2000  # characters; what floods must not fill a file of 16 MiB, nor the memory
LAST_LINES = 20  # that are kept for the report of a stage that broke off


class Group:
    """A running command and everything it starts.

    Parameters
    ----------
    command : sequence of str
    on_line : callable, optional
        Called, in a thread of its own, with every complete line of the output as soon as it is there.
    environment : mapping, optional
        Added to that of this process.
    folder : path, optional
        The command's working directory.
    nice : int
        How far it steps back behind others.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        on_line: Callable[[str], None] | None = None,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        nice: int = 0,
    ):
        self.on_line = on_line
        self.last: deque[str] = deque(maxlen=LAST_LINES)
        before = ["nice", "-n", str(nice)] if nice else []
        self.process = subprocess.Popen(
            [*before, sys.executable, "-I", str(GUARD), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            cwd=folder,
            start_new_session=True,
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def wait(self, seconds: float) -> int | None:
        """The exit code, as soon as there is one; None where the command did not end within `seconds` and was ended."""
        try:
            code = self.process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            self.end()
            return None
        self.reader.join(1.0)
        return code

    def end(self) -> None:
        """Kill the command and everything it started."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(GRACE)
        self.reader.join(0.5)

    def _read(self) -> None:
        """Cut the output into lines; of a line that is too long the front is kept."""
        assert self.process.stdout is not None
        held = b""
        with contextlib.suppress(OSError, ValueError):
            while part := self.process.stdout.read1(1 << 16):  # type: ignore[attr-defined]
                *lines, rest = part.split(b"\n")
                for line in lines:
                    self._take(held + line)
                    held = b""
                held = (held + rest)[: 4 * LONGEST_LINE]
        if held:
            self._take(held)

    def _take(self, line: bytes) -> None:
        text = "".join(c if c.isprintable() or c == "\t" else "?" for c in line.decode(errors="replace").rstrip("\r")[:LONGEST_LINE])
        self.last.append(text)
        if self.on_line is not None:
            self.on_line(text)


class Deadline:
    """One moment by which everything must be over.

    Parameters
    ----------
    seconds : float
        From now on.
    """

    def __init__(self, seconds: float):
        self.start = time.monotonic()
        self.at = self.start + seconds

    @property
    def passed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.start

    @property
    def left(self) -> float:
        return self.at - time.monotonic()
