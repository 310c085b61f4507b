"""Find detector pixels that are stuck or dead, in a mean pattern."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpu4d.arrays import ArrayLike, to_numpy

HOT = 4.0  # times the brightest neighbour: no disk and no edge of a disk is so steep
DEAD = 0.02  # times the darkest neighbour
SIGNIFICANCE = 8.0  # standard deviations of a difference, from the counts of all patterns


class BadPixels(NamedTuple):
    """Pixels that do not measure the electrons that hit them."""

    hot: np.ndarray  # (Qx, Qy) bool
    dead: np.ndarray  # (Qx, Qy) bool

    @property
    def mask(self) -> np.ndarray:
        """Detector mask of the pixels that can be used, (Qx, Qy) bool."""
        return ~(self.hot | self.dead)


def find_bad_pixels(mean: ArrayLike, patterns: int) -> BadPixels:
    """Find stuck and dead pixels of a mean pattern.

    A hot pixel is more than 4 times as bright as each of its eight neighbours. A dead pixel has less than 2 % of its darkest
    neighbour. In both cases the difference must be larger than the counting noise of the mean explains.

    Parameters
    ----------
    mean : (Qx, Qy) real
        Counts: an array of any library, or the mean pattern that a sweep gives. Pixels that are NaN (masked ones) are neither hot
        nor dead, and neither are their neighbours.
    patterns : int
        Number of patterns in the mean. It gives the counting noise of the mean.

    Returns
    -------
    BadPixels

    Examples
    --------
    >>> import numpy as np
    >>> from gpu4d.preprocess import find_bad_pixels
    >>> mean = np.full((8, 8), 10.0)
    >>> mean[2, 3], mean[5, 5] = 900.0, 0.0
    >>> bad = find_bad_pixels(mean, patterns=100)
    >>> np.argwhere(bad.hot).tolist(), np.argwhere(bad.dead).tolist()
    ([[2, 3]], [[5, 5]])
    """
    from scipy import ndimage

    mean = np.asarray(to_numpy(mean), dtype=np.float64)
    around = np.ones((3, 3), bool)
    around[1, 1] = False
    known = np.isfinite(mean)
    brightest = ndimage.maximum_filter(np.where(known, mean, -np.inf), footprint=around, mode="constant", cval=-np.inf)
    darkest = ndimage.minimum_filter(np.where(known, mean, np.inf), footprint=around, mode="constant", cval=np.inf)
    neighbours = np.isfinite(brightest) & np.isfinite(darkest) & known
    value, low, high = (np.where(neighbours, x, 0.0) for x in (mean, darkest, brightest))
    sigma = SIGNIFICANCE * np.sqrt(np.maximum(value, 0) / patterns)
    hot = neighbours & (value > HOT * np.maximum(high, 0)) & (value - HOT * np.maximum(high, 0) > sigma)
    dead = neighbours & (value < DEAD * low) & (low > SIGNIFICANCE * np.sqrt(np.maximum(low, 0) / patterns))
    return BadPixels(hot, dead)
