"""Judge the bright-field disk of a mean pattern: is it one, and how many counts lie at the edge of the detector?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import host_image
from gpu4d.data.storable import Storable
from gpu4d.on_host import on_host
from gpu4d.probe.measure_disk import Disk

ROUND = 0.15  # share of the radius: an edge farther from a circle is not that of a bright-field disk
LEAST_ROUND = 1.0  # px: pixels alone make the edge of a small disk this uneven
RIM = 0.04  # of the shorter side of the detector: the strip along its edge
INSIDE = 0.7  # of the radius: the disk's plateau


def is_round(disk: Disk) -> bool:
    """Say whether a measured disk is round enough for a bright-field disk.

    Examples
    --------
    >>> from gpu4d.calibrate import is_round
    >>> from gpu4d.probe import Disk
    >>> is_round(Disk(32, 32, 10, 1, residual=0.3)), is_round(Disk(32, 32, 10, 1, residual=4.0))
    (True, False)
    """
    return disk.residual <= max(LEAST_ROUND, ROUND * disk.radius)


class _EdgeBackground(NamedTuple):
    level: float  # median of the strip along the edge, counts
    share: float  # of the mean level inside the bright-field disk; infinite if that level is not positive


class EdgeBackground(_EdgeBackground, Storable):
    """Counts at the edge of the detector, in detector units and relative to the bright-field disk."""

    __slots__ = ()


@on_host("image")
def edge_background(mean: ArrayLike, disk: Disk) -> EdgeBackground | None:
    """Compare the edge of the detector with the bright-field disk.

    Parameters
    ----------
    mean : (Qx, Qy) real
        Mean pattern. NaN pixels are left out.
    disk : Disk

    Returns
    -------
    EdgeBackground or None
        None where all pixels of the edge or of the disk are NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from gpu4d.calibrate import edge_background
    >>> from gpu4d.probe import Disk
    >>> mean = np.ones((50, 50))
    >>> mean[15:35, 15:35] = 200.0
    >>> edge_background(mean, Disk(25, 25, 10, 1, 0.1))
    EdgeBackground(level=1.0, share=0.005)
    """
    mean = host_image(mean, "mean").astype(np.float64)
    width = max(1, round(RIM * min(mean.shape)))
    x, y = (np.arange(n) for n in mean.shape)
    rim = np.minimum(np.minimum(x, x[::-1])[:, None], np.minimum(y, y[::-1])[None, :]) < width
    inside = np.hypot(x[:, None] - disk.qx, y[None, :] - disk.qy) < INSIDE * disk.radius
    if not (np.isfinite(mean[rim]).any() and np.isfinite(mean[inside]).any()):
        return None
    level, top = float(np.nanmedian(mean[rim])), float(np.nanmean(mean[inside]))
    return EdgeBackground(level, level / top if top > 0 else np.inf)
