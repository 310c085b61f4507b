"""Build and fit candidates of lattices from the disks of many patterns: what the search for one and for several lattices share."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.beam.brightest_disk import brightest_disk
from gpu4d.crystal.lattice import cross, reduced
from gpu4d.data.arguments import disk_lists, origins, scan_mask
from gpu4d.data.pointlist import PointListArray

ENOUGH = 200_000  # points used of a large scan, from patterns drawn evenly
CANDIDATES = 28  # cluster centres, and as many differences of them
TOLERANCE = (0.06, 0.04)  # of the disk spacing, and of the distance from the origin (allows for strain and rotation within the scan)
REACH = 3.3  # disk spacings: the lattice is found from lower orders, because strain smears higher ones


def points_of(disks: PointListArray, origin: Any, where: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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


def disk_spacing(v: np.ndarray, position: np.ndarray) -> float | None:
    """Return the median distance of a disk to its nearest neighbour in the same pattern, px."""
    if len(v) < 5:
        return None
    distance = disk_distances(v, position)
    return float(np.median(distance)) if distance.size >= 4 else None


def disk_distances(v: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Return the distances of disks to their nearest neighbours in the same pattern, px, of the first patterns of a large scan."""
    from scipy.spatial import cKDTree

    if len(v) < 2:
        return np.zeros(0)
    keep = position <= position[min(len(v) - 1, 20_000)]
    apart = 4 * float(np.abs(v[keep]).max()) + 1  # puts patterns side by side, so that neighbours are in the same pattern
    points = np.concatenate([v[keep], position[keep, None] * apart], axis=-1)
    distance = cKDTree(points).query(points, k=2)[0][:, 1]
    return np.asarray(distance[(distance < apart / 2) & (distance > 0)])


def candidate_bases(v: np.ndarray, weight: np.ndarray, spacing: float, shortest: float) -> np.ndarray:
    """Build reduced bases (n, 2, 2) from pairs of cluster centres and of their differences."""
    centres, mass = clusters(v, weight, spacing)
    centres, mass = centres[:CANDIDATES], mass[:CANDIDATES]
    i, j = np.triu_indices(len(centres), 1)
    difference = np.concatenate([centres[i] - centres[j], centres[j] - centres[i]])
    shared = np.tile(np.minimum(mass[i], mass[j]), 2)
    inner = np.linalg.norm(difference, axis=-1) < 2 * spacing
    steps = clusters(difference[inner], shared[inner], spacing)[0] if inner.any() else centres[:0]
    half = np.concatenate([centres, steps[: 2 * CANDIDATES]])
    half = half[(half[:, 0] > 0) & (np.linalg.norm(half, axis=-1) >= shortest)]  # g and -g span the same lattice
    i, j = np.triu_indices(len(half), 1)
    sine = np.abs(cross(half[i], half[j])) / (np.linalg.norm(half[i], axis=-1) * np.linalg.norm(half[j], axis=-1))
    bases = reduced(np.stack([half[i], half[j]], axis=1)[sine > 0.2])
    return bases[np.linalg.norm(bases[:, 0], axis=-1) >= shortest]


def clusters(v: np.ndarray, weight: np.ndarray, spacing: float) -> tuple[np.ndarray, np.ndarray]:
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


def nearest_nodes(basis: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return orders (..., n, 2) of points in a basis (..., 2, 2), and their distance from the node, px."""
    order = np.rint(v @ np.linalg.inv(basis))
    return order, np.linalg.norm(v - order @ basis, axis=-1)


def node_tolerance(v: np.ndarray, spacing: float) -> np.ndarray:
    """Return the largest distance of each point from its node, px."""
    return TOLERANCE[0] * spacing + TOLERANCE[1] * np.linalg.norm(v, axis=-1)


def information_gain(fraction: Any, chance: Any) -> Any:
    """Return the Kullback–Leibler divergence of the indexed fraction from chance. It is 0 if chance would index more."""
    f, p = np.clip(fraction, 1e-9, 1 - 1e-9), np.clip(chance, 1e-6, 1 - 1e-6)
    return np.where(f > p, f * np.log(f / p) + (1 - f) * np.log((1 - f) / (1 - p)), 0.0)


def related_bases(basis: np.ndarray) -> np.ndarray:
    """Return reduced bases of the lattices that contain this one, or are contained in it, with index 2 or 3. The first is this one."""
    coarser = [np.array([[a, b], [0, n // a]]) for n in (2, 3) for a in range(1, n + 1) if n % a == 0 for b in range(n // a)]
    found = [np.eye(2), *coarser, *(np.linalg.inv(m.T.astype(np.float64)) for m in coarser)]
    return reduced(np.stack(found) @ basis)


def fit_basis(basis: np.ndarray, v: np.ndarray, weight: np.ndarray, spacing: float, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Fit basis and origin to the points by least squares, from low orders outwards."""
    away, shift = np.linalg.norm(v, axis=-1), np.zeros(2)
    for limit in (1.6, 2.4, reach, reach):
        order, distance = nearest_nodes(basis, v - shift)
        on = (distance < node_tolerance(v, spacing)) & (away < limit * spacing)
        w = np.sqrt(weight[on])[:, None]
        rows = np.column_stack([np.ones(on.sum()), order[on]])
        fitted, _, rank, _ = np.linalg.lstsq(rows * w, v[on] * w, rcond=1e-3)
        if rank == 3:
            shift, basis = fitted[0], fitted[1:]
    return basis, shift
