"""Compute second moments (CPU twin) in one pass over the frames, in their own dtype and without a copy."""

from __future__ import annotations

from math import prod

import numpy as np

from gpu4d.arrays import is_integer_dtype
from gpu4d.compiled import contiguous, entry, read_only

SMALL = 16  # bits of integers whose moments on a detector below 2¹⁵ pixels a side stay below 2⁶³: 2¹⁶ · 2³⁰ · 2¹⁶ for a row's


# reassoc lets the float sums use vector registers; NaN and infinity keep their meaning, and one frame is always added in one order
@entry({"reassoc"})
def _moments(frames, mask, zero, out):
    """`zero` carries the dtype a row's sums are made in; a mask of None is compiled away."""
    n, nx, ny = frames.shape
    for i in range(n):
        total, mx, my, mxx, mxy, myy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for x in range(nx):
            row, first, second = zero, zero, zero
            for y in range(ny):
                value = zero + frames[i, x, y]
                if mask is not None and not mask[x, y]:
                    value = zero
                row += value
                first += value * y
                second += value * y * y
            total += row
            mx += row * float(x)
            my += first
            mxx += row * (float(x) * x)
            mxy += first * float(x)
            myy += second
        out[i, 0], out[i, 1], out[i, 2], out[i, 3], out[i, 4], out[i, 5] = total, mx, my, mxx, mxy, myy


def second_moments(patterns, /, mask=None):
    *batch, nx, ny = patterns.shape
    whole = is_integer_dtype(patterns.dtype) and patterns.dtype.itemsize * 8 <= SMALL and ny < 2**15
    kind = np.int64 if whole or patterns.dtype.kind == "b" else np.float64
    out = np.empty((prod(batch), 6))
    _moments(read_only(patterns.reshape(prod(batch), nx, ny)), contiguous(mask, bool), kind(0), out)
    return out.reshape(*batch, 6)
