"""Compute masked sums (CPU twins). Patterns are read in their native dtype.

Sums under bool masks and annuli are one loop over each pattern. Storing masks as runs of pixels would save little, because most of the
time is needed to read the patterns from memory.

Sums under weights are matrix products. The detector is worked through in tiles. Four patterns of a tile are converted to float64 and
stay in the first-level cache, and a weight that is read serves all four (`row_products`). With many patterns, the weights of a tile are
copied into one block that stays in the second-level cache: rows of a large array may all fall into the same few lines of a cache.
The order of a sum follows from the pixels alone, so its bits do not depend on the other patterns and masks of a call. Pixels that are
not finite are 0 in these products, and are added to the sums of the masks that see them.
"""

import numpy as np
from gpu4d.cpu_fallback.weight_lanes import row_products

from gpu4d.arrays import sums_are_exact
from gpu4d.compiled import address, contiguous, entry, helper, read_only, routine

TILE = 512  # pixels: ROWS of them as float64, 16 kB, stay in the first-level cache. A multiple of all LANES
ROWS, COLUMNS = 4, 3  # patterns and masks whose sums are in registers at once: twelve of sixteen registers
TOGETHER = 64  # masks: their weights in a tile, 256 kB, stay in the second-level cache
PACK_PATTERNS, PACK_MASKS = 16, 12  # with fewer of one of them a copy of the weights costs more than it saves


@entry()
def _integers(patterns, masks, out):
    for n in range(patterns.shape[0]):
        pattern = patterns[n]
        for m in range(masks.shape[0]):
            mask, total = masks[m], np.int64(0)
            for i in range(pattern.size):
                total += np.int64(pattern[i]) * mask[i]
            out[n, m] = total


@helper()
def _read_tile(pattern, row, gaps):
    """Write pixels as float64, with 0 in place of those that are not finite. Write the numbers of these to `gaps`; return how many."""
    count = 0
    for i in range(pattern.size):
        value = np.float64(pattern[i])
        row[i] = value if value - value == 0 else 0.0
        count += value - value != 0
    if count:
        count = 0
        for i in range(pattern.size):
            value = np.float64(pattern[i])
            if value - value != 0:
                gaps[count] = i
                count += 1
    return count


@routine()
def _add_gaps(pattern, weights, gaps, out):
    """Add pixels that are not finite to the sum under a mask that sees them."""
    for m in range(weights.shape[0]):
        j = 0
        while j < gaps.size and out[m] == out[m]:  # a NaN stays one
            weight = weights[m, gaps[j]]
            if weight != 0:
                out[m] += np.float64(pattern[gaps[j]]) * weight
            j += 1


@routine()
def _place_weights(weights, begin, end, first, size, packed, at, masks):
    """Write the addresses of the weights of the masks `begin` to `end` in a tile, and their numbers. Return how many there are.

    If there is room for it in `packed`, the weights are copied there, without the masks that are 0 in the whole tile.
    """
    if packed.size == 0:
        for m in range(begin, end):
            at[m - begin], masks[m - begin] = address(weights) + weights.itemsize * (m * weights.shape[1] + first), m
        return end - begin
    count = 0
    for m in range(begin, end):
        given, copied, i = weights[m, first : first + size], packed[count * TILE : (count + 1) * TILE], 0
        while i < size and given[i] == 0:
            i += 1
        if i < size:
            for i in range(size):
                copied[i] = given[i]
            at[count], masks[count] = address(copied), m
            count += 1
    return count


@routine()
def _add_products(rows, size, count, at, masks, sums, out):
    """Add the sums over a tile to those of one or several patterns. `rows` are the addresses of their pixels."""
    whole = count - count % COLUMNS
    for j in range(0, whole, COLUMNS):
        row_products(rows, (at[j], at[j + 1], at[j + 2]), size, address(sums))
        for r in range(len(out)):
            for c in range(COLUMNS):
                out[r, masks[j + c]] += sums[COLUMNS * r + c]
    for j in range(whole, count):
        row_products(rows, (at[j],), size, address(sums))
        for r in range(len(out)):
            out[r, masks[j]] += sums[r]


