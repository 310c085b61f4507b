"""Measure centre and ellipse of one diffuse ring, as a glass shows it, from where the same intensity lies in every direction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.calibrate.ring_likelihood import Fitted, fit
from gpu4d.calibrate.ring_model import SHAPE, Pixels, RingModel
from gpu4d.calibrate.ring_start import checked_counts, find_start
from gpu4d.calibrate.stretch import axes_of_stretch, told
from gpu4d.data import Calibration
from gpu4d.data.arguments import FARTHEST, measured_pixels, pixel_mask, real_values
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.real_arrays import floats

SECTORS = 72  # of 5°: speckles of a glass are smaller, so that sectors scatter independently
KNOT = 4.0  # px between knots of the radial shape, or more where there is room for fewer
LEAST_KNOTS, MOST_KNOTS = 6, 16
SMOOTH = 1.5  # px, of the profile in which the ring is looked for
DIRECTIONS = 12  # of 30°, in which the ring is compared with the fit: speckles average out over so much
BESIDE = 1.5  # times the way from the valley inside of the ring to its top: how far outside of its top it is looked at


@dataclass(frozen=True, eq=False)
class HaloFit(Storable, stored="center center_error radius radii residual: [px]"):
    """What a diffuse ring says about the detector, with standard errors.

    Attributes
    ----------
    center, center_error : (2,) float64
        Centre of the ring, px; for several patterns, the place of the ring relative to the given origins.
    ellipse, ellipse_error : (float, float, float), (float, float)
        (a, b, theta) with b = 1, for `Calibration.ellipse`, and standard errors of a/b and theta. theta in rad, from qx towards qy.
    stretch, stretch_covariance : (2,), (2, 2) float64
        (e1, e2) = ½ ln(a/b) (cos 2θ, sin 2θ), whose errors are Gaussian also for a round ring, and their covariance. A glass with
        strain ε (mean strain of the pattern) shows e1 = −(εxx − εyy)/2, e2 = −εxy.
    covariance : (4, 4) float64
        Of (center qx, center qy, e1, e2).
    radius : float
        Where the ring is brightest, px, of the minor axis.
    radii : (float, float)
        Between which it was fitted, px.
    dispersion : float
        Deviance per pixel: about 1 for Poisson counts, more for the speckles of a glass.
    residual : float
        How much farther out than the fit the ring lies, px, rms over twelve directions. A distortion that is no ellipse, a shadow, or
        spots of few grains make it larger than the counts do.
    """

    center: np.ndarray
    center_error: np.ndarray
    ellipse: tuple[float, float, float]
    ellipse_error: tuple[float, float]
    stretch: np.ndarray
    stretch_covariance: np.ndarray
    covariance: np.ndarray
    radius: float
    radii: tuple[float, float]
    dispersion: float
    residual: float

    def apply(self, calibration: Calibration) -> None:
        """Write the ellipse with its errors into a calibration."""
        calibration.measured(ellipse=self.ellipse, ellipse_error=self.ellipse_error, how="diffuse ring")

    def __repr__(self) -> str:
        return f"HaloFit({told(self.ellipse, self.ellipse_error)}, radius {self.radius:.2f} px)"


@on_host("image")
def fit_halo(
    pattern: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    center: ArrayLike | None = None,
    radii: tuple[float, float] | None = None,
) -> HaloFit:
    """Fit centre and ellipse of one diffuse ring, by Poisson maximum likelihood.

    The expected counts are P(r) h(φ). r is the distance from the centre with the ellipse removed, the logarithm of P is any smooth
    function (a cubic spline), and h = exp(c₁ cos φ + s₁ sin φ + c₂ cos 2φ + s₂ sin 2φ) allows for uneven intensity. No radius has to be
    known: the ellipse is the one with which all directions have the same P.

    Parameters
    ----------
    pattern : (Qx, Qy) or (n, Qx, Qy) real
        Counts: one pattern, or several with one ellipse, each with its own origin. NaN pixels do not count.
    mask : (Qx, Qy) bool, optional
        True where the detector counts.
    center : (2,) or (n, 2), optional
        Near the centre, px: of one pattern, or the origins of several, relative to which one common centre is fitted. Needed for several.
    radii : (float, float), optional
        Innermost and outermost radius of the fit, px. By default from the valley inside of the brightest ring to as far outside of it.

    Returns
    -------
    HaloFit

    Raises
    ------
    InputError
        No ring is seen, or the arguments cannot be used.

    Notes
    -----
    Errors are those of the scatter between sectors, so they hold for speckles too. A glass that is strained as a whole shows an ellipse
    of its own: calibrate on one that is not.

    Examples
    --------
    >>> x, y = np.mgrid[:80, :80] - 40.2
    >>> expected = 5 + 50 * np.exp(-(((np.hypot(x / 1.02, y * 1.02) - 25) / 6) ** 2))
    >>> found = fit_halo(np.random.default_rng(0).poisson(expected))
    >>> bool(abs(found.ellipse[0] - 1.02**2) < 4 * found.ellipse_error[0] < 0.02), round(float(found.center[0]), 1)
    (True, 40.2)
    """
    images = real_values(pattern, "pattern", "counts (Qx, Qy) or (n, Qx, Qy)").astype(np.float64)
    several = images.ndim == 3
    if images.ndim not in (2, 3) or 0 in images.shape:
        raise InputError(f"pattern has shape {images.shape}: need one (Qx, Qy), or several (n, Qx, Qy)")
    stack = images if several else images[None]
    valid = pixel_mask(mask, stack.shape[1:], "mask")
    good = np.stack([measured_pixels(image, valid) for image in stack])
    counts, _ = checked_counts(stack, good)
    at = _centers(center, counts, good, several)
    x, y, value = _around(counts, good, at)
    inner, outer, top = _ring(x, y, value, len(stack)) if radii is None else (*floats(radii, 2, "radii (inner, outer)"), np.nan)
    if not 0 < inner < outer < FARTHEST or outer - inner < 5:
        raise InputError(f"radii are ({inner:.3g}, {outer:.3g}) px: need at least 5 px of a ring between them")
    found, model, pixels = _fit(x, y, value, inner, outer)
    first = len(SHAPE)
    r = np.linspace(inner, outer, 400)
    top = float(r[np.argmax(model.background(found.p, r, np.zeros(400))[0])]) if found.p[first:].any() else top
    axes = axes_of_stretch(found.p[2:4], found.covariance[2:4, 2:4])
    return HaloFit(
        center=found.p[:2] + (0 if several else at[0]),
        center_error=np.sqrt(np.diag(found.covariance)[:2]),
        ellipse=(axes.ratio, 1.0, axes.theta),
        ellipse_error=(axes.ratio_error, axes.theta_error),
        stretch=found.p[2:4].copy(),
        stretch_covariance=found.covariance[2:4, 2:4].copy(),
        covariance=found.covariance[:4, :4].copy(),
        radius=top / float(np.sqrt(axes.ratio)),
        radii=(inner, outer),
        dispersion=found.deviance,
        residual=_residual(found, model, pixels),
    )


def _centers(center: ArrayLike | None, counts: np.ndarray, good: np.ndarray, several: bool) -> np.ndarray:
    """Return the centres (n, 2) to begin with."""
    if center is None:
        if several:
            raise InputError("several patterns need center=(n, 2), the origin of each, for example from gpu4d.calibrate.origin")
        return find_start(counts[0], good[0], round_first=True).center[None]
    given = real_values(center, "center", "(2,) or (n, 2), px").astype(np.float64)
    if given.shape not in ((2,), (len(counts), 2)) or not (np.abs(given) < FARTHEST).all():
        raise InputError(f"center is {given.shape}: need (2,) or ({len(counts)}, 2), px, without NaN")
    return np.broadcast_to(given, (len(counts), 2))


def _around(counts: np.ndarray, good: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return places relative to the centres, and counts, of all measured pixels."""
    which, x, y = np.nonzero(good)
    return x - at[which, 0], y - at[which, 1], counts[good]


