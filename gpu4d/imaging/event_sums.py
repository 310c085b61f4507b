"""Sums of the events of counted patterns, without patterns: by pattern, by pixel, and by both for chosen pixels.

The events of pattern i are those from ``offsets[i]`` to ``offsets[i + 1]``, as in `gpu4d.data.Events`. Each names a pixel and, unless
`counts` is None, says how often it was struck. A pixel may come more than once, in any order. All sums are exact.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from gpu4d import arrays
from gpu4d.operation import Twin, operation

TWIN = Twin("gpu4d.cpu_fallback.event_sums", ("int64",))


@operation(cpu=TWIN)
def event_sums(offsets: Any, pixels: Any, counts: Any, weights: Any, /) -> Any:
    """Sum the events of every pattern, weighted by their pixel.

    S[i, k] = Σ counts[e] · weights[pixels[e], k] over the events e of pattern i. Weights of 0 and 1 are masks, weights qx and qy give first
    moments.

    Parameters
    ----------
    offsets : (n + 1,) int64
        The first is 0.
    pixels : (m,) int
        Numbers qx · Qy + qy.
    counts : (m,) int or None
    weights : (Qx · Qy, k) int64

    Returns
    -------
    (n, k) int64

    Examples
    --------
    >>> import numpy as np
    >>> event_sums(np.array([0, 2, 3]), np.array([1, 1, 2]), None, np.array([[5, 1], [6, 1], [7, 1]])).tolist()
    [[12, 2], [7, 1]]
    """
    xp = arrays.namespace(offsets, pixels, weights)
    columns = []
    for k in range(weights.shape[1]):  # one after the other, which keeps the memory small
        values = xp.take(weights[:, k], xp.astype(pixels, xp.int64))
        running = xp.cumulative_sum(_times(values, counts), include_initial=True)
        ends = xp.take(running, offsets)
        columns.append(ends[1:] - ends[:-1])
    return xp.stack(columns, axis=-1)


@operation(cpu=TWIN)
def event_patterns(offsets: Any, pixels: Any, counts: Any, size: int, /) -> tuple[Any, Any]:
    """Sum the events of every pixel over all patterns, and find the most that one pattern has at it.

    Parameters
    ----------
    offsets : (n + 1,) int64
        The first is 0.
    pixels : (m,) int
    counts : (m,) int or None
    size : int
        Pixels of the detector.

    Returns
    -------
    total, largest : (size,) int64

    Examples
    --------
    >>> import numpy as np
    >>> [found.tolist() for found in event_patterns(np.array([0, 3, 4]), np.array([1, 1, 2, 1]), None, 3)]
    [[0, 3, 1], [0, 2, 1]]
    """
    xp = arrays.namespace(offsets, pixels)
    total = xp.zeros((size,), dtype=xp.int64, device=arrays.device(offsets))
    largest = xp.zeros((size,), dtype=xp.int64, device=arrays.device(offsets))
    pixels = xp.astype(pixels, xp.int64)
    for first, last in _ranges(offsets):
        one = _times(xp.ones((last - first,), dtype=xp.int64, device=arrays.device(offsets)), _part(counts, first, last))
        pattern = xp.astype(arrays.scatter_add(arrays.as_float64(one), pixels[first:last], size), xp.int64)
        total, largest = total + pattern, xp.maximum(largest, pattern)
    return total, largest


@operation(cpu=TWIN)
def event_images(offsets: Any, pixels: Any, counts: Any, rows: Any, images: int, dtype: str, /) -> tuple[Any, Any]:
    """Make the images of chosen pixels: how often each was struck in every pattern.

    Parameters
    ----------
    offsets : (n + 1,) int64
        The first is 0.
    pixels : (m,) int
    counts : (m,) int or None
    rows : (Qx · Qy,) int64
        Number of the image of each pixel; -1 for pixels that are in none.
    images : int
        Number of images.
    dtype : str
        Name of the dtype of the images.

    Returns
    -------
    found : (images, n), of that dtype
        Counts that it does not hold are wrong.
    largest : (1,) int64
        The largest count, which the dtype must hold.

    Examples
    --------
    >>> import numpy as np
    >>> [a.tolist() for a in event_images(np.array([0, 2, 3]), np.array([1, 1, 2]), None, np.array([-1, 0, 1]), 2, "uint8")]
    [[[2, 0], [0, 1]], [2]]
    """
    xp = arrays.namespace(offsets, pixels, rows)
    found, pixels, where = [], xp.astype(pixels, xp.int64), arrays.device(offsets)
    for first, last in _ranges(offsets):
        row = xp.take(rows, pixels[first:last])
        one = _times(xp.ones((last - first,), dtype=xp.int64, device=where), _part(counts, first, last))
        found.append(xp.astype(arrays.scatter_add(arrays.as_float64(one), row, images), xp.int64))
    whole = xp.stack(found, axis=-1) if found else xp.zeros((images, 0), dtype=xp.int64, device=where)
    none = xp.zeros((1,), dtype=xp.int64, device=where)
    largest = xp.max(xp.concat([none, xp.reshape(whole, (-1,))]))
    return xp.astype(whole, getattr(xp, dtype)), xp.reshape(largest, (1,))


def _times(values: Any, counts: Any) -> Any:
    return values if counts is None else values * arrays.namespace(values).astype(counts, values.dtype)


def _part(counts: Any, first: int, last: int) -> Any:
    return None if counts is None else counts[first:last]


def _ranges(offsets: Any) -> list[tuple[int, int]]:
    """Return where the events of each pattern begin and end."""
    ends = arrays.to_numpy(offsets).tolist()
    return list(pairwise(ends))
