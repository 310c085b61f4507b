"""Where the unscattered beam falls at every scan position, measured from the disks and smoothed by a surface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.data.calibration import Calibration
from gpu4d.data.pointlist import PointListArray
from gpu4d.data.slices import RealSlice
from gpu4d.errors import InputError

ORDERS = {"constant": 0, "plane": 1, "quadratic": 2}
TUKEY = 4.685  # biweight cut-off in σ: 95 % efficiency on Gaussian errors (Huber & Ronchetti, Robust Statistics)
_RAYLEIGH_MEDIAN = 1.1774  # median length of a 2-D Gaussian error of σ = 1 per axis


@dataclass(frozen=True, eq=False)
class Origin:
    """The unscattered beam over the scan.

    Attributes
    ----------
    measured : (Rx, Ry, 2) float64
        Detector pixels; NaN where no disk was near enough.
    fitted : (Rx, Ry, 2) float64
        The surface, defined at every position.
    residual : (2,) float64
        Rms distance of the measured positions (outliers left out) from the surface, px, along qx and qy.
    outliers : (Rx, Ry) bool
        Measured, but left out of the surface.
    fit : str
        What was fitted, in words.
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
        """Write the surface and the measurement into a calibration, with how they came to be known."""
        calibration.set(origin=self.fitted, origin_measured=self.measured, how=f"unscattered disk, {self.fit}")


def origin(
    disks: Any,
    *,
    guess: Any = None,
    radius: float | None = None,
    fit: str = "plane",
    robust: bool = True,
    where: Any = None,
) -> Origin:
    """Origin of the diffraction patterns: the unscattered disk at every position, and a surface through them.

    The first surface goes through the brightest disk of every position (or is the guess); then, twice, the brightest disk
    within `radius` of the surface is taken and the surface fitted again. So the scan coil's shift may be larger than the distance of the
    disks, and bright Bragg disks at some positions do no harm. The robust fit starts from least absolute distances (which one
    wrong pick in four does not bend) and ends with Tukey's biweight, both on the length of the residual vector.

    Parameters
    ----------
    disks : PointListArray or (Rx, Ry, 2) array
        Disks with fields ``qx, qy`` (px) and ``intensity``; or origins measured in another way, NaN where there is none (also as
        `CenterOfMass` gives them, a `RealSlice` of two planes).
    guess : (2,) or (Rx, Ry, 2) array, optional
        Where the beam is about, px. None: from the brightest disks.
    radius : float, optional
        How far from the surface the disk may lie, px. None: half the median distance from the unscattered disk to its
        nearest neighbour.
    fit : {"plane", "quadratic", "constant"}
        Order of the surface in the scan coordinates. With fewer measured positions than coefficients a lower order is taken.
    robust : bool
        False is plain least squares.
    where : (Rx, Ry) bool array, optional
        Positions to use; the surface is still defined everywhere.

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
        measured = _measure(disks, guess, radius, ORDERS[fit], robust, where)
    else:
        measured = np.array(arrays.to_numpy(disks), dtype=np.float64)
        if isinstance(disks, RealSlice) and len(disks.labels) == 2:
            measured = np.moveaxis(measured, 0, -1)
        if measured.ndim != 3 or measured.shape[2] != 2:
            raise InputError(f"measured origins are {measured.shape}: need (Rx, Ry, 2) in detector pixels, or a PointListArray of disks")
    return _surface(measured, ORDERS[fit], robust, _used(where, measured.shape[:2]))


def _used(where: Any, shape: tuple[int, ...]) -> np.ndarray:
    if where is None:
        return np.ones(shape, bool)
    used = arrays.to_numpy(where).astype(bool)
    if used.shape != tuple(shape):
        raise InputError(f"where is {used.shape}, the scan is {tuple(shape)}: need one bool per scan position")
    return used


def _measure(disks: PointListArray, guess: Any, radius: float | None, order: int, robust: bool, where: Any) -> np.ndarray:
    """The unscattered disk of every position, (Rx, Ry, 2), NaN where none."""
    if len(disks.shape) != 2:
        raise InputError(f"the disks are of {disks.shape} positions: need a scan of two dimensions, (Rx, Ry)")
    xy = np.stack([arrays.to_numpy(disks.flat(f)).astype(np.float64) for f in ("qx", "qy")], axis=-1)
    light = arrays.to_numpy(disks.flat("intensity")).astype(np.float64)
    light = np.where(np.isfinite(light) & np.isfinite(xy).all(axis=-1), light, -np.inf)
    position, used = arrays.to_numpy(disks.positions), _used(where, disks.shape)
    if guess is None:
        surface = _surface(_brightest(xy, light, position, disks.shape), min(order, 1), True, used).fitted
    else:
        surface = np.broadcast_to(arrays.to_numpy(guess).astype(np.float64), (*disks.shape, 2))
    for _ in range(2):
        distance = np.linalg.norm(xy - surface.reshape(-1, 2)[position], axis=-1)
        reach = _half_spacing(distance, position, int(np.prod(disks.shape))) if radius is None else float(radius)
        measured = _brightest(xy, np.where(distance <= reach, light, -np.inf), position, disks.shape)
        if not np.isfinite(measured[used]).any():
            raise InputError(
                f"no position has a disk within {reach:.3g} px of the guess: give guess= (px) near the unscattered beam, a larger radius=, "
                "or find more disks with a lower threshold"
            )
        surface = _surface(measured, order, robust, used).fitted
    return measured


def _brightest(xy: np.ndarray, light: np.ndarray, position: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Of every position the point with most light; NaN where none has any."""
    out = np.full((int(np.prod(shape)), 2), np.nan)
    order = np.argsort(light, kind="stable")
    order = order[np.isfinite(light[order])]
    out[position[order]] = xy[order]  # assignments go in order: the brightest comes last and stays
    return out.reshape(*shape, 2)


