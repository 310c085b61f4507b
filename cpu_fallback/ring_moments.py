"""Compute counts, sums, squares and medians over rings (CPU twin). Rings of pixels are made once for patterns with the same origin.

Sums of 8- and 16-bit counts of patterns with one origin are made for sixteen patterns at a time (see `ring_lanes`). Others go pixel by
pixel. Sums of counts are whole numbers, so both ways give the same.
"""

from __future__ import annotations

from math import prod

import numpy as np
from gpu4d.cpu_fallback.ring_lanes import TOGETHER, add_tiles

from gpu4d.arrays import sums_are_exact
from gpu4d.compiled import contiguous, entry, helper, read_only, routine
from gpu4d.rings.polar_transform import per_pattern, radial_grid
from gpu4d.rings.ring_moments import RingMoments, matrices, squares_are_exact

FEWEST = 4  # patterns of one origin from which sixteen lanes are faster than one pattern at a time
FAR = 1e4  # px: single precision tells an origin so far away from its neighbours by more than the margin below
SKEWED = 1e5  # of the sum of a matrix's squares over its determinant, which is at least its condition: none is so skewed but by mistake
LARGEST = 1 << 20  # rings: numbers of more rings have too few digits behind the point in single precision
ROUNDING = 5e-7  # relative error of a radius: eight roundings in single precision of 6e-8 each; the condition doubles it at least
NEAR = 0.5 - 1e-5  # rings from the middle of a ring: single precision decides up to here
MOST_IN_RING = 60_000  # pixels whose 16-bit counts add up to less than 2**32, and with a sign to less than 2**31


@helper()
def _ring_of(dx, dy, m, scale, n_r):
    """Return the ring of a pixel, with the operations of the definition; n_r where it is outside all rings."""
    u, v = m[0, 0] * dx + m[0, 1] * dy, m[1, 0] * dx + m[1, 1] * dy
    r = np.sqrt(u * u + v * v) * scale
    return np.int32(r) if r < n_r else np.int32(n_r)


@routine()
def _row(dys, a, b, xy, yy, most, slack, ring):
    """Write the rings of a row in single precision. Return the number of pixels that are too close to a border."""
    near = 0
    half, cut = np.float32(0.5), np.float32(NEAR)
    for y in range(len(dys)):
        u, v = a + xy * dys[y], b + yy * dys[y]
        r = np.sqrt(u * u + v * v)
        short = r if r < most else most
        ring[y] = np.int32(short)
        near += 1 if abs(r - np.float32(np.int32(r)) - half) + slack * r > cut else 0
    return near


@helper()
def _place(ox, oy, m, scale, n_r, mask, dys, ring):
    """Write the ring of every pixel: n_r where it is outside all rings or masked.

    Rows are made in single precision, which LLVM does for many pixels at a time. In a row with a pixel too close to the border of a ring,
    such pixels get the ring of double precision.
    """
    nx, ny = ring.shape
    size = m[0, 0] * m[0, 0] + m[0, 1] * m[0, 1] + m[1, 0] * m[1, 0] + m[1, 1] * m[1, 1]
    area = abs(m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0])
    single = abs(ox) < FAR and abs(oy) < FAR and size < SKEWED * area and n_r < LARGEST
    f = np.float32(scale)
    xx, xy, yx, yy = f * np.float32(m[0, 0]), f * np.float32(m[0, 1]), f * np.float32(m[1, 0]), f * np.float32(m[1, 1])
    slack, most = np.float32(ROUNDING * size / area) if single else np.float32(0.0), np.float32(n_r)
    half, cut = np.float32(0.5), np.float32(NEAR)
    for y in range(ny):
        dys[y] = y - oy
    for x in range(nx):
        dx = np.float32(x - ox)
        a, b, near = xx * dx, yx * dx, 0
        if single:
            near = _row(dys, a, b, xy, yy, most, slack, ring[x])
        if near > 0 or not single:
            for y in range(ny):
                u, v = a + xy * dys[y], b + yy * dys[y]
                r = np.sqrt(u * u + v * v)
                if not single or abs(r - np.float32(np.int32(r)) - half) + slack * r > cut:
                    ring[x, y] = _ring_of(x - ox, y - oy, m, scale, n_r)
        if mask is not None:
            for y in range(ny):
                if not mask[x, y]:
                    ring[x, y] = n_r


@helper()
def _same_place(origins, ms, f, g):
    """Return whether two patterns have the same rings."""
    if origins[f, 0] != origins[g, 0] or origins[f, 1] != origins[g, 1]:
        return False
    for i in range(2):
        for j in range(2):
            if ms[f, i, j] != ms[g, i, j]:
                return False
    return True