@entry()
def _weighted(patterns, weights, block, packs, space, places, out):
    """Write the sums of patterns under weights.

    Parameters
    ----------
    patterns : (n, pixels)
    weights : (m, pixels) float64
    block : int
        Masks that are taken together.
    packs : bool
        Whether weights are copied. If not, each of them is read where it is, once for every ROWS patterns.
    space : (ROWS * TILE + ROWS * COLUMNS [+ block * TILE],) float64
        For work.
    places : (2 * block + TILE,) int64
        For work.
    out : (n, m) float64
    """
    (n, pixels), m, line, rest = patterns.shape, weights.shape[0], 8 * TILE, ROWS * (TILE + COLUMNS)
    tile, sums, packed = space[: ROWS * TILE], space[ROWS * TILE : rest], space[rest:]
    at, masks, gaps = places[:block], places[block : 2 * block], places[2 * block :]
    rows = (address(tile), address(tile) + line, address(tile) + 2 * line, address(tile) + 3 * line)
    for i in range(ROWS * TILE):
        tile[i] = 0
    for k in range(n):
        for j in range(m):
            out[k, j] = 0
    run = n if packs else ROWS
    for start in range(0, n, run):
        for begin in range(0, m, block):
            for first in range(0, pixels, TILE):
                size, end = min(TILE, pixels - first), min(begin + block, m)
                count = _place_weights(weights, begin, end, first, size, packed, at, masks)
                for k in range(start, min(start + run, n), ROWS):
                    group = min(ROWS, n - k)
                    for r in range(group):
                        pattern = patterns[k + r, first : first + size]
                        found = _read_tile(pattern, tile[r * TILE : (r + 1) * TILE], gaps)
                        if found:
                            _add_gaps(pattern, weights[begin:end, first : first + size], gaps[:found], out[k + r, begin:end])
                    _add_products(rows, size, count, at, masks, sums, out[k : k + group])


def _weighted_sums(flat, weights):
    """Return the sums of patterns (n, pixels) under weights (m, pixels)."""
    n, m = len(flat), len(weights)
    out = np.empty((n, m))
    if out.size:
        packs = n >= PACK_PATTERNS and m >= PACK_MASKS
        block = -(-m // -(-m // TOGETHER)) if packs else m  # parts of nearly one size
        space, places = np.empty(ROWS * (TILE + COLUMNS) + block * TILE * packs), np.empty(2 * block + TILE, np.int64)
        _weighted(flat.view(np.uint8) if flat.dtype.kind == "b" else flat, weights, block, packs, space, places, out)
    return out


def masked_sums(patterns, masks, /):
    n, m = patterns.shape[0], masks.shape[0]
    flat = contiguous(patterns).reshape(n, patterns.shape[1] * patterns.shape[2])
    weights = np.ascontiguousarray(masks).reshape(m, flat.shape[1])
    if sums_are_exact(patterns.dtype) and masks.dtype.kind == "b":
        out = np.empty((n, m), np.int64)
        _integers(flat, read_only(weights.view(np.uint8)), out)
        return out
    return _weighted_sums(flat, contiguous(weights, np.float64))


@entry()
def _annuli(patterns, centers, radii, mask, out):
    nx, ny = patterns.shape[1:]
    for n in range(patterns.shape[0]):
        cx, cy = centers[n]
        for m in range(radii.shape[0]):
            inner, outer = radii[m]
            low = inner * inner if inner >= 0 else -1.0
            high = outer * outer
            total = 0.0
            for i in range(max(0, int(np.floor(cx - outer))), min(nx, int(np.ceil(cx + outer)) + 1)):
                dx2 = (i - cx) * (i - cx)
                for j in range(max(0, int(np.floor(cy - outer))), min(ny, int(np.ceil(cy + outer)) + 1)):
                    r2 = dx2 + (j - cy) * (j - cy)
                    if r2 < high and r2 > low and mask[i, j]:
                        total += np.float64(patterns[n, i, j])
            out[n, m] = total


def annular_sums(patterns, centers, radii, /, *, mask=None):
    out = np.full((patterns.shape[0], radii.shape[0]), np.nan)
    known = np.isfinite(centers).all(-1)
    valid = contiguous(np.ones(patterns.shape[1:], bool) if mask is None else mask)
    part = np.empty((int(known.sum()), radii.shape[0]))
    frames = contiguous(patterns if known.all() else patterns[known])
    _annuli(frames, contiguous(centers[known], np.float64), contiguous(radii, np.float64), valid, part)
    out[known] = part
    return out
