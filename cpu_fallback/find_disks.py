"""Float32, a few patterns at a time so that their spectra and maps stay in cache; refinement on the map itself.

Trigonometric interpolation is separable: its exact value at a point is d(x) · C · d(y) with C the map and d the periodic
sinc, tabulated at 1/64 px with two derivatives. Two Newton steps from a parabola end 2e-5 px from the maximum.
"""

import threading

import numpy as np
import scipy.fft
from gpu4d.cpu_fallback.power import power_in_place, product
from numba import njit

from gpu4d.bragg.find_disks import Disks, fill_masked
from gpu4d.bragg.refine import CLIMB, REACH, sinc_table

BLOCK = 4  # patterns whose maps fit into a core's own cache together, at 128 × 128
PHASES = 64  # table entries per pixel; the Newton step leaves from the nearest
NEWTON_STEPS = 2
MODES = {None: 0, "parabola": 1, "correlation": 2, "upsample": 3}

_jit = njit(nogil=True, cache=True, fastmath=True)  # patterns with a NaN never come this far
_buffers = threading.local()


def find_disks(
    patterns,
    spectrum,
    moments,
    allowed,
    /,
    *,
    mask=None,
    fill_width=0.0,
    power=0.85,
    refine="correlation",
    refine_power=1.0,
    upsample=16,
    min_significance=5.0,
    min_relative=0.0,
    min_absolute=0.0,
    min_spacing=0.0,
    max_peaks=70,
):
    n, nx, ny = patterns.shape
    count = np.zeros(n, np.int64)
    table = np.full((n, 5, max_peaks), np.nan)  # one row of each field a pattern: slices stay contiguous
    template = np.ascontiguousarray(spectrum, np.complex64).view(np.float32).ravel()
    box, reach = _box(moments)
    limits = np.array([min_significance, min_relative, min_absolute, min_spacing], np.float64)
    sinc = (sinc_table(nx, PHASES), sinc_table(ny, PHASES))
    fine = (sinc_table(nx, upsample), sinc_table(ny, upsample)) if refine == "upsample" else sinc
    inside = np.ascontiguousarray(allowed)
    counts, scratch = _scratch(nx, ny, max_peaks)
    for first in range(0, n, BLOCK):
        frames = patterns[first : first + BLOCK]
        x = counts[: len(frames)]
        good = _cast(frames, x, mask, fill_width)
        m = scipy.fft.rfft2(x)
        flat = m.view(np.float32).reshape(len(frames), -1)
        product(flat, template)
        # The n = 1 map judges, the hybrid map finds, the map of refine_power locates: often two of them are one.
        cross = scipy.fft.irfft2(m, s=(nx, ny))
        hybrid = cross if power == 1.0 else _map_of(m, power, (nx, ny))
        refined = cross if refine_power == 1.0 else hybrid if refine_power == power else _map_of(m, refine_power, (nx, ny))
        _block(
            x,
            good,
            cross,
            hybrid,
            refined,
            inside,
            box,
            reach,
            limits,
            MODES[refine],
            refine_power != power,
            refine_power == 1.0,
            *sinc,
            *fine,
            upsample,
            count[first : first + BLOCK],
            table[first : first + BLOCK],
            *scratch,
        )
    return Disks(count, *(np.ascontiguousarray(table[:, field]) for field in range(5)))


def _map_of(m, power, shape):
    copy = m.copy()
    power_in_place(copy.view(np.float32).reshape(len(m), -1), np.float32(power))
    return scipy.fft.irfft2(copy, s=shape)


def _scratch(nx, ny, most):
    """Buffers of this thread: fresh memory costs more to touch than the work on it."""
    key = (nx, ny, most)
    if getattr(_buffers, "key", None) != key:
        candidates = (nx * ny) // 4 + 1  # no two maxima touch
        _buffers.key = key
        _buffers.value = (
            np.empty((BLOCK, nx, ny), np.float32),
            (
                np.empty((candidates, 2), np.int32),
                np.empty(candidates, np.float32),
                np.empty(ny, np.float32),
                np.empty((3, ny), np.float32),
            ),
        )
    return _buffers.value


