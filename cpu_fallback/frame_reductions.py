"""CPU twin of the frame reductions: one pass, in which detector counts of 8 and 16 bits stay integers of 16 bits.

Every value per frame is an inner product of the frame with a weight: 1 under a mask, x and y for the first moments. Products of
16-bit integers with sums in 32 bits are what vector units do best (vpmaddwd takes 16 of them at once). The detector is worked
through in pieces so small that no such sum can leave 32 bits, and that weights, sums and maxima of a piece stay in the
first-level cache while all frames of the call pass by; a mask that is empty in a piece costs nothing there.

Unsigned 16-bit counts are moved by 2**15 into the signed range; what that adds to a sum is known exactly and taken off again.
Other dtypes take the twins of the single operations, one after the other: the frames of one call fit into the last-level cache.
"""

from functools import cache
from itertools import pairwise

import numpy as np
from gpu4d.cpu_fallback.center_of_mass import first_moments
from gpu4d.cpu_fallback.masked_sums import masked_sums
from gpu4d.cpu_fallback.pattern_sums import pattern_maximum, pattern_sums
from gpu4d.cpu_fallback.products import four_products, prefetch
from numba import njit

from gpu4d.virtual.frame_reductions import FrameReductions

PIECE = 1024  # pixels of a piece: 7 weights, 2 frames, sums and maxima take 24 kB
LARGEST = 65535  # sum of |weight| over a piece, so that its products with 16-bit counts stay inside 32 bits
AHEAD = 6  # frames: what memory takes to answer
FLUSH = 1 << 15  # frames whose 16-bit counts a sum of 32 bits holds
U = np.uint64  # unsigned indices: numba would ask every other one whether it is negative, and not vectorise


