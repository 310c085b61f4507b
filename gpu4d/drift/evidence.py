"""Hold what is assumed of the shifts of rows, and let the data choose how large they may be."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy  # its parts are imported when they are used

FREE = 100.0  # steps: standard deviation of what is not known at all, the place of a scan and its steady drift
SIZES = np.geomspace(0.005, 2.56, 19)  # steps: walk and jitter are one of these, 1.4 times apart; data hardly tell them better
BEGIN = 8  # the size from which the search goes up or down
WORTH = 3.0  # of the logarithm of the evidence: a jitter that gains less is not believed


@dataclass(frozen=True)
class Prior:
    """Shifts of rows are a steady drift, a random walk and an independent jitter.

    Attributes
    ----------
    parts : list of slice
        The rows of every scan.
    steady : bool
        Whether the place of a scan and its steady drift are free. If not, they are zero.
    walk, jitter : float
        Standard deviation of a step of the walk from a row to the next, and of the jitter of each row, along one axis. Steps.
    """

    parts: list[slice]
    steady: bool
    walk: float = 0.0
    jitter: float = 0.0

    def with_size(self, name: str, size: float) -> Prior:
        """Return the prior with another walk or jitter."""
        return replace(self, walk=size) if name == "walk" else replace(self, jitter=size)

    def covariance(self) -> np.ndarray:
        """Return the covariance (R, R) along one axis."""
        total = np.zeros((self.parts[-1].stop,) * 2)
        for part in self.parts:
            i = np.arange(part.stop - part.start)
            t = (2 * i + 1) / len(i) - 1
            here = self.walk**2 * np.minimum(i[:, None], i) + self.jitter**2 * np.eye(len(i))
            total[part, part] = here + (FREE**2 * (1 + np.outer(t, t)) if self.steady else 0.0)
        return total

    def factor(self) -> np.ndarray:
        """Return L (2R, 2R) with L Lᵀ the covariance of shifts in the order (row, axis)."""
        c = self.covariance()
        values, vectors = np.linalg.eigh(c)
        return np.kron(vectors * np.sqrt(np.maximum(values, 0)), np.eye(2))


def posterior(prior: Prior, curvature: np.ndarray, pull: np.ndarray, errors: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Return the most probable shifts (R, 2) and, if asked for, their covariance (R, 2, R, 2)."""
    root = prior.factor()
    matrix = np.eye(len(root)) + root.T @ curvature @ root
    number = len(root) // 2
    shifts = (root @ np.linalg.solve(matrix, root.T @ pull)).reshape(number, 2)
    if not errors:
        return shifts, np.zeros((0, 2, 0, 2))
    return shifts, (root @ np.linalg.solve(matrix, root.T)).reshape(number, 2, number, 2)


def log_evidence(prior: Prior, curvature: np.ndarray, pull: np.ndarray) -> float:
    """Return the logarithm of the probability of the data, near the minimum, but for a constant."""
    root = prior.factor()
    lower = np.linalg.cholesky(np.eye(len(root)) + root.T @ curvature @ root)
    z = scipy.linalg.solve_triangular(lower, root.T @ pull, lower=True)
    return float(0.5 * z @ z - np.log(np.diag(lower)).sum())


def best_prior(prior: Prior, curvature: np.ndarray, pull: np.ndarray) -> tuple[Prior, float]:
    """Return the walk and the jitter with the largest evidence, and what they gain over none.

    Both explain rows that are shifted. Of two scans the one that alone explains more is taken, if little, because errors without it would
    be too small; the other one is added if that gains `WORTH`. Of one scan the jitter is taken if it gains that.
    """
    none = replace(prior, walk=0.0, jitter=0.0)
    nothing = log_evidence(none, curvature, pull)
    found = [_climbed(none, name, curvature, pull) for name in (("walk", "jitter") if prior.steady else ("jitter",))]
    most, best, name = max(found, key=lambda each: each[0])
    if most - nothing <= (0 if prior.steady else WORTH):
        return none, 0.0
    if prior.steady:
        added = _climbed(best, "jitter" if name == "walk" else "walk", curvature, pull)
        if added[0] > most + WORTH:
            most, best, _ = added
    return best, most - nothing


def _climbed(prior: Prior, name: str, curvature: np.ndarray, pull: np.ndarray) -> tuple[float, Prior, str]:
    """Return the largest evidence over sizes of the walk or the jitter, the prior with it, and the name. It has one maximum."""

    def tried(at: int) -> tuple[float, int]:
        return log_evidence(prior.with_size(name, float(SIZES[at])), curvature, pull), at

    best, stride = tried(BEGIN), 4
    while stride:
        ways = [tried(at) for at in (best[1] - stride, best[1] + stride) if 0 <= at < len(SIZES)]
        better = max(ways, default=best)
        if better[0] > best[0]:
            best = better
        else:
            stride //= 2
    return best[0], prior.with_size(name, float(SIZES[best[1]])), name
