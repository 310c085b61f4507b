"""Find the bad pixels of a pattern that shows the beam: whether it makes a disk or spots says which bright groups are none of it."""

from __future__ import annotations

import numpy as np

from gpu4d.data.bad_pixels import BadPixels, find_bad_pixels
from gpu4d.probe.measure_disk import measure_disk
from gpu4d.probe.small_disk import SMALL

STEEP = 0.5  # radii: largest width of the edge of a disk; a halo has a wider one
FILLED = 0.6  # of the mean near the edge: the middle of a disk is as bright, that of a ring is not
NEAR_CENTRE = 2.5  # px
ROUND = 0.15  # radii: largest rms distance of its edge from a circle


def bad_pixels_beside_beam(mean: np.ndarray, patterns: int, maximum: np.ndarray | None = None, error: float = 0.0) -> BadPixels:
    """Find bad pixels with `find_bad_pixels`, and decide from the pattern whether the beam makes disks.

    Parameters
    ----------
    mean, maximum : (Qx, Qy) float64
        Over the patterns. NaN where a pixel is masked.
    patterns : int
    error : float
        As for `find_bad_pixels`.

    Returns
    -------
    BadPixels

    Examples
    --------
    >>> from gpu4d.probe import synthetic
    >>> mean = 100 * synthetic((40, 40), 6.0)
    >>> mean[4:6, 4:6] = 5000.0
    >>> np.argwhere(bad_pixels_beside_beam(mean, patterns=10).hot).tolist()
    [[4, 4], [4, 5], [5, 4], [5, 5]]
    """
    found = find_bad_pixels(mean, patterns, maximum, error=error)
    more = find_bad_pixels(mean, patterns, maximum, disks=True, error=error)
    new = more.hot & ~found.hot
    return more if new.any() and _shows_a_disk(mean, more.mask & np.isfinite(mean), new) else found


def _shows_a_disk(mean: np.ndarray, good: np.ndarray, hot: np.ndarray) -> bool:
    """Say whether the brightest region of a pattern is a filled disk with an edge, and not the ring of a halo about a spot."""
    try:
        disk = measure_disk(mean, good)
    except ValueError:  # InputError, or a fit that failed
        return False
    away = np.hypot(np.arange(mean.shape[0])[:, None] - disk.qx, np.arange(mean.shape[1]) - disk.qy) / disk.radius
    inner, outer = (mean[good & part] for part in (away < 0.5, (away > 0.6) & (away < 0.9)))
    filled = inner.size > 0 and outer.size > 0 and inner.mean() > FILLED * outer.mean()
    beam = bool((hot & (away * disk.radius < NEAR_CENTRE)).any())  # the direct beam itself, in the middle of a halo
    return filled and not beam and disk.radius >= SMALL and disk.residual <= ROUND * disk.radius and disk.edge < STEEP * disk.radius
