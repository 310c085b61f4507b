"""Compare the trace of strain with the area of the lattice cell, which 1/g gives without any tensor."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpu4d.arrays import to_numpy
from gpu4d.crystal.fit_lattice import LatticeFit
from gpu4d.crystal.strain import Strain
from gpu4d.data.storable import Storable

LEAST = 8  # positions that a slope needs
CLEAR = 5.0  # standard errors of the strain by which the cell must vary: a smaller change shows no slope


class _Dilation(NamedTuple):
    slope: float
    positions: int


class Dilation(_Dilation, Storable):
    """How strain follows the spacing of the lattice.

    Attributes
    ----------
    slope : float
        Of ε_xx + ε_yy against the relative growth of the real cell, A_ref / A − 1 with the area A = |g1 × g2|: 1 to first order.
    positions : int
        That took part.
    """

    __slots__ = ()


def dilation_and_spacing(fit: LatticeFit, strain: Strain) -> Dilation | None:
    """Compare the trace of strain with the growth of the real cell, over the scan.

    g = 1/d: where the crystal is stretched, the cell that g1 and g2 span shrinks. This follows from lengths alone, so it shows a sign or
    a transposed inverse that went wrong anywhere between the disks and the tensor.

    Parameters
    ----------
    fit : LatticeFit
    strain : Strain
        Of this fit: `exx`, `eyy` and `uncertainty`.

    Returns
    -------
    Dilation or None
        None if the cell varies by less than five standard errors of the strain, or at fewer than eight positions.

    Examples
    --------
    >>> import gpu4d
    >>> scan = gpu4d.simulate.bragg_scan((6, 6), (80, 80), spacing=18.0, radius=4.0, dose=80.0, strain_size=0.01, seed=1)
    >>> disks = gpu4d.find_bragg_disks(scan.cube, scan.probe)
    >>> fit = gpu4d.fit_lattice(disks, gpu4d.find_lattice(disks))
    >>> round(dilation_and_spacing(fit, gpu4d.strain_map(fit)).slope, 1)
    1.0
    """
    g1, g2 = (to_numpy(g).astype(np.float64) for g in (fit.g1, fit.g2))
    area = np.abs(g1[..., 0] * g2[..., 1] - g1[..., 1] * g2[..., 0])
    trace = np.asarray(strain.exx, np.float64) + np.asarray(strain.eyy, np.float64)
    error = np.nanmedian(np.asarray(strain.uncertainty, dtype=np.float64)[:2]) if np.isfinite(strain.uncertainty).any() else 0.0
    good = np.isfinite(trace) & np.isfinite(area) & (area > 0)
    if good.sum() < LEAST:
        return None
    growth = np.median(area[good]) / area[good] - 1
    x, y = growth - np.median(growth), trace[good] - np.median(trace[good])
    scatter = 1.4826 * float(np.median(np.abs(x)))
    inside = np.abs(x) <= np.percentile(np.abs(x), 98)
    if not scatter > 0 or float(np.sqrt(np.mean(x[inside] ** 2))) < CLEAR * error:
        return None
    x, y = x[inside], y[inside]
    return Dilation(float(x @ y / (x @ x)), int(inside.sum()))
