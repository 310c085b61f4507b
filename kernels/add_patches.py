"""Launch add_patches.cu: one thread a pixel of a plane, blocks of (32, 8)."""

from __future__ import annotations

import numpy as np
from gpu4d.kernels.pixels import contiguous

from gpu4d import device
from gpu4d.ptychography.iterative.add_patches import check

FILE = "add_patches.cu"
KERNELS = {"float32": "add_real", "complex64": "add_complex"}


def add_patches(values, corners, /, *, shape):
    check(values, corners, shape)
    planes, n, nx, ny = values.shape
    out = device.empty((planes, *shape), values.dtype)
    function = device.kernel(FILE, KERNELS[np.dtype(values.dtype).name])
    grid = (-(-shape[1] // 32), -(-shape[0] // 8), planes)
    sizes = (np.int32(n), np.int32(nx), np.int32(ny), np.int32(shape[0]), np.int32(shape[1]))
    device.launch(function, grid, (32, 8), (contiguous(values), contiguous(corners.astype(np.int32, copy=False)), out, *sizes))
    return out
