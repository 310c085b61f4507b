"""Find lattice vectors from the disks of a whole scan, without a starting value."""

from __future__ import annotations

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.crystal.candidates import (
    REACH,
    candidate_bases,
    disk_spacing,
    fit_basis,
    information_gain,
    nearest_nodes,
    node_tolerance,
    points_of,
    related_bases,
)
from gpu4d.crystal.lattice import Lattice, canonical, cross
from gpu4d.data.arguments import OriginLike
from gpu4d.data.pointlist import PointListArray
from gpu4d.data.sample import end_to_end
from gpu4d.on_host import on_host

SAMPLE = 6000  # points that judge a candidate: their statistical error, 1 %, is far below the differences between candidates
LEAST_EXCESS, LEAST_EVIDENCE = (
    0.2,
    30.0,
)  # indexed above chance; and in nats over all points: a thousand candidates with six free numbers each find 20


@on_host("lists")
def find_lattice(
    disks: PointListArray, origin: OriginLike | None = None, *, min_spacing: float | None = None, where: ArrayLike | None = None
) -> Lattice | None:
    """Find the strongest lattice in the disks of a scan.

    Candidates are pairs of cluster centres of all disks, relative to their origin, and pairs of differences of cluster centres. So
    missing orders do no harm. Each pair is judged by how many points it explains beyond chance. Let f be the weighted fraction of points
    within the tolerance t of a node, and p = π t²/|g1 × g2| the fraction of random points. The score is the Kullback–Leibler divergence f
    ln(f/p) + (1 - f) ln((1 - f)/(1 - p)). A lattice that is too fine (g/2 indexes everything) has a larger p, and one that is too coarse
    has a smaller f, so both score less. Bases related to the best one by an index of 2 or 3 are tried as well. Then the vectors are
    fitted to all points.

    The classical way is Radon transforms of the Bragg vector map. It finds directions of rows of disks, needs the map, and decides
    between g and g/2 by a threshold. Smeared high orders dominate its result.

    Parameters
    ----------
    disks : PointListArray
        Fields ``qx, qy`` (px), ``intensity``.
    origin : Origin, (2,) or (Rx, Ry, 2) array, optional
        Origin of the patterns, px. None: measured by `gpu4d.calibrate.origin`.
    min_spacing : float, optional
        Shortest lattice vector to consider, px. None: a quarter of the median distance of neighbouring disks.
    where : (Rx, Ry) bool array, optional
        Positions to use.

    Returns
    -------
    Lattice or None
        None for amorphous or fine-grained areas: no lattice indexes at least 20 % more of the points than of points in random directions
        at the same distances. None also if there are too few points (about 15 disks in all). Of several grains the strongest is
        returned. `indexed_fraction` is the part of the data that belongs to it.

    Examples
    --------
    >>> import numpy as np
    >>> h, k = np.mgrid[-2:3, -2:3].reshape(2, -1)
    >>> q = np.stack([h, k], -1) @ np.array([[12.0, 1.0], [-1.0, 12.0]]) + 40
    >>> one = PointListArray(np.array([0, 25]), {"qx": q[:, 0], "qy": q[:, 1], "intensity": np.ones(25)}, (1, 1))
    >>> find_lattice(one, (40.0, 40.0)).matrix.round(3).tolist()
    [[12.0, 1.0], [-1.0, 12.0]]
    """
    v, weight, position = points_of(disks, origin, where)
    spacing = disk_spacing(v, position)
    if spacing is None:
        return None
    shortest = spacing / 4 if min_spacing is None else float(min_spacing)
    away = np.linalg.norm(v, axis=-1)
    scattered = away > max(0.4 * spacing, 0.7 * shortest)
    v, weight, position, away = v[scattered], weight[scattered], position[scattered], away[scattered]
    low = np.flatnonzero(away < REACH * spacing)
    if low.size < 4:
        return None
    few = end_to_end(low, SAMPLE)
    bases = candidate_bases(v[few], weight[few], spacing, shortest)
    if not len(bases):
        return None
    for _ in range(2):
        best, shift = fit_basis(bases[np.argmax(_score(bases, v[few], weight[few], spacing))], v[few], weight[few], spacing, REACH)
        v = v - shift  # refit the origin to the lattice, so that an error by a fraction of |g| does not change the result
        bases = np.concatenate([best[None], bases])
    for _ in range(2):
        family = related_bases(best)
        family = family[np.linalg.norm(family[:, 0], axis=-1) >= shortest]
        family = np.concatenate([best[None], np.stack([fit_basis(b, v[few], weight[few], spacing, REACH)[0] for b in family])])
        best = family[np.argmax(_score(family, v[few], weight[few], spacing))]
    return _judge(best, v, weight, position, few, spacing)


def _score(bases: np.ndarray, v: np.ndarray, weight: np.ndarray, spacing: float) -> np.ndarray:
    """Return the information per point beyond chance, nats. It is 0 for a lattice that indexes less than chance."""
    reach = node_tolerance(v, spacing)
    score = np.empty(len(bases))
    for start in range(0, len(bases), 32):
        some = bases[start : start + 32]
        order, distance = nearest_nodes(some, v)
        node = (distance < reach) & (order != 0).any(axis=-1)
        area = np.abs(cross(some[:, 0], some[:, 1]))
        score[start : start + 32] = information_gain(node @ weight / weight.sum(), np.pi * (weight @ reach**2) / weight.sum() / area)
    return score


def _judge(basis: np.ndarray, v: np.ndarray, weight: np.ndarray, position: np.ndarray, few: np.ndarray, spacing: float) -> Lattice | None:
    """Return the lattice with its figures, or None if chance explains the points as well."""
    basis = canonical(fit_basis(basis, v, weight, spacing, np.inf)[0])
    order, distance = nearest_nodes(basis, v)
    on = (distance < node_tolerance(v, spacing)) & (order != 0).any(axis=-1)
    fraction = float(weight[few] @ on[few] / weight[few].sum())
    angle = np.random.default_rng(0).uniform(0, 2 * np.pi, (16, few.size))
    turned = np.linalg.norm(v[few], axis=-1)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    chance = float(np.mean((nearest_nodes(basis, turned)[1] < node_tolerance(turned, spacing)) @ weight[few]) / weight[few].sum())
    points = weight[few].sum() ** 2 / np.sum(weight[few] ** 2)
    if (
        fraction - chance < LEAST_EXCESS
        or points * information_gain(fraction, chance) < LEAST_EVIDENCE
        or np.linalg.matrix_rank(order[on]) < 2
    ):
        return None
    code, count = np.unique((order[on] @ (1.0, 2.0**20)).astype(np.int64), return_counts=True)
    names = np.stack([(code + 2**19) % 2**20 - 2**19, (code + 2**19) // 2**20], axis=-1)
    common = count >= max(1, len(np.unique(position)) / 20)
    names, count = names[common], count[common]
    rms = float(np.sqrt(np.average(distance[on] ** 2, weights=weight[on])))
    return Lattice(basis[0], basis[1], fraction, chance, rms, int(on.sum()), names[np.argsort(-count, kind="stable")])
