"""Convert between the ellipse of a ring, the stretch of a glass and its strain, exactly: compositions of 2 × 2 matrices."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike, ReturnedArray
from gpu4d.errors import InputError
from gpu4d.real_arrays import beside, real_array


def ellipse_to_strain(
    a: ArrayLike, b: ArrayLike, c: ArrayLike, /, *, linear: bool = False
) -> tuple[ReturnedArray, ReturnedArray, ReturnedArray]:
    """Convert ellipses A x² + B x y + C y² = 1 of a ring to strain, in units in which the unstrained ring is x² + y² = 1.

    The ring of a glass with left stretch V = 1 + ε lies at |V q| = 1, so that V² = [[A, B/2], [B/2, C]]. Its square root is
    ε_xx = (A + W/2) / √(A + C + W) − 1, ε_yy = (C + W/2) / √(A + C + W) − 1, ε_xy = B / (2 √(A + C + W)), W = √(4 A C − B²).

    Parameters
    ----------
    a, b, c : real numbers or arrays of one shape
        Coefficients, relative to the unstrained ring. A smaller ring has larger ones: tension.
    linear : bool
        To first order: ε_xx = (A − 1)/2, ε_yy = (C − 1)/2, ε_xy = B/4. (Half of B, which is printed at places, is twice the shear.)

    Returns
    -------
    exx, eyy, exy : float64 arrays
        Tension is positive. NaN where the coefficients are those of no ellipse.

    Raises
    ------
    InputError
        Other values than real numbers, or shapes that do not fit.

    Examples
    --------
    >>> v = np.array([[1.02, 0.01], [0.01, 0.99]])
    >>> form = v @ v
    >>> [round(float(e), 6) for e in ellipse_to_strain(form[0, 0], 2 * form[0, 1], form[1, 1])]
    [0.02, -0.01, 0.01]
    """
    first = real_array(a, "a", "coefficients of ellipses")
    second, third = beside(b, "b", first), beside(c, "c", first)
    if not tuple(first.shape) == tuple(second.shape) == tuple(third.shape):
        raise InputError(f"a, b, c have shapes {first.shape}, {second.shape}, {third.shape}: need one shape for all")
    xp = arrays.namespace(first, second, third)
    xx, xy, yy = (arrays.as_float64(v) for v in (first, second, third))
    square = 4 * xx * yy - xy * xy
    good = (square > 0) & (xx > 0)
    if linear:
        found = [(xx - 1) / 2, (yy - 1) / 2, xy / 4]
    else:
        w = xp.sqrt(xp.where(good, square, xp.ones_like(square)))
        root = xp.sqrt(xp.where(good, xx + yy + w, xp.ones_like(w)))
        found = [(xx + w / 2) / root - 1, (yy + w / 2) / root - 1, xy / (2 * root)]
    exx, eyy, exy = (xp.where(good, v, xp.full_like(v, float("nan"))) for v in found)
    return exx, eyy, exy


def turned(tensor: Any, covariance: Any, axes: np.ndarray) -> tuple[Any, Any]:
    """Return strains (…, 3) of components xx, yy, xy and their covariance (…, 3, 3) in other axes.

    Parameters
    ----------
    tensor, covariance : arrays
    axes : (2, 2) float64
        Orthogonal. Its rows are the new axes.

    Examples
    --------
    >>> turned(np.array([0.02, 0.0, 0.0]), np.eye(3), np.array([[0.0, 1.0], [-1.0, 0.0]]))[0].tolist()
    [0.0, 0.02, 0.0]
    """
    (a, b), (c, d) = axes.tolist()
    rows = np.array([[a * a, b * b, 2 * a * b], [c * c, d * d, 2 * c * d], [a * c, b * d, a * d + b * c]])
    matrix = arrays.from_numpy(rows, tensor)
    xp = arrays.namespace(tensor)
    return xp.matmul(tensor, matrix.T), xp.matmul(xp.matmul(matrix, covariance), matrix.T)
