"""Find the centre of a ring: where the beam is, even if a beam stop hides it."""

from __future__ import annotations

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import host_image, measured_pixels
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.rings.find_ring import Ring
from gpu4d.rings.profiles import polar_transform

ANGLES = 72  # of 5°
WIDTH = 0.3  # of the ring's radius: how far inside and outside of it its place is looked for, in every direction
LEAST_ANGLES = 24  # with a place of the ring
STEPS = 5
CLOSE = 0.01  # px: a smaller step ends the search
SEEN = 3.0  # times the median distance from the fit: directions further off show something else than the ring


@on_host("image")
def ring_center(mean: ArrayLike, center: tuple[float, float], ring: Ring, mask: np.ndarray | None = None) -> tuple[float, float] | None:
    """Find the centre of a ring of a mean pattern, from where the ring is in every direction.

    The ring's place in a direction is the centroid of what exceeds the ground beneath it. A shift (a, b) of the centre makes it a cos θ +
    b sin θ longer; an ellipse gives terms of 2θ, which are fitted beside. This is repeated about the new centre.

    Parameters
    ----------
    mean : (Qx, Qy) real
        Mean pattern. NaN pixels do not count.
    center : (float, float)
        Where to begin, pixels.
    ring : Ring
        What `find_ring` found about this centre.
    mask : (Qx, Qy) bool, optional
        True where the detector counts.

    Returns
    -------
    (float, float) or None
        Pixels. None if too few directions show the ring, or if the centre is further than half a radius from the first one.

    Examples
    --------
    >>> x, y = np.mgrid[:64, :64]
    >>> image = np.exp(-(((np.hypot(x - 31.4, y - 32.7) - 20) / 3) ** 2)) + 0.1
    >>> [round(c, 1) for c in ring_center(image, (32.0, 32.0), Ring(20.0, 10.0, 0.1))]
    [31.4, 32.7]
    """
    if not ring.radius > 0:
        raise InputError(f"the ring has a radius of {ring.radius} px: need a ring as gpu4d.rings.find_ring finds it")
    image = host_image(mean, "mean").astype(np.float64)
    good = measured_pixels(image, mask)
    at = np.asarray(center, dtype=np.float64)
    for _ in range(STEPS):
        step = _step(np.where(good, image, 0.0), good, at, ring.radius)
        if step is None or np.hypot(*(at + step - center)) > ring.radius / 2:
            return None
        at = at + step
        if np.hypot(*step) < CLOSE:
            break
    return float(at[0]), float(at[1])


def _step(image: np.ndarray, good: np.ndarray, at: np.ndarray, radius: float) -> np.ndarray | None:
    """Return how far the centre must move, (2,). None if too few directions show the ring."""
    outer = radius * (1 + WIDTH)
    n_r = int(np.ceil(outer))
    polar = np.asarray(polar_transform(image, at, n_theta=ANGLES, n_r=n_r, r_max=float(n_r), mask=good))
    r = np.arange(n_r) + 0.5
    near = r >= radius * (1 - WIDTH)
    part, r = polar[:, near], r[near]
    line = np.linspace(0, 1, r.size)
    with np.errstate(invalid="ignore", divide="ignore"):
        over = part - (part[:, :1] * (1 - line) + part[:, -1:] * line)  # over the straight ground from its inside to its outside
        over = np.maximum(over - 0.5 * over.max(axis=1, keepdims=True), 0.0)  # the upper half, because its feet are noise
        place = (over * r).sum(axis=1) / over.sum(axis=1)
    angle = 2 * np.pi * np.arange(ANGLES) / ANGLES
    terms = np.stack([np.ones(ANGLES), np.cos(angle), np.sin(angle), np.cos(2 * angle), np.sin(2 * angle)], axis=1)
    used = np.isfinite(place)
    for _ in range(3):
        if used.sum() < LEAST_ANGLES:
            return None
        found = np.linalg.lstsq(terms[used], place[used], rcond=None)[0]
        off = np.abs(place - terms @ found)
        used = np.isfinite(place) & (off <= SEEN * max(float(np.median(off[used])), CLOSE))
    return found[1:3]
