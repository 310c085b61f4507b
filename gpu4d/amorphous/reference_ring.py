"""Describe the ring of the unstrained glass: its radial profile, the ellipse of the detector, and the radii to fit strain between."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array
from gpu4d.data.ellipse import ellipse_matrix
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.real_arrays import floats
from gpu4d.rings.polar_transform import radial_grid, radial_sums, radii
from gpu4d.rings.profiles import RadialProfile
from gpu4d.streaming.reduction import ScanInfo
from gpu4d.streaming.sums import SumReduction

RINGS = 4  # of the profile in a pixel: finer than any ring of a glass bends
FINE = 8  # knots of the table in a pixel: linear interpolation is then wrong by less than counting is
BEYOND = 1.15  # times the outer radius: as far as the profile is measured, for rings that strain makes smaller
SMOOTH = 2.0  # rings: the variance of a ring's counts is taken from a mean of so many
# How far a fit goes inside of the valley within the ring, and outside of the ring's top, in half widths of the ring. Less costs precision.
INSIDE, OUTSIDE = 0.7, 2.2
KNOTS = 20  # intervals of the spline between the radii of a fit: four in the half width of a ring, which is bent less
LEAST_KNOT = 1.0  # px: pixels do not tell more
LEAST_RINGS = 12  # for a profile
PEAK = 1.02  # times the darkest level inside and outside: less is no ring


class Profile(NamedTuple):
    """Radii, counts and their derivative by the radius, (K,) each, and the radii to fit between."""

    radius: np.ndarray
    profile: np.ndarray
    slope: np.ndarray
    radii: tuple[float, float]


@dataclass(frozen=True, eq=False)
class HaloReference(Storable, stored="radius: radius [px]; profile slope: radius; radii center: [px]; region: Rx Ry"):
    """The ring of the unstrained glass.

    Attributes
    ----------
    radius, profile, slope : (K,) float64
        Distance from the origin, px with the ellipse removed, the expected counts there, and their derivative by the radius.
    radii : (float, float)
        Between which strain is fitted, px.
    ellipse : (a, b, theta) or None
        Distortion of the detector that is removed, as `Calibration.ellipse`.
    center : (2,) float64 or None
        Middle of the ring, px, relative to the origins that were given or calibrated; absolute where there were none.
    region : (Rx, Ry) bool or None
        Positions that were averaged.
    how : str
        How it was found.
    """

    radius: np.ndarray
    profile: np.ndarray
    slope: np.ndarray
    radii: tuple[float, float]
    ellipse: tuple[float, float, float] | None = None
    center: np.ndarray | None = None
    region: np.ndarray | None = None
    how: str = "given profile"

    def __repr__(self) -> str:
        shape = "round" if self.ellipse is None else f"a/b {self.ellipse[0] / self.ellipse[1]:.4f}"
        return f"HaloReference(ring at {self.peak:.2f} px, {shape}, fitted from {self.radii[0]:.1f} to {self.radii[1]:.1f} px, {self.how})"

    @property
    def peak(self) -> float:
        """Return the radius at which the ring is brightest, between the radii of the fit and relative to its ground, px."""
        inside = (self.radius > self.radii[0]) & (self.radius < self.radii[1])
        r, p = self.radius[inside], self.profile[inside]
        ground = np.interp(r, [r[0], r[-1]], [p[0], p[-1]])
        return float(r[np.argmax(p - ground)])

    @property
    def undistort(self) -> tuple[float, float, float]:
        """Return the elements xx, xy, yy of the matrix that removes the ellipse."""
        (xx, xy), (_, yy) = np.eye(2).tolist() if self.ellipse is None else ellipse_matrix(self.ellipse).tolist()
        return xx, xy, yy

    def table(self) -> tuple[np.ndarray, float]:
        """Return the profile and its slope, (K, 2), and the step of the radius, for `fit_strained_ring`."""
        step = 1 / FINE
        at = np.arange(0, self.radius[-1] + step, step)
        values = [np.interp(at, self.radius, v) for v in (self.profile, self.slope)]
        values[1][(at < self.radius[0]) | (at > self.radius[-1])] = 0.0
        return np.stack(values, axis=-1), step

    def between(self, inner: float, outer: float) -> HaloReference:
        """Return the same profile, fitted between other radii, px."""
        if not 0 <= inner < outer <= self.radius[-1]:
            most = self.radius[-1]
            raise InputError(f"radii are ({inner:.4g}, {outer:.4g}) px: need an inner and a larger outer one, up to {most:.4g} px")
        return replace(self, radii=(float(inner), float(outer)))


class ProfileSums(SumReduction):
    """Reduction: counts and pixels of fine rings about each position's origin, summed over the positions: (2, n_r) float64."""

    sums: ClassVar = dict.fromkeys(("total", "pixels"), operator.add)

    def __init__(self, origin: Any, r_max: float, ellipse: tuple[float, float, float] | None, mask: Any):
        self.rings = RadialProfile(origin, n_r=math.ceil(RINGS * r_max), r_max=r_max, ellipse=ellipse or (1.0, 1.0, 0.0), mask=mask)

    def _grid(self, scan: ScanInfo) -> tuple[int, float]:
        return radial_grid(scan.shape[2:], self.rings.n_r, self.rings.r_max)

    def bytes_needed(self, scan: ScanInfo, n_frames: int) -> int:
        rings = 8 * self._grid(scan)[0]
        return self.held_bytes(scan, rings) + self.rings.work_bytes(scan, n_frames) + 4 * rings * n_frames

    def start(self, scan: ScanInfo, device: str, pass_: int = 0) -> None:
        self.rings.prepare(scan)
        super().start(scan, device, pass_)

    def update(self, frames: Array, positions: np.ndarray) -> None:
        origins, options = self.rings.arguments(frames, positions)
        sums, pixels = radial_sums(frames, origins, **options)
        xp = arrays.namespace(sums)
        self.add(positions, total=xp.sum(arrays.as_float64(sums), axis=0), pixels=xp.sum(arrays.as_float64(pixels), axis=0))

    def finish(self) -> np.ndarray:
        found = [self.result(name) for name in self.sums]
        rings = self._grid(self.scan)[0]
        return np.stack([np.zeros(rings) if v is None else np.asarray(arrays.to_numpy(v)) for v in found])


