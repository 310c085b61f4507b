"""Find the brightest ring of a mean pattern: what amorphous and fine-grained specimens have instead of Bragg disks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import host_image, measured_pixels
from gpu4d.data.storable import Storable
from gpu4d.on_host import on_host

SECTORS = 12  # of 30°: how even the ring is follows from their means
CONTRAST = 1.15  # times the darkest level inside, and outside, of the ring: less is no ring
EVEN = 0.4  # of the mean, rms over the sectors: Bragg disks of one crystal have 0.7 and more
SMOOTH = 1.0  # px: the profile is smoothed by so much
SHARP = 0.15  # of the radius: first rings of glasses are 0.2 to 0.35 wide, those of gold in a small beam 0.1


class _Ring(NamedTuple):
    radius: float
    contrast: float
    unevenness: float
    width: float = float("inf")


class Ring(_Ring, Storable, stored="radius: [px], width: [px]"):
    """A ring of a mean pattern.

    Attributes
    ----------
    radius : float
        Pixels.
    contrast : float
        Its brightness over the darkest level between it and the beam, or outside if that is brighter.
    unevenness : float
        Rms difference of twelve sectors from their mean, as a part of the mean.
    width : float
        Full width at half of its height above the darkest level beside it, pixels. Infinite if it is not known.
    """

    __slots__ = ()

    @property
    def sharp(self) -> bool:
        """True if the ring is too narrow for a glass: it is of many small crystals."""
        return self.width < SHARP * self.radius


@on_host("image")
def find_ring(mean: ArrayLike, center: tuple[float, float], start: float, mask: np.ndarray | None = None) -> Ring | None:
    """Find the brightest even ring about a centre.

    Parameters
    ----------
    mean : (Qx, Qy) real
        Mean pattern. NaN pixels do not count.
    center : (float, float)
        Of the beam, pixels.
    start : float
        Radius from which to look, pixels: outside of the bright-field disk.
    mask : (Qx, Qy) bool, optional
        True where the detector counts.

    Returns
    -------
    Ring or None
        None if no ring stands out, or if it consists of disks in a few directions, as in a crystal.

    Examples
    --------
    >>> x, y = np.mgrid[:64, :64]
    >>> r = np.hypot(x - 32, y - 32)
    >>> ring = find_ring(np.exp(-(((r - 20) / 3) ** 2)) + 0.1, (32, 32), 4.0)
    >>> round(ring.radius), ring.unevenness < 0.1
    (20, True)
    """
    from scipy import ndimage

    image = host_image(mean, "mean").astype(np.float64)
    good = measured_pixels(image, mask)
    dx, dy = (np.arange(n) - c for n, c in zip(image.shape, center))
    r, angle = np.hypot(dx[:, None], dy), np.arctan2(dx[:, None], dy)
    end = int(min(center[0], center[1], image.shape[0] - 1 - center[0], image.shape[1] - 1 - center[1]))
    first = int(np.ceil(start))
    if end - first < 5:
        return None
    sector = np.clip((angle + np.pi) / (2 * np.pi) * SECTORS, 0, SECTORS - 1).astype(int)
    used = good & (r < end + 0.5)
    cell = sector[used] * (end + 1) + np.rint(r[used]).astype(int)
    size = SECTORS * (end + 1)
    sums, pixels = (np.bincount(cell, w, size).reshape(SECTORS, -1) for w in (image[used], np.ones(int(used.sum()))))
    profile = sums.sum(0) / np.maximum(pixels.sum(0), 1)
    profile = ndimage.gaussian_filter1d(profile, SMOOTH)
    inner = np.minimum.accumulate(profile[first:])
    outer = np.minimum.accumulate(profile[::-1])[::-1][first:]
    ground = np.maximum(np.maximum(inner, outer), np.finfo(float).tiny)
    at = int(np.argmax(profile[first:] - ground))
    contrast = float(profile[first + at] / ground[at])
    near = slice(first + at - 1, first + at + 2)
    parts = sums[:, near].sum(1)[pixels[:, near].sum(1) > 0] / pixels[:, near].sum(1)[pixels[:, near].sum(1) > 0]
    uneven = float(np.std(parts) / max(float(np.mean(parts)), np.finfo(float).tiny)) if len(parts) > SECTORS // 2 else np.inf
    if not (contrast > CONTRAST and uneven < EVEN):
        return None
    return Ring(float(first + at), contrast, uneven, _width(profile, first + at, float(min(inner[at], outer[at]))))


def _width(profile: np.ndarray, at: int, ground: float) -> float:
    """Return the full width at half height of a maximum of a profile, in pixels. Half heights are found between pixels."""
    half, width = (float(profile[at]) + ground) / 2, 0.0
    for side in (profile[at:], profile[at::-1]):
        below = np.flatnonzero(side < half)
        if not len(below):
            return float("inf")
        k = int(below[0])
        width += k - (half - side[k]) / (side[k - 1] - side[k])
    return float(width)
