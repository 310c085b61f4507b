"""Launch distinct_orientations.cu once for all patterns: one warp for each pattern."""

from __future__ import annotations

import math

import numpy as np
from gpu4d.kernels.pixels import contiguous

from gpu4d import device
from gpu4d.orientation.distinct_orientations import checked

FILE = "distinct_orientations.cu"
WARPS = 4


def distinct_orientations(turns, cost, phase, rotations, owner, /, *, angle, count):
    checked(turns, cost, phase, rotations, owner)
    n, c = cost.shape
    turns, cost = (contiguous(a.astype(np.float64, copy=False)) for a in (turns, cost))
    phase, owner = (contiguous(a.astype(np.int64, copy=False)) for a in (phase, owner))
    images = contiguous(rotations.astype(np.float64, copy=False).transpose(0, 2, 1))
    order = device.empty((n, count), np.int64)
    sizes = np.int64(n), np.int32(c), np.int32(rotations.shape[0]), np.int32(count)
    call = (turns, cost, phase, images, owner, order, *sizes, np.float64(1 + 2 * math.cos(angle)))
    function = device.kernel(FILE, "distinct_orientations")
    device.launch(function, -(-n // WARPS), 32 * WARPS, call, 8 * WARPS * c)
    return order
