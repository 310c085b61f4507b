"""Add patches to planes (CPU twin): patch by patch, row by row."""

import numpy as np

from gpu4d.compiled import contiguous, entry
from gpu4d.ptychography.iterative.add_patches import check


@entry()
def _add(values, corners, out):
    for s in range(values.shape[0]):
        for n in range(values.shape[1]):
            y = corners[n, 1]
            for i in range(values.shape[2]):
                row, total = values[s, n, i], out[s, corners[n, 0] + i]
                for j in range(row.shape[0]):
                    total[y + j] += row[j]


def add_patches(values, corners, /, *, shape):
    check(values, corners, shape)
    out = np.zeros((values.shape[0], *shape), values.dtype)
    if len(corners) and not (corners.min() >= 0 and (corners + values.shape[2:] <= shape).all()):
        raise IndexError(f"patches of {values.shape[2:]} pixels at corners {corners.min(0)} to {corners.max(0)} leave a plane {shape}")
    pairs = values.dtype.kind == "c"  # numbers are added as pairs of reals, one loop for both kinds
    real = np.float32 if values.dtype in (np.float32, np.complex64) else np.float64
    _add(contiguous(values).view(real), contiguous(corners.astype(np.int64) * (1, 1 + pairs)), out.view(real))
    return out