@cache
def pieces(nx, ny):
    """(x0, x1, y0, y1) of parts of the detector that lie in one run of memory: whole rows, or part of one row."""
    rows = min(PIECE // ny, 4 * LARGEST // ny**2)
    if rows >= 1:
        return np.array([(x, min(x + rows, nx), 0, ny) for x in range(0, nx, rows)], np.int64).reshape(-1, 4)
    parts = -(-ny // 480)  # 480²/4 < LARGEST
    edges = [ny * i // parts for i in range(parts + 1)]
    return np.array([(x, x + 1, a, b) for x in range(nx) for a, b in pairwise(edges)], np.int64).reshape(-1, 4)


@njit(nogil=True, cache=True)
def _weigh(masks, mask, ny, part, weights, seen):
    """Weights of one piece: masks that are not empty in it (`seen` takes their numbers), then 1, x - cx and y - cy where `mask` lets
    a pixel count, and 0 in a row that makes their number even. Returns the number of masks."""
    x0, x1, y0, y1 = part
    cx, cy, wide = (x0 + x1) // 2, (y0 + y1) // 2, y1 - y0
    first, size = x0 * ny + y0, (x1 - x0) * wide
    weights[:, size:] = 0
    m = 0
    for j in range(masks.shape[0]):
        pixels = np.int32(0)
        for i in range(U(size)):
            weights[U(m), i] = masks[U(j), U(first) + i]
            pixels = np.int32(pixels + np.int32(masks[U(j), U(first) + i]))
        seen[m] = j
        m += pixels > 0
    for x in range(x1 - x0):
        at, dx, dy = U(x * wide), np.int16(x + x0 - cx), np.int16(y0 - cy)
        for y in range(U(wide)):
            one = np.int16(1) if mask is None else np.int16(mask[U(first) + at + y])
            weights[U(m), at + y] = one
            weights[U(m + 1), at + y] = np.int16(one * dx)
            weights[U(m + 2), at + y] = np.int16(one * np.int16(np.int16(y) + dy))
    weights[m + 3, :] = 0
    return m


@njit(nogil=True, cache=True)
def _take(frames, k, first, size, bias, values, total, top):
    """Two frames: their counts to `values`, into the sum and the maximum of every pixel."""
    for i in range(size):
        a = np.int16(np.int32(frames[k, first + i]) - bias)
        b = np.int16(np.int32(frames[k + U(1), first + i]) - bias)
        values[0, i] = a
        values[1, i] = b
        total[i] = np.int32(total[i] + np.int32(np.int32(a) + np.int32(b)))
        top[i] = max(top[i], max(a, b))


@njit(nogil=True, cache=True)
def _take_one(frames, k, first, size, bias, values, total, top):
    for i in range(size):
        a = np.int16(np.int32(frames[k, first + i]) - bias)
        values[0, i] = a
        values[1, i] = 0
        total[i] = np.int32(total[i] + np.int32(a))
        top[i] = max(top[i], a)


@njit(nogil=True, cache=True)
def _products(values, weights, rows, size, four, sums):
    """Inner products of two frames with all weights."""
    a, b, out = values.ctypes.data, weights.ctypes.data, four.ctypes.data
    for j in range(0, rows, 2):
        four_products(a, a + 2 * PIECE, b + 2 * PIECE * j, b + 2 * PIECE * (j + 1), size, out)
        sums[0, j], sums[0, j + 1], sums[1, j], sums[1, j + 1] = four[0], four[1], four[2], four[3]


@njit(nogil=True, cache=True)
def _narrow(frames, ny, parts, bias, masks, mask, total, top, masked, moments):
    """Everything in one pass; the outputs come filled with zeros."""
    n, m = frames.shape[0], masks.shape[0]
    weights, added = np.empty((m + 4, PIECE), np.int16), np.zeros(m + 4, np.int64)
    values = np.zeros((2, PIECE), np.int16)
    four, sums = np.empty(4, np.int32), np.empty((2, m + 4), np.int64)
    part, peak = np.empty(PIECE, np.int32), np.empty(PIECE, np.int16)
    seen = np.empty(m + 1, np.int64)
    start, stride = frames.ctypes.data, frames.strides[0]
    for p in range(parts.shape[0]):
        x0, x1, y0, y1 = parts[p]
        cx, cy = (x0 + x1) // 2, (y0 + y1) // 2
        first, size = x0 * ny + y0, (x1 - x0) * (y1 - y0)
        some = _weigh(masks, mask, ny, parts[p], weights, seen)
        rows, padded = (some + 4) // 2 * 2, (size + 31) // 32 * 32
        for j in range(rows):
            added[j] = bias * weights[j].sum()
        peak[:] = -(1 << 15)
        for begin in range(0, n, FLUSH):
            end = min(n, begin + FLUSH)
            part[:] = 0
            for k in range(begin, end, 2):
                for ahead in range(k + AHEAD, min(k + AHEAD + 2, n)):
                    prefetch(start + ahead * stride + first * frames.itemsize, size * frames.itemsize)
                if k + 1 < end:
                    _take(frames, U(k), U(first), U(size), bias, values, part, peak)
                else:
                    _take_one(frames, U(k), U(first), U(size), bias, values, part, peak)
                _products(values, weights, rows, padded, four, sums)
                for f in range(min(2, end - k)):
                    for i in range(some):
                        masked[k + f, seen[i]] += sums[f, i] + added[i]
                    s = sums[f, some] + added[some]
                    moments[k + f, 0] += s
                    moments[k + f, 1] += sums[f, some + 1] + added[some + 1] + s * cx
                    moments[k + f, 2] += sums[f, some + 2] + added[some + 2] + s * cy
            for i in range(size):
                total[first + i] += part[i] + np.int64(end - begin) * bias
        for i in range(size):
            top[first + i] = np.int64(peak[i]) + bias


def _counts(patterns, masks, mask):
    """Total, maximum, masked sums and moments of patterns of 8 or 16 bits."""
    n, nx, ny = patterns.shape
    flat = np.ascontiguousarray(patterns).reshape(n, nx * ny)
    flat = flat.view(np.uint8) if flat.dtype.kind == "b" else flat
    bias = np.int32(1 << 15 if flat.dtype == np.uint16 else 0)
    bits = np.ascontiguousarray(masks).reshape(len(masks), nx * ny).view(np.uint8)
    valid = None if mask is None else np.ascontiguousarray(mask, bool).reshape(-1).view(np.uint8)
    total, maximum = np.zeros((nx, ny), np.int64), np.full((nx, ny), np.iinfo(np.int64).min)
    masked, moments = np.zeros((n, len(masks)), np.int64), np.zeros((n, 3), np.int64)
    if n:
        _narrow(flat, ny, pieces(nx, ny), bias, bits, valid, total.reshape(-1), maximum.reshape(-1), masked, moments)
    return total, maximum, masked, moments


def frame_reductions(patterns, masks, /, *, mask=None):
    if patterns.dtype.kind not in "biu" or patterns.dtype.itemsize > 2:
        total, count = pattern_sums(patterns)
        maximum, moments = pattern_maximum(patterns), first_moments(patterns, mask)
        return FrameReductions(total, maximum, count, masked_sums(patterns, masks), moments)
    count = np.asarray(len(patterns), np.float64)
    if masks.dtype.kind == "b":
        total, maximum, masked, moments = _counts(patterns, masks, mask)
        return FrameReductions(total, maximum, count, masked, moments)
    total, maximum, _, moments = _counts(patterns, np.zeros((0, *patterns.shape[1:]), bool), mask)
    return FrameReductions(total, maximum, count, masked_sums(patterns, masks), moments)