def _ring(x: np.ndarray, y: np.ndarray, value: np.ndarray, patterns: int) -> tuple[float, float, float]:
    """Return inner and outer radius of the brightest ring outside of the beam, and where it is brightest."""
    from scipy import ndimage

    r = np.hypot(x, y)
    pixels = np.bincount(r.astype(np.int64))
    seen = np.flatnonzero(pixels > 0.5 * 2 * np.pi * (np.arange(len(pixels)) + 0.5) * patterns)  # half of the circumference
    if seen.size < 5:
        raise InputError("no whole ring lies on the detector: give center= near the centre, and a mask that hides less")
    mean = np.bincount(r.astype(np.int64), value)[: seen[-1] + 1] / np.maximum(pixels[: seen[-1] + 1], 1)
    profile = ndimage.gaussian_filter1d(mean, SMOOTH)
    ground = np.maximum(np.minimum.accumulate(profile[seen[0] :]), np.minimum.accumulate(profile[seen[0] :][::-1])[::-1])
    over = profile[seen[0] :] - ground
    top = int(np.argmax(over))
    if over[top] < 0.1 * ground[top] or top < 3:
        raise InputError("no diffuse ring stands out of the pattern: give radii=(inner, outer) and center= if there is one")
    valley = int(np.argmin(profile[seen[0] : seen[0] + top]))
    after = profile[seen[0] + top :]
    end = min(len(after) - 1, int(BESIDE * (top - valley)))
    rise = np.flatnonzero(after[: end + 1] <= after[: end + 1].min())[0]
    return float(seen[0] + valley + 0.5), float(seen[0] + top + max(rise, 3) + 0.5), float(seen[0] + top + 0.5)


