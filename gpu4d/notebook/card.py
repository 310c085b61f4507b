"""Put the facts and the picture of a result together. Whatever goes wrong, a notebook then shows the text of the result."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from gpu4d.data.slices import Slice
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.notebook import facts, thumbnails
from gpu4d.notebook.pieces import Fact, fragment

log = logging.getLogger("gpu4d")


def html(result: Storable) -> str:
    """Return what a notebook shows of a result: its facts with units, and a small picture of at most 60 kB.

    A scan is not read, except for 16 patterns where that is cheap. Without matplotlib there is no picture.

    Parameters
    ----------
    result : a result of gpu4d
        A scan, a slice, Bragg disks, strain, a calibration, an orientation map, …

    Returns
    -------
    str
        A `<div>` of HTML with styles of its own.

    Raises
    ------
    InputError
        Something else.

    Examples
    --------
    >>> import gpu4d
    >>> text = html(gpu4d.Calibration(energy=300e3))
    >>> "300000 eV" in text, "not known" in text
    (True, True)
    """
    if not isinstance(result, Storable):
        raise InputError(f"result is a {type(result).__name__}: need a result of gpu4d, such as a DataCube, a RealSlice, a Strain")
    name = getattr(result, "name", "") if isinstance(result, Slice) or hasattr(result, "scan_shape") else ""
    title = type(result).__name__ + (f" · {name}" if isinstance(name, str) and name else "")
    return fragment(title, facts.facts_of(result), _picture(result), repr(result))


def card(result: Storable) -> str | None:
    """Return `html` of a result. None, after which a notebook shows the text of the result, if anything goes wrong."""
    return quietly(lambda: html(result))


def summary(title: str, lines: Sequence[Fact], shown: Sequence[Storable | None]) -> str | None:
    """Return the facts of an analysis, with the picture of the first of its results that has one. None if anything goes wrong."""

    def made() -> str:
        pictures = (_picture(one) for one in shown if one is not None)
        return fragment(title, lines, next((png for png in pictures if png), None), title)

    return quietly(made)


def quietly(make: Callable[[], str]) -> str | None:
    """Return what a function makes, or None if it fails: to show a result must never stop a notebook."""
    try:
        return make()
    except Exception as error:
        log.debug("a result cannot be shown as a table (%s: %s): its text is shown", type(error).__name__, error)
        return None


def _picture(result: Storable) -> bytes | None:
    """Return the picture of a result; None if it has none, or it cannot be drawn."""
    try:
        return thumbnails.thumbnail(result)
    except Exception as error:
        log.debug("a %s has no picture (%s: %s)", type(result).__name__, type(error).__name__, error)
        return None
