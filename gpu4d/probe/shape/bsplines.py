"""Evaluate cubic B-splines on even knots."""

from __future__ import annotations

import numpy as np


def bsplines(t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the four cubic B-splines on whole knots that are not 0 at t: their knots, values, slopes, (n, 4) each."""
    first = np.floor(t)
    f = t - first
    g = 1 - f
    value = np.stack([g**3, 3 * f**3 - 6 * f**2 + 4, 3 * g**3 - 6 * g**2 + 4, f**3], -1) / 6
    slope = np.stack([-(g**2), 3 * f**2 - 4 * f, 4 * g - 3 * g**2, f**2], -1) / 2
    return first.astype(np.int64)[:, None] + np.arange(-1, 3), value, slope
