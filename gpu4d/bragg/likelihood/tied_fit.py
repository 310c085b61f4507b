"""Fit a lattice to the counts of whole patterns by Poisson maximum likelihood: six numbers place all disks of a pattern.

    λ(q) = B(q) + Σⱼ aⱼ D(q − rⱼ) + Σᵢⱼ cᵢⱼ D(q − rᵢ) D(q − rⱼ),      rⱼ = r₀ + hⱼ g₁ + kⱼ g₂

D is the template's disk, and the background B is bilinear between the corners of the detector. The products are the interference of
disks that overlap. Its sign depends on the phases of both beams, so every pair has its own cᵢⱼ, at most 2 √(aᵢ aⱼ). Without it a bright
or dark overlap would move both disks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gpu4d import arrays
from gpu4d.bragg.likelihood.poisson_fit import template_at
from gpu4d.errors import InputError
from gpu4d.operation import KERNEL_FRAME, KERNEL_PIXELS, Twin, operation

GEOMETRY = 6  # parameters of the lattice: origin, g1, g2
GROUND = 4  # of the background: its values in the corners of the detector
MOST_STEPS = 40
FIXED_STEPS = 2  # first steps, in which the lattice is fixed and amplitudes are found
LEAST = 0.005  # counts: smallest value of the model, and of the background in a corner
FAINT = 1e-3  # counts: smallest amplitude of a disk
LONGEST = 0.5  # px: most that a step moves the origin; twice as much for a disk at twice g
LEFT = 0.2  # part of an amplitude that a step leaves at least
GAIN = 2e-3  # of the log likelihood: the fit ends where a step gains less, or one that is not taken promises less
# damping of Levenberg and Marquardt: at first, its factors after a good and a bad step, and what a bad step raises it to at least
DAMPING, EASED, RAISED, RAISED_TO = 1e-3, 0.5, 8.0, 0.1
ARRAYS = 14  # of (disks + pairs) × pixels float64 that the definition works with
IMAGES = 15  # of the pattern that the twins work with
WORK_BYTES = 256 << 20  # of all blocks of the CUDA twin
REGULAR = 1e-6  # added to the diagonal of the scaled Fisher matrix: more than sums in single precision are wrong by


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


def overlapping(orders: np.ndarray, lattice: np.ndarray, radius: float) -> np.ndarray:
    """Return the pairs (2, P) of disks of a mean lattice (2, 2) that are nearer to each other than two radii."""
    at = orders @ lattice
    away = np.hypot(*(at[:, None] - at[None]).transpose(2, 0, 1))
    return np.stack(np.nonzero(np.triu(away < 2 * radius, 1)))


@operation(
    cuda=Twin("gpu4d.kernels.tied_fit", KERNEL_PIXELS, frame=KERNEL_FRAME // 8),
    cpu=Twin("gpu4d.cpu_fallback.tied_fit"),
)
def tied_fit(patterns: Any, start: Any, orders: Any, pairs: Any, table: Any, pixels: Any, /, mask: Any = None) -> TiedFit:
    """Maximise the Poisson likelihood of whole patterns, from a lattice that is right to about a pixel at the outermost disk.

    A step is that of Fisher scoring, damped as by Levenberg and Marquardt: it is taken if it raises the likelihood, else damped more.
    The first two steps keep the lattice. The interference of every pair takes a step of its own, with its own curvature.

    Parameters
    ----------
    patterns : (n, Qx, Qy) real, counts
    start : (n, 6) real, pixels
        Origin, g1, g2.
    orders : (J, 2) real
        h, k of all disks.
    pairs : (2, P) int
        Numbers of the disks that interfere where they overlap. (2, 0): intensities add up.
    table, pixels
        From `disk_profile`.
    mask : (Qx, Qy) bool, optional
        True where the detector counts. Other pixels are not used.

    Returns
    -------
    TiedFit
        NaN for a pattern that is empty or has a NaN, and for one whose start is NaN. So too where the disks do not tell all six numbers:
        all are masked, or their orders lie on one axis.

    Raises
    ------
    InputError
        Shapes that do not fit each other.

    Notes
    -----
    The definition holds D and its slopes of all disks at all pixels: some 14 (J + P) Qx Qy numbers of a pattern. The twins hold them on
    the disks' windows alone.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> from gpu4d.bragg.likelihood.poisson_fit import disk_profile
    >>> orders = np.asarray([[0.0, 0], [1, 0], [0, 1], [1, 1]])
    >>> at = orders @ np.asarray([[15.2, 0.3], [-0.4, 14.7]]) + (14.4, 15.6)
    >>> counts = np.rint(300 * sum(gpu4d.probe.synthetic((44, 44), 4.0, center=tuple(c)) for c in at) + 1)[None]
    >>> p = disk_profile(gpu4d.probe.synthetic((44, 44), 4.0))
    >>> start = np.asarray([[14.0, 16, 15, 0, 0, 15]])
    >>> fit = tied_fit(counts, start, orders, np.zeros((2, 0), int), p.table, p.pixels)
    >>> np.round(fit.geometry[0], 1).tolist()
    [14.4, 15.6, 15.2, 0.3, -0.4, 14.7]
    """
    check(patterns, start, orders, pairs)
    xp = arrays.namespace(patterns, start, orders, table)
    n = patterns.shape[0]
    model = _Model(patterns, orders, pairs, table, pixels, mask)
    first = arrays.as_float64(start)
    fine = xp.isfinite(xp.sum(first, axis=-1)) & model.counted
    theta = model.first(xp.where(fine[:, None], first, xp.zeros_like(first)))
    now = model.at(theta)
    damping = xp.full((n,), DAMPING, dtype=xp.float64, device=arrays.device(first))
    active = fine
    for step in range(MOST_STEPS):
        fisher, gradient = model.equations(theta, now, step < FIXED_STEPS)
        fisher, gradient = model.held(theta, fisher, gradient)
        change, mixing = _solved(fisher, gradient, damping), model.mixing(theta, now, damping)
        left = 0.5 * (xp.sum(gradient * change, axis=-1) + mixing.gain)
        new = model.moved(theta, change, mixing.step)
        then = model.at(new)
        gain = model.gain(theta, now, new, then)
        better = active & (gain >= 0)
        theta = _Theta(*(_picked(better, a, b) for a, b in zip(new, theta)))
        now = _State(*(_picked(better, a, b) for a, b in zip(then, now)))
        damping = xp.where(better, damping * EASED, xp.maximum(damping * RAISED, xp.full_like(damping, RAISED_TO)))
        if step > FIXED_STEPS:
            active = active & (xp.where(better, gain, left) >= GAIN)
        if not bool(xp.any(active)):
            break
    covariance, told = _covariance(model.equations(theta, now, False)[0])
    ok = fine & told
    keep: Any = lambda a: xp.where(xp.reshape(ok, (-1,) + (1,) * (a.ndim - 1)), a, xp.full_like(a, float("nan")))  # noqa: E731
    return TiedFit(keep(theta.geometry), keep(covariance), keep(theta.amplitude), keep(model.scatter(now)), ok)


def check(patterns: Any, start: Any, orders: Any, pairs: Any) -> None:
    """Raise InputError if shapes do not fit each other."""
    shapes = {"patterns": patterns.shape, "start": start.shape, "orders": orders.shape, "pairs": pairs.shape}
    fit = patterns.ndim == 3 and start.ndim == 2 and tuple(start.shape) == (patterns.shape[0], GEOMETRY)
    if not fit or orders.ndim != 2 or orders.shape[1] != 2 or not orders.shape[0] or pairs.ndim != 2 or pairs.shape[0] != 2:
        given = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
        raise InputError(f"{given}: need patterns (n, Qx, Qy), start (n, {GEOMETRY}), orders (J, 2) of one disk or more, pairs (2, P)")


class _Theta(NamedTuple):
    """Parameters of n patterns: geometry (n, 6), amplitudes (n, J), background (n, 3), interference (n, P)."""

    geometry: Any
    amplitude: Any
    ground: Any
    interference: Any


class _State(NamedTuple):
    """The model of n patterns: disks and slopes (n, J, m) and overlaps (n, P, m) at all pixels, λ (n, m)."""

    disk: Any
    slope_x: Any
    slope_y: Any
    overlap: Any
    model: Any


class _Mixing(NamedTuple):
    """A step of the interference (n, P), and twice the likelihood that it promises (n,)."""

    step: Any
    gain: Any


class _Model:
    """Computes λ, its likelihood, and the normal equations."""

    def __init__(self, patterns: Any, orders: Any, pairs: Any, table: Any, pixels: Any, mask: Any):
        xp = arrays.namespace(patterns)
        n, nx, ny = patterns.shape
        self.xp, self.orders, self.table, self.pairs = xp, arrays.as_float64(orders), table, int(pairs.shape[1])
        self.first_of, self.second_of = (xp.astype(pairs[i, :], xp.int64) for i in (0, 1))
        window = arrays.to_numpy(pixels)
        self.half = -int(window[0, 0])
        side = 2 * self.half + 1
        place = np.full(side * side + 1, len(window), np.int64)
        place[(window[:, 0] + self.half) * side + window[:, 1] + self.half] = np.arange(len(window))
        x, y = (a.ravel().astype(np.float64) for a in np.meshgrid(np.arange(nx), np.arange(ny), indexing="ij"))
        s, t = x / max(nx - 1, 1), y / max(ny - 1, 1)
        ground = np.stack([(1 - s) * (1 - t), (1 - s) * t, s * (1 - t), s * t])
        self.place, self.x, self.y, self.ground = (arrays.from_numpy(a, patterns) for a in (place, x, y, ground))
        self.valid = xp.ones_like(self.x) if mask is None else arrays.as_float64(xp.reshape(mask, (nx * ny,)))
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
        number = xp.reshape(xp.take(self.place, xp.reshape(spot, (-1,))), (n * most, int(self.x.shape[0])))
        wide = [xp.concat([p, xp.zeros_like(p[:, :1])], axis=-1) for p in parts]
        disk, by_x, by_y = (xp.reshape(arrays.gather(p, number), (n, most, int(self.x.shape[0]))) for p in wide)
        return xp.maximum(disk, xp.zeros_like(disk)), by_x, by_y

    def first(self, geometry: Any) -> _Theta:
        """Return the start: amplitudes from the counts in the disks, an even background, no interference."""
        xp = self.xp
        disk = self.disks(geometry)[0] * self.valid[None, None, :]
        area = xp.sum(disk * disk, axis=-1)
        light = xp.sum(disk * self.counts[:, None, :], axis=-1)
        amplitude = xp.maximum(0.6 * light / xp.where(area > 0, area, xp.ones_like(area)), xp.full_like(area, 10 * FAINT))
        ground = xp.full((geometry.shape[0], GROUND), 2 * LEAST, dtype=xp.float64, device=arrays.device(geometry))
        pairs = xp.zeros((geometry.shape[0], self.pairs), dtype=xp.float64, device=arrays.device(geometry))
        return _Theta(geometry, amplitude, ground, pairs)

    def overlap(self, disk: Any) -> Any:
        """Return the products of the disks of all pairs, (n, P, m)."""
        return self.xp.take(disk, self.first_of, axis=1) * self.xp.take(disk, self.second_of, axis=1)

    def at(self, theta: _Theta) -> _State:
        """Compute the model."""
        xp = self.xp
        disk, by_x, by_y = self.disks(theta.geometry)
        model = xp.matmul(theta.ground, self.ground) + xp.matmul(theta.amplitude[:, None, :], disk)[:, 0, :]
        overlap = self.overlap(disk)
        if self.pairs:
            model = model + xp.matmul(theta.interference[:, None, :], overlap)[:, 0, :]
        model = xp.maximum(model, xp.full_like(model, LEAST))
        return _State(disk, by_x, by_y, overlap, model)

    def gain(self, theta: _Theta, now: _State, new: _Theta, then: _State) -> Any:
        """Return by how much a step raises the logarithm of the likelihood, (n,). That of the interference is a normal distribution."""
        xp = self.xp
        change = then.model - now.model
        gain = xp.sum(self.valid[None, :] * (self.counts * xp.log(then.model / now.model) - change), axis=-1)
        if self.pairs:
            before, after = (xp.sum(2 * (t.interference / self.limit(t.amplitude)) ** 2, axis=-1) for t in (theta, new))
            gain = gain + before - after
        return gain

    def limit(self, amplitude: Any) -> Any:
        """Return the largest interference of all pairs, 2 √(aᵢ aⱼ), (n, P)."""
        xp = self.xp
        return 2 * xp.sqrt(xp.take(amplitude, self.first_of, axis=1) * xp.take(amplitude, self.second_of, axis=1))

    def equations(self, theta: _Theta, now: _State, fixed: bool) -> tuple[Any, Any]:
        """Return the Fisher matrix (n, p, p) of lattice, amplitudes and background, and the gradient (n, p)."""
        xp, (h, k) = self.xp, (self.orders[:, 0], self.orders[:, 1])
        height = theta.amplitude[:, :, None]
        if self.pairs:
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

    def held(self, theta: _Theta, fisher: Any, gradient: Any) -> tuple[Any, Any]:
        """Return the equations without the heights that cannot fall any more, but would. The others must not count on them."""
        xp = self.xp
        least = xp.concat([xp.full_like(theta.amplitude, FAINT), xp.full_like(theta.ground, LEAST)], axis=-1)
        stuck = (xp.concat([theta.amplitude, theta.ground], axis=-1) <= least) & (gradient[:, GEOMETRY:] <= 0)
        free = xp.concat([xp.ones_like(theta.geometry), xp.astype(~stuck, xp.float64)], axis=-1)
        return fisher * free[:, :, None] * free[:, None, :], gradient * free

    def mixing(self, theta: _Theta, now: _State, damping: Any) -> _Mixing:
        """Return the step of the interference of every pair alone, and what all steps together promise."""
        xp, pairs = self.xp, theta.interference
        if not self.pairs:
            return _Mixing(pairs, xp.zeros_like(damping))
        weight, prior = self.valid[None, :] / now.model, 4 / self.limit(theta.amplitude) ** 2
        slope = xp.matmul(now.overlap, (weight * (self.counts - now.model))[:, :, None])[:, :, 0] - prior * pairs
        stiff = xp.matmul(now.overlap * now.overlap, weight[:, :, None])[:, :, 0] + prior
        step = slope / (stiff * (1 + damping[:, None]))
        return _Mixing(step, xp.sum(slope * step, axis=-1))

    def moved(self, theta: _Theta, change: Any, mixing: Any) -> _Theta:
        """Return the parameters after a step of limited length. `mixing` is that of the interference."""
        xp = self.xp
        move = change[:, :GEOMETRY]
        longest = xp.maximum(xp.max(xp.abs(move[:, :2]), axis=-1), 2 * xp.max(xp.abs(move[:, 2:]), axis=-1))
        change = change * (LONGEST / xp.maximum(longest, xp.full_like(longest, LONGEST)))[:, None]
        geometry = theta.geometry + change[:, :GEOMETRY]
        steps = ((theta.amplitude, FAINT, change[:, GEOMETRY:-GROUND]), (theta.ground, LEAST, change[:, -GROUND:]))
        amplitude, ground = (xp.maximum(a + d, xp.maximum(LEFT * a, xp.full_like(a, least))) for a, least, d in steps)
        pairs = theta.interference
        if self.pairs:
            most = self.limit(amplitude)
            pairs = xp.minimum(xp.maximum(pairs + mixing, -most), most)
        return _Theta(geometry, amplitude, ground, pairs)

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


def _covariance(fisher: Any) -> tuple[Any, Any]:
    """Return the covariance of the lattice (n, 6, 6), and where it exists: all six numbers change the model, and all is finite."""
    xp = arrays.namespace(fisher)
    scaled, unit = _scaled(fisher)
    eye = xp.eye(fisher.shape[-1], dtype=fisher.dtype, device=arrays.device(fisher))
    finite = xp.all(xp.isfinite(scaled), axis=(-2, -1))
    wanted = xp.broadcast_to(eye[:, :GEOMETRY], (*fisher.shape[:-1], GEOMETRY)) * 1.0
    answer = xp.linalg.solve(xp.where(finite[:, None, None], scaled, eye), wanted)[:, :GEOMETRY, :]
    answer = answer * unit[:, :GEOMETRY, None] * unit[:, None, :GEOMETRY]
    told = xp.all(xp.sum(fisher * eye, axis=-1)[:, :GEOMETRY] > 0, axis=-1)
    return answer, finite & told


def work_bytes(kind: str, n: int, detector: tuple[int, int], disks: int, pairs: int, window: int) -> int:
    """Return the bytes that an implementation works with on n patterns: "definition", "cpu" or "cuda"."""
    if kind == "definition":
        return 8 * ARRAYS * n * (disks + pairs) * detector[0] * detector[1]
    each = 4 * (IMAGES * detector[0] * (detector[1] + 16) + 6 * disks * window) + 16 * (disks + GROUND + GEOMETRY) ** 2
    return each if kind == "cpu" else min(n * each, WORK_BYTES)
