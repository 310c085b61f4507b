"""Calibrate ellipse and pixel size by the Bragg disks of a scan, from their distances to the beam alone.

A disk of a crystal lies on one of the crystal's powder rings, for every zone axis and orientation. So one lattice of a known crystal,
a square or a hexagonal lattice, and many grains are all the same problem: one ellipse and one scale that put the disks on known |g|.
Host by design: lists of points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gpu4d.arrays import ArrayLike, to_numpy
from gpu4d.calibrate.peak_index import indexed_disks
from gpu4d.calibrate.peak_likelihood import DiskPoints, fitted_disks
from gpu4d.calibrate.ring_index import PRIOR, Crystals, is_lengths
from gpu4d.calibrate.stretch import axes_of_stretch, known_error, q_of_axes, told
from gpu4d.data import Calibration
from gpu4d.data.arguments import FARTHEST, OriginLike, disk_lists, origins, positions_of
from gpu4d.data.pointlist import PointListArray
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.real_arrays import real_number

MOST_POINTS = 200_000  # for the fit; of more, evenly spaced ones are taken
DENSE = 0.6  # of the radii near some ring: chance alone would put most disks on rings
TILES = 5  # along each axis of the scan: clusters of disks whose errors are correlated, as those of one grain
LEAST_TILES = 12  # fewer clusters than this do not say how disks scatter; then each position is one
MOST_OVAL = 1.10  # a/b: detectors and projector lenses stay below. More is a lattice that is taken for another one of the crystal
DOUBT = 0.05  # probability that the disks are indexed wrongly from which the result is not sure
ORDERS = np.array([(h, k) for h in range(0, 9) for k in range(0, 9) if 0 < h * h + k * k < 64])
LATTICES = {"square": ORDERS[:, 0] ** 2 + ORDERS[:, 1] ** 2, "hexagonal": (ORDERS**2).sum(1) + ORDERS[:, 0] * ORDERS[:, 1]}


class _Rival(NamedTuple):
    ratio: float
    theta: float
    q_pixel: float
    probability: float


class Rival(_Rival, Storable, stored="theta: [rad]"):
    """Another way to say which disk is on which ring.

    Attributes
    ----------
    ratio, theta : float
        Its ellipse: a/b, and the angle of a from qx towards qy, rad.
    q_pixel : float
        Its pixel size along the minor axis, in the units of `PeakFit.q_pixel`.
    probability : float
        That it is the right one.
    """

    __slots__ = ()

    def __str__(self) -> str:
        return f"a pixel of {self.q_pixel:.4g} and an ellipse a/b {self.ratio:.3f} ({100 * self.probability:.0f} %)"


@dataclass(frozen=True, eq=False)
class PeakFit(Storable, stored="shift shift_error scatter: [px]"):
    """What the Bragg disks of a scan say about the detector, with standard errors.

    Attributes
    ----------
    ellipse, ellipse_error : (float, float, float), (float, float)
        (a, b, theta) with b = 1, for `Calibration.ellipse`, and standard errors of a/b and theta. theta in rad, from qx towards qy.
    q_pixel, q_pixel_error : float
        Size of a detector pixel along the minor axis, 1/Å. For "square" and "hexagonal", in units of the shortest |g|.
    stretch, stretch_covariance : (2,), (2, 2) float64
        (e1, e2) = ½ ln(a/b) (cos 2θ, sin 2θ), whose errors are Gaussian also for a round pattern.
    covariance : (3, 3) float64
        Of (a/b, theta, q_pixel).
    shift, shift_error : (2,) float64
        Where the disks have their common centre, relative to the origin, px.
    scatter : float
        Robust rms distance of the disks from their rings, px: errors of their positions, and strain.
    disks : int
        That took part.
    explained, found : float
        Part of the disks' intensity that lies on rings of the crystals; part of the expected rings that are there.
    relative : bool
        True if the pixel size is in units of the shortest |g|.
    rivals : tuple of Rival
        Other ways to say which disk is on which ring that are at least 1 % probable, the most probable first. Mostly there is none.
    """

    ellipse: tuple[float, float, float]
    ellipse_error: tuple[float, float]
    q_pixel: float
    q_pixel_error: float
    stretch: np.ndarray
    stretch_covariance: np.ndarray
    covariance: np.ndarray
    shift: np.ndarray
    shift_error: np.ndarray
    scatter: float
    disks: int
    explained: float
    found: float
    relative: bool
    rivals: tuple[Rival, ...] = ()

    @property
    def doubt(self) -> float:
        """Probability that one of the rivals is right."""
        return float(sum(rival.probability for rival in self.rivals))

    @property
    def sure(self) -> bool:
        """Say whether rivals together are at most 5 % probable. If not, a better q_pixel has to settle it before the fit is used."""
        return self.doubt <= DOUBT

    @property
    def warnings(self) -> tuple[str, ...]:
        """Say in words which rivals there are, and what would settle it. Empty if the result is sure."""
        if self.sure:
            return ()
        named = ", or ".join(str(rival) for rival in self.rivals[:3])
        more = f", and {len(self.rivals) - 3} more" if len(self.rivals) > 3 else ""
        return (
            f"which disk is on which ring is not sure: a pixel of {self.q_pixel:.4g} and an ellipse a/b {self.ellipse[0]:.3f} are the most"
            f" probable ({100 * (1 - self.doubt):.0f} %), but the disks also fit {named}{more}. A better q_pixel with its tolerance settles"
            " it, or as crystals the |g| of the zone axis, or a powder",
        )

    def apply(self, calibration: Calibration) -> None:
        """Write the ellipse and, if it is in 1/Å, the pixel size with their errors into a calibration. Look at `warnings` before."""
        how = f"{self.disks} Bragg disks"
        calibration.measured(ellipse=self.ellipse, ellipse_error=self.ellipse_error, how=how)
        if not self.relative:
            calibration.measured(q_pixel=self.q_pixel, q_pixel_error=known_error(self.q_pixel_error), how=how)

    def __repr__(self) -> str:
        return (
            f"PeakFit({told(self.ellipse, self.ellipse_error)},"
            f" q_pixel {self.q_pixel:.6g} ± {self.q_pixel_error:.2g} {'|g|' if self.relative else '1/Å'}, {self.disks} disks"
            f"{'' if self.sure else f', {100 * self.doubt:.0f} % probable to be indexed wrongly'})"
        )


@on_host("lists")
def fit_peaks(
    disks: PointListArray,
    crystals: Crystals,
    *,
    origin: OriginLike,
    where: ArrayLike | None = None,
    q_pixel: float | None = None,
    tolerance: float = PRIOR,
    energy: float | None = None,
) -> PeakFit:
    """Fit the ellipse and the pixel size to Bragg disks whose |g| are known: of one lattice, or of many grains.

    Weighted least squares of |M (q − origin − shift)| − |g| / q_pixel over all disks, without those far from every ring (Tukey's biweight).
    Weights are 1 / (s² + τ²): s is the error of a disk along the radius, and τ the scatter beyond it, which is mostly strain.

    Parameters
    ----------
    disks : PointListArray
        Fields qx, qy, intensity and, where known, the standard errors sx, sy.
    crystals : "square", "hexagonal", Structure, str, sequence of these, or (n,) array
        A lattice of known symmetry; or known crystals, names of `gpu4d.structures.STANDARDS`, or |g| = 1/d in 1/Å.
    origin : pair, (Rx, Ry, 2) array or Origin
        Position of the unscattered beam, px.
    where : (Rx, Ry) bool, optional
        Positions whose disks count: an unstrained region.
    q_pixel : float, optional
        Pixel size known to `tolerance`, 1/Å. It decides which disk is on which ring; a result outside of it is refused.
    tolerance : float
        Part by which `q_pixel` may be off: the standard deviation when ways to index the disks are weighed. They are looked for up to twice
        as far away.
    energy : float, optional
        eV. If given, rings lie at tan(2θ)/λ, as a flat detector shows them.

    Returns
    -------
    PeakFit

    Raises
    ------
    InputError
        Too few disks, or too few directions; they do not fit the crystals; the pixel size is not within `tolerance` of `q_pixel`; a/b is
        above 1.10, which no detector has; or the arguments cannot be used.

    Notes
    -----
    Two zone axes of a crystal may differ by a stretch alone, and then its disks fit both. So of a single crystal all ways to put its disks
    on rings are listed. Each is weighed by the distances of the disks from its rings, by the reflections that its zone axis has and the
    scan has not, or the other way round, by `q_pixel`, and by its ellipse: ln(a/b) is expected to be 0 ± 3 %. The most probable way is
    taken. The others are `rivals`, with their probability. Where they have more than 5 % together, `sure` is False, and `warnings` says
    what would settle it.

    A strain that all of the scan shares cannot be told from an ellipse. So the ellipse is that of the mean over the scan, or over
    `where`: strain of single grains averages out, and enters the errors by its scatter between parts of the scan.

    Examples
    --------
    >>> h, k = np.mgrid[-3:4, -3:4].reshape(2, -1)
    >>> g = np.stack([h, k], -1) @ np.array([[0.2, 0.1], [-0.1, 0.2]])
    >>> q = g @ np.array([[1.03, 0.0], [0.0, 1.0]]) / 0.02 + 64
    >>> one = PointListArray([0, 49], {"qx": q[:, 0], "qy": q[:, 1], "intensity": np.ones(49)}, (1, 1))
    >>> found = fit_peaks(one, np.sqrt(0.05 * np.array([1, 2, 4, 5, 8, 9, 10, 13, 18])), origin=(64, 64))
    >>> round(found.ellipse[0], 4), abs(round(found.ellipse[2], 4)), round(found.q_pixel, 5)
    (1.03, 0.0, 0.02)
    """
    points = _points(disks, origin, where)
    squares = LATTICES.get(crystals) if isinstance(crystals, str) else None
    lattice = squares is not None
    known: Crystals = crystals if squares is None else np.sqrt(np.unique(squares))
    if not 0 < real_number(tolerance, "tolerance") < 0.5:
        raise InputError(f"tolerance={tolerance}: need the part by which q_pixel may be off, above 0 and below 0.5, such as 0.12")
    chosen, others, listed = indexed_disks(points, known, None if lattice else q_pixel, energy, tolerance)
    rings, found = chosen.rings, chosen.found
    if chosen.occupied < 2 < len(rings.g) and q_pixel is None and not is_lengths(known):
        raise InputError("all disks lie on one ring, and which one of the crystals it is cannot be told: give q_pixel (to 12 %)")
    if found.chance > DENSE and q_pixel is None and not listed and not is_lengths(known):
        raise InputError(
            f"rings of the crystals are so dense that {100 * found.chance:.0f} % of all radii lie near one: which disk is on which"
            " ring is not sure: give q_pixel (to 12 %), or as crystals the |g| of the zone axis only, or 'square' or 'hexagonal'"
        )
    p, covariance, scatter, used = fitted_disks(points, rings, chosen.p)
    axes = axes_of_stretch(p[2:4], covariance[2:4, 2:4])
    q, jacobian = q_of_axes(p, axes)
    _check_plausible(axes.ratio, q, None if lattice else q_pixel, tolerance)
    cov = (jacobian @ covariance @ jacobian.T)[2:, 2:]
    return PeakFit(
        ellipse=(axes.ratio, 1.0, axes.theta),
        ellipse_error=(axes.ratio_error, axes.theta_error),
        q_pixel=q,
        q_pixel_error=float(np.sqrt(cov[2, 2])),
        stretch=p[2:4],
        stretch_covariance=covariance[2:4, 2:4],
        covariance=cov,
        shift=p[:2],
        shift_error=np.sqrt(np.diag(covariance)[:2]),
        scatter=scatter,
        disks=used,
        explained=found.explained,
        found=found.found,
        relative=lattice,
        rivals=tuple(_rival(other, probability) for other, probability in others),
    )


def _rival(p: np.ndarray, probability: float) -> Rival:
    axes = axes_of_stretch(p[2:4], np.zeros((2, 2)))
    return Rival(axes.ratio, axes.theta, q_of_axes(p, axes)[0], probability)


def _check_plausible(ratio: float, q: float, prior: float | None, tolerance: float) -> None:
    """Raise InputError if the fit has a pixel size other than the given one, or an ellipse that no detector has.

    The lattices of two zone axes of a crystal may differ by a stretch alone. Disks then fit the wrong one as sharply as the right one.
    """
    if prior is not None and abs(prior / q - 1) > tolerance:
        raise InputError(
            f"the disks fit the crystals best with a pixel of {q:.4g} 1/Å and an ellipse a/b {ratio:.3f}, but q_pixel={prior:g} has to be"
            f" known to {100 * tolerance:.0f} %: give a better q_pixel, the right crystals, or as crystals the |g| of the zone axis only"
        )
    if ratio > MOST_OVAL:
        raise InputError(
            f"the disks fit the crystals best behind an ellipse a/b {ratio:.3f} with a pixel of {q:.4g}, but detectors stay below"
            f" {MOST_OVAL:g}: the disks are taken for those of another zone axis or lattice. Give q_pixel (to {100 * PRIOR:.0f} %), the"
            " right crystals or symmetry, or as crystals the |g| of the zone axis only; so distorted a detector needs the rings of a"
            " standard, fit_rings(ellipse=)"
        )


def _points(disks: PointListArray, origin: OriginLike, where: ArrayLike | None) -> DiskPoints:
    disk_lists(disks)
    position = to_numpy(disks.positions)
    places = origins(origin, disks.shape)
    at = np.broadcast_to(places, (*disks.shape, 2)).reshape(-1, 2)[position]
    v = np.stack([to_numpy(disks.flat(f)).astype(np.float64) for f in ("qx", "qy")], axis=-1) - at
    intensity = to_numpy(disks.flat("intensity")).astype(np.float64)
    known = {"sx", "sy"} <= set(disks.fields)
    error = np.stack([to_numpy(disks.flat(f)).astype(np.float64) for f in ("sx", "sy")], axis=-1) if known else np.zeros_like(v)
    keep = (
        positions_of(where, disks.shape).ravel()[position]
        & (np.abs(v) < FARTHEST).all(axis=1)
        & (intensity > 0)
        & np.isfinite(error).all(axis=1)
    )
    index = np.flatnonzero(keep)
    if len(index) < 10:
        raise InputError(f"{len(index)} disks with a position, an intensity and an origin: too few for an ellipse, need ten or more")
    index = index[:: int(np.ceil(len(index) / MOST_POINTS))]
    return DiskPoints(v[index], intensity[index], error[index], _tiles(position[index], disks.shape))


def _tiles(position: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the cluster of each disk: its part of the scan, or its position if the scan is small."""
    along = [np.minimum(i * min(TILES, n) // n, TILES - 1) for i, n in zip(np.unravel_index(position, shape), shape)]
    tile = along[0] * TILES + along[-1]
    if len(np.unique(tile)) >= LEAST_TILES:
        return tile
    return position if len(np.unique(position)) >= LEAST_TILES else np.arange(len(position))
