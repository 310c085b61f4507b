"""Launches masked_sums.cu, one block a pattern; bool masks go through frame_reductions.cu, which packs them as bits."""

from __future__ import annotations

import numpy as np
from gpu4d.kernels.frame_reductions import frame_sums
from gpu4d.kernels.pixels import contiguous, suffix

from gpu4d import device

FILE = "masked_sums.cu"


def masked_sums(patterns, masks, /):
    if masks.dtype.kind == "b":
        return frame_sums(patterns, masks).sums[:, : masks.shape[0]]
    patterns = contiguous(patterns)
    n, nx, ny = patterns.shape
    m = masks.shape[0]
    sums = device.empty((n, m), np.float64)
    kernel = device.kernel(FILE, f"weighted_sums_{suffix(patterns)}")
    weights = contiguous(masks.astype(np.float64))
    device.launch(kernel, n, 256, (patterns, weights, sums, np.int32(nx * ny), np.int32(m)))
    return sums


def annular_sums(patterns, centers, radii, /, *, mask=None):
    patterns = contiguous(patterns)
    n, nx, ny = patterns.shape
    m = radii.shape[0]
    sums = device.empty((n, m), np.float64)
    centers, radii = (contiguous(a.astype(np.float64)) for a in (centers, radii))
    valid = np.uint64(0) if mask is None else contiguous(mask.astype(np.uint8))
    kernel = device.kernel(FILE, f"annular_sums_{suffix(patterns)}")
    device.launch(kernel, n, 256, (patterns, centers, radii, valid, sums, np.int32(nx), np.int32(ny), np.int32(m)))
    return sums
