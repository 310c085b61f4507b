"""Fit disks by the Poisson likelihood (CPU twin), one after the other. Sums over a window are float32; a step takes less than 1 µs."""

from typing import NamedTuple

import numpy as np
from gpu4d.cpu_fallback.pixels import by_address, read_pattern

from gpu4d.bragg.likelihood.poisson_fit import FARTHEST, INSIDE, LEAST, LONGEST, RECENTRE, RING, SHORT_STEP, PoissonFit, steps_of
from gpu4d.compiled import KEEPS_NAN, contiguous, entry, helper, part

LANES = 16  # pixels of a vector: windows are padded to whole vectors, because a rest would take half as long as all others
PIVOT = 1e-6  # of the diagonal: with a smaller pivot the matrix has no inverse


class Window(NamedTuple):
    """Pixels of the window, padded to whole vectors with zeros, which add nothing to sums."""

    pixels: np.ndarray  # (m, 2) int64
    half: int
    inner: np.ndarray  # float32, 1 inside the disk
    ring: np.ndarray  # 1 around it
    u: np.ndarray  # axes from -1 to 1
    v: np.ndarray
    valid: np.ndarray  # (Qx, Qy) bool: where the detector counts; (1, 1) where all does


class Fit(NamedTuple):
    """Work arrays, and the state of the disk that is fitted."""

    plane: np.ndarray  # (Qx, Qy) float32: the pattern
    counts: np.ndarray
    weight: np.ndarray  # 1 where the detector counts
    disk: np.ndarray  # (3, …): template and its slopes at the disk's phase
    state: np.ndarray  # (8,): -, -, a, b, bx, by, cx, cy
    fisher: np.ndarray  # (8, 8), lower triangle
    solution: np.ndarray  # (3, 8): step, and two columns of the inverse


