"""Say whether a crystal has a zone axis whose reflections lie where the disks are: lengths that fit are not enough.

Two reflections whose lengths and angle are those of two disks span the plane of a zone axis. All other disks must be reflections of this
plane, and its strong reflections must have a disk. Host by design: a few dozen places.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpu4d.structures.reflections import Reflections

ACROSS = 0.3  # least |sin| of the angle between the two disks that span the plane
IN_PLANE = 1e-6  # of |g|: farthest from the plane of the zone axis
VIEW = 0.8  # of the distance of the farthest disk: nearer reflections have to be seen; those farther out are weak
STRONG = 0.01  # of the strongest |F|²: weaker reflections need not be seen


class Zone(NamedTuple):
    """How many strong reflections of a zone axis have no disk, how many disks only double diffraction gives, and how many nothing does."""

    missing: int
    doubled: int
    strange: int

    @property
    def wrong(self) -> int:
        return self.missing + self.doubled + 3 * self.strange


def nearest_zone(w: np.ndarray, seen: np.ndarray, near: float, crystal: Reflections, rotations: np.ndarray) -> Zone:
    """Return how the disks fit the zone axis that fits them best.

    Parameters
    ----------
    w : (m, 2) float64
        Places of the disks without the ellipse, 1/Å, of each pair ±w one, the shortest first.
    seen : (k, 2) float64
        These, and places of few disks.
    near : float
        1/Å: how far a disk may lie from its reflection.
    crystal : Reflections
    rotations : (r, 3, 3) float64
        Of the Laue group: equivalent zone axes are tried once.
    """
    size = np.hypot(*w.T)
    across = np.abs(w[0, 0] * w[:, 1] - w[0, 1] * w[:, 0]) > ACROSS * size[0] * size
    nothing = Zone(0, 0, len(w))
    if not across.any():
        return nothing
    two = w[[0, int(np.argmax(across))]]
    best = nothing
    for first, second in _pairs(two, near, crystal, rotations):
        normal = np.cross(first, second)
        if np.linalg.norm(normal) < ACROSS / 2 * np.linalg.norm(first) * np.linalg.norm(second):
            continue
        plane = np.flatnonzero(np.abs(crystal.g @ normal) < IN_PLANE * np.linalg.norm(normal))
        basis = np.stack([first, second])
        x = crystal.g[plane] @ np.linalg.solve(basis @ basis.T, basis).T @ two  # both of each pair ±g are in the list
        best = min(best, _judged(w, seen, x, crystal.intensity[plane], near), key=lambda zone: zone.wrong)
        if not best.wrong:
            break
    return best


def _pairs(two: np.ndarray, near: float, crystal: Reflections, rotations: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the pairs of reflections with the lengths and the angle of two places. Of equivalent first ones, one is tried."""
    length = crystal.length
    size = np.hypot(*two.T)
    firsts, seconds = (crystal.g[np.abs(length - s) < near] for s in size)
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    left = np.ones(len(firsts), bool)
    for i, g in enumerate(firsts):
        if not left[i]:
            continue
        same = np.concatenate([rotations @ g, -(rotations @ g)])
        left &= np.abs(firsts[:, None] - same).max(axis=2).min(axis=1) > IN_PLANE
        angle = np.abs(seconds @ g - two[0] @ two[1]) < near * size.sum()
        pairs += [(g, other) for other in seconds[angle]]
    return pairs


def _judged(w: np.ndarray, seen: np.ndarray, x: np.ndarray, intensity: np.ndarray, near: float) -> Zone:
    """Compare places with the reflections x (n, 2) of a plane."""
    off = np.hypot(*(w[:, None] - x).transpose(2, 0, 1)).min(axis=1)
    away = w[off > near]
    sums = (x[:, None] + x).reshape(-1, 2) if len(away) else x
    strange = sum(int(np.hypot(*(sums - one).T).min() > near) for one in away)
    expected = x[(intensity > STRONG * intensity.max()) & (np.hypot(*x.T) < VIEW * float(np.hypot(*w.T).max()))]
    alone = np.hypot(*(np.concatenate([seen, -seen])[:, None] - expected).transpose(2, 0, 1)).min(axis=0) > near if len(expected) else []
    return Zone(int(np.sum(alone)) // 2, len(away) - strange, strange)
