"""Launch hot_pixel_median.cu: one thread for four pixels."""

from __future__ import annotations

from math import ceil, prod

import numpy as np
from gpu4d.kernels.pixels import contiguous, suffix

from gpu4d import device

FILE = "hot_pixel_median.cu"
THREADS = 256


def hot_pixel_median(frames, /, *, threshold=5.0, unit=1.0, noise=0.0, mask=None):
    frames = contiguous(frames)
    *batch, nx, ny = frames.shape
    blocks = ceil(nx * ny / (4 * THREADS))
    valid = np.uint64(0) if mask is None else contiguous(mask.astype(np.uint8))
    corrected, hot = device.empty(frames.shape, frames.dtype), device.empty(frames.shape, np.bool_)
    function = device.kernel(FILE, f"hot_pixel_median_{suffix(frames)}")
    numbers = (*(np.float64(v) for v in (threshold, unit, noise)), *(np.int32(v) for v in (nx, ny, blocks)))
    device.launch(function, prod(batch) * blocks, THREADS, (frames, valid, corrected, hot, *numbers))
    return corrected, hot
