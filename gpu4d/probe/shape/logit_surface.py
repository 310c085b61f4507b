"""Fit smooth surfaces over the pixels of a probe: splines with a penalty on bending, whose weight is chosen from the pixels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gpu4d.errors import InputError
from gpu4d.probe.measure_disk import Disk
from gpu4d.probe.shape.bsplines import bsplines

BENDING = 10.0 ** np.arange(-6.0, 3.1, 0.5)  # weights of bending that are tried, relative to the misfit of the pixels
LEAST = 1e-12  # least weight of a pixel
BLUR, OUTLINE, PLATEAU = 1.0, 0.15, 0.8  # blur, px; parts of the blurred maximum above which a pixel is in the probe, on its plateau
MARGIN = 6  # px of window around the pixels in the probe
WIDEST = 44  # most splines in each direction: in wider windows they are more than a pixel apart
LARGE, FEWER = 64 * 64, 32  # pixels above which a window is large; splines of a large window in each direction
SILENT = 1e-6  # of the plateau: in a large window, pixels that no coefficient changes by more are left out of the equations
STILL = 1e-4  # of the plateau: the fit of a large window ends when a round changes no pixel by more


class Window(NamedTuple):
    """The fitted pixels, flat, in units of the plateau.

    x, y are relative to the disk's centre, and `first` is x, y of the first pixel. `shape` has the numbers of rows and columns, `step` is
    the distance of knots in pixels, and `scale` is the unit of x and y in the polynomial. `large` windows are fitted with less work.
    """

    counts: np.ndarray
    x: np.ndarray
    y: np.ndarray
    first: tuple[float, float]
    shape: tuple[int, int]
    step: float
    scale: float
    large: bool


def window_of(image: np.ndarray, disk: Disk) -> Window:
    """Cut the probe with a margin out of its image."""
    from scipy import ndimage

    blurred = ndimage.gaussian_filter(image, BLUR)
    top = blurred.max()
    label, _ = ndimage.label(blurred > OUTLINE * top)
    probe = np.nonzero(label == label[np.unravel_index(blurred.argmax(), image.shape)])
    low, high = ([int(edge(i)) for i in probe] for edge in (np.min, np.max))
    if min(low) < 1 or any(h > n - 2 for h, n in zip(high, image.shape)):
        raise InputError("the probe touches the border of its image: its rim must be whole; use refine='correlation'")
    rows, columns = (slice(max(a - MARGIN, 0), min(b + MARGIN + 1, n)) for a, b, n in zip(low, high, image.shape))
    part = image[rows, columns]
    plateau = part[blurred[rows, columns] > PLATEAU * top].mean()
    first = (rows.start - disk.qx, columns.start - disk.qy)
    x, y = np.meshgrid(*(np.arange(n) + f for n, f in zip(part.shape, first)), indexing="ij")
    large = part.size > LARGE
    step = max(1.0, max(part.shape) / (FEWER if large else WIDEST))
    return Window(part.ravel() / plateau, x.ravel(), y.ravel(), first, part.shape, step, max(disk.radius, 1.0), large)


class Known(NamedTuple):
    """Conditions on the coefficients beside the pixels: rows, target values, and weights."""

    rows: Any
    wanted: np.ndarray
    weight: np.ndarray

    def misfit(self, found: np.ndarray) -> float:
        """Return the weighted sum of squared deviations from the conditions."""
        return float(self.weight @ (self.rows @ found - self.wanted) ** 2)


class Surface:
    """Smooth surfaces over a window: cubic splines with a penalty on bending, and waves of the rim without one."""

    def __init__(self, window: Window):
        from scipy import sparse

        self.window = window
        rows = [_splines(n, window.step) for n in window.shape]
        self.knots = tuple(r.shape[1] for r in rows)
        waves = _waves(window.x, window.y)
        self.values = sparse.hstack([sparse.kron(*rows), sparse.csr_array(waves)]).tocsr()
        bend = 0
        for order, weight in enumerate((1.0, 2.0, 1.0)):  # ∂²/∂y², ∂²/∂x∂y, ∂²/∂x²
            d = sparse.kron(*(_differences(n, o) for n, o in zip(self.knots, (order, 2 - order))))
            bend = bend + weight * (d.T @ d)
        free = sparse.csr_array((waves.shape[1], waves.shape[1]))
        self.bend = sparse.block_diag([bend, free]).tocsc()
        self.free = 3 + waves.shape[1]  # planes have no bending
        self.known = Known(sparse.csr_array((0, self.values.shape[1])), np.zeros(0), np.zeros(0))
        self.stiff = self.values.shape[1] - self.free

    def rows(self, steep: np.ndarray, cuts: np.ndarray) -> Any:
        """Return derivatives of the intensity, (pixels, knots + waves + 3 cuts), by the coefficients of φ and of straight sides."""
        from scipy import sparse

        plane = np.stack([np.ones_like(self.window.x), self.window.x, self.window.y], -1)
        sides = (cuts[:, :, None] * plane[None]).transpose(1, 0, 2).reshape(len(plane), -1)
        return sparse.hstack([sparse.diags_array(steep) @ self.values, sparse.csr_array(sides)]).tocsr()

    def solve(self, rows: Any, wanted: np.ndarray, weight: np.ndarray, cost: float) -> tuple[np.ndarray, float]:
        """Minimise Σ w (z - rows c)² + cost · bending. Return c, and the logarithm of the determinant of its matrix."""
        from scipy import sparse
        from scipy.sparse.linalg import splu

        if self.window.large:  # pixels inside and far outside have no information on the rim
            tell = abs(rows).max(axis=1).toarray().ravel() > SILENT
            rows, wanted, weight = rows[np.flatnonzero(tell)], wanted[tell], weight[tell]
        sides = rows.shape[1] - self.values.shape[1]
        bend = sparse.block_diag([self.bend, sparse.csr_array((sides, sides))]) if sides else self.bend
        ridge = sparse.eye_array(rows.shape[1]) * LEAST
        normal = (rows.T @ sparse.diags_array(weight) @ rows + cost * bend + ridge).tocsc()
        factors = splu(normal, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
        return factors.solve(rows.T @ (weight * wanted)), float(np.log(np.abs(factors.U.diagonal())).sum())

    def choose(self, rows: Any, wanted: np.ndarray, weight: np.ndarray, informed: int, at: int) -> tuple[np.ndarray, int]:
        """Solve with the cost of largest restricted likelihood: number `at` of `BENDING`, or one next to it."""
        freedom = max(informed - self.free - rows.shape[1] + self.values.shape[1], 1)
        best = None
        for i in range(max(0, at - 1), min(len(BENDING), at + 2)):
            found, size = self.solve(rows, wanted, weight, BENDING[i])
            left = weight @ (wanted - rows @ found) ** 2 + self.bending(found, BENDING[i])
            unlikely = freedom * np.log(max(left, 1e-300)) + size - self.stiff * np.log(BENDING[i])
            if best is None or unlikely < best[0]:
                best = (unlikely, found, i)
        assert best is not None
        return best[1:]

    def bending(self, found: np.ndarray, cost: float) -> float:
        """Return the penalty on bending."""
        found = found[: self.values.shape[1]]
        return float(cost * (found @ (self.bend @ found)))

    def freedom(self, rows: Any, weight: np.ndarray, cost: float) -> float:
        """Return the number of terms that the pixels determine.

        It is the trace of the matrix that turns the counts into the fit. It follows from the growth of the determinant with the cost.
        """
        none, more = np.zeros(len(weight)), 1.1
        grown = self.solve(rows, none, weight, more * cost)[1] - self.solve(rows, none, weight, cost)[1]
        return rows.shape[1] - grown / np.log(more)

    def at(self, found: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return φ at points x, y."""
        from scipy.ndimage import map_coordinates

        count = self.knots[0] * self.knots[1]
        place = [(v - f) / self.window.step + 1 for v, f in zip((x, y), self.window.first)]
        spline = map_coordinates(found[:count].reshape(self.knots), place, order=3, prefilter=False, mode="nearest")
        return spline + _waves(x, y) @ found[count : self.values.shape[1]]

    def parts(self, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return 1 / (1 + e^-φ) on the pixels, and the same for every straight side, (sides, pixels)."""
        count = self.values.shape[1]
        return logistic(self.values @ found[:count]), straight_sides(found[count:], self.window.x, self.window.y)


def _splines(count: int, step: float) -> Any:
    """Return cubic B-splines, `step` pixels apart, at whole pixels: (count, knots) sparse."""
    from scipy import sparse

    knots, weight, _ = bsplines(np.arange(count) / step)
    rows = np.repeat(np.arange(count), 4)
    return sparse.csr_array((weight.ravel(), (rows, knots.ravel() + 1)), shape=(count, knots[-1, -1] + 2))


def _differences(count: int, order: int) -> Any:
    """Return the matrix of differences of an order."""
    from scipy import sparse

    d = sparse.eye_array(count, format="csr")
    for _ in range(order):
        d = d[1:] - d[:-1]
    return d


def _waves(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return r, cos 2θ, sin 2θ, r cos 2θ, r sin 2θ, smooth at the centre, (n, 5). These and a plane describe φ of an ellipse."""
    r = np.sqrt(x * x + y * y + 1)
    c, s = (x * x - y * y) / r**2, 2 * x * y / r**2
    return np.stack([r, c, s, r * c, r * s], -1)


def logistic(phi: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + e^-φ)."""
    return 1 / (1 + np.exp(-np.clip(phi, -60, 60)))


def logit(rise: np.ndarray) -> np.ndarray:
    """Return φ of which `rise` is the logistic. Values near 0 and 1 are limited."""
    return np.log(np.maximum(rise, 1e-9) / np.maximum(1 - rise, 1e-9))


def straight_sides(planes: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the logistic edges of planes at points, (sides, n)."""
    return np.stack([logistic(a + b * x + c * y) for a, b, c in planes.reshape(-1, 3)]) if planes.size else np.zeros((0, len(x)))
