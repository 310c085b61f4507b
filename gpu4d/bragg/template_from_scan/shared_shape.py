"""One shape for many disks: fitted together with every disk's own position, amplitude and background.

λ = b + bx u + by v + a S(q - r) for each disk, S common to all. A Gauss-Newton step of all parameters at once: those of a disk are
eliminated from the normal equations disk by disk (Schur complement), so that what a shift, an amplitude or a background explains
never enters the shape, and the shape does not depend on how wrong it was when the disks were fitted with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpu4d.probe.shape.bsplines import bsplines

NEXT = 1e-9  # px: no direction from nearer to the centre
NEAR = 1e-3  # px, for differences
LEAST = 0.02  # counts: the model is never darker
LONGEST = 0.5  # px, one step of a position
UNEVEN = 0.1  # of the amplitude: what intensity is taken to vary by inside disks, before it is known
OUTLIER = 6.0  # robust standard deviations of the misfit of all disks
LEAST_SPREAD = 0.05  # of the misfit
LOCATED = 0.5  # px: the largest standard error of a disk that says something
RIDGE = 1e-12  # of the Fisher matrix
PIXELS = 60_000  # worked on at once
Columns = Callable[[np.ndarray, np.ndarray], Any]  # points (n,) to derivatives of S there, (n, K), sparse or not
SMOOTHING = np.logspace(-8, 8, 65)  # of the penalty, relative to the data


@dataclass
class Windows:
    """Disks cut out of patterns.

    Attributes
    ----------
    counts : (n, m) float32
    weight : (n, m) float32
        1 where the detector counts, else 0.
    pixels : (m, 2) int
        Offsets from the window's middle.
    x, y : (n,) float64
        Position in the window, pixels from its middle.
    """

    counts: np.ndarray
    weight: np.ndarray
    pixels: np.ndarray
    x: np.ndarray
    y: np.ndarray

    def part(self, keep: np.ndarray) -> Windows:
        return Windows(self.counts[keep], self.weight[keep], self.pixels, self.x[keep], self.y[keep])


class Radial:
    """Functions of r: cubic B-splines on even knots, mirrored at r = 0, all of them 0 from `reach` on."""

    def __init__(self, knot: float, reach: float):
        self.knot, self.size = knot, max(int(reach / knot) - 1, 3)

    def columns(self, x: np.ndarray, y: np.ndarray) -> Any:
        """The functions at points (n,): sparse (n, size)."""
        index, value, _ = bsplines(np.hypot(x, y) / self.knot)
        return _sparse(np.abs(index), value, self.size)

    def profile(self, c: np.ndarray, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Σ c f, and its slope."""
        index, value, slope = bsplines(r / self.knot)
        at = np.append(c, 0.0)[np.minimum(np.abs(index), self.size)]
        return (at * value).sum(1), (at * slope).sum(1) / self.knot

    def penalty(self) -> np.ndarray:
        """Σ of squared second differences."""
        bend = np.zeros((self.size + 1, self.size))
        for row in range(self.size + 1):
            for column, height in ((row - 1, 1.0), (row, -2.0), (row + 1, 1.0)):
                if abs(column) < self.size:
                    bend[row, abs(column)] += height
        bend[0] *= np.sqrt(0.5)  # the others stand for r and -r
        return bend.T @ bend


