"""Patterns of Bragg disks whose truth is known, and what theory says of every disk: its correlation, its errors, their least value."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from gpu4d.benchmarks.disk_bound import fisher, variances
from gpu4d.benchmarks.suite import data

import gpu4d

VARIANTS = 16  # strain states; counting noise differs in every pattern
RADIUS, EDGE = 6.0, 2.0  # px: of a disk, and the breadth over which its intensity falls to 0
VECTORS = np.array([[21.0, 3.0], [-3.0, 21.0]])  # px: g1, g2 before strain
STRAIN = 0.01  # largest change of a component of the lattice
REACH = 5  # orders with h² + k² up to this: 21 disks
HEIGHT, FALL, GROUND = 80.0, 0.4, 2.0  # counts a pixel of the direct disk; heights are divided by 1 + 0.4 (h² + k²); background
PROBE = 1000.0  # counts a pixel of the vacuum image


@dataclass(frozen=True)
class SmoothDisk:
    """A round disk whose edge is 3t² − 2t³, so that +, − and × alone make it. It has the methods of `disk_bound.Profile`."""

    radius: float = RADIUS
    edge: float = EDGE

    @property
    def tail(self) -> float:
        """Distance from the centre behind which nothing is left, pixels."""
        return self.radius + self.edge / 2

    def at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the intensity at offsets from the centre, 1 on the plateau."""
        t = np.clip((self.radius - np.sqrt(x * x + y * y)) / self.edge + 0.5, 0.0, 1.0)
        return t * t * (3.0 - 2.0 * t)

    def gradient(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the derivatives of `at` by x and by y."""
        r = np.maximum(np.sqrt(x * x + y * y), 1e-12)
        t = np.clip((self.radius - r) / self.edge + 0.5, 0.0, 1.0)
        slope = -6.0 * t * (1.0 - t) / self.edge
        return slope * x / r, slope * y / r

    def image(self, shape: tuple[int, int], center: tuple[float, float]) -> np.ndarray:
        """Return a detector image with the disk at a centre."""
        return self.at(np.arange(shape[0])[:, None] - center[0], np.arange(shape[1])[None, :] - center[1])


@dataclass(frozen=True, eq=False)
class DiskScene:
    """Expected patterns of some strain states.

    Attributes
    ----------
    side : int
        Of the detector, pixels.
    expected : (V, side, side) float64
        Mean counts.
    positions, heights : (V, K, 2), (V, K) float64
        Pixels, and counts a pixel.
    """

    side: int
    expected: np.ndarray
    positions: np.ndarray
    heights: np.ndarray
    profile: SmoothDisk = SmoothDisk()

    @classmethod
    def make(cls, side: int, seed: int) -> DiskScene:
        """Strain and move a lattice of 21 disks by seeded amounts."""
        h, k = (order.ravel() for order in np.mgrid[-2:3, -2:3])
        h, k = h[h * h + k * k <= REACH], k[h * h + k * k <= REACH]
        heights = np.broadcast_to(HEIGHT / (1.0 + FALL * (h * h + k * k)), (VARIANTS, len(h)))
        random = 2.0 * data.uniform(seed + 1, 6 * VARIANTS).reshape(VARIANTS, 6) - 1.0
        expected, positions = np.empty((VARIANTS, side, side)), np.empty((VARIANTS, len(h), 2))
        for v, (a, b, c, d, x, y) in enumerate(STRAIN * random):
            g = VECTORS * (side / 128)
            g1, g2 = (np.array([row[0] * (1 + a) + row[1] * b, row[0] * c + row[1] * (1 + d)]) for row in g)
            centre = (side - 1) / 2 + np.array([x, y]) / STRAIN  # up to a pixel from the middle
            positions[v] = centre + h[:, None] * g1 + k[:, None] * g2
            expected[v] = GROUND + sum(
                a * SmoothDisk().image((side, side), tuple(q)) for a, q in zip(heights[v], positions[v], strict=True)
            )
        return cls(side, expected, positions, heights)

    @property
    def disks(self) -> int:
        """Disks of a pattern."""
        return self.positions.shape[1]

    def variants(self, n: int) -> np.ndarray:
        """Return the strain state of each of n patterns."""
        return np.arange(n) % VARIANTS

    def patterns(self, xp: Any, n: int, seed: int) -> Any:
        """Return n patterns with counting noise, uint16, where `xp` computes."""
        return data.counts(xp, self.expected, self.variants(n), seed)

    @cached_property
    def probe(self) -> np.ndarray:
        """Vacuum image without noise."""
        return PROBE * self.profile.image((self.side, self.side), (self.side // 2, self.side // 2))

    def information(self, parameters: int, reach: float | None = None) -> np.ndarray:
        """Return the Fisher information of every disk (V, K, parameters, parameters), as `disk_bound.fisher`."""
        rows = zip(self.expected, self.positions, self.heights, strict=True)
        return np.stack([fisher(self.profile, e, p, a, parameters, reach) for e, p, a in rows])

    @cached_property
    def bound(self) -> float:
        """Least rms error per axis of positions from counts, px: the Cramér–Rao bound if nothing but the position is unknown."""
        return float(np.sqrt(variances(self.information(2)).mean()))


@dataclass(frozen=True)
class CorrelationTheory:
    """What a correlation C(r) = Σ I(q) K(q − r) makes of the disks of a scene, (V, K) each.

    Attributes
    ----------
    height, noise : float64
        Mean of C at the disk, and its standard error from the counts.
    sx, sy : float64
        Standard errors of the maximum, px: roots of the diagonal of H⁻¹ G H⁻¹, with H the Hessian of C, and G = Σ λ ∇K ∇Kᵀ.
    """

    height: np.ndarray
    noise: np.ndarray
    sx: np.ndarray
    sy: np.ndarray

    @classmethod
    def of(cls, scene: DiskScene, template: gpu4d.probe.Template) -> CorrelationTheory:
        """Compute it in float64, by Fourier sums at the true positions."""
        k = np.fft.fftfreq(scene.side)
        wave = 2j * np.pi * np.where(np.abs(k) == 0.5, 0.0, k)
        kernel = np.fft.fft2(template.kernel) * np.exp(-2j * np.pi * (k[:, None] * -template.offset[0] + k[None, :] * -template.offset[1]))
        slopes = [np.fft.ifft2(kernel * w).real for w in (wave[:, None], wave[None, :])]
        value = np.fft.ifft2(kernel).real
        light = np.fft.fft2(scene.expected)
        x, y = (np.exp(2j * np.pi * scene.positions[..., axis, None] * k) for axis in (0, 1))

        def at(of_kernel: np.ndarray, i: int = 0, j: int = 0) -> np.ndarray:
            """Return a derivative of the correlation with a kernel at the true positions, (V, K)."""
            spectrum = light * np.conj(of_kernel) * wave[:, None] ** i * wave[None, :] ** j
            return (x @ spectrum * y).sum(-1).real / scene.side**2

        h = np.stack([np.stack([at(kernel, 2, 0), at(kernel, 1, 1)], -1), np.stack([at(kernel, 1, 1), at(kernel, 0, 2)], -1)], -2)
        g = np.stack([np.stack([at(np.fft.fft2(a * b)) for b in slopes], -1) for a in slopes], -2)
        covariance = np.linalg.inv(h) @ g @ np.linalg.inv(h)
        noise = np.sqrt(at(np.fft.fft2(value * value)))
        return cls(at(kernel), noise, np.sqrt(covariance[..., 0, 0]), np.sqrt(covariance[..., 1, 1]))