def _half_spacing(distance: np.ndarray, position: np.ndarray, positions: int) -> float:
    """Half the median distance of the second nearest disk; infinite where no position has two."""
    some = position % max(1, positions // 4000) == 0
    distance, position = distance[some], position[some]
    order = np.lexsort((distance, position))
    first = np.searchsorted(position[order], np.arange(positions))
    two = np.bincount(position, minlength=positions) >= 2
    return float(np.median(distance[order][first[two] + 1])) / 2 if two.any() else np.inf


def _terms(shape: tuple[int, ...], order: int) -> np.ndarray:
    """Polynomials up to an order on scan coordinates scaled to -1 … 1, (Rx, Ry, terms)."""
    x, y = (np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape)
    powers = [(total - j, j) for total in range(order + 1) for j in range(total + 1)]
    return np.stack([np.outer(x**i, y**j) for i, j in powers], axis=-1)


def _surface(measured: np.ndarray, order: int, robust: bool, used: np.ndarray) -> Origin:
    """Fit the surface; both coordinates share the weights, which follow from the length of the residual."""
    ok = np.isfinite(measured).all(axis=-1) & used
    count = int(ok.sum())
    if not count:
        raise InputError("no origin was measured at any position (or where= leaves none): find disks with a lower threshold first")
    while order and count < 2 * _terms((1, 1), order).shape[-1]:
        order -= 1
    terms = _terms(measured.shape[:2], order)
    a, b = terms[ok], measured[ok]
    weight = np.ones(count)
    coefficients = _weighted(a, b, weight)
    for step in range(40 if robust else 0):
        length = np.linalg.norm(b - a @ coefficients, axis=-1)
        sigma = max(float(np.median(length)) / _RAYLEIGH_MEDIAN, 1e-6)
        if step < 20:
            weight = 1 / np.maximum(length, 0.1 * sigma)  # least absolute distances: a start that gross errors do not bend
        else:
            weight = np.clip(1 - (length / (TUKEY * sigma)) ** 2, 0, None) ** 2
        coefficients = _weighted(a, b, weight)
    inside = weight > 0
    residual = np.sqrt(np.mean((b - a @ coefficients)[inside] ** 2, axis=0))
    outliers = np.zeros(measured.shape[:2], bool)
    outliers[ok] = ~inside
    name = next(n for n, o in ORDERS.items() if o == order)
    text = f"{'robust ' if robust else ''}{name} through {int(inside.sum())} of {measured.shape[0] * measured.shape[1]} positions"
    return Origin(measured, terms @ coefficients, residual, outliers, text)


def _weighted(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    root = np.sqrt(weight / weight.max())[:, None]
    return np.linalg.lstsq(a * root, b * root, rcond=None)[0]
