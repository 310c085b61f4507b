"""Refine several lattices together: which disks belong to which, vectors, common shift of the origin, widths. Drop those without need."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gpu4d.crystal.candidates import disk_spacing, nearest_nodes, node_tolerance
from gpu4d.crystal.explained import Explanation, Spread, explain
from gpu4d.crystal.lattice import cross, reduced
from gpu4d.crystal.pattern_evidence import LEAST_EVIDENCE, SAMPLE, Patterns
from gpu4d.crystal.relation import SAME_CELL

ROUNDS = 6  # of sorting disks and fitting: widths converge within three, vectors of close lattices within five
FIRST_SPREAD = (0.025, 0.012)  # of |g1|, and of the distance: first vectors are as good, and few disks are lost among wide ones
LEAST_SPREAD = Spread(0.02, 0.001)  # disks without noise differ from nodes by rounding only
LEAST_SCATTER = 8  # disks from which widths are measured
MEDIAN_SQUARE = 1.386  # median of x² + y² for standard deviations of 1: 2 ln 2
ON_NODES = 0.9  # share of the disks on nodes of lattices that explain a pattern
COMMON = (2, 3, 4, 5)  # cells of a common superlattice of two lattices
LEAST_IN_CELL = 6  # disks of a pattern that tells a lattice from a coarser one: a few always lie on a coarser one as well
LONGEST = 3.0  # of |g1|: a coarser lattice with a longer g2 is a row of disks
LEAST_SHARE = 0.02  # of the patterns that each of two such lattices must explain better


class Model(NamedTuple):
    """K lattices with the widths of their disks, and the common shift of the origin."""

    bases: np.ndarray
    spreads: list[Spread]
    shift: np.ndarray

    @classmethod
    def of(cls, bases: Sequence[np.ndarray] | np.ndarray, patterns: Patterns) -> Model:
        """Make a model of given vectors: its widths and shift are measured."""
        many = np.reshape(np.array(bases, np.float64), (-1, 2, 2))
        spreads = [Spread(FIRST_SPREAD[0] * float(np.linalg.norm(b, axis=-1).min()), FIRST_SPREAD[1]) for b in many]
        model = cls(many, spreads, np.zeros(2))
        for _ in range(ROUNDS // 2 if len(many) else 0):
            model = _measured(model, patterns, model.explain(patterns))
        return model

    def explain(self, patterns: Patterns) -> Explanation:
        """Return what explains the patterns."""
        return explain(patterns.v - self.shift, patterns.offsets, self.bases, self.spreads)

    def only(self, keep: np.ndarray) -> Model:
        """Return the lattices for which `keep` is True."""
        return Model(self.bases[keep], [s for s, k in zip(self.spreads, keep) if k], self.shift)


def refine(model: Model, patterns: Patterns) -> Model:
    """Fit all lattices to the disks that belong to them, until they change no more. Lattices without disks are left out."""
    for _ in range(ROUNDS):
        found = model.explain(patterns)
        fits = [fit(model, k, patterns, found) for k in range(len(model.bases))]
        keep = np.array([f is not None for f in fits], bool)
        if not keep.any():
            return model.only(keep)
        model = _measured(model._replace(bases=np.stack([b if f is None else f[0] for f, b in zip(fits, model.bases)])), patterns, found)
        model = model.only(keep)
    return model


def fit(model: Model, k: int, patterns: Patterns, found: Explanation) -> tuple[np.ndarray, np.ndarray] | None:
    """Fit lattice k to its disks. Return vectors and their covariance (both (2, 2)), or None if the disks do not determine them."""
    own = found.own[k] & found.near[k]
    v = patterns.v[own] - model.shift
    order = nearest_nodes(model.bases[k], v)[0]
    if len(v) < LEAST_SCATTER or np.linalg.matrix_rank(order) < 2:
        return None
    weight = 1 / _variance(model.spreads[k], order @ model.bases[k])
    normal = order.T @ (weight[:, None] * order)
    basis = np.linalg.solve(normal, order.T @ (weight[:, None] * v))
    chi2 = float(np.sum(weight * np.sum((v - order @ basis) ** 2, axis=-1))) / (2 * len(v) - 4)
    return basis, chi2 * np.linalg.inv(normal)


def drop_unneeded(model: Model, patterns: Patterns) -> Model:
    """Leave out lattices, the least needed first, until each explains enough that the others do not."""
    while len(model.bases) > 1:
        needs = needed(model, patterns)
        worst = int(np.argmin(needs))
        if needs[worst] >= LEAST_EVIDENCE:
            break
        model = refine(model.only(np.arange(len(needs)) != worst), patterns)
    return model


def needed(model: Model, patterns: Patterns) -> np.ndarray:
    """Return how much less the disks are explained without each lattice, (K,), nats."""
    every = np.arange(len(model.bases))
    total = float(np.sum(model.explain(patterns).together))
    if len(every) == 1:
        return np.array([total])
    return np.array([total - float(np.sum(model.only(every != k).explain(patterns).together)) for k in every])


def _measured(model: Model, patterns: Patterns, found: Explanation) -> Model:
    """Measure widths and shift from the disks that belong to the lattices."""
    spreads, away = [], [np.zeros((0, 2))]
    for k, basis in enumerate(model.bases):
        own = found.own[k] & found.near[k]
        v = patterns.v[own] - model.shift
        node = nearest_nodes(basis, v)[0] @ basis
        away.append(v - node)
        spreads.append(_spread(node, v - node) or model.spreads[k])
    together = np.concatenate(away)
    shift = np.median(together, axis=0) if len(together) else np.zeros(2)
    return Model(model.bases, spreads, model.shift + shift)


def _spread(node: np.ndarray, away: np.ndarray) -> Spread | None:
    """Measure σ² = px² + (share |q|)² from the medians of near and of far disks."""
    if len(node) < LEAST_SCATTER:
        return None
    q2, r2 = np.sum(node**2, axis=-1), np.sum(away**2, axis=-1)
    near = q2 <= np.median(q2)
    if near.all():
        return Spread(max(LEAST_SPREAD.px, float(np.sqrt(np.median(r2) / MEDIAN_SQUARE))), LEAST_SPREAD.share)
    (a, b), (x, y) = ((np.median(r[near]), np.median(r[~near])) for r in (r2 / MEDIAN_SQUARE, q2))
    share = max(0.0, float((b - a) / (y - x)))
    px = max(0.0, float(a - share * x))
    if px == 0:
        share = float((a + b) / (x + y))
    return Spread(max(LEAST_SPREAD.px, px**0.5), max(LEAST_SPREAD.share, share**0.5))


def _variance(spread: Spread, node: np.ndarray) -> np.ndarray:
    return np.asarray(spread.px**2 + spread.share**2 * np.sum(node**2, axis=-1))


def without_common_cell(model: Model, patterns: Patterns) -> list[Model]:
    """Return a model of two coarser lattices in place of one, if patterns hold one or the other of them. Else an empty list.

    Twins may have a common finer lattice, on which all disks lie: for the twins of fcc crystals it has three times as many nodes. Two of
    its coarser lattices, of the same cell, are better if most patterns need only one of them.
    """
    scattered = np.linalg.norm(patterns.v, axis=-1) > 0.4 * float(np.hypot(*model.bases[0][0]))
    some = patterns.only(scattered, LEAST_IN_CELL).some(SAMPLE)
    spacing = disk_spacing(some.v, some.position)
    if spacing is None:
        return []
    reach = node_tolerance(some.v, spacing)
    chance = np.pi * float(np.mean(reach**2)) / abs(float(cross(*model.bases[0])))
    starts, many = some.offsets[:-1], np.diff(some.offsets)

    def on(basis: np.ndarray) -> np.ndarray:
        return np.asarray(nearest_nodes(basis, some.v)[1] < reach)

    def evidence(on: np.ndarray, p: float) -> np.ndarray:
        hits, p = np.add.reduceat(on.astype(np.float64), starts), min(max(p, 1e-6), ON_NODES)
        return np.asarray(hits * np.log(ON_NODES / p) + (many - hits) * np.log((1 - ON_NODES) / (1 - p)))

    best, gain = None, LEAST_EVIDENCE
    whole = evidence(on(model.bases[0]), chance)
    for index in COMMON:
        coarser = [np.array([[a, b], [0, index // a]]) for a in range(1, index + 1) if index % a == 0 for b in range(index // a)]
        bases, p = reduced(np.stack(coarser) @ model.bases[0]), chance / index
        lengths = np.linalg.norm(bases, axis=-1)
        hits = [on(b) for b in bases]
        alone = [evidence(h, p) for h in hits]
        for i, j in itertools.combinations(np.flatnonzero(lengths[:, 1] < LONGEST * lengths[:, 0]), 2):
            if np.abs(lengths[i] / lengths[j] - 1).max() > SAME_CELL:
                continue
            both = evidence(hits[i] | hits[j], 1 - (1 - p) ** 2)
            either = np.logaddexp(np.logaddexp(alone[i], alone[j]), both) - np.log(3)
            shares = min(np.mean(alone[i] > alone[j]), np.mean(alone[j] > alone[i]))
            if float(np.sum(either - whole)) > gain and shares > LEAST_SHARE:
                best, gain = (bases[i], bases[j]), float(np.sum(either - whole))
    return [] if best is None else [Model.of(best, patterns)]
