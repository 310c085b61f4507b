"""Tell lattices apart that nearly coincide, and take those as one that pass into each other.

A lattice has one disk of each order in a pattern. Two disks at the same order, with distances that grow in proportion to the order, are of
two lattices. Lattices that are never in the same pattern are told apart by a gap: strain and bending change from position to position, so
the local lattices of one grain form one cloud.
"""

from __future__ import annotations

import itertools

import numpy as np

from gpu4d.crystal.candidates import information_gain
from gpu4d.crystal.fit_lattice import fit_lattice
from gpu4d.crystal.pattern_evidence import LEAST_EVIDENCE, Patterns
from gpu4d.crystal.relation import least_stretch

INDEXED = 0.3  # of a cell: disks nearer to a node have its order
LEAST_PAIRS = 12  # of disks at one order
PAIRED = 0.03  # of |g1|: how far the distance of a pair may be from the order times the difference of the lattices
EXPLAINED_PAIRS = 0.5  # least share of the pairs whose distance is in proportion to their order
ORDERS = 8  # that have most pairs, from which candidates are made
LEAST_DIFFERENCE = 0.008  # of the vectors: less is not resolved in any pattern
SHUFFLES = 20
GAP = 0.05  # of deformation, 3° of rotation: an island of local lattices farther from others is a lattice of its own
CROWD = 0.025  # of deformation: local lattices that have neighbours nearer than this belong to a cloud, others are bad fits
LEAST_CROWD = (4, 0.01)  # neighbours: number, and share of the positions
LOOKED_AT = 600  # positions whose local lattices are compared
ONE_GRAIN = 0.6  # of deformation, 35° of rotation: lattices farther apart are never one bent grain
LARGEST_STRAIN = 0.1  # between two parts of one grain
FIT_REACH = 0.12  # of deformation, 7° of rotation: local fits find lattices so far from where they begin
LEAST_INDEXED = 0.6  # share of a pattern's disks on its local lattice, for it to be compared


def doubled(basis: np.ndarray, patterns: Patterns) -> tuple[np.ndarray, np.ndarray] | None:
    """Find two lattices near `basis` from pairs of disks at the same order. None without enough such pairs."""
    order, one, other = _pairs(basis, patterns)
    if len(order) < LEAST_PAIRS:
        return None
    apart = other - one
    tolerance = PAIRED * float(np.linalg.norm(basis, axis=-1).min())
    candidates = _differences(order, apart)
    if not len(candidates):
        return None
    fractions = [np.mean(_in_proportion(order, apart, d, tolerance)) for d in candidates]
    difference, fraction = candidates[int(np.argmax(fractions))], float(max(fractions))
    rng = np.random.default_rng(0)
    chance = float(np.mean([_in_proportion(order, rng.permutation(apart), difference, tolerance).mean() for _ in range(SHUFFLES)]))
    if fraction < EXPLAINED_PAIRS or len(order) * float(information_gain(fraction, chance)) < LEAST_EVIDENCE:
        return None
    used = _in_proportion(order, apart, difference, tolerance)
    first = (np.sum(apart * (order @ difference), axis=-1) > 0)[:, None]
    small, large = (np.linalg.lstsq(order[used], np.where(first == k, other, one)[used], rcond=None)[0] for k in (False, True))
    if np.linalg.norm(np.linalg.inv(basis) @ (large - small), 2) < LEAST_DIFFERENCE:
        return None
    return small, large


