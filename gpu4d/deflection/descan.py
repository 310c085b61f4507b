"""What the scan coils add to the centre of mass: an offset, and a plane over the scan."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike, ArrayT
from gpu4d.data.arguments import scan_mask
from gpu4d.errors import InputError
from gpu4d.real_arrays import beside, real_array, real_number

# A plane is taken for descan if its share of the field's variance, per coefficient, is this many times that of the quadratic and
# cubic terms. Specimens have similar shares in all of them (ratio 0.0 … 5 in scans tried), descan has a plane alone (20 … 1e4).
PLANE_RATIO = 8.0
HIGHEST_ORDER = 4  # of a surface: scan coils bend the beam's path by less


def remove_descan(field: ArrayT, descan: str | ArrayLike | None = "auto", *, where: ArrayLike | None = None) -> tuple[ArrayT, str]:
    """Subtract from a centre-of-mass field what the microscope adds to it.

    Parameters
    ----------
    field : (Rx, Ry, 2) real
        NaN positions are left out of all fits.
    descan : {"auto", "plane", "mean", None} or array (2,) or (Rx, Ry, 2)
        What is subtracted: a least-squares plane, the mean, nothing, or the given values (in the unit of `field`). A plane that
        the specimen itself makes, a parabola of its phase, is lost with the descan. So "auto" subtracts a plane only if it has 8
        times more of the variance, per coefficient, than the quadratic and cubic terms of the field; else the mean.
    where : (Rx, Ry) bool, optional
        Positions where the specimen makes no field, such as vacuum or the ends of a junction. Mean and plane are fitted there and
        subtracted everywhere. "auto" subtracts the mean then: a plane from one side of a scan is extrapolated over all of it.

    Returns
    -------
    field : (Rx, Ry, 2) float64
        NaN where it was NaN.
    how : str
        What was done, as a sentence.

    Raises
    ------
    InputError
        The word is not known, an array has another shape, or there are fewer than 6 positions in `where` (1 for the mean).

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(4.0)[:, None] + np.zeros((4, 5))
    >>> corrected, how = remove_descan(np.stack([3 + x, 2 * x], axis=-1), "plane")
    >>> bool(np.abs(corrected).max() < 1e-12), how
    (True, 'descan: a plane subtracted, 100 % of the variance of the centre of mass')
    """
    found = without_descan(field, descan, where)
    return found.field, found.how


class WithoutDescan(NamedTuple):
    """A field, the surface that was fitted and subtracted ("mean", "plane" or None), and a sentence on it."""

    field: Any
    fitted: str | None
    how: str


def without_descan(field: Any, descan: str | ArrayLike | None, where: ArrayLike | None) -> WithoutDescan:
    """Do what `remove_descan` does, and say which surface was fitted."""
    field = arrays.as_float64(real_array(field, "field", "a field (Rx, Ry, 2)"))
    if len(field.shape) != 3 or field.shape[-1] != 2:
        raise InputError(f"field has shape {tuple(field.shape)}: need (Rx, Ry, 2)")
    if descan is None:
        return WithoutDescan(field, None, "descan: nothing subtracted")
    if not isinstance(descan, str):
        given = beside(real_array(descan, "descan", "'auto', 'plane', 'mean', None or an array"), "descan", field)
        if tuple(given.shape) not in ((2,), tuple(field.shape)):
            raise InputError(f"descan has shape {tuple(given.shape)}, need (2,) or {tuple(field.shape)}, in the unit of the centre of mass")
        return WithoutDescan(field - arrays.as_float64(given), None, "descan: the given field subtracted")
    if descan not in ("auto", "plane", "mean"):
        raise InputError(f"descan={descan!r}: need 'auto', 'plane', 'mean', None or an array")
    good = scan_mask(where, tuple(field.shape[:2]))
    if good is not None:
        return _from_good_positions(field, "mean" if descan == "auto" else descan, good)
    centred = field - arrays.nanmean(field, axis=(0, 1))
    if descan == "mean":
        return WithoutDescan(centred, "mean", "descan: the mean subtracted")
    flat = centred - _polynomial(centred, 1)
    everything, without = _energy(centred), _energy(flat)
    share = f"{100 * (1 - without / everything if everything > 0 else 0.0):.3g} % of the variance of the centre of mass"
    if descan == "plane":
        return WithoutDescan(flat, "plane", f"descan: a plane subtracted, {share}")
    higher = (without - _energy(centred - _polynomial(centred, 3))) / 7  # quadratic and cubic coefficients of a component
    ratio = (everything - without) / 2 / max(higher, 1e-12 * everything) if everything > 0 else math.nan
    if ratio > PLANE_RATIO:
        more = f"{ratio:.3g} times more per coefficient than higher orders"
        return WithoutDescan(flat, "plane", f"descan: a plane subtracted, {share}, {more}")
    return WithoutDescan(centred, "mean", f"descan: the mean subtracted; a plane ({share}) is not clear of what the specimen does")


def descan_surface(field: ArrayT, order: int = 2, *, where: ArrayLike | None = None) -> ArrayT:
    """Fit what the scan coils do: a polynomial surface through a field measured in vacuum, or at positions without a specimen.

    Give the result as `descan=` to `gpu4d.dpc` or `gpu4d.magnetic_induction`. It has less noise than the field itself.

    Parameters
    ----------
    field : (Rx, Ry, 2) real
        Centre of mass of the patterns, detector pixels and axes. NaN positions are left out.
    order : int
        Of the polynomial, 0 to 4: 1 is a plane.
    where : (Rx, Ry) bool, optional
        Positions without a specimen; all of them for a scan in vacuum.

    Returns
    -------
    (Rx, Ry, 2) float64
        Values at all positions. NaN if there are too few to fit.

    Raises
    ------
    InputError
        Wrong shape, an order out of its range, or too few positions.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(6.0)[:, None] + np.zeros((6, 6))
    >>> surface = descan_surface(np.stack([5 + x**2, 2 * x], -1))
    >>> surface.round(6)[5, 0].tolist()
    [30.0, 10.0]
    """
    values = arrays.as_float64(real_array(field, "field", "a field (Rx, Ry, 2)"))
    if len(values.shape) != 3 or values.shape[-1] != 2 or 0 in values.shape:
        raise InputError(f"field has shape {tuple(values.shape)}: need (Rx, Ry, 2)")
    order = real_number(order, "order", whole=True)
    if not 0 <= order <= HIGHEST_ORDER:
        raise InputError(f"order={order}: need 0 (a constant) to {HIGHEST_ORDER}")
    return _surface(values, order, scan_mask(where, tuple(values.shape[:2])))


def _from_good_positions(field: Any, descan: str, good: np.ndarray) -> WithoutDescan:
    """Subtract a mean or a plane that is fitted to some positions only."""
    surface = _surface(field, 0 if descan == "mean" else 1, good)
    what = "the mean" if descan == "mean" else "a plane"
    return WithoutDescan(field - surface, descan, f"descan: {what} of {int(good.sum())} positions without a specimen subtracted")


def _surface(field: Any, order: int, good: np.ndarray | None) -> Any:
    """Fit a polynomial to the positions of a mask, and return its values at all positions."""
    xp = arrays.namespace(field)
    count = int(good.sum()) if good is not None else int(np.prod(field.shape[:2]))
    terms = (order + 1) * (order + 2) // 2
    if count < 2 * terms - (order == 0):
        raise InputError(f"{count} positions for a surface of order {order}: need {2 * terms - (order == 0)} to fit it")
    if good is not None:
        inside = arrays.from_numpy(np.ascontiguousarray(good[..., None]), field)
        field = xp.where(inside, field, xp.full_like(field, math.nan))
    mean = arrays.nanmean(field, axis=(0, 1))
    return mean + _polynomial(field - mean, order)


def _energy(field: Any) -> float:
    """Return the mean square over the finite positions, both components together."""
    xp = arrays.namespace(field)
    return float(xp.sum(arrays.nanmean(field * field, axis=(0, 1))))


def _polynomial(field: Any, order: int) -> Any:
    """Fit a polynomial to a field by least squares, (Rx, Ry, 2); NaN if too few positions are finite."""
    xp = arrays.namespace(field)
    nx, ny = field.shape[:2]
    home = {"dtype": field.dtype, "device": arrays.device(field)}
    x, y = (xp.reshape((xp.arange(n, **home) - (n - 1) / 2) * (2 / max(n - 1, 1)), s) for n, s in ((nx, (nx, 1)), (ny, (1, ny))))
    one = xp.ones((nx, ny), **home)
    terms = xp.stack([one * x**i * y**j for i in range(order + 1) for j in range(order + 1 - i)], axis=-1)
    ok = xp.all(xp.isfinite(field), axis=-1, keepdims=True)
    count = terms.shape[-1]
    weighted = xp.reshape(xp.where(ok, terms, xp.zeros_like(terms)), (-1, count))
    values = xp.reshape(xp.where(ok, field, xp.zeros_like(field)), (-1, 2))
    left = xp.matrix_transpose(weighted)
    coefficients, _ = arrays.solve(xp.matmul(left, weighted), xp.matmul(left, values))
    return xp.reshape(xp.matmul(xp.reshape(terms, (-1, count)), coefficients), (nx, ny, 2))