def smooth_profile(counts: np.ndarray, pixels: np.ndarray, r_max: float, limits: tuple[float, float] | None) -> Profile:
    """Return a cubic spline through the means of fine rings, and the radii to fit between: `limits`, or else around the ring.

    Rings weigh as their counts tell, from means over neighbours, so that a ring with few counts by chance does not weigh more. The
    unscattered beam is left out.
    """
    from scipy.interpolate import make_lsq_spline
    from scipy.ndimage import gaussian_filter1d

    at = radii(len(counts), r_max)
    level = gaussian_filter1d(counts, SMOOTH) / np.maximum(gaussian_filter1d(pixels, SMOOTH), 1e-9)
    seen = (pixels > 0) & (level > 0)
    if limits is None and seen.sum() >= LEAST_RINGS:
        limits = ring_limits(at[seen], level[seen])
    seen &= at > (0.0 if limits is None else limits[0] / BEYOND)
    if limits is None or seen.sum() < LEAST_RINGS:
        raise InputError(f"{int(seen.sum())} rings of the reference have counts: need a region, a mask and radii that leave a ring")
    r, mean, weight = at[seen], counts[seen] / pixels[seen], np.sqrt(pixels[seen] / level[seen])
    knots = np.quantile(r, np.linspace(0, 1, int(np.clip((r[-1] - r[0]) / _knot(limits), 2, len(r) / 4)) + 1))
    spline = make_lsq_spline(r, mean, np.concatenate([[r[0]] * 3, knots, [r[-1]] * 3]), k=3, w=weight)
    fine = np.arange(r[0], r[-1], 1 / FINE)
    return Profile(fine, spline(fine), spline(fine, 1), limits)


def _knot(limits: tuple[float, float]) -> float:
    """Return the distance of the knots of a spline, px."""
    return max((limits[1] - limits[0]) / KNOTS, LEAST_KNOT)


def reference_of(profile: Any, radii_given: Any, ellipse: tuple[float, float, float] | None) -> HaloReference:
    """Return a given profile, a pair of arrays (radius in px, counts), as a reference.

    Examples
    --------
    >>> r = np.arange(5, 40, 0.5)
    >>> reference_of((r, 1 + np.exp(-(((r - 20) / 3) ** 2))), None, None).peak
    20.0
    """
    from scipy.interpolate import CubicSpline

    r, p = (np.asarray(v, dtype=np.float64) for v in profile)
    if r.ndim != 1 or r.shape != p.shape or len(r) < LEAST_RINGS or not (np.diff(r) > 0).all() or not np.isfinite(p).all():
        raise InputError(
            f"reference is a profile of {r.shape} radii and {p.shape} counts: need two arrays of {LEAST_RINGS} or more numbers, "
            "radii that grow, px, and counts without NaN"
        )
    spline = CubicSpline(r, p)
    fine = np.arange(r[0], r[-1], 1 / FINE)
    limits = ring_limits(fine, spline(fine)) if radii_given is None else floats(radii_given, 2, "radii (inner, outer)")
    return HaloReference(fine, spline(fine), spline(fine, 1), (limits[0], limits[1]), ellipse)


def ring_limits(r: np.ndarray, profile: np.ndarray) -> tuple[float, float]:
    """Return the radii that a ring is fitted between: it, and as much beside it as tells its ground."""
    ground = np.maximum(np.minimum.accumulate(profile), np.minimum.accumulate(profile[::-1])[::-1])
    top = int(np.argmax(profile - ground))
    if not profile[top] > PEAK * ground[top]:
        raise InputError("no ring stands out of the profile: give radii=(inner, outer) if there is one")
    valley = int(np.argmin(profile[: top + 1]))
    half = r[top] - r[valley]
    inside = (r < r[valley]) & (r >= r[valley] - INSIDE * half)
    bright = np.flatnonzero(inside & (profile > profile[top]))  # the unscattered beam
    inner = r[bright[-1] + 1] if bright.size else max(r[valley] - INSIDE * half, r[0])
    return float(inner), float(min(r[top] + OUTSIDE * half, r[-1] / BEYOND))
