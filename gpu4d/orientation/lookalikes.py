"""Say where orientations expect spots, and what the background between them is.

Both serve to decide between orientations whose strong spots agree, by the counts at all places where they expect electrons.

Twins about an axis across the beam, for example, share all reflections of one zone and differ in others far from the Ewald sphere. Each
of those has a few electrons, less than what makes a disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d import arrays, physics
from gpu4d.orientation.library import OrientationLibrary, excitation_error
from gpu4d.orientation.spot_likelihood import disk_offsets

FAR_REACH = 8.0  # 1/t: farther subsidiary maxima of the shape factor have less than 0.2 % of the first
FREE = 1.0  # px beyond the radius that are not counted as background


@dataclass(frozen=True, eq=False)
class Spots:
    """Spots that orientations expect, as flat lists.

    Attributes
    ----------
    owner : (k,) int64
        Number of the orientation.
    place : (k, 2) float64
        px.
    height : (k,) float64
        Counts per pixel in the disk.
    """

    owner: np.ndarray
    place: np.ndarray
    height: np.ndarray

    @property
    def table(self) -> np.ndarray:
        """x, y and height of each spot, (k, 3)."""
        return np.concatenate([self.place, self.height[:, None]], axis=-1)


def expected_spots(
    turns: np.ndarray, scale: np.ndarray, library: OrientationLibrary, origin: np.ndarray, matrix: np.ndarray, least: float = 0.0
) -> Spots:
    """Return the spots of orientations (n, 3, 3) of one phase, by the kinematical theory of a slab.

    Parameters
    ----------
    turns, scale : (n, 3, 3), (n,)
        Orientation, and square root of the intensity of a reflection with |F| = 1 on the Ewald sphere.
    library : OrientationLibrary
    origin : (n, 2)
        px.
    matrix : (2, 2)
        v_lab = matrix (v − origin).
    least : float
        Spots that are not higher are left out.
    """
    lab = np.swapaxes(turns @ library.g.T, -1, -2)
    s = excitation_error(lab, 1 / physics.wavelength(library.energy)) * library.thickness
    height = (scale[:, None] * library.factor) ** 2 * np.sinc(s) ** 2
    owner, which = np.nonzero((height > least) & (np.abs(s) < FAR_REACH))
    place = lab[owner, which, :2] @ np.linalg.inv(matrix).T + origin[owner]
    return Spots(owner, place, height[owner, which])


def free_pixels(shape: tuple[int, int], count: int, owner: np.ndarray, places: np.ndarray, radius: float) -> np.ndarray:
    """Return (count, Qx, Qy) bool: True for pixels of patterns that are in no disk. `owner` is the pattern of each disk."""
    free = np.ones((count, *shape), bool)
    at = np.rint(places)[:, None].astype(np.int64) + disk_offsets(radius + FREE)
    inside = ((at >= 0) & (at < shape)).all(axis=-1)
    number = np.broadcast_to(owner[:, None], inside.shape)
    free[number[inside], at[inside][:, 0], at[inside][:, 1]] = False
    return free


def radial_background(patterns: Any, free: np.ndarray, origin: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Return sums of counts (bins,) and numbers of pixels (bins,) by whole-pixel distance from the origin, of pixels in no disk."""
    counts = arrays.to_numpy(patterns)
    x, y = (np.arange(n)[None, :] - origin[:, i, None] for i, n in enumerate(counts.shape[1:]))
    ring = np.sqrt(x[:, :, None] ** 2 + y[:, None, :] ** 2)
    good = free & (np.isfinite(counts) if counts.dtype.kind == "f" else True)
    ring, counts = np.rint(ring[good]).astype(np.int64), counts[good]
    ring = np.minimum(ring, bins - 1)
    return np.bincount(ring, counts, bins), np.bincount(ring, minlength=bins).astype(np.float64)
