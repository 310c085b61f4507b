"""Describe, measure and remove the elliptical distortion of the detector plane."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import FARTHEST, real_values
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.real_arrays import floats


@on_host("curve")
def ellipse(points: ArrayLike, weights: ArrayLike | None = None) -> tuple[float, float, float]:
    """Fit an ellipse, centred at the origin, to points that should lie on a circle.

    The fit is a weighted least squares of A x² + B x y + C y² = 1. Residuals are relative to the radius (1 − the left side is twice the
    relative radial error), so that no size is preferred.

    Parameters
    ----------
    points : (n, 2) array
        Relative to the origin, px: Bragg peaks of one ring, or maxima of a diffuse ring by angle. For a lattice of known shape see
        `ellipse_from_lattice`. Non-finite points are left out.
    weights : (n,) array, optional

    Returns
    -------
    (a, b, theta)
        Semi-axes a ≥ b, px, and the angle of a, rad, from qx towards qy, -π/2 < theta ≤ π/2: `Calibration.ellipse`.

    Examples
    --------
    >>> t = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    >>> [round(v, 6) for v in ellipse(np.stack([30 * np.cos(t), 31 * np.sin(t)], axis=-1))]
    [31.0, 30.0, 1.570796]
    """
    v = real_values(points, "points", "(n, 2), px relative to the origin").astype(np.float64)
    if v.ndim != 2 or v.shape[1] != 2:
        raise InputError(f"points are {v.shape}: need (n, 2), px relative to the origin")
    w = np.ones(len(v)) if weights is None else real_values(weights, "weights", "one weight per point").astype(np.float64)
    if w.shape != v.shape[:1]:
        raise InputError(f"{w.shape} weights for {len(v)} points: need one for each")
    ok = (np.abs(v) < FARTHEST).all(axis=-1) & (w < FARTHEST) & (w > 0)
    v, w = v[ok], np.sqrt(w[ok])
    rows = np.stack([v[:, 0] ** 2, v[:, 0] * v[:, 1], v[:, 1] ** 2], axis=-1)
    if len(v) < 3 or np.linalg.matrix_rank(rows) < 3:
        raise InputError(f"{len(v)} points do not fix an ellipse: need three or more in different directions")
    p, q, r = np.linalg.lstsq(rows * w[:, None], w, rcond=None)[0]
    return _semi_axes(np.array([[p, q / 2], [q / 2, r]]))


def ellipse_from_lattice(g1: Any, g2: Any, ratio: float = 1.0, angle: float = np.pi / 2) -> tuple[float, float, float]:
    """Return the ellipse from one lattice whose true shape is known. The defaults are for a square lattice. Hexagonal: angle π/3.

    Parameters
    ----------
    g1, g2 : (2,)
        Measured vectors, px.
    ratio : float
        True |g2| / |g1|.
    angle : float
        True angle from g1 to g2, rad.

    Returns
    -------
    (a, b, theta)
        As `ellipse`; the lengths are those of a true lattice with |g1| as unit.
    """
    rows = np.array([floats(g, 2, "a lattice vector") for g in (g1, g2)])
    true = np.array([[1.0, 0.0], [ratio * np.cos(angle), ratio * np.sin(angle)]])
    if abs(np.linalg.det(rows)) < 1e-12 or abs(np.linalg.det(true)) < 1e-12:
        raise InputError("the two lattice vectors are parallel: need two directions")
    distortion = np.linalg.solve(true, rows).T  # measured = distortion · true, up to a rotation, which does not change the form below
    return _semi_axes(np.linalg.inv(distortion @ distortion.T))


def _semi_axes(form: np.ndarray) -> tuple[float, float, float]:
    """Return (a, b, theta) of the ellipse vᵀ form v = 1."""
    values, vectors = np.linalg.eigh(form)
    if values[0] <= 0:
        raise InputError("the points lie on a hyperbola, not on an ellipse: check the origin and that they belong to one ring")
    x, y = vectors[:, 0]  # the smallest eigenvalue belongs to the longest axis
    theta = float(np.arctan2(y, x))
    theta = theta - np.pi if theta > np.pi / 2 + 1e-12 else theta + np.pi if theta <= -np.pi / 2 + 1e-12 else theta
    return float(values[0] ** -0.5), float(values[1] ** -0.5), theta