def _cast(frames, x, mask, fill_width):
    """Patterns as float32 into `x`; which of them are finite."""
    if frames.dtype.kind in "biu":
        np.copyto(x, frames, casting="unsafe")
        good = np.ones(len(frames), bool)
    else:
        valid = np.isfinite(frames) if mask is None else np.isfinite(frames) | ~mask
        good = valid.all(axis=(-2, -1))
        np.copyto(x, np.where(good[:, None, None], frames, 0), casting="unsafe")
    if mask is not None:
        x[:] = fill_masked(x.astype(np.float64), mask, fill_width)
    return good


def _box(moments):
    """The window about the centre outside which the moments vanish: (4, 2hx+1, 2hy+1) float32, centred, and (hx, hy)."""
    nx, ny = moments.shape[1:]
    some = (moments != 0).any(0)
    rows, columns = np.flatnonzero(some.any(1)), np.flatnonzero(some.any(0))
    hx = min(int(np.minimum(rows, nx - rows).max(initial=0)), (nx - 1) // 2)
    hy = min(int(np.minimum(columns, ny - columns).max(initial=0)), (ny - 1) // 2)
    box = moments[:, np.arange(-hx, hx + 1) % nx][:, :, np.arange(-hy, hy + 1) % ny]
    return np.ascontiguousarray(box, np.float32), np.array([hx, hy])


@_jit
def _block(
    x,
    good,
    cross,
    hybrid,
    refined,
    allowed,
    box,
    reach,
    limits,
    mode,
    climb,
    errors,
    tx,
    ty,
    fx,
    fy,
    upsample,
    count,
    table,
    at,
    val,
    flag,
    sums,
):
    for i in range(x.shape[0]):
        if not good[i]:
            count[i] = 0
            continue
        found = _maxima(hybrid[i], allowed, at, val, flag)
        found = _significant(x[i], cross[i], box[0], reach, limits, at, val, found)
        row = table[i]
        kept = _strongest(at, val, found, limits[3], row)
        count[i] = kept
        for k in range(kept):
            _refine(refined[i], int(row[0, k]), int(row[1, k]), mode, climb, tx, ty, fx, fy, upsample, row, k, sums)
            if errors:
                _errors(x[i], cross[i], box, reach, mode == 0, tx, ty, row, k, sums)


@_jit
def _maxima(c, allowed, at, val, flag):
    """Positive maxima over eight neighbours at allowed pixels; of two equal pixels the one first in the list of `ABOVE`."""
    nx, ny = c.shape
    flat = c.reshape(nx * ny)
    w = ny - 2
    count = 0
    for i in range(1, nx - 1):
        o = (i - 1) * ny  # views that start at column 0: no index can be negative, so the loop vectorises
        up, mid, down = flat[o : o + ny], flat[o + ny : o + 2 * ny], flat[o + 2 * ny : o + 3 * ny]
        for j in range(w):
            v = mid[j + 1]
            above = max(max(up[j], mid[j]), max(down[j], up[j + 1]))
            below = max(max(down[j + 1], up[j + 2]), max(mid[j + 2], down[j + 2]))
            f = v if v > max(above, np.float32(0)) else np.float32(0)
            flag[j] = f if v >= below else np.float32(0)
        for start in range(0, w, 16):  # most groups of sixteen hold no maximum
            stop = min(start + 16, w)
            some = np.float32(0)
            for j in range(start, stop):
                some += flag[j]
            if some > 0:
                for j in range(start, stop):
                    if flag[j] > 0 and allowed[i, j + 1]:
                        at[count, 0], at[count, 1], val[count] = i, j + 1, flag[j]
                        count += 1
    return count


@_jit
def _significant(x, cross, squares, reach, limits, at, val, found):
    """Keep candidates over the thresholds, in place; z = C₁ / √(I ⋆ K²) from a window about each."""
    strongest = np.float32(0)
    for q in range(found):
        strongest = max(strongest, val[q])
    least = max(limits[2], limits[1] * strongest)
    kept = 0
    for q in range(found):
        i, j = at[q, 0], at[q, 1]
        c = cross[i, j]
        if val[q] < least:
            continue
        if limits[0] > 0:
            if c <= 0:
                continue
            noise = _window_sum(x, squares, i, j, reach)
            if noise <= 0 or c < limits[0] * np.sqrt(noise):
                continue
        elif c < 0 and _window_sum(x, squares, i, j, reach) > 0:  # z < 0 = min_significance
            continue
        at[kept, 0], at[kept, 1], val[kept] = i, j, val[q]
        kept += 1
    return kept


@_jit
def _window_sum(x, weights, px, py, reach):
    """Σ x(p + d) w(d) over the window; the detector wraps round."""
    nx, ny = x.shape
    hx, hy = reach[0], reach[1]
    w = 2 * hy + 1
    total = 0.0
    inside = py >= hy and py + hy < ny
    for a in range(2 * hx + 1):
        i = (px - hx + a) % nx
        row = np.float32(0)
        if inside:
            left = py - hy
            values, factor = x[i, left : left + w], weights[a]
            for b in range(w):
                row += values[b] * factor[b]
        else:
            for b in range(w):
                row += x[i, (py - hy + b) % ny] * weights[a, b]
        total += row
    return total


@_jit
def _strongest(at, val, found, spacing, row):
    """Greedy choice, strongest first, at least `spacing` apart; positions and heights into row[0], row[1], row[2]."""
    most = row.shape[1]
    kept = 0
    for _ in range(found):
        best, height = -1, np.float32(-1)
        for q in range(found):
            if val[q] > height:
                best, height = q, val[q]
        if best < 0 or kept == most:
            break
        val[best] = np.float32(-2)
        i, j = at[best, 0], at[best, 1]
        free = True
        for t in range(kept):
            dx, dy = i - row[0, t], j - row[1, t]
            if dx * dx + dy * dy < spacing * spacing:
                free = False
                break
        if free:
            row[0, kept], row[1, kept], row[2, kept] = i, j, height
            kept += 1
    return kept


@_jit
def _refine(c, px, py, mode, climb, tx, ty, fx, fy, upsample, row, k, sums):
    if mode == 0:
        row[2, k] = c[px, py]
        return
    if climb:
        px, py = _uphill(c, px, py)
    x, y, height = _parabola(c, px, py)
    if mode == 2:
        sx, sy = x, y
        for _ in range(NEWTON_STEPS):
            x, y, height, ok = _newton(c, x, y, tx, ty, sums)
            if not ok:
                break
        if abs(x - px) > REACH or abs(y - py) > REACH:
            x, y = sx, sy
            height = _at(c, x, y, tx, ty, sums)[0]
    elif mode == 3:
        x, y, height = _window(c, x, y, fx, fy, upsample, sums)
    row[0, k], row[1, k], row[2, k] = x, y, height


@_jit
def _uphill(c, px, py):
    nx, ny = c.shape
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
def _parabola(c, px, py):
    nx, ny = c.shape
    u, d, left, right = (px - 1) % nx, (px + 1) % nx, (py - 1) % ny, (py + 1) % ny
    i, j = px % nx, py % ny
    gx, gy = 0.5 * (c[d, j] - c[u, j]), 0.5 * (c[i, right] - c[i, left])
    hxx, hyy = c[d, j] + c[u, j] - 2.0 * c[i, j], c[i, right] + c[i, left] - 2.0 * c[i, j]
    hxy = 0.25 * (c[d, right] + c[u, left] - c[d, left] - c[u, right])
    det = hxx * hyy - hxy * hxy
    dx = dy = 0.0
    if det > 0 and hxx < 0:
        dx = min(0.5, max(-0.5, -(hyy * gx - hxy * gy) / det))
        dy = min(0.5, max(-0.5, -(hxx * gy - hxy * gx) / det))
    height = c[i, j] + gx * dx + gy * dy + 0.5 * (hxx * dx * dx + 2 * hxy * dx * dy + hyy * dy * dy)
    return px + dx, py + dy, height


@_jit
def _at(c, x, y, tx, ty, sums):
    """Value, gradient and Hessian of the interpolation at the nearest 1/phases px to (x, y), and that point."""
    nx, ny = c.shape
    phases = tx.shape[1]
    qx, qy = int(np.floor(x * phases + 0.5)), int(np.floor(y * phases + 0.5))
    o = nx - (qx // phases) % nx
    w0, w1, w2 = tx[0, qx % phases, o : o + nx], tx[1, qx % phases, o : o + nx], tx[2, qx % phases, o : o + nx]
    s0, s1, s2 = sums[0], sums[1], sums[2]
    for j in range(ny):
        s0[j] = s1[j] = s2[j] = np.float32(0)
    for i in range(nx):
        row, a, b, d = c[i], w0[i], w1[i], w2[i]
        for j in range(ny):
            v = row[j]
            s0[j] += a * v
            s1[j] += b * v
            s2[j] += d * v
    o = ny - (qy // phases) % ny
    v0, v1, v2 = ty[0, qy % phases, o : o + ny], ty[1, qy % phases, o : o + ny], ty[2, qy % phases, o : o + ny]
    value = gx = gy = hxx = hxy = hyy = np.float32(0)
    for j in range(ny):
        value += s0[j] * v0[j]
        gy += s0[j] * v1[j]
        hyy += s0[j] * v2[j]
        gx += s1[j] * v0[j]
        hxy += s1[j] * v1[j]
        hxx += s2[j] * v0[j]
    return value, gx, gy, hxx, hxy, hyy, qx / phases, qy / phases


@_jit
def _newton(c, x, y, tx, ty, sums):
    value, gx, gy, hxx, hxy, hyy, ex, ey = _at(c, x, y, tx, ty, sums)
    det = hxx * hyy - hxy * hxy
    if not (det > 0 and hxx < 0):
        return x, y, np.float64(value), False
    dx = min(0.5, max(-0.5, -(hyy * gx - hxy * gy) / det))
    dy = min(0.5, max(-0.5, -(hxx * gy - hxy * gx) / det))
    return ex + dx, ey + dy, np.float64(value + 0.5 * (gx * dx + gy * dy)), True


@_jit
def _window(c, x, y, fx, fy, upsample, sums):
    """Samples at 1/upsample px within ±0.75 px about the start, the largest, a parabola through its neighbours."""
    nx, ny = c.shape
    half = -((-3 * upsample) // 4) + 1
    side = 2 * half + 1
    cx, cy = int(np.floor(x * upsample + 0.5)), int(np.floor(y * upsample + 0.5))
    window = np.empty((side, side), np.float32)
    line = sums[0]
    for a in range(side):
        q = cx - half + a
        o = nx - (q // upsample) % nx
        weights = fx[0, q % upsample, o : o + nx]
        for j in range(ny):
            line[j] = np.float32(0)
        for i in range(nx):
            row, w = c[i], weights[i]
            for j in range(ny):
                line[j] += w * row[j]
        for b in range(side):
            q = cy - half + b
            o = ny - (q // upsample) % ny
            along = fy[0, q % upsample, o : o + ny]
            v = np.float32(0)
            for j in range(ny):
                v += line[j] * along[j]
            window[a, b] = v
    bi, bj = 1, 1
    for a in range(1, side - 1):
        for b in range(1, side - 1):
            if window[a, b] > window[bi, bj]:
                bi, bj = a, b
    wx, wy, height = _parabola(window, bi, bj)
    return (cx - half + wx) / upsample, (cy - half + wy) / upsample, height


@_jit
def _errors(x, cross, box, reach, grid, tx, ty, row, k, sums):
    """Cov = H⁻¹ G H⁻¹: the Hessian of the n = 1 map and the Poisson noise of its gradient."""
    px, py = row[0, k], row[1, k]
    _, _, _, hxx, hxy, hyy, _, _ = _at(cross, px, py, tx, ty, sums)
    i, j = int(np.rint(px)), int(np.rint(py))
    gxx, gxy, gyy = (_window_sum(x, box[1], i, j, reach), _window_sum(x, box[2], i, j, reach), _window_sum(x, box[3], i, j, reach))
    row[3, k] = row[4, k] = np.nan
    det = np.float64(hxx) * hyy - np.float64(hxy) * hxy
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
