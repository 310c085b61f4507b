"""Fluctuation electron microscopy: how patterns of a glass differ from place to place, by scattering vector."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal, Unpack

import numpy as np

from gpu4d.amorphous.fem_variants import (
    Rings,
    Variance,
    annular_mean,
    common_variance,
    mean_of_rings,
    median_annular_mean,
    median_of_rings,
    ring_ensemble,
)
from gpu4d.amorphous.pattern_moments import PatternMoments, PixelSums
from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import OriginLike, pixel_mask, positions_of
from gpu4d.data.arguments import origins as origins_of
from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.real_arrays import floats, real_number
from gpu4d.rings import RingProfiles, RingStatistics, radial_profile
from gpu4d.streaming.engine import BudgetOptions, sweep
from gpu4d.streaming.reduction import Reduction

AIRY = 0.61  # of λ / α: radius of the first dark ring of a probe without aberrations
BESIDE_DISK = 1.5  # of the bright-field disk's radius: scattering is diffuse from here on
STEADY = 0.5  # px: origins that lie so close together leave a detector pixel in its ring
SECTORS = 12  # of 30°: speckles of one are not those of another
APART = 0.1  # of all rings: speckles reach over fewer


@dataclass(frozen=True, eq=False)
class FEM(Storable, stored="radius: radius [px]; mean: radius [e/px]; q: radius [1/Å]; inner: [px]; resolution: [Å]"):
    """Normalised variances of a glass by ring, under their published names.

    I is a pattern in electrons, ⟨…⟩φ the mean over the pixels of a ring, ⟨…⟩R that over the positions.

    Attributes
    ----------
    radius : (n_r,) float64
        Middle of every ring, detector pixels.
    mean : (n_r,) float64
        ⟨⟨I⟩φ⟩R, electrons per pixel.
    annular_mean : Variance
        Variance of the annular mean, V_Ω = ⟨⟨I⟩φ²⟩R / ⟨⟨I⟩φ⟩R² − 1.
    rings : Variance
        Mean of the variances of rings, V_r = ⟨⟨I²⟩φ / ⟨I⟩φ² − 1⟩R.
    ring_ensemble : Variance
        Variance of the ring ensemble, V_re = ⟨⟨I²⟩φ⟩R / ⟨⟨I⟩φ⟩R² − 1.
    variance_image : Variance
        Annular mean of the variance image, Ω_V = ⟨⟨I²⟩R / ⟨I⟩R² − 1⟩φ. NaN if it was made from ring statistics, if positions were
        normalised, or if origins differ by more than half a pixel.
    median_annular_mean : Variance
        As `annular_mean` with medians: c² med (⟨I⟩φ − m)² / m² with m = med ⟨I⟩φ and c = 1.4826. Few crystals do not change it.
    median_rings : Variance
        As `rings` with the median over the positions.
    thickness : float
        Normalised variance that all rings have in common: differences of thickness or of the beam. It is in all variances over positions.
    positions : int
    inner : float
        Radius in pixels from which scattering counts as diffuse; 0 if the bright-field disk is not known.
    normalised : str or None
        "total" if every position was divided by its diffuse intensity.
    resolution : float or None
        0.61 λ / α, Å: ordered regions of about this size make the variance largest. None if energy or semi-angle is not known.
    q : (n_r,) float64 or None
        Middle of every ring, 1/Å.
    """

    radius: np.ndarray
    mean: np.ndarray
    annular_mean: Variance
    rings: Variance
    ring_ensemble: Variance
    variance_image: Variance
    median_annular_mean: Variance
    median_rings: Variance
    thickness: float
    positions: int
    inner: float
    normalised: str | None
    resolution: float | None
    q: np.ndarray | None

    def __repr__(self) -> str:
        value = np.where(self.radius >= self.inner, self.annular_mean.value, np.nan)
        if not np.isfinite(value).any():
            return f"FEM({len(self.radius)} rings, {self.positions} positions, no variance)"
        at = int(np.nanargmax(value))
        where = f"{self.radius[at]:.1f} px" if self.q is None else f"{self.q[at]:.3f} 1/Å"
        size = "" if self.resolution is None else f", resolution {self.resolution:.1f} Å"
        return (
            f"FEM({len(self.radius)} rings, {self.positions} positions, V of the annular mean up to {value[at]:.3g} "
            f"± {self.annular_mean.error[at]:.1g} at {where}{size})"
        )


@on_host("statistics")
def fem(
    patterns: DataCube | RingProfiles,
    origin: OriginLike | None = None,
    *,
    n_r: int | None = None,
    r_max: float | None = None,
    ellipse: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    where: ArrayLike | None = None,
    normalise: Literal["total"] | None = None,
    inner: float | None = None,
    counts_per_electron: float = 1.0,
    seed: int = 0,
    **sweep_options: Unpack[BudgetOptions],
) -> FEM:
    """Measure the normalised variances of fluctuation electron microscopy, without counting noise, with errors.

    All variants of Daulton, Bondi and Kelton (Ultramicroscopy 110 (2010) 1279) are made in one pass, and two with medians. A normalised
    variance is about 1 / (number of independent columns along the beam): it falls as 1 / thickness.

    Parameters
    ----------
    patterns : DataCube or RingProfiles
        A scan, or what `RingStatistics` gave for it: then without the variance image.
    origin, n_r, r_max, ellipse, mask
        As of `RingStatistics`, for a scan.
    where : (Rx, Ry) bool, optional
        Positions that count: a region, or a map of `find_crystallites` that is not True there.
    normalise : {"total"}, optional
        Divide every position by its diffuse intensity from `inner` outwards: differences of thickness and of the beam leave the variances.
    inner : float, optional
        Radius in pixels from which scattering is diffuse; 1.5 radii of the bright-field disk by default, if the calibration knows it.
    counts_per_electron : float
        Of the detector, in the unit of the patterns.
    seed : int
        Of the random draws behind the errors of medians.
    **sweep_options
        Of `gpu4d.sweep`, for a scan: device, memory, progress.

    Returns
    -------
    FEM
        Rings without a pixel or with less than two positions are NaN. Positions without an origin do not count.

    Raises
    ------
    InputError
        What is given is no scan; shapes do not fit; `inner` is needed and not known; less than two positions count.

    Notes
    -----
    Counting noise: N (N − 1) of a Poisson count has the expectation λ². With S and Q the sums of I and I² over n pixels, ⟨I⟩φ² becomes
    S (S − 1) / n², ⟨I²⟩φ becomes (Q − S) / n, and the variance within a ring becomes n (Q − S) / (S (S − 1)) − 1: its expectation for even
    rings is 0 at any dose. Squared averages over positions are those of pairs of different positions. Divided by totals T, products get
    1 / (T (T − 1)).

    Errors hold for independent positions: steps of at least the probe's size. They come from the influence of each position on
    the result, for medians from random draws, and for the variance image from twelve sectors. The variance within a ring has a part of
    the slope of the profile over the ring's width, which narrow rings make small.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> counts = np.random.default_rng(0).poisson(20.0, (12, 12, 24, 24)).astype("uint16")
    >>> found = gpu4d.fem(gpu4d.DataCube(counts), (11.5, 11.5))
    >>> bool((abs(found.annular_mean.value) < 5 * found.annular_mean.error).all())
    True
    """
    if normalise not in (None, "total"):
        raise InputError(f'normalise={normalise!r}: need "total" or None')
    gain = float(real_number(counts_per_electron, "counts_per_electron"))
    if not 0 < gain < np.inf:
        raise InputError(f"counts_per_electron={counts_per_electron}: need a positive number")
    image = None
    if isinstance(patterns, DataCube):
        reductions: dict[str, Reduction] = {
            "rings": RingStatistics(origin, n_r=n_r, r_max=r_max, ellipse=ellipse, mask=mask),
            "pixels": PatternMoments(),
        }
        found = sweep(patterns, reductions, where=where, **sweep_options)
        statistics, where = found["rings"], None
        center = _steady_origin(patterns, origin)
        if center is not None and normalise is None:
            image = _variance_image(found["pixels"], gain, _Place(patterns, statistics, center, ellipse, mask))
    elif isinstance(patterns, RingProfiles):
        if sweep_options or any(given is not None for given in (origin, n_r, r_max, ellipse, mask)):
            raise InputError("patterns are ring statistics: origin, rings, mask and options of a sweep were given when they were made")
        statistics = patterns
    else:
        raise InputError(f"patterns is a {type(patterns).__name__}: need a DataCube, or the result of RingStatistics")
    return from_statistics(statistics, where=where, normalise=normalise, inner=inner, gain=gain, seed=seed, image=image)


def from_statistics(
    statistics: RingProfiles,
    *,
    where: ArrayLike | None = None,
    normalise: str | None = None,
    inner: float | None = None,
    gain: float = 1.0,
    seed: int = 0,
    image: Variance | None = None,
) -> FEM:
    """Make the result of `fem` from ring statistics."""
    counts = positions_of(where, statistics.pixels.shape[:2])
    known = diffuse_from(statistics.calibration) if inner is None else float(real_number(inner, "inner"))
    if normalise == "total" and known is None:
        raise InputError('normalise="total" needs the radius from which scattering is diffuse: give inner= in pixels')
    counts = counts & visited(statistics)
    n = int(counts.sum())
    if n < 2:
        raise InputError(f"{n} of {counts.size} positions count: need at least two")
    rings = electrons(statistics, counts, gain, (known or 0.0) if normalise else None)
    rng = np.random.default_rng(seed)
    none = np.full(len(statistics.radius), np.nan)
    diffuse = statistics.radius >= (known or 0.0)
    outside = Rings(*(part[:, diffuse] if part.shape[1] > 1 else part for part in rings))
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # rings without a pixel give NaN, which says it
        return FEM(
            statistics.radius,
            np.nanmean(rings.sums / rings.pixels, axis=0),
            annular_mean(rings),
            mean_of_rings(rings),
            ring_ensemble(rings),
            Variance(none, none, none, none) if image is None else image,
            median_annular_mean(rings, rng),
            median_of_rings(rings, rng),
            common_variance(outside, max(2, round(APART * len(statistics.radius)))),
            n,
            known or 0.0,
            normalise,
            resolution(statistics.calibration),
            statistics.q,
        )


def visited(statistics: RingProfiles) -> np.ndarray:
    """Return the positions (Rx, Ry) that were visited and have an origin."""
    return np.isfinite(statistics.sums).all(axis=-1) & (statistics.pixels > 0).any(axis=-1)


def electrons(statistics: RingProfiles, counts: np.ndarray, gain: float, total_from: float | None = None) -> Rings:
    """Return the sums of rings in electrons at the positions that count; with `total_from`, the factors that make totals alike."""
    pixels, sums, squares = (part[counts] for part in (statistics.pixels, statistics.sums, statistics.squares))
    known = pixels > 0
    pixels, sums, squares = (np.where(known, part, np.nan) for part in (pixels, sums / gain, squares / gain**2))
    if total_from is None:
        one = np.ones((len(sums), 1))
        return Rings(pixels, sums, squares, one, one)
    outside = statistics.radius >= total_from
    total = np.nansum(sums[:, outside], axis=1, keepdims=True)
    total = np.where(total > 1, total, np.nan)
    mean = np.nanmean(total)
    missing = np.where(np.isnan(total), np.nan, 1.0)
    return Rings(pixels * missing, sums * missing, squares * missing, mean / total, mean**2 / (total * (total - 1)))


def diffuse_from(calibration: Calibration) -> float | None:
    """Return the radius in pixels from which scattering is diffuse; None if the bright-field disk is not known."""
    radius = disk_radius(calibration)
    return None if radius is None else BESIDE_DISK * radius


def disk_radius(calibration: Calibration) -> float | None:
    """Return the radius of a disk in detector pixels, as measured or from the semi-angle; None if neither is known."""
    if calibration.probe_radius is not None:
        return float(calibration.probe_radius)
    semiangle, pixel = calibration.semiangle, calibration.q_pixel
    if semiangle is None or pixel is None or calibration.energy is None:
        return None
    return float(semiangle * 1e-3 / calibration.wavelength / pixel)  # semi-angle in mrad


def resolution(calibration: Calibration) -> float | None:
    """Return 0.61 λ / α in Å; None if energy or semi-angle is not known."""
    if calibration.semiangle is None or calibration.energy is None:
        return None
    return float(AIRY * calibration.wavelength / (calibration.semiangle * 1e-3))  # semi-angle in mrad


class _Place:
    """Where rings of the variance image are."""

    def __init__(self, cube: DataCube, statistics: RingProfiles, center: np.ndarray, ellipse: Any, mask: Any):
        n_r, self.center = len(statistics.radius), center
        stretched = cube.calibration.ellipse if ellipse is None else ellipse
        whole = stretched is None or np.shape(stretched) == (3,)
        self.ellipse = None if stretched is None else (floats(stretched, 3, "ellipse") if whole else None)
        self.options: dict[str, Any] = {"n_r": n_r, "r_max": 2 * n_r * float(statistics.radius[0]), "ellipse": self.ellipse}
        masks = [m for m in (cube.detector_mask, pixel_mask(mask, cube.detector_shape, "mask")) if m is not None]
        self.options["mask"] = np.logical_and.reduce(masks) if masks else None
        self.defined = whole


def _steady_origin(cube: DataCube, origin: OriginLike | None) -> np.ndarray | None:
    """Return the mean origin if all positions have nearly the same; else None."""
    places = cube.calibration.origin if origin is None else origins_of(origin, cube.scan_shape)
    flat = np.asarray(places, np.float64).reshape(-1, 2)
    flat = flat[np.isfinite(flat).all(axis=1)]
    if not len(flat) or np.abs(flat - flat.mean(axis=0)).max() > STEADY:
        return None
    return flat.mean(axis=0)


def _variance_image(found: PixelSums, gain: float, place: _Place) -> Variance | None:
    """Return the annular mean of the variance image; its error from the scatter of the sectors. None for rings of many shapes."""
    n, total, squares = found.seen, found.total / gain, found.squares / gain**2
    if found.positions < 2 or not place.defined:
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        value = (n - 1) * (squares - total) / (total**2 - squares) - 1
        raw = n * squares / total**2 - 1
    value, raw = (np.where(np.isfinite(a) & (total > 1), a, np.nan) for a in (value, raw))
    profile = [np.asarray(radial_profile(a, place.center, **place.options)) for a in (value, raw)]
    dx, dy = (np.arange(size) - at for size, at in zip(value.shape, place.center))
    sector = np.floor((np.arctan2(dx[:, None], dy) + np.pi) / (2 * np.pi) * SECTORS).astype(int) % SECTORS
    parts = np.stack([radial_profile(np.where(sector == s, value, np.nan), place.center, **place.options) for s in range(SECTORS)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        error = np.nanstd(parts, axis=0, ddof=1) / np.sqrt(np.isfinite(parts).sum(axis=0))
    return Variance(profile[0], error, profile[1], profile[1] - profile[0])
