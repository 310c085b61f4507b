"""Fit a surface over the scan to positions of the unscattered beam, robustly: wrong positions have no effect on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.robust import biweight

ORDERS = {"constant": 0, "plane": 1, "quadratic": 2}
TRIED = 300  # surfaces through few positions: with a third of six positions wrong, 25 of them have none of these
LOOKED_AT = 2000  # positions on which these surfaces are compared
BETTER = 0.7  # of the median distance: a surface so much better than the robust fit replaces its start
STEPS = 20  # of each of the two robust fits, at most
_RAYLEIGH_MEDIAN = 1.1774  # median length of a 2-D Gaussian error of σ = 1 per axis


def _terms(shape: tuple[int, ...], order: int) -> np.ndarray:
    """Evaluate polynomials up to an order on scan coordinates scaled to -1 … 1, (Rx, Ry, terms)."""
    x, y = (np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape)
    powers = [(total - j, j) for total in range(order + 1) for j in range(total + 1)]
    return np.stack([np.outer(x**i, y**j) for i, j in powers], axis=-1)


@dataclass(frozen=True)
class Step(Storable, stored="shift error: [px]"):
    """A sudden change of the origin between neighbouring rows, or columns, of the scan.

    Attributes
    ----------
    axis : int
        0: it lies between two rows of the scan. 1: between two columns.
    index : int
        First row (or column) behind it.
    shift : (float, float)
        Change of the origin, px.
    error : float
        Standard error of each component of the change, px. It is NaN until it is fitted.
    """

    axis: int
    index: int
    shift: tuple[float, float] = (math.nan, math.nan)
    error: float = math.nan

    def __str__(self) -> str:
        what, (dx, dy) = ("row", "column")[self.axis], self.shift
        return f"step at scan {what} {self.index}: ({dx:+.2f}, {dy:+.2f}) px"


@dataclass(frozen=True, eq=False)
class Surface:
    """A surface through measured positions.

    Attributes
    ----------
    fitted : (Rx, Ry, 2) float64
        Defined at every position, px.
    residual : (2,) float64
        Rms distance of the measured positions from it, outliers left out, px.
    outliers : (Rx, Ry) bool
        True where a position was measured, but left out.
    error : float
        Standard error of the surface along one axis, mean over the scan, px. It follows from the scatter about the surface.
    steps : tuple of Step
        Those that were asked for, with their fitted change.
    fit : str
        Description.
    """

    fitted: np.ndarray
    residual: np.ndarray
    outliers: np.ndarray
    error: float
    steps: tuple[Step, ...]
    fit: str


def fit_surface(measured: np.ndarray, order: int, robust: bool, used: np.ndarray, steps: Sequence[Step] = ()) -> Surface:
    """Fit a surface. Both coordinates share the weights, which follow from the length of the residual.

    Parameters
    ----------
    measured : (Rx, Ry, 2) array
        Positions of the beam, px. NaN where there is none.
    order : int
        0 constant, 1 plane, 2 quadratic in the scan coordinates. A lower one is taken if there are too few positions.
    robust : bool
        False is plain least squares.
    used : (Rx, Ry) bool array
        Positions to use.
    steps : sequence of Step
        Places where the surface may jump. Their changes are fitted.

    Raises
    ------
    InputError
        No position was measured.
    """
    ok = np.isfinite(measured).all(axis=-1) & used
    count = int(ok.sum())
    if not count:
        raise InputError("no origin was measured at any position (or where= leaves none): find disks with a lower threshold first")
    while order and count < 2 * _terms((1, 1), order).shape[-1]:
        order -= 1
    terms = np.concatenate([_terms(measured.shape[:2], order), *(_behind(measured.shape[:2], s)[..., None] for s in steps)], axis=-1)
    a, b = terms[ok], measured[ok]
    basis, values, turn = np.linalg.svd(a, full_matrices=False)
    rank = int(np.sum(values > values[0] * count * np.finfo(float).eps))  # one row of a scan has no slope along the other axis
    basis, back = np.ascontiguousarray(basis[:, :rank].T), turn[:rank].T / values[:rank]
    coefficients, weight = _robust(basis, b.T) if robust else (b.T @ basis.T, np.ones(count))
    inside = weight > 0
    off = (b.T - coefficients @ basis)[:, inside]
    outliers = np.zeros(measured.shape[:2], bool)
    outliers[ok] = ~inside
    free = inside.sum() - rank
    sigma = math.sqrt(float(np.sum(off**2)) / (2 * free)) if free > 0 else math.nan
    spread = np.sqrt(np.sum((terms @ back) ** 2, axis=-1))  # of the surface, in units of the scatter
    found = back @ coefficients.T
    changes = [
        Step(s.axis, s.index, (float(c[0]), float(c[1])), sigma * float(np.linalg.norm(back[n])))
        for n, (s, c) in enumerate(zip(steps, found[len(found) - len(steps) :], strict=True), len(found) - len(steps))
    ]
    name = next(n for n, o in ORDERS.items() if o == order)
    extra = f" with {len(changes)} step{'s' * (len(changes) > 1)}" if changes else ""
    text = f"{'robust ' if robust else ''}{name}{extra} through {int(inside.sum())} of {measured.shape[0] * measured.shape[1]} positions"
    return Surface(terms @ found, np.sqrt(np.mean(off**2, axis=1)), outliers, sigma * float(spread.mean()), tuple(changes), text)


def _behind(shape: tuple[int, ...], step: Step) -> np.ndarray:
    """Return 1 behind a step, and 0 before it, (Rx, Ry)."""
    return np.broadcast_to((np.indices(shape)[step.axis] >= step.index).astype(np.float64), shape)


def _robust(basis: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit the values b (2, n) on an orthonormal basis (terms, n): coefficients (2, terms), and the final weights (n,)."""
    coefficients, weight = _descend(basis, b, b @ basis.T, final=False)
    other = _of_few(basis, b)
    if _middle(basis, b, other) < BETTER * _middle(basis, b, coefficients):  # a block of outliers bent the first fit
        return _descend(basis, b, other, final=True)
    return coefficients, weight


