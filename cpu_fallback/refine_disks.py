"""Sub-pixel positions of maxima on the map itself, and their standard errors; float32.

Trigonometric interpolation is separable: its exact value at a point is d(x) · C · d(y) with C the map and d the periodic sinc,
tabulated at 1/64 px with three derivatives. One look at the map gives all derivatives to third order at the table's nearest point:
the maximum of that cubic, and the Hessian there, are those of the map, to 2e-5 px, where they lie within a twentieth of a pixel.
"""

from typing import NamedTuple

import numpy as np
from gpu4d.cpu_fallback.aligned import zeros
from gpu4d.cpu_fallback.lanes import LANES
from gpu4d.cpu_fallback.map_lanes import four_row_sums, window_sums
from gpu4d.cpu_fallback.plane_transform import padded
from numba import njit

from gpu4d.bragg.refine import CLIMB, REACH, sinc_table

PHASES = 64  # table entries per pixel
NEAR = 0.05  # px from its centre to which a cubic is trusted
LOOKS = 3  # at the map, while the maximum lies farther
STEPS = 3  # of Newton, on the cubic
MODES = {None: 0, "parabola": 1, "correlation": 2, "upsample": 3}
WHOLE, PARABOLA, SUMMIT, WINDOW = range(4)

_jit = njit(nogil=True, cache=True, fastmath=True)  # patterns with a NaN never come this far


class Sincs(NamedTuple):
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


class Desk(NamedTuple):
    """Scratch of one thread."""

    sums: np.ndarray  # (4, stride): the map along one line
    weights: np.ndarray  # (4, nx)
    patch: np.ndarray  # (2 hx + 1, width): counts about a disk
    jet: np.ndarray  # (4, 4): derivatives of the map
    hessian: np.ndarray  # (3,): xx, xy, yy at the last maximum
    moments: np.ndarray  # (4,): of the counts about the last pixel


def sincs(nx: int, ny: int, mode: str | None, upsample: int) -> Sincs:
    fine = upsample if mode == "upsample" else 1
    return Sincs(sinc_table(nx, PHASES, 4), sinc_table(ny, PHASES, 4), sinc_table(nx, fine, 1), sinc_table(ny, fine, 1))


