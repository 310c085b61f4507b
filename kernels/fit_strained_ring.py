"""Launch fit_strained_ring.cu once for all patterns: a block for each."""

from __future__ import annotations

import numpy as np
from gpu4d.kernels.pixels import as_bytes, contiguous, kind

from gpu4d import device
from gpu4d.amorphous.fit_strained_ring import TERMS, StrainedRing

FILE = "fit_strained_ring.cu"
THREADS = 128  # as in the source


def fit_strained_ring(patterns, origins, table, /, *, step, radii, undistort=(1.0, 0.0, 1.0), mask=None, fit_origin=True, terms=TERMS):
    n, nx, ny = patterns.shape
    patterns, origins = contiguous(patterns), contiguous(origins.astype(np.float64, copy=False))
    knots = contiguous(table.astype(np.float32, copy=False))
    valid = np.uint64(0) if mask is None else as_bytes(mask)
    values, covariance = device.empty((n, 9), np.float64), device.empty((n, 3, 3), np.float64)
    sizes = tuple(map(np.int32, (nx, ny, knots.shape[0])))
    numbers = tuple(map(np.float32, (1 / step, *radii, *undistort)))
    call = (patterns, np.int32(kind(patterns)), origins, valid, knots, values, covariance, *sizes, *numbers)
    device.launch(device.kernel(FILE, "fit_strained_ring"), n, THREADS, (*call, np.int32(fit_origin), np.int32(terms)))
    return StrainedRing(values[:, :3], covariance, values[:, 3:5], values[:, 5], values[:, 6:8], values[:, 8])
