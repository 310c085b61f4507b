"""Fit a lattice to the counts of whole patterns by Poisson maximum likelihood: six numbers place all disks of a pattern.

    λ(q) = b₀ + b₁ u + b₂ v + Σⱼ aⱼ D(q − rⱼ) + Σᵢⱼ cᵢⱼ D(q − rᵢ) D(q − rⱼ),      rⱼ = r₀ + hⱼ g₁ + kⱼ g₂

D is the template's disk. The products are the interference of disks that overlap. Its sign depends on the phases of both beams, so every
pair has its own cᵢⱼ, at most 2 √(aᵢ aⱼ). Without it a bright or dark overlap would move both disks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gpu4d import arrays
from gpu4d.bragg.likelihood.poisson_fit import DiskProfile, template_at

GEOMETRY = 6  # parameters of the lattice: origin, g1, g2
GROUND = 3  # of the background: level and slopes
MOST_STEPS = 40
FIXED_STEPS = 2  # first steps, in which the lattice is fixed and amplitudes are found
LEAST = 0.005  # counts: smallest value of the model
FAINT = 1e-3  # counts: smallest amplitude of a disk, and level of the background at the start
LONGEST = 0.5  # px: most that a step moves the origin; twice as much for a disk at twice g
LEFT = 0.2  # part of an amplitude that a step leaves at least
GAIN = 2e-3  # of the log likelihood: a smaller gain ends the fit
# damping of Levenberg and Marquardt: at first, its factors after a good and a bad step, and where the fit gives up
DAMPING, EASED, RAISED, MOST_DAMPING = 1e-3, 0.2, 8.0, 1e6
REGULAR = 1e-9  # added to the diagonal of the scaled Fisher matrix


class TiedFit(NamedTuple):
    """Lattices of n patterns.

    Attributes
    ----------
    geometry : (n, 6) float64, pixels
        Origin, g1, g2. NaN where there is no fit.
    covariance : (n, 6, 6) float64, px²
        From the Fisher matrix, with amplitudes and background unknown.
    amplitude : (n, J) float64
        Counts per pixel of every disk.
    scatter : (n,) float64
        Σ (I − λ)² / Σ λ: 1 for Poisson noise about a model that is right.
    ok : (n,) bool
        True where the fit ended.
    """

    geometry: Any
    covariance: Any
    amplitude: Any
    scatter: Any
    ok: Any


class Scene(NamedTuple):
    """What is the same for all patterns.

    Attributes
    ----------
    profile : DiskProfile
    orders : (J, 2) float64
        h, k of all disks.
    pairs : (2, P) int64
        Disks that overlap.
    mask : (Qx, Qy) bool or None
        True where the detector counts.
    """

    profile: DiskProfile
    orders: np.ndarray
    pairs: np.ndarray
    mask: np.ndarray | None


def overlapping(orders: np.ndarray, lattice: np.ndarray, radius: float) -> np.ndarray:
    """Return the pairs (2, P) of disks of a mean lattice (2, 2) that are nearer to each other than two radii."""
    at = orders @ lattice
    away = np.hypot(*(at[:, None] - at[None]).transpose(2, 0, 1))
    return np.stack(np.nonzero(np.triu(away < 2 * radius, 1)))


def tied_fit(patterns: Any, start: Any, scene: Scene) -> TiedFit:
    """Maximise the Poisson likelihood of whole patterns, from a lattice that is right to about a pixel at the outermost disk.

    A step is that of Fisher scoring, damped as by Levenberg and Marquardt: it is taken if it raises the likelihood, else damped more.
    The interference of every pair takes a step of its own. Array code: it runs where the patterns are.

    Parameters
    ----------
    patterns : (n, Qx, Qy) real, counts
    start : (n, 6) real
        Origin, g1, g2, pixels.
    scene : Scene

    Returns
    -------
    TiedFit
        A pattern that is empty or has a NaN has NaN, and so has one whose start is NaN.
    """
    xp = arrays.namespace(patterns, start)
    n = patterns.shape[0]
    model = _Model(patterns, scene)
    first = arrays.as_float64(start)
    fine = xp.isfinite(xp.sum(first, axis=-1)) & model.counted
    theta = model.first(xp.where(fine[:, None], first, xp.zeros_like(first)))
    now = model.at(theta)
    damping = xp.full((n,), DAMPING, dtype=xp.float64, device=arrays.device(first))
    active, good = fine, ~fine & fine
    fisher = None
    for step in range(MOST_STEPS):
        fisher, gradient = model.equations(theta, now, step < FIXED_STEPS)
        change = _solved(fisher, gradient, damping)
        new = model.moved(theta, change, now)
        then = model.at(new)
        better = active & (then.likelihood >= now.likelihood)
        ended = better & (then.likelihood - now.likelihood < GAIN) & (step > FIXED_STEPS)
        theta = _Theta(*(_picked(better, a, b) for a, b in zip(new, theta)))
        now = _State(*(_picked(better, a, b) for a, b in zip(then, now)))
        damping = xp.where(better, damping * EASED, damping * RAISED)
        stuck = active & (damping > MOST_DAMPING)
        good = good | ended | stuck
        active = active & ~ended & ~stuck
        if not bool(xp.any(active)):
            break
    fisher, _ = model.equations(theta, now, False)
    covariance = _covariance(fisher)
    good = good | active
    located = good & xp.isfinite(covariance[:, 0, 0]) & (covariance[:, 0, 0] > 0)
    nan = float("nan")
    geometry = xp.where(located[:, None], theta.geometry, xp.full_like(theta.geometry, nan))
    amplitude = xp.where(located[:, None], theta.amplitude, xp.full_like(theta.amplitude, nan))
    covariance = xp.where(located[:, None, None], covariance, xp.full_like(covariance, nan))
    scatter = xp.where(located, model.scatter(now), xp.full_like(damping, nan))
    return TiedFit(geometry, covariance, amplitude, scatter, located)


class _Theta(NamedTuple):
    """Parameters of n patterns: geometry (n, 6), amplitudes (n, J), background (n, 3), interference (n, P)."""

    geometry: Any
    amplitude: Any
    ground: Any
    interference: Any


class _State(NamedTuple):
    """The model of n patterns: disks and slopes (n, J, m) and overlaps (n, P, m) at all pixels, λ (n, m), log likelihood (n,)."""

    disk: Any
    slope_x: Any
    slope_y: Any
    overlap: Any
    model: Any
    likelihood: Any


class _Model:
    """Computes λ, its likelihood, and the normal equations."""

    def __init__(self, patterns: Any, scene: Scene):
        xp = arrays.namespace(patterns)
        n, nx, ny = patterns.shape
        self.xp, self.scene, self.like = xp, scene, patterns
        window = scene.profile.pixels
        self.half = -int(window[0, 0])
        side = 2 * self.half + 1
        place = np.full(side * side + 1, len(window), np.int64)
        place[(window[:, 0] + self.half) * side + window[:, 1] + self.half] = np.arange(len(window))
        x, y = (a.ravel().astype(np.float64) for a in np.meshgrid(np.arange(nx), np.arange(ny), indexing="ij"))
        valid = np.ones(nx * ny) if scene.mask is None else scene.mask.ravel().astype(np.float64)
        ground = np.stack([np.ones(nx * ny), 2 * x / max(nx - 1, 1) - 1, 2 * y / max(ny - 1, 1) - 1])
        self.place, self.x, self.y, self.valid, self.ground, self.orders, self.table = (
            arrays.from_numpy(np.ascontiguousarray(a), patterns)
            for a in (place, x, y, valid, ground, scene.orders.astype(np.float64), np.asarray(scene.profile.table))
        )
        self.first_of, self.second_of = (arrays.from_numpy(np.ascontiguousarray(p), patterns) for p in scene.pairs)
        counts = xp.reshape(arrays.as_float64(patterns), (n, nx * ny))
        seen = self.valid[None, :] > 0
        counts = xp.where(seen, counts, xp.zeros_like(counts))
        total = xp.sum(counts, axis=-1)
        self.counted = xp.isfinite(total) & (total > 0)
        self.counts = xp.where(self.counted[:, None], counts, xp.zeros_like(counts))

    def positions(self, geometry: Any) -> tuple[Any, Any]:
        """Return the centres of all disks, (n, J) each."""
        h, k = self.orders[:, 0][None, :], self.orders[:, 1][None, :]
        x, y = (geometry[:, i : i + 1] + h * geometry[:, 2 + i : 3 + i] + k * geometry[:, 4 + i : 5 + i] for i in (0, 1))
        return x, y

    def disks(self, geometry: Any) -> tuple[Any, Any, Any]:
        """Return D and its slopes at all pixels, (n, J, m)."""
        xp = self.xp
        x, y = self.positions(geometry)
        n, most = x.shape
        cx, cy = xp.floor(x + 0.5), xp.floor(y + 0.5)
        parts = template_at(self.table, xp.reshape(x - cx, (-1,)), xp.reshape(y - cy, (-1,)))
        side = 2 * self.half + 1
        down, right = (w[None, None, :] - c[:, :, None] + self.half for w, c in ((self.x, cx), (self.y, cy)))
        near = (down >= 0) & (down < side) & (right >= 0) & (right < side)
        spot = xp.astype(xp.where(near, down * side + right, xp.full_like(down, float(side * side))), xp.int64)
        number = xp.reshape(xp.take(self.place, xp.reshape(spot, (-1,))), (n * most, -1))
        wide = [xp.concat([p, xp.zeros_like(p[:, :1])], axis=-1) for p in parts]
        disk, by_x, by_y = (xp.reshape(arrays.gather(p, number), (n, most, -1)) for p in wide)
        return xp.maximum(disk, xp.zeros_like(disk)), by_x, by_y

    def first(self, geometry: Any) -> _Theta:
        """Return the start: amplitudes from the counts in the disks, an even background, no interference."""
        xp = self.xp
        disk = self.disks(geometry)[0] * self.valid[None, None, :]
        area = xp.sum(disk * disk, axis=-1)
        light = xp.sum(disk * self.counts[:, None, :], axis=-1)
        amplitude = xp.maximum(0.6 * light / xp.where(area > 0, area, xp.ones_like(area)), xp.full_like(area, 10 * FAINT))
        ground = xp.zeros((geometry.shape[0], GROUND), dtype=xp.float64, device=arrays.device(geometry))
        level = xp.astype(xp.arange(GROUND, device=arrays.device(geometry)) == 0, xp.float64) * 10 * FAINT
        pairs = xp.zeros((geometry.shape[0], self.scene.pairs.shape[1]), dtype=xp.float64, device=arrays.device(geometry))
        return _Theta(geometry, amplitude, ground + level[None, :], pairs)

    def overlap(self, disk: Any) -> Any:
        """Return the products of the disks of all pairs, (n, P, m)."""
        return self.xp.take(disk, self.first_of, axis=1) * self.xp.take(disk, self.second_of, axis=1)

    def at(self, theta: _Theta) -> _State:
        """Compute the model and its likelihood."""
        xp = self.xp
        disk, by_x, by_y = self.disks(theta.geometry)
        ground = xp.matmul(theta.ground, self.ground)
        model = xp.maximum(ground, xp.full_like(ground, 0.4 * LEAST)) + xp.matmul(theta.amplitude[:, None, :], disk)[:, 0, :]
        overlap = self.overlap(disk)
        if self.scene.pairs.shape[1]:
            model = model + xp.matmul(theta.interference[:, None, :], overlap)[:, 0, :]
        model = xp.maximum(model, xp.full_like(model, LEAST))
        weight = self.valid[None, :]
        likelihood = xp.sum(weight * (self.counts * xp.log(model) - model), axis=-1)
        if self.scene.pairs.shape[1]:
            likelihood = likelihood - 0.5 * xp.sum(theta.interference**2 / self.limit(theta.amplitude) ** 2 * 4, axis=-1)
        return _State(disk, by_x, by_y, overlap, model, likelihood)

    def limit(self, amplitude: Any) -> Any:
        """Return the largest interference of all pairs, 2 √(aᵢ aⱼ), (n, P)."""
        xp = self.xp
        return 2 * xp.sqrt(xp.take(amplitude, self.first_of, axis=1) * xp.take(amplitude, self.second_of, axis=1))

    def equations(self, theta: _Theta, now: _State, fixed: bool) -> tuple[Any, Any]:
        """Return the Fisher matrix (n, p, p) of lattice, amplitudes and background, and the gradient (n, p)."""
        xp, (h, k) = self.xp, (self.orders[:, 0], self.orders[:, 1])
        height = theta.amplitude[:, :, None]
        if self.scene.pairs.shape[1]:
            height = height + self._by_others(theta.interference, now.disk)
        moves = [-height * slope for slope in (now.slope_x, now.slope_y)]
        weights = xp.stack([xp.ones_like(h), h, k])
        rows = [xp.matmul(weights[None, i : i + 1, :], move) for i in range(3) for move in moves]
        ground = xp.broadcast_to(self.ground[None, :, :], (height.shape[0], *self.ground.shape))
        gradient = xp.concat([*rows, now.disk, ground], axis=1)
        if fixed:
            gradient = xp.concat([xp.zeros_like(gradient[:, :GEOMETRY, :]), gradient[:, GEOMETRY:, :]], axis=1)
        weight = self.valid[None, :] / now.model
        fisher = xp.matmul(gradient * weight[:, None, :], xp.matrix_transpose(gradient))
        slope = xp.matmul(gradient, (weight * (self.counts - now.model))[:, :, None])[:, :, 0]
        return fisher, slope

    def _by_others(self, interference: Any, disk: Any) -> Any:
        """Return the derivative of the interference by every disk, (n, J, m): Σ over its pairs of c times the other disk."""
        xp, count = self.xp, disk.shape[1]
        number = xp.arange(count, dtype=xp.int64, device=arrays.device(disk))
        total = xp.zeros_like(disk)
        for mine, other in ((self.first_of, self.second_of), (self.second_of, self.first_of)):
            chosen = xp.astype(number[:, None] == mine[None, :], xp.float64)[None, :, :] * interference[:, None, :]
            towards = xp.astype(other[:, None] == number[None, :], xp.float64)[None, :, :]
            total = total + xp.matmul(xp.matmul(chosen, xp.broadcast_to(towards, (disk.shape[0], *towards.shape[1:]))), disk)
        return total

    def moved(self, theta: _Theta, change: Any, now: _State) -> _Theta:
        """Return the parameters after a step of limited length."""
        xp = self.xp
        move = change[:, :GEOMETRY]
        longest = xp.maximum(xp.max(xp.abs(move[:, :2]), axis=-1), 2 * xp.max(xp.abs(move[:, 2:]), axis=-1))
        change = change * (LONGEST / xp.maximum(longest, xp.full_like(longest, LONGEST)))[:, None]
        geometry = theta.geometry + change[:, :GEOMETRY]
        least = xp.maximum(LEFT * theta.amplitude, xp.full_like(theta.amplitude, FAINT))
        amplitude = xp.maximum(theta.amplitude + change[:, GEOMETRY:-GROUND], least)
        pairs = theta.interference
        if self.scene.pairs.shape[1]:
            overlap, weight = now.overlap, self.valid[None, :] / now.model
            prior = 4 / self.limit(theta.amplitude) ** 2
            push = xp.matmul(overlap, (weight * (self.counts - now.model))[:, :, None])[:, :, 0] - prior * pairs
            stiff = xp.matmul(overlap * overlap, weight[:, :, None])[:, :, 0] + prior
            most = self.limit(amplitude)
            pairs = xp.minimum(xp.maximum(pairs + push / stiff, -most), most)
        return _Theta(geometry, amplitude, theta.ground + change[:, -GROUND:], pairs)

    def scatter(self, now: _State) -> Any:
        """Return Σ (I − λ)² / Σ λ."""
        xp, weight = self.xp, self.valid[None, :]
        return xp.sum(weight * (self.counts - now.model) ** 2, axis=-1) / xp.sum(weight * now.model, axis=-1)


def _picked(which: Any, new: Any, old: Any) -> Any:
    """Return `new` for the patterns that are chosen, else `old`."""
    xp = arrays.namespace(new)
    return xp.where(xp.reshape(which, (-1, *([1] * (new.ndim - 1)))), new, old)


def _scaled(fisher: Any) -> tuple[Any, Any]:
    """Return the matrix with a diagonal of 1, and the scales (n, p)."""
    xp = arrays.namespace(fisher)
    eye = xp.eye(fisher.shape[-1], dtype=fisher.dtype, device=arrays.device(fisher))
    diagonal = xp.sum(fisher * eye, axis=-1)
    unit = 1 / xp.sqrt(xp.where(diagonal > 0, diagonal, xp.ones_like(diagonal)))
    empty = xp.astype(diagonal <= 0, xp.float64)
    return fisher * unit[:, :, None] * unit[:, None, :] + eye * (REGULAR + empty[:, None, :]), unit


def _solved(fisher: Any, gradient: Any, damping: Any) -> Any:
    """Return the damped step (n, p). 0 where the matrix is not finite."""
    xp = arrays.namespace(fisher)
    scaled, unit = _scaled(fisher)
    eye = xp.eye(fisher.shape[-1], dtype=fisher.dtype, device=arrays.device(fisher))
    finite = xp.all(xp.isfinite(scaled), axis=(-2, -1)) & xp.all(xp.isfinite(gradient), axis=-1)
    clean = xp.where(finite[:, None, None], scaled + eye * damping[:, None, None], eye)  # positive definite: the scoring matrix is
    wanted = xp.where(finite[:, None], unit * gradient, xp.zeros_like(gradient))
    return unit * xp.linalg.solve(clean, wanted[:, :, None])[:, :, 0]


def _covariance(fisher: Any) -> Any:
    """Return the covariance of the lattice (n, 6, 6). NaN where the matrix is not finite."""
    xp = arrays.namespace(fisher)
    scaled, unit = _scaled(fisher)
    eye = xp.eye(fisher.shape[-1], dtype=fisher.dtype, device=arrays.device(fisher))
    finite = xp.all(xp.isfinite(scaled), axis=(-2, -1))[:, None, None]
    answer = xp.linalg.inv(xp.where(finite, scaled, eye))[:, :GEOMETRY, :GEOMETRY]
    answer = answer * unit[:, :GEOMETRY, None] * unit[:, None, :GEOMETRY]
    return xp.where(finite, answer, xp.full_like(answer, float("nan")))
