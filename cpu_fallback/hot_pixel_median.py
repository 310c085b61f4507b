"""Compute the hot-pixel median (CPU twin). Only pixels that exceed three of their four nearest neighbours are tested fully."""

from __future__ import annotations

import numpy as np

from gpu4d.compiled import contiguous, entry, helper, read_only
from gpu4d.preprocess.hot_pixel_median import LEAST_NEIGHBOURS
from gpu4d.robust import MAD_TO_SIGMA

GROUP = 32  # pixels that are tested together, in vector registers


@helper()
def _middle(values, count):
    """Return the median of the first `count` values, which are sorted in place by insertion."""
    for i in range(1, count):
        v, j = values[i], i
        while j > 0 and values[j - 1] > v:
            values[j] = values[j - 1]
            j -= 1
        values[j] = v
    return (values[(count - 1) // 2] + values[count // 2]) * 0.5


@helper()
def _pad(frame, mask, padded):
    """Write the frame with a border of one pixel. The border, masked pixels and pixels that are not finite are NaN."""
    for x in range(frame.shape[0]):
        for y in range(frame.shape[1]):
            v = np.float64(frame[x, y])
            padded[x + 1, y + 1] = v if v - v == 0 else np.nan
        if mask is not None:
            for y in range(frame.shape[1]):
                if not mask[x, y]:
                    padded[x + 1, y + 1] = np.nan


@helper()
def _count_candidates(above, here, below, start, stop, least):
    """Count the pixels in a piece of a row that may be hot or that do not count.

    It has no branches, and integers as wide as the values, so that it vectorises.
    """
    total = np.int64(0)
    for y in range(start, stop):
        close_from = here[y + 1] - least
        larger = (
            np.int64(close_from <= above[y + 1])
            + np.int64(close_from <= below[y + 1])
            + np.int64(close_from <= here[y])
            + np.int64(close_from <= here[y + 2])
        )
        total += np.int64(larger < 2)
    return total


@helper()
def _is_hot(padded, x, y, threshold, unit, noise, near):
    """Return whether a pixel is hot, the median of its neighbours, and their number."""
    count = 0
    for a in range(3):
        for b in range(3):
            if (a != 1 or b != 1) and not np.isnan(padded[x + a, y + b]):
                near[count] = padded[x + a, y + b]
                count += 1
    if count == 0:
        return False, 0.0, 0
    median = _middle(near, count)
    value, second = padded[x + 1, y + 1], near[max(count - 2, 0)]
    for k in range(count):
        near[k] = abs(near[k] - median)
    spread = threshold * (_middle(near, count) * MAD_TO_SIGMA)
    poisson = threshold * np.sqrt(unit * (max(median, 0.0) + 0.375 * unit)) + 0.25 * threshold * threshold * unit
    limit = max(max(spread, poisson), threshold * noise)
    return count >= LEAST_NEIGHBOURS and value - median > limit and value - second > 0.5 * limit, median, count


@entry(allocates=True)
def _correct(frames, mask, whole, threshold, unit, noise, corrected, hot):
    n, nx, ny = frames.shape
    padded, near = np.full((nx + 2, ny + 2), np.nan), np.empty(8)
    least = 0.499 * unit * threshold * (0.612 + 0.25 * threshold)  # half the limit of a median of zero
    for f in range(n):
        _pad(frames[f], mask, padded)
        for x in range(nx):
            corrected[f, x], hot[f, x] = frames[f, x], False
            for start in range(0, ny, GROUP):
                stop = min(start + GROUP, ny)
                above, here, below = padded[x], padded[x + 1], padded[x + 2]
                if _count_candidates(above, here, below, start, stop, least) == 0:
                    continue
                for y in range(start, stop):
                    good = mask is None or mask[x, y]
                    if good and (np.isnan(here[y + 1]) or _count_candidates(above, here, below, y, y + 1, least) == 0):
                        continue
                    is_hot, median, count = _is_hot(padded, x, y, threshold, unit, noise, near)
                    hot[f, x, y] = good and is_hot
                    if hot[f, x, y] or (not good and count > 0):
                        corrected[f, x, y] = np.floor(median + 0.5) if whole else median


def hot_pixel_median(frames, /, *, threshold=5.0, unit=1.0, noise=0.0, mask=None):
    corrected, hot = np.empty(frames.shape, frames.dtype), np.empty(frames.shape, bool)
    flat = (-1, *frames.shape[-2:])
    numbers = float(threshold), float(unit), float(noise)
    valid = contiguous(mask, bool)
    whole = frames.dtype.kind in "iu"
    _correct(read_only(frames.reshape(flat)), valid, whole, *numbers, corrected.reshape(flat), hot.reshape(flat))
    return corrected, hot
