"""Measure how far the beam moved on the detector from the first rows of a scan to the last."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gpu4d.robust import robust_sigma

END = 0.1  # share of the rows, or columns, at either end that are compared
LEAST = 8  # rows, and columns: with fewer, a median and its error are chance
OF_MEDIAN = 1.2533  # standard error of a median over that of a mean, for normal noise
SURE = 3.0  # standard errors: a smaller shift is none


class RowDrift(NamedTuple):
    """How far the beam moved on the detector while rows were recorded.

    Attributes
    ----------
    shift : float
        Distance of the beam between the first rows and the last, px.
    error : float
        Its standard error from the scatter of the columns, px.
    along : float
        Distance that a descan which is alike along both axes of the scan gives between these rows, from the first and the last columns, px.
    """

    shift: float
    error: float
    along: float

    @property
    def beyond(self) -> float:
        """What the descan does not explain, px. 0 within three standard errors."""
        return max(0.0, self.shift - self.along) if self.shift > self.along + SURE * self.error else 0.0


def row_drift(positions: np.ndarray) -> RowDrift | None:
    """Compare the beam in the first rows with that in the last.

    Columns are compared one by one, and the median over them counts, so that a few patterns with another brightest disk change nothing.

    Parameters
    ----------
    positions : (Rx, Ry, 2) array
        Of the beam, px. NaN where it is not known.

    Returns
    -------
    RowDrift or None
        None with fewer than eight rows or columns.

    Examples
    --------
    >>> x, y = np.indices((20, 20))
    >>> descan, drift = 0.1 * np.stack([x, y], -1), 0.2 * np.stack([0 * x, x], -1)
    >>> row_drift(descan).beyond, round(row_drift(descan + drift).beyond, 1)
    (0.0, 2.2)
    """
    rows = _between_ends(positions)
    columns = _between_ends(np.swapaxes(positions, 0, 1))
    if rows is None or columns is None:
        return None
    (shift, error, steps), (along, of_columns, other) = rows, columns
    scale = steps / other
    return RowDrift(shift, math.hypot(error, scale * of_columns), scale * along)


def _between_ends(positions: np.ndarray) -> tuple[float, float, float] | None:
    """Return the distance between both ends of the first axis, its standard error, and the number of steps between the ends."""
    count = len(positions)
    ends = max(1, round(END * count))
    known = np.isfinite(positions[:ends]).all(-1).any(0) & np.isfinite(positions[-ends:]).all(-1).any(0)
    if count < LEAST or known.sum() < LEAST:
        return None
    lines = positions[:, known]
    moved = np.nanmean(lines[-ends:], axis=0) - np.nanmean(lines[:ends], axis=0)
    middle = np.median(moved, axis=0)
    error = OF_MEDIAN * math.hypot(*(robust_sigma(moved[:, i]) for i in (0, 1))) / math.sqrt(len(moved))
    return float(np.hypot(*middle)), error, float(count - ends)
