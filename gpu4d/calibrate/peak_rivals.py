"""List every way to index the Bragg disks of one crystal: three of its disks on three rings fix an ellipse and a scale.

With Q = Mᵀ M q² the |g| of a disk at v is √(vᵀ Q v). Q has three numbers, so |g| of three disks give it. All triples of rings that lie in
reach of the pixel size are tried, and those are kept that put all other disks on rings as well. So no way to index them is missed.
`peak_choice` says how probable each of them is. Host by design: a few dozen places.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from gpu4d.calibrate.peak_likelihood import DiskPoints

MOST_PLACES = 60  # of disks: more are many grains, which fit in one way only
COVERED = 0.8  # of the disks lie at these places in scans of one crystal
NEAR = (1.0, 0.03)  # px, and part of the distance: disks at one place scatter by noise, and by strain
LEAST, MAIN = 0.1, 0.4  # of the disks of the strongest place: fewer are false ones; fewer may be tails of others
ON_RINGS = 0.85  # of the disks at these places have to be near a ring
AMONG = 10  # shortest places from which three are chosen
INDEPENDENT = 0.02  # least singular value of the three equations, each scaled to 1: fewer directions do not fix an ellipse
OVAL = 0.07  # of ½ ln(a/b): of the ellipses that are tried
OFF = 0.6  # px: farthest that a place may be from its ring, before the fit
EXACT = 0.2  # px: error of a place before the fit, to choose the best of very many
ROUND = 0.03  # standard deviation of ln(a/b): detectors are round to a few per cent
MOST_TRIPLES = 200_000
KEPT = 60  # best ones
SAME = 0.003  # of stretch and scale


class Places(NamedTuple):
    """Mean places of disks of a crystal (m, 2), px, up to inversion, the shortest first.

    Their disks (m,), rms distance of a disk from its place along an axis (m,), px, three places that fix an ellipse, and all places (k, 2),
    also those with few disks.
    """

    v: np.ndarray
    disks: np.ndarray
    scatter: np.ndarray
    three: np.ndarray | None
    seen: np.ndarray


def places_of(points: DiskPoints, beam: float) -> Places | None:
    """Return the places at which disks of a single crystal lie. None for scans with many orientations."""
    from scipy.spatial import cKDTree

    v = points.v[np.hypot(*points.v.T) > beam]
    v = np.where(((v[:, 0] < 0) | ((v[:, 0] == 0) & (v[:, 1] < 0)))[:, None], -v, v)
    v = np.concatenate([v, -v])  # so that places near the line of inversion are whole
    reach = np.maximum(NEAR[0], NEAR[1] * np.hypot(*v.T))
    left = np.ones(len(v), bool)
    found: list[np.ndarray] = []
    count: list[int] = []
    scatter: list[float] = []
    tree = cKDTree(v)
    neighbours = tree.query_ball_point(v, reach)
    crowd = np.array([len(n) for n in neighbours])
    while left.any() and len(found) < 2 * MOST_PLACES + 2:
        i = int(np.argmax(np.where(left, crowd, -1)))
        members = np.array(neighbours[i])
        members = members[left[members]]
        if count and len(members) < LEAST * count[0]:
            if crowd[i] <= LEAST * count[0]:
                break
            left[i] = False
            continue
        found.append(v[members].mean(axis=0))
        count.append(len(members))
        scatter.append(float(v[members].std(axis=0).mean()))
        left[members] = False
    if not found or len(found) > 2 * MOST_PLACES or sum(count) < COVERED * len(v):
        return None
    middle, disks, wide = np.array(found), np.array(count, np.float64), np.array(scatter)
    one_side = np.flatnonzero((middle[:, 0] > 0) | ((middle[:, 0] == 0) & (middle[:, 1] > 0)))
    order = one_side[np.argsort(np.hypot(*middle[one_side].T), kind="stable")]
    main = order[disks[order] > MAIN * disks[order].max()]  # others may be tails of these
    return Places(middle[main], disks[main], wide[main], _three(middle[main]), middle[order])


def _rows(v: np.ndarray) -> np.ndarray:
    """Return the rows of vᵀ Q v for Q = (xx, xy, yy), (…, 3)."""
    return np.stack([v[..., 0] ** 2, 2 * v[..., 0] * v[..., 1], v[..., 1] ** 2], axis=-1)


def _three(v: np.ndarray) -> np.ndarray | None:
    """Return which three of the shortest places fix an ellipse best for their length. None if none do."""
    best, gain = None, 0.0
    rows = _rows(v / np.hypot(*v.T)[:, None])
    size = np.hypot(*v.T)
    for three in itertools.combinations(range(min(AMONG, len(v))), 3):
        least = float(np.linalg.svd(rows[list(three)], compute_uv=False)[-1])
        if least > INDEPENDENT and least / float(size[list(three)].prod()) > gain:
            best, gain = np.array(three), least / float(size[list(three)].prod())
    return best


def all_indexings(places: Places, g: np.ndarray, pixel: tuple[float, float], likely: tuple[float, float] = (1.0, np.inf)) -> np.ndarray:
    """Return (e1, e2, ln scale) of all ways to put the places on rings, the best first, (n, 3). Of very many, the best are returned.

    Parameters
    ----------
    places : Places
    g : (K,) float64
        |g| of the rings, 1/Å, from small to large.
    pixel : (float, float)
        Smallest and largest pixel size along the minor axis, 1/Å.
    likely : (float, float)
        Expected pixel size, 1/Å, and the standard deviation of its logarithm.
    """
    if places.three is None:
        return np.zeros((0, 3))
    v = places.v[places.three]
    near = [np.flatnonzero((g > r * pixel[0] * np.exp(-2 * OVAL)) & (g < r * pixel[1])) for r in np.hypot(*v.T)]
    if not 0 < np.prod([float(len(n)) for n in near]) < MOST_TRIPLES:
        return np.zeros((0, 3))
    triples = np.stack(np.meshgrid(*near, indexing="ij"), axis=-1).reshape(-1, 3)
    q = np.linalg.solve(_rows(v), (g[triples] ** 2).T).T
    trace, det = (q[:, 0] + q[:, 2]) / 2, q[:, 0] * q[:, 2] - q[:, 1] ** 2
    half = np.hypot((q[:, 0] - q[:, 2]) / 2, q[:, 1])
    good = (det > 0) & (trace > half)
    q, trace, half = q[good], trace[good], half[good]
    large, small = np.sqrt(trace + half), np.sqrt(trace - half)  # 1/Å per px along the minor and the major axis
    good = (large / small < np.exp(2 * OVAL)) & (large > pixel[0]) & (large < pixel[1])
    q, large, small = q[good], large[good], small[good]
    if not len(q):
        return np.zeros((0, 3))
    length = np.sqrt(np.maximum(q @ _rows(places.v).T, 0))
    high = np.clip(np.searchsorted(g, length), 1, len(g) - 1)
    away = np.minimum(np.abs(length - g[high]), np.abs(length - g[high - 1])) / np.sqrt(large * small)[:, None]
    on = np.flatnonzero((away < OFF) @ places.disks > ON_RINGS * places.disks.sum())
    cost = (np.minimum(away[on], OFF) ** 2).sum(axis=1) / EXACT**2 + (np.log(large[on] / small[on]) / ROUND) ** 2
    cost += (np.log(large[on] / likely[0]) / likely[1]) ** 2
    on = on[np.argsort(cost, kind="stable")]
    angle = 0.5 * np.arctan2(2 * q[on, 1], q[on, 0] - q[on, 2]) + np.pi / 2  # the pattern is long where Q is small
    e = 0.5 * np.log(large[on] / small[on])
    found = np.stack([e * np.cos(2 * angle), e * np.sin(2 * angle), -0.5 * np.log(large[on] * small[on])], axis=-1)
    kept: list[np.ndarray] = []
    for one in found:
        if len(kept) == KEPT:
            break
        if not any(np.abs(one - other).max() < SAME for other in kept):
            kept.append(one)
    return np.array(kept).reshape(-1, 3)
