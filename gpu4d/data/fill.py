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
    from scipy import ndimage

    if mask is None:
        return patterns
    x, y = ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True)
    return patterns[..., x, y]