def _descend(basis: np.ndarray, b: np.ndarray, coefficients: np.ndarray, final: bool) -> tuple[np.ndarray, np.ndarray]:
    """Improve coefficients by weighted least squares: least absolute distances first, unless `final`, then Tukey's biweight."""
    left = STEPS
    while left:
        residual = b - coefficients @ basis
        length = np.sqrt(residual[0] ** 2 + residual[1] ** 2)
        sigma = max(float(np.median(length)) / _RAYLEIGH_MEDIAN, 1e-6)
        if final:
            weight = biweight(length / sigma)
        else:
            weight = 1 / np.maximum(length, 0.1 * sigma)  # least absolute distances: gross errors do not bend this start
        change = _weighted(basis, residual, weight)
        coefficients = coefficients + change
        left -= 1
        enough = 1e-13 * np.linalg.norm(coefficients) if final else 1e-3 * sigma * math.sqrt(length.size)
        if np.linalg.norm(change) <= enough or not left:
            final, left = True, 0 if final else STEPS
    return coefficients, weight


def _of_few(basis: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the surface through as few positions as it has terms whose median distance is least, of `TRIED` choices.

    Least median of squares (Rousseeuw, J. Am. Stat. Assoc. 79 (1984) 871): up to half of the positions may be wrong, also all those at
    one end of the scan, which bend a fit of least absolute distances.
    """
    terms, n = basis.shape
    rng = np.random.default_rng(0)  # the same choices in every run
    chosen = np.sort(rng.choice(n, min(n, LOOKED_AT), replace=False))
    basis, b = basis[:, chosen], b[:, chosen]
    some = rng.integers(0, len(chosen), (TRIED, terms))
    systems = basis[:, some].transpose(1, 2, 0)  # (TRIED, terms, terms)
    regular = np.abs(np.linalg.det(systems * math.sqrt(n))) > 1e-6
    if not regular.any():
        return b @ basis.T
    found = np.linalg.solve(systems[regular], b[:, some[regular]].transpose(1, 2, 0)).transpose(0, 2, 1)  # (tried, 2, terms)
    off = b[None] - found @ basis
    return found[int(np.argmin(np.median((off**2).sum(axis=1), axis=1)))]


def _middle(basis: np.ndarray, b: np.ndarray, coefficients: np.ndarray) -> float:
    """Return the median distance of the values from the surface."""
    return float(np.median(np.hypot(*(b - coefficients @ basis))))


def _weighted(basis: np.ndarray, residual: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Solve weighted least squares of the residuals (2, n) for the coefficients (2, terms)."""
    weighted = basis * (weight / weight.max())
    return np.linalg.lstsq(weighted @ basis.T, weighted @ residual.T, rcond=1e-13)[0].T
