"""Show the progress of a run: one bar for each stage at a terminal, and nothing elsewhere."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext

from gpu4d.streaming.progress import ProgressBars
from gpu4d.workflow.record import SilentWatcher, Watcher


def watcher() -> AbstractContextManager[Watcher]:
    """Return progress bars at a terminal. Elsewhere nothing is shown, so that standard error holds only the line of an error."""
    return ProgressBars() if sys.stderr.isatty() else nullcontext(SilentWatcher())