def _pairs(basis: np.ndarray, patterns: Patterns) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return orders (m, 2) that have exactly two disks in a pattern, and these disks, (m, 2) each."""
    place = patterns.v @ np.linalg.inv(basis)
    order = np.rint(place)
    indexed = (np.abs(place - order) < INDEXED).all(axis=-1) & (order != 0).any(axis=-1)
    v, key = patterns.v[indexed], np.column_stack([patterns.position[indexed], order[indexed]])
    if not len(v):
        return np.zeros((0, 2)), v, v
    _, number, count = np.unique(key, axis=0, return_inverse=True, return_counts=True)
    sorted_ = np.argsort(number.reshape(-1), kind="stable")
    starts = np.concatenate([[0], np.cumsum(count)[:-1]])[count == 2]
    one, other = sorted_[starts], sorted_[starts + 1]
    return key[one, 1:], v[one], v[other]


def _differences(order: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """Return candidates D (n, 2, 2) for which the distance of a pair is ± order @ D, from two orders each that have most pairs."""
    up = np.where(((order[:, 0] < 0) | ((order[:, 0] == 0) & (order[:, 1] < 0)))[:, None], -1.0, 1.0)
    names, number, count = np.unique(order * up, axis=0, return_inverse=True, return_counts=True)
    number, typical = number.reshape(-1), []
    for which in np.argsort(-count, kind="stable")[:ORDERS]:
        d = apart[number == which]
        axis = np.linalg.eigh(d.T @ d)[1][:, -1]
        typical.append((names[which], np.median(d * np.where(d @ axis < 0, -1.0, 1.0)[:, None], axis=0)))
    found = []
    for (n, d), (m, e) in itertools.combinations(typical, 2):
        if n[0] * m[1] != n[1] * m[0]:
            found += [np.linalg.solve(np.stack([n, m]), np.stack([d, sign * e])) for sign in (1.0, -1.0)]
    return np.stack(found) if found else np.zeros((0, 2, 2))


def _in_proportion(order: np.ndarray, apart: np.ndarray, difference: np.ndarray, tolerance: float) -> np.ndarray:
    """Return which pairs are ± order @ difference apart, (m,)."""
    expected = order @ difference
    away = np.minimum(np.linalg.norm(apart - expected, axis=-1), np.linalg.norm(apart + expected, axis=-1))
    return np.asarray(away < np.minimum(tolerance, 0.5 * np.linalg.norm(expected, axis=-1)))


def islands(basis: np.ndarray, patterns: Patterns) -> list[np.ndarray]:
    """Return the median lattices of the islands that the local lattices form, the largest first. One island gives `basis` itself."""
    local = _local_lattices(basis, patterns)
    label = _clouds(np.linalg.solve(basis, local))
    names, count = np.unique(label[label >= 0], return_counts=True)
    if len(names) < 2:
        return [basis]
    return [np.median(local[label == name], axis=0) for name in names[np.argsort(-count, kind="stable")]]


def are_continuous(one: np.ndarray, other: np.ndarray, patterns: Patterns) -> bool:
    """Return whether the local lattices pass from one lattice to the other without a gap, as in a bent grain."""
    t, change = least_stretch(one, other)
    stretch = np.abs(np.linalg.svd(t, compute_uv=False) - 1).max()
    if np.abs(t - np.eye(2)).max() > ONE_GRAIN or stretch > LARGEST_STRAIN:
        return False
    steps = int(np.ceil(np.abs(t - np.eye(2)).max() / FIT_REACH))
    between = [one @ (np.eye(2) + i / steps * (t - np.eye(2))) for i in range(1, steps)]
    together = np.concatenate([np.linalg.solve(one, _local_lattices(basis, patterns)) for basis in (one, *between, change @ other)])
    label = _clouds(together)
    # both fits may have found both grains where these are less than 15° apart: so the clouds at the mean lattices count
    ends = [int(np.argmin(np.abs(together - end).max(axis=(-2, -1)))) if len(together) else 0 for end in (np.eye(2), t)]
    return bool(len(label) and label[ends[0]] >= 0 and label[ends[0]] == label[ends[1]])


def _local_lattices(basis: np.ndarray, patterns: Patterns) -> np.ndarray:
    """Return the lattices of patterns that are mostly explained by their local lattice, (m, 2, 2)."""
    if not len(patterns):
        return np.zeros((0, 2, 2))
    step = max(1, len(patterns) // LOOKED_AT)
    fit = fit_lattice(patterns.only(patterns.position % step == 0).lists(), basis, origin=(0.0, 0.0), min_indexed=0.5)
    good = np.asarray(fit.mask)[0] & (np.nan_to_num(np.asarray(fit.indexed_fraction)[0]) >= LEAST_INDEXED)
    return np.stack([np.asarray(fit.g1)[0][good], np.asarray(fit.g2)[0][good]], axis=-2)


def _clouds(deformations: np.ndarray) -> np.ndarray:
    """Return to which cloud each deformation belongs, (m,), and -1 for those without enough neighbours."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    points = deformations.reshape(-1, 4) / np.sqrt(2)  # a rotation by a small angle is as long as the angle
    label = np.full(len(points), -1)
    if len(points) < LEAST_CROWD[0]:
        return label
    tree = cKDTree(points)
    neighbours = tree.query_ball_point(points, CROWD, return_length=True)
    core = np.flatnonzero(neighbours >= max(LEAST_CROWD[0], LEAST_CROWD[1] * len(points)))
    if not len(core):
        return label
    linked = cKDTree(points[core]).query_pairs(GAP, output_type="ndarray")
    graph = coo_array((np.ones(len(linked)), (linked[:, 0], linked[:, 1])), shape=(len(core), len(core)))
    label[core] = connected_components(graph, directed=False)[1]
    return label