@entry(allocates=True)
def _ring_sums(patterns, origins, ms, mask, scale, zero, one, sums, squares, pixels):
    """Add pixel by pixel. `zero` and `one` have the types of sums and squares; `squares` without rows are not wanted."""
    n, nx, ny = patterns.shape
    n_r = sums.shape[1]
    ring, dys = np.empty((nx, ny), np.int32), np.empty(ny, np.float32)
    last = -1
    total, square, number = np.empty(n_r + 1, sums.dtype), np.empty(n_r + 1, squares.dtype), np.empty(n_r + 1, np.int64)
    for f in range(n):
        total[:], square[:], number[:] = zero, 0, 0
        if np.isfinite(origins[f, 0]) and np.isfinite(origins[f, 1]):
            if last < 0 or not _same_place(origins, ms, f, last):
                _place(origins[f, 0], origins[f, 1], ms[f], scale, n_r, mask, dys, ring)
                last = f
            for x in range(nx):
                for y in range(ny):
                    value = zero + patterns[f, x, y]
                    if np.isfinite(value):
                        k = ring[x, y]
                        total[k] += value
                        number[k] += 1
                        if len(squares):
                            square[k] += one * value * value
        sums[f], pixels[f] = total[:n_r], number[:n_r]
        if len(squares):
            squares[f] = square[:n_r]


@helper()
def _add_one(frame, ring, first, total, square):
    """Add the pixels of one pattern from number `first` on; `square` of no length is not wanted."""
    if len(square):
        for i in range(first, len(ring)):
            value = np.int64(frame[i])
            total[ring[i]] += value
            square[ring[i]] += value * value
    else:
        for i in range(first, len(ring)):
            total[ring[i]] += np.int64(frame[i])


@helper()
def _add_alone(frame, ring, total, square, parts, square_parts):
    """Add the pixels of one pattern to sums that are 0. Four quarters have sums of their own: none waits for what another has stored."""
    quarter = len(ring) // 4
    parts[:], square_parts[:] = 0, 0
    for i in range(quarter):
        for j in range(4):
            at = i + j * quarter
            value = np.int64(frame[at])
            parts[j, ring[at]] += value
            if len(square):
                square_parts[j, ring[at]] += value * value
    _add_one(frame, ring, 4 * quarter, total, square)
    for j in range(4):
        for k in range(len(total)):
            total[k] += parts[j, k]
            if len(square):
                square[k] += square_parts[j, k]


