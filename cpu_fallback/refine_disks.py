"""Refine maxima to a fraction of a pixel, and compute their standard errors, in float32 (CPU twins of `refine_disks`, `peak_errors`).

Trigonometric interpolation is separable. Its exact value at a point is d(x) · C · d(y), with C the map and d the periodic sinc.
d is tabulated at 1/64 px with three derivatives. One pass over the map gives all derivatives to third order at the table's point
nearest to a position. They define a cubic. If its maximum lies within a twentieth of a pixel of that point, it equals the maximum
of the map to 2e-5 px, and its Hessian is that of the map.
"""

from typing import NamedTuple

import numpy as np
from gpu4d.cpu_fallback.aligned import zeros
from gpu4d.cpu_fallback.lanes import LANES
from gpu4d.cpu_fallback.map_lanes import four_row_sums, window_sum, window_sums
from gpu4d.cpu_fallback.plane_transform import padded

from gpu4d.bragg.refine import CLIMB, REACH, sinc_table
from gpu4d.compiled import ALL, entry, helper, part

PHASES = 64  # table entries per pixel
CUBIC_REACH = 0.05  # px: a cubic is used no farther from the point of its derivatives
MOST_EXPANSIONS = 3  # passes over the map for one maximum, where each ends farther away than that
NEWTON_STEPS = 3  # on each cubic
MODES = {None: 0, "parabola": 1, "correlation": 2, "upsample": 3}
WHOLE_PIXEL, PARABOLA, EXACT, WINDOW = range(4)


class SincTables(NamedTuple):
    """Weights of a map's samples for points between them."""

    x: np.ndarray  # (4, PHASES, 2 nx) of `sinc_table`
    y: np.ndarray
    fine_x: np.ndarray  # (1, upsample, 2 nx)
    fine_y: np.ndarray


class Moments(NamedTuple):
    """K², Kx², Kx Ky, Ky² about the template's centre, rows padded to whole vectors."""

    weights: np.ndarray  # (4, 2 hx + 1, width) float32
    hx: int
    hy: int


class RefineScratch(NamedTuple):
    """Work arrays of one thread."""

    sums: np.ndarray  # (4, stride): the map, summed over its rows with four weights
    weights: np.ndarray  # (4, nx)
    patch: np.ndarray  # (2 hx + 1, width): counts about a disk
    derivatives: np.ndarray  # (4, 4): derivatives of the map
    hessian: np.ndarray  # (3,): xx, xy, yy at the last maximum
    moments: np.ndarray  # (4,): of the counts about the last pixel


def sinc_tables(nx: int, ny: int, mode: str | None, upsample: int) -> SincTables:
    fine = upsample if mode == "upsample" else 1
    return SincTables(sinc_table(nx, PHASES, 4), sinc_table(ny, PHASES, 4), sinc_table(nx, fine, 1), sinc_table(ny, fine, 1))