def moments_of(box: np.ndarray) -> Moments:
    """From a box (4, 2 hx + 1, 2 hy + 1) about the centre."""
    _, rows, columns = box.shape
    weights = zeros(4, rows, -(-columns // LANES) * LANES)
    weights[:, :, :columns] = box
    return Moments(weights, rows // 2, columns // 2)


def desk(nx: int, ny: int, moments: Moments) -> Desk:
    room = ((4, padded(ny)), (4, nx), moments.weights.shape[1:], (4, 4), (3,), (4,))
    return Desk(*(zeros(*shape) for shape in room))


def refine_disks(maps, px, py, count, /, mode="correlation", upsample=16, climb=False):
    n, nx, ny = maps.shape
    table = np.full((n, 5, px.shape[1]), np.nan)
    tables = sincs(nx, ny, mode, upsample)
    at = desk(nx, ny, moments_of(np.zeros((4, 1, 1))))
    plane = zeros(nx, padded(ny))
    for i in range(n):
        plane[:, :ny] = maps[i]
        found = min(int(count[i]), px.shape[1])
        table[i, 0, :found], table[i, 1, :found] = px[i, :found], py[i, :found]
        _refine_all(plane, ny, found, MODES[mode], climb, tables, table[i], at)
    return table[:, 0].copy(), table[:, 1].copy(), table[:, 2].copy()


def peak_errors(counts, cross, box, x, y, count, /, grid=False):
    n, nx, ny = cross.shape
    table = np.full((n, 5, x.shape[1]), np.nan)
    moments, tables = moments_of(np.asarray(box)), sincs(nx, ny, "correlation", 1)
    at = desk(nx, ny, moments)
    planes = zeros(2, nx, padded(ny))
    for i in range(n):
        planes[0, :, :ny], planes[1, :, :ny] = np.where(counts[i] > 0, counts[i], 0), cross[i]
        table[i, 0], table[i, 1] = x[i], y[i]
        _errors_all(planes[0], planes[1], ny, min(int(count[i]), x.shape[1]), grid, moments, tables, table[i], at)
    return table[:, 3].copy(), table[:, 4].copy()


@_jit
def _refine_all(plane, ny, found, mode, climb, tables, row, desk):
    for k in range(found):
        refine(plane, ny, int(row[0, k]), int(row[1, k]), mode, climb, tables, row, k, desk)


@_jit
def _errors_all(counts, cross, ny, found, grid, moments, tables, row, desk):
    for k in range(found):
        curvature(cross, ny, row[0, k], row[1, k], tables, desk)
        errors(counts, ny, moments, grid, row, k, desk)


@_jit
def refine(c, ny, px, py, mode, climb, tables, row, k, desk):
    """Position and height of the maximum at or near pixel (px, py) into column k of `row`; its Hessian on the desk for SUMMIT."""
    nx = c.shape[0]
    if mode == WHOLE:
        row[0, k], row[1, k], row[2, k] = px, py, c[px % nx, py % ny]
        return
    if climb:
        px, py = _uphill(c, ny, px, py)
    x, y, height = _parabola(c, ny, px, py)
    if mode == SUMMIT:
        sx, sy = x, y
        x, y, height = _summit(c, ny, x, y, tables, desk)
        if abs(x - px) > REACH or abs(y - py) > REACH:
            x, y = sx, sy
            height = curvature(c, ny, x, y, tables, desk)
    elif mode == WINDOW:
        x, y, height = _window(c, ny, x, y, tables, desk)
    row[0, k], row[1, k], row[2, k] = x, y, height


@_jit
def _uphill(c, ny, px, py):
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


@_jit
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


@_jit
def _newton(gx, gy, hxx, hxy, hyy):
    """The step to the maximum of a quadratic, at most half a pixel; none, and False, where it has none."""
    det = hxx * hyy - hxy * hxy
    if not (det > 0 and hxx < 0):
        return 0.0, 0.0, False
    return min(0.5, max(-0.5, -(hyy * gx - hxy * gy) / det)), min(0.5, max(-0.5, -(hxx * gy - hxy * gx) / det)), True


@_jit
def _look(c, ny, x, y, tables, desk):
    """Derivatives of the interpolation to third order at the table's point nearest to (x, y), and that point."""
    nx, stride = c.shape
    tx, ty = tables.x, tables.y
    qx, qy = int(np.floor(x * PHASES + 0.5)), int(np.floor(y * PHASES + 0.5))
    weights = tx[0, qx % PHASES, nx - (qx // PHASES) % nx :].ctypes.data
    four_row_sums(c.ctypes.data, stride, nx, stride, weights, 2 * nx * PHASES, desk.sums.ctypes.data)
    o = ny - (qy // PHASES) % ny
    for b in range(4):
        along = ty[b, qy % PHASES, o : o + ny]
        for a in range(4 - b):
            line = desk.sums[a, :ny]
            total = np.float32(0)
            for j in range(ny):
                total += line[j] * along[j]
            desk.jet[a, b] = total
    return qx / PHASES, qy / PHASES


@_jit
def _cubic(jet, dx, dy):
    """Value, gradient and Hessian (dx, dy) from where the derivatives were taken."""
    hxx = jet[2, 0] + dx * jet[3, 0] + dy * jet[2, 1]
    hxy = jet[1, 1] + dx * jet[2, 1] + dy * jet[1, 2]
    hyy = jet[0, 2] + dx * jet[1, 2] + dy * jet[0, 3]
    # by halves of the step: the gradient of a cubic is the mean of its Hessian along the way
    mxx, mxy, myy = 0.5 * (hxx + jet[2, 0]), 0.5 * (hxy + jet[1, 1]), 0.5 * (hyy + jet[0, 2])
    gx, gy = jet[1, 0] + dx * mxx + dy * mxy, jet[0, 1] + dx * mxy + dy * myy
    third = dx * dx * dx * jet[3, 0] + 3 * dx * dx * dy * jet[2, 1] + 3 * dx * dy * dy * jet[1, 2] + dy * dy * dy * jet[0, 3]
    second = dx * dx * jet[2, 0] + 2 * dx * dy * jet[1, 1] + dy * dy * jet[0, 2]
    return jet[0, 0] + dx * jet[1, 0] + dy * jet[0, 1] + second / 2 + third / 6, gx, gy, hxx, hxy, hyy


@_jit
def _summit(c, ny, x, y, tables, desk):
    """The maximum near (x, y) and its height; (x, y) where the map bends upwards there."""
    height = 0.0
    for _ in range(LOOKS):
        cx, cy = _look(c, ny, x, y, tables, desk)
        dx = dy = 0.0
        ok = True
        for _ in range(STEPS):
            _, gx, gy, hxx, hxy, hyy = _cubic(desk.jet, dx, dy)
            sx, sy, ok = _newton(gx, gy, hxx, hxy, hyy)
            if not ok:
                break
            dx, dy = min(0.5, max(-0.5, dx + sx)), min(0.5, max(-0.5, dy + sy))
        if not ok and dx == 0.0 and dy == 0.0:
            dx, dy = x - cx, y - cy
        x, y = cx + dx, cy + dy
        height = _bent(desk, dx, dy)
        if abs(dx) < NEAR and abs(dy) < NEAR:
            break
    return x, y, height


@_jit
def curvature(c, ny, x, y, tables, desk):
    """The Hessian of the interpolation at (x, y) onto the desk; the height there."""
    cx, cy = _look(c, ny, x, y, tables, desk)
    return _bent(desk, x - cx, y - cy)


@_jit
def _bent(desk, dx, dy):
    value, _, _, desk.hessian[0], desk.hessian[1], desk.hessian[2] = _cubic(desk.jet, dx, dy)
    return value


@_jit
def _window(c, ny, x, y, tables, desk):
    """Samples at 1/upsample px within ±0.75 px about the start, the largest, a parabola through its neighbours."""
    nx, stride = c.shape
    fx, fy = tables.fine_x[0], tables.fine_y[0]
    upsample = fx.shape[0]
    half = -((-3 * upsample) // 4) + 1
    side = 2 * half + 1
    cx, cy = int(np.floor(x * upsample + 0.5)), int(np.floor(y * upsample + 0.5))
    window = np.empty((side, side), np.float32)
    for first in range(0, side, 4):
        for o in range(4):
            q = cx - half + first + o
            start = nx - (q // upsample) % nx
            weights, samples = desk.weights[o], fx[q % upsample, start : start + nx]
            for i in range(nx):
                weights[i] = samples[i]
        four_row_sums(c.ctypes.data, stride, nx, stride, desk.weights.ctypes.data, nx, desk.sums.ctypes.data)
        for o in range(min(4, side - first)):
            for b in range(side):
                q = cy - half + b
                start = ny - (q // upsample) % ny
                along, line = fy[q % upsample, start : start + ny], desk.sums[o, :ny]
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


@_jit
def moment_sums(x, ny, px, py, moments, desk):
    """Σ x(p + d) times K², Kx², Kx Ky, Ky² (d) about pixel p onto the desk; the detector wraps round."""
    nx, stride = x.shape
    rows, width = desk.patch.shape
    top, left, used = px - moments.hx, py - moments.hy, 2 * moments.hy + 1
    weights, out = moments.weights.ctypes.data, desk.moments.ctypes.data
    if top >= 0 and top + rows <= nx and left >= 0 and left + used <= ny and left + width <= stride:
        window_sums(x[top, left:].ctypes.data, stride, rows, width, weights, out)
        return
    start = left % ny
    before = min(used, ny - start)
    for a in range(rows):
        source, target = x[(top + a) % nx], desk.patch[a]
        for b in range(before):
            target[b] = source[start + b]
        for b in range(before, used):
            target[b] = source[b - before]
    window_sums(desk.patch.ctypes.data, width, rows, width, weights, out)


@_jit
def errors(x, ny, moments, grid, row, k, desk):
    """Cov = H⁻¹ G H⁻¹: the Hessian on the desk and the Poisson noise of the map's gradient."""
    moment_sums(x, ny, int(np.rint(row[0, k])), int(np.rint(row[1, k])), moments, desk)
    gxx, gxy, gyy = np.float64(desk.moments[1]), np.float64(desk.moments[2]), np.float64(desk.moments[3])
    hxx, hxy, hyy = np.float64(desk.hessian[0]), np.float64(desk.hessian[1]), np.float64(desk.hessian[2])
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
