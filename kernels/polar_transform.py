"""Launch polar_transform.cu. If histograms do not fit into shared memory, a block computes a range of the rings."""

from __future__ import annotations

from math import ceil, prod

import numpy as np
from gpu4d.kernels.pixels import as_bytes, contiguous, suffix

from gpu4d import device
from gpu4d.device import tables
from gpu4d.rings.polar_transform import directions, matrix, per_pattern, radial_grid

FILE = "polar_transform.cu"
THREADS = 256
WARPS = 8  # of a block of ring_sums; each has a histogram
BYTES = 12 * WARPS  # of a ring: a sum and a number for each warp


def _prepared(patterns, origins, mask):
    valid = np.uint64(0) if mask is None else as_bytes(mask)
    return contiguous(patterns), contiguous(per_pattern(patterns, origins)), valid


def polar_transform(patterns, origins, /, *, n_theta=180, n_r=None, r_max=None, ellipse=None, mask=None):
    *batch, nx, ny = patterns.shape
    n_r, r_max = radial_grid((nx, ny), n_r, r_max)
    patterns, centre, valid = _prepared(patterns, origins, mask)
    blocks = ceil(n_theta * n_r / THREADS)
    name = "directions", n_theta, None if ellipse is None else tuple(ellipse)  # tuple, because a list cannot be a key
    steps = tables.named(name, lambda: directions(n_theta, ellipse), centre)
    polar = device.empty((*batch, n_theta, n_r), np.float32)
    function = device.kernel(FILE, f"polar_samples_{suffix(patterns)}")
    sizes = tuple(np.int32(v) for v in (nx, ny, n_theta, n_r, blocks))
    device.launch(function, prod(batch) * blocks, THREADS, (patterns, centre, valid, steps, polar, np.float64(r_max / n_r), *sizes))
    return polar


def radial_sums(patterns, origins, /, *, n_r=None, r_max=None, ellipse=None, mask=None):
    *batch, nx, ny = patterns.shape
    n_r, r_max = radial_grid((nx, ny), n_r, r_max)
    patterns, centre, valid = _prepared(patterns, origins, mask)
    ranges = ceil(n_r / (device.shared_memory() // BYTES))
    rings = ceil(n_r / ranges)
    sums = device.empty((*batch, n_r), np.int64 if patterns.dtype.kind == "u" else np.float64)
    pixels = device.empty((*batch, n_r), np.int64)
    (xx, xy), (_, yy) = matrix(ellipse)
    slack = np.float32(
        4e-6 if ellipse is None else 4e-6 * ellipse[0] / ellipse[1]
    )  # relative error of a radius in single precision, with a margin
    numbers = (*(np.float64(v) for v in (xx, xy, yy, n_r / r_max)), slack, *(np.int32(v) for v in (nx, ny, n_r, rings, ranges)))
    function = device.kernel(FILE, f"ring_sums_{suffix(patterns)}")
    device.launch(function, prod(batch) * ranges, 32 * WARPS, (patterns, centre, valid, sums, pixels, *numbers), rings * BYTES)
    return sums, pixels
