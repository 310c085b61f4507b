"""Launches count_electrons.cu: mark and count, sum up, write."""

from __future__ import annotations

from math import ceil, prod

import numpy as np
from gpu4d.kernels.pixels import contiguous, suffix

from gpu4d import arrays, device
from gpu4d.preprocess.count_electrons import Events, per_pixel

FILE = "count_electrons.cu"
THREADS = 256
STRIP = 32 * THREADS  # pixels a block


def count_electrons(frames, dark, lower, upper, /, *, electron=1.0, gain=None, mask=None):
    frames = contiguous(frames)
    *batch, nx, ny = frames.shape
    n, strips = prod(batch), ceil(nx * ny / STRIP)
    level, scale = (contiguous(plane) for plane in per_pixel(dark, electron, gain, mask))
    bits = device.empty((n, strips, THREADS), np.uint32)
    counts = device.empty((n, strips), np.uint32)
    shape = np.int32(nx), np.int32(ny), np.int32(strips)
    mark = device.kernel(FILE, f"mark_electrons_{suffix(frames)}")
    limits = np.float32(lower), np.float32(upper)
    device.launch(mark, n * strips, THREADS, (frames, level, scale, bits, counts, *limits, *shape))

    xp = arrays.namespace(counts)
    ends = counts.reshape(-1).astype(np.int64).cumsum()
    starts = xp.concat([ends[:1] * 0, ends])[: n * strips + 1] if n * strips else device.empty((1,), np.int64) * 0
    total = int(starts[-1])
    qx, qy, intensity = device.empty((total,), np.uint16), device.empty((total,), np.uint16), device.empty((total,), np.float32)
    if total:
        write = device.kernel(FILE, f"write_electrons_{suffix(frames)}")
        device.launch(write, n * strips, THREADS, (frames, level, scale, bits, starts, qx, qy, intensity, *shape))
    return Events(contiguous(starts[::strips]), qx, qy, intensity)
