"""Define what a scan suggests for a setting, and collect the suggestions for all settings."""

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
_TABLE: dict[str, Suggest] = {}


def suggests(*names: str) -> Callable[[Suggest], Suggest]:
    """Return a decorator: the function says what the data suggest for these settings, "section.key", or None if they say nothing."""

    def take(function: Suggest) -> Suggest:
        _TABLE.update((name, function) for name in names)
        return function

    return take


def suggestions(look: Look, names: tuple[str, ...] | None = None) -> dict[str, Suggestion]:
    """Return what the scan suggests, by the names of settings.

    Parameters
    ----------
    look : Look
    names : tuple of str, optional
        Settings that are asked for, "section.key". All for which there are suggestions if it is not given.
    """
    from gpu4d.workflow.advising import from_beam, from_disks, from_field, from_rings  # noqa: F401 - they fill the table

    found = {name: _TABLE[name](look) for name in (_TABLE if names is None else names) if name in _TABLE}
    return {name: one for name, one in found.items() if one is not None}


def suggested_names() -> tuple[str, ...]:
    """Return the settings for which a scan may suggest something."""
    from gpu4d.workflow.advising import from_beam, from_disks, from_field, from_rings  # noqa: F401 - they fill the table

    return tuple(_TABLE)
