"""Sum events (CPU twins), pattern by pattern: each event is looked at once, and nothing of the size of the events is made."""

from __future__ import annotations

import numpy as np

from gpu4d.compiled import contiguous, entry


@entry()
def _by_pattern(offsets, pixels, counts, weights, out):
    for i in range(out.shape[0]):
        for e in range(offsets[i], offsets[i + 1]):
            at = np.int64(pixels[e])
            times = np.int64(1) if counts is None else np.int64(counts[e])
            for k in range(out.shape[1]):
                out[i, k] += times * weights[at, k]


@entry()
def _by_pixel(offsets, pixels, counts, struck, total, largest):
    """`struck` is 0 everywhere, before and after."""
    for i in range(offsets.shape[0] - 1):
        for e in range(offsets[i], offsets[i + 1]):
            struck[pixels[e]] += np.int64(1) if counts is None else np.int64(counts[e])
        for e in range(offsets[i], offsets[i + 1]):
            at = np.int64(pixels[e])
            total[at] += struck[at]
            largest[at] = max(largest[at], struck[at])
            struck[at] = 0


@entry()
def _by_both(offsets, pixels, counts, rows, struck, out):
    """`struck` is 0 for every row, before and after. Returns the largest count."""
    largest = np.int64(0)
    for i in range(out.shape[1]):
        for e in range(offsets[i], offsets[i + 1]):
            row = rows[pixels[e]]
            if row >= 0:
                struck[row] += np.int64(1) if counts is None else np.int64(counts[e])
        for e in range(offsets[i], offsets[i + 1]):
            row = rows[pixels[e]]
            if row >= 0 and struck[row] != 0:
                largest = max(largest, struck[row])
                out[row, i] = struck[row]
                struck[row] = 0
    return largest


def event_sums(offsets, pixels, counts, weights, /):
    out = np.zeros((len(offsets) - 1, weights.shape[1]), np.int64)
    _checked(pixels, len(weights))
    _by_pattern(contiguous(offsets), contiguous(pixels), _given(counts), contiguous(weights, np.int64), out)
    return out


def event_patterns(offsets, pixels, counts, size, /):
    struck, total, largest = np.zeros((3, size), np.int64)
    _checked(pixels, size)
    _by_pixel(contiguous(offsets), contiguous(pixels), _given(counts), struck, total, largest)
    return total, largest


def event_images(offsets, pixels, counts, rows, images, dtype, /):
    out = np.zeros((images, len(offsets) - 1), dtype)
    _checked(pixels, len(rows))
    largest = _by_both(contiguous(offsets), contiguous(pixels), _given(counts), contiguous(rows, np.int64), np.zeros(images, np.int64), out)
    return out, np.array([largest], np.int64)


def _given(counts):
    return None if counts is None else contiguous(counts)


def _checked(pixels, size):
    """Refuse pixels outside of the detector, which compiled code would take from elsewhere in memory."""
    if len(pixels) and not (0 <= int(pixels.min()) and int(pixels.max()) < size):
        raise IndexError(f"pixels run from {pixels.min()} to {pixels.max()}, the detector has {size}")