def poisson_fit(patterns, x, y, count, table, pixels, /, mask=None, parameters=6, iterations=None, spacing=0.0):
    iterations = steps_of(parameters, iterations)
    n, most = x.shape
    start, count = np.array([x, y], np.float64, order="C"), np.array(count, np.int64)
    out = np.full((7, n, most), np.nan)
    ok = np.zeros((n, most), bool)
    m, half = len(pixels), -int(pixels[0, 0])
    size = -(-m // LANES) * LANES
    padded = np.zeros((size, 3))
    padded[:m] = pixels
    valid = contiguous(np.ones((1, 1), bool) if mask is None else mask)
    zones = ((padded[:, 2] == zone).astype(np.float32) for zone in (INSIDE, RING))
    axes = ((padded[:, axis] / half).astype(np.float32) for axis in (0, 1))
    window = Window(np.ascontiguousarray(pixels[:, :2], np.int64), half, *zones, *axes, valid)
    shapes = (patterns.shape[1:], size, size, (3, size), 8)
    fit = Fit(*(np.zeros(shape, np.float32) for shape in shapes), np.zeros((8, 8)), np.zeros((3, 8)))
    rows = contiguous(table, np.float32)
    if n:
        _owner, frames = by_address(patterns)
        _fit_all(frames, start, count, rows, window, parameters, iterations, spacing, fit, out, ok)
    return PoissonFit(*out, ok)


@entry(KEEPS_NAN)
def _fit_all(frames, start, count, table, window, parameters, iterations, spacing, fit, out, ok):
    for i in range(count.size):
        found = min(count[i], out.shape[2])
        if found:
            read_pattern(frames, i, fit.plane, fit.plane.shape[1])
        for k in range(found):
            at = out[:, i, k]
            x, y = start[0, i, k], start[1, i, k]
            at[0], at[1] = x, y
            if not _crowded(start[:, i, : count[i]], k, spacing):
                ok[i, k] = _fit(x, y, table, window, parameters, iterations, fit, at)


@helper(KEEPS_NAN)
def _crowded(start, k, spacing):
    for j in range(start.shape[1]):
        dx, dy = start[0, j] - start[0, k], start[1, j] - start[1, k]
        if j != k and dx * dx + dy * dy < spacing * spacing:
            return True
    return False


@part
def _holds(x, y, half, nx, ny):
    return x >= half and y >= half and x + half <= nx - 1 and y + half <= ny - 1


@helper(KEEPS_NAN)
def _fit(startx, starty, table, window, n, iterations, fit, out):
    """Fit one disk, write (x, y, a, b, xx, xy, yy) to `out` if it succeeds, and return whether it did."""
    nx, ny = fit.plane.shape
    half, state, solution = window.half, fit.state, fit.solution
    cx, cy = np.floor(startx + 0.5), np.floor(starty + 0.5)
    if not _holds(cx, cy, half, nx, ny):
        return False
    _take_window(int(cx), int(cy), window, fit)
    _start(window, fit)
    x, y, dx, dy = startx, starty, 0.0, 0.0
    for step_number in range(iterations):
        tx, ty = np.floor(x + 0.5), np.floor(y + 0.5)
        if (abs(x - cx) > RECENTRE or abs(y - cy) > RECENTRE) and _holds(tx, ty, half, nx, ny):
            cx, cy = tx, ty
            _take_window(int(cx), int(cy), window, fit)
        _move_template(x - cx, y - cy, table, fit)
        _sums_of_six(window, fit)
        if n == 8:
            _sums_of_slopes(window, fit)
        wanted = 3 if step_number == iterations - 1 else 1
        if not (_solve(fit.fisher, solution, n, wanted) and np.isfinite(solution[0, 3])):  # the second: a NaN among the counts
            return False
        step = solution[0]
        dx, dy = min(LONGEST, max(-LONGEST, step[0])), min(LONGEST, max(-LONGEST, step[1]))
        x, y = x + dx, y + dy
        for q in range(2, 4):
            state[q] = max(state[q] + step[q], 0.2 * state[q])
        for q in range(4, n):
            state[q] += step[q]
        if not (abs(x - startx) <= FARTHEST and abs(y - starty) <= FARTHEST):
            return False
    xx, xy, yy = solution[1, 0], solution[1, 1], solution[2, 1]
    if not (xx < FARTHEST**2 and yy < FARTHEST**2 and dx * dx <= max(xx, SHORT_STEP**2) and dy * dy <= max(yy, SHORT_STEP**2)):
        return False
    out[0], out[1], out[2], out[3], out[4], out[5], out[6] = x, y, state[2], state[3], xx, xy, yy
    return True


@helper(KEEPS_NAN)
def _take_window(cx, cy, window, fit):
    """Read the counts of the window about (cx, cy), and 1 where the detector counts."""
    pixels, counts, weight, masked = window.pixels, fit.counts, fit.weight, window.valid.size > 1
    for i in range(len(pixels)):
        px, py = cx + pixels[i, 0], cy + pixels[i, 1]
        counts[i], weight[i] = fit.plane[px, py], 1.0
        if masked and not window.valid[px, py]:
            counts[i], weight[i] = 0.0, 0.0


@helper(KEEPS_NAN)
def _start(window, fit):
    """Set amplitude and background from the means inside the disk and around it."""
    counts, weight, inside, around, state = fit.counts, fit.weight, window.inner, window.ring, fit.state
    inner = inner_size = outer = outer_size = np.float32(0)
    for i in range(counts.size):
        inner += counts[i] * inside[i] * weight[i]
        inner_size += inside[i] * weight[i]
        outer += counts[i] * around[i] * weight[i]
        outer_size += around[i] * weight[i]
    inner, outer = inner / max(inner_size, np.float32(1)), outer / max(outer_size, np.float32(1))
    state[:] = 0
    state[3] = max(outer, np.float32(0.05))
    state[2] = max(inner - state[3], np.float32(0.1))


@helper(KEEPS_NAN)
def _move_template(fx, fy, table, fit):
    """Set template and slopes of a disk (fx, fy) px from the window's middle: the nearest phase of the table, moved to first order."""
    phases = table.shape[0] - 1
    p = min(max(int(np.floor((fx + 0.5) * phases + 0.5)), 0), phases)
    q = min(max(int(np.floor((fy + 0.5) * phases + 0.5)), 0), phases)
    dx, dy = np.float32(fx + 0.5 - p / phases), np.float32(fy + 0.5 - q / phases)
    t0, t1, t2 = table[p, q, 0], table[p, q, 1], table[p, q, 2]
    d0, d1, d2 = fit.disk[0], fit.disk[1], fit.disk[2]
    for i in range(len(t0)):
        d0[i] = t0[i] - dx * t1[i] - dy * t2[i]
    for i in range(len(t0)):
        d1[i] = t1[i]
    for i in range(len(t0)):
        d2[i] = t2[i]


@helper(KEEPS_NAN)
def _sums_of_six(window, fit):
    """Sum the rows of x, y, a, b, bx, by: the lower triangle of Σ ∇λ ∇λᵀ / λ, and Σ (I - λ) ∇λ / λ.

    It is one loop that writes to no array, because only such a loop vectorises.
    """
    counts, weight, us, vs = fit.counts, fit.weight, window.u, window.v
    d0, d1, d2 = fit.disk[0], fit.disk[1], fit.disk[2]
    a, b, bx, by, cx, cy = fit.state[2], fit.state[3], fit.state[4], fit.state[5], fit.state[6], fit.state[7]
    least, floor, zero = np.float32(0.05) * a, np.float32(LEAST), np.float32(0)
    xx = yx = yy = ax = ay = aa = kx = ky = ka = kk = ux = uy = ua = uk = uu = vx = vy = va = vk = vu = vv = zero
    gx = gy = ga = gk = gu = gv = zero
    for i in range(counts.size):
        u, v, disk = us[i], vs[i], d0[i]
        height = max(a + cx * u + cy * v, least)
        x, y = -height * d1[i], -height * d2[i]
        model = max(b + bx * u + by * v + height * disk, floor)
        w = weight[i] / model
        r = (counts[i] - model) * w
        wx, wy, wa, wu, wv = x * w, y * w, disk * w, u * w, v * w
        xx += wx * x
        yx += wx * y
        yy += wy * y
        ax += wx * disk
        ay += wy * disk
        aa += wa * disk
        kx += wx
        ky += wy
        ka += wa
        kk += w
        ux += wx * u
        uy += wy * u
        ua += wa * u
        uk += wu
        uu += wu * u
        vx += wx * v
        vy += wy * v
        va += wa * v
        vk += wv
        vu += wu * v
        vv += wv * v
        gx += r * x
        gy += r * y
        ga += r * disk
        gk += r
        gu += r * u
        gv += r * v
    f, g = fit.fisher, fit.solution[0]
    f[0, 0] = xx
    f[1, 0], f[1, 1] = yx, yy
    f[2, 0], f[2, 1], f[2, 2] = ax, ay, aa
    f[3, 0], f[3, 1], f[3, 2], f[3, 3] = kx, ky, ka, kk
    f[4, 0], f[4, 1], f[4, 2], f[4, 3], f[4, 4] = ux, uy, ua, uk, uu
    f[5, 0], f[5, 1], f[5, 2], f[5, 3], f[5, 4], f[5, 5] = vx, vy, va, vk, vu, vv
    g[0], g[1], g[2], g[3], g[4], g[5] = gx, gy, ga, gk, gu, gv


@helper(KEEPS_NAN)
def _sums_of_slopes(window, fit):
    """Sum the rows of cx and cy, whose derivatives are u D and v D."""
    counts, weight, us, vs = fit.counts, fit.weight, window.u, window.v
    d0, d1, d2 = fit.disk[0], fit.disk[1], fit.disk[2]
    a, b, bx, by, cx, cy = fit.state[2], fit.state[3], fit.state[4], fit.state[5], fit.state[6], fit.state[7]
    least, floor, zero = np.float32(0.05) * a, np.float32(LEAST), np.float32(0)
    px = py = pa = pk = pu = pv = pp = qx = qy = qa = qk = qu = qv = qp = qq = gp = gq = zero
    for i in range(counts.size):
        u, v, disk = us[i], vs[i], d0[i]
        height = max(a + cx * u + cy * v, least)
        x, y = -height * d1[i], -height * d2[i]
        model = max(b + bx * u + by * v + height * disk, floor)
        w = weight[i] / model
        r = (counts[i] - model) * w
        p, q = u * disk, v * disk
        wp, wq = p * w, q * w
        px += wp * x
        py += wp * y
        pa += wp * disk
        pk += wp
        pu += wp * u
        pv += wp * v
        pp += wp * p
        qx += wq * x
        qy += wq * y
        qa += wq * disk
        qk += wq
        qu += wq * u
        qv += wq * v
        qp += wq * p
        qq += wq * q
        gp += r * p
        gq += r * q
    f, g = fit.fisher, fit.solution[0]
    f[6, 0], f[6, 1], f[6, 2], f[6, 3], f[6, 4], f[6, 5], f[6, 6] = px, py, pa, pk, pu, pv, pp
    f[7, 0], f[7, 1], f[7, 2], f[7, 3], f[7, 4], f[7, 5], f[7, 6], f[7, 7] = qx, qy, qa, qk, qu, qv, qp, qq
    g[6], g[7] = gp, gq


@helper(KEEPS_NAN)
def _solve(a, x, n, columns):
    """Solve by Cholesky's method in place, and return whether `a` has an inverse.

    x[0] is the gradient and becomes the step. With `columns` = 3, x[1] and x[2] become the first two columns of the inverse.
    """
    for i in range(n):
        diagonal = a[i, i]
        for j in range(i + 1):
            s = a[i, j]
            for k in range(j):
                s -= a[i, k] * a[j, k]
            if i > j:
                a[i, j] = s * a[j, j]
            elif s > PIVOT * diagonal:
                a[i, i] = 1 / np.sqrt(s)
            else:
                return False
    for c in range(columns):
        if c:
            x[c, :] = 0
            x[c, c - 1] = 1
        for i in range(n):
            s = x[c, i]
            for k in range(i):
                s -= a[i, k] * x[c, k]
            x[c, i] = s * a[i, i]
        for i in range(n - 1, -1, -1):
            s = x[c, i]
            for k in range(i + 1, n):
                s -= a[k, i] * x[c, k]
            x[c, i] = s * a[i, i]
    return True
