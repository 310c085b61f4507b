"""Patterns of disks with known truth, and what an estimator makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gpu4d.benchmarks.disk_bound import Profile, fisher, soft, variances
from gpu4d.benchmarks.disk_forms import Form
from scipy.spatial import cKDTree

import gpu4d
from gpu4d.probe import Template

SPACING, MARGIN = 23.0, 16.0  # px between disks, and from the border, of a disk of radius 6
STRAIN = 0.012  # each component, of patterns of 128 px: disks come to lie anywhere within a pixel
MOST = 7  # disks in a row: with more the finder would stop at its max_peaks
FAR = 1.5  # px from every disk: a false one
FLOOR = 1e-3  # counts: no pixel expects fewer
BRIGHTEST = 4e9  # counts of a pixel


@dataclass
class Scene:
    """Patterns, and all that is known of them.

    Attributes
    ----------
    patterns : (n, Qx, Qy) unsigned integers
    expected : (n, Qx, Qy) float64
        Their mean.
    positions, heights, tilts : (n, K, 2), (n, K), (n, K, 2)
        Pixels, counts, relative slope of the intensity over one radius.
    profile : Profile or Form
    """

    patterns: np.ndarray
    expected: np.ndarray
    positions: np.ndarray
    heights: np.ndarray
    tilts: np.ndarray
    profile: Profile | Form

    def part(self, which: slice) -> Scene:
        """Some of the patterns."""
        of_patterns = (self.patterns, self.expected, self.positions, self.heights, self.tilts)
        patterns, expected, positions, heights, tilts = (values[which] for values in of_patterns)
        return Scene(patterns, expected, positions, heights, tilts, self.profile)

    def probe(self, height: float = 1.0, seed: int | None = None) -> np.ndarray:
        """Vacuum image in the middle of a detector of this size; with a seed, its counts."""
        shape = self.patterns.shape[1:]
        mean = height * self.profile.image(shape, (shape[0] // 2, shape[1] // 2))
        return mean if seed is None else np.random.default_rng(seed).poisson(mean).astype(np.float64)

    def bound(self, parameters: int = 2, reach: float | None = None) -> np.ndarray:
        """Cramér-Rao variances of every disk (n, K, 2), px²; 2: all but the position is known."""
        rows = zip(self.expected, self.positions, self.heights, self.tilts)
        return np.stack([variances(fisher(self.profile, e, p, h, parameters, reach, t)) for e, p, h, t in rows])


def scene(
    electrons: float = 1e4,
    *,
    profile: Profile | Form | None = None,
    patterns: int = 40,
    shape: tuple[int, int] = (128, 128),
    background: float = 0.03,
    flat: float = 0.002,
    ramp: float = 0.0,
    tilt: float = 0.0,
    scatter: float = 0.0,
    seed: int = 0,
) -> Scene:
    """Disks of equally many electrons on a square lattice that is strained and moved at random, on a diffuse background.

    Parameters
    ----------
    electrons : float
        In a disk, background not counted.
    background, flat : float
        Height of the Gaussian background in the middle of the detector (1/e at 0.47 of its half width), and of the even one,
        over that of a disk.
    ramp : float
        Relative slope of the even background a pixel, along a line 30° from qx; clipped where it would be negative.
    tilt : float
        rms of the slope of the intensity inside a disk, each axis: change over one radius, relative to the middle.
    scatter : float
        Largest distance of a disk from its lattice point, each axis, px.
    """
    rng = np.random.default_rng(seed)
    profile = soft() if profile is None else profile
    grow = max(1.0, (profile.radius + 1.3 * max(profile.edge - 1.0, 0.0)) / 6.0)
    axes = []
    for n in shape:
        count = min(int((n - 1 - 2 * MARGIN * grow) // (SPACING * grow)) + 1, MOST)
        axes.append((n - 1) / 2 + (np.arange(count) - (count - 1) / 2) * SPACING * grow)
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    middle = (np.asarray(shape) - 1) / 2
    strain = np.eye(2) + rng.uniform(-STRAIN, STRAIN, (patterns, 2, 2)) * min(1.0, 128 / max(shape))
    positions = middle + np.einsum("nab,kb->nka", strain, grid - middle) + rng.uniform(-0.5, 0.5, (patterns, 1, 2))
    positions += rng.uniform(-scatter, scatter, positions.shape)
    heights = np.full(positions.shape[:2], electrons / profile.electrons())
    tilts = np.clip(rng.normal(0, tilt, positions.shape), -0.6, 0.6) if tilt else np.zeros_like(positions)
    x, y = (np.arange(n) - (n - 1) / 2 for n in shape)
    far = (x[:, None] / (0.23 * shape[0])) ** 2 + (y[None, :] / (0.23 * shape[1])) ** 2
    slope = np.clip(1 + ramp * (x[:, None] * np.cos(np.pi / 6) + y[None, :] * np.sin(np.pi / 6)), 0, None)
    ground = heights[0, 0] * (background * np.exp(-far) + flat * slope)
    return drawn(profile, ground, positions, heights, tilts, rng)


def lattice(dose: float, scan: int = 16, seed: int = 1, **options: Any) -> Scene:
    """A scan of `gpu4d.simulate.bragg_scan`: strained lattice, uneven amplitudes; `dose` in electrons a pixel of the direct disk."""
    quiet = gpu4d.simulate.bragg_scan((scan, scan), dose=dose, seed=seed, noise=False, **options)
    frames = np.asarray(quiet.cube.source.read(slice(0, scan), slice(0, scan)), np.float64)
    expected = frames.reshape(-1, *frames.shape[2:])
    positions = quiet.truth["positions"].reshape(len(expected), -1, 2)
    heights = dose * quiet.truth["amplitudes"].reshape(len(expected), -1)
    profile = soft(options.get("radius", 6.0), options.get("edge", 1.0))
    patterns = np.random.default_rng(seed).poisson(expected).astype(np.uint32)
    return Scene(patterns, expected, positions, heights, np.zeros_like(positions), profile)


def drawn(
    profile: Profile | Form, ground: np.ndarray, positions: np.ndarray, heights: np.ndarray, tilts: np.ndarray, rng: np.random.Generator
) -> Scene:
    """Mean and Poisson counts of disks on a background common to all patterns."""
    expected = np.repeat(np.maximum(ground, FLOOR)[None], len(positions), 0)
    half = int(np.ceil(profile.tail))
    for image, r, a, t in zip(expected, positions, heights, tilts):
        for (qx, qy), height, slope in zip(r, a, t):
            xs, ys = (slice(max(round(q) - half, 0), min(round(q) + half + 1, n)) for q, n in zip((qx, qy), image.shape))
            u, v = np.arange(xs.start, xs.stop)[:, None] - qx, np.arange(ys.start, ys.stop)[None, :] - qy
            inside = np.maximum(1 + (slope[0] * u + slope[1] * v) / profile.radius, 0.0)
            image[xs, ys] += height * inside * profile.at(u, v)
    if expected.max() > BRIGHTEST:
        raise ValueError(f"{expected.max():.1g} counts a pixel do not fit into 32 bits")
    kind = np.uint16 if expected.max() < 6e4 else np.uint32
    return Scene(rng.poisson(expected).astype(kind), expected, positions, heights, tilts, profile)


@dataclass
class Found:
    """What an estimator made of a scene.

    Attributes
    ----------
    errors, sigmas : (n, K, 2)
        Position found minus true, and the standard error reported, px; NaN where the disk was not found.
    false : int
        Points further than 1.5 px from every disk, or second ones.
    """

    errors: np.ndarray
    sigmas: np.ndarray
    false: int

    @property
    def seen(self) -> np.ndarray:
        return np.isfinite(self.errors).all(-1)


def find(some: Scene, template: Any, **options: Any) -> Found:
    """`gpu4d.find_bragg_disks` on a scene, each point given to the disk it is nearest to."""
    return matched(gpu4d.find_bragg_disks(some.patterns, template, **options).to_host(), some.positions)


def matched(points: gpu4d.PointListArray, positions: np.ndarray) -> Found:
    n, most = positions.shape[:2]
    errors, sigmas = (np.full((n * most, 2), np.nan) for _ in range(2))
    apart = 1e5 * np.arange(n)  # patterns must not see each other
    truth = np.concatenate([positions.reshape(-1, 2), np.repeat(apart, most)[:, None]], 1)
    found = np.stack([points.flat("qx"), points.flat("qy"), apart[np.asarray(points.positions)]], 1)
    if len(found) == 0:
        return Found(errors.reshape(n, most, 2), sigmas.reshape(n, most, 2), 0)
    distance, which = cKDTree(truth).query(found, distance_upper_bound=FAR)
    order = np.argsort(-distance)  # the nearest is written last
    order = order[np.isfinite(distance[order])]
    errors[which[order]] = found[order, :2] - truth[which[order], :2]
    sigmas[which[order]] = np.stack([points.flat("sx"), points.flat("sy")], 1)[order]
    false = len(found) - int(np.isfinite(errors[:, 0]).sum())
    return Found(errors.reshape(n, most, 2), sigmas.reshape(n, most, 2), false)


def exact_maxima(patterns: np.ndarray, template: Template, start: np.ndarray, steps: int = 6) -> np.ndarray:
    """Maximum of the trigonometric interpolation of the correlation Σ I(q) K(q - r) next to each start, double precision.

    Parameters
    ----------
    patterns : (n, Qx, Qy)
    template : Template
    start : (n, K, 2)
        Within a quarter of a pixel or so; NaN stays NaN.

    Returns
    -------
    (n, K, 2) float64, pixels of the disk's centre
    """
    out = start - np.asarray(template.offset)
    kernel = np.conj(np.fft.fft2(template.kernel))
    for pattern, points in zip(patterns, out):
        image = np.fft.ifft2(np.fft.fft2(pattern.astype(np.float64)) * kernel).real
        for _ in range(steps):
            x, y = (_interpolating(n, points[:, i]) for i, n in enumerate(image.shape))
            at = np.einsum("akx,bkx->abk", x @ image, y)
            gradient = np.stack([at[1, 0], at[0, 1]], -1)
            hessian = np.stack([np.stack([at[2, 0], at[1, 1]], -1), np.stack([at[1, 1], at[0, 2]], -1)], -1)
            points -= np.linalg.solve(hessian, gradient[..., None])[..., 0]
    return out + np.asarray(template.offset)


def _interpolating(n: int, t: np.ndarray) -> np.ndarray:
    """Weights of n periodic samples for value, slope and curvature at points: (3, K, n). The Nyquist wave is a cosine."""
    k = 2 * np.pi * np.fft.fftfreq(n)
    wave = np.exp(1j * k * t[:, None])
    return np.stack([np.fft.fft((1j * k) ** order * wave).real for order in range(3)]) / n
