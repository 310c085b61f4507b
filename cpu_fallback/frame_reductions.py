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
from numba import njit

from gpu4d.virtual.frame_reductions import FrameReductions

PIECE = 1024  # pixels of a piece: 7 weights, 2 frames, sums and maxima take 24 kB
LARGEST = 65535  # sum of |weight| over a piece, so that its products with 16-bit counts stay inside 32 bits
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
def _weigh(masks, mask, first, part, ny, weights, bias, added):
    """Weights of one piece: the masks, then 1, x - cx and y - cy where `mask` lets a pixel count; and what the bias adds to each."""
    m = masks.shape[0]
    x0, x1, y0, y1 = part
    cx, cy, wide = (x0 + x1) // 2, (y0 + y1) // 2, y1 - y0
    size = (x1 - x0) * wide
    for j in range(m):
        for i in range(size):
            weights[j, i] = masks[j, first + i]
    for x in range(x1 - x0):
        for y in range(wide):
            one = np.int16(1) if mask is None else np.int16(mask[first + x * wide + y])
            weights[m, x * wide + y] = one
            weights[m + 1, x * wide + y] = one * (x + x0 - cx)
            weights[m + 2, x * wide + y] = one * (y + y0 - cy)
    for j in range(m + 3):
        sum_of = np.int64(0)
        for i in range(size):
            sum_of += weights[j, i]
        added[j] = bias * sum_of


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
def _product(values, f, weights, j, size):
    total = np.int32(0)
    for i in range(size):
        total = np.int32(total + np.int32(np.int32(values[f, i]) * np.int32(weights[j, i])))
    return np.int64(total)


@njit(nogil=True, cache=True)
def _narrow(frames, ny, parts, bias, masks, mask, total, top, masked, moments):
    """Everything in one pass; the outputs come filled with zeros."""
    n, m = frames.shape[0], masks.shape[0]
    weights, added = np.empty((m + 3, PIECE), np.int16), np.empty(m + 3, np.int64)
    values = np.empty((2, PIECE), np.int16)
    part, peak = np.empty(PIECE, np.int32), np.empty(PIECE, np.int16)
    seen = np.empty(m, np.int64)  # masks that are not empty in a piece; one that is left out has nothing added by the bias either
    for p in range(parts.shape[0]):
        x0, x1, y0, y1 = parts[p]
        cx, cy = (x0 + x1) // 2, (y0 + y1) // 2
        first, size = x0 * ny + y0, U((x1 - x0) * (y1 - y0))
        _weigh(masks, mask, first, parts[p], ny, weights, np.int64(bias), added)
        some = 0
        for j in range(m):
            if weights[j, :size].any():
                seen[some] = j
                some += 1
        peak[:] = -(1 << 15)
        for begin in range(0, n, FLUSH):
            end = min(n, begin + FLUSH)
            part[:] = 0
            for k in range(begin, end, 2):
                if k + 1 < end:
                    _take(frames, U(k), U(first), size, bias, values, part, peak)
                else:
                    _take_one(frames, U(k), U(first), size, bias, values, part, peak)
                for f in range(min(2, end - k)):
                    for i in range(some):
                        j = seen[i]
                        masked[k + f, j] += _product(values, U(f), weights, U(j), size) + added[j]
                    s = _product(values, U(f), weights, U(m), size) + added[m]
                    moments[k + f, 0] += s
                    moments[k + f, 1] += _product(values, U(f), weights, U(m + 1), size) + added[m + 1] + s * cx
                    moments[k + f, 2] += _product(values, U(f), weights, U(m + 2), size) + added[m + 2] + s * cy
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