def _fit(x: np.ndarray, y: np.ndarray, value: np.ndarray, inner: float, outer: float) -> tuple[Fitted, RingModel, Pixels]:
    """Fit the pixels between two radii about the first centre, from their mean profile."""
    from scipy.interpolate import BSpline

    r = np.hypot(x, y)
    use = (r > inner) & (r < outer)
    if use.sum() < 100:
        raise InputError(f"{int(use.sum())} pixels lie between the radii {inner:.1f} and {outer:.1f} px: too few for a ring")
    x, y, value, r = x[use], y[use], value[use], r[use]
    count = int(np.clip((outer - inner) / KNOT, LEAST_KNOTS, MOST_KNOTS))
    room = 0.05 * outer
    ends = (inner - room, outer + room)
    knots = np.concatenate([[ends[0]] * 3, np.linspace(*ends, count), [ends[1]] * 3])
    model = RingModel(np.zeros(0), knots, SHAPE[:4])
    p = np.zeros(len(model.names))
    which = (r - inner).astype(np.int64)
    pixels = np.bincount(which)
    there = np.flatnonzero(pixels)
    level = np.bincount(which, value)[there] / pixels[there]
    rows = BSpline.design_matrix(np.bincount(which, r)[there] / pixels[there], knots, 3).toarray()
    start = np.log(np.maximum(level, 1e-3 * level.max()))
    p[len(SHAPE) : len(SHAPE) + model.splines] = np.linalg.solve(rows.T @ rows + 1e-4 * np.eye(model.splines), rows.T @ start)
    counted = Pixels.sorted(x, y, value, np.arctan2(y, x), SECTORS)
    found = fit(model, counted, p, np.zeros((SECTORS, 0)))
    if not found.converged:
        raise InputError("the fit of the diffuse ring did not converge: give radii= around it and center= near its centre")
    return found, model, counted


def _residual(found: Fitted, model: RingModel, pixels: Pixels) -> float:
    """Return how much farther out than the fit the ring lies, px, rms over twelve directions, weighted by what each tells.

    In one direction it is the shift of the profile that explains what is left of the counts best: Σ b (n − μ) / μ over Σ b² / μ, where
    b = −dμ/dr is how the expected counts μ change.
    """
    r, phi = model.radius(found.p, pixels.x, pixels.y)
    by = -model.background(found.p, r, phi)[1]
    direction = pixels.sector * DIRECTIONS // pixels.sectors
    score = np.bincount(direction, by * (pixels.counts - found.mu) / found.mu, DIRECTIONS)
    information = np.bincount(direction, by**2 / found.mu, DIRECTIONS)
    seen = information > 0
    return float(np.sqrt((score[seen] ** 2 / information[seen]).sum() / information.sum())) if seen.any() else 0.0
