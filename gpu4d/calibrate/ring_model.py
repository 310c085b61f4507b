"""Compute what is expected in every pixel of a ring pattern, and how this changes with the parameters.

The position of a pixel relative to the centre, with the ellipse removed, has a radius r. Expected are

    μ = B(r) h(φ) + Σ_k A_k(φ) S((r − R_k) / w_k),   R_k = L |g_k| − D / (L |g_k|),   w_k = w √(1 + γ (g_k / g_1)²)

B is the exponential of a cubic spline in r, and h(φ) = exp(c₁ cos φ + s₁ sin φ + c₂ cos 2φ + s₂ sin 2φ). The intensity A_k of a ring is
free in every sector, because crystals with preferred directions, and few crystals, make rings uneven. The shape S of a ring is
symmetric, S(u) = (1 − η) 2^(−|2u|^β) + η (1 − u²/36)² / (1 + 4u²) for |u| < 6, so w is the full width at half maximum. β = 2 is a
Gaussian, larger β is flat-topped like a ring made of disks, and η gives the wide feet of small crystals. D moves rings
inwards by an amount ∝ 1/R: a spot that is blurred in two dimensions lies more inside than outside of its ring, and crystals off the exact
Bragg angle show a shorter g. L is the scale, px · Å.

Host by design: one pattern.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gpu4d.calibrate.stretch import undone

SHAPE = (
    "cx",
    "cy",
    "e1",
    "e2",
    "log_scale",
    "log_width",
    "growth",
    "beta",
    "eta",
    "inward",
)  # parameters, in this order; then the background
TURNS = 4  # cos φ, sin φ, cos 2φ, sin 2φ of the background
LOWER = {"log_width": np.log(0.8), "growth": 0.0, "beta": 1.2, "eta": 0.0, "inward": -2.0}
UPPER = {"growth": 4.0, "beta": 6.0, "eta": 0.9, "inward": 60.0}
WIDE = 6.0  # widths: how far from its place a ring is seen
FAR = 60.0  # exponents beyond this are 0 in any sum of counts


class Pixels(NamedTuple):
    """Pixels of one or several patterns as flat lists: positions (px), counts, and sector, by which they are sorted."""

    x: np.ndarray
    y: np.ndarray
    counts: np.ndarray
    sector: np.ndarray
    sectors: int

    @classmethod
    def sorted(cls, x: np.ndarray, y: np.ndarray, counts: np.ndarray, phi: np.ndarray, sectors: int) -> Pixels:
        """Sort pixels at angles φ into sectors of equal width."""
        sector = np.minimum(((phi + np.pi) * (sectors / (2 * np.pi))).astype(np.int64), sectors - 1)
        order = np.argsort(sector, kind="stable")
        return cls(x[order], y[order], counts[order], sector[order], sectors)

    def members(self) -> list[slice]:
        """Return the pixels of every sector."""
        ends = np.searchsorted(self.sector, np.arange(self.sectors + 1))
        return [slice(a, b) for a, b in itertools.pairwise(ends)]


class Rings(NamedTuple):
    """Shapes S of all rings (K, n); with intensities, their sum (n,), its derivative by r (n,) and by six parameters."""

    shape: np.ndarray
    sum: np.ndarray
    by_r: np.ndarray
    by: np.ndarray


@dataclass
class RingModel:
    """What does not change during a fit: the rings' |g| (K,), 1/Å or any unit, and the knots of the background."""

    g: np.ndarray
    knots: np.ndarray
    free: tuple[str, ...]

    @property
    def splines(self) -> int:
        return len(self.knots) - 4

    @property
    def names(self) -> list[str]:
        return [*SHAPE, *(f"background {i}" for i in range(self.splines)), *(f"turn {i}" for i in range(TURNS))]

    def active(self) -> np.ndarray:
        """Return (P,) bool: parameters that are fitted."""
        return np.array([name in self.free or i >= len(SHAPE) for i, name in enumerate(self.names)])

    def radius(self, p: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return r (n,) and angle φ (n,), both with the ellipse removed."""
        v = undone(p[2], p[3])[0] @ np.stack([x - p[0], y - p[1]])
        return np.maximum(np.hypot(*v), 1e-9), np.arctan2(v[1], v[0])

    def moves(self, p: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return how r and φ change with cx, cy, e1, e2: two arrays (4, n)."""
        inverse, by_1, by_2 = undone(p[2], p[3])
        d = np.stack([x - p[0], y - p[1]])
        v = inverse @ d
        r = np.maximum(np.hypot(*v), 1e-9)
        changes = np.stack([np.broadcast_to(-inverse[:, :1], v.shape), np.broadcast_to(-inverse[:, 1:], v.shape), by_1 @ d, by_2 @ d])
        along = (changes * (v / r)).sum(axis=1)
        return along, (v[0] * changes[:, 1] - v[1] * changes[:, 0]) / r**2

    def places(self, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return radii R_k and widths w_k, px."""
        scaled = np.exp(p[4]) * self.g
        ratio = (self.g / self.g.min()) ** 2 if self.g.size else self.g
        return scaled - p[9] / np.maximum(scaled, 1e-9), np.exp(p[5]) * np.sqrt(1 + p[6] * ratio)

    def rings(self, p: np.ndarray, amplitude: np.ndarray, r: np.ndarray, sector: np.ndarray) -> Rings:
        """Return shapes and their derivatives. A ring is computed where it can be seen only."""
        place, width = self.places(p)
        out = Rings(np.zeros((len(place), r.size)), np.zeros(r.size), np.zeros(r.size), np.zeros((6, r.size)))
        for k in range(len(place)):
            at = np.flatnonzero(np.abs(r - place[k]) < WIDE * width[k])
            values, by_r, by = self._ring(p, k, (r[at] - place[k]) / width[k], width[k])
            here = amplitude[sector[at], k]
            out.shape[k, at] = values
            out.sum[at] += here * values
            out.by_r[at] += here * by_r
            out.by[:, at] += here * by
        return out

    def _ring(self, p: np.ndarray, k: int, u: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return S (n,) of one ring, its derivative by r, and by log_scale, log_width, growth, beta, eta, inward (6, n)."""
        beta, eta, scaled = p[7], p[8], np.exp(p[4]) * self.g[k]
        size = np.maximum(np.abs(2 * u), 1e-9)
        log = np.log(size)
        power = np.exp(np.minimum(beta * log, 7.0))
        peak = np.exp2(-power)
        edge, lorentz = 1 - (u / WIDE) ** 2, 1 / (1 + size**2)
        foot = lorentz * edge**2
        by_u = (1 - eta) * peak * (-2 * np.log(2) * beta * power / np.where(u < 0, -size, size)) - eta * u * lorentz * edge * (
            8 * lorentz * edge + 4 / WIDE**2
        )
        by_r, by_width = by_u / width, -by_u * u
        ratio = (self.g[k] / self.g.min()) ** 2
        by = np.stack(
            [
                -by_r * (scaled + p[9] / scaled),
                by_width,
                by_width * (0.5 * ratio / (1 + p[6] * ratio)),
                (1 - eta) * peak * (-np.log(2) * power * log),
                foot - peak,
                by_r / scaled,
            ]
        )
        return (1 - eta) * peak + eta * foot, by_r, by

    def background(self, p: np.ndarray, r: np.ndarray, phi: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return B h (n,), its derivatives by r and φ (n,), and the rows (splines + 4, n) of its logarithm."""
        from scipy.interpolate import BSpline

        inside = np.clip(r, self.knots[3], self.knots[-4] * (1 - 1e-12))
        rows = BSpline.design_matrix(inside, self.knots, 3)
        turns = np.stack([np.cos(phi), np.sin(phi), np.cos(2 * phi), np.sin(2 * phi)])
        first, last = len(SHAPE), len(SHAPE) + self.splines
        level = np.exp(np.clip(rows @ p[first:last] + p[last:] @ turns, -FAR, FAR))
        slope = BSpline(self.knots, p[first:last], 3).derivative()(inside) * (inside == r)
        turned = p[last:] @ np.stack([-turns[1], turns[0], -2 * turns[3], 2 * turns[2]])
        return level, level * slope, level * turned, np.concatenate([rows.T.toarray(), turns])

    def expected(self, p: np.ndarray, amplitude: np.ndarray, pixels: Pixels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return μ (n,), its derivatives by all parameters (P, n), and by the ring intensities of the pixel's sector (K, n)."""
        r, phi = self.radius(p, pixels.x, pixels.y)
        along, around = self.moves(p, pixels.x, pixels.y)
        ground, ground_r, ground_phi, rows = self.background(p, r, phi)
        rings = self.rings(p, amplitude, r, pixels.sector)
        places = along * (ground_r + rings.by_r) + around * ground_phi
        return ground + rings.sum, np.concatenate([places, rings.by, ground * rows]), rings.shape
