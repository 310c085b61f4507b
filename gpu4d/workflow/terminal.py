"""Show the progress of a run: one bar for each stage at a terminal and in a notebook, and one line for each stage elsewhere."""

from __future__ import annotations

import shutil
import sys
from contextlib import AbstractContextManager, nullcontext

from gpu4d.streaming.notebook_bars import NotebookBars, in_notebook
from gpu4d.streaming.progress import ProgressBars
from gpu4d.workflow.record import SilentWatcher, Watcher

LONGEST = 100  # columns: longer lines are hard to read


class Lines(SilentWatcher):
    """Writes one line for each stage that is done, for the log of a batch system."""

    def end(self, stage: str, seconds: float) -> None:
        sys.stderr.write(f"{stage}: {seconds:.1f} s\n")
        sys.stderr.flush()


def watcher(quiet: bool = False) -> AbstractContextManager[Watcher]:
    """Return progress bars at a terminal and in a notebook, and lines on standard error elsewhere. `quiet` shows nothing."""
    if quiet:
        return nullcontext(SilentWatcher())
    if in_notebook():
        return NotebookBars()
    return ProgressBars() if sys.stderr.isatty() else nullcontext(Lines())


def width() -> int:
    """Return the number of columns for texts: those of the terminal, at most 100. 100 elsewhere."""
    return min(LONGEST, shutil.get_terminal_size((LONGEST, 24)).columns)
