"""Calibrate ellipse and pixel size by the Bragg disks of a scan, from their distances to the beam alone.

A disk of a crystal lies on one of the crystal's powder rings, for every zone axis and orientation. So one lattice of a known crystal,
a square or a hexagonal lattice, and many grains are all the same problem: one ellipse and one scale that put the disks on known |g|.
Host by design: lists of points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gpu4d.arrays import ArrayLike, to_numpy
from gpu4d.calibrate.ring_index import (
    PRIOR,
    Crystals,
    Indexed,
    KnownRings,
    check_indexed,
    index_trials,
    is_lengths,
    known_rings,
    structures,
)
from gpu4d.calibrate.ring_start import BIN, STEP, STRETCHES, Peak
from gpu4d.calibrate.stretch import axes_of_stretch, q_of_axes, told, undone
from gpu4d.data import Calibration
from gpu4d.data.arguments import FARTHEST, OriginLike, disk_lists, origins, positions_of
from gpu4d.data.pointlist import PointListArray
from gpu4d.errors import InputError
from gpu4d.robust import TUKEY, biweight, robust_sigma

MOST_POINTS = 200_000  # for the fit; of more, evenly spaced ones are taken
START_POINTS = 5_000
BEAM = 2.0  # px from the origin: nearer disks are the unscattered beam
BLUR = 1.0  # bins of half a pixel: the histogram of distances is smoothed by so much
TRIAL_POINTS = 1_500  # to compare ways to index the disks
WRONG_PRIOR = 0.25  # how far a given pixel size may be off and still be found to be wrong
SCALES = 5  # of each start are fitted
STRAY = 0.02  # of the disks may lie on no ring, for the likelihood
OVAL = 0.05  # of ½ ln(a/b) has to be paid for by 1 in the mean log likelihood of a disk: most detectors have less
AS_GOOD = 0.3  # of that log likelihood: what is nearer may be right as well
OTHER = 0.005  # of stretch and scale: another indexing, and no error of the fit
STARTS = 4  # of the sharpest stretches of the grid are tried
STRAINED = 0.06  # of its radius: a ring of disks is so wide at least, since crystals are strained by a per cent or two
MISSING = 0.25  # of the expected rings must be there: one zone axis shows few of them
DENSE = 0.6  # of the radii near some ring: chance alone would put most disks on rings
GAP = 0.4  # of the distance to the next ring: a disk farther from its ring is left out
TILES = 5  # along each axis of the scan: clusters of disks whose errors are correlated, as those of one grain
LEAST_TILES = 12  # fewer clusters than this do not say how disks scatter; then each position is one
MOST_OVAL = 1.15  # a/b: detectors and projector lenses stay below 1.10. More is a lattice that is taken for another one of the crystal
ROUNDS = 30
ORDERS = np.array([(h, k) for h in range(0, 9) for k in range(0, 9) if 0 < h * h + k * k < 64])
LATTICES = {"square": ORDERS[:, 0] ** 2 + ORDERS[:, 1] ** 2, "hexagonal": (ORDERS**2).sum(1) + ORDERS[:, 0] * ORDERS[:, 1]}


@dataclass(frozen=True, eq=False)
class PeakFit:
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

    def apply(self, calibration: Calibration) -> None:
        """Write the ellipse and, if it is in 1/Å, the pixel size with their errors into a calibration."""
        how = f"{self.disks} Bragg disks"
        calibration.measured(ellipse=self.ellipse, ellipse_error=self.ellipse_error, how=how)
        if not self.relative:
            calibration.measured(q_pixel=self.q_pixel, q_pixel_error=self.q_pixel_error, how=how)

    def __repr__(self) -> str:
        return (
            f"PeakFit({told(self.ellipse, self.ellipse_error)},"
            f" q_pixel {self.q_pixel:.6g} ± {self.q_pixel_error:.2g} {'|g|' if self.relative else '1/Å'}, {self.disks} disks)"
        )


def fit_peaks(
    disks: PointListArray,
    crystals: Crystals,
    *,
    origin: OriginLike,
    where: ArrayLike | None = None,
    q_pixel: float | None = None,
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
        Pixel size known to 12 %, 1/Å. It decides which disk is on which ring; a result outside of it is refused.
    energy : float, optional
        eV. If given, rings lie at tan(2θ)/λ, as a flat detector shows them.

    Returns
    -------
    PeakFit

    Raises
    ------
    InputError
        Too few disks; they do not fit the crystals, or fit them in two ways; the pixel size is not within 12 % of `q_pixel`; a/b is
        above 1.15, which no detector has; or the arguments cannot be used.

    Notes
    -----
    Two zone axes of a crystal may differ by a stretch alone. The way to index the disks that explains them best with the least ellipse
    is taken. Where another one within the tolerance of `q_pixel` does so about as well, the fit is refused.

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
    chosen = _indexed(points, known, None if lattice else q_pixel, energy)
    rings, found = chosen.rings, chosen.found
    if chosen.occupied < 2 < len(rings.g) and q_pixel is None and not is_lengths(known):
        raise InputError("all disks lie on one ring, and which one of the crystals it is cannot be told: give q_pixel (to 12 %)")
    if found.chance > DENSE and q_pixel is None and not is_lengths(known):
        raise InputError(
            f"rings of the crystals are so dense that {100 * found.chance:.0f} % of all radii lie near one: which disk is on which"
            " ring is not sure: give q_pixel (to 12 %), or as crystals the |g| of the zone axis only, or 'square' or 'hexagonal'"
        )
    p, covariance, scatter, used = _fitted(points, rings, chosen.p)
    axes = axes_of_stretch(p[2:4], covariance[2:4, 2:4])
    q, jacobian = q_of_axes(p, axes)
    _check_plausible(axes.ratio, q, None if lattice else q_pixel)
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
    )


def _check_plausible(ratio: float, q: float, prior: float | None) -> None:
    """Raise InputError if the fit has a pixel size other than the given one, or an ellipse that no detector has.

    The lattices of two zone axes of a crystal may differ by a stretch alone. Disks then fit the wrong one as sharply as the right one.
    """
    if prior is not None and abs(prior / q - 1) > PRIOR:
        raise InputError(
            f"the disks fit the crystals best with a pixel of {q:.4g} 1/Å and an ellipse a/b {ratio:.3f}, but q_pixel={prior:g} has to be"
            f" known to {100 * PRIOR:.0f} %: give a better q_pixel, the right crystals, or as crystals the |g| of the zone axis only"
        )
    if ratio > MOST_OVAL:
        raise InputError(
            f"the disks fit the crystals best behind an ellipse a/b {ratio:.3f} with a pixel of {q:.4g}, but detectors stay below"
            f" {MOST_OVAL:g}: the disks are taken for those of another zone axis or lattice. Give q_pixel (to {100 * PRIOR:.0f} %), the right"
            " crystals or symmetry, or as crystals the |g| of the zone axis only; a detector that is so distorted needs the rings of a"
            " standard, fit_rings(ellipse=)"
        )


class _Points(NamedTuple):
    """Disks relative to their origin (n, 2), px, intensity, standard errors (n, 2) or zeros, and cluster."""

    v: np.ndarray
    intensity: np.ndarray
    error: np.ndarray
    cluster: np.ndarray


def _points(disks: PointListArray, origin: OriginLike, where: ArrayLike | None) -> _Points:
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
    return _Points(v[index], intensity[index], error[index], _tiles(position[index], disks.shape))


def _tiles(position: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the cluster of each disk: its part of the scan, or its position if the scan is small."""
    along = [np.minimum(i * min(TILES, n) // n, TILES - 1) for i, n in zip(np.unravel_index(position, shape), shape)]
    tile = along[0] * TILES + along[-1]
    if len(np.unique(tile)) >= LEAST_TILES:
        return tile
    return position if len(np.unique(position)) >= LEAST_TILES else np.arange(len(position))


def _starts(points: _Points) -> list[np.ndarray]:
    """Return some (e1, e2) at which the histogram of distances is sharp: the circle, and the sharpest of a grid."""
    few = slice(None, None, int(np.ceil(len(points.v) / START_POINTS)))
    v, weight = points.v[few], np.sqrt(points.intensity[few])
    far = np.hypot(*v.T) > BEAM
    v, weight = v[far], weight[far]

    def sharpness(e: np.ndarray) -> float:
        r = np.hypot(*(undone(*e)[0] @ v.T)) / BIN
        low = r.astype(np.int64)
        hist = np.bincount(low, weight * (1 - (r - low))) + np.bincount(low + 1, weight * (r - low))[: low.max() + 1]
        return float((hist**2).sum())

    def climbed(e: np.ndarray, step: float) -> np.ndarray:
        while step > 1e-3:
            step /= 2
            e = max((e + step * np.array([i, j]) for i in (-1, 0, 1) for j in (-1, 0, 1)), key=sharpness)
        return e

    grid = [STEP * np.array([i, j]) for i in range(-6, 7) for j in range(-6, 7) if np.hypot(i, j) * STEP <= STRETCHES + 1e-9]
    best = sorted(grid, key=sharpness)[-STARTS:]
    found = [np.zeros(2)]
    for e in (*best, *(e for e in grid if np.hypot(*e) < 1.1 * STEP)):
        top = climbed(e, STEP)
        if min(np.hypot(*(top - f)) for f in found) > 2e-3:
            found.append(top)
    return found


class _Trial(NamedTuple):
    """One way to say which disk is on which ring.

    Parameters (5,) of its fit, the rings, how they fit, the mean log likelihood of a disk's distance, and how many rings have disks.
    """

    p: np.ndarray
    rings: KnownRings
    found: Indexed
    likelihood: float
    occupied: int

    @property
    def oval(self) -> float:
        return float(np.hypot(*self.p[2:4]))

    @property
    def score(self) -> float:
        return self.likelihood - self.oval / OVAL

    @property
    def pixel(self) -> float:
        return float(np.exp(self.oval - self.p[4]))

    def __str__(self) -> str:
        return f"a pixel of {self.pixel:.4g} 1/Å and an ellipse a/b {np.exp(2 * self.oval):.3f}"

    def differs(self, other: _Trial) -> bool:
        return bool(np.abs(self.p[2:5] - other.p[2:5]).max() > OTHER)


def _indexed(points: _Points, known: Any, q_pixel: float | None, energy: float | None) -> _Trial:
    """Return the way to index the disks that explains them best.

    Each is fitted to a part of the disks, since their distances alone do not tell: zone axes of a crystal may differ by a stretch.
    """
    few = np.random.default_rng(0).permutation(len(points.v))[:TRIAL_POINTS]
    part = _Points(points.v[few], points.intensity[few], points.error[few], np.arange(len(few)))
    trials, refusals = [], []
    for start in _starts(points):
        peaks, r, height = _histogram(points, start)
        rings = _rings(known, peaks, energy)
        try:
            judged = index_trials(rings, peaks, r, height, q_pixel, WRONG_PRIOR)
        except InputError as error:
            refusals.append((-1.0, error))
            continue
        for found in judged[:SCALES]:
            try:
                check_indexed(found, rings, missing=MISSING)
                trials.append(_trial(part, rings, found, np.array([0.0, 0.0, *start, np.log(found.scale)])))
            except InputError as error:
                refusals.append((found.score - float(np.hypot(*start)), error))
    if not trials:
        raise max(refusals, key=lambda t: t[0])[1]
    return _chosen(trials, q_pixel)


def _trial(points: _Points, rings: KnownRings, found: Indexed, start: np.ndarray) -> _Trial:
    """Fit one way to index the disks. A disk is on each of the rings in reach with the same probability: dense rings explain less."""
    p, _, scatter, _ = _fitted(points, rings, start)
    off = _residuals(points.v, rings.g, p)[0]
    r = np.hypot(*(undone(p[2], p[3])[0] @ (points.v - p[:2]).T))
    far = r > BEAM
    sigma, reach = max(scatter, BIN / 10), float(r.max()) + 1
    places = np.exp(p[4]) * rings.g
    lines = max(int((places < reach).sum()), 1)
    on_ring = (1 - STRAY) / lines * np.exp(-0.5 * (off[far] / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
    filled = np.unique(np.searchsorted((places[1:] + places[:-1]) / 2, r[far & (np.abs(off) < TUKEY * sigma)]), return_counts=True)[1]
    occupied = int((filled > STRAY * far.sum()).sum())
    return _Trial(p, rings, found, float(np.log(on_ring + STRAY / reach).mean()), occupied)


def _chosen(trials: list[_Trial], q_pixel: float | None) -> _Trial:
    """Return the trial that explains the disks best with a small ellipse. Raise InputError if a different one does so as well."""
    first = max(trials, key=lambda t: t.score)
    inside = [t for t in trials if q_pixel is None or abs(q_pixel / t.pixel - 1) < PRIOR]
    best = max(inside, key=lambda t: t.score, default=None)
    if q_pixel is not None and (best is None or first.score > best.score + AS_GOOD):
        raise InputError(
            f"the disks fit the crystals best with {first}, but q_pixel={q_pixel:g} has to be known to {100 * PRIOR:.0f} %: give a better"
            " q_pixel, the right crystals, or as crystals the |g| of the zone axis only"
        )
    assert best is not None
    other = max((t for t in inside if t.differs(best)), key=lambda t: t.score, default=None)
    if other is not None and other.score > best.score - AS_GOOD:
        raise InputError(
            f"two ways to say which disk is on which ring fit about as well: {best}, and {other}: give a better q_pixel, or as crystals"
            " the |g| of the zone axis only, or 'square' or 'hexagonal'"
        )
    return best


def _histogram(points: _Points, start: np.ndarray) -> tuple[list[Peak], np.ndarray, np.ndarray]:
    """Return clusters of distances as peaks; the bins' distances, and their content in standard errors."""
    from scipy import ndimage
    from scipy.signal import find_peaks, peak_widths

    r = np.hypot(*(undone(*start)[0] @ points.v.T))
    weight = np.sqrt(points.intensity)
    size = int(r.max() / BIN) + 8
    hist = ndimage.gaussian_filter1d(np.bincount((r / BIN).astype(np.int64), weight, size), BLUR)
    middle = (np.arange(size) + 0.5) * BIN
    wide = ndimage.gaussian_filter1d(hist, 12.0)  # what disks anywhere would give
    at = find_peaks(hist, height=np.maximum(1.5 * wide, 0.01 * hist.max()))[0]
    at = at[middle[at] > 3.0]
    widths = peak_widths(hist, at, rel_height=0.5)[0] * BIN
    peaks = [
        Peak(float(middle[i]), max(float(w), STRAINED * float(middle[i])), float(hist[i] / middle[i]), float(hist[i]))
        for i, w in zip(at, widths)
    ]
    return peaks, middle, 10 * hist / max(float(hist[at].min(initial=np.inf)), 1e-300) if len(at) else hist


def _rings(crystals: Any, peaks: list[Peak], energy: float | None) -> KnownRings:
    if is_lengths(crystals) or not peaks:
        return known_rings(crystals, np.inf if is_lengths(crystals) else 1.0, energy)
    few = known_rings(crystals, 4 * max(float(np.linalg.norm(s.basis, axis=1).max()) for s in structures(crystals)), energy)
    return known_rings(crystals, few.g[min(3, len(few.g) - 1)] * max(p.r for p in peaks) / peaks[0].r, energy)


def _fitted(points: _Points, rings: KnownRings, p: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, int]:
    """Iterate weighted least squares with the biweight. Return parameters, covariance from clusters, scatter, and how many disks count."""
    tau = 1.0
    for _ in range(ROUNDS):
        off, jacobian, along, gap = _residuals(points.v, rings.g, p)
        noise = np.sqrt((points.error**2 * along**2).sum(1))
        near = np.abs(off) < GAP * gap
        if near.sum() < 10:
            raise InputError(f"{int(near.sum())} disks lie near a ring of the crystals: too few for an ellipse")
        tau = _extra(off[near & (np.abs(off) < 3 * max(tau, 0.05))], noise[near & (np.abs(off) < 3 * max(tau, 0.05))])
        variance = noise**2 + tau**2
        sigmas = off / np.sqrt(variance)
        weight = np.where(near, biweight(sigmas), 0.0) / variance
        normal = (jacobian * weight[:, None]).T @ jacobian
        if np.linalg.cond(normal * np.outer(*2 * [1 / np.sqrt(np.diag(normal))])) > 1e10:
            raise InputError("the disks lie in too few directions to fix an ellipse: need three directions, or two lengths in two")
        step = np.linalg.solve(normal, (jacobian * weight[:, None]).T @ -off)
        p = p + step
        if np.abs(step * np.array([1, 1, 100, 100, 100])).max() < 1e-7:
            break
    score = jacobian * (weight * off)[:, None]
    sums = np.stack([np.bincount(points.cluster, c) for c in score.T], axis=1)
    count = int((np.bincount(points.cluster, weight) > 0).sum())
    u = sigmas / TUKEY
    bend = (weight * np.where(np.abs(u) < 1, (1 - 5 * u**2) / np.maximum(1 - u**2, 1e-12), 0.0))[:, None]  # derivative of the score
    inverse = np.linalg.inv((jacobian * bend).T @ jacobian)
    covariance = inverse @ (sums.T @ sums) @ inverse * (count / max(count - 5, 1))
    return p, covariance, float(np.sqrt(np.median(variance[weight > 0]))), int((weight > 0).sum())


def _residuals(v: np.ndarray, g: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return r − R of the nearest ring (n,), its derivatives (n, 5), dr by the disk's position (n, 2), and the gap to the next (n,)."""
    inverse, by_1, by_2 = undone(p[2], p[3])
    d = (v - p[:2]).T
    w = inverse @ d
    r = np.maximum(np.hypot(*w), 1e-9)
    unit = w / r
    place = np.exp(p[4]) * g
    nearest = np.searchsorted((place[1:] + place[:-1]) / 2, r)
    bounds = np.concatenate([[0.0], place, [2 * place[-1]]])
    gap = np.minimum(bounds[nearest + 1] - bounds[nearest], bounds[nearest + 2] - bounds[nearest + 1])
    along = (inverse.T @ unit).T
    jacobian = np.stack([-along[:, 0], -along[:, 1], (unit * (by_1 @ d)).sum(0), (unit * (by_2 @ d)).sum(0), -place[nearest]], axis=1)
    return r - place[nearest], jacobian, along, gap


def _extra(off: np.ndarray, noise: np.ndarray) -> float:
    """Return the robust scatter beyond the errors of the disks, px."""
    if not len(off):
        return 1.0
    total = float(robust_sigma(off, 0.0)) ** 2
    return float(np.sqrt(max(total - float(np.median(noise**2)), 1e-8, 0.01 * total)))
