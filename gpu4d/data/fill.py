"""Fill pixels that must not be used."""

from __future__ import annotations

import numpy as np


def fill_from_neighbours(patterns: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Give masked pixels the value of their nearest good pixel.

    Parameters
    ----------
    patterns : (..., Qx, Qy) array
    mask : (Qx, Qy) bool or None
        True where a pixel is good. None fills nothing.

    Returns
    -------
    (..., Qx, Qy) array
        A copy with filled pixels, or `patterns` itself without a mask.

    Examples
    --------
    >>> import numpy as np
    >>> from gpu4d.preprocess import fill_from_neighbours
    >>> fill_from_neighbours(np.array([[1, 2, 9]]), np.array([[True, True, False]])).tolist()
    [[1, 2, 2]]
    """
    if mask is None:
        return patterns
    x, y = nearest_good_pixels(mask)
    return patterns[..., x, y]


def nearest_good_pixels(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest good pixel of every pixel.

    Parameters
    ----------
    mask : (Qx, Qy) bool
        True where a pixel is good; at least one is.

    Returns
    -------
    x, y : (Qx, Qy) int
        Its place; a good pixel is its own. Of several at the same distance one is taken, the same one each time.

    Examples
    --------
    >>> x, y = nearest_good_pixels(np.array([[True, True, False]]))
    >>> x.tolist(), y.tolist()
    ([[0, 0, 0]], [[0, 1, 1]])
    """
    from scipy import ndimage

    x, y = ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True)
    return x, y
