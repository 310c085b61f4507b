"""Launch gather_pixels.cu: one block of (32, 8) threads for 32 patterns × 32 pixels."""

from __future__ import annotations

import numpy as np
from gpu4d.kernels.pixels import contiguous, suffix

from gpu4d import device
from gpu4d.errors import InputError

FILE = "gather_pixels.cu"
TILE = 32
MOST_TILES = 65535  # along the second axis of a grid: two million chosen pixels


def gather_pixels(frames, index, /, *, real=False):
    frames, index = contiguous(frames), contiguous(index.astype(np.int64, copy=False))
    n, qx, qy = frames.shape
    chosen = index.shape[0]
    out = device.empty((chosen, n), np.float32 if real else frames.dtype)
    function = device.kernel(FILE, f"gather_float_{suffix(frames)}" if real else f"gather_native_{suffix(frames)}")
    grid = (-(-n // TILE), -(-chosen // TILE))
    if grid[1] > MOST_TILES:
        raise InputError(f"{chosen} pixels are more than the {MOST_TILES * TILE} one launch takes")
    device.launch(function, grid, (TILE, 8), (frames, index, out, np.int64(n), np.int64(qx * qy), np.int32(chosen)))
    return out
