"""Remove a slow drift of the ring's radius, as a drifting camera length makes it, seen in unstrained positions of many rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gpu4d import arrays
from gpu4d.amorphous.result import AmorphousStrain, as_strain
from gpu4d.errors import InputError
from gpu4d.real_arrays import real_number

HIGHEST = 5  # order of a drift: a faster one cannot be told from strain


def without_drift(strain: AmorphousStrain, order: int) -> AmorphousStrain:
    """Return strain from which the drift of the ring's radius is removed.

    In unstrained positions V = 1 / (1 + δ) if the radius has grown by δ. The mean of e_xx and e_yy over the reference region is fitted by
    a polynomial in the scan row, weighted by its errors. V is multiplied by what removes it at every position.

    Parameters
    ----------
    strain : AmorphousStrain
        Its reference must have a region of this scan.
    order : int
        Of the polynomial, 0 to 5.

    Raises
    ------
    InputError
        There is no such region, or it has positions in too few rows.
    """
    order = real_number(order, "drift", whole=True)
    region = strain.reference.region
    shape = tuple(strain.exx.shape)
    if not 0 <= order <= HIGHEST:
        raise InputError(f"drift={order}: need the order of a polynomial in the scan row, 0 to {HIGHEST}")
    if region is None or region.shape != shape:
        raise InputError("drift= needs unstrained positions of this scan: give reference=region, (Rx, Ry) bool")
    fit = strain._fit
    values, covariance = arrays.to_numpy(fit.strain), arrays.to_numpy(fit.covariance)
    used = region & np.isfinite(values).all(axis=-1)
    rows = np.nonzero(used)[0]
    if len(np.unique(rows)) <= order:
        raise InputError(
            f"the ring was fitted in {len(np.unique(rows))} scan rows of the reference: drift={order} needs more than {order}, "
            "so give a larger region or a smaller drift="
        )
    dilation = values[used][:, :2].mean(axis=-1)
    error = np.sqrt(covariance[used][:, [0, 0, 1], [0, 1, 1]] @ np.array([0.25, 0.5, 0.25]))
    at = np.linspace(-1, 1, shape[0]) if shape[0] > 1 else np.zeros(1)
    fitted = np.polynomial.Polynomial(np.polynomial.polynomial.polyfit(at[rows], dilation, order, w=1 / error))(at)
    factor = arrays.from_numpy(1 / (1 + fitted)[:, None, None], fit.strain)
    xp = arrays.namespace(fit.strain)
    one = arrays.from_numpy(np.array([1.0, 1.0, 0.0]), fit.strain)
    changed = replace(
        fit,
        strain=(fit.strain + one) * factor - one,
        covariance=fit.covariance * xp.reshape(factor * factor, (shape[0], 1, 1, 1)),
        drift=1 / (1 + fitted) - 1,
    )
    return as_strain(changed, strain.axes.angle)
