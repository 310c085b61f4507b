"""Fit one shape to many disks, together with the position, amplitude and background of every disk.

The model of each disk is λ = b + bx u + by v + a S(q - r), with the same S for all. A Gauss-Newton step changes all parameters at once.
The parameters of each disk are eliminated from the normal equations (Schur complement). So shifts, amplitudes and backgrounds do not
enter the shape. Nor does the result depend on errors of the first shape, with which the disks were fitted before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpu4d.probe.shape.bsplines import bsplines
from gpu4d.robust import robust_sigma

NEXT = 1e-9  # px: nearer to the centre a direction is not defined
NEAR = 1e-3  # px: step of numerical differences
LEAST = 0.02  # counts: the smallest value of the model
LONGEST = 0.5  # px, one step of a position
UNEVEN = 0.1  # of the amplitude: first guess of the variation of intensity inside disks
OUTLIER = 6.0  # disks with a larger misfit are left out, in robust standard deviations of the misfit
LEAST_SPREAD = 0.05  # of the median misfit: least value of that standard deviation
LOCATED = 0.5  # px: disks with a larger standard error are left out
RIDGE = 1e-12  # added to the diagonal of the Fisher matrix, so that it has an inverse
PIXELS = 60_000  # pixels in work at once, to limit memory
Columns = Callable[[np.ndarray, np.ndarray], Any]  # from x, y of points (n,) to derivatives of S there, (n, K), sparse or not
SMOOTHING = np.logspace(-8, 8, 65)  # strengths of the penalty that are tried, relative to the data


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
        """Return some of the disks."""
        return Windows(self.counts[keep], self.weight[keep], self.pixels, self.x[keep], self.y[keep])


class Radial:
    """Functions of r: cubic B-splines on even knots, mirrored at r = 0. All are 0 from `reach` on."""

    def __init__(self, knot: float, reach: float):
        self.knot, self.size = knot, max(int(reach / knot) - 1, 3)

    def columns(self, x: np.ndarray, y: np.ndarray) -> Any:
        """Return the functions at points (n,): sparse (n, size)."""
        index, value, _ = bsplines(np.hypot(x, y) / self.knot)
        return _sparse(np.abs(index), value, self.size)

    def profile(self, c: np.ndarray, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return Σ c f at radii r, and its slope."""
        index, value, slope = bsplines(r / self.knot)
        at = np.append(c, 0.0)[np.minimum(np.abs(index), self.size)]
        return (at * value).sum(1), (at * slope).sum(1) / self.knot

    def penalty(self) -> np.ndarray:
        """Return the matrix of the sum of squared second differences."""
        bend = np.zeros((self.size + 1, self.size))
        for row in range(self.size + 1):
            for column, height in ((row - 1, 1.0), (row, -2.0), (row + 1, 1.0)):
                if abs(column) < self.size:
                    bend[row, abs(column)] += height
        bend[0] *= np.sqrt(0.5)  # the other rows count twice, for r and -r
        return bend.T @ bend


