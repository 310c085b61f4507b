"""Decide which parts of a scan are classes of their own, and which are the same phase, bent, or mixtures of others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from gpu4d.classification.totals import Totals

STEPS = 60  # of the fit, at most; 10 to 20 are usual
STILL = 1e-3  # of the sum of squares, in units of its noise, at which the fit ends
HALVINGS = 8  # of a step that does not lower the sum of squares
USED = 0.05  # of the weights: parts with less take no part in an explanation
HIDDEN = 0.5  # of a pair: more is not missed by chance where only found disks count
RIDGE = 0.05  # weight of smooth coefficients: keeps them finite where few spots determine them
LARGEST = 2.0  # of the smooth logarithmic change of a spot
DIFFUSE = 0.3  # relative change of diffuse scattering that thickness explains
UNEXPLAINED = 0.01  # of all counts: parts with less are not distinct
MISSING = 5.0  # standard errors by which a spot must be there in one part and not in the other
FACTOR = 0.5  # of the spot's counts: so much of it must be unexplained
FAINTEST = 2e-3  # of all counts: a fainter pair may be the tail of a bright spot, or of what the radial median leaves
LEAST_MISSING = 2  # such pairs make a part distinct, however faint they are
MAINLY = 0.85  # share of one part in the explanation of another: they are the same, and not a mixture


class Explanation(NamedTuple):
    """How well other parts explain the counts of one.

    Attributes
    ----------
    weights : (J,) float64
        Shares of the other parts.
    unexplained : float
        Share of the counts beyond noise and tolerance.
    missing : (M,) bool
        Pairs of spots that are there in one and not in the other.
    """

    weights: np.ndarray
    unexplained: float
    missing: np.ndarray

    @property
    def distinct(self) -> bool:
        """Return True if the part is a class of its own."""
        return self.unexplained > UNEXPLAINED or int(self.missing.sum()) >= LEAST_MISSING

    @property
    def score(self) -> float:
        """Return the order in which parts are given up: those that are explained best first."""
        return self.unexplained + (1.0 if int(self.missing.sum()) >= LEAST_MISSING else 0.0)


@dataclass
class Kept:
    """Parts that are classes, and what became of the others.

    Attributes
    ----------
    totals : Totals
        Of all parts. Those that are kept have the counts of the parts that are the same.
    kept : list of int
        Parts that are classes.
    same : list of (int, int)
        Parts that are the same phase as another: (part, the other).
    mixtures : list of (int, tuple of int)
        Parts that are mixtures of others.
    forced : list of (int, Explanation)
        Parts that are classes only because so many were asked for, or that were given up for the same reason.
    """

    totals: Totals
    kept: list[int]
    same: list[tuple[int, int]]
    mixtures: list[tuple[int, tuple[int, ...]]]
    forced: list[tuple[int, Explanation]]


def explain(part: Totals, others: Totals, spots: np.ndarray, tolerance: float) -> Explanation:
    """Explain the counts of one part by a mixture of others that is changed smoothly.

    The model of pair k is Σ_j w_j n_jk exp(a g_x² + b g_x g_y + c g_y²) + Σ_j w_j b_jk, and Σ_j w_j d_j of the diffuse rings, with net
    counts n, background b and w ≥ 0. The exponential is what thickness and a common tilt do to sums of Friedel pairs. The variance
    is that of Poisson counts of both sides. Beyond it each pair may differ by a part of itself: `tolerance`, and the asymmetry of the
    pair in either of them, because a bent crystal shows how far it is bent by the difference of I(g) and I(−g).

    Parameters
    ----------
    part : Totals
        One row.
    others : Totals
    spots : (M, 2) float64
        One spot of every pair, relative to the origin.
    tolerance : float
    """
    if not part.counts[0]:
        empty = (others.counts == 0).astype(np.float64)
        return Explanation(empty, 0.0 if empty.any() else 1.0, np.zeros(len(spots), bool))
    fit = _Fit(part, others, spots, tolerance)
    fit.run()
    return fit.judge()


class _Fit:
    """The fit of `explain`: weights by non-negative least squares, and the smooth change by Fisher scoring, in turns."""

    def __init__(self, part: Totals, others: Totals, spots: np.ndarray, tolerance: float):
        self.counts, self.rings, self.bent = part.pairs[0], part.diffuse[0], part.asymmetry[0]
        self.others, self.tolerance = others, tolerance
        self.lost = part.limit * float(part.positions[0])
        self.scale = float(part.counts[0])
        per = np.where(others.counts > 0, self.scale / np.where(others.counts > 0, others.counts, 1.0), 0.0)[:, None]
        self.net, self.under, self.between = others.net * per, np.minimum(others.background, others.pairs) * per, others.diffuse * per
        self.noise, self.ring_noise = others.pairs * per**2, others.diffuse * per**2
        u = spots / max(float(np.hypot(*spots.T).max(initial=0.0)), 1e-300)
        self.basis = np.stack([u[:, 0] ** 2, u[:, 0] * u[:, 1], u[:, 1] ** 2], -1)
        self.smooth = np.zeros(3)
        # Counts weigh as in Poisson statistics with a common excess of variance, so that bright spots decide. With a variance that grows
        # as their square, faint spots that the model has too bright would draw it far below the bright ones.
        excess = 1 + tolerance**2 * _mean_of_counts(self.counts)
        self.variance = excess * np.maximum(self.counts, 1) * (1 + self.bent / tolerance) ** 2
        self.ring_variance = (1 + DIFFUSE**2 * _mean_of_counts(self.rings)) * np.maximum(self.rings, 1)

    def run(self) -> None:
        """Take steps until the smooth change stands still."""
        self._weigh()
        for _ in range(STEPS):
            before, start = self._misfit(), self.smooth
            change = self._change()
            for _ in range(HALVINGS):
                self.smooth = start + change
                if self._misfit() < before:
                    break
                change = change / 2
            else:
                self.smooth = start
            self._weigh()
            if before - self._misfit() < STILL:
                return

    @property
    def factor(self) -> np.ndarray:
        """Return the smooth change of every pair, (M,)."""
        return np.exp(np.clip(self.basis @ self.smooth, -LARGEST, LARGEST))

    @property
    def spot(self) -> np.ndarray:
        """Return the modelled counts of every pair without the diffuse ones, (M,)."""
        return (self.weights @ self.net) * self.factor

    def _misfit(self) -> float:
        """Return the weighted sum of squares that is made small."""
        off, ring_off = self.counts - self.spot - self.weights @ self.under, self.rings - self.weights @ self.between
        return float((off**2 / self.variance).sum() + (ring_off**2 / self.ring_variance).sum() + RIDGE * (self.smooth**2).sum())

    def _weigh(self) -> None:
        """Fit the weights for the present smooth change."""
        root, ring_root = np.sqrt(self.variance), np.sqrt(self.ring_variance)
        rows = np.concatenate([(self.net * self.factor + self.under) / root, self.between / ring_root], axis=1).T
        self.weights = nnls(rows, np.concatenate([self.counts / root, self.rings / ring_root]))[0]

    def _change(self) -> np.ndarray:
        """Return a step of the smooth change, by at most a factor of e for any spot."""
        spot = self.spot
        slope = self.basis * spot[:, None]
        off = self.counts - spot - self.weights @ self.under
        hessian = slope.T @ (slope / self.variance[:, None]) + RIDGE * np.eye(3)
        change = np.linalg.solve(hessian, slope.T @ (off / self.variance) - RIDGE * self.smooth)
        return change * min(1.0, 1.0 / max(float(np.abs(self.basis @ change).max(initial=0.0)), 1e-300))

    def judge(self) -> Explanation:
        """Return what is left unexplained beyond noise and tolerance, of the larger of data and model."""
        spot, under, between = self.spot, self.weights @ self.under, self.weights @ self.between
        poisson = np.maximum(spot + under, 1) + self.weights**2 @ self.noise * self.factor**2
        ring_poisson = np.maximum(between, 1) + self.weights**2 @ self.ring_noise
        used = self.weights > USED * self.weights.sum()
        bent = np.maximum(self.bent, self.others.asymmetry[used].max(0, initial=0.0))
        size = np.maximum(spot, self.counts - under).clip(0.0)
        allowed = (self.tolerance + bent) * size + DIFFUSE * under + np.minimum(HIDDEN * size, self.lost)
        off, ring_off = np.abs(self.counts - spot - under), np.abs(self.rings - between)
        missing = off > np.maximum(MISSING * np.sqrt(poisson + allowed**2), np.maximum(FACTOR * size, FAINTEST * self.scale))
        beyond = np.maximum(off - np.sqrt(poisson) - allowed, 0).sum()
        beyond += np.maximum(ring_off - np.sqrt(ring_poisson) - DIFFUSE * np.maximum(self.rings, between), 0).sum()
        return Explanation(self.weights, float(beyond / self.scale), missing)


def _mean_of_counts(counts: np.ndarray) -> float:
    """Return the mean of counts, weighted by themselves."""
    return float((counts**2).sum() / max(float(counts.sum()), 1e-300))


def distinct_parts(parts: Totals, spots: np.ndarray, tolerance: float, classes: int | None = None) -> Kept:
    """Give up parts that others explain, one after the other, the best explained first.

    Parameters
    ----------
    parts : Totals
    spots : (M, 2) float64
        One spot of every pair, relative to the origin.
    tolerance : float
        Relative change of a spot that says nothing.
    classes : int, optional
        Number of classes wanted. None: parts are given up until none is explained by the others.
    """
    result = Kept(parts, list(range(len(parts))), [], [], [])
    while len(result.kept) > (classes or 1):
        part, others, how = _best_explained(result, spots, tolerance)
        if how.distinct and classes is None:
            return result
        if how.distinct:
            result.forced.append((part, how))
        top = int(np.argmax(how.weights))
        if how.weights[top] > MAINLY * how.weights.sum():
            result.totals = result.totals.joined(others[top], part)
            result.same.append((part, others[top]))
        else:
            used = how.weights > 0.1 * how.weights.sum()
            result.mixtures.append((part, tuple(others[j] for j in np.flatnonzero(used))))
        result.kept.remove(part)
    if len(result.kept) > 1:
        part, _, how = _best_explained(result, spots, tolerance)
        if not how.distinct:
            result.forced.append((part, how))
    return result


def _best_explained(result: Kept, spots: np.ndarray, tolerance: float) -> tuple[int, list[int], Explanation]:
    """Return the part that the others explain best, the others, and how."""
    found = []
    for part in result.kept:
        others = [j for j in result.kept if j != part]
        found.append((part, others, explain(result.totals.rows([part]), result.totals.rows(others), spots, tolerance)))
    return min(found, key=lambda one: one[2].score)
