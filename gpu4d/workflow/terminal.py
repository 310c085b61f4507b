"""How a run gets on: a progress bar per stage at a terminal, silence elsewhere."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext

from gpu4d.streaming.progress import ProgressBars
from gpu4d.workflow.record import SilentWatcher, Watcher


def watcher() -> AbstractContextManager[Watcher]:
    """Bars at a terminal; elsewhere standard error stays free for the one line of an error."""
    return ProgressBars() if sys.stderr.isatty() else nullcontext(SilentWatcher())
