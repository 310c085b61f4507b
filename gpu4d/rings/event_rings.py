"""Sums over rings from the events of counted patterns, which are never made into patterns."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.data.events import Events, exact_sums, summed
from gpu4d.rings.ring_moments import RingMoments, ring_moments

TOGETHER = 8  # patterns without counts that the pixels of rings are counted on at a time
FIXED_BYTES = 8 * TOGETHER  # of a detector pixel: those patterns, and the rings of their pixels


def event_moments(
    events: Events, origins: np.ndarray, matrices: np.ndarray, mask: np.ndarray | None, grid: tuple[int, float]
) -> RingMoments:
    """Count the pixels in every ring of some patterns, and add counts and squared counts: the numbers of `ring_moments`.

    Parameters
    ----------
    events : Events
        Of n patterns.
    origins : (n, 2) float64
    matrices : (n, 2, 2) float64
    mask : (Qx, Qy) bool or None
    grid : (int, float)
        Number of rings, outer radius of the last one.

    Returns
    -------
    RingMoments
        All (n, n_r) int64; without medians.
    """
    n, (qx, qy), (n_r, r_max) = len(events), events.detector_shape, grid
    place, counts = summed(events.pattern_of_event() * (qx * qy) + events.pixel_of_event(), events.count_of_event())
    row, pixel = np.divmod(place, qx * qy)
    x, y = np.divmod(pixel, qy)
    dx, dy = x - origins[row, 0], y - origins[row, 1]
    m = matrices[row]
    u, v = m[:, 0, 0] * dx + m[:, 0, 1] * dy, m[:, 1, 0] * dx + m[:, 1, 1] * dy
    r = np.sqrt(u * u + v * v) * (n_r / r_max)  # with the operations of the definition, so that a pixel is in the same ring
    inside = r < n_r
    if mask is not None:
        inside &= mask.reshape(-1)[pixel]
    index, counts = row[inside] * n_r + r[inside].astype(np.int64), counts[inside]
    added = [exact_sums(index, values, n * n_r).reshape(n, n_r) for values in (counts, counts * counts)]
    parts: tuple[Any, ...] = (ring_pixels((qx, qy), origins, matrices, mask, grid), *added, np.empty((n, 0)))
    return RingMoments(*parts)


def ring_pixels(
    shape: tuple[int, int], origins: np.ndarray, matrices: np.ndarray, mask: np.ndarray | None, grid: tuple[int, float]
) -> np.ndarray:
    """Count the pixels that every ring has on the detector, (n, n_r) int64. Equal origins are counted once."""
    places = np.concatenate([origins, matrices.reshape(-1, 4)], axis=1)
    places, which = np.unique(places, axis=0, return_inverse=True)
    none = np.zeros((min(TOGETHER, len(places)), *shape), np.uint8)
    found = np.zeros((len(places), grid[0]), np.int64)
    for first in range(0, len(places), TOGETHER):
        some = places[first : first + TOGETHER]
        options: dict[str, Any] = {"n_r": grid[0], "r_max": grid[1], "ellipse": some[:, 2:].reshape(-1, 2, 2), "mask": mask}
        found[first : first + TOGETHER] = arrays.to_numpy(ring_moments(none[: len(some)], some[:, :2], **options).pixels)
    return found[which.reshape(-1)]
