"""Compiled code of the floors: a sum that reads memory as fast as it comes, and gpu4d's own Fourier transform in the cache of a core."""

from __future__ import annotations

import numpy as np
from gpu4d.cpu_fallback.lanes import LANES
from gpu4d.cpu_fallback.plane_transform import columns_forward, rows_forward

from gpu4d.compiled import ALL, address, entry


@entry()
def word_sum(words):  # type: ignore[no-untyped-def]
    """Return the sum of 64-bit words modulo 2⁶⁴. Four sums run side by side, so that none waits for its addition."""
    a, b, c, d = np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0)
    quarter = words.size // 4
    for i in range(quarter):
        a += words[i]
        b += words[quarter + i]
        c += words[2 * quarter + i]
        d += words[3 * quarter + i]
    for i in range(4 * quarter, words.size):
        a += words[i]
    return a + b + c + d


@entry(ALL)
def transform_planes(planes, times, plan_x, plan_y, scratch, columns, out):  # type: ignore[no-untyped-def]
    """Transform padded planes (n, nx, stride) to panels (n, 2, panels, ny, 16), `times` times over, without Python's lock."""
    for _ in range(times):
        for k in range(planes.shape[0]):
            columns_forward(planes[k], plan_x, None, columns, scratch)
            for panel in range(out.shape[2]):
                yr, yi = address(out[k, 0, panel]), address(out[k, 1, panel])
                rows_forward(columns, panel * LANES, plan_y, None, yr, yi, scratch)
