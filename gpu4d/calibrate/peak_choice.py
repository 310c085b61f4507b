"""Say how probable each way to index the disks of one crystal is: by their places, its zone axes, the pixel size and the ellipse.

ln P = −½ Σ (distance of a place from its ring / its error)² − what its zone axis does not explain − ½ (ln(q/q₀) / tolerance)²
− ½ (ln(a/b) / 3 %)² − 2 ln(area of a node) up to a constant, and 3 less for pixel sizes beyond the tolerance. The area of a node in
reciprocal space grows with |uvw| of the zone axis: an axis with small indices is the more likely one, by 1/|uvw|² (as many directions are
nearer to it than to others). Host by design: a few dozen places.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gpu4d import physics
from gpu4d.calibrate.peak_likelihood import disk_residuals
from gpu4d.calibrate.peak_rivals import ROUND, Places, all_indexings
from gpu4d.calibrate.peak_zones import Zone, nearest_zone
from gpu4d.calibrate.ring_index import known_rings, structures
from gpu4d.calibrate.ring_start import STRETCHES
from gpu4d.calibrate.stretch import undone
from gpu4d.errors import InputError
from gpu4d.structures import Structure

PLACED = 0.05  # px: places of disks are not more exact than this, by dynamical scattering and pixels
STRAINED = 0.002  # of the distance: the same by strain and rocking curves
FARTHEST = 3.0  # errors: a place farther from its ring is a false one, and counts no more
WRONG = 1.0  # of ln P for each reflection that is missing or not allowed: some are weak, and some come from double diffraction
EXPLAINED = 0.8  # of the places lie on the zone axis of some way to index them: else there are several crystals, and none tells
AREA = 2.0  # of ln P for the logarithm of the area of a node: the rarer zone axis has the larger one
BEYOND = 3.0  # of ln P: a pixel size that is off by more than its tolerance is twenty times less probable
NEAR = (1.0, 0.01)  # px, and part of the distance of the farthest place: a disk may lie so far from its reflection
STEPS = 4  # of Gauss-Newton
OTHER = 0.005  # of stretch and scale: another indexing, and no error of the fit
WEAKEST = 1e-7  # of the strongest ring: disks of weak reflections are as bright as others in thick crystals


class Way(NamedTuple):
    """A way to index disks: parameters (5,) as those of `fitted_disks`, and the logarithm of its probability up to a constant."""

    p: np.ndarray
    log: float

    @property
    def oval(self) -> float:
        return float(np.hypot(*self.p[2:4]))

    @property
    def pixel(self) -> float:
        return float(np.exp(self.oval - self.p[4]))


def ways_to_index(
    places: Places, known: Any, q_pixel: float | None, tolerance: float, pixel: tuple[float, float], energy: float | None
) -> list[Way]:
    """Return all ways to put the disks of one crystal on rings with a pixel size in a range, the most probable first.

    Parameters
    ----------
    places : Places
    known : Structure, str, or sequence of these
    q_pixel, tolerance : float or None, float
        Expected pixel size, 1/Å, and the part by which it may be off. None: all in the range are as probable.
    pixel : (float, float)
        Smallest and largest pixel size along the minor axis, 1/Å.
    energy : float or None
        eV.
    """
    far = float(np.hypot(*places.v.T).max())
    rings = known_rings(known, far * pixel[1] * np.exp(2 * STRETCHES), energy, WEAKEST)
    fits: list[Way] = []
    for start in all_indexings(places, rings.g, pixel, (1.0, np.inf) if q_pixel is None else (q_pixel, tolerance)):
        one = _improved(places, rings.g, np.array([0.0, 0.0, *start]))
        if one is not None and all(np.abs(one.p - other.p).max() > OTHER for other in fits):
            fits.append(one)
    if not fits:
        return []
    zones = _zones(places, fits, structures(known), energy)
    if max(1 - zone.strange / len(places.v) for zone in zones) < EXPLAINED:
        zones = [Zone(0, 0, 0)] * len(fits)
    off = [pixel_off(one.pixel, q_pixel, tolerance) for one in fits]
    rare = [-2 * AREA * float(one.p[4]) for one in fits]  # all have the same places, so areas are as the squares of the pixels
    logs = [one.log - WRONG * zone.wrong - 0.5 * (2 * one.oval / ROUND) ** 2 - o - r for one, zone, o, r in zip(fits, zones, off, rare)]
    return sorted((Way(one.p, float(log)) for one, log in zip(fits, logs)), key=lambda way: -way.log)


def pixel_off(pixel: float, q_pixel: float | None, tolerance: float) -> float:
    """Return by how much ln P is less, the farther a pixel size is from the expected one."""
    if q_pixel is None:
        return 0.0
    return 0.5 * float(np.log(pixel / q_pixel) / tolerance) ** 2 + (BEYOND if abs(q_pixel / pixel - 1) > tolerance else 0.0)


def _improved(places: Places, g: np.ndarray, p: np.ndarray) -> Way | None:
    """Fit stretch and scale to the places. Return them with the log likelihood of the places. None if the fit has no answer."""
    error = np.sqrt(PLACED**2 + (STRAINED * np.hypot(*places.v.T)) ** 2 + places.scatter**2 / places.disks)
    for _ in range(STEPS):
        off, jacobian, _, _ = disk_residuals(places.v, g, p)
        weight = np.where(np.abs(off) < FARTHEST * np.maximum(error, np.median(np.abs(off))), 1 / error**2, 0.0)
        normal = (jacobian[:, 2:] * weight[:, None]).T @ jacobian[:, 2:]
        if not np.linalg.cond(normal) < 1e12:  # also where no place counts
            return None
        p = p + np.array([0.0, 0.0, *np.linalg.solve(normal, -(jacobian[:, 2:] * weight[:, None]).T @ off)])
    off = disk_residuals(places.v, g, p)[0]
    return Way(p, -0.5 * float((np.minimum(np.abs(off) / error, FARTHEST) ** 2).sum()))


def _zones(places: Places, fits: list[Way], crystals: list[Structure], energy: float | None) -> list[Zone]:
    """Return the nearest zone axis of each way to index the disks."""
    undistorted = [_undistorted(places.v, one.p, energy) for one in fits]
    far = float(np.hypot(*places.v.T).max())
    near = [np.exp(-one.p[4]) * max(NEAR[0], NEAR[1] * far) for one in fits]
    longest = max(float(np.hypot(*w.T).max()) for w in undistorted) + max(near)
    try:
        reflections = [crystal.reflections(longest) for crystal in crystals]
    except InputError:  # so many reflections that any place is near one
        return [Zone(0, 0, 0)] * len(fits)
    return [
        min(
            (nearest_zone(w, _undistorted(places.seen, one.p, energy), n, r, c.rotations) for r, c in zip(reflections, crystals)),
            key=lambda zone: zone.wrong,
        )
        for one, w, n in zip(fits, undistorted, near)
    ]


def _undistorted(v: np.ndarray, p: np.ndarray, energy: float | None) -> np.ndarray:
    """Return g (n, 2), 1/Å, of places on the detector. A flat one shows |g| at tan(2θ)/λ."""
    w = np.exp(-p[4]) * (undone(p[2], p[3])[0] @ v.T).T
    if energy is None:
        return w
    wave, size = physics.wavelength(energy), np.maximum(np.hypot(*w.T), 1e-12)
    return w * (2 * np.sin(np.arctan(wave * size) / 2) / (wave * size))[:, None]
