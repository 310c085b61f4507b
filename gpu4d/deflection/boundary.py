"""Check the rim of an integrated phase, where a wrong boundary shows copies of the opposite edge."""

from __future__ import annotations

import math

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import real_values
from gpu4d.errors import InputError
from gpu4d.on_host import on_host

RIM = 3  # positions: width of the border in which copies of the opposite edge are strongest


@on_host("map")
def boundary_misfit(phase: ArrayLike, com: ArrayLike, step: float = 1.0) -> float:
    """Compare how well the gradient of a phase agrees with the measured field at the rim and inside.

    The result is the rms of |∇φ − 2π Δ k| in a border of three positions over the rms inside; k is the centre of mass, Δ the step
    of the scan. It is near 1 if the boundary is treated well. Copies of the opposite edge make it large.

    Parameters
    ----------
    phase : (Rx, Ry) real
        Radians.
    com : (2, Rx, Ry) real
        Centre of mass in the axes of the scan, 1/Å.
    step : float
        Distance of scan positions, Å.

    Returns
    -------
    float
        0 if the rim fits exactly; infinite if only the inside does. NaN positions are left out.

    Examples
    --------
    >>> import numpy as np
    >>> from gpu4d.deflection import boundary_misfit
    >>> ramp = np.add.outer(np.arange(12.0), np.zeros(12))
    >>> boundary_misfit(ramp, np.stack([np.full((12, 12), 1 / (2 * np.pi)), np.zeros((12, 12))]))
    0.0
    """
    data, k = (real_values(given, name).astype(np.float64) for given, name in ((phase, "phase"), (com, "com")))
    if data.ndim != 2 or min(data.shape) < 2 or k.shape != (2, *data.shape):
        raise InputError(f"phase is {data.shape}, com is {k.shape}: need (Rx, Ry) with two positions a side, and (2, Rx, Ry)")
    field = 2 * np.pi * step * k
    misfit = np.hypot(*(g - f for g, f in zip(np.gradient(data), field)))
    rim = np.ones(data.shape, bool)
    rim[RIM:-RIM, RIM:-RIM] = False
    known = np.isfinite(misfit)
    inner, outer = (float(np.sqrt(np.mean(misfit[m & known] ** 2))) if (m & known).any() else 0.0 for m in (~rim, rim))
    if outer == 0:
        return 0.0
    return outer / inner if inner else math.inf
