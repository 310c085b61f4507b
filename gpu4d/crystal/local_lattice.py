"""Fit local lattices of a block of positions, in the array API: find orders, and solve weighted least squares, in turn.

Parameters x are (3, 2, n): origin, g1, g2 by component. A row of the system is ρ = (1, h, k). Symmetric 3 × 3 matrices are the six arrays
(n,) 00, 01, 02, 11, 12, 22.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from gpu4d import arrays
from gpu4d.data.pointlist import PointListArray

ROUNDS = 3  # of leaving out outliers
FIRST_GATE = 0.25  # of |g1|: how far a disk may be from the mean lattice when it is first indexed
FIRST_REACH = 2.3  # of |g1|: only low orders are indexed with the mean lattice, the others with the local one


class Disks(NamedTuple):
    """Disks of n positions, (most, n) float64. Each column is a position, so sums over its disks run along whole rows.

    A weight of 0 means that there is no disk. The standard errors are None if the disks have none, and may be NaN.
    """

    qx: Any
    qy: Any
    weight: Any
    sx: Any
    sy: Any


def columns(disks: PointListArray, first: int, last: int, weights: str) -> Disks:
    """Return the disks of positions first … last − 1, with weights as `gpu4d.fit_lattice` names them."""
    xp, where = arrays.namespace(disks.offsets), arrays.device(disks.offsets)
    start, stop = int(disks.offsets[first]), int(disks.offsets[last])
    ends = disks.offsets[first : last + 1] - start
    counts = ends[1:] - ends[:-1]
    row = xp.arange(max(int(xp.max(counts)), 1), dtype=ends.dtype, device=where)
    behind = xp.full_like(counts, stop - start)  # place of a NaN that is appended to the lists
    index = xp.where(row[:, None] < counts[None, :], ends[None, :-1] + row[:, None], behind[None, :])
    nan = xp.full((1,), math.nan, dtype=xp.float64, device=where)

    def padded(name: str) -> Any:
        """Return a field as (most, n), with NaN after the last disk."""
        values = xp.concat([arrays.as_float64(disks.flat(name)[start:stop]), nan])
        return xp.reshape(xp.take(values, xp.reshape(index, (-1,))), index.shape)

    qx, qy, light = (padded(name) for name in ("qx", "qy", "intensity"))
    errors: list[Any] = [padded(name) if name in disks.fields else None for name in ("sx", "sy")]
    sx, sy = errors
    weight = {
        "sqrt": lambda: light,
        "py4dstem": lambda: light * light,
        "errors": lambda: 2 / (sx**2 + sy**2),
        "uniform": lambda: xp.where(xp.isfinite(light), xp.ones_like(qx), light),
    }[weights]()
    ok = xp.isfinite(qx) & xp.isfinite(qy) & xp.isfinite(weight) & (weight > 0)
    zero = xp.zeros_like(qx)
    return Disks(xp.where(ok, qx, zero), xp.where(ok, qy, zero), xp.where(ok, weight, zero), sx, sy)


def converged(p: Disks, x: Any, size: float, tolerance: float, least: tuple[int, float], iterations: int) -> tuple[Any, Any, Any, Any]:
    """Index and fit in turn, starting from the mean lattice, until no disk changes its order or `iterations` are used up.

    Returns
    -------
    The parameters of the last indexing, and of its fit: residual (n,), count (n,), variance of a disk of weight 1 (n,).
    """
    xp = arrays.namespace(x)
    h, k, rx, ry = _index(p, x)
    w = _first_gate(p, x, rx, ry, size)
    for _ in range(iterations):
        nodes, (x, inverse) = x, _solve(h, k, w, rx, ry, x)
        before = h, k, w
        h, k, rx, ry = _index(p, x)
        w = _gate(p, rx, ry, tolerance * size)
        moved = (w != before[2]) | ((w > 0) & ((h != before[0]) | (k != before[1])))
        if not bool(xp.any(moved)):
            break
    else:
        nodes, (x, inverse) = x, _solve(h, k, w, rx, ry, x)
        rx, ry = _residuals(p, h, k, x)
    return nodes, *_scatter(p, w, rx, ry, xp.isfinite(inverse[0]), least)[1:]


def fitted(p: Disks, nodes: Any, gate: float, least: tuple[int, float], limits: tuple[float, float] | None) -> tuple[Any, ...]:
    """Fit the disks indexed with `nodes`, without those above both limits (squared residuals, weighted and in px²).

    Returns
    -------
    parameters (3, 2, n), covariance (8, n), residual (n,), count (n,), indexed fraction (n,), reduced χ² (n,)
    """
    xp = arrays.namespace(nodes)
    h, k, rx, ry = _index(p, nodes)
    w = _gate(p, rx, ry, gate)
    x, inverse = _solve(h, k, w, rx, ry, nodes)
    if limits is not None:
        w, x, inverse = _without_outliers(p, h, k, w, x, inverse, limits)
    rx, ry = _residuals(p, h, k, x)
    good, residual, count, unit = _scatter(p, w, rx, ry, xp.isfinite(inverse[0]), least)
    parts = [_errors(h, k, w, r, s, inverse, unit) for r, s in ((rx, p.sx), (ry, p.sy))]
    nan = xp.full_like(count, math.nan)
    covariance = xp.stack([part for covariance, _ in parts for part in covariance], axis=0)
    root = xp.sqrt(p.weight)
    light, total = xp.sum(xp.where(w > 0, root, xp.zeros_like(w)), axis=0), xp.sum(root, axis=0)
    fraction = xp.where(total > 0, light / xp.where(total > 0, total, xp.ones_like(total)), nan)
    chi2 = xp.where(good, parts[0][1] + parts[1][1], nan)
    return xp.where(good, x, nan), xp.where(good, covariance, nan), residual, count, fraction, chi2


def _index(p: Disks, x: Any) -> tuple[Any, Any, Any, Any]:
    """Return orders h, k of the nearest nodes, and residuals along qx and qy, all (most, n)."""
    xp = arrays.namespace(x)
    (g1x, g1y), (g2x, g2y) = ((x[i, 0, :], x[i, 1, :]) for i in (1, 2))
    det = g1x * g2y - g1y * g2x
    det = xp.where(xp.abs(det) > 0, det, xp.ones_like(det))
    dx, dy = p.qx - x[0, 0, :], p.qy - x[0, 1, :]
    h = xp.round(dx * (g2y / det) - dy * (g2x / det))
    k = xp.round(dy * (g1x / det) - dx * (g1y / det))
    return h, k, dx - h * g1x - k * g2x, dy - h * g1y - k * g2y


def _residuals(p: Disks, h: Any, k: Any, x: Any) -> tuple[Any, Any]:
    """Return residuals along qx and qy, (most, n)."""
    rx, ry = (q - x[0, c, :] - h * x[1, c, :] - k * x[2, c, :] for c, q in ((0, p.qx), (1, p.qy)))
    return rx, ry


def _gate(p: Disks, rx: Any, ry: Any, gate: float) -> Any:
    """Return the weights of disks nearer than `gate` (px) to their nodes, and 0 for the others."""
    xp = arrays.namespace(rx)
    return xp.where(rx * rx + ry * ry < gate * gate, p.weight, xp.zeros_like(p.weight))


def _first_gate(p: Disks, x: Any, rx: Any, ry: Any, size: float) -> Any:
    """Return weights for the mean lattice: only low orders, if there are enough, because strain and rotation move high orders too far."""
    xp = arrays.namespace(x)
    w = _gate(p, rx, ry, FIRST_GATE * size)
    low = (p.qx - x[0, 0, :]) ** 2 + (p.qy - x[0, 1, :]) ** 2 < (FIRST_REACH * size) ** 2
    enough = xp.sum(xp.astype(low & (w > 0), xp.int64), axis=0) >= 4
    return xp.where(low | ~enough, w, xp.zeros_like(w))


def _moments(w: Any, h: Any, k: Any) -> tuple[Any, ...]:
    """Sum w (1, h, k)ᵀ (1, h, k) over the disks."""
    xp = arrays.namespace(w)
    wh, wk = w * h, w * k
    s00, s01, s02, s11, s12, s22 = (xp.sum(a, axis=0) for a in (w, wh, wk, wh * h, wh * k, wk * k))
    return s00, s01, s02, s11, s12, s22


def _inverse(m: tuple[Any, ...]) -> tuple[Any, ...]:
    """Invert normal matrices by their LDLᵀ factors. A singular matrix gives NaN.

    Each matrix is scaled to a unit diagonal, so that the test does not depend on the size of the weights. It is singular if the
    determinant, divided by the lengths of the rows, is below 1e-12.
    """
    xp = arrays.namespace(m[0])
    positive = (m[0] > 0) & (m[3] > 0) & (m[5] > 0)
    s, t, u = (1 / xp.sqrt(xp.where(positive, d, xp.ones_like(d))) for d in (m[0], m[3], m[5]))
    a, b, c = m[1] * s * t, m[2] * s * u, m[4] * t * u
    d1 = 1 - a * a
    d1 = xp.where(d1 > 1e-12, d1, xp.full_like(d1, math.nan))
    factor = (c - a * b) / d1
    d2 = 1 - b * b - factor * (c - a * b)
    lengths = xp.sqrt((1 + a * a + b * b) * (1 + a * a + c * c) * (1 + b * b + c * c))
    d2 = xp.where(positive & (d1 * d2 > 1e-12 * lengths), d2, xp.full_like(d2, math.nan))
    last = a * factor - b
    return (
        (1 + a * a / d1 + last * last / d2) * s * s,
        -(a / d1 + last * factor / d2) * s * t,
        last / d2 * s * u,
        (1 / d1 + factor * factor / d2) * t * t,
        -factor / d2 * t * u,
        u * u / d2,
    )


def _times(m: tuple[Any, ...], v: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
    """Multiply symmetric matrices with vectors."""
    return (
        m[0] * v[0] + m[1] * v[1] + m[2] * v[2],
        m[1] * v[0] + m[3] * v[1] + m[4] * v[2],
        m[2] * v[0] + m[4] * v[1] + m[5] * v[2],
    )


def _trace(m: tuple[Any, ...], n: tuple[Any, ...]) -> Any:
    """Return the trace of the product of two symmetric matrices."""
    return m[0] * n[0] + m[3] * n[3] + m[5] * n[5] + 2 * (m[1] * n[1] + m[2] * n[2] + m[4] * n[4])


def _solve(h: Any, k: Any, w: Any, rx: Any, ry: Any, x: Any) -> tuple[Any, tuple[Any, ...]]:
    """Solve weighted least squares, as a step from the x to which the residuals belong. Return x and the inverse normal matrix.

    If the matrix is singular, the inverse is NaN and x is unchanged.
    """
    xp = arrays.namespace(x)
    inverse = _inverse(_moments(w, h, k))
    steps = []
    for r in (rx, ry):
        wr = w * r
        steps.append(xp.stack(_times(inverse, (xp.sum(wr, axis=0), xp.sum(wr * h, axis=0), xp.sum(wr * k, axis=0))), axis=0))
    return x + xp.where(xp.isfinite(inverse[0]), xp.stack(steps, axis=1), xp.zeros_like(x)), inverse


def _without_outliers(
    p: Disks, h: Any, k: Any, w: Any, x: Any, inverse: tuple[Any, ...], limits: tuple[float, float]
) -> tuple[Any, Any, tuple[Any, ...]]:
    """Leave out outliers in several rounds. Return weights, parameters and inverse. Only positions with outliers are fitted again."""
    xp = arrays.namespace(x)
    changed = xp.any(_without_worst(p, h, k, w, x, inverse, limits) != w, axis=0)
    which = xp.nonzero(changed)[0]
    if which.shape[0] == 0:
        return w, x, inverse
    at: Any = lambda a: xp.take(a, which, axis=-1)  # noqa: E731
    few, few_h, few_k, few_w, few_x = Disks(at(p.qx), at(p.qy), at(p.weight), None, None), at(h), at(k), at(w), at(x)
    few_inverse = tuple(at(i) for i in inverse)
    for _ in range(ROUNDS):
        few_w = _without_worst(few, few_h, few_k, few_w, few_x, few_inverse, limits)
        few_x, few_inverse = _solve(few_h, few_k, few_w, *_residuals(few, few_h, few_k, few_x), few_x)
    number = xp.cumulative_sum(xp.astype(changed, xp.int64)) - 1
    number = xp.where(changed, number, xp.zeros_like(number))
    back: Any = lambda new, old: xp.where(changed, xp.take(new, number, axis=-1), old)  # noqa: E731
    return back(few_w, w), back(few_x, x), tuple(back(new, old) for new, old in zip(few_inverse, inverse))


def _without_worst(p: Disks, h: Any, k: Any, w: Any, x: Any, inverse: tuple[Any, ...], limits: tuple[float, float]) -> Any:
    """Set the weights of the worst disks of each position to 0, if they exceed the limits.

    A disk pulls the fit towards itself, which multiplies its residual by 1 − leverage. So each residual is divided by 1 − leverage.
    Otherwise a wrong unscattered disk with ten times the weight of others would make all others look wrong. One gross error also raises
    the residuals of good disks. So disks far below the worst one are tested only after the next fit.
    """
    xp = arrays.namespace(x)
    rx, ry = _residuals(p, h, k, x)
    i00, i01, i02, i11, i12, i22 = inverse
    left = 1 - w * (i00 + h * (2 * i01 + h * i11 + k * (2 * i12)) + k * (2 * i02 + k * i22))
    tested = (w > 0) & (left > 1e-6)  # a disk that alone determines a parameter cannot be tested
    left = xp.where(tested, left, xp.ones_like(left))
    square = xp.where(tested, rx * rx + ry * ry, xp.zeros_like(w)) / left
    excess = xp.minimum(w * square / limits[0], square / left / limits[1])
    worst = xp.max(excess, axis=0)
    return xp.where((excess > 1) & (excess > 0.4 * worst), xp.zeros_like(w), w)


def _scatter(p: Disks, w: Any, rx: Any, ry: Any, regular: Any, least: tuple[int, float]) -> tuple[Any, Any, Any, Any]:
    """Measure the scatter of the disks around their lattices.

    Returns
    -------
    True where there is a fit (n,), rms residual per axis (n,), number of disks (n,), variance of a disk of weight 1 (n,).
    """
    xp = arrays.namespace(w)
    used = w > 0
    count, there = (xp.sum(xp.astype(a, w.dtype), axis=0) for a in (used, p.weight > 0))
    good = regular & (count >= least[0]) & (count >= least[1] * there)
    nan = xp.full_like(count, math.nan)
    square = xp.where(used, rx * rx + ry * ry, xp.zeros_like(w))
    residual = xp.sqrt(xp.sum(square, axis=0) / (2 * xp.where(good & (count > 0), count, nan)))
    unit = xp.sum(w * square, axis=0) / (2 * xp.where(good & (count > 3), count - 3, nan))
    return good, residual, count, unit


def _errors(h: Any, k: Any, w: Any, r: Any, s: Any, inverse: tuple[Any, ...], unit: Any) -> tuple[tuple[Any, ...], Any]:
    """Compute along one axis the covariance of g1 and g2 (11, 12, 21, 22) and half the reduced χ² (NaN without standard errors).

    With a the inverse and v the variances of the disks, the covariance of the parameters is C = a (Σ w² v ρρᵀ) a. If v is u / w, with u
    the variance of weight 1, C is u a. A residual has the variance v − 2 v w ρᵀaρ + ρᵀCρ, which is less than that of its disk.
    """
    xp = arrays.namespace(w)
    if s is None:
        c11, c12, c22 = (unit * inverse[i] for i in (3, 4, 5))
        return (c11, c12, c12, c22), xp.full_like(unit, math.nan)
    used, zero, one = w > 0, xp.zeros_like(w), xp.ones_like(w)
    known = used & xp.isfinite(s) & (s > 0)
    square = xp.where(known, s * s, one)
    spread = xp.where(known, w * w * square, xp.where(used, w * unit, zero))  # w² v
    m = _moments(spread, h, k)
    rows = (inverse[:3], (inverse[1], inverse[3], inverse[4]), (inverse[2], inverse[4], inverse[5]))
    c = tuple(sum(a * b for a, b in zip(rows[i], _times(m, rows[j]))) for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)))
    precision = xp.where(known, 1 / square, zero)
    free = xp.sum(xp.astype(known, w.dtype), axis=0)
    free = free - 2 * _trace(inverse, _moments(xp.where(known, w, zero), h, k)) + _trace(c, _moments(precision, h, k))
    chi2 = xp.sum(r * r * precision, axis=0) / xp.where(free > 0.5, free, xp.full_like(free, math.nan)) / 2
    return (c[3], c[4], c[4], c[5]), chi2