class Grid:
    """Functions of x and y: products of cubic B-splines on a square grid, all of them 0 from `reach` on."""

    def __init__(self, knot: float, reach: float):
        self.knot = knot
        self.half = half = max(int(reach / knot) - 1, 2)
        k = np.arange(-half, half + 1)
        inside = np.hypot(k[:, None], k) + 2 <= max(reach / knot, 4.0)
        self.size = int(inside.sum())
        self.number = np.where(inside, np.cumsum(inside).reshape(inside.shape) - 1, self.size)

    def columns(self, x: np.ndarray, y: np.ndarray) -> Any:
        number, (_, u, _), (_, v, _) = self._at(x, y)
        return _sparse(number, (u[:, :, None] * v[:, None, :]).reshape(len(x), 16), self.size)

    def sums(self, c: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        number, (_, u, du), (_, v, dv) = self._at(x, y)
        at = np.append(c, 0.0)[number].reshape(len(x), 4, 4)
        by_v, by_dv = ((at * w[:, None, :]).sum(2) for w in (v, dv))
        return (u * by_v).sum(1), (du * by_v).sum(1) / self.knot, (u * by_dv).sum(1) / self.knot

    def _at(self, x: np.ndarray, y: np.ndarray) -> tuple[Any, Any, Any]:
        across, along = (bsplines(v / self.knot) for v in (x, y))
        i, j = (np.clip(a[0] + self.half, -1, 2 * self.half + 1) + 1 for a in (across, along))
        number = np.pad(self.number, 1, constant_values=self.size)[i[:, :, None], j[:, None, :]]
        return number.reshape(len(x), 16), across, along

    def penalty(self) -> np.ndarray:
        """Σ of the squared Laplacian."""
        bend = np.zeros((self.number.size, self.size))
        wide = np.pad(self.number, 1, constant_values=self.size)
        rows = np.arange(self.number.size)
        n = len(self.number)
        for dx, dy, height in ((0, 0, -4.0), (1, 0, 1.0), (-1, 0, 1.0), (0, 1, 1.0), (0, -1, 1.0)):
            column = wide[1 + dx : 1 + dx + n, 1 + dy : 1 + dy + n].ravel()
            ok = column < self.size
            bend[rows[ok], column[ok]] += height
        return bend.T @ bend


def _sparse(index: np.ndarray, value: np.ndarray, size: int) -> Any:
    from scipy.sparse import csr_matrix

    n, most = index.shape
    value = np.where(index < size, value, 0.0)
    return csr_matrix((value.ravel(), np.minimum(index, size - 1).ravel(), np.arange(n + 1) * most), (n, size))


@dataclass(frozen=True)
class Shape:
    """Common disk shape S(x, y).

    A logistic edge times a spline in r, plus waves of the rim and slopes of the inside for disks that are not round, plus an
    optional spline on a grid.

    Attributes
    ----------
    radius, edge : float
        Of the logistic, pixels.
    radial, grid : (basis, (size,) coefficients) or None
    waves : (2 n,) float64
        Amplitudes by which the rim is moved outwards: cosine and sine of 2θ, 3θ, …; pixels.
    slopes : (4,) float64
        Relative height of u, v, u² - v² and 2 u v inside, u and v in radii.
    """

    radius: float
    edge: float
    radial: tuple[Radial, np.ndarray]
    grid: tuple[Grid, np.ndarray] | None = None
    waves: np.ndarray = field(default_factory=lambda: np.zeros(0))
    slopes: np.ndarray = field(default_factory=lambda: np.zeros(4))

    def value(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """S at points (n,)."""
        shift, inside = self._not_round(x, y)
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        out = self._round(np.hypot(x, y) - shift)[0] * inside
        return out if self.grid is None else out + self.grid[0].sums(self.grid[1], x, y)[0]

    def with_slopes(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """S, and its slopes by x and y."""
        if len(self.waves):
            e = NEAR
            low, high = (self.value(x - e, y), self.value(x, y - e)), (self.value(x + e, y), self.value(x, y + e))
            return self.value(x, y), (high[0] - low[0]) / (2 * e), (high[1] - low[1]) / (2 * e)
        r = np.maximum(np.hypot(x, y), NEXT)
        s, fall = self._round(r)
        return s, fall * x / r, fall * y / r

    def rim_columns(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """dS by radius and edge, (n, 2)."""
        r = np.hypot(x, y) - self._not_round(x, y)[0]
        s = self._logistic(r)
        fall = 4 / self.edge * s * (1 - s)
        return np.stack([fall, fall * (r - self.radius) / self.edge], -1)

    def wave_columns(self, x: np.ndarray, y: np.ndarray, waves: int) -> np.ndarray:
        """dS by `waves` and `slopes`, (n, waves + 4)."""
        shift, inside = self._not_round(x, y)
        s, fall = self._round(np.hypot(x, y) - shift)
        rim, inner = self._patterns(x, y, waves)
        return np.concatenate([-(fall * inside)[:, None] * rim, s[:, None] * inner], 1)

    def _round(self, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Value and slope of the round shape."""
        s = self._logistic(r)
        more = self.radial[0].profile(self.radial[1], np.abs(r))
        return s + more[0], -4 / self.edge * s * (1 - s) + np.sign(r) * more[1]

    def _logistic(self, r: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(np.clip(4 * (r - self.radius) / self.edge, -60, 60)))

    def _not_round(self, x: np.ndarray, y: np.ndarray) -> tuple[Any, Any]:
        if not len(self.waves):
            return 0.0, 1.0
        rim, inner = self._patterns(x, y, len(self.waves))
        return rim @ self.waves, 1 + inner @ self.slopes

    def _patterns(self, x: np.ndarray, y: np.ndarray, waves: int) -> tuple[np.ndarray, np.ndarray]:
        r2, angle = x * x + y * y, np.arctan2(y, x)
        quiet = r2 / (r2 + (self.radius / 4) ** 2)  # no direction in the middle
        rim = [quiet * f(m * angle) for m in range(2, waves // 2 + 2) for f in (np.cos, np.sin)]
        u, v = (np.clip(w / self.radius, -2.0, 2.0) for w in (x, y))
        return np.stack(rim, -1), np.stack([u, v, u * u - v * v, 2 * u * v], -1)


class Together:
    """The disks' own parameters beside the shape they share."""

    def __init__(self, windows: Windows, shape: Any):
        self.windows, self.shape = windows, shape
        self.half = float(np.abs(windows.pixels).max())
        far = np.hypot(*windows.pixels.T)
        inner, outer = (
            (windows.counts * windows.weight * z).sum(1) / np.maximum((windows.weight * z).sum(1), 1)
            for z in (far <= max(shape.radius - 1, 1.0), far >= shape.radius + 1)
        )
        n = len(windows.x)
        b = np.maximum(outer, 0.05)
        self.state = np.stack([windows.x, windows.y, np.maximum(inner - b, 0.1), b, np.zeros(n), np.zeros(n)], -1)
        self.uneven, self.misfit = UNEVEN, np.ones(n)
        self.variance = np.full((n, 2), np.nan)

    def step(self, columns: Columns | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Normal equations, (K, K) and (K,), of the shape's parameters whose derivatives `columns` gives, all disks' own eliminated;
        in units of the noise. `move` then takes the disks along."""
        self._pending: list[tuple[slice, np.ndarray, np.ndarray, np.ndarray | None]] = []
        rough: list[np.ndarray] = []
        normal: Any = 0.0
        right: Any = 0.0
        n, m = self.windows.counts.shape
        for start in range(0, n, max(1, PIXELS // m)):
            some = slice(start, min(start + max(1, PIXELS // m), n))
            x, y, a, j, w, left, whole = self._linear(some)
            root = np.linalg.inv(np.linalg.cholesky(np.matmul(j * w[:, None], j.swapaxes(1, 2)) + RIDGE * np.eye(6)))
            slope = np.matmul(root, np.matmul(j, (w * left)[..., None]))[..., 0]
            valid = self.windows.weight[some]
            self.misfit[some] = (w * left**2).sum(1) / np.maximum(valid.sum(1) - 6, 1)
            self.variance[some] = (root**2).sum(1)[:, :2]
            rough.append((valid * (left**2 - whole)).sum(1) / np.maximum((valid * (a * j[:, 2]) ** 2).sum(1), LEAST))
            cross = None
            if columns is not None:
                here, mine, cross = _eliminated(columns(x.ravel(), y.ravel()), a, w, left, j, root, slope)
                normal, right = normal + here, right + mine
            self._pending.append((some, root, slope, cross))
        self.roughness = float(np.median(np.concatenate(rough)))
        noise = float(np.median(self.misfit))
        return np.asarray(normal) / noise, np.asarray(right) / noise

    def _linear(self, some: slice) -> tuple[np.ndarray, ...]:
        """Of some disks: distances from their centres, amplitude, derivatives (n, 6, m), weights, what is left over, model."""
        state, pixels = self.state[some], self.windows.pixels
        x, y = (pixels[:, i] - state[:, i, None] for i in (0, 1))
        s, sx, sy = (v.reshape(x.shape) for v in self.shape.with_slopes(x.ravel(), y.ravel()))
        u, v = (np.broadcast_to(pixels[:, i] / self.half, x.shape) for i in (0, 1))
        a, b, bx, by = (state[:, i, None] for i in range(2, 6))
        model = np.maximum(b + bx * u + by * v + a * s, LEAST)
        weight = self.windows.weight[some] / (model + (self.uneven * a) ** 2)
        j = np.stack([-a * sx, -a * sy, s, np.ones_like(s), u, v], 1)
        return x, y, a, j, weight, self.windows.counts[some] - model, model

    def move(self, change: np.ndarray) -> None:
        """The disks' own step, given that of the shape."""
        for some, root, slope, cross in self._pending:
            whitened = slope if cross is None else slope - (change @ cross).reshape(slope.shape)
            step = np.matmul(root.swapaxes(1, 2), whitened[..., None])[..., 0]
            state = self.state[some]
            state[:, :2] += np.clip(step[:, :2], -LONGEST, LONGEST)
            state[:, 2:4] = np.maximum(state[:, 2:4] + step[:, 2:4], 0.2 * state[:, 2:4])
            state[:, 4:] += step[:, 4:]
        self.uneven = float(np.sqrt(max(self.roughness, 0.0)))

    def settle(self) -> None:
        """Leave out disks that fit far worse than most, or are hardly located: overlapped ones, and false ones."""
        self.step()
        middle = np.median(self.misfit)
        spread = 1.4826 * np.median(np.abs(self.misfit - middle))
        keep = (self.misfit <= middle + OUTLIER * max(spread, LEAST_SPREAD * middle)) & (self.variance.max(1) < LOCATED**2)
        self.keep(keep)

    def keep(self, which: np.ndarray) -> None:
        self.windows, self.state = self.windows.part(which), self.state[which]
        self.misfit, self.variance = self.misfit[which], self.variance[which]


def _eliminated(
    columns: Any, a: np.ndarray, w: np.ndarray, left: np.ndarray, j: np.ndarray, root: np.ndarray, slope: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normal equations of the shape, less what the disks' own parameters explain, and how the two are bound to each other."""
    from scipy.sparse import csr_matrix, diags

    n, _, m = j.shape
    scaled = diags(np.repeat(a[:, 0], m)) @ csr_matrix(columns)
    heavy = (diags(w.ravel()) @ scaled).T.tocsr()
    at = np.broadcast_to(np.arange(n)[:, None, None] * 6 + np.arange(6), (n, m, 6))
    own = csr_matrix((np.matmul(root, j).swapaxes(1, 2).ravel(), at.ravel(), np.arange(n * m + 1) * 6), (n * m, 6 * n))
    cross = (heavy @ own).toarray()
    return (heavy @ scaled).toarray() - cross @ cross.T, heavy @ left.ravel() - cross @ slope.ravel(), cross


def smoothed(normal: np.ndarray, right: np.ndarray, now: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    """New coefficients of normal equations, with a penalty as strong as makes the data likeliest.

    The marginal likelihood of the data, coefficients Gaussian with covariance 1 / (s penalty): ½ Σ ln(s / (s + e)) + ½ Σ g² / (s + e) in
    the generalised eigenvectors, in which `normal` is e and `penalty` 1.
    """
    from scipy.linalg import eigh

    scale = normal.diagonal().mean() / penalty.diagonal().mean()
    e, vectors = eigh((normal + normal.T) / 2, penalty * scale)
    e, g = np.maximum(e, 0.0), vectors.T @ (right + normal @ now)
    gain = [0.5 * np.sum(np.log(s / (s + e)) + g * g / (s + e)) for s in SMOOTHING]
    return vectors @ (g / (SMOOTHING[int(np.argmax(gain))] + e))
