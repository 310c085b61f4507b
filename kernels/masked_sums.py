"""Launch masked_sums.cu for weights and annuli. frame_reductions.cu computes sums under bool masks."""

from __future__ import annotations

import numpy as np
from gpu4d.kernels.frame_reductions import frame_sums
from gpu4d.kernels.pixels import contiguous, suffix

from gpu4d import device

FILE = "masked_sums.cu"
THREADS = 256
SLICE = 16384  # pixels of a block: 64 MB of 16-bit counts make 256 blocks, about as many as 132 multiprocessors hold at once
MOST_SLICES = 65535  # along the second axis of a grid


def masked_sums(patterns, masks, /):
    if masks.dtype.kind == "b":
        return frame_sums(patterns, masks).sums[:, : masks.shape[0]]
    patterns, masks = contiguous(patterns), contiguous(masks if masks.dtype in (np.float32, np.float64) else masks.astype(np.float64))
    n, nx, ny = patterns.shape
    m, (slices, span) = masks.shape[0], slices_of(nx * ny)
    parts = device.empty((n, slices, m), np.float64)
    kind = suffix(patterns)
    kernel = device.kernel(FILE, f"weighted_sums_single_{kind}" if masks.dtype == np.float32 else f"weighted_sums_double_{kind}")
    numbers = (np.int32(v) for v in (n, nx * ny, m, span))
    together = 8 if patterns.dtype.itemsize < 4 else 4  # patterns of a block, as in the kernel
    device.launch(kernel, (-(-n // together), slices), THREADS, (patterns, masks, parts, *numbers))
    if slices == 1:
        return parts[:, 0]
    sums = device.empty((n, m), np.float64)
    add = device.kernel(FILE, "add_slices")
    device.launch(add, -(-n * m // 256), 256, (parts, sums, np.int64(n * m), np.int32(slices), np.int32(m)))
    return sums


def slices_of(pixels):
    """Return the number of slices of a detector, and the pixels of each. Both follow from its size alone."""
    span = max(SLICE, -(-pixels // MOST_SLICES))
    return -(-pixels // span), span


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
