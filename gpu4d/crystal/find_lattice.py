"""Find lattice vectors from the disks of a whole scan, without a starting value."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike
from gpu4d.beam.brightest_disk import brightest_disk
from gpu4d.crystal.lattice import Lattice, canonical, cross, reduced
from gpu4d.data.arguments import OriginLike, disk_lists, origins, scan_mask
from gpu4d.data.pointlist import PointListArray
from gpu4d.data.sample import end_to_end

ENOUGH = 200_000  # points used of a large scan, from patterns drawn evenly
SAMPLE = 6000  # points that judge a candidate: their statistical error, 1 %, is far below the differences between candidates
CANDIDATES = 28  # cluster centres, and as many differences of them
TOLERANCE = (0.06, 0.04)  # of the disk spacing, and of the distance from the origin (allows for strain and rotation within the scan)
REACH = 3.3  # disk spacings: the lattice is found from lower orders, because strain smears higher ones
LEAST_EXCESS, LEAST_EVIDENCE = (
    0.2,
    30.0,
)  # indexed above chance; and in nats over all points: a thousand candidates with six free numbers each find 20


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
    v, weight, position = _collapse(disks, origin, where)
    spacing = _spacing(v, position)
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
    bases = _candidates(v[few], weight[few], spacing, shortest)
    if not len(bases):
        return None
    for _ in range(2):
        best, shift = _fit(bases[np.argmax(_score(bases, v[few], weight[few], spacing))], v[few], weight[few], spacing, REACH)
        v = v - shift  # refit the origin to the lattice, so that an error by a fraction of |g| does not change the result
        bases = np.concatenate([best[None], bases])
    for _ in range(2):
        family = _related(best)
        family = family[np.linalg.norm(family[:, 0], axis=-1) >= shortest]
        family = np.concatenate([best[None], np.stack([_fit(b, v[few], weight[few], spacing, REACH)[0] for b in family])])
        best = family[np.argmax(_score(family, v[few], weight[few], spacing))]
    return _judge(best, v, weight, position, few, spacing)


def _collapse(disks: PointListArray, origin: Any, where: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all points relative to the origin of their position (n, 2), their weights √intensity with a cap, and their positions."""
    disk_lists(disks)
    used, position = scan_mask(where, disks.shape), arrays.to_numpy(disks.positions)
    v = np.stack([arrays.to_numpy(disks.flat(f)).astype(np.float64) for f in ("qx", "qy")], axis=-1)
    if len(v) == 0:
        return v, np.zeros(0), position
    centre = brightest_disk(disks, where=where) if origin is None else origin
    v = v - np.broadcast_to(origins(centre, disks.shape), (*disks.shape, 2)).reshape(-1, 2)[position]
    weight = np.sqrt(np.clip(arrays.to_numpy(disks.flat("intensity")).astype(np.float64), 0, None))
    ok = np.isfinite(v).all(axis=-1) & np.isfinite(weight) & (weight > 0)
    if len(v) > ENOUGH:
        # a fixed seed, so that the result is always the same
        drawn = np.random.default_rng(0).random(int(np.prod(disks.shape))) < ENOUGH / len(v)
        ok &= drawn[position]
    if used is not None:
        ok &= used.reshape(-1)[position]
    v, weight, position = v[ok], weight[ok], position[ok]
    return v, np.minimum(weight, 3 * np.median(weight)) if len(weight) else weight, position


def _spacing(v: np.ndarray, position: np.ndarray) -> float | None:
    """Return the median distance of a disk to its nearest neighbour in the same pattern, px."""
    from scipy.spatial import cKDTree

    if len(v) < 5:
        return None
    keep = position <= position[min(len(v) - 1, 20_000)]
    apart = 4 * float(np.abs(v[keep]).max()) + 1  # puts patterns side by side, so that neighbours are in the same pattern
    points = np.concatenate([v[keep], position[keep, None] * apart], axis=-1)
    distance = cKDTree(points).query(points, k=2)[0][:, 1]
    distance = distance[(distance < apart / 2) & (distance > 0)]
    return float(np.median(distance)) if distance.size >= 4 else None


def _candidates(v: np.ndarray, weight: np.ndarray, spacing: float, shortest: float) -> np.ndarray:
    """Build reduced bases (n, 2, 2) from pairs of cluster centres and of their differences."""
    centres, mass = _clusters(v, weight, spacing)
    centres, mass = centres[:CANDIDATES], mass[:CANDIDATES]
    i, j = np.triu_indices(len(centres), 1)
    difference = np.concatenate([centres[i] - centres[j], centres[j] - centres[i]])
    shared = np.tile(np.minimum(mass[i], mass[j]), 2)
    inner = np.linalg.norm(difference, axis=-1) < 2 * spacing
    steps = _clusters(difference[inner], shared[inner], spacing)[0] if inner.any() else centres[:0]
    half = np.concatenate([centres, steps[: 2 * CANDIDATES]])
    half = half[(half[:, 0] > 0) & (np.linalg.norm(half, axis=-1) >= shortest)]  # g and -g span the same lattice
    i, j = np.triu_indices(len(half), 1)
    sine = np.abs(cross(half[i], half[j])) / (np.linalg.norm(half[i], axis=-1) * np.linalg.norm(half[j], axis=-1))
    bases = reduced(np.stack([half[i], half[j]], axis=1)[sine > 0.2])
    return bases[np.linalg.norm(bases[:, 0], axis=-1) >= shortest]


