"""Launch count_electrons.cu: four kernels prepare level and scale, mark electrons, add their numbers, and write the list."""

from __future__ import annotations

from math import ceil, prod

import numpy as np
from gpu4d.kernels.pixels import contiguous, suffix

from gpu4d import device
from gpu4d.preprocess.electrons import Electrons

FILE = "count_electrons.cu"
THREADS = 256
STRIP = 32 * THREADS  # pixels a block
FRAMES = 4  # frames of a block of mark_electrons, as in the source


def count_electrons(frames, dark, lower, upper, /, *, electron=1.0, gain=None, mask=None):
    frames = contiguous(frames)
    *batch, nx, ny = frames.shape
    n, strips = prod(batch), max(1, ceil(nx * ny / STRIP))
    level, scale = level_and_scale(dark, electron, gain, mask)
    bits = device.empty((n, strips, THREADS), np.uint32)
    counts = device.empty((n, strips), np.uint32)
    shape = np.int32(nx), np.int32(ny), np.int32(strips)
    mark = device.kernel(FILE, f"mark_electrons_{suffix(frames)}")
    limits = np.float32(lower), np.float32(upper), np.int32(n)
    device.launch(mark, -(-n // FRAMES) * strips, THREADS, (frames, level, scale, bits, counts, *limits, *shape))

    starts, offsets = device.empty((n * strips + 1,), np.int64), device.empty((n + 1,), np.int64)
    add = device.kernel(FILE, "add_strips")
    device.launch(add, 1, 1024, (counts, starts, offsets, np.int64(n * strips), np.int32(strips)))
    total = int(starts[-1])
    qx, qy, intensity = device.empty((total,), np.uint16), device.empty((total,), np.uint16), device.empty((total,), np.float32)
    if total:
        write = device.kernel(FILE, f"write_electrons_{suffix(frames)}")
        device.launch(write, n * strips, THREADS, (frames, level, scale, bits, starts, qx, qy, intensity, *shape))
    return Electrons(offsets, qx, qy, intensity)


def level_and_scale(dark, electron, gain, mask):
    """Do the same as `per_pixel` of the definition in one launch, with the same bits."""
    level, scale = device.empty(dark.shape, np.float32), device.empty(dark.shape, np.float32)
    nothing = np.uint64(0)
    dark = contiguous(dark.astype(np.float64, copy=False))
    gain = nothing if gain is None else contiguous(gain.astype(np.float64, copy=False))
    mask = nothing if mask is None else contiguous(mask.astype(np.bool_, copy=False))
    make = device.kernel(FILE, "level_and_scale")
    device.launch(make, -(-level.size // 256), 256, (dark, gain, mask, level, scale, np.float64(electron), np.int32(level.size)))
    return level, scale
