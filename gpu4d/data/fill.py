"""Fill pixels that must not be used."""

from __future__ import annotations

import math

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike, ReturnedArray
from gpu4d.data.arguments import pixel_mask
from gpu4d.errors import InputError
from gpu4d.real_arrays import real_array


def fill_from_neighbours(patterns: ArrayLike, mask: ArrayLike | None) -> ReturnedArray:
    """Give masked pixels the value of their nearest good pixel.

    Parameters
    ----------
    patterns : (..., Qx, Qy) array
    mask : (Qx, Qy) bool or None
        True where a pixel is good. None fills nothing.

    Returns
    -------
    (..., Qx, Qy) array
        A copy with filled pixels, or `patterns` itself without a mask; in the namespace and on the device of `patterns`.

    Examples
    --------
    >>> import numpy as np
    >>> from gpu4d.preprocess import fill_from_neighbours
    >>> fill_from_neighbours(np.array([[1, 2, 9]]), np.array([[True, True, False]])).tolist()
    [[1, 2, 2]]
    """
    values = real_array(patterns, "patterns", "an array (..., Qx, Qy)")
    if mask is None:
        return values
    shape = tuple(values.shape)
    good = pixel_mask(mask, shape[-2:], "mask")
    assert good is not None
    if not good.any():
        raise InputError("mask leaves no pixel to take values from: True marks pixels that are good")
    x, y = nearest_good_pixels(good)
    if isinstance(values, np.ndarray):
        return values[..., x, y]
    xp, places = arrays.namespace(values), arrays.from_numpy((x * shape[-1] + y).astype(np.int64).ravel(), values)
    flat = xp.reshape(values, (*shape[:-2], math.prod(shape[-2:])))
    return xp.reshape(xp.take(flat, places, axis=-1), shape)


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
