"""How a run gets on: a progress bar per stage at a terminal, silence elsewhere."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from gpu4d.workflow.record import Nobody, Watcher


class Bars:
    """A watcher that draws a progress bar per stage with rich, on standard error."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self.progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<36}"),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[remark]:>17}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self.task: Any = None

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def begin(self, stage: str) -> None:
        self.task = self.progress.add_task(stage, total=None, remark="")

    def advance(self, done: int, total: int) -> None:
        if self.task is not None:
            self.progress.update(self.task, completed=done, total=total, remark=f"{done:,}/{total:,}")

    def end(self, stage: str, seconds: float) -> None:
        self.progress.update(self.task, total=1, completed=1, remark="")


def watcher() -> AbstractContextManager[Watcher]:
    """Bars at a terminal; elsewhere standard error stays free for the one line of an error."""
    return Bars() if sys.stderr.isatty() else nullcontext(Nobody())