class Grid:
    """Functions of x and y: products of cubic B-splines on a square grid. All are 0 from `reach` on."""

    def __init__(self, knot: float, reach: float):
        self.knot = knot
        self.half = half = max(int(reach / knot) - 1, 2)
        k = np.arange(-half, half + 1)
        inside = np.hypot(k[:, None], k) + 2 <= max(reach / knot, 4.0)
        self.size = int(inside.sum())
        self.number = np.where(inside, np.cumsum(inside).reshape(inside.shape) - 1, self.size)

    def columns(self, x: np.ndarray, y: np.ndarray) -> Any:
        """Return the functions at points (n,): sparse (n, size)."""
        number, (_, u, _), (_, v, _) = self._at(x, y)
        return _sparse(number, (u[:, :, None] * v[:, None, :]).reshape(len(x), 16), self.size)

    def sums(self, c: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return Σ c f at points (n,), and its slopes by x and y."""
        number, (_, u, du), (_, v, dv) = self._at(x, y)
        at = np.append(c, 0.0)[number].reshape(len(x), 4, 4)
        by_v, by_dv = ((at * w[:, None, :]).sum(2) for w in (v, dv))
        return (u * by_v).sum(1), (du * by_v).sum(1) / self.knot, (u * by_dv).sum(1) / self.knot

    def _at(self, x: np.ndarray, y: np.ndarray) -> tuple[Any, Any, Any]:
        """Return the numbers (n, 16) of the functions that are not 0 at points, and the B-splines along x and y."""
        across, along = (bsplines(v / self.knot) for v in (x, y))
        i, j = (np.clip(a[0] + self.half, -1, 2 * self.half + 1) + 1 for a in (across, along))
        number = np.pad(self.number, 1, constant_values=self.size)[i[:, :, None], j[:, None, :]]
        return number.reshape(len(x), 16), across, along

    def penalty(self) -> np.ndarray:
        """Return the matrix of the sum of the squared Laplacian."""
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
    """Return a sparse matrix (n, size) with values at columns `index`. Columns from `size` on are left out."""
    from scipy.sparse import csr_matrix

    n, most = index.shape
    value = np.where(index < size, value, 0.0)
    return csr_matrix((value.ravel(), np.minimum(index, size - 1).ravel(), np.arange(n + 1) * most), (n, size))


@dataclass(frozen=True)
class Shape:
    """Common disk shape S(x, y).

    S is a logistic edge plus a spline in r. For disks that are not round, waves move the rim, and slopes multiply the inside. An optional
    spline on a grid is added.

    Attributes
    ----------
    radius, edge : float
        Radius and width of the logistic edge, pixels.
    radial, grid : (basis, (size,) coefficients) or None
    waves : (2 n,) float64
        Amplitudes by which the rim is moved outwards, pixels: cosine and sine of 2θ, 3θ, …
    slopes : (4,) float64
        Relative height of u, v, u² - v² and 2 u v inside, with u and v in radii.
    """

    radius: float
    edge: float
    radial: tuple[Radial, np.ndarray]
    grid: tuple[Grid, np.ndarray] | None = None
    waves: np.ndarray = field(default_factory=lambda: np.zeros(0))
    slopes: np.ndarray = field(default_factory=lambda: np.zeros(4))

    def value(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return S at points (n,)."""
        shift, inside = self._not_round(x, y)
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        out = self._round(np.hypot(x, y) - shift)[0] * inside
        return out if self.grid is None else out + self.grid[0].sums(self.grid[1], x, y)[0]

    def with_slopes(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return S at points (n,), and its slopes by x and y."""
        if len(self.waves):
            e = NEAR
            low, high = (self.value(x - e, y), self.value(x, y - e)), (self.value(x + e, y), self.value(x, y + e))
            return self.value(x, y), (high[0] - low[0]) / (2 * e), (high[1] - low[1]) / (2 * e)
        r = np.maximum(np.hypot(x, y), NEXT)
        s, fall = self._round(r)
        return s, fall * x / r, fall * y / r

    def rim_columns(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the derivatives of S by radius and edge, (n, 2)."""
        r = np.hypot(x, y) - self._not_round(x, y)[0]
        s = self._logistic(r)
        fall = 4 / self.edge * s * (1 - s)
        return np.stack([fall, fall * (r - self.radius) / self.edge], -1)

    def wave_columns(self, x: np.ndarray, y: np.ndarray, waves: int) -> np.ndarray:
        """Return the derivatives of S by `waves` and `slopes`, (n, waves + 4)."""
        shift, inside = self._not_round(x, y)
        s, fall = self._round(np.hypot(x, y) - shift)
        rim, inner = self._patterns(x, y, waves)
        return np.concatenate([-(fall * inside)[:, None] * rim, s[:, None] * inner], 1)

    def _round(self, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return value and slope of the round shape at radii r."""
        s = self._logistic(r)
        more = self.radial[0].profile(self.radial[1], np.abs(r))
        return s + more[0], -4 / self.edge * s * (1 - s) + np.sign(r) * more[1]

    def _logistic(self, r: np.ndarray) -> np.ndarray:
        """Return the logistic edge at radii r."""
        return 1 / (1 + np.exp(np.clip(4 * (r - self.radius) / self.edge, -60, 60)))

    def _not_round(self, x: np.ndarray, y: np.ndarray) -> tuple[Any, Any]:
        """Return the shift of the rim by waves, pixels, and the factor of the intensity by slopes."""
        if not len(self.waves):
            return 0.0, 1.0
        rim, inner = self._patterns(x, y, len(self.waves))
        return rim @ self.waves, 1 + inner @ self.slopes

    def _patterns(self, x: np.ndarray, y: np.ndarray, waves: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the functions of the rim's waves (n, waves), and of the slopes inside (n, 4)."""
        r2, angle = x * x + y * y, np.arctan2(y, x)
        quiet = r2 / (r2 + (self.radius / 4) ** 2)  # towards the centre, where no direction is defined, waves fall to 0
        rim = [quiet * f(m * angle) for m in range(2, waves // 2 + 2) for f in (np.cos, np.sin)]
        u, v = (np.clip(w / self.radius, -2.0, 2.0) for w in (x, y))
        return np.stack(rim, -1), np.stack([u, v, u * u - v * v, 2 * u * v], -1)


class JointFit:
    """Joint fit of a common shape and of the parameters of every disk."""

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
        """Return the normal equations (K, K) and (K,) of the shape, in units of the noise.

        `columns` gives the derivatives of S by the K parameters. The parameters of the disks are eliminated. Call `move` afterwards to
        change them too.
        """
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
        """Linearise some disks. Return distances from their centres, amplitude, derivatives (n, 6, m), weights, residual, and model."""
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
        """Change the parameters of all disks by the step that belongs to a change of the shape."""
        for some, root, slope, cross in self._pending:
            whitened = slope if cross is None else slope - (change @ cross).reshape(slope.shape)
            step = np.matmul(root.swapaxes(1, 2), whitened[..., None])[..., 0]
            state = self.state[some]
            state[:, :2] += np.clip(step[:, :2], -LONGEST, LONGEST)
            state[:, 2:4] = np.maximum(state[:, 2:4] + step[:, 2:4], 0.2 * state[:, 2:4])
            state[:, 4:] += step[:, 4:]
        self.uneven = float(np.sqrt(max(self.roughness, 0.0)))

    def leave_out_outliers(self) -> None:
        """Leave out overlapped and false disks: those that fit far worse than most, or have a large standard error."""
        self.step()
        middle = np.median(self.misfit)
        limit = middle + OUTLIER * max(robust_sigma(self.misfit, middle), LEAST_SPREAD * middle)
        keep = (self.misfit <= limit) & (self.variance.max(1) < LOCATED**2)
        self.keep(keep)

    def keep(self, which: np.ndarray) -> None:
        """Keep some disks, and leave out the others."""
        self.windows, self.state = self.windows.part(which), self.state[which]
        self.misfit, self.variance = self.misfit[which], self.variance[which]


def _eliminated(
    columns: Any, a: np.ndarray, w: np.ndarray, left: np.ndarray, j: np.ndarray, root: np.ndarray, slope: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the normal equations of the shape without the part that the disks' parameters explain, and the matrix that couples both."""
    from scipy.sparse import csr_matrix, diags

    n, _, m = j.shape
    scaled = diags(np.repeat(a[:, 0], m)) @ csr_matrix(columns)
    heavy = (diags(w.ravel()) @ scaled).T.tocsr()
    at = np.broadcast_to(np.arange(n)[:, None, None] * 6 + np.arange(6), (n, m, 6))
    own = csr_matrix((np.matmul(root, j).swapaxes(1, 2).ravel(), at.ravel(), np.arange(n * m + 1) * 6), (n * m, 6 * n))
    cross = (heavy @ own).toarray()
    return (heavy @ scaled).toarray() - cross @ cross.T, heavy @ left.ravel() - cross @ slope.ravel(), cross


def smoothed(normal: np.ndarray, right: np.ndarray, now: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    """Solve normal equations with a penalty. Choose its strength s so that the marginal likelihood of the data is largest.

    The coefficients are taken as Gaussian with covariance 1 / (s penalty). In the generalised eigenvectors, in which `normal` is e and
    `penalty` is 1, the logarithm of the marginal likelihood is ½ Σ ln(s / (s + e)) + ½ Σ g² / (s + e).
    """
    from scipy.linalg import eigh

    scale = normal.diagonal().mean() / penalty.diagonal().mean()
    e, vectors = eigh((normal + normal.T) / 2, penalty * scale)
    e, g = np.maximum(e, 0.0), vectors.T @ (right + normal @ now)
    gain = [0.5 * np.sum(np.log(s / (s + e)) + g * g / (s + e)) for s in SMOOTHING]
    return vectors @ (g / (SMOOTHING[int(np.argmax(gain))] + e))
