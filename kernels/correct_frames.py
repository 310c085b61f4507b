"""Launch correct_frames.cu: streaks of every frame from its edge pixels, then one pass over all pixels."""

from __future__ import annotations

import math
from math import ceil, prod

import numpy as np
from gpu4d.kernels.pixels import contiguous, suffix

from gpu4d import device
from gpu4d.device import tables

FILE = "correct_frames.cu"
THREADS = 256
LINES = 32  # of a block
PIXELS = 4 * THREADS  # of a block
NOTHING = np.uint64(0)


def correct_frames(frames, background, /, *, gain=None, edge=None, clip=math.inf, axis=0, hits=None, taken_from=None):
    frames = contiguous(frames)
    *batch, nx, ny = frames.shape
    n, kind = prod(batch), suffix(frames)
    real = np.float32 if kind in ("u8", "u16") else np.float64
    ground, response = _table(background, real), _table(gain, real)
    limits, source = _table(hits, np.float32), _table(taken_from, np.int32)
    lines = NOTHING
    if edge is not None:
        number = ny if axis == 0 else nx
        blocks = ceil(number / LINES)
        lines = device.empty((n, number), np.float64)
        numbers = np.float64(clip), *(np.int32(v) for v in (nx, ny, axis, blocks))
        function = device.kernel(FILE, f"line_means_{kind}")
        device.launch(function, n * blocks, THREADS, (frames, ground, _table(edge, np.float64), lines, *numbers))
    corrected = device.empty(frames.shape, np.float32)
    blocks = ceil(nx * ny / PIXELS)
    function = device.kernel(FILE, f"correct_{kind}")
    shape = (np.int32(v) for v in (nx, ny, axis, blocks))
    device.launch(function, n * blocks, THREADS, (frames, ground, response, lines, limits, source, corrected, *shape))
    return corrected


def _table(plane, dtype):
    """Return a table of the detector in the type that the kernel reads; made once where the table is kept."""
    if plane is None:
        return NOTHING
    return tables.made_of(plane, ("correct_frames", np.dtype(dtype).name), lambda: contiguous(plane.astype(dtype, copy=False)))
