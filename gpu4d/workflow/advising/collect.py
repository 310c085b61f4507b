"""Collect what a scan suggests for the settings of a recipe."""

from __future__ import annotations

from gpu4d.workflow.advising import from_beam, from_disks, from_field, from_rings  # noqa: F401 - they fill the table
from gpu4d.workflow.advising.look import Look
from gpu4d.workflow.advising.suggestion import TABLE, Suggestion


def suggestions(look: Look, names: tuple[str, ...] | None = None) -> dict[str, Suggestion]:
    """Return what the scan suggests, by the names of settings.

    Parameters
    ----------
    look : Look
    names : tuple of str, optional
        Settings that are asked for, "section.key". All for which there are suggestions if it is not given.
    """
    found = {name: TABLE[name](look) for name in (TABLE if names is None else names) if name in TABLE}
    return {name: one for name, one in found.items() if one is not None}
