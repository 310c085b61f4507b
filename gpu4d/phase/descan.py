"""What the scan coils add to the centre of mass: an offset, and a plane over the scan."""

from __future__ import annotations

from typing import Any

from gpu4d import arrays
from gpu4d.errors import InputError

# Share of the field's variance above which a plane is taken for descan. A plane of the sample itself is a parabola of its
# phase: seldom this strong where the scan shows many features.
PLANE_SHARE = 0.01


def remove_descan(field: Any, descan: Any = "auto") -> tuple[Any, str]:
    """A centre-of-mass field without what the microscope adds to it.

    Parameters
    ----------
    field : (Rx, Ry, 2) real
        NaN positions have no say.
    descan : {"auto", "plane", "mean", None} or array (2,) or (Rx, Ry, 2)
        Subtract a least-squares plane, the mean, nothing, or what is given (same unit as `field`). "auto" takes the plane
        where it holds more than 1 % of the field's variance, else the mean.

    Returns
    -------
    field : (Rx, Ry, 2) float64
    how : str
        What was done, in words.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(4.0)[:, None] + np.zeros((4, 5))
    >>> corrected, how = remove_descan(np.stack([3 + x, 2 * x], axis=-1))
    >>> bool(np.abs(corrected).max() < 1e-12), how
    (True, 'descan: a plane subtracted, 100 % of the variance of the centre of mass')
    """
    xp = arrays.namespace(field)
    field = arrays.as_float64(field)
    if descan is None:
        return field, "descan: nothing subtracted"
    if arrays.is_array(descan) or isinstance(descan, tuple | list):
        given = descan if arrays.is_array(descan) else xp.asarray(descan, dtype=field.dtype, device=arrays.device(field))
        if tuple(given.shape) not in ((2,), tuple(field.shape)):
            raise InputError(f"descan has shape {tuple(given.shape)}, need (2,) or {tuple(field.shape)}, in the unit of the centre of mass")
        return field - arrays.as_float64(given), "descan: the given field subtracted"
    if descan not in ("auto", "plane", "mean"):
        raise InputError(f"descan={descan!r}: need 'auto', 'plane', 'mean', None or an array")
    centred = field - arrays.nanmean(field, axis=(0, 1))
    if descan == "mean":
        return centred, "descan: the mean subtracted"
    flat = centred - _plane(centred)
    before, after = (float(xp.sum(arrays.nanmean(f * f, axis=(0, 1)))) for f in (centred, flat))
    share = 1 - after / before if before > 0 else 0.0
    if descan == "plane" or share > PLANE_SHARE:
        return flat, f"descan: a plane subtracted, {100 * share:.3g} % of the variance of the centre of mass"
    return centred, f"descan: the mean subtracted; a plane would hold only {100 * share:.2g} % of the variance of the centre of mass"


def _plane(field: Any) -> Any:
    """The least-squares plane (Rx, Ry, 2) of a field; NaN where a field has fewer than three positions off a line."""
    xp = arrays.namespace(field)
    nx, ny = field.shape[:2]
    home = {"dtype": field.dtype, "device": arrays.device(field)}
    x, y = xp.arange(nx, **home) - (nx - 1) / 2, xp.arange(ny, **home) - (ny - 1) / 2
    one = xp.ones((nx, ny), **home)
    terms = xp.stack([one, one * x[:, None], one * y[None, :]], axis=-1)
    ok = xp.all(xp.isfinite(field), axis=-1, keepdims=True)
    weighted = xp.reshape(xp.where(ok, terms, xp.zeros_like(terms)), (-1, 3))
    values = xp.reshape(xp.where(ok, field, xp.zeros_like(field)), (-1, 2))
    left = xp.matrix_transpose(weighted)
    coefficients, _ = arrays.solve(xp.matmul(left, weighted), xp.matmul(left, values))
    return xp.reshape(xp.matmul(xp.reshape(terms, (-1, 3)), coefficients), (nx, ny, 2))
