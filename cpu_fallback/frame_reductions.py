"""Compute frame reductions (CPU twin) in one pass. Detector counts of 8 and 16 bits are processed as 16-bit integers.

Every value of a frame is an inner product of the frame with a weight: 1 under a mask, x and y for the first moments. Vector units are
fastest with products of 16-bit integers and sums in 32 bits. The detector is worked through in pieces (see `PIECE`). A piece is so
small that no such sum can overflow, and that its weights, sums and maxima stay in the first-level cache. All frames of the call are
added to a piece, four at a time, before the next piece. A mask costs nothing on lines that it does not touch.

2**15 is subtracted from unsigned 16-bit counts, so that they fit the signed range. The effect on a sum is known exactly and is
corrected. For other dtypes the twins of the single operations are called, one after the other. The frames of one call fit into the
last-level cache, so that reading them again is cheap.
"""

from typing import NamedTuple

import numpy as np
from gpu4d.cpu_fallback.first_moments import first_moments
from gpu4d.cpu_fallback.masked_sums import masked_sums
from gpu4d.cpu_fallback.pattern_sums import pattern_maximum, pattern_sums
from gpu4d.cpu_fallback.products import HALF, LANES, masked_lines, reduce_lines

from gpu4d.compiled import address, entry, helper, part, read_only
from gpu4d.imaging.frame_reductions import FrameReductions

PIECE = 1024 // LANES  # lines: |weights| of a lane add up to at most 2**15, so sums of products with 16-bit counts fit 32 bits
PIXELS = PIECE * LANES
AHEAD = 8  # frames between a prefetch and the use of the data: about the latency of memory
FLUSH = 1 << 15  # frames: so many 16-bit counts fit into a sum of 32 bits
ONES = np.ones(LANES, np.int16)
U = np.uint64
np.empty(8 << 20, np.uint8)  # glibc returns freed memory to the system, which is slow, until a block as large as this was freed once


class Weights(NamedTuple):
    """Weights that frames are multiplied with, in lines. Pixels are numbered along the rows."""

    moments: np.ndarray  # (lines, 3, LANES) int16: 1, row and number of a pixel relative to `centers`; 0 where it does not count
    centers: np.ndarray  # (pieces, 2) int64: row and number
    moment_sums: np.ndarray  # (3,) int64: sums of 1, row and number
    starts: np.ndarray  # (pieces, masks + 1) int64: first line of a mask in `chosen` and `bits`
    chosen: np.ndarray  # (k,) int64: lines of a piece that a mask touches
    bits: np.ndarray  # (k, LANES) int16
    mask_sums: np.ndarray  # (masks,) int64


