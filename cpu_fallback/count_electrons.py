"""Count electrons (CPU twin) in one pass over the frames. Only pixels over the threshold are compared with their neighbours."""

from __future__ import annotations

import numpy as np

from gpu4d.compiled import contiguous, entry, helper, read_only
from gpu4d.preprocess.count_electrons import per_pixel
from gpu4d.preprocess.electrons import Electrons

GROUP = 32  # pixels that are tested together, in vector registers


@helper()
def _signal(frame, level, scale, x, y):
    if x < 0 or y < 0 or x >= frame.shape[0] or y >= frame.shape[1]:
        return np.float32(-np.inf)
    v = (np.float32(frame[x, y]) - level[x, y]) * scale[x, y]
    return v if v == v else np.float32(-np.inf)


@helper()
def _is_maximum(frame, level, scale, x, y, v):
    for dy in range(-1, 2):
        for dx in range(-1, 2):
            other = _signal(frame, level, scale, x + dx, y + dy)
            if dy < 0 or (dy == 0 and dx < 0):
                if not v > other:
                    return False
            elif not v >= other:
                return False
    return True


@entry(allocates=True)
def _count(frames, level, scale, lower, upper, offsets):
    """Fill the offsets, and return pixels (m, 2) and signals (m,)."""
    n, nx, ny = frames.shape
    pixels, values = np.empty((64, 2), np.uint16), np.empty(64, np.float32)
    m = 0
    for f in range(n):
        frame = frames[f]
        for x in range(nx):
            for start in range(0, ny, GROUP):  # most groups have no electron: one vectorised comparison shows it
                stop = min(start + GROUP, ny)
                some = np.int32(0)
                for y in range(start, stop):
                    some += np.int32((np.float32(frame[x, y]) - level[x, y]) * scale[x, y] >= lower)
                if some == 0:
                    continue
                for y in range(start, stop):
                    v = (np.float32(frame[x, y]) - level[x, y]) * scale[x, y]
                    if v >= lower and v < upper and _is_maximum(frame, level, scale, x, y, v):
                        if m == len(values):
                            more, further = np.empty((2 * m, 2), np.uint16), np.empty(2 * m, np.float32)
                            more[:m], further[:m] = pixels, values
                            pixels, values = more, further
                        pixels[m, 0], pixels[m, 1], values[m] = x, y, v
                        m += 1
        offsets[f + 1] = m
    return pixels[:m], values[:m]


def count_electrons(frames, dark, lower, upper, /, *, electron=1.0, gain=None, mask=None):
    *batch, nx, ny = frames.shape
    level, scale = (contiguous(a) for a in per_pixel(dark, electron, gain, mask))
    n = int(np.prod(batch))
    offsets = np.zeros(n + 1, np.int64)
    pixels, values = _count(read_only(frames.reshape(n, nx, ny)), level, scale, np.float32(lower), np.float32(upper), offsets)
    return Electrons(offsets, pixels[:, 0].copy(), pixels[:, 1].copy(), values.copy())
