"""Launch shifted_patterns.cu: one thread for each pixel."""

from __future__ import annotations

import numpy as np
from gpu4d.kernels.pixels import contiguous, suffix

from gpu4d import device

FILE = "shifted_patterns.cu"


def shifted_patterns(patterns, shifts, /):
    patterns, shifts = contiguous(patterns), contiguous(shifts.astype(np.float64, copy=False))
    n, nx, ny = patterns.shape
    out = device.empty((n, nx, ny), np.float64)
    kernel = device.kernel(FILE, f"shifted_patterns_{suffix(patterns)}")
    blocks = -(-nx * ny // 256)
    device.launch(kernel, n * blocks, 256, (patterns, shifts, out, *(np.int32(v) for v in (nx, ny, blocks))))
    return out
