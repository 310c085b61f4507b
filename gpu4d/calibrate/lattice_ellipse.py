"""Read the elliptical distortion of the detector from the lattices of a scan, and say whether one is visible at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike
from gpu4d.calibrate.stretch import axes_of_stretch, known_error, q_of_axes, told
from gpu4d.crystal.fit_lattice import LatticeFit
from gpu4d.data import Calibration
from gpu4d.data.arguments import positions_of
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.real_arrays import floats, real_number
from gpu4d.robust import biweight, robust_sigma

SHAPES = {
    "square": ((1.0, np.pi / 2),),
    "hexagonal": ((1.0, np.pi / 3), (1.0, 2 * np.pi / 3)),
}  # (|g2| / |g1|, angle) of the bases a lattice may have
TILES = 5  # along each axis of the scan: parts whose mean strain counts as independent
LEAST_TILES = 12
STEP = 1e-6  # of |g1|, for derivatives
LEAST_VISIBLE = 0.004  # of a/b: less may be the mean strain of a crystal
MOST_VISIBLE = 0.05  # of a/b: detectors have 1 to 3 %, so more is another lattice, which is not square or hexagonal
SIGNIFICANT = 5.0  # standard errors


@dataclass(frozen=True, eq=False)
class LatticeEllipse(Storable, stored="length length_error: [px]; q_pixel q_pixel_error: [1/Å]"):
    """The ellipse with which the mean lattice of a scan has its known shape, with standard errors.

    Attributes
    ----------
    shape : str
        "square", "hexagonal", or "given".
    ellipse, ellipse_error : (float, float, float), (float, float)
        (a, b, theta) with b = 1, for `Calibration.ellipse`, and standard errors of a/b and theta. theta in rad, from qx towards qy.
    length, length_error : float
        |g1| with the ellipse removed, px of the minor axis.
    q_pixel, q_pixel_error : float
        Size of a detector pixel along the minor axis, 1/Å. NaN if no spacing was given.
    stretch, stretch_covariance : (2,), (2, 2) float64
        (e1, e2) = ½ ln(a/b) (cos 2θ, sin 2θ), whose errors are Gaussian also for a round pattern.
    covariance : (3, 3) float64
        Of (a/b, theta, length).
    positions : int
        With a weight.
    spread : (3,) float64
        Robust standard deviation of e1, e2 and ln |g1| over the positions: strain, and errors of the fits.
    """

    shape: str
    ellipse: tuple[float, float, float]
    ellipse_error: tuple[float, float]
    length: float
    length_error: float
    q_pixel: float
    q_pixel_error: float
    stretch: np.ndarray
    stretch_covariance: np.ndarray
    covariance: np.ndarray
    positions: int
    spread: np.ndarray

    def apply(self, calibration: Calibration) -> None:
        """Write the ellipse and, if a spacing was given, the pixel size with their errors into a calibration."""
        how = f"{self.shape} lattice at {self.positions} positions"
        calibration.measured(ellipse=self.ellipse, ellipse_error=self.ellipse_error, how=how)
        if np.isfinite(self.q_pixel):
            calibration.measured(q_pixel=self.q_pixel, q_pixel_error=known_error(self.q_pixel_error), how=how)

    @property
    def visible(self) -> bool:
        """Say whether an ellipse stands out: by five standard errors, and by more than crystals are usually strained as a whole."""
        excess = self.ellipse[0] - 1
        return bool(LEAST_VISIBLE < excess < MOST_VISIBLE and excess > SIGNIFICANT * self.ellipse_error[0])

    def __repr__(self) -> str:
        return f"LatticeEllipse({self.shape}: {told(self.ellipse, self.ellipse_error)})"


@on_host("lists")
def lattice_ellipse(
    fit: LatticeFit,
    shape: str | tuple[float, float] = "square",
    *,
    where: ArrayLike | None = None,
    spacing: float | None = None,
) -> LatticeEllipse:
    """Return the ellipse that makes the mean lattice of a scan one of known shape.

    At every position the lattice vectors are D · (those of the known shape), and D Dᵀ = s² E² gives the stretch E and the scale s. The
    mean over positions is weighted by the errors of the local fits and the scatter between positions, and leaves out those far from it.

    Parameters
    ----------
    fit : LatticeFit
        From `gpu4d.fit_lattice`, without a calibrated ellipse.
    shape : "square", "hexagonal" or (ratio, angle)
        True |g2| / |g1|, and the true angle from g1 to g2 in rad, of the vectors of `fit`.
    where : (Rx, Ry) bool, optional
        Unstrained positions. Without, the mean of the scan counts as unstrained.
    spacing : float, optional
        True d = 1/|g1|, Å. It gives the pixel size.

    Returns
    -------
    LatticeEllipse

    Raises
    ------
    InputError
        No position has a lattice, or the arguments cannot be used.

    Notes
    -----
    A strain of the whole region cannot be told from an ellipse, in no experiment on one lattice. Strain that differs from place to place
    averages out; its scatter between parts of the scan is in the errors.

    Examples
    --------
    >>> from gpu4d.calibrate import lattice_ellipse
    >>> from gpu4d.crystal import fit_lattice
    >>> from gpu4d.data import PointListArray
    >>> h, k = np.mgrid[-1:2, -1:2].reshape(2, -1)
    >>> q = np.stack([h * 20.4, k * 20.0], -1) + 40 + np.random.default_rng(0).normal(0, 0.01, (9, 2))
    >>> one = PointListArray([0, 9], {"qx": q[:, 0], "qy": q[:, 1], "intensity": np.ones(9)}, (1, 1))
    >>> found = lattice_ellipse(fit_lattice(one, [[20.4, 0.0], [0.0, 20.0]], origin=(40.0, 40.0)), spacing=2.0)
    >>> round(found.ellipse[0], 2), round(found.q_pixel, 3)
    (1.02, 0.025)
    """
    if not isinstance(fit, LatticeFit):
        raise InputError(f"fit is a {type(fit).__name__}: need a LatticeFit, as fit_lattice(disks, find_lattice(disks)) gives")
    if spacing is not None and not 0 < real_number(spacing, "spacing") < np.inf:
        raise InputError(f"spacing={spacing}: need d = 1/|g1| in Å")
    name, bases = _bases(shape)
    g, covariance, tile = _local(fit, where)
    trials = [_mean(g, covariance, tile, base) for base in bases]
    p, cov, spread, used = min(trials, key=lambda t: float(np.hypot(*t[0][:2])))
    axes = axes_of_stretch(p[:2], cov[:2, :2])
    # |g1| = exp(log) of the geometric mean; along the minor axis lengths are 1/√(a/b) of it, as q_of_axes has it for a true |g1| of 1
    q, jacobian = q_of_axes(np.array([0.0, 0.0, *p]), axes)
    jacobian = jacobian[2:, 2:]
    full = jacobian @ cov @ jacobian.T
    length, relative = 1 / q, float(np.sqrt(full[2, 2])) / q
    turned = np.diag([1.0, 1.0, -(length**2)])
    return LatticeEllipse(
        shape=name,
        ellipse=(axes.ratio, 1.0, axes.theta),
        ellipse_error=(axes.ratio_error, axes.theta_error),
        length=length,
        length_error=length * relative,
        q_pixel=q / spacing if spacing is not None else float("nan"),
        q_pixel_error=q * relative / spacing if spacing is not None else float("nan"),
        stretch=p[:2],
        stretch_covariance=cov[:2, :2],
        covariance=turned @ full @ turned,
        positions=used,
        spread=spread,
    )


@on_host("lists")
def visible_ellipse(fit: LatticeFit, *, where: ArrayLike | None = None) -> LatticeEllipse | None:
    """Say whether the lattice of a scan looks like a square or a hexagonal one seen through an elliptical distortion.

    A crystal may have such a lattice in truth. So this is a reason to ask, or to measure a standard, but no calibration.

    Parameters
    ----------
    fit : LatticeFit
    where : (Rx, Ry) bool, optional
        Positions that count.

    Returns
    -------
    LatticeEllipse or None
        The smaller of the ellipses that make the mean lattice square or hexagonal, if it is significant and between 0.4 % and 5 %. Else
        None: the lattice is square or hexagonal, or far from both.

    Examples
    --------
    >>> from gpu4d.calibrate import visible_ellipse
    >>> from gpu4d.crystal import fit_lattice
    >>> from gpu4d.data import PointListArray
    >>> h, k = np.mgrid[-1:2, -1:2].reshape(2, -1)
    >>> q = np.stack([h * 20.6, k * 20.0], -1) + 40 + np.random.default_rng(0).normal(0, 0.01, (9, 2))
    >>> one = PointListArray([0, 9], {"qx": q[:, 0], "qy": q[:, 1], "intensity": np.ones(9)}, (1, 1))
    >>> visible_ellipse(fit_lattice(one, [[20.6, 0.0], [0.0, 20.0]], origin=(40.0, 40.0))).shape
    'square'
    """
    found = min((lattice_ellipse(fit, shape, where=where) for shape in SHAPES), key=lambda e: e.ellipse[0])
    return found if found.visible else None


def _bases(shape: str | tuple[float, float]) -> tuple[str, tuple[tuple[float, float], ...]]:
    if isinstance(shape, str):
        if shape not in SHAPES:
            raise InputError(f"shape={shape!r}: need {', '.join(map(repr, SHAPES))}, or (|g2|/|g1|, angle from g1 to g2 in rad)")
        return shape, SHAPES[shape]
    ratio, angle = floats(shape, 2, "shape (|g2|/|g1|, angle)")
    if not ratio > 0 or abs(np.sin(angle)) < 1e-3:
        raise InputError(f"shape is ({ratio:g}, {angle:g}): need a positive |g2|/|g1| and an angle in rad that is not 0 or π")
    return "given", ((ratio, angle),)


def _local(fit: LatticeFit, where: ArrayLike | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return lattice vectors (n, 2, 2) with rows g1 and g2, their covariance (n, 2, 2, 2), and the part of the scan, of known positions."""
    g = np.stack([arrays.to_numpy(fit.g1), arrays.to_numpy(fit.g2)], axis=-2).reshape(-1, 2, 2)
    covariance = np.nan_to_num(arrays.to_numpy(fit.covariance).reshape(-1, 2, 2, 2))
    known = np.flatnonzero(np.isfinite(g).all(axis=(1, 2)) & positions_of(where, fit.shape).ravel())
    if not len(known):
        raise InputError("no position has a lattice: choose another where=, or look at the fit of the lattice")
    along = [np.minimum(i * min(TILES, n) // n, TILES - 1) for i, n in zip(np.unravel_index(known, fit.shape), fit.shape)]
    tile = along[0] * TILES + along[-1]
    return g[known], covariance[known], tile if len(np.unique(tile)) >= LEAST_TILES else np.arange(len(known))


def _stretch(g: np.ndarray, base: tuple[float, float]) -> np.ndarray:
    """Return (e1, e2, log scale) (n, 3) of lattices (n, 2, 2) whose true form is known."""
    ratio, angle = base
    true = np.array([[1.0, 0.0], [ratio * np.cos(angle), ratio * np.sin(angle)]])
    d = np.swapaxes(np.linalg.inv(true) @ g, -1, -2)  # measured = D · true
    form = d @ np.swapaxes(d, -1, -2)
    half = np.log(np.linalg.det(form)) / 4  # log of the scale
    # E² = form / s² has the determinant 1, so log E² = angle · (traceless part) with cosh(2|e|) = half of the trace
    unit = form * np.exp(-2 * half)[:, None, None]
    cosh = np.maximum((unit[:, 0, 0] + unit[:, 1, 1]) / 2, 1.0)
    sinh = np.sqrt(np.maximum(cosh**2 - 1, 0.0))
    size = np.where(sinh > 1e-9, np.arcsinh(sinh) / np.maximum(sinh, 1e-300), 1.0) / 2
    return np.stack([size * (unit[:, 0, 0] - unit[:, 1, 1]) / 2, size * unit[:, 0, 1], half], axis=-1)


def _mean(
    g: np.ndarray, covariance: np.ndarray, tile: np.ndarray, base: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Return the robust mean (3,) of (e1, e2, log scale), its covariance, the spread of positions, and how many count."""
    values = _stretch(g, base)
    step = STEP * float(np.linalg.norm(g[:, 0], axis=-1).mean())
    variance = np.zeros_like(values)
    for c in (0, 1):
        by = np.stack([(_stretch(g + step * np.outer(np.eye(2)[i], np.eye(2)[c]), base) - values) / step for i in (0, 1)], axis=-1)
        variance += np.einsum("nki,nij,nkj->nk", by, covariance[:, c], by)
    if len(values) == 1:
        return values[0], np.diag(np.maximum(variance[0], 0.0)), np.zeros(3), 1
    mean = np.median(values, axis=0)
    for _ in range(50):
        off = values - mean
        spread2 = np.maximum(robust_sigma(off, 0.0, axis=0) ** 2, 1e-20)
        total = variance + np.maximum(spread2 - np.median(variance, axis=0), 1e-3 * spread2)
        weight = biweight(np.sqrt((off**2 / total).max(axis=1)))[:, None] / total
        moved = (weight * off).sum(0) / weight.sum(0)
        mean = mean + moved
        if np.abs(moved).max() < 1e-10:
            break
    score = weight * (values - mean)
    sums = np.stack([np.bincount(tile, s) for s in score.T], axis=1)
    count = int((np.bincount(tile, weight[:, 0]) > 0).sum())
    counted = weight.sum(0)
    cov = sums.T @ sums / np.outer(counted, counted) * (count / max(count - 1, 1))
    return mean, cov, np.sqrt(spread2), int((weight[:, 0] > 0).sum())