def _clusters(v: np.ndarray, weight: np.ndarray, spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """Find maxima of the smoothed density of points: centres of mass (n, 2) and masses, the heaviest first."""
    from scipy.ndimage import gaussian_filter, maximum_filter

    cell = spacing / 16
    n = int(np.ceil(np.abs(v).max() / cell)) + 2
    cells = np.rint(v / cell).astype(np.int64) + n
    density = np.bincount(cells[:, 0] * (2 * n + 1) + cells[:, 1], weight, (2 * n + 1) ** 2).reshape(2 * n + 1, -1)
    density = gaussian_filter(density, 1.2, mode="constant")
    peaks = np.argwhere((density == maximum_filter(density, 7, mode="constant")) & (density > 0.02 * density.max()))
    peaks = peaks[np.argsort(-density[tuple(peaks.T)], kind="stable")][: 4 * CANDIDATES]
    close = np.linalg.norm(v[:, None] - ((peaks - n) * cell)[None], axis=-1) < 3.5 * cell
    mass = weight @ close
    keep = mass > 0
    centres = ((weight[:, None] * v).T @ close).T[keep] / mass[keep, None]
    order = np.argsort(-mass[keep], kind="stable")
    return centres[order], mass[keep][order]


def _nearest(basis: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return orders (..., n, 2) of points in a basis (..., 2, 2), and their distance from the node, px."""
    order = np.rint(v @ np.linalg.inv(basis))
    return order, np.linalg.norm(v - order @ basis, axis=-1)


def _tolerance(v: np.ndarray, spacing: float) -> np.ndarray:
    """Return the largest distance of each point from its node, px."""
    return TOLERANCE[0] * spacing + TOLERANCE[1] * np.linalg.norm(v, axis=-1)


def _score(bases: np.ndarray, v: np.ndarray, weight: np.ndarray, spacing: float) -> np.ndarray:
    """Return the information per point beyond chance, nats. It is 0 for a lattice that indexes less than chance."""
    reach = _tolerance(v, spacing)
    score = np.empty(len(bases))
    for start in range(0, len(bases), 32):
        some = bases[start : start + 32]
        order, distance = _nearest(some, v)
        node = (distance < reach) & (order != 0).any(axis=-1)
        area = np.abs(cross(some[:, 0], some[:, 1]))
        score[start : start + 32] = _gain(node @ weight / weight.sum(), np.pi * (weight @ reach**2) / weight.sum() / area)
    return score


def _gain(fraction: Any, chance: Any) -> Any:
    """Return the Kullback–Leibler divergence of the indexed fraction from chance. It is 0 if chance would index more."""
    f, p = np.clip(fraction, 1e-9, 1 - 1e-9), np.clip(chance, 1e-6, 1 - 1e-6)
    return np.where(f > p, f * np.log(f / p) + (1 - f) * np.log((1 - f) / (1 - p)), 0.0)


def _related(basis: np.ndarray) -> np.ndarray:
    """Return reduced bases of the lattices that contain this one, or are contained in it, with index 2 or 3. The first is this one."""
    coarser = [np.array([[a, b], [0, n // a]]) for n in (2, 3) for a in range(1, n + 1) if n % a == 0 for b in range(n // a)]
    found = [np.eye(2), *coarser, *(np.linalg.inv(m.T.astype(np.float64)) for m in coarser)]
    return reduced(np.stack(found) @ basis)


def _fit(basis: np.ndarray, v: np.ndarray, weight: np.ndarray, spacing: float, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Fit basis and origin to the points by least squares, from low orders outwards."""
    away, shift = np.linalg.norm(v, axis=-1), np.zeros(2)
    for limit in (1.6, 2.4, reach, reach):
        order, distance = _nearest(basis, v - shift)
        on = (distance < _tolerance(v, spacing)) & (away < limit * spacing)
        w = np.sqrt(weight[on])[:, None]
        rows = np.column_stack([np.ones(on.sum()), order[on]])
        fitted, _, rank, _ = np.linalg.lstsq(rows * w, v[on] * w, rcond=1e-3)
        if rank == 3:
            shift, basis = fitted[0], fitted[1:]
    return basis, shift


def _judge(basis: np.ndarray, v: np.ndarray, weight: np.ndarray, position: np.ndarray, few: np.ndarray, spacing: float) -> Lattice | None:
    """Return the lattice with its figures, or None if chance explains the points as well."""
    basis = canonical(_fit(basis, v, weight, spacing, np.inf)[0])
    order, distance = _nearest(basis, v)
    on = (distance < _tolerance(v, spacing)) & (order != 0).any(axis=-1)
    fraction = float(weight[few] @ on[few] / weight[few].sum())
    angle = np.random.default_rng(0).uniform(0, 2 * np.pi, (16, few.size))
    turned = np.linalg.norm(v[few], axis=-1)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    chance = float(np.mean((_nearest(basis, turned)[1] < _tolerance(turned, spacing)) @ weight[few]) / weight[few].sum())
    points = weight[few].sum() ** 2 / np.sum(weight[few] ** 2)
    if fraction - chance < LEAST_EXCESS or points * _gain(fraction, chance) < LEAST_EVIDENCE or np.linalg.matrix_rank(order[on]) < 2:
        return None
    code, count = np.unique((order[on] @ (1.0, 2.0**20)).astype(np.int64), return_counts=True)
    names = np.stack([(code + 2**19) % 2**20 - 2**19, (code + 2**19) // 2**20], axis=-1)
    common = count >= max(1, len(np.unique(position)) / 20)
    names, count = names[common], count[common]
    rms = float(np.sqrt(np.average(distance[on] ** 2, weights=weight[on])))
    return Lattice(basis[0], basis[1], fraction, chance, rms, int(on.sum()), names[np.argsort(-count, kind="stable")])
