"""The local lattice at every scan position: indexed disks, weighted least squares with a free local origin."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.calibrate.origin import Origin
from gpu4d.calibrate.origin import origin as measure_origin
from gpu4d.crystal.lattice import Lattice
from gpu4d.data.pointlist import PointListArray
from gpu4d.errors import InputError

WEIGHTS = ("sqrt", "py4dstem", "errors", "uniform")
BLOCK = 4096  # positions at a time: one fixed size, so that memory stays small and the answer does not depend on it
ROUNDS = 3  # of leaving out outliers
FIRST_GATE = 0.25  # of |g1|: how far a disk may be from the mean lattice when it is first indexed
FIRST_REACH = 2.3  # of |g1|: only low orders are indexed with the mean lattice, the others with the local one


@dataclass(frozen=True, eq=False)
class LatticeFit:
    """Local lattice vectors over the scan; NaN where a position has too few disks on the lattice, or all on a line.

    Attributes
    ----------
    g1, g2 : (Rx, Ry, 2) float64
        Detector pixels.
    origin : (Rx, Ry, 2) float64
        Of the local fit, px.
    covariance : (Rx, Ry, 2, 2, 2) float64
        ``covariance[..., c, i, j]`` is the covariance of component c of vector i with component c of vector j, px²; the two
        detector axes are independent. NaN where three disks leave no residual and the disks carry no standard errors.
    residual : (Rx, Ry) float64
        Rms distance of the disks from the local lattice per axis, px.
    count : (Rx, Ry) int64
        Disks in the fit.
    indexed_fraction : (Rx, Ry) float64
        Fraction of the disks that took part, each counted with the root of its weight.
    mask : (Rx, Ry) bool
        True where there is a fit.
    lattice : Lattice
        That the orders refer to.
    weights : str
    error_scale : float
        By how much the disks scatter more than their standard errors say, over the whole scan; `covariance` has it in (as a
        square) where it exceeds 1. NaN where the disks carry no standard errors.
    """

    g1: Any
    g2: Any
    origin: Any
    covariance: Any
    residual: Any
    count: Any
    indexed_fraction: Any
    mask: Any
    lattice: Lattice
    weights: str
    error_scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.mask.shape)

    def __repr__(self) -> str:
        return f"LatticeFit({'×'.join(map(str, self.shape))} positions, weights {self.weights!r}, {self.lattice!r})"


def fit_lattice(
    disks: PointListArray,
    lattice: Any,
    *,
    origin: Any = None,
    weights: str = "sqrt",
    tolerance: float = 0.12,
    min_disks: int = 3,
    min_indexed: float = 0.4,
    iterations: int = 4,
    outliers: float | None = 4.0,
) -> LatticeFit:
    """Fit q = x₀ + h g1 + k g2 to the disks of every position.

    The orders (h, k) are those of the nearest node: of the mean lattice for the disks near the origin, then of the fitted local
    one for all; a disk farther than the tolerance from its node takes no part. Weighted normal equations in float64, all
    positions at once.

    Parameters
    ----------
    disks : PointListArray
        Fields ``qx, qy`` (px), ``intensity`` and, where known, the standard errors ``sx, sy`` (px).
    lattice : Lattice, or (2, 2) array
        Mean lattice, from `find_lattice` (rows g1, g2, px).
    origin : Origin, (2,) or (Rx, Ry, 2) array, optional
        Start of the local origin, px; right to a tenth of |g1|. None: measured by `gpu4d.calibrate.origin`.
    weights : {"sqrt", "py4dstem", "errors", "uniform"}
        Weights of the squared residuals: "sqrt" intensity (rows of the system multiplied by √intensity: counting noise),
        "py4dstem" intensity² (rows multiplied by the intensity), "errors" 2 / (sx² + sy²), "uniform" 1.
    tolerance : float
        Gate, as a fraction of |g1| of the mean lattice.
    min_disks : int
        Fewest disks of a fit, at least 3.
    min_indexed : float
        Smallest part of a position's disks that has to lie on the lattice: among twenty random points three or four always do,
        and their strain would mean nothing.
    iterations : int
        Indexing and fitting again.
    outliers : float, optional
        Fit again without the disks whose residual exceeds this many times the scan's usual scatter, both in px and in
        units of 1/√weight (so neither weak disks under noise nor bright ones with structure are lost). None keeps all.

    Returns
    -------
    LatticeFit
        In the namespace of the disks. A position with too few disks on the lattice, or with all of them on a line, has NaN.

    Examples
    --------
    >>> import numpy as np
    >>> h, k = np.mgrid[-1:2, -1:2].reshape(2, -1)
    >>> q = np.stack([h, k], -1) @ np.array([[12.0, 1.0], [-1.0, 12.0]]) + 40
    >>> one = PointListArray(np.array([0, 9]), {"qx": q[:, 0], "qy": q[:, 1], "intensity": np.ones(9)}, (1, 1))
    >>> fit_lattice(one, [[12.0, 0.0], [0.0, 12.0]], origin=(40.0, 40.0)).g1.round(6)
    array([[[12.,  1.]]])
    """
    mean, centre = _checked(disks, lattice, origin, weights, min_disks, iterations)
    xp, where = arrays.namespace(disks.offsets), arrays.device(disks.offsets)
    place: Any = lambda a: xp.asarray(a, dtype=xp.float64, device=where)  # noqa: E731
    basis = place(mean.matrix.tolist())
    start = place(np.array(np.broadcast_to(centre, (*disks.shape, 2)).reshape(-1, 2)))
    blocks = [(first, min(first + BLOCK, start.shape[0])) for first in range(0, start.shape[0], BLOCK)]

    def everywhere(limits: tuple[float, float] | None) -> list[Any]:
        parts = [
            local_lattice(*_block(disks, i, j, weights), start[i:j, :], basis, tolerance, (min_disks, min_indexed), iterations, limits)
            for i, j in blocks
        ]
        return [xp.concat(p, axis=0) for p in zip(*parts)]

    fitted = everywhere(None)
    if outliers is not None and (limits := _limits(float(outliers), fitted[2], fitted[3], fitted[5])) is not None:
        fitted = everywhere(limits)
    x, cov, residual, count, fraction, _, chi2 = fitted
    scale = _error_scale(arrays.to_numpy(chi2), arrays.to_numpy(count))
    cov = cov * max(scale, 1.0) ** 2 if scale == scale else cov
    grid: Any = lambda a: xp.reshape(a, (*disks.shape, *a.shape[1:]))  # noqa: E731
    return LatticeFit(
        g1=grid(x[:, 1, :]),
        g2=grid(x[:, 2, :]),
        origin=grid(x[:, 0, :]),
        covariance=grid(cov),
        residual=grid(residual),
        count=grid(count),
        indexed_fraction=grid(fraction),
        mask=grid(xp.isfinite(x[:, 1, 0])),
        lattice=mean,
        weights=weights,
        error_scale=scale,
    )


def _checked(disks: Any, lattice: Any, origin: Any, weights: str, min_disks: int, iterations: int) -> tuple[Lattice, np.ndarray]:
    """The mean lattice and the origin (2,) or (Rx, Ry, 2), checked."""
    if not isinstance(disks, PointListArray):
        raise InputError(f"disks is a {type(disks).__name__}: need the PointListArray that find_bragg_disks gives")
    if lattice is None:
        raise InputError("lattice is None (find_lattice found none): give g1 and g2 as a (2, 2) array in px, or leave out the strain")
    if weights not in WEIGHTS:
        raise InputError(f"weights={weights!r}: need one of {', '.join(map(repr, WEIGHTS))}")
    if weights == "errors" and not {"sx", "sy"} <= set(disks.fields):
        raise InputError(f"weights='errors' needs the fields sx and sy; these disks have {', '.join(disks.fields)}: use weights='sqrt'")
    if min_disks < 3 or iterations < 1:
        raise InputError(f"min_disks={min_disks}, iterations={iterations}: need at least 3 disks and 1 iteration")
    if not isinstance(lattice, Lattice):
        rows = arrays.to_numpy(lattice).astype(np.float64)
        if rows.shape != (2, 2) or not np.isfinite(rows).all() or abs(np.linalg.det(rows)) < 1e-3 * np.sum(rows**2):
            raise InputError(f"lattice is {np.array2string(rows, precision=3)}: need two vectors (2, 2), px, that are not parallel")
        lattice = Lattice(rows[0], rows[1])
    centre = measure_origin(disks) if origin is None else origin
    centre = centre.fitted if isinstance(centre, Origin) else arrays.to_numpy(centre).astype(np.float64)
    if centre.shape not in ((2,), (*disks.shape, 2)):
        raise InputError(f"origin is {centre.shape}: need (2,) or {(*disks.shape, 2)} in detector pixels, or what calibrate.origin gives")
    return lattice, centre


def _block(disks: PointListArray, first: int, last: int, weights: str) -> tuple[Any, Any, Any, Any, Any]:
    """qx, qy, weight, and the standard errors of some positions as padded (positions, most) arrays; weight 0 is no disk."""
    xp = arrays.namespace(disks.offsets)
    start, stop = int(disks.offsets[first]), int(disks.offsets[last])
    names = [n for n in ("qx", "qy", "intensity", "sx", "sy") if n in disks.fields]
    some = PointListArray(
        disks.offsets[first : last + 1] - disks.offsets[first],
        {n: arrays.as_float64(disks.flat(n)[start:stop]) for n in names},
        (last - first,),
    )
    fields = some.padded()[1]
    qx, qy, light = fields["qx"], fields["qy"], fields["intensity"]
    unknown = xp.full_like(qx, math.nan)
    sx, sy = fields.get("sx", unknown), fields.get("sy", unknown)
    weight = {
        "sqrt": lambda: light,
        "py4dstem": lambda: light * light,
        "errors": lambda: 2 / (sx * sx + sy * sy),
        "uniform": lambda: xp.where(xp.isfinite(light), xp.ones_like(qx), unknown),
    }[weights]()
    ok = xp.isfinite(qx) & xp.isfinite(qy) & xp.isfinite(weight) & (weight > 0)
    return qx, qy, xp.where(ok, weight, xp.zeros_like(weight)), sx, sy


def local_lattice(
    qx: Any,
    qy: Any,
    weight: Any,
    sx: Any,
    sy: Any,
    start: Any,
    basis: Any,
    tolerance: float,
    least: tuple[int, float],
    iterations: int,
    limits: tuple[float, float] | None,
) -> tuple[Any, Any, Any, Any, Any, Any, Any]:
    """The fit for a block of positions, by the array API alone.

    Parameters
    ----------
    qx, qy, weight, sx, sy : (n, most) float64
        Disks; weight 0 marks none. Standard errors may be NaN.
    start : (n, 2) float64
        Origin to begin with.
    basis : (2, 2) float64
        Mean g1, g2 as rows.
    tolerance, least, iterations
        As `fit_lattice`; `least` is min_disks and min_indexed.
    limits : (float, float), optional
        Squared residuals, weighted and in px², above both of which a disk is left out in the end.

    Returns
    -------
    parameters (n, 3, 2), covariance (n, 2, 2, 2), residual (n,), count (n,) int64, indexed fraction (n,), variance of a disk of
    weight 1 (n,), reduced χ² (n,)
    """
    xp = arrays.namespace(qx)
    zero = xp.zeros_like(qx)
    there = weight > 0
    size = xp.sqrt(xp.sum(basis[0, :] * basis[0, :]))
    q = xp.stack([xp.where(there, qx, zero), xp.where(there, qy, zero)], axis=-1)
    x = xp.concat([start[:, None, :], xp.broadcast_to(basis, (start.shape[0], 2, 2))], axis=1)
    away = xp.sqrt(xp.sum((q - start[:, None, :]) ** 2, axis=-1))
    for step in range(iterations + 1):
        rows, r = _index(q, x)
        near = there & (xp.sqrt(xp.sum(r * r, axis=-1)) < (FIRST_GATE if step == 0 else tolerance) * size)
        if step == 0:  # strain and rotation move high orders too far to be indexed by the mean lattice
            low = near & (away < FIRST_REACH * size)
            enough = xp.sum(xp.astype(low, xp.int64), axis=-1) >= 4
            near = near & (low | ~enough[:, None])
        w = xp.where(near, weight, zero)
        fitted, inverse = _solve(rows, w, q)
        good = xp.isfinite(fitted[:, 0, 0])
        x = xp.where(good[:, None, None], fitted, x)
    if limits is not None:
        for _ in range(ROUNDS):
            w = _without_worst(rows, w, q, x, inverse, limits)
            fitted, inverse = _solve(rows, w, q)
            good = xp.isfinite(fitted[:, 0, 0])
            x = xp.where(good[:, None, None], fitted, x)
    return _figures(rows, w, q, fitted, inverse, weight, (sx, sy), good, least)


def _index(q: Any, x: Any) -> tuple[Any, Any]:
    """Rows (1, h, k) of the nearest nodes (n, most, 3) and residuals (n, most, 2)."""
    xp = arrays.namespace(q)
    g = x[:, 1:, :]
    det = g[:, 0, 0] * g[:, 1, 1] - g[:, 0, 1] * g[:, 1, 0]
    det = xp.where(xp.abs(det) > 0, det, xp.ones_like(det))
    d = q - x[:, :1, :]
    h = xp.round((d[..., 0] * g[:, 1:, 1] - d[..., 1] * g[:, 1:, 0]) / det[:, None])
    k = xp.round((d[..., 1] * g[:, :1, 0] - d[..., 0] * g[:, :1, 1]) / det[:, None])
    rows = xp.stack([xp.ones_like(h), h, k], axis=-1)
    return rows, q - xp.matmul(rows, x)


def _solve(rows: Any, w: Any, q: Any) -> tuple[Any, Any]:
    """Weighted least squares: parameters (n, 3, 2) and the inverse normal matrix (n, 3, 3); NaN where singular.

    Each normal matrix is scaled to a unit diagonal, so that what counts as singular does not depend on the weights' size.
    """
    xp = arrays.namespace(q)
    weighted = xp.matrix_transpose(rows * w[..., None])
    normal, right = xp.matmul(weighted, rows), xp.matmul(weighted, q)
    eye = xp.eye(3, dtype=normal.dtype, device=arrays.device(normal))
    diagonal = xp.sum(normal * eye, axis=-1)
    scale = 1 / xp.sqrt(xp.where(diagonal > 0, diagonal, xp.ones_like(diagonal)))
    outer = scale[:, :, None] * scale[:, None, :]
    both = xp.concat([right, xp.broadcast_to(eye, normal.shape) / scale[:, :, None]], axis=-1) * scale[:, :, None]
    solved, _ = arrays.solve(normal * outer, both)
    solved = solved * scale[:, :, None]
    return solved[..., :2], solved[..., 2:] * scale[:, None, :]


def _without_worst(rows: Any, w: Any, q: Any, x: Any, inverse: Any, limits: tuple[float, float]) -> Any:
    """Weights with the worst disks of each position set to 0, where they exceed the limits.

    Residuals are divided by what the disk's own pull leaves of them (1 − leverage), or a wrong unscattered disk, ten times heavier than the
    rest, would convict all others. One gross error lifts the residuals of good disks, so those far below the worst wait for
    the next fit.
    """
    xp = arrays.namespace(q)
    r = q - xp.matmul(rows, x)
    left = 1 - w * xp.sum(xp.matmul(rows, inverse) * rows, axis=-1)
    tested = (w > 0) & (left > 1e-6)  # a disk that alone holds a parameter cannot be tested
    left = xp.where(tested, left, xp.ones_like(left))
    square = xp.where(tested, xp.sum(r * r, axis=-1) / left, xp.zeros_like(w))
    excess = xp.minimum(w * square / limits[0], square / left / limits[1])
    worst = xp.max(excess, axis=-1, keepdims=True)
    return xp.where((excess > 1) & (excess > 0.4 * worst), xp.zeros_like(w), w)


def _figures(
    rows: Any, w: Any, q: Any, x: Any, inverse: Any, weight: Any, errors: tuple[Any, Any], good: Any, least: tuple[int, float]
) -> tuple[Any, Any, Any, Any, Any, Any, Any]:
    """What stands beside the parameters: covariance, residual, count, indexed fraction, unit variance, reduced χ²."""
    xp = arrays.namespace(q)
    used = w > 0
    one = xp.astype(used, w.dtype)
    count = xp.sum(one, axis=-1)
    there = xp.sum(xp.astype(weight > 0, w.dtype), axis=-1)
    good = good & (count >= least[0]) & (count >= least[1] * there)
    nan = xp.full_like(count, math.nan)
    r = (q - xp.matmul(rows, xp.where(good[:, None, None], x, xp.zeros_like(x)))) * one[..., None]
    free = xp.where(count > 3, count - 3, nan)
    unit = xp.sum(w[..., None] * r * r, axis=(-2, -1)) / (2 * free)  # variance of a disk of weight 1, from the scatter
    from_scatter = unit[:, None] / xp.where(used, w, xp.ones_like(w))
    gain = xp.matmul(inverse, xp.matrix_transpose(rows * w[..., None]))  # parameters = gain · q
    parts, chi2 = [], xp.zeros_like(count)
    for axis, s in enumerate(errors):
        known = xp.isfinite(s) & (s > 0)
        variance = xp.where(used, xp.where(known, s * s, from_scatter), xp.zeros_like(s))
        cov = xp.matmul(gain * variance[:, None, :], xp.matrix_transpose(gain))
        parts.append(cov[:, 1:, 1:])
        normalised = r[..., axis] ** 2 / xp.where(known & used, s * s, xp.ones_like(s))
        expected = variance - 2 * variance * xp.sum(rows * xp.matrix_transpose(gain), axis=-1)
        expected = expected + xp.sum(xp.matmul(rows, cov) * rows, axis=-1)  # variance of a residual: less than that of its disk
        share = xp.where(known & used, expected / xp.where(known & used, s * s, xp.ones_like(s)), xp.zeros_like(s))
        total = xp.sum(xp.where(known & used, normalised, xp.zeros_like(s)), axis=-1)
        dof = xp.sum(share, axis=-1)
        chi2 = chi2 + total / xp.where(dof > 0.5, dof, nan) / 2
    covariance = xp.where(good[:, None, None, None], xp.stack(parts, axis=1), nan[:, None, None, None])
    residual = xp.where(good, xp.sqrt(xp.sum(r * r, axis=(-2, -1)) / (2 * xp.where(count > 0, count, nan))), nan)
    light, total = (xp.sum(xp.sqrt(a), axis=-1) for a in (w, weight))
    fraction = xp.where(total > 0, light / xp.where(total > 0, total, xp.ones_like(total)), nan)
    x = xp.where(good[:, None, None], x, nan[:, None, None])
    return x, covariance, residual, xp.astype(count, xp.int64), fraction, xp.where(good, unit, nan), chi2


def _limits(outliers: float, residual: Any, count: Any, unit: Any) -> tuple[float, float] | None:
    """Squared residuals that are too large, weighted and in px²; None where too few disks tell what is usual."""
    rms, n, variance = (arrays.to_numpy(a) for a in (residual, count, unit))
    ok = np.isfinite(variance) & (n > 3)
    if np.sum(n[ok] - 3) < 30:
        return None
    square = max(np.median(rms[ok] ** 2 * n[ok] / (n[ok] - 3)), 1e-8)  # points without noise differ by rounding: no outlier under 1e-4 px
    return outliers**2 * float(np.median(variance[ok])), outliers**2 * float(square)


def _error_scale(chi2: np.ndarray, count: np.ndarray) -> float:
    """Square root of the scan's reduced χ²; the median, corrected for a χ² distribution's, so that bad positions do not rule."""
    ok = np.isfinite(chi2)
    if not ok.any():
        return math.nan
    free = 2 * np.maximum(count[ok] - 3, 1)
    return float(np.sqrt(np.median(chi2[ok] / (1 - 2 / (9 * free)) ** 3)))
