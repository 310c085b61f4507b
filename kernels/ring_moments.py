"""Launch ring_moments.cu. If the rings do not fit into shared memory, a block computes a range of them."""

from __future__ import annotations

from math import ceil, prod

import numpy as np
from gpu4d.kernels.pixels import as_bytes, contiguous, suffix

from gpu4d import device
from gpu4d.rings.polar_transform import per_pattern, radial_grid
from gpu4d.rings.ring_moments import RingMoments, matrices, squares_are_exact

FILE = "ring_moments.cu"
WARPS = 8  # of a block
SUM_BYTES = 20 * WARPS  # of a ring: for each warp a sum, a sum of squares and a number
MEDIAN_BYTES = 24  # of a ring: two values, ranks and counts


def ring_moments(patterns, origins, /, *, n_r=None, r_max=None, ellipse=None, mask=None, median=False):
    *batch, nx, ny = patterns.shape
    n_r, r_max = radial_grid((nx, ny), n_r, r_max)
    patterns, centre = contiguous(patterns), contiguous(per_pattern(patterns, origins))
    ms, valid = contiguous(matrices(patterns, centre, ellipse)), np.uint64(0) if mask is None else as_bytes(mask)
    kind = np.int64 if patterns.dtype.kind == "u" else np.float64
    sums, pixels = device.empty((*batch, n_r), kind), device.empty((*batch, n_r), np.int64)
    squares = device.empty((*batch, n_r), np.int64 if squares_are_exact(patterns.dtype) else np.float64)

    def launch(name, bytes_of_ring, *outputs):
        ranges = ceil(n_r / (device.shared_memory() // bytes_of_ring))
        rings = ceil(n_r / ranges)
        numbers = np.float64(n_r / r_max), *(np.int32(v) for v in (nx, ny, n_r, rings, ranges))
        function = device.kernel(FILE, f"{name}_{suffix(patterns)}")
        arguments = (patterns, centre, ms, valid, *outputs, *numbers)
        device.launch(function, prod(batch) * ranges, 32 * WARPS, arguments, rings * bytes_of_ring)

    launch("ring_moments", SUM_BYTES, sums, squares, pixels)
    medians = device.empty((*batch, n_r if median else 0), np.float64)
    if median:
        launch("ring_medians", MEDIAN_BYTES, pixels, medians)
    return RingMoments(pixels, sums, squares, medians)
