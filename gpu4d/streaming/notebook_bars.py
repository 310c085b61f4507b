"""Draw progress bars in a notebook, by IPython's own display: it is there in every notebook, and needs no widgets."""

from __future__ import annotations

import html
import sys
import time
from typing import Any

OFTEN = 0.1  # seconds between two updates: a notebook keeps up with ten a second
BAR = "width:16em;vertical-align:middle"


def in_notebook() -> bool:
    """Return True if this process is the kernel of a notebook. IPython is not imported."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None and hasattr(module, "get_ipython") else None
    return getattr(shell, "kernel", None) is not None


class NotebookBars:
    """Context manager that shows one bar for each stage below the cell.

    Parameters
    ----------
    transient : bool
        True removes the bars at the end. False keeps them, with the time that each took.
    """

    def __init__(self, transient: bool = False):
        self.transient = transient
        self.handle: Any = None
        self.stages: dict[str, str] = {}
        self.now, self.started, self.shown_at = "", 0.0, 0.0

    def __enter__(self) -> NotebookBars:
        from IPython.display import HTML, display

        self.handle = display(HTML(""), display_id=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self.transient:
            self.stages.clear()
        self._show()

    def begin(self, stage: str) -> None:
        """Begin a bar. Its length is not known before the first `advance`."""
        self.now, self.started = stage, time.perf_counter()
        self.stages[stage] = _line(stage, None, "")
        self._show()

    def advance(self, done: int, total: int) -> None:
        """Set the bar to `done` patterns of `total`."""
        if not self.now:
            return
        seconds = time.perf_counter() - self.started
        left = f", {_time(seconds / done * (total - done))} left" if 0 < done < total else ""
        self.stages[self.now] = _line(self.now, done / max(total, 1), f"{done:,}/{total:,}{left}")
        if done >= total or time.perf_counter() - self.shown_at > OFTEN:
            self._show()

    def end(self, stage: str, seconds: float) -> None:
        """Complete the bar."""
        self.stages[stage] = _line(stage, 1.0, _time(seconds))
        self._show()

    def _show(self) -> None:
        from IPython.display import HTML

        self.shown_at = time.perf_counter()
        if self.handle is not None:
            self.handle.update(HTML("".join(self.stages.values())))


def _line(stage: str, part: float | None, remark: str) -> str:
    """Return the bar of a stage. A bar of unknown length moves by itself."""
    value = "" if part is None else f' value="{part:.4f}"'
    return f'<div>{html.escape(stage)} <progress style="{BAR}" max="1"{value}></progress> {html.escape(remark)}</div>'


def _time(seconds: float) -> str:
    """Write a time for readers.

    Examples
    --------
    >>> _time(0.52), _time(75), _time(7322)
    ('0.5 s', '1:15', '2:02:02')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
