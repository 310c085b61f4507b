"""Launch pattern_sums.cu for weighted sums. frame_reductions.cu computes maxima, and sums without weights."""

from __future__ import annotations

import numpy as np
from gpu4d.kernels.frame_reductions import frame_sums
from gpu4d.kernels.pixels import contiguous, suffix

from gpu4d import arrays, device

FILE = "pattern_sums.cu"


def pattern_sums(patterns, /, *, weights=None):
    xp = arrays.namespace(patterns)
    if weights is None:
        found = frame_sums(patterns, no_masks(patterns), totals=True)
        return found.total, found.count
    patterns, weights = contiguous(patterns), contiguous(weights.astype(np.float64))
    n, nx, ny = patterns.shape
    kind, pixels = suffix(patterns), nx * ny
    group = max(4, min(256, -(-n // 64)), -(-n // 65535))
    groups = -(-n // group)
    good = device.empty((n,), np.uint8)
    if kind == "f32":
        device.launch(device.kernel(FILE, f"finite_{kind}"), n, 256, (patterns, good, np.int32(pixels)))
    else:
        good[...] = 1
    parts, total = device.empty((groups, pixels), np.float64), device.empty((nx, ny), np.float64)
    kernel = device.kernel(FILE, f"weighted_patterns_{kind}")
    numbers = (np.int32(v) for v in (n, pixels, group))
    device.launch(kernel, (-(-pixels // 256), groups), 256, (patterns, weights, good, parts, *numbers))
    add = device.kernel(FILE, "add_parts")
    device.launch(add, -(-pixels // 256), 256, (parts, total, np.int32(groups), np.int32(pixels)))
    return total, xp.asarray(xp.where(good != 0, weights, xp.zeros_like(weights)).sum())


def pattern_maximum(patterns, /):
    return frame_sums(patterns, no_masks(patterns), totals=True).maximum


def no_masks(patterns):
    """Return bool masks (0, nx, ny) on the device of the patterns."""
    return arrays.namespace(patterns).zeros((0, *patterns.shape[1:]), dtype=bool, device=arrays.device(patterns))
