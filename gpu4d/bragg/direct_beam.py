"""Find the direct beam among the disks of a mean pattern: diffracted disks come in Friedel pairs on both sides of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.bragg.find_bragg_disks import BraggDisks
from gpu4d.data.arguments import host_image, measured_pixels
from gpu4d.data.datacube import DataCube
from gpu4d.data.storable import Storable
from gpu4d.on_host import on_host
from gpu4d.operation import using
from gpu4d.probe.template_kernel import TemplateLike

LEAST_HEIGHT = 0.01  # of the strongest disk: weaker disks are not compared
MOST_DISKS = 60
LEAST_PAIRS = 3  # fewer pairs do not show a centre
PARTNER = 0.5  # radii, at least `LEAST_APART`: largest distance of a disk from the place of its partner
LEAST_APART = 1.5  # px
ALIKE = 0.25  # logarithm of a ratio of intensities: the pairs about a centre of symmetry differ less, in the median
CLEARER = 0.2  # by how much more the pairs about the brightest disk must differ, for another centre to be taken
FAINTEST = 0.05  # of the brightest disk: a direct beam is not weaker


class _DirectBeam(NamedTuple):
    qx: float
    qy: float
    hidden: bool
    difference: float
    brightest: tuple[float, float]
    brightest_difference: float
    pairs: int


class DirectBeam(_DirectBeam, Storable, stored="qx qy brightest: [px]"):
    """Centre of the Friedel symmetry of a mean pattern.

    Attributes
    ----------
    qx, qy : float
        Centre, detector pixels: that of a disk, or of the place where the beam would be if it is hidden.
    hidden : bool
        True if no disk lies there, as behind a beam stop.
    difference : float
        Median difference of the two disks of a pair, as the logarithm of the ratio of their intensities.
    brightest : (float, float)
        Centre of the brightest disk, detector pixels.
    brightest_difference : float
        As `difference`, about the brightest disk.
    pairs : int
        Pairs that were compared.
    """

    __slots__ = ()


@on_host("image")
def direct_beam(mean: ArrayLike, template: TemplateLike, mask: np.ndarray | None = None) -> DirectBeam | None:
    """Find the centre of symmetry of a mean pattern, if it is clear that this is not the brightest disk.

    In a two-beam condition a diffracted disk is brighter than the direct beam, and behind a beam stop the direct beam is not seen. The
    other disks tell it: those on opposite sides of the direct beam are alike in the mean over a scan.

    Parameters
    ----------
    mean : (Qx, Qy) real
        Mean pattern.
    template : Template or (Qx, Qy) array
        As for `find_bragg_disks`.
    mask : (Qx, Qy) bool, optional
        True where the detector counts.

    Returns
    -------
    DirectBeam or None
        None if the brightest disk is the centre of symmetry, or if the disks do not tell.

    Examples
    --------
    >>> import gpu4d
    >>> spot = lambda x, y: gpu4d.probe.synthetic((88, 88), 4.0, center=(x, y))
    >>> at = (20, 32, 44, 56, 68)
    >>> mean = sum(40 * np.exp(-np.hypot(x - 44, y - 44) / 15) * spot(x, y) for x in at for y in at)
    >>> mean += 60 * spot(44, 44) + 280 * spot(56, 44)
    >>> found = direct_beam(mean, spot(44, 44))
    >>> round(found.qx), round(found.qy), found.hidden
    (44, 44, False)
    """
    image = host_image(mean, "mean").astype(np.float64)
    search = BraggDisks(
        template, refine="parabola", min_significance=0.0, min_relative_intensity=LEAST_HEIGHT, max_peaks=MOST_DISKS, parameters=6
    )
    mask = measured_pixels(image, mask)
    if not mask.any():
        return None
    with using("definition"):  # one pattern is not worth compiling anything
        cube = DataCube(np.where(mask, image, 0.0)[None, None], detector_mask=None if mask.all() else mask)
        disks = search.at(cube, [(0, 0)])[0]
    at, light = np.stack([np.asarray(disks.qx), np.asarray(disks.qy)], -1), np.asarray(disks.intensity)
    keep = np.isfinite(light) & (light > LEAST_HEIGHT * np.max(light, initial=0.0))
    at, light = at[keep], light[keep]
    if len(at) < 2 * LEAST_PAIRS + 1:
        return None
    return _choose(at, light, mask, search.template.radius)


def _choose(at: np.ndarray, light: np.ndarray, mask: np.ndarray, radius: float) -> DirectBeam | None:
    """Compare the centres of symmetry: disks, and the middles of two disks."""
    first = int(np.argmax(light))
    about_brightest, pairs = _difference(at[first], at, light, mask, radius)
    if pairs < LEAST_PAIRS:
        return None
    i, j = np.triu_indices(len(at), 1)
    centres = np.concatenate([at, (at[i] + at[j]) / 2])
    best, found = about_brightest, None
    for centre in centres:
        difference, number = _difference(centre, at, light, mask, radius)
        away = np.hypot(*(at - centre).T)
        near = int(np.argmin(away))
        hidden = bool(away[near] > radius)
        if number < LEAST_PAIRS or (near == first and not hidden) or (not hidden and light[near] < FAINTEST * light[first]):
            continue
        if difference < best and difference <= ALIKE and about_brightest >= difference + CLEARER:
            place = centre if hidden else at[near]
            best = difference
            seen = float(at[first, 0]), float(at[first, 1])
            found = DirectBeam(float(place[0]), float(place[1]), hidden, difference, seen, about_brightest, number)
    return found


def _difference(centre: np.ndarray, at: np.ndarray, light: np.ndarray, mask: np.ndarray, radius: float) -> tuple[float, int]:
    """Return the median |log of the ratio of intensities| of disks and their partners, and the number of pairs.

    A disk without a partner is compared with the faintest disk. Left out are the disk at the centre, and disks whose partner would lie
    outside of the detector or on masked pixels.
    """
    partner = 2 * centre - at
    inside = ((partner >= radius) & (partner <= np.array(mask.shape) - 1 - radius)).all(axis=1)
    cell = np.clip(np.rint(partner).astype(int), 0, np.array(mask.shape) - 1)
    used = inside & mask[tuple(cell.T)] & (np.hypot(*(at - centre).T) > radius)
    if not used.any():
        return np.inf, 0
    away = np.hypot(*(partner[used][:, None] - at[None]).transpose(2, 0, 1))
    near = np.argmin(away, axis=1)
    seen = away[np.arange(len(near)), near] <= max(LEAST_APART, PARTNER * radius)
    other = np.where(seen, light[near], light.min())
    difference = np.abs(np.log(light[used] / other))
    return float(np.median(difference)), int(used.sum()) // 2
