"""Find where the unscattered beam falls at every scan position: measure it from the disks, and smooth it by a surface."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import OriginLike, origins, positions_of
from gpu4d.data.calibration import Calibration
from gpu4d.data.pointlist import PointListArray
from gpu4d.data.slices import RealSlice
from gpu4d.errors import InputError

ORDERS = {"constant": 0, "plane": 1, "quadratic": 2}
TUKEY = 4.685  # biweight cut-off in σ: 95 % efficiency on Gaussian errors (Huber & Ronchetti, Robust Statistics)
STEPS = 20  # of each of the two robust fits, at most
_RAYLEIGH_MEDIAN = 1.1774  # median length of a 2-D Gaussian error of σ = 1 per axis


@dataclass(frozen=True, eq=False)
class Origin:
    """The unscattered beam over the scan.

    Attributes
    ----------
    measured : (Rx, Ry, 2) float64
        Origin from the disks, detector pixels. NaN where no disk was near enough.
    fitted : (Rx, Ry, 2) float64
        The surface, defined at every position.
    residual : (2,) float64
        Rms distance of the measured positions (outliers left out) from the surface, px, along qx and qy.
    outliers : (Rx, Ry) bool
        True where the origin was measured, but left out of the surface.
    fit : str
        Description of the fitted surface.
    """

    measured: np.ndarray
    fitted: np.ndarray
    residual: np.ndarray
    outliers: np.ndarray
    fit: str

    def __repr__(self) -> str:
        x, y = self.fitted.mean(axis=(0, 1))
        return f"Origin(mean ({x:.2f}, {y:.2f}) px, {self.fit}, rms {np.hypot(*self.residual):.3f} px)"

    def apply(self, calibration: Calibration) -> None:
        """Write the surface and the measurement into a calibration, with a note on how they were found."""
        calibration.set(origin=self.fitted, origin_measured=self.measured, how=f"unscattered disk, {self.fit}")


def origin(
    disks: PointListArray,
    *,
    guess: OriginLike | None = None,
    radius: float | None = None,
    fit: str = "plane",
    robust: bool = True,
    where: ArrayLike | None = None,
) -> Origin:
    """Find the origin of the diffraction patterns: the unscattered disk at every position, and a surface through all of them.

    The first surface goes through the brightest disk of every position, or is the guess. Two rounds follow. In each round the brightest
    disk within `radius` of the surface is taken at every position, and the surface is fitted again. So the descan may be larger than the
    distance of the disks, and bright Bragg disks at some positions have no effect. The robust fit starts from least absolute distances,
    on which one wrong disk in four has little effect. It ends with Tukey's biweight. Both use the length of the residual vector.

    Parameters
    ----------
    disks : PointListArray or (Rx, Ry, 2) array
        Disks with fields ``qx, qy`` (px) and ``intensity``. Or origins measured in another way, with NaN where there is none. They may
        also be a `RealSlice` of two planes, as from `CenterOfMass`.
    guess : pair, (Rx, Ry, 2) array or Origin, optional
        Approximate position of the beam, px. None: from the brightest disks.
    radius : float, optional
        Largest distance of the disk from the surface, px. None: half the median distance from the unscattered disk to its
        nearest neighbour.
    fit : {"plane", "quadratic", "constant"}
        Order of the surface in the scan coordinates. With fewer measured positions than coefficients a lower order is taken.
    robust : bool
        False is plain least squares.
    where : (Rx, Ry) bool array, optional
        Positions to use. The surface is defined at all positions.

    Returns
    -------
    Origin
        A position without disks, or with NaN, has NaN in `measured`.

    Raises
    ------
    InputError
        No position has a disk near the guess.

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.mgrid[:8, :8]
    >>> measured = np.stack([31.5 + 0.1 * x, 30 - 0.05 * y], axis=-1)
    >>> measured[3, 4] += 9
    >>> o = origin(measured)
    >>> o.fitted[3, 4].round(6), int(o.outliers.sum())
    (array([31.8, 29.8]), 1)
    """
    if fit not in ORDERS:
        raise InputError(f"fit={fit!r}: need one of {', '.join(map(repr, ORDERS))}")
    if isinstance(disks, PointListArray):
        return _measure(disks, guess, radius, ORDERS[fit], robust, where)
    measured = np.array(arrays.to_numpy(disks), dtype=np.float64)
    if isinstance(disks, RealSlice) and len(disks.labels) == 2:
        measured = np.moveaxis(measured, 0, -1)
    if measured.ndim != 3 or measured.shape[2] != 2:
        raise InputError(f"measured origins are {measured.shape}: need (Rx, Ry, 2) in detector pixels, or a PointListArray of disks")
    return _surface(measured, ORDERS[fit], robust, positions_of(where, measured.shape[:2]))


def _measure(disks: PointListArray, guess: Any, radius: float | None, order: int, robust: bool, where: Any) -> Origin:
    """Return the unscattered disk of every position (NaN where there is none), and the surface through them."""
    if len(disks.shape) != 2:
        raise InputError(f"the disks are of {disks.shape} positions: need a scan of two dimensions, (Rx, Ry)")
    qx, qy, light = (arrays.to_numpy(disks.flat(f)).astype(np.float64) for f in ("qx", "qy", "intensity"))
    light = np.where(np.isfinite(light) & np.isfinite(qx) & np.isfinite(qy), light, -np.inf)
    offsets, used = arrays.to_numpy(disks.offsets), positions_of(where, disks.shape)
    if guess is None:
        found = _surface(_brightest(qx, qy, light, offsets, disks.shape), min(order, 1), True, used)
    else:
        start = np.broadcast_to(origins(guess, disks.shape, "guess"), (*disks.shape, 2))
        found = Origin(np.full_like(start, np.nan), start, np.zeros(2), np.zeros(disks.shape, bool), "guess")
    final = guess is None and order <= 1 and robust  # a surface of the requested kind
    for _ in range(2):
        at = np.repeat(found.fitted.reshape(-1, 2), np.diff(offsets), axis=0)
        square = (qx - at[:, 0]) ** 2 + (qy - at[:, 1]) ** 2
        reach = _half_spacing(square, offsets) if radius is None else float(radius)
        measured = _brightest(qx, qy, np.where(square <= reach**2, light, -np.inf), offsets, disks.shape)
        if not np.isfinite(measured[used]).any():
            raise InputError(
                f"no position has a disk within {reach:.3g} px of the guess: give guess= (px) near the unscattered beam, a larger radius=, "
                "or find more disks with a lower threshold"
            )
        if final and np.array_equal(measured, found.measured, equal_nan=True):
            break  # the same disks give the same surface, which selects the same disks: converged
        found, final = _surface(measured, order, robust, used), True
    return found


def _best(ufunc: np.ufunc, values: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the largest or smallest value of each position, and the number of the last point that has it."""
    counts = np.diff(offsets)
    some = np.flatnonzero(counts)
    best = ufunc.reduceat(values, offsets[some]) if some.size else np.zeros(0)
    points = np.flatnonzero(values == np.repeat(best, counts[some]))
    number = np.zeros(some.size, int)
    number[np.searchsorted(offsets[some], points, side="right") - 1] = points  # NumPy assigns in order: the last value stays
    return best, number


