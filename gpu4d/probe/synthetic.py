"""Make a round probe with a soft edge from its radius."""

from __future__ import annotations

import numpy as np

from gpu4d.data.arguments import two_sizes
from gpu4d.errors import InputError
from gpu4d.real_arrays import floats, real_number


def synthetic(shape: tuple[int, int], radius: float, center: tuple[float, float] | None = None, edge: float = 1.0) -> np.ndarray:
    """Make a flat disk with a sigmoid edge.

    P(q) = 1 / (1 + exp(4 (|q - c| - R) / w)). It is 1 inside. At the radius it is ½, with slope -1/w.

    Parameters
    ----------
    shape : (Qx, Qy)
    radius : float
        R, detector pixels.
    center : (float, float), optional
        c, pixels. Default: (Qx // 2, Qy // 2).
    edge : float
        w, width of the edge, pixels.

    Returns
    -------
    (Qx, Qy) float64

    Examples
    --------
    >>> synthetic((32, 32), 6.0)[16, [16, 22, 28]].round(3).tolist()
    [1.0, 0.5, 0.0]
    """
    shape = two_sizes(shape, "shape")
    if not (real_number(radius, "radius") > 0 and real_number(edge, "edge") > 0):
        raise InputError(f"synthetic(radius={radius}, edge={edge}): need positive numbers of detector pixels")
    cx, cy = floats(center, 2, "center") if center is not None else (shape[0] // 2, shape[1] // 2)
    r = np.hypot(np.arange(shape[0])[:, None] - cx, np.arange(shape[1])[None, :] - cy)
    return 1.0 / (1.0 + np.exp(np.clip(4.0 * (r - radius) / edge, -60.0, 60.0)))
