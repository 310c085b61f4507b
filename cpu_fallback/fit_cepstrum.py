"""Fit real-space lattices to power cepstra (CPU twin): logarithm and transform in single precision, fits in double precision."""

import numpy as np
from gpu4d.cpu_fallback.cepstral_steps import covariance_of, newton_step, scored_step
from gpu4d.cpu_fallback.power import _log2

from gpu4d import fft
from gpu4d.compiled import ALL, KEEPS_NAN, contiguous, entry, helper
from gpu4d.crystal.cepstrum import fill_tables
from gpu4d.crystal.fit_cepstrum import (
    FARTHEST,
    LOG_MEAN,
    LOG_VARIANCE,
    NEWTON,
    SCORING,
    CepstrumFit,
    check,
    grid_points,
    kernel_tables,
    line_curvature,
)

TAPS = 6  # right to 1e-5 of the largest value nearby, as the transform in single precision is beside the centre
MARGIN = TAPS // 2  # samples that a value needs beyond its own
STEPS = 128  # of the kernel's tables per sample; between them three terms of Taylor's series are right to 1e-7
BATCH = 8  # patterns of one transform: their samples stay in the second-level cache
LARGEST = 1e38  # of single precision, nearly
LN2 = np.float32(np.log(2.0))


@entry(ALL)
def _logs(patterns, mask, window, scaled, offset, hidden, donors, shares, logs, padded, usable):
    """Write the windowed logarithms of float32 patterns into padded planes, with the centre of the patterns in the first corner."""
    count, qx, qy = patterns.shape
    mx, my = padded.shape[1], padded.shape[2]
    zero = np.float32(0.0)
    total = 0.0
    for x in range(qx):
        for y in range(qy):
            total += window[x, y]
    for n in range(count):
        if not usable[n]:
            continue
        for x in range(qx):
            for y in range(qy):
                value = patterns[n, x, y]
                logs[x, y] = LN2 * _log2(max(value if mask[x, y] else zero, zero) + offset)
        for h in range(hidden.size):
            value = zero
            for k in range(donors.shape[1]):
                value += np.float32(shares[h, k]) * logs[donors[h, k] // qy, donors[h, k] % qy]
            logs[hidden[h] // qy, hidden[h] % qy] = value
        mean = 0.0
        for x in range(qx):
            row = zero
            for y in range(qy):
                row += window[x, y] * logs[x, y]
            mean += row
        level = np.float32(mean / total)
        for x in range(qx):
            px = x - qx // 2 if x >= qx // 2 else mx + x - qx // 2
            for y in range(qy // 2, qy):
                padded[n, px, y - qy // 2] = (logs[x, y] - level) * scaled[x, y]
            for y in range(qy // 2):
                padded[n, px, my + y - qy // 2] = (logs[x, y] - level) * scaled[x, y]


@helper(KEEPS_NAN)
def _weights(kernels, t, derivatives, out):
    """Set the weights of the samples around t (in samples), and their derivatives. Return the number of the first sample."""
    whole = np.floor(t)
    f = (t - whole) * STEPS
    step = min(int(f), STEPS - 1)
    d = (f - (step + 0.5)) / STEPS
    for k in range(TAPS):
        w0, w1, w2, w3 = kernels[step, 0, k], kernels[step, 1, k], kernels[step, 2, k], kernels[step, 3, k]
        out[0, k] = w0 + d * (w1 + 0.5 * d * w2)
        if derivatives:
            out[1, k] = w1 + d * (w2 + 0.5 * d * w3)
            out[2, k] = w2 + d * w3
    return int(whole) - (TAPS // 2 - 1)


@helper(KEEPS_NAN)
def _extended(spectrum, my, plane):
    """Copy the half transform of a real plane, with MARGIN columns before it and behind it."""
    mx, half = spectrum.shape
    for x in range(mx):
        other = mx - x if x > 0 else 0
        for y in range(MARGIN):
            plane[x, y] = np.conj(spectrum[other, MARGIN - y])
            plane[x, MARGIN + half + y] = np.conj(spectrum[other, my - half - y])
        for y in range(half):
            plane[x, MARGIN + y] = spectrum[x, y]


@helper(KEEPS_NAN)
def _height(plane, limit, kernels, wx, wy, x, y):
    """Return |C|² at a point, in samples."""
    if y < 0:
        x, y = -x, -y
    y = min(y, limit)
    mx = plane.shape[0]
    first = _weights(kernels, x, False, wx)
    second = _weights(kernels, y, False, wy) + MARGIN
    real, imag = 0.0, 0.0
    for i in range(TAPS):
        row = plane[(first + i) % mx]
        a, b = 0.0, 0.0
        for j in range(TAPS):
            value = row[second + j]
            a += wy[0, j] * value.real
            b += wy[0, j] * value.imag
        real += wx[0, i] * a
        imag += wx[0, i] * b
    return real * real + imag * imag


@helper(KEEPS_NAN)
def _slopes(plane, limit, kernels, wx, wy, x, y, sx, sy):
    """Return |C|², its slopes along x and y, and its curvatures xx, yy, xy at a point in samples; sx, sy samples a pixel."""
    if y < 0:  # the transform of a real plane: |C(-p)| = |C(p)|
        x, y, sx, sy = -x, -y, -sx, -sy
    y = min(y, limit)
    mx = plane.shape[0]
    first = _weights(kernels, x, True, wx)
    second = _weights(kernels, y, True, wy) + MARGIN
    c, d = 0.0, 0.0
    cx, dx, cy, dy = 0.0, 0.0, 0.0, 0.0
    cxx, dxx, cyy, dyy, cxy, dxy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(TAPS):
        row = plane[(first + i) % mx]
        a0, b0, a1, b1, a2, b2 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for j in range(TAPS):
            value = row[second + j]
            vr, vi = np.float64(value.real), np.float64(value.imag)
            a0 += wy[0, j] * vr
            b0 += wy[0, j] * vi
            a1 += wy[1, j] * vr
            b1 += wy[1, j] * vi
            a2 += wy[2, j] * vr
            b2 += wy[2, j] * vi
        w0, w1, w2 = wx[0, i], wx[1, i], wx[2, i]
        c += w0 * a0
        d += w0 * b0
        cx += w1 * a0
        dx += w1 * b0
        cxx += w2 * a0
        dxx += w2 * b0
        cy += w0 * a1
        dy += w0 * b1
        cyy += w0 * a2
        dyy += w0 * b2
        cxy += w1 * a1
        dxy += w1 * b1
    xx = 2 * (cx * cx + dx * dx + c * cxx + d * dxx) * sx * sx
    yy = 2 * (cy * cy + dy * dy + c * cyy + d * dyy) * sy * sy
    xy = 2 * (cx * cy + dx * dy + c * cxy + d * dxy) * sx * sy
    return c * c + d * d, 2 * (c * cx + d * dx) * sx, 2 * (c * cy + d * dy) * sy, xx, yy, xy


@helper(KEEPS_NAN)
def _background(plane, limit, kernels, wx, wy, h, k, r, shape, sx, sy):
    """Return the mean |C|² of the four centres of the cells of a node, or of two points beside it on its circle if that is more."""
    cells, shortest, arcs = 0.0, np.inf, 0.0
    for corner in range(4):
        a, b = h + (0.5 if corner < 2 else -0.5), k + (0.5 if corner % 2 == 0 else -0.5)
        x, y = a * r[0, 0] + b * r[1, 0], a * r[0, 1] + b * r[1, 1]
        cells += 0.25 * _height(plane, limit, kernels, wx, wy, x * sx, y * sy)
    longer = max(shape[0], shape[1])
    ux, uy = longer / shape[0], longer / shape[1]
    for which in range(4):
        a, b = (1.0 if which != 1 else 0.0), (0.0 if which == 0 else (-1.0 if which == 3 else 1.0))
        x, y = (a * r[0, 0] + b * r[1, 0]) * ux, (a * r[0, 1] + b * r[1, 1]) * uy
        shortest = min(shortest, x * x + y * y)
    x, y = (h * r[0, 0] + k * r[1, 0]) * ux, (h * r[0, 1] + k * r[1, 1]) * uy
    away = np.sqrt(x * x + y * y)
    angle = np.sqrt(shortest) / (2 * (away if away > 0 else 1.0))
    c, s = np.cos(angle), np.sin(angle)
    arcs += 0.5 * _height(plane, limit, kernels, wx, wy, (x * c - y * s) / ux * sx, (x * s + y * c) / uy * sy)
    arcs += 0.5 * _height(plane, limit, kernels, wx, wy, (x * c + y * s) / ux * sx, (y * c - x * s) / uy * sy)
    return max(cells, arcs)


@helper(KEEPS_NAN)
def _look(plane, limit, kernels, wx, wy, nodes, vectors, sx, sy, found):
    """Set |C|², slopes and curvatures (p, 6) at nodes of a lattice (2, 2)."""
    for p in range(nodes.shape[0]):
        h, k = nodes[p, 0], nodes[p, 1]
        x, y = h * vectors[0, 0] + k * vectors[1, 0], h * vectors[0, 1] + k * vectors[1, 1]
        f, gx, gy, xx, yy, xy = _slopes(plane, limit, kernels, wx, wy, x * sx, y * sy, sx, sy)
        found[p, 0], found[p, 1], found[p, 2], found[p, 3], found[p, 4], found[p, 5] = f, gx, gy, xx, yy, xy


@entry(KEEPS_NAN)
def _fit(planes, usable, grid, shape, kernels, nodes, start, stages, widths, scratch, vectors, covariance, residual, significance):
    """Fit the lattices of planes (n, Mx, My // 2 + 1). `scratch` has the arrays of one thread."""
    plane, wx, wy, found, matrix, work, column, spread, step = scratch
    limit = float(planes.shape[2] - 1)  # points beyond the highest frequency along y, between outermost nodes, are moved to it
    sx, sy = grid[0] / shape[0], grid[1] / shape[1]
    determinant = start[0, 0] * start[1, 1] - start[0, 1] * start[1, 0]
    for n in range(planes.shape[0]):
        r = vectors[n]
        residual[n] = significance[n] = np.nan
        for i in range(4):
            r[i // 2, i % 2] = start[i // 2, i % 2]
        if usable[n]:
            _extended(planes[n], grid[1], plane)
            for stage in range(stages.size):
                few, seen = nodes[: stages[stage]], found[: stages[stage]]
                for _ in range(SCORING):
                    _look(plane, limit, kernels, wx, wy, few, r, sx, sy, seen)
                    scored_step(few, seen, widths, step)
                    for i in range(4):
                        r[i // 2, i % 2] += step[i]
            for _ in range(NEWTON):
                _look(plane, limit, kernels, wx, wy, nodes, r, sx, sy, found)
                newton_step(nodes, found, widths, matrix, work, column, step)
                for i in range(4):
                    r[i // 2, i % 2] += step[i]
            _look(plane, limit, kernels, wx, wy, nodes, r, sx, sy, found)
            good = covariance_of(nodes, found, matrix, work, spread, covariance[n])
            for i in range(2):
                for j in range(2):
                    a = (start[1, 1] * r[0, j] - start[0, 1] * r[1, j]) if i == 0 else (start[0, 0] * r[1, j] - start[1, 0] * r[0, j])
                    good = good and abs(a / determinant - (1.0 if i == j else 0.0)) < FARTHEST
            if good:
                total, square, logs = 0.0, 0.0, 0.0
                for p in range(nodes.shape[0]):
                    f, ux, uy = found[p, 0], found[p, 1] / (2 * widths[0]), found[p, 2] / (2 * widths[1])
                    total += f
                    square += (ux * ux + uy * uy) / (f if f > 0 else 1.0)
                    around = _background(plane, limit, kernels, wx, wy, nodes[p, 0], nodes[p, 1], r, shape, sx, sy)
                    if f > 0 and around > 0:
                        logs += np.log(f / around)
                residual[n] = np.sqrt(square / (2 * (total if total > 0 else 1.0)))
                significance[n] = (logs / nodes.shape[0] - LOG_MEAN) / np.sqrt(LOG_VARIANCE / nodes.shape[0])
                continue
        for i in range(4):
            r[i // 2, i % 2] = np.nan
            for j in range(4):
                covariance[n, i, j] = np.nan


def _single(patterns):
    """Return patterns in single precision, so that the code is compiled for one dtype. The logarithm needs no more."""
    if patterns.dtype == np.float64:
        patterns = np.clip(patterns, 0, LARGEST)
    return contiguous(patterns, np.float32)


def _usable(patterns, mask):
    """Return which patterns have counts on good pixels, and no NaN or infinity there, (n,) bool."""
    usable = ((patterns > 0) & mask).any(axis=(1, 2))
    return usable & (np.isfinite(patterns) | ~mask).all(axis=(1, 2)) if patterns.dtype.kind == "f" else usable


def fit_cepstrum(patterns, window, nodes, start, /, *, stages, offset=1.0, mask=None):
    check(patterns, window, nodes, start, stages)
    shape, count = patterns.shape[1:], len(patterns)
    grid = np.array([grid_points(q) for q in shape])
    kernels, scale = kernel_tables(shape, TAPS, STEPS)
    weights, scaled = contiguous(window, np.float32), contiguous(window * scale, np.float32)
    nodes, start = (contiguous(a, np.float64) for a in (nodes, start))
    mask = contiguous(np.ones(shape, bool) if mask is None else mask, bool)
    tables = fill_tables(mask)
    out = np.empty((count, 2, 2)), np.empty((count, 4, 4)), np.empty(count), np.empty(count)
    padded = np.zeros((min(BATCH, count), *grid), np.float32)
    logs = np.empty(shape, np.float32)
    samples = np.empty((grid[0], grid[1] // 2 + 1 + 2 * MARGIN), np.complex64)
    sizes = (3, TAPS), (3, TAPS), (len(nodes), 6), (4, 4), (4, 4), (4, 1), (4, 4), (4,)
    scratch = (samples, *(np.empty(size) for size in sizes))
    fixed = kernels, nodes, start, np.array(stages), line_curvature(np.asarray(window)), scratch
    for first in range(0, count, BATCH):
        some = slice(first, min(first + BATCH, count))
        usable, planes = _usable(patterns[some], mask), padded[: some.stop - first]
        _logs(_single(patterns[some]), mask, weights, scaled, np.float32(offset), *tables, logs, planes, usable)
        _fit(fft.rfft2(planes), usable, grid, np.array(shape), *fixed, *(a[some] for a in out))
    return CepstrumFit(*out)
