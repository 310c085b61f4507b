"""Find the size of a detector pixel from known spacings."""

from __future__ import annotations

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike
from gpu4d.errors import InputError


def pixel_size(lengths: ArrayLike, spacings: ArrayLike, weights: ArrayLike | None = None) -> tuple[float, float]:
    """Fit the detector pixel to measured |g| and known spacings d, by least squares of 1/d = q_pixel · |g|.

    Several orders and families at once give the best value. For the orders (h, k) of a lattice, pass |h g1 + k g2| and d_hk.

    Parameters
    ----------
    lengths : (n,) array or float
        Measured |g|, px, with the elliptical distortion removed.
    spacings : (n,) array or float
        Lattice spacings d, Å.
    weights : (n,) array, optional
        Weights of the squared residuals.

    Returns
    -------
    q_pixel : float
        1/Å.
    error : float
        Its standard error from the scatter, 1/Å. NaN for a single length.

    Examples
    --------
    >>> q, error = pixel_size([24.6, 49.2], [2.039, 1.0195])  # Au 200 and 400
    >>> round(q, 6), error < 1e-9
    (0.019936, True)
    """
    g, d = (np.atleast_1d(arrays.to_numpy(a)).astype(np.float64).ravel() for a in (lengths, spacings))
    if g.shape != d.shape or not ((g > 0).all() and (d > 0).all() and np.isfinite(g).all() and np.isfinite(d).all()):
        raise InputError(f"{g.size} lengths (px) and {d.size} spacings (Å): need as many of both, all positive")
    w = np.ones_like(g) if weights is None else np.atleast_1d(arrays.to_numpy(weights)).astype(np.float64).ravel()
    if w.shape != g.shape or not (np.isfinite(w).all() and (w >= 0).all() and w.any()):
        raise InputError(f"{w.size} weights for {g.size} lengths: need one for each, not negative, not all zero")
    total = float(np.sum(w * g * g))
    q = float(np.sum(w * g / d)) / total
    if g.size < 2:
        return q, float("nan")
    variance = float(np.sum(w * (1 / d - q * g) ** 2)) / (g.size - 1)
    return q, float(np.sqrt(variance / total))
