"""Read what a user names as the unstrained lattice: a word, a region of the scan, two vectors with their unit, or a result file."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gpu4d.errors import InputError, did_you_mean

REGION_LENGTH = 4  # rx0, rx1, ry0, ry1
UNITS = {"px": "px", "1/Å": "1/Å", "1/A": "1/Å", "Å⁻¹": "1/Å"}  # of vectors, as users write them
ENDINGS = (".h5", ".hdf5", ".emd")  # of result files
ACCEPTED = (
    "a region [rx0, rx1, ry0, ry1]; two vectors with their unit, as '12.1, 0.3, -0.3, 12.1 px' (g1 and g2; px or 1/Å); or the result.h5 of "
    "another run"
)


class Vectors(NamedTuple):
    """Two lattice vectors that a user gave.

    Attributes
    ----------
    rows : (2, 2) float64
        g1 and g2.
    units : str
        "px": on the detector as measured. "1/Å": with the ellipse of the detector removed.
    """

    rows: np.ndarray
    units: str


def read_reference(said: str, value: Any, words: Sequence[str]) -> list[int] | str:
    """Return a region as four whole numbers, or a text: a word, two vectors with their unit, or a path.

    Parameters
    ----------
    said : str
        What was given and where, for errors.
    value : str or list
    words : sequence of str
        Accepted words.

    Raises
    ------
    InputError

    Examples
    --------
    >>> read_reference("", [0, 8, 0, 4], ("median",)), read_reference("", "12,0,0,12 px", ("median",))
    ([0, 8, 0, 4], '12,0,0,12 px')
    """
    need = f"need {', '.join(words)}; {ACCEPTED}"
    if isinstance(value, str):
        if value in words or vectors_in(value) is not None or is_path(value):
            return value
        if len(_numbers_in(value)) == REGION_LENGTH:
            raise InputError(f"{said}: four numbers without a unit are a region of whole numbers; write the unit of vectors, px or 1/Å")
        raise InputError(f"{said}: {need}{did_you_mean(value, words, cutoff=0.5)}")
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(row, list | tuple) for row in value):
        raise InputError(f"{said}: vectors need their unit: write them as a text, '12.1, 0.3, -0.3, 12.1 px', or with 1/Å")
    if not isinstance(value, list | tuple) or len(value) != REGION_LENGTH:
        raise InputError(f"{said}: {need}")
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and v == v and v >= 0 and int(v) == v for v in value):
        raise InputError(f"{said}: a region has whole numbers of at least 0; {need}")
    rx0, rx1, ry0, ry1 = (int(v) for v in value)
    if not (rx0 < rx1 and ry0 < ry1):
        raise InputError(f"{said}: need [rx0, rx1, ry0, ry1] with rx0 < rx1 and ry0 < ry1")
    return [rx0, rx1, ry0, ry1]


def vectors_in(text: str) -> Vectors | None:
    """Return the two vectors of a text of four numbers and a unit. None if it is another text.

    Examples
    --------
    >>> vectors_in("12.1, 0.3, -0.3, 12.1 px").rows.tolist(), vectors_in("0.25,0,0,0.25 1/A").units, vectors_in("median")
    ([[12.1, 0.3], [-0.3, 12.1]], '1/Å', None)
    """
    words = "|".join(re.escape(unit) for unit in UNITS)
    match = re.fullmatch(rf"\s*(.*?)\s*({words})\s*", unicodedata.normalize("NFC", text))  # Å has two code points
    numbers = _numbers_in(match.group(1)) if match else []
    return Vectors(np.array(numbers).reshape(2, 2), UNITS[match.group(2)]) if match and len(numbers) == 4 else None


def is_path(text: str) -> bool:
    """Return True for a text that names a result file or the folder of a result.

    Examples
    --------
    >>> is_path("first/result.h5"), is_path("median")
    (True, False)
    """
    return vectors_in(text) is None and (text.lower().endswith(ENDINGS) or os.sep in text or os.path.isdir(text))


def _numbers_in(text: str) -> list[float]:
    """Return the numbers of a text, separated by commas, semicolons or blanks. Empty if anything else is in it."""
    try:
        numbers = [float(part) for part in re.split(r"[,;\s]+", text.strip(" ,;[]()"))]
    except ValueError:
        return []
    return numbers if np.isfinite(numbers).all() else []