def moments_of(box: np.ndarray) -> Moments:
    """Make moments from a box (4, 2 hx + 1, 2 hy + 1) about the centre."""
    _, rows, columns = box.shape
    weights = zeros(4, rows, -(-columns // LANES) * LANES)
    weights[:, :, :columns] = box
    return Moments(weights, rows // 2, columns // 2)


def refine_scratch(nx: int, ny: int, moments: Moments) -> RefineScratch:
    shapes = ((4, padded(ny)), (4, nx), moments.weights.shape[1:], (4, 4), (3,), (4,))
    return RefineScratch(*(zeros(*shape) for shape in shapes))


def window_samples(mode: int, upsample: int) -> np.ndarray | None:
    """Return a work array for the samples of WINDOW. For the other modes it is None: code for samples is not compiled."""
    half = -((-3 * upsample) // 4) + 1  # samples within 0.75 px, and their neighbours
    return np.empty((2 * half + 1, 2 * half + 1), np.float32) if mode == WINDOW else None


def refine_disks(maps, px, py, count, /, mode="correlation", upsample=16, climb=False):
    n, nx, ny = maps.shape
    table = np.full((n, 5, px.shape[1]), np.nan)
    tables = sinc_tables(nx, ny, mode, upsample)
    scratch = refine_scratch(nx, ny, moments_of(np.zeros((4, 1, 1))))
    plane, samples = zeros(nx, padded(ny)), window_samples(MODES[mode], upsample)
    for i in range(n):
        plane[:, :ny] = maps[i]
        found = min(int(count[i]), px.shape[1])
        table[i, 0, :found], table[i, 1, :found] = px[i, :found], py[i, :found]
        _refine_all(plane, ny, found, MODES[mode], samples, climb, tables, table[i], scratch)
    return table[:, 0].copy(), table[:, 1].copy(), table[:, 2].copy()


def peak_errors(counts, cross, box, x, y, count, /, grid=False):
    n, nx, ny = cross.shape
    table = np.full((n, 5, x.shape[1]), np.nan)
    moments, tables = moments_of(np.asarray(box)), sinc_tables(nx, ny, "correlation", 1)
    scratch = refine_scratch(nx, ny, moments)
    planes = zeros(2, nx, padded(ny))
    for i in range(n):
        planes[0, :, :ny], planes[1, :, :ny] = np.where(counts[i] > 0, counts[i], 0), cross[i]
        table[i, 0], table[i, 1] = x[i], y[i]
        _errors_all(planes[0], planes[1], ny, min(int(count[i]), x.shape[1]), grid, moments, tables, table[i], scratch)
    return table[:, 3].copy(), table[:, 4].copy()


@entry(ALL)
def _refine_all(plane, ny, found, mode, samples, climb, tables, row, scratch):
    for k in range(found):
        refine(plane, ny, int(row[0, k]), int(row[1, k]), mode, samples, climb, tables, row, k, scratch)


@entry(ALL)
def _errors_all(counts, cross, ny, found, grid, moments, tables, row, scratch):
    for k in range(found):
        curvature(cross, ny, row[0, k], row[1, k], tables, scratch)
        errors(counts, ny, moments, grid, row, k, scratch)


@helper(ALL)
def refine(c, ny, px, py, mode, samples, climb, tables, row, k, scratch):
    """Write position and height of the maximum at or near pixel (px, py) to column k of `row`; for EXACT its Hessian to `scratch`.

    `samples` is from `window_samples`.
    """
    nx = c.shape[0]
    if mode == WHOLE_PIXEL:
        row[0, k], row[1, k], row[2, k] = px, py, c[px % nx, py % ny]
        return
    if climb:
        px, py = _climb(c, ny, px, py)
    x, y, height = _parabola(c, ny, px, py)
    if mode == EXACT:
        sx, sy = x, y
        x, y, height = _exact_maximum(c, ny, x, y, tables, scratch)
        if abs(x - px) > REACH or abs(y - py) > REACH:
            x, y = sx, sy
            height = curvature(c, ny, x, y, tables, scratch)
    if samples is not None:
        x, y, height = _window(c, ny, x, y, tables, samples, scratch)
    row[0, k], row[1, k], row[2, k] = x, y, height


@helper(ALL)
def _climb(c, ny, px, py):
    nx = c.shape[0]
    for _ in range(CLIMB):
        bi, bj, best = px, py, c[px % nx, py % ny]
        for dx in range(-1, 2):
            for dy in range(-1, 2):
                v = c[(px + dx) % nx, (py + dy) % ny]
                if v > best:
                    bi, bj, best = px + dx, py + dy, v
        if bi == px and bj == py:
            break
        px, py = bi, bj
    return px, py


@helper(ALL)
def _parabola(c, ny, px, py):
    nx = c.shape[0]
    u, d, left, right = (px - 1) % nx, (px + 1) % nx, (py - 1) % ny, (py + 1) % ny
    i, j = px % nx, py % ny
    gx, gy = 0.5 * (c[d, j] - c[u, j]), 0.5 * (c[i, right] - c[i, left])
    hxx, hyy = c[d, j] + c[u, j] - 2.0 * c[i, j], c[i, right] + c[i, left] - 2.0 * c[i, j]
    hxy = 0.25 * (c[d, right] + c[u, left] - c[d, left] - c[u, right])
    dx, dy, _ = _newton(gx, gy, hxx, hxy, hyy)
    height = c[i, j] + gx * dx + gy * dy + 0.5 * (hxx * dx * dx + 2 * hxy * dx * dy + hyy * dy * dy)
    return px + dx, py + dy, height


@part
def _newton(gx, gy, hxx, hxy, hyy):
    """Return the step to the maximum of a quadratic, at most half a pixel along each axis, and whether it has a maximum."""
    det = hxx * hyy - hxy * hxy
    if not (det > 0 and hxx < 0):
        return 0.0, 0.0, False
    return min(0.5, max(-0.5, -(hyy * gx - hxy * gy) / det)), min(0.5, max(-0.5, -(hxx * gy - hxy * gx) / det)), True


@helper(ALL)
def _expand(c, ny, x, y, tables, scratch):
    """Write the derivatives of the interpolation to third order, at the table's point nearest to (x, y), and return that point."""
    nx, stride = c.shape
    tx, ty = tables.x, tables.y
    qx, qy = int(np.floor(x * PHASES + 0.5)), int(np.floor(y * PHASES + 0.5))
    weights = tx[0, qx % PHASES, nx - (qx // PHASES) % nx :].ctypes.data
    four_row_sums(c.ctypes.data, stride, nx, stride, weights, 2 * nx * PHASES, scratch.sums.ctypes.data)
    o = ny - (qy // PHASES) % ny
    for b in range(4):
        along = ty[b, qy % PHASES, o : o + ny]
        for a in range(4 - b):
            line = scratch.sums[a, :ny]
            total = np.float32(0)
            for j in range(ny):
                total += line[j] * along[j]
            scratch.derivatives[a, b] = total
    return qx / PHASES, qy / PHASES


@helper(ALL)
def _cubic(d, dx, dy):
    """Return value, gradient and Hessian of the cubic with derivatives d (4, 4), at (dx, dy) from the point of the derivatives."""
    hxx = d[2, 0] + dx * d[3, 0] + dy * d[2, 1]
    hxy = d[1, 1] + dx * d[2, 1] + dy * d[1, 2]
    hyy = d[0, 2] + dx * d[1, 2] + dy * d[0, 3]
    # The gradient changes by the step times the mean Hessian along it, which for a cubic is the mean of both ends.
    mxx, mxy, myy = 0.5 * (hxx + d[2, 0]), 0.5 * (hxy + d[1, 1]), 0.5 * (hyy + d[0, 2])
    gx, gy = d[1, 0] + dx * mxx + dy * mxy, d[0, 1] + dx * mxy + dy * myy
    third = dx * dx * dx * d[3, 0] + 3 * dx * dx * dy * d[2, 1] + 3 * dx * dy * dy * d[1, 2] + dy * dy * dy * d[0, 3]
    second = dx * dx * d[2, 0] + 2 * dx * dy * d[1, 1] + dy * dy * d[0, 2]
    return d[0, 0] + dx * d[1, 0] + dy * d[0, 1] + second / 2 + third / 6, gx, gy, hxx, hxy, hyy


@helper(ALL)
def _exact_maximum(c, ny, x, y, tables, scratch):
    """Return the maximum near (x, y) and its height; (x, y) itself where the map has no maximum near it."""
    height = 0.0
    for _ in range(MOST_EXPANSIONS):
        cx, cy = _expand(c, ny, x, y, tables, scratch)
        dx = dy = 0.0
        ok = True
        for _ in range(NEWTON_STEPS):
            _, gx, gy, hxx, hxy, hyy = _cubic(scratch.derivatives, dx, dy)
            sx, sy, ok = _newton(gx, gy, hxx, hxy, hyy)
            if not ok:
                break
            dx, dy = min(0.5, max(-0.5, dx + sx)), min(0.5, max(-0.5, dy + sy))
        if not ok and dx == 0.0 and dy == 0.0:
            dx, dy = x - cx, y - cy
        x, y = cx + dx, cy + dy
        height = _store_hessian(scratch, dx, dy)
        if abs(dx) < CUBIC_REACH and abs(dy) < CUBIC_REACH:
            break
    return x, y, height


@helper(ALL)
def curvature(c, ny, x, y, tables, scratch):
    """Write the Hessian of the interpolation at (x, y) to `scratch`, and return the height there."""
    cx, cy = _expand(c, ny, x, y, tables, scratch)
    return _store_hessian(scratch, x - cx, y - cy)


@part
def _store_hessian(scratch, dx, dy):
    value, _, _, scratch.hessian[0], scratch.hessian[1], scratch.hessian[2] = _cubic(scratch.derivatives, dx, dy)
    return value


@helper(ALL)
def _window(c, ny, x, y, tables, window, scratch):
    """Return the maximum of a parabola through the neighbours of the largest sample, of samples every 1/upsample px within ±0.75 px."""
    nx, stride = c.shape
    fx, fy = tables.fine_x[0], tables.fine_y[0]
    upsample = fx.shape[0]
    side = window.shape[0]
    half = side // 2
    cx, cy = int(np.floor(x * upsample + 0.5)), int(np.floor(y * upsample + 0.5))
    for first in range(0, side, 4):
        for o in range(4):
            q = cx - half + first + o
            start = nx - (q // upsample) % nx
            weights, line = scratch.weights[o], fx[q % upsample, start : start + nx]
            for i in range(nx):
                weights[i] = line[i]
        four_row_sums(c.ctypes.data, stride, nx, stride, scratch.weights.ctypes.data, nx, scratch.sums.ctypes.data)
        for o in range(min(4, side - first)):
            for b in range(side):
                q = cy - half + b
                start = ny - (q // upsample) % ny
                along, line = fy[q % upsample, start : start + ny], scratch.sums[o, :ny]
                total = np.float32(0)
                for j in range(ny):
                    total += line[j] * along[j]
                window[first + o, b] = total
    bi, bj = 1, 1
    for a in range(1, side - 1):
        for b in range(1, side - 1):
            if window[a, b] > window[bi, bj]:
                bi, bj = a, b
    wx, wy, height = _parabola(window, side, bi, bj)
    return (cx - half + wx) / upsample, (cy - half + wy) / upsample, height


@helper(ALL)
def moment_sums(x, ny, px, py, moments, scratch):
    """Write the sums over d of x(p + d) times K², Kx², Kx Ky, Ky² (d) to `scratch`. The detector is periodic."""
    counts, stride = _counts_about(x, ny, px, py, moments, scratch)
    rows, width = scratch.patch.shape
    window_sums(counts, stride, rows, width, moments.weights.ctypes.data, scratch.moments.ctypes.data)


@helper(ALL)
def variance_at(x, ny, px, py, moments, scratch):
    """Return the sum over d of x(p + d) K²(d), the variance of the map from the counts: the first of `moment_sums` alone."""
    counts, stride = _counts_about(x, ny, px, py, moments, scratch)
    rows, width = scratch.patch.shape
    window_sum(counts, stride, rows, width, moments.weights.ctypes.data, scratch.moments.ctypes.data)
    return max(scratch.moments[0], np.float32(0))


@helper(ALL)
def _counts_about(x, ny, px, py, moments, scratch):
    """Return address and stride of the window of x about p. Where it crosses the border, it is copied to `scratch`."""
    nx, stride = x.shape
    rows, width = scratch.patch.shape
    top, left, used = px - moments.hx, py - moments.hy, 2 * moments.hy + 1
    if top >= 0 and top + rows <= nx and left >= 0 and left + used <= ny and left + width <= stride:
        return x[top, left:].ctypes.data, stride
    start = left % ny
    before = min(used, ny - start)
    for a in range(rows):
        source, target = x[(top + a) % nx], scratch.patch[a]
        for b in range(before):
            target[b] = source[start + b]
        for b in range(before, used):
            target[b] = source[b - before]
    return scratch.patch.ctypes.data, width


@helper(ALL)
def errors(x, ny, moments, grid, row, k, scratch):
    """Write standard errors to rows 3 and 4: Cov = H⁻¹ G H⁻¹, with the Hessian of `scratch` and G the Poisson noise of the gradient."""
    moment_sums(x, ny, int(np.rint(row[0, k])), int(np.rint(row[1, k])), moments, scratch)
    gxx, gxy, gyy = np.float64(scratch.moments[1]), np.float64(scratch.moments[2]), np.float64(scratch.moments[3])
    hxx, hxy, hyy = np.float64(scratch.hessian[0]), np.float64(scratch.hessian[1]), np.float64(scratch.hessian[2])
    row[3, k] = row[4, k] = np.nan
    det = hxx * hyy - hxy * hxy
    if not (det > 0 and hxx < 0):
        return
    a, b, c = hyy / det, -hxy / det, hxx / det
    vx = a * (a * gxx + b * gxy) + b * (a * gxy + b * gyy)
    vy = b * (b * gxx + c * gxy) + c * (b * gxy + c * gyy)
    pixel = 1.0 / 12.0 if grid else 0.0
    if vx > 0:
        row[3, k] = np.sqrt(vx + pixel)
    if vy > 0:
        row[4, k] = np.sqrt(vy + pixel)
