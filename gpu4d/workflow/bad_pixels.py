"""Detector pixels that are stuck or dead: found in the mean pattern, left out of everything through the detector mask."""

from __future__ import annotations

import numpy as np

from gpu4d.data.datacube import DataCube
from gpu4d.workflow.analysis import Analysis

HOT = 4.0  # times the brightest neighbour: no disk, and no edge of one, falls so steeply
DEAD = 0.02  # of the darkest neighbour
SIGNIFICANCE = 8.0  # of the difference, from the counts of all patterns
MOST = 0.005  # of the detector: more is no defect but the way this detector writes


def leave_out(a: Analysis) -> bool:
    """Mask bad pixels of the mean pattern; True where there were any, and what was summed with them is to be summed again."""
    if a.recipe.input.bad_pixels == "keep":
        return False
    hot, dead = find(np.asarray(a.products["mean_pattern"], dtype=np.float64), a.patterns)
    bad = hot | dead
    if not bad.any():
        return False
    if bad.mean() > MOST:
        a.record.warn(f"{int(bad.sum())} detector pixels look stuck or dead: too many to be defects, all are used")
        return False
    mask = ~bad if a.cube.detector_mask is None else a.cube.detector_mask & ~bad
    a.cube = DataCube(a.cube.source, a.calibration, a.cube.metadata, mask, a.cube.name)
    listed = ", ".join(f"({x}, {y})" for x, y in np.argwhere(bad)[:6]) + (", …" if bad.sum() > 6 else "")
    what = f"{int(bad.sum())} detector pixel{'s are' if bad.sum() > 1 else ' is'} left out: {listed}"
    why = f"{int(hot.sum())} brighter than {HOT:g} times every neighbour in the mean pattern, {int(dead.sum())} dark among bright ones"
    a.record.decide(what, why)
    return True


def filled(patterns: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Patterns (n, Qx, Qy) whose masked pixels have the value of their nearest good neighbour."""
    from scipy import ndimage

    if mask is None:
        return patterns
    x, y = ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True)
    return patterns[:, x, y]


def find(mean: np.ndarray, patterns: int) -> tuple[np.ndarray, np.ndarray]:
    """Stuck and dead pixels of a mean pattern (Qx, Qy), as two bool images; masked pixels (NaN) are neither.

    Parameters
    ----------
    mean : (Qx, Qy) float64
        Counts.
    patterns : int
        How many it is the mean of: what a difference means depends on the counts behind it.
    """
    from scipy import ndimage

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
    return hot, dead
