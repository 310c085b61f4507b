"""Add patches to planes (CPU twin): patch by patch, row by row."""

import numpy as np

from gpu4d.compiled import contiguous, entry
from gpu4d.ptychography.iterative.add_patches import check


@entry()
def _add(values, corners, out):
    for s in range(values.shape[0]):
        for n in range(values.shape[1]):
            x, y = corners[n, 0], corners[n, 1]
            for i in range(values.shape[2]):
                for j in range(values.shape[3]):
                    out[s, x + i, y + j] += values[s, n, i, j]


def add_patches(values, corners, /, *, shape):
    check(values, corners, shape)
    out = np.zeros((values.shape[0], *shape), values.dtype)
    if len(corners) and not (corners.min() >= 0 and (corners + values.shape[2:] <= shape).all()):
        raise IndexError(f"patches of {values.shape[2:]} pixels at corners {corners.min(0)} to {corners.max(0)} leave a plane {shape}")
    pairs = values.dtype.kind == "c"  # numbers are added as pairs of reals, one loop for both kinds
    real = np.float32 if values.dtype in (np.float32, np.complex64) else np.float64
    numbers = contiguous(values).view(real)
    _add(numbers, contiguous(corners.astype(np.int64) * (1, 1 + pairs)), out.view(real))
    return out
