"""A disk at a time, float32 sums over the pixels of its window: two microseconds a disk."""

import numpy as np
from numba import njit

from gpu4d.bragg.poisson_fit import FARTHEST, INSIDE, LEAST, LONGEST, RECENTRE, RING, SETTLED, PoissonFit, check_parameters

LANES = 32  # sums over whole vectors: what is left over would be as slow as half of the rest
PIVOT = 1e-6  # of the diagonal: a smaller one is a matrix without an inverse

_jit = njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "arcp", "nsz"})  # a NaN among the counts keeps its meaning


def poisson_fit(patterns, x, y, count, table, pixels, /, mask=None, parameters=6, iterations=3, spacing=0.0):
    check_parameters(parameters, iterations)
    n, most = x.shape
    start = np.stack([x, y]).astype(np.float64)
    out = np.full((7, n, most), np.nan)
    ok = np.zeros((n, most), bool)
    m = len(pixels)
    window = np.ascontiguousarray(pixels[:, :2], np.int64)
    half = -int(pixels[0, 0])
    zones = (pixels[:, 2] == np.array([[INSIDE], [RING]])).astype(np.float32)
    valid = np.ones((1, 1), bool) if mask is None else np.ascontiguousarray(mask)
    rows = np.ascontiguousarray(table, np.float32)
    scratch = np.zeros((parameters + 5, -(-m // LANES) * LANES), np.float32)  # behind m all is zero, and adds nothing
    scratch[3] = 1
    if parameters > 4:
        scratch[4:6, :m] = pixels[:, :2].T / half
    _fit_all(patterns, start, count, rows, window, half, zones, valid, mask is not None, parameters, iterations, spacing, scratch, out, ok)
    return PoissonFit(*out, ok)


@_jit
def _fit_all(patterns, start, count, table, window, half, zones, valid, masked, parameters, iterations, spacing, scratch, out, ok):
    state = np.empty(8, np.float32)
    fisher = np.empty((parameters, parameters))
    solution = np.empty((3, parameters))
    for i in range(patterns.shape[0]):
        for k in range(min(count[i], out.shape[2])):
            at = out[:, i, k]
            x, y = start[0, i, k], start[1, i, k]
            at[0], at[1] = x, y
            if _crowded(start[:, i, : count[i]], k, spacing):
                continue
            ok[i, k] = _fit(
                patterns[i], x, y, table, window, half, zones, valid, masked, parameters, iterations, scratch, state, fisher, solution, at
            )


@_jit
def _crowded(start, k, spacing):
    for j in range(start.shape[1]):
        dx, dy = start[0, j] - start[0, k], start[1, j] - start[1, k]
        if j != k and dx * dx + dy * dy < spacing * spacing:
            return True
    return False


@_jit
def _holds(x, y, half, nx, ny):
    return x >= half and y >= half and x + half <= nx - 1 and y + half <= ny - 1


@_jit
def _fit(d, startx, starty, table, window, half, zones, valid, masked, n, iterations, scratch, state, fisher, solution, out):
    """Fill `out` (x, y, a, b, xx, xy, yy) where it succeeds; say whether it did."""
    nx, ny = d.shape
    cx, cy = np.floor(startx + 0.5), np.floor(starty + 0.5)
    if not _holds(cx, cy, half, nx, ny):
        return False
    residual, inverse, scaled, counts, weight = scratch[n], scratch[n + 1], scratch[n + 2], scratch[n + 3], scratch[n + 4]
    _take(d, int(cx), int(cy), window, valid, masked, counts, weight)
    _start(counts, weight, zones, state)
    x, y, dx, dy = startx, starty, 0.0, 0.0
    for step_number in range(iterations):
        tx, ty = np.floor(x + 0.5), np.floor(y + 0.5)
        if (abs(x - cx) > RECENTRE or abs(y - cy) > RECENTRE) and _holds(tx, ty, half, nx, ny):
            cx, cy = tx, ty
            _take(d, int(cx), int(cy), window, valid, masked, counts, weight)
        _gradients(x - cx, y - cy, table, counts, weight, state, n, scratch, residual, inverse)
        _sums(scratch, residual, inverse, scaled, n, fisher, solution[0])
        wanted = 3 if step_number == iterations - 1 else 1
        if not (_solve(fisher, solution, n, wanted) and np.isfinite(solution[0, 3])):  # the second: a NaN among the counts
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
    if not (xx < FARTHEST**2 and yy < FARTHEST**2 and dx * dx <= max(xx, SETTLED**2) and dy * dy <= max(yy, SETTLED**2)):
        return False
    out[0], out[1], out[2], out[3], out[4], out[5], out[6] = x, y, state[2], state[3], xx, xy, yy
    return True


@_jit
def _take(d, cx, cy, window, valid, masked, counts, weight):
    """Counts of the window about (cx, cy), and 1 where the detector counts."""
    for i in range(len(window)):
        px, py = cx + window[i, 0], cy + window[i, 1]
        counts[i], weight[i] = d[px, py], 1.0
        if masked and not valid[px, py]:
            counts[i], weight[i] = 0.0, 0.0


@_jit
def _start(counts, weight, zones, state):
    """Amplitude and background from the means inside the disk and around it."""
    sums = np.zeros(4, np.float32)
    for i in range(zones.shape[1]):
        sums[0] += counts[i] * zones[0, i] * weight[i]
        sums[1] += zones[0, i] * weight[i]
        sums[2] += counts[i] * zones[1, i] * weight[i]
        sums[3] += zones[1, i] * weight[i]
    inner, outer = sums[0] / max(sums[1], np.float32(1)), sums[2] / max(sums[3], np.float32(1))
    state[:] = 0
    state[3] = max(outer, np.float32(0.05))
    state[2] = max(inner - state[3], np.float32(0.1))


@_jit
def _gradients(fx, fy, table, counts, weight, state, n, rows, residual, inverse):
    """Derivatives of λ into `rows` (those that change), I - λ and 1/λ."""
    phases = table.shape[0] - 1
    p = min(max(int(np.floor((fx + 0.5) * phases + 0.5)), 0), phases)
    q = min(max(int(np.floor((fy + 0.5) * phases + 0.5)), 0), phases)
    dx, dy = np.float32(fx + 0.5 - p / phases), np.float32(fy + 0.5 - q / phases)
    t0, t1, t2 = table[p, q, 0], table[p, q, 1], table[p, q, 2]
    a, b = state[2], state[3]
    gx, gy, disk = rows[0], rows[1], rows[2]
    least, floor = np.float32(0.05) * a, np.float32(LEAST)
    if n == 4:
        for i in range(len(t0)):
            disk[i] = t0[i] - dx * t1[i] - dy * t2[i]
            gx[i], gy[i] = -a * t1[i], -a * t2[i]
            model = max(b + a * disk[i], floor)
            inverse[i] = weight[i] / model
            residual[i] = counts[i] - model
        return
    bx, by = state[4], state[5]
    u, v = rows[4], rows[5]
    if n == 6:
        for i in range(len(t0)):
            disk[i] = t0[i] - dx * t1[i] - dy * t2[i]
            gx[i], gy[i] = -a * t1[i], -a * t2[i]
            model = max(b + bx * u[i] + by * v[i] + a * disk[i], floor)
            inverse[i] = weight[i] / model
            residual[i] = counts[i] - model
        return
    cx, cy = state[6], state[7]
    du, dv = rows[6], rows[7]
    for i in range(len(t0)):
        disk[i] = t0[i] - dx * t1[i] - dy * t2[i]
        height = max(a + cx * u[i] + cy * v[i], least)
        gx[i], gy[i] = -height * t1[i], -height * t2[i]
        du[i], dv[i] = u[i] * disk[i], v[i] * disk[i]
        model = max(b + bx * u[i] + by * v[i] + height * disk[i], floor)
        inverse[i] = weight[i] / model
        residual[i] = counts[i] - model


@_jit
def _sums(rows, residual, inverse, scaled, n, fisher, gradient):
    """Lower triangle of Σ ∇λ ∇λᵀ / λ, and Σ (I - λ) ∇λ / λ."""
    for k in range(n):
        row = rows[k]
        total = np.float32(0)
        for i in range(len(row)):
            scaled[i] = row[i] * inverse[i]
            total += scaled[i] * residual[i]
        gradient[k] = total
        for j in range(k + 1):
            other = rows[j]
            total = np.float32(0)
            for i in range(len(row)):
                total += scaled[i] * other[i]
            fisher[k, j] = total


@_jit
def _solve(a, x, n, columns):
    """Cholesky in place; x[0] the gradient becomes the step, x[1] and x[2], if wanted, the first two columns of the inverse."""
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
