"""Search a lattice in patterns of which some hold it and others do not.

`gpu4d.find_lattice` looks at all disks together. A lattice that is in 5 % of the patterns explains few of them. Here each pattern is judged
by itself: a pattern holds the lattice, or it does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpu4d.crystal.candidates import REACH, candidate_bases, disk_spacing, fit_basis, nearest_nodes, node_tolerance, related_bases
from gpu4d.crystal.lattice import cross
from gpu4d.data.pointlist import PointListArray

SAMPLE = 4000  # disks that judge a candidate, of whole patterns
HOLDS = 0.7  # share of the disks that lie on nodes in a pattern that holds a lattice; the others are false, or of further lattices
PRICE = 3.0  # nats: a pattern counts from here on, because 5 % of the patterns (e⁻³) may be chosen freely
LEAST_EVIDENCE = 30.0  # nats over all patterns: thousands of candidates with free numbers find 20 in random disks
LEAST_LEFT = 4  # disks of a pattern in which a lattice is searched
LEAST_ORDERS = 4  # that occur often, in two directions: fewer are a row of disks, or bad pixels
TURNS = 16  # random directions in which each disk is put, to measure chance


@dataclass(frozen=True, eq=False)
class Patterns:
    """Disks of P patterns relative to their origins.

    Attributes
    ----------
    v : (n, 2) float64
        px.
    weight : (n,) float64
    offsets : (P + 1,) int64
    """

    v: np.ndarray
    weight: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, v: np.ndarray, weight: np.ndarray, position: np.ndarray) -> Patterns:
        """Make them from disks in the order of their positions."""
        _, counts = np.unique(position, return_counts=True)
        return cls(v, weight, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def position(self) -> np.ndarray:
        """Return the number of the pattern of each disk, (n,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def only(self, keep: np.ndarray, least: int = 1) -> Patterns:
        """Return the disks for which `keep` is True, of patterns with at least `least` of them."""
        position = self.position
        many = np.bincount(position[keep], minlength=len(self)) >= least
        keep = keep & many[position]
        return Patterns.of(self.v[keep], self.weight[keep], position[keep])

    def some(self, most: int) -> Patterns:
        """Return every n-th pattern, so that they have about `most` disks."""
        step = max(1, int(np.ceil(len(self.v) / most)))
        return self.only(self.position % step == 0)

    def lists(self) -> PointListArray:
        """Return them as a scan of one row, with the origin at (0, 0) and the weights as intensity."""
        fields = {"qx": self.v[:, 0].copy(), "qy": self.v[:, 1].copy(), "intensity": self.weight}
        return PointListArray(self.offsets, fields, (1, len(self)))


def search(patterns: Patterns, shortest: float) -> np.ndarray | None:
    """Find the lattice with most evidence among the disks of patterns, some of which hold it.

    Parameters
    ----------
    patterns : Patterns
        Without the unscattered disks, and without disks that other lattices explain.
    shortest : float
        Shortest lattice vector, px.

    Returns
    -------
    (2, 2) float64 or None
        Rows g1 and g2. None if there is less evidence than random disks may give.
    """
    spacing = disk_spacing(patterns.v, patterns.position)
    if spacing is None:
        return None
    low = patterns.only(np.linalg.norm(patterns.v, axis=-1) < REACH * spacing, LEAST_LEFT).some(SAMPLE)
    if not len(low):
        return None
    bases = candidate_bases(low.v, low.weight, spacing, shortest)
    if not len(bases):
        return None
    best = bases[np.argmax(evidence_of(bases, low, spacing).sum(axis=-1))]
    for _ in range(2):
        family = related_bases(_refit(best, low, spacing))
        family = family[(np.linalg.norm(family, axis=-1) >= shortest).all(axis=-1)]
        if not len(family):
            return None
        refitted = np.stack([best, *(_refit(b, low, spacing) for b in family)])
        best = refitted[np.argmax(evidence_of(refitted, low, spacing).sum(axis=-1))]
    return best if _is_significant(best, low, spacing) else None


def evidence_of(bases: np.ndarray, patterns: Patterns, spacing: float, chance: np.ndarray | None = None) -> np.ndarray:
    """Return the evidence of candidates in each pattern above the price, (C, P), nats.

    With n disks of a pattern, m of them near nodes, p the chance of a random disk to be, and f the share in a pattern that holds the
    lattice, it is m ln(f / p) + (n − m) ln((1 − f) / (1 − p)) minus the price, and at least 0.
    """
    reach, starts = node_tolerance(patterns.v, spacing), patterns.offsets[:-1]
    many = np.diff(patterns.offsets)
    if chance is None:
        chance = np.pi * np.mean(reach**2) / np.abs(cross(bases[:, 0], bases[:, 1]))
    p = np.clip(chance, 1e-6, HOLDS)[:, None]
    hits = np.empty((len(bases), len(many)))
    for first in range(0, len(bases), 32):
        on = nearest_nodes(bases[first : first + 32], patterns.v)[1] < reach
        hits[first : first + 32] = np.add.reduceat(on.astype(np.float64), starts, axis=-1)
    evidence = hits * np.log(HOLDS / p) + (many - hits) * np.log((1 - HOLDS) / (1 - p))
    return np.asarray(np.maximum(evidence - PRICE, 0.0))


def _refit(basis: np.ndarray, patterns: Patterns, spacing: float) -> np.ndarray:
    """Fit a basis to the patterns that hold it."""
    held = evidence_of(basis[None], patterns, spacing)[0] > 0
    if not held.any():
        return basis
    chosen = held[patterns.position]
    return fit_basis(basis, patterns.v[chosen], patterns.weight[chosen], spacing, REACH)[0]


def _is_significant(basis: np.ndarray, patterns: Patterns, spacing: float) -> bool:
    """Return whether a basis has more evidence than random disks may give, with disks of the same distances as chance."""
    angle = np.random.default_rng(0).uniform(0, 2 * np.pi, (TURNS, len(patterns.v)))
    turned = np.linalg.norm(patterns.v, axis=-1)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    chance = np.mean(nearest_nodes(basis, turned)[1] < node_tolerance(turned, spacing))
    evidence = evidence_of(basis[None], patterns, spacing, np.array([chance]))[0]
    if evidence.sum() < LEAST_EVIDENCE:
        return False
    order, distance = nearest_nodes(basis, patterns.v)
    on = (distance < node_tolerance(patterns.v, spacing)) & (order != 0).any(axis=-1) & (evidence > 0)[patterns.position]
    names, count = np.unique(order[on], axis=0, return_counts=True)
    often = names[count > 0.1 * count.max()]
    return len(often) >= LEAST_ORDERS and np.linalg.matrix_rank(often) == 2
