"""Draw the progress bars of sweeps and runs."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from typing import Any

from gpu4d.streaming.notebook_bars import NotebookBars, in_notebook

log = logging.getLogger("gpu4d")

Progress = bool | Callable[[int, int], None]


class ProgressBars:
    """Context manager that draws one bar for each stage with rich, on standard error.

    Parameters
    ----------
    transient : bool
        True removes the bars at the end. False keeps them: they show the remaining time, and when done the time they took.

    Raises
    ------
    ImportError
        rich is not installed.
    """

    def __init__(self, transient: bool = False):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

        self.progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<36}"),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[remark]:>17}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True),
            transient=transient,
        )
        self.task: Any = None

    def __enter__(self) -> ProgressBars:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def begin(self, stage: str) -> None:
        """Begin a bar. Its length is not known before the first `advance`."""
        self.task = self.progress.add_task(stage, total=None, remark="")

    def advance(self, done: int, total: int) -> None:
        """Set the bar to `done` patterns of `total`."""
        if self.task is not None:
            self.progress.update(self.task, completed=done, total=total, remark=f"{done:,}/{total:,}")

    def end(self, stage: str, seconds: float) -> None:
        """Complete the bar."""
        self.progress.update(self.task, total=1, completed=1, remark="")


class Counter:
    """Counts the patterns of a sweep, for a progress bar or a function.

    Parameters
    ----------
    progress : bool or callable
        True draws a bar at a terminal and in a notebook, and nothing elsewhere, as in the log of a batch system. A function is called
        with (patterns done, patterns in all). False counts nothing.
    total : int
        Number of patterns in all.
    """

    def __init__(self, progress: Progress, total: int):
        self.total, self.done, self.lock = total, 0, threading.Lock()
        self.call = progress if callable(progress) else None
        self.bars = _bars() if progress is True else None

    def __enter__(self) -> Callable[[int], None]:
        if self.bars is not None:
            self.bars.__enter__()
            self.bars.begin("sweep")
            self.bars.advance(0, self.total)
        return self.add

    def __exit__(self, *_: object) -> None:
        if self.bars is not None:
            self.bars.__exit__()

    def add(self, patterns: int) -> None:
        """Count patterns. Several threads may call this."""
        if self.call is None and self.bars is None:
            return
        with self.lock:
            self.done += patterns
            if self.bars is not None:
                self.bars.advance(self.done, self.total)
            if self.call is not None:
                self.call(self.done, self.total)


def _bars() -> ProgressBars | NotebookBars | None:
    if in_notebook():
        return NotebookBars(transient=True)
    if sys.stderr is None or not sys.stderr.isatty():
        return None
    try:
        return ProgressBars(transient=True)
    except ImportError:
        log.info("no progress bar: install gpu4d[app] for one")
        return None
