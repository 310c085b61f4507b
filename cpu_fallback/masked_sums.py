"""Compute masked sums (CPU twins) in one loop over each pattern, in its native dtype.

Storing masks as runs of pixels would save little, because most of the time is needed to read the patterns from memory.
"""

import numpy as np

from gpu4d.arrays import sums_are_exact
from gpu4d.compiled import contiguous, entry, read_only


@entry()
def _integers(patterns, masks, out):
    for n in range(patterns.shape[0]):
        pattern = patterns[n]
        for m in range(masks.shape[0]):
            mask, total = masks[m], np.int64(0)
            for i in range(pattern.size):
                total += np.int64(pattern[i]) * mask[i]
            out[n, m] = total


@entry()
def _floats(patterns, masks, out):
    for n in range(patterns.shape[0]):
        pattern = patterns[n]
        for m in range(masks.shape[0]):
            mask, total = masks[m], 0.0
            for i in range(pattern.size):
                if mask[i] != 0:
                    total += np.float64(pattern[i]) * mask[i]
            out[n, m] = total


def masked_sums(patterns, masks, /):
    n, m = patterns.shape[0], masks.shape[0]
    exact = sums_are_exact(patterns.dtype) and masks.dtype.kind == "b"
    out = np.empty((n, m), np.int64 if exact else np.float64)
    flat = contiguous(patterns).reshape(n, patterns.shape[1] * patterns.shape[2])
    weights = np.ascontiguousarray(masks).reshape(m, flat.shape[1])
    if exact:
        _integers(flat, read_only(weights.view(np.uint8)), out)
    else:
        _floats(flat, contiguous(weights, np.float64), out)
    return out


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
