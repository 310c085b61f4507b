"""Launch refine_orientations.cu once for all candidates of all patterns: one warp for each candidate."""

from __future__ import annotations

import math

import numpy as np
from gpu4d.kernels.pixels import contiguous

from gpu4d import device
from gpu4d.orientation.refine_orientations import checked

FILE = "refine_orientations.cu"
WARPS = 4  # of a block, where their shared memory allows
USUAL = 48 * 1024  # bytes of shared memory that a block has on every card


def refine_orientations(
    turns, peaks, counts, g, factor, /, *, wave_number, thickness, radius, reach, least, q_max, q_min, unit, relative, rough=0, steps=8
):
    checked(turns, peaks, counts, g, factor)
    (n, candidates), p, m = turns.shape[:2], peaks.shape[1], g.shape[0]
    turns, peaks, factor = (contiguous(a.astype(np.float64, copy=False)) for a in (turns, peaks, factor))
    counts, g = contiguous(counts.astype(np.int64, copy=False)), contiguous(g.T.astype(np.float64, copy=False))
    best, result = device.empty((n, candidates, 3, 3), np.float64), device.empty((2, n, candidates), np.float64)
    normal, expected = device.empty((n, candidates, 4, 4), np.float64), device.empty((n, candidates, p), np.float64)
    words = work_words(p, m)
    warps = max(1, min(WARPS, USUAL // (8 * words)))
    sizes = map(np.int32, (candidates, p, m, words, rough, steps))
    numbers = map(np.float64, (wave_number, thickness, radius, reach, math.sqrt(least), q_max, q_min, unit, relative))
    call = (turns, peaks, counts, g, factor, best, result, normal, expected, np.int64(n * candidates), *sizes, *numbers)
    function = device.kernel(FILE, "refine_orientations")
    device.launch(function, -(-n * candidates // warps), 32 * warps, call, 8 * warps * words)
    return best, result[0], result[1], normal, expected


def work_words(p, m):
    """Return the doubles of shared memory that a warp needs for p peaks and m reflections, as `Slots`."""
    return 11 * p + -(-(p + -(-m // 32)) // 2)
