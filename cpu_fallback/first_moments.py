"""Compute first moments (CPU twin) in one pass over the frames, in their own dtype and without a copy."""

from __future__ import annotations

from math import prod

import numpy as np

from gpu4d.compiled import contiguous, entry, read_only
from gpu4d.imaging.first_moments import moments_are_exact


# reassoc lets the float sums use vector registers; NaN and infinity keep their meaning, and one frame is always added in one order
@entry({"reassoc"})
def _moments(frames, mask, zero, out):
    """`zero` carries the dtype sums are made in; a mask of None is compiled away."""
    n, nx, ny = frames.shape
    for i in range(n):
        total, mx, my = zero, zero, zero
        for x in range(nx):
            row, weighted = zero, zero
            for y in range(ny):
                value = zero + frames[i, x, y]
                if mask is not None and not mask[x, y]:
                    value = zero
                row += value
                weighted += value * y
            total += row
            mx += row * x
            my += weighted
        out[i, 0], out[i, 1], out[i, 2] = total, mx, my


def first_moments(patterns, /, mask=None):
    *batch, nx, ny = patterns.shape
    kind = np.int64 if moments_are_exact(patterns.dtype, patterns.shape) else np.float64
    out = np.empty((prod(batch), 3), kind)
    _moments(read_only(patterns.reshape(prod(batch), nx, ny)), contiguous(mask, bool), kind(0), out)
    return out.reshape(*batch, 3)
