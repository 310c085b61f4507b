"""Fit the two steps of a scan to its positions: a steady drift makes a regular grid oblique."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import real_values
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host


class _ScanVectors(NamedTuple):
    matrix: np.ndarray
    misfit: float


class ScanVectors(_ScanVectors, Storable, stored="matrix misfit: [Å]", room="drift"):
    """The oblique grid nearest to the positions of a scan.

    Attributes
    ----------
    matrix : (2, 2) float64
        V of place = V (i, j) + constant, Å: its columns are the steps along the first and the second axis.
    misfit : float
        Rms distance of positions from the grid along one axis, Å.
    """

    __slots__ = ()


@on_host("map")
def scan_vectors(positions: ArrayLike) -> ScanVectors:
    """Fit the two steps of a scan to its positions.

    Scan frequencies are cycles per step. On an oblique grid the frequency (f₁, f₂) is V⁻ᵀ (f₁, f₂) in 1/Å, exactly.

    Parameters
    ----------
    positions : (Rx, Ry, 2) array
        Å in scan axes, as `Calibration.positions` has them. At least 2 × 2.

    Returns
    -------
    ScanVectors

    Raises
    ------
    InputError
        Another shape, values that are not finite, or positions on one line.

    Examples
    --------
    >>> import numpy as np
    >>> i, j = np.meshgrid(np.arange(4.0), np.arange(5.0), indexing="ij")
    >>> scan_vectors(np.stack([0.5 * i, 0.1 * i + 0.5 * j], -1)).matrix.round(3).tolist()
    [[0.5, 0.0], [0.1, 0.5]]
    """
    places = real_values(positions, "positions", "(Rx, Ry, 2) in Å").astype(np.float64)
    if places.ndim != 3 or places.shape[-1] != 2 or min(places.shape[:2]) < 2 or not np.isfinite(places).all():
        raise InputError(f"positions has shape {places.shape}: need (Rx, Ry, 2), finite, with two positions a side")
    i, j = (np.arange(n) - (n - 1) / 2 for n in places.shape[:2])
    centred = places - places.mean((0, 1))
    matrix = np.stack([np.einsum("i,ija->a", i, centred) / (i @ i * len(j)), np.einsum("j,ija->a", j, centred) / (j @ j * len(i))], -1)
    if not abs(np.linalg.det(matrix)) > 1e-6 * (matrix**2).sum():
        raise InputError("positions lie on one line: need a grid of them")
    left = centred - (i[:, None, None] * matrix[:, 0] + j[None, :, None] * matrix[:, 1])
    return ScanVectors(matrix, float(np.sqrt((left**2).mean())))
