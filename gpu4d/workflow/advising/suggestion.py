"""Define what a scan suggests for a setting, and the table of functions that say it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from gpu4d.workflow.advising.look import Look
from gpu4d.workflow.settings import SettingValue


class Suggestion(NamedTuple):
    """What the data suggest for one setting.

    Attributes
    ----------
    why : str
        What was measured, and what follows.
    value : object
        Value to set. None leaves the default, or the decision of the run.
    """

    why: str
    value: SettingValue = None


Suggest = Callable[[Look], Suggestion | None]
TABLE: dict[str, Suggest] = {}  # by the names of settings; filled by `suggests`


def suggests(*names: str) -> Callable[[Suggest], Suggest]:
    """Return a decorator: the function says what the data suggest for these settings, "section.key", or None if they say nothing."""

    def take(function: Suggest) -> Suggest:
        TABLE.update((name, function) for name in names)
        return function

    return take
