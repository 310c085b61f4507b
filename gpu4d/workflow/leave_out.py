"""Leave bad detector pixels out of all results through the detector mask."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpu4d import arrays
from gpu4d.data.bad_pixels import HOT, BadPixels, find_nan_pixels
from gpu4d.data.datacube import DataCube
from gpu4d.data.sample import grid_positions, patterns_at
from gpu4d.probe.bad_pixels_beside_beam import bad_pixels_beside_beam

MAX_SHARE = 0.10  # of the detector, gaps between its modules included: if more pixels look bad, they are not defects
TRIED = 16  # patterns that are read before the first pass, to find pixels that are NaN
LISTED = 6  # number of pixels that are named


class LeftOut(NamedTuple):
    """A scan without its bad pixels, and what was left out, for people."""

    cube: DataCube
    said: str


class Suspects(NamedTuple):
    """Pixels that look stuck or dead in a mean pattern.

    Attributes
    ----------
    pixels : (Qx, Qy) bool
    why : str
        How many of which kind, for people.
    too_many : str
        Why all are used, if there are too many to be defects. Else empty.
    found : BadPixels
    """

    pixels: np.ndarray
    why: str
    too_many: str
    found: BadPixels


def leave_out(cube: DataCube, bad: np.ndarray) -> LeftOut | None:
    """Exclude pixels through the detector mask. Return None if none of them counted so far.

    Parameters
    ----------
    cube : DataCube
        Stays as it is. The new cube shares its calibration.
    bad : (Qx, Qy) bool
    """
    mask = cube.detector_mask
    new = bad if mask is None else bad & mask
    number = int(new.sum())
    if not number:
        return None
    listed = ", ".join(f"({x}, {y})" for x, y in np.argwhere(new)[:LISTED]) + (", …" if number > LISTED else "")
    said = f"{number} detector pixel{'s are' if number > 1 else ' is'} left out: {listed}"
    return LeftOut(DataCube(cube.source, cube.calibration, cube.metadata, ~new if mask is None else mask & ~new, cube.name), said)


def nan_in_most(cube: DataCube, where: np.ndarray | None = None) -> tuple[np.ndarray, str]:
    """Return the pixels (Qx, Qy) that are NaN in most of a few patterns, and why they are bad. No pattern has a sum with them.

    Parameters
    ----------
    cube : DataCube
        Nothing is read of a scan of integers, which has no NaN.
    where : (Rx, Ry) bool, optional
        Positions to look at. None for all.
    """
    why = f"NaN or infinite in most of {TRIED} patterns spread over the scan"
    if arrays.is_integer_dtype(cube.dtype):
        return np.zeros(cube.detector_shape, bool), why
    visited = np.ones(cube.scan_shape, bool) if where is None else where
    return find_nan_pixels(arrays.to_numpy(patterns_at(cube, grid_positions(visited, TRIED)))), why


def bad_beside_beam(mean: np.ndarray, patterns: int, maximum: np.ndarray, error: float = 0.0) -> Suspects:
    """Find pixels that are stuck or dead, and say whether they are few enough to be defects.

    Parameters
    ----------
    mean, maximum : (Qx, Qy) float64
        Over the patterns. NaN where a pixel is masked.
    patterns : int
    error : float
        Standard error of a pixel of the mean without counts, where a background was subtracted.
    """
    found = bad_pixels_beside_beam(mean, patterns, maximum, error)
    pixels, bright, dark = ~found.mask, int(found.hot.sum()), int(found.dead.sum())
    why = f"{bright} hot (above {HOT:g} times what is around them, or stuck at one value), {dark} dead or in a gap of the detector"
    number, too_many = int(pixels.sum()), ""
    if pixels.mean() > MAX_SHARE:
        too_many = f"{number} detector pixels look stuck or dead: these are too many to be defects, and all are used"
    return Suspects(pixels, why, too_many, found)