@entry(allocates=True)
def _narrow_sums(frames, origins, ms, mask, scale, nx, sums, squares, pixels):
    """Add 8- and 16-bit counts: frames (n, nx · ny). `squares` without rows are not wanted."""
    n, size = frames.shape
    n_r = sums.shape[1]
    ring, dys = np.empty(size, np.int32), np.empty(size // nx, np.float32)
    number, total = np.empty(n_r + 1, np.int64), np.empty(n_r + 1, np.int64)
    square = np.empty(n_r + 1 if len(squares) else 0, np.int64)
    many, wide = np.empty((n_r + 1, TOGETHER), np.int32), np.empty((len(square), TOGETHER), np.int64)
    parts, square_parts = np.empty((4, n_r + 1), np.int64), np.empty((4, len(square)), np.int64)
    at = np.empty(TOGETHER, np.int64)
    tiles, unsigned = size // TOGETHER, np.int64(0xFFFFFFFF if frames[:0].dtype.kind == "u" else -1)
    f, last = 0, -1
    while f < n:
        if not (np.isfinite(origins[f, 0]) and np.isfinite(origins[f, 1])):
            sums[f], pixels[f] = 0, 0
            if len(squares):
                squares[f] = 0
            f += 1
            continue
        end = f + 1
        while end < n and end < f + TOGETHER and _same_place(origins, ms, f, end):
            end += 1
        if last < 0 or not _same_place(origins, ms, f, last):
            _place(origins[f, 0], origins[f, 1], ms[f], scale, n_r, mask, dys, ring.reshape(nx, size // nx))
            number[:] = 0
            for i in range(size):
                number[ring[i]] += 1
            last = f
        if end - f >= FEWEST and number.max() < MOST_IN_RING:
            for j in range(TOGETHER):
                at[j] = frames.ctypes.data + frames.strides[0] * min(f + j, end - 1)
            many[:] = 0
            wide[:] = 0
            if len(squares):
                add_tiles(frames, 1, at.ctypes.data, ring.ctypes.data, tiles, many.ctypes.data, wide.ctypes.data)
            else:
                add_tiles(frames, 0, at.ctypes.data, ring.ctypes.data, tiles, many.ctypes.data, many.ctypes.data)
            for g in range(f, end):
                total[:], square[:] = 0, 0
                _add_one(frames[g], ring, tiles * TOGETHER, total, square)
                for k in range(n_r):
                    sums[g, k] = total[k] + (np.int64(many[k, g - f]) & unsigned)
                    if len(squares):
                        squares[g, k] = square[k] + wide[k, g - f]
        else:
            end = f + 1
            total[:], square[:] = 0, 0
            _add_alone(frames[f], ring, total, square, parts, square_parts)
            sums[f] = total[:n_r]
            if len(squares):
                squares[f] = square[:n_r]
        for g in range(f, end):
            pixels[g] = number[:n_r]
        f = end


@helper()
def _selected(values, first, last, rank):
    """Return the value of a rank among values[first:last], which are reordered (Hoare's selection)."""
    low, high = first, last - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if rank <= j:
            high = j
        elif rank >= i:
            low = i
        else:
            break
    return values[rank]


@entry(allocates=True)
def _ring_medians(patterns, origins, ms, mask, scale, medians):
    """Sort the pixels into their rings, and select the middle of each ring."""
    n, nx, ny = patterns.shape
    n_r = medians.shape[1]
    ring, dys, values = np.empty((nx, ny), np.int32), np.empty(ny, np.float32), np.empty(nx * ny)
    first = np.empty(n_r + 2, np.int64)
    last = -1
    for f in range(n):
        medians[f] = np.nan
        if not (np.isfinite(origins[f, 0]) and np.isfinite(origins[f, 1])):
            continue
        if last < 0 or not _same_place(origins, ms, f, last):
            _place(origins[f, 0], origins[f, 1], ms[f], scale, n_r, mask, dys, ring)
            last = f
        first[:] = 0
        for x in range(nx):
            for y in range(ny):
                if ring[x, y] < n_r and np.isfinite(np.float64(patterns[f, x, y])):
                    first[ring[x, y] + 2] += 1
        for k in range(2, n_r + 2):
            first[k] += first[k - 1]
        for x in range(nx):
            for y in range(ny):
                value = np.float64(patterns[f, x, y])
                if ring[x, y] < n_r and np.isfinite(value):
                    values[first[ring[x, y] + 1]] = value
                    first[ring[x, y] + 1] += 1
        for k in range(n_r):
            begin, end = first[k], first[k + 1]
            if end > begin:
                low = _selected(values, begin, end, begin + (end - begin - 1) // 2)
                high = low
                if (end - begin) % 2 == 0:
                    high = _selected(values, begin, end, begin + (end - begin) // 2)
                medians[f, k] = 0.5 * low + 0.5 * high


def sums_of_rings(patterns, origins, ms, mask, grid, squares):
    """Return sums, squares and numbers (n, n_r) of patterns (n, nx, ny); squares without rows if they are not wanted."""
    n, nx, ny = patterns.shape
    n_r, r_max = grid
    kind = np.int64 if sums_are_exact(patterns.dtype) else np.float64
    wide = np.int64 if squares_are_exact(patterns.dtype) else np.float64
    sums, pixels = np.empty((n, n_r), kind), np.empty((n, n_r), np.int64)
    square = np.empty((n if squares else 0, n_r), wide)
    places = contiguous(origins, np.float64), contiguous(np.broadcast_to(ms, (n, 2, 2)), np.float64), contiguous(mask, bool)
    if wide is np.int64 and patterns.size:
        frames = read_only(np.ascontiguousarray(patterns).reshape(n, nx * ny))
        _narrow_sums(frames, *places, n_r / r_max, nx, sums, square, pixels)
    else:
        _ring_sums(read_only(patterns), *places, n_r / r_max, kind(0), wide(1), sums, square, pixels)
    return sums, square, pixels


def ring_moments(patterns, origins, /, *, n_r=None, r_max=None, ellipse=None, mask=None, median=False):
    *batch, nx, ny = patterns.shape
    grid = n_r, r_max = radial_grid((nx, ny), n_r, r_max)
    frames, centres = patterns.reshape(prod(batch), nx, ny), per_pattern(patterns, origins)
    ms = matrices(patterns, centres, ellipse)
    sums, squares, pixels = sums_of_rings(frames, centres, ms, mask, grid, squares=True)
    medians = np.empty((len(frames), n_r if median else 0))
    if median:
        places = contiguous(centres, np.float64), contiguous(np.broadcast_to(ms, (len(frames), 2, 2)), np.float64)
        _ring_medians(read_only(frames), *places, contiguous(mask, bool), n_r / r_max, medians)
    found = [a.reshape(*batch, n_r) for a in (pixels, sums, squares)]
    return RingMoments(*found, medians.reshape(*batch, medians.shape[1]))