def _brightest(qx: np.ndarray, qy: np.ndarray, light: np.ndarray, offsets: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the point with the highest intensity at each position, or NaN if there is none."""
    out = np.full((int(np.prod(shape)), 2), np.nan)
    best, number = _best(np.maximum, light, offsets)
    lit = np.isfinite(best)
    at = np.flatnonzero(np.diff(offsets))[lit]
    out[at, 0], out[at, 1] = qx[number[lit]], qy[number[lit]]
    return out.reshape(*shape, 2)


def _half_spacing(square: np.ndarray, offsets: np.ndarray) -> float:
    """Return half the median distance of the second nearest disk, from squared distances. Infinite if no position has two disks."""
    square = np.where(np.isfinite(square), square, np.inf)
    square[_best(np.minimum, square, offsets)[1]] = np.inf
    second = _best(np.minimum, square, offsets)[0]
    second = second[np.isfinite(second)]
    return float(np.median(np.sqrt(second))) / 2 if second.size else np.inf


def _terms(shape: tuple[int, ...], order: int) -> np.ndarray:
    """Evaluate polynomials up to an order on scan coordinates scaled to -1 … 1, (Rx, Ry, terms)."""
    x, y = (np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape)
    powers = [(total - j, j) for total in range(order + 1) for j in range(total + 1)]
    return np.stack([np.outer(x**i, y**j) for i, j in powers], axis=-1)


def _surface(measured: np.ndarray, order: int, robust: bool, used: np.ndarray) -> Origin:
    """Fit the surface. Both coordinates share the weights, which follow from the length of the residual."""
    ok = np.isfinite(measured).all(axis=-1) & used
    count = int(ok.sum())
    if not count:
        raise InputError("no origin was measured at any position (or where= leaves none): find disks with a lower threshold first")
    while order and count < 2 * _terms((1, 1), order).shape[-1]:
        order -= 1
    terms = _terms(measured.shape[:2], order)
    a, b = terms[ok], measured[ok]
    basis, values, turn = np.linalg.svd(a, full_matrices=False)
    rank = int(np.sum(values > values[0] * count * np.finfo(float).eps))  # one row of a scan has no slope along the other axis
    basis, back = np.ascontiguousarray(basis[:, :rank].T), turn[:rank].T / values[:rank]
    coefficients, weight = _robust(basis, b.T) if robust else (b.T @ basis.T, np.ones(count))
    inside = weight > 0
    residual = np.sqrt(np.mean((b.T - coefficients @ basis)[:, inside] ** 2, axis=1))
    outliers = np.zeros(measured.shape[:2], bool)
    outliers[ok] = ~inside
    name = next(n for n, o in ORDERS.items() if o == order)
    text = f"{'robust ' if robust else ''}{name} through {int(inside.sum())} of {measured.shape[0] * measured.shape[1]} positions"
    return Origin(measured, terms @ (back @ coefficients.T), residual, outliers, text)


def _robust(basis: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit the values b (2, n) on an orthonormal basis (terms, n): coefficients (2, terms), and the final weights (n,)."""
    coefficients = b @ basis.T
    biweight, left = False, STEPS
    while left:
        residual = b - coefficients @ basis
        length = np.sqrt(residual[0] ** 2 + residual[1] ** 2)
        sigma = max(float(np.median(length)) / _RAYLEIGH_MEDIAN, 1e-6)
        if biweight:
            weight = np.clip(1 - (length / (TUKEY * sigma)) ** 2, 0, None) ** 2
        else:
            weight = 1 / np.maximum(length, 0.1 * sigma)  # least absolute distances: gross errors do not bend this start
        change = _weighted(basis, residual, weight)
        coefficients = coefficients + change
        left -= 1
        enough = 1e-13 * np.linalg.norm(coefficients) if biweight else 1e-3 * sigma * math.sqrt(length.size)
        if np.linalg.norm(change) <= enough or not left:
            biweight, left = True, 0 if biweight else STEPS
    return coefficients, weight


def _weighted(basis: np.ndarray, residual: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Solve weighted least squares of the residuals (2, n) for the coefficients (2, terms)."""
    weighted = basis * (weight / weight.max())
    return np.linalg.lstsq(weighted @ basis.T, weighted @ residual.T, rcond=1e-13)[0].T
