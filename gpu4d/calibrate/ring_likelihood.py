"""Fit a ring pattern by Poisson maximum likelihood, with errors that hold also where counts scatter more than Poisson counts.

Fisher scoring. The intensities of the rings in every sector enter linearly and only in their own sector, so they are eliminated from the
normal equations (Schur complement): the fit costs as much as one with some twenty parameters.

The score of a shift of a ring sums to zero over an uneven ring, too, as long as its radial shape is symmetric: intensities that are wrong
within a sector do not move the ring. They make the counts scatter more, as does a small number of grains. The covariance therefore is the
"sandwich" H⁻¹ C H⁻¹ (Huber 1967, White 1982): H is the Fisher information, and C the covariance of the score from its scatter between
clusters, that is ring by ring and sector by sector. A sector and the opposite one are one cluster: the same grains light both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpu4d.calibrate.ring_model import LOWER, SHAPE, UPPER, Pixels, RingModel

ITERATIONS = 60
LEAST_GAIN = 1e-4  # of the log likelihood: a smaller gain ends the fit, being far below what the counts can tell
BANDS = 5  # of radii, in a fit without rings: a cluster is a sector of one of them
FLANK = 0.1  # of a ring's height: a sector that shows less of a ring says nothing about its intensity there
SMALLEST = 1e-12  # of the largest expected count: keeps logarithms finite


@dataclass
class Fitted:
    """Parameters p (P,), ring intensities (sectors, K), and the covariance (P, P) of the parameters, with zeros for those kept fixed."""

    p: np.ndarray
    amplitude: np.ndarray
    covariance: np.ndarray
    fisher: np.ndarray  # covariance if the counts were Poisson counts about the model
    amplitude_error: np.ndarray  # (sectors, K)
    deviance: float  # per pixel
    mu: np.ndarray
    clusters: int
    converged: bool


def fit(model: RingModel, pixels: Pixels, p: np.ndarray, amplitude: np.ndarray, least_gain: float = LEAST_GAIN) -> Fitted:
    """Maximise Σ n log μ − μ from a start near the answer."""
    p, amplitude = p.copy(), amplitude.copy()
    here = _Step(model, pixels, p, amplitude)
    damping, done = 1e-4, False
    for _ in range(ITERATIONS):
        moved = here.moved(damping)
        there = _Step(model, pixels, *moved)
        if np.isfinite(there.likelihood) and there.likelihood >= here.likelihood - 1e-9 * abs(here.likelihood):
            gain = there.likelihood - here.likelihood
            here, damping = there, max(damping / 5, 1e-9)
            if gain < least_gain:
                done = True
                break
        else:
            damping *= 10
            if damping > 1e8:  # no step gains anything: rounding decides here
                done = True
                break
    return here.finished(done)


class _Step:
    """One point of the search: expected counts, gradient and Fisher information, with the ring intensities eliminated."""

    def __init__(self, model: RingModel, pixels: Pixels, p: np.ndarray, amplitude: np.ndarray):
        self.model, self.pixels, self.p, self.amplitude = model, pixels, p, amplitude
        mu, self.by, self.shape = model.expected(p, amplitude, pixels)
        self.mu = np.maximum(mu, SMALLEST * mu.max())
        self.likelihood = float((pixels.counts * np.log(self.mu) - self.mu).sum())

    def _equations(self) -> None:
        """Set up the normal equations of the parameters that move, and of the intensities of every sector."""
        root = 1 / np.sqrt(self.mu)
        self.off = (self.pixels.counts - self.mu) * root
        gradient = self.by @ (self.off * root)
        self.columns = np.flatnonzero(self.model.active() & ~self._held(gradient))
        self.gradient = gradient[self.columns]
        self.rows = self.by[self.columns] * root
        self.own = self.shape * root
        self.h = self.rows @ self.rows.T
        parts = [(self.own[:, i], self.rows[:, i], self.off[i]) for i in self.pixels.members()]
        self.h_own = np.stack([own @ own.T for own, _, _ in parts])
        self.h_mixed = np.stack([own @ rows.T for own, rows, _ in parts])
        self.g_own = np.stack([own @ off for own, _, off in parts])
        self.hidden = np.array(
            [own_shape.max(axis=1, initial=0.0) < FLANK for own_shape in (self.shape[:, i] for i in self.pixels.members())]
        )
        stuck = (self.amplitude <= 0) & (self.g_own <= 0) | self.hidden
        self.h_mixed[stuck], self.g_own[stuck] = 0.0, 0.0
        self.h_own[stuck[:, :, None] | stuck[:, None, :]] = 0.0
        self.h_own[np.eye(stuck.shape[1], dtype=bool) & stuck[:, :, None]] = 1.0

    def _held(self, gradient: np.ndarray) -> np.ndarray:
        """Return (P,) bool: parameters that stand at a limit and would leave it."""
        held = np.zeros(len(self.p), bool)
        for i, name in enumerate(SHAPE):
            low, high = LOWER.get(name, -np.inf), UPPER.get(name, np.inf)
            held[i] = (self.p[i] <= low and gradient[i] <= 0) or (self.p[i] >= high and gradient[i] >= 0)
        return held

    def moved(self, damping: float) -> tuple[np.ndarray, np.ndarray]:
        """Return parameters and intensities after one damped step, inside their limits."""
        if not hasattr(self, "h"):
            self._equations()
        own = self.h_own * (1 + damping * np.eye(self.h_own.shape[-1])) + 1e-12 * np.eye(self.h_own.shape[-1])
        mixed = np.linalg.solve(own, np.concatenate([self.h_mixed, self.g_own[..., None]], axis=-1))
        h = self.h * (1 + damping * np.eye(len(self.h))) - np.einsum("skp,skq->pq", self.h_mixed, mixed[..., :-1])
        g = self.gradient - np.einsum("skp,sk->p", self.h_mixed, mixed[..., -1])
        step = solved(h, g)
        p, amplitude = self.p.copy(), self.amplitude + mixed[..., -1] - mixed[..., :-1] @ step
        p[self.columns] += step
        for i, name in enumerate(SHAPE):
            p[i] = np.clip(p[i], LOWER.get(name, -np.inf), UPPER.get(name, np.inf))
        return p, np.where(self.hidden, 0.0, np.maximum(amplitude, 0.0))

    def finished(self, done: bool) -> Fitted:
        """Return the fit with its covariances at this point."""
        self._equations()
        mixed = np.linalg.solve(self.h_own, self.h_mixed)
        h = self.h - np.einsum("skp,skq->pq", self.h_mixed, mixed)
        inverse = solved(h, np.eye(len(h)))
        score = self.rows.copy()
        for i, part in zip(self.pixels.members(), mixed):
            score[:, i] -= part.T @ self.own[:, i]
        score *= self.off
        cluster = self._clusters()
        sums = np.stack([np.bincount(cluster, c) for c in score], axis=1)
        count = int((np.bincount(cluster) > 0).sum())
        spread = sums.T @ sums * (count / max(count - len(h), 1))
        full, fisher = np.zeros((len(self.p), len(self.p))), np.zeros((len(self.p), len(self.p)))
        at = np.ix_(self.columns, self.columns)
        full[at], fisher[at] = inverse @ spread @ inverse, inverse
        with np.errstate(invalid="ignore", divide="ignore"):
            diagonal = np.einsum("skk->sk", np.linalg.inv(self.h_own))
            n, mu = self.pixels.counts, self.mu
            deviance = 2 * float((np.where(n > 0, n * np.log(np.where(n > 0, n, 1) / mu), 0) - (n - mu)).mean())
        return Fitted(self.p, self.amplitude, full, fisher, np.where(self.hidden, np.inf, np.sqrt(diagonal)), deviance, mu, count, done)

    def _clusters(self) -> np.ndarray:
        """Return the cluster (n,) of every pixel: the ring it is next to, and its sector or the opposite one."""
        pixels = self.pixels
        half = max(pixels.sectors // 2, 1)
        r = self.model.radius(self.p, pixels.x, pixels.y)[0]
        if self.model.g.size:
            place = np.sort(self.model.places(self.p)[0])
            ring = np.searchsorted((place[1:] + place[:-1]) / 2, r)
        else:
            ring = np.minimum(((r - r.min()) * (BANDS / np.ptp(r))).astype(np.int64), BANDS - 1)
        return ring * half + pixels.sector % half


def solved(h: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Solve h x = g for a matrix whose rows differ much in size; directions that the data do not fix get 0."""
    scale = 1 / np.sqrt(np.maximum(np.diag(h), 1e-300))
    values, vectors = np.linalg.eigh(h * scale[:, None] * scale)
    inverse = np.where(values > 1e-10, 1 / np.maximum(values, 1e-10), 0.0)
    left = vectors * inverse @ vectors.T
    return scale[:, None] * (left @ (scale[:, None] * g)) if g.ndim == 2 else scale * (left @ (scale * g))