def weights(nx, ny, masks, mask):
    """Make the weights of (m, nx, ny) bool masks, and of the first moments of the pixels that count in `mask`."""
    size, m = nx * ny, len(masks)
    pieces, lines = -(-size // PIXELS), -(-size // LANES)
    pixel = np.arange(pieces * PIXELS, dtype=np.int32).reshape(pieces, PIXELS)
    row = pixel // np.int32(ny)
    one = np.zeros(pixel.shape, np.int16)
    one.ravel()[:size] = 1 if mask is None else mask.ravel()
    middle = (pixel[:, 0] + np.minimum(pixel[:, -1], size - 1)) // 2
    centers = np.stack([middle // ny, middle], axis=1).astype(np.int64)
    about = [one] + [(one * (place - center[:, None])).astype(np.int16) for place, center in zip((row, pixel), centers.T)]
    bits = np.zeros((m, pieces * PIXELS), bool)
    bits[:, :size] = masks.reshape(m, size)
    bits = bits.reshape(m, pieces, PIECE, LANES).swapaxes(0, 1)
    touched = bits.any(axis=-1)
    ends = np.count_nonzero(touched, axis=-1).cumsum().reshape(pieces, m)
    starts = np.pad(ends, ((0, 0), (1, 0)))
    starts[1:, 0] = starts[:-1, -1]
    return Weights(
        np.stack([a.reshape(-1, LANES)[:lines] for a in about], axis=1),
        centers,
        np.array([np.sum(one, dtype=np.int64), *(np.sum(place[one > 0], dtype=np.int64) for place in (row, pixel))]),
        starts,
        np.nonzero(touched)[2].copy(),
        bits[touched].astype(np.int16),
        np.count_nonzero(bits, axis=(0, 2, 3)),
    )


_last_weights = [(None, None, None)]  # masks, mask and their weights


def _kept_weights(masks, mask):
    """Return the weights. They are kept for the next call, which usually has the same masks."""
    kept, kept_mask, found = _last_weights[0]
    if found is None or not _equal(masks, kept) or (mask is None) != (kept_mask is None) or not (mask is None or _equal(mask, kept_mask)):
        found = weights(*masks.shape[1:], masks, mask)
        _last_weights[0] = masks.copy(), None if mask is None else mask.copy(), found
    return found


def _equal(a, b):
    return a.shape == b.shape and bool((a == b).all())


@helper()
def _reduce_piece(frames, at, k, w, piece, ahead, sums, total, top, masked, moments):
    """Reduce one piece of the frames with numbers from k on. `at` are its addresses in the frames."""
    first = piece * PIECE
    lines, line_bytes = min(PIECE, len(w.moments) - first), 2 * LANES
    places = (3 * line_bytes * first, 2 * line_bytes * first, line_bytes * first)
    moment_weights, totals, tops = address(w.moments) + places[0], address(total) + places[1], address(top) + places[2]
    reduce_lines(frames, at, lines, ahead, moment_weights, address(ONES), totals, tops, sums.ctypes.data)
    for f in range(len(at)):
        s = sums[3 * f]
        moments[k + f, 0] += s
        moments[k + f, 1] += sums[3 * f + 1] + s * w.centers[piece, 0]
        moments[k + f, 2] += sums[3 * f + 2] + s * w.centers[piece, 1]
    j, m = 0, masked.shape[1]
    while j < m:
        begin, end = w.starts[piece, j], w.starts[piece, j + 1]
        chosen, bits = address(w.chosen) + 8 * begin, address(w.bits) + line_bytes * begin
        if j + 1 < m and end - begin == lines and w.starts[piece, j + 2] - end == lines:  # two masks that touch every line
            masked_lines(frames, at, chosen, lines, (bits, bits + line_bytes * lines), sums.ctypes.data)
            for f in range(len(at)):
                masked[k + f, j] += sums[2 * f]
                masked[k + f, j + 1] += sums[2 * f + 1]
            j += 1
        elif end > begin:
            masked_lines(frames, at, chosen, end - begin, (bits,), sums.ctypes.data)
            for f in range(len(at)):
                masked[k + f, j] += sums[f]
        j += 1


@part
def _reduce_frames(frames, at, begin, w, sums, total, top, masked, moments):
    """Reduce at most FLUSH frames, from number `begin` on. `at` are their addresses."""
    n, stride, piece_bytes = len(at), frames.strides[0], PIXELS * frames.itemsize
    for piece in range(len(w.centers)):
        offset = piece * piece_bytes
        for k in range(0, n - 3, 4):
            at_last = k + AHEAD + 4 > n  # the data needed next are the next piece of the first frames
            ahead = piece_bytes - (n - AHEAD) * stride if at_last else AHEAD * stride
            four = (at[k] + offset, at[k + 1] + offset, at[k + 2] + offset, at[k + 3] + offset)
            _reduce_piece(frames, four, begin + k, w, piece, ahead, sums, total, top, masked, moments)
        for k in range(n - n % 4, n):
            _reduce_piece(frames, (at[k] + offset,), begin + k, w, piece, piece_bytes, sums, total, top, masked, moments)


@part
def _put_in_order(part, bias, total):
    """Add sums of pixels, which are in the order of HALVES, to `total`, and set them to 0."""
    for line in range(0, len(part), LANES):
        for four in range(LANES // 8):
            for half in range(2):
                for i in range(4):  # unsigned indices: for signed ones numba checks the sign, and does not vectorise
                    total[U(line + 8 * four + 4 * half + i)] += part[U(line + HALF * half + 4 * four + i)] + bias
    for i in range(len(part)):
        part[i] = 0


@entry()
def _reduce_narrow_counts(frames, at, ny, bias, w, sums, part_sum, top, total, maximum, masked, moments):
    """Reduce counts of 8 or 16 bits in one pass.

    `at` are the addresses of the frames. `part_sum`, `top`, `total` and `maximum` have the length of whole lines. All but `maximum` are
    0 at the call, or least in `top`. `sums` (12,) is for work.
    """
    n = len(at)
    for begin in range(0, n, FLUSH):
        end = min(n, begin + FLUSH)
        _reduce_frames(frames, at[begin:end], begin, w, sums, part_sum, top, masked, moments)
        _put_in_order(part_sum, (end - begin) * bias, total)
    for i in range(len(top)):
        maximum[i] = top[i] + bias
    for k in range(n):
        for j in range(masked.shape[1]):
            masked[k, j] += bias * w.mask_sums[j]
        for j in range(3):
            moments[k, j] += bias * w.moment_sums[j]
        moments[k, 2] -= ny * moments[k, 1]  # y = number of the pixel - ny x


def _narrow_reductions(patterns, masks, mask):
    """Return total, maximum, masked sums and moments of patterns of 8 or 16 bits."""
    n, nx, ny = patterns.shape
    masked, moments = np.zeros((n, len(masks)), np.int64), np.zeros((n, 3), np.int64)
    if not patterns.size:
        return np.zeros((nx, ny), np.int64), np.full((nx, ny), np.iinfo(np.int64).min), masked, moments
    flat = np.ascontiguousarray(patterns).reshape(n, nx * ny)
    flat = flat.view(np.uint8) if flat.dtype.kind == "b" else flat
    w = _kept_weights(masks, mask)
    whole = len(w.moments) * LANES
    at = flat.ctypes.data + flat.strides[0] * np.arange(n, dtype=np.int64)
    if whole > nx * ny:  # a line may end after the frame; in the last frame that is outside the array, so it is copied
        last = np.zeros(whole, flat.dtype)
        last[: nx * ny] = flat[n - 1]
        at[n - 1] = last.ctypes.data
    total, maximum = np.zeros(whole, np.int64), np.empty(whole, np.int64)
    part_sum, top = np.zeros(whole, np.int32), np.full(whole, -(1 << 15), np.int16)
    bias = np.int64(1 << 15 if flat.dtype == np.uint16 else 0)
    _reduce_narrow_counts(read_only(flat), at, ny, bias, w, np.empty(12, np.int64), part_sum, top, total, maximum, masked, moments)
    return total[: nx * ny].reshape(nx, ny), maximum[: nx * ny].reshape(nx, ny), masked, moments


def frame_reductions(patterns, masks, /, *, mask=None):
    if patterns.dtype.kind not in "biu" or patterns.dtype.itemsize > 2:
        total, count = pattern_sums(patterns)
        maximum, moments = pattern_maximum(patterns), first_moments(patterns, mask)
        return FrameReductions(total, maximum, count, masked_sums(patterns, masks), moments)
    count = np.asarray(len(patterns), np.float64)
    if masks.dtype.kind == "b":
        total, maximum, masked, moments = _narrow_reductions(patterns, masks, mask)
        return FrameReductions(total, maximum, count, masked, moments)
    total, maximum, _, moments = _narrow_reductions(patterns, np.zeros((0, *patterns.shape[1:]), bool), mask)
    return FrameReductions(total, maximum, count, masked_sums(patterns, masks), moments)
