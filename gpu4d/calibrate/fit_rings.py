"""Calibrate centre, ellipse and pixel size by one fit of all rings of a polycrystal of known crystals."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.calibrate.ring_index import (
    PRIOR,
    Crystals,
    Indexed,
    KnownRings,
    check_indexed,
    index_peaks,
    is_lengths,
    known_rings,
    refined_scale,
    structures,
)
from gpu4d.calibrate.ring_likelihood import fit
from gpu4d.calibrate.ring_model import SHAPE, Pixels, RingModel
from gpu4d.calibrate.ring_places import FittedRings, RingPlace, check_places, check_present, checked_misfit, ring_places
from gpu4d.calibrate.ring_start import Peak, Profile, Start, checked_counts, find_start, radial_profile_of, ring_peaks
from gpu4d.calibrate.stretch import axes_of_stretch, known_error, q_of_axes, stretch_of_axes, told
from gpu4d.data import Calibration
from gpu4d.data.arguments import host_image, measured_pixels
from gpu4d.data.storable import Part, Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.real_arrays import floats, real_number

SECTORS = (1, 12)  # coarse fits before the last one, for a start from which it converges
COARSE = 1.0  # of the log likelihood: ends a coarse fit
MARGIN = 3.0  # widths of a ring that are looked at outside of the outermost one
INSIDE = 0.25  # of the first radius that are looked at inside of it
KNOT = 6.0  # widths between knots of the background: it cannot follow a ring
LEAST_KNOTS, MOST_KNOTS = 4, 14
CLOSE = 0.25  # of a width: rings so near each other are one. Farther ones are not: textures of two rings differ, and so their mean place
SEVERAL = 3  # rings from which the inward shift, ∝ 1/R, is told from the scale, ∝ R


@dataclass(frozen=True, eq=False)
class RingFit(Storable, stored="center center_error width: [px]; q_pixel q_pixel_error: [1/Å]; expected: Qx Qy [counts]"):
    """What the rings of a pattern say about the detector, with standard errors.

    Attributes
    ----------
    center, center_error : (2,) float64
        Of the rings: the unscattered beam, px.
    ellipse, ellipse_error : (float, float, float), (float, float)
        (a, b, theta) with b = 1, for `Calibration.ellipse`, and standard errors of a/b and theta. theta in rad, from qx towards qy.
    q_pixel, q_pixel_error : float
        Size of a detector pixel along the minor axis b, as `ellipse_matrix` leaves it, 1/Å.
    covariance : (5, 5) float64
        Of (center qx, center qy, a/b, theta, q_pixel). From the scatter of the counts between sectors and rings: it holds for counts
        that scatter more than Poisson counts, as those of a few bright grains do.
    stretch, stretch_covariance : (2,), (2, 2) float64
        (e1, e2) = ½ ln(a/b) (cos 2θ, sin 2θ), whose errors are Gaussian also for a round pattern.
    rings : tuple of RingPlace
        Those inside the fitted radii.
    width : float
        Full width at half maximum of the first ring, px.
    dispersion : float
        Deviance per pixel: about 1 for Poisson counts of the model, more for spotty rings.
    misfit : float
        Counts of the radial profile that the fit has elsewhere, as a part of all counts in rings.
    expected : (Qx, Qy) float64
        Counts of the fit; NaN at pixels that took no part.
    explained, found : float
        Part of the peaks' intensity that lies on rings of the crystals; part of the expected rings that are there.
    """

    center: np.ndarray
    center_error: np.ndarray
    ellipse: tuple[float, float, float]
    ellipse_error: tuple[float, float]
    q_pixel: float
    q_pixel_error: float
    covariance: np.ndarray
    stretch: np.ndarray
    stretch_covariance: np.ndarray
    rings: tuple[RingPlace, ...]
    width: float
    dispersion: float
    misfit: float
    expected: np.ndarray
    explained: float
    found: float
    _details: FittedRings | None = field(repr=False, default=None)

    def to_parts(self) -> dict[str, Part]:
        """Return the fields that are saved: not the details of the fit, which are larger than the pattern."""
        return {name: part for name, part in super().to_parts().items() if name != "_details"}

    def apply(self, calibration: Calibration, *, origin: bool = True) -> None:
        """Write ellipse and pixel size with their errors into a calibration, and the centre as its origin unless `origin` is False."""
        how = f"{len(self.rings)} rings"
        if origin:
            calibration.measured(origin=self.center, origin_error=known_error(float(np.sqrt((self.center_error**2).mean()))), how=how)
        calibration.measured(ellipse=self.ellipse, ellipse_error=self.ellipse_error, how=how)
        calibration.measured(q_pixel=self.q_pixel, q_pixel_error=known_error(self.q_pixel_error), how=how)

    def __repr__(self) -> str:
        return (
            f"RingFit(center ({self.center[0]:.3f} ± {self.center_error[0]:.3f}, {self.center[1]:.3f} ± {self.center_error[1]:.3f}) px,"
            f" {told(self.ellipse, self.ellipse_error)},"
            f" q_pixel {self.q_pixel:.6g} ± {self.q_pixel_error:.2g} 1/Å, {len(self.rings)} rings)"
        )


@on_host("image")
def fit_rings(
    pattern: ArrayLike,
    crystals: Crystals,
    *,
    mask: ArrayLike | None = None,
    center: ArrayLike | None = None,
    ellipse: tuple[float, float, float] | None = None,
    q_pixel: float | None = None,
    energy: float | None = None,
    sectors: int = 36,
) -> RingFit:
    """Fit all rings of a polycrystal at once, by Poisson maximum likelihood: centre, ellipse, pixel size, widths and background.

    Nothing needs to be known but the crystals. The centre is first taken from the symmetry of the pattern, the ellipse from the sharpness
    of the radial profile, and the scale from the peaks of that profile. Rings may be uneven or spotty: their intensity is free in every
    sector. `gpu4d.calibrate.ring_model` has the formula.

    Parameters
    ----------
    pattern : (Qx, Qy) real
        Counts: a sum of patterns, or one. A mean works, too: the errors follow from its scatter. NaN pixels do not count.
    crystals : Structure, str, sequence of these, or (n,) array
        Known crystals, names of `gpu4d.structures.STANDARDS`, or the |g| = 1/d of the rings, 1/Å. List all |g| up to the outermost ring.
    mask : (Qx, Qy) bool, optional
        True where the detector counts. Leave out the shadow of a beam stop with its soft edge.
    center : (2,), optional
        Near the centre, px, if the pattern is too uneven to find it.
    ellipse : (a, b, theta), optional
        Near the ellipse. Needed only for a/b > 1.25.
    q_pixel : float, optional
        Pixel size known to 12 %, 1/Å. It tells crystals apart that differ in scale alone.
    energy : float, optional
        eV. If given, rings lie at tan(2θ)/λ, as a flat detector shows them: 3 (λg)²/8 farther out, 2e-4 for 1/Å at 200 kV.
        Without, their radii are ∝ g.
    sectors : int
        Even number of sectors with free intensities of the rings.

    Returns
    -------
    RingFit

    Raises
    ------
    InputError
        No rings are seen; they do not fit the crystals; one of several crystals is not there, or all its rings lie within a width of
        rings of the others, so that it cannot be told from them; or the arguments cannot be used.

    Notes
    -----
    With fewer than three rings the inward shift of a ring by its width cannot be told from the scale. It is then that of spots blurred
    evenly in two dimensions, σ²/2R. Errors do not hold what the crystals' own lattice constants are uncertain by.

    Examples
    --------
    >>> from gpu4d.calibrate import ellipse_matrix, fit_rings
    >>> x, y = np.mgrid[:96, :96] - 47.3
    >>> v = np.stack([x, y], -1) @ ellipse_matrix((1.04, 1.0, 0.5)).T
    >>> r, g = np.hypot(v[..., 0], v[..., 1]), np.sqrt([3.0, 4.0, 8.0, 11.0]) / 4.0786
    >>> expected = 4 + 40 * sum(np.exp(-(((r - R) / 1.5) ** 2)) for R in g / 0.02)
    >>> found = fit_rings(np.random.default_rng(0).poisson(expected), g)
    >>> round(found.ellipse[0], 2), round(found.ellipse[2], 1), round(found.q_pixel, 4)
    (1.04, 0.5, 0.02)
    """
    image = host_image(pattern, "pattern").astype(np.float64)
    good = measured_pixels(image, mask)
    counts, unit = checked_counts(image, good)
    sectors = real_number(sectors, "sectors", whole=True)
    if sectors < 4 or sectors % 2:
        raise InputError(f"sectors={sectors}: need an even number of at least 4")
    given = None if center is None else np.array(floats(center, 2, "center (qx, qy)"))
    start = find_start(counts, good, given, round_first=ellipse is not None)
    if ellipse is not None:
        start = Start(start.center, stretch_of_axes(ellipse))
    profile = radial_profile_of(counts, good, start)
    peaks, over = ring_peaks(profile)
    rings, indexed = _indexed(crystals, peaks, profile, over, q_pixel, energy)
    check_indexed(indexed, rings)
    width = min(p.width for p in sorted(peaks, key=lambda p: -p.height * p.r)[:4])
    indexed = indexed._replace(scale=refined_scale(rings, profile, over, width, indexed.scale))
    setting = _Setting(counts, unit, good, start, rings, indexed, peaks, profile, over)
    result = _result(setting, _fitted(setting, sectors))
    if q_pixel is not None and abs(q_pixel / result.q_pixel - 1) > PRIOR:
        raise InputError(
            f"the rings fit the crystals with a pixel of {result.q_pixel:.4g} 1/Å and an ellipse a/b {result.ellipse[0]:.3f}, but"
            f" q_pixel={q_pixel:g} has to be known to {100 * PRIOR:.0f} %: give a better q_pixel, or the right crystals"
        )
    return result


def _indexed(crystals: Crystals, peaks: list[Peak], profile: Profile, over: np.ndarray, q_pixel: float | None, energy: float | None) -> Any:
    """Return the rings up to the outermost that is seen, and how well they fit."""
    height = over / np.maximum(profile.error, 1e-12)
    if not peaks:
        index_peaks(known_rings(crystals, _first_rings(crystals), energy), peaks, profile.r, height, q_pixel)
    # of a structure no more rings are needed than the innermost peak could be of, which is one of the first fifteen
    farthest = profile.r[-1] / min(p.r for p in peaks)
    first = known_rings(crystals, _first_rings(crystals), energy)
    rings = known_rings(crystals, farthest * first.g[min(3, len(first.g) - 1)], energy)
    return rings, index_peaks(rings, peaks, profile.r, height, q_pixel)


def _first_rings(crystals: Crystals) -> float:
    """Return a |g| below which a crystal has a few rings: four of the longest reciprocal vectors of the cells."""
    return np.inf if is_lengths(crystals) else 4 * max(float(np.linalg.norm(s.basis, axis=1).max()) for s in structures(crystals))


class _Setting(NamedTuple):
    """What the start found."""

    counts: np.ndarray
    unit: float
    good: np.ndarray
    start: Start
    rings: KnownRings
    indexed: Indexed
    peaks: list[Peak]
    profile: Profile
    over: np.ndarray

    @property
    def width(self) -> float:
        """Return the median full width of the peaks, px."""
        return float(np.clip(np.median([p.width for p in self.peaks]), 1.5, 0.2 * self.peaks[0].r))

    def radii(self) -> tuple[float, float]:
        """Return the inner and outer radius of the fitted pixels: all rings that are seen, with room beside them."""
        on_ring = self.rings.g * self.indexed.scale
        seen = [p.r for p in self.peaks if np.abs(on_ring - p.r).min() < max(1.5, 0.5 * p.width)]
        beam = float(self.profile.r[np.flatnonzero(self.profile.seen > 0.25)[0]])
        low = max(min(seen) * (1 - INSIDE), beam + 2.0, min(seen) - 10 * self.width)
        last, room = max(seen), MARGIN * self.width
        for ring in np.sort(on_ring[on_ring > last + 1]):
            if ring - last > room:  # a gap, in which the fit can end
                room = min(room, ring - last - room / 2)
                break
            last = ring
        return low, min(last + room, float(self.profile.r[-1]))


def _fitted(setting: _Setting, sectors: int) -> FittedRings:
    """Fit with one, twelve, then all sectors."""
    low, high = setting.radii()
    chosen = _merged(setting, high)
    model, p = _model(setting, chosen, low, high)
    x, y = (axis.astype(np.float64) for axis in np.nonzero(setting.good))
    r, phi = model.radius(p, x, y)
    use = (r > low) & (r < high)
    x, y, phi, counts = x[use], y[use], phi[use], setting.counts[setting.good][use]
    heights = np.interp(chosen.g * setting.indexed.scale, setting.profile.r, setting.over)
    amplitude = np.maximum(heights, 1e-3 * heights.max())[None]
    for count in (*[s for s in SECTORS if s < sectors], sectors):
        pixels = Pixels.sorted(x, y, counts, phi, count)
        amplitude = np.repeat(amplitude.mean(axis=0, keepdims=True), count, axis=0)
        found = fit(model, pixels, p, amplitude, COARSE) if count < sectors else fit(model, pixels, p, amplitude)
        p, amplitude = found.p, found.amplitude
    if not found.converged:
        raise InputError("the fit of the rings did not converge: give the right crystals, mask= for shadows, and center= or q_pixel=")
    return FittedRings(found, model, pixels, chosen)


def _merged(setting: _Setting, high: float) -> KnownRings:
    """Return the rings up to a radius. Those much closer than a width become one at their mean place."""
    rings = setting.rings.upto(high / setting.indexed.scale)
    close = np.diff(rings.g * setting.indexed.scale) < CLOSE * setting.width
    group = np.concatenate([[0], np.cumsum(~close)])
    weight = np.bincount(group, rings.intensity)
    g = np.bincount(group, rings.intensity * rings.g) / weight
    names = tuple(" + ".join(n for n, i in zip(rings.names, group) if i == k) for k in range(len(g)))
    crystal = np.array([rings.crystal[group == k][0] for k in range(len(g))])
    return KnownRings(g, weight, names, crystal)


def _model(setting: _Setting, chosen: KnownRings, low: float, high: float) -> tuple[RingModel, np.ndarray]:
    """Return the model with its knots, and parameters to begin with."""
    from scipy.interpolate import BSpline

    count = int(np.clip((high - low) / (KNOT * setting.width), LEAST_KNOTS, MOST_KNOTS))
    ends = (low - setting.width, high + setting.width)
    knots = np.concatenate([[ends[0]] * 3, np.linspace(*ends, count), [ends[1]] * 3])
    fixed = {"inward"} if len(chosen.g) < SEVERAL else set()
    model = RingModel(chosen.g, knots, tuple(n for n in SHAPE if n not in fixed))
    inside = (setting.profile.r > low) & (setting.profile.r < high)
    ground = np.maximum((setting.profile.mean - setting.over)[inside], 1e-3 * setting.profile.mean[inside].max())
    rows = BSpline.design_matrix(setting.profile.r[inside], knots, 3).toarray()
    p = np.zeros(len(model.names))
    spread = (setting.width / 2.355) ** 2
    p[: len(SHAPE)] = [
        *setting.start.center,
        *setting.start.stretch,
        np.log(setting.indexed.scale),
        np.log(setting.width),
        0,
        2,
        0,
        spread / 2,
    ]
    p[len(SHAPE) : len(SHAPE) + model.splines] = np.linalg.solve(rows.T @ rows + 1e-3 * np.eye(rows.shape[1]), rows.T @ np.log(ground))
    return model, p


def _result(setting: _Setting, result: FittedRings) -> RingFit:
    found, model = result.fitted, result.model
    axes = axes_of_stretch(found.p[2:4], found.covariance[2:4, 2:4])
    q_pixel, jacobian = q_of_axes(found.p[:5], axes)
    covariance = jacobian @ found.covariance[:5, :5] @ jacobian.T
    errors = np.sqrt(np.diag(covariance))
    places = ring_places(result, np.sqrt(axes.ratio), setting.unit)
    check_places(places)
    check_present(result, setting.rings)
    expected = np.full(setting.counts.shape, np.nan)
    expected[result.pixels.x.astype(int), result.pixels.y.astype(int)] = setting.unit * found.mu
    return RingFit(
        center=found.p[:2].copy(),
        center_error=errors[:2],
        ellipse=(axes.ratio, 1.0, axes.theta),
        ellipse_error=(axes.ratio_error, axes.theta_error),
        q_pixel=q_pixel,
        q_pixel_error=float(errors[4]),
        covariance=covariance,
        stretch=found.p[2:4].copy(),
        stretch_covariance=found.covariance[2:4, 2:4].copy(),
        rings=places,
        width=float(model.places(found.p)[1][0]),
        dispersion=found.deviance,
        misfit=checked_misfit(result),
        expected=expected,
        explained=setting.indexed.explained,
        found=setting.indexed.found,
        _details=result,
    )
