"""CPU twin of the hot-pixel median: only pixels that exceed all neighbours but one are sorted out."""

from __future__ import annotations

import numpy as np
from numba import njit

from gpu4d.preprocess.hot_pixels import LEAST, MAD_TO_SIGMA


@njit(nogil=True, cache=True)
def _middle(values, count):
    """Median of the first `count` values, sorted in place by insertion."""
    for i in range(1, count):
        v, j = values[i], i
        while j > 0 and values[j - 1] > v:
            values[j] = values[j - 1]
            j -= 1
        values[j] = v
    return (values[(count - 1) // 2] + values[count // 2]) * 0.5


@njit(nogil=True, cache=True)
def _clean(frames, mask, whole, threshold, unit, noise, corrected, hot):
    n, nx, ny = frames.shape
    near = np.empty(8)
    least = unit * threshold * (0.612 + 0.25 * threshold)  # the limit of a median of zero
    for f in range(n):
        for x in range(nx):
            for y in range(ny):
                value = np.float64(frames[f, x, y])
                corrected[f, x, y], hot[f, x, y] = frames[f, x, y], False
                good = mask is None or mask[x, y]
                if good and not np.isfinite(value):
                    continue
                bar = value - 0.499 * least
                count, below = 0, 0
                for a in range(max(x - 1, 0), min(x + 2, nx)):
                    for b in range(max(y - 1, 0), min(y + 2, ny)):
                        other = np.float64(frames[f, a, b])
                        if (a == x and b == y) or not np.isfinite(other) or not (mask is None or mask[a, b]):
                            continue
                        near[count] = other
                        count += 1
                        below += other < bar
                if count == 0 or (good and (count < LEAST or below + 1 < count)):
                    continue
                median = _middle(near, count)
                second = near[max(count - 2, 0)]
                for k in range(count):
                    near[k] = abs(near[k] - median)
                spread = threshold * (_middle(near, count) * MAD_TO_SIGMA)
                poisson = threshold * np.sqrt(unit * (max(median, 0.0) + 0.375 * unit)) + 0.25 * threshold * threshold * unit
                limit = max(max(spread, poisson), threshold * noise)
                hot[f, x, y] = good and value - median > limit and value - second > 0.5 * limit
                if hot[f, x, y] or not good:
                    corrected[f, x, y] = np.floor(median + 0.5) if whole else median


def hot_pixel_median(frames, /, *, threshold=5.0, unit=1.0, noise=0.0, mask=None):
    corrected, hot = np.empty(frames.shape, frames.dtype), np.empty(frames.shape, bool)
    flat = (-1, *frames.shape[-2:])
    numbers = float(threshold), float(unit), float(noise)
    valid = None if mask is None else mask.astype(bool, copy=False)
    whole = frames.dtype.kind in "iu"
    _clean(frames.reshape(flat), valid, whole, *numbers, corrected.reshape(flat), hot.reshape(flat))
    return corrected, hot
