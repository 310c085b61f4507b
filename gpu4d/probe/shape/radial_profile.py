"""Measure the radial profile of a vacuum probe, and differences of the probe from it that are larger than its noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gpu4d.cache import kept_by_content
from gpu4d.errors import InputError
from gpu4d.probe.measure_disk import Disk, measure_disk
from gpu4d.probe.shape.even_spline import even_spline

STEP = 0.05  # px: step of numerical slopes of the profile
KNOTS_AN_EDGE, CLOSEST, WIDEST = 5, 0.1, 0.2  # knots of the spline in the width of the edge; least and largest distance of knots, px
FARTHEST = 0.5  # px: a larger shift of the centre is not used
ROUNDS = 2  # fits of the profile around its centre; the centre is fitted with the profile between them
ROUND, ROUND_SHARE = 1.0, 0.05  # px, and radii: a rim whose rms distance from a circle exceeds both has no radial profile
HARMONICS = 6  # highest harmonic of the rim; the first of a square is cos 4θ
CERTAIN = 20.0  # χ² of two terms; noise reaches it once in 20 000 times
CORE = 0.75  # radii: inside, the residual of a fit is noise alone
DARKEST = 0.02  # of the plateau: darker pixels get the weight of this level


class RadialProfile(NamedTuple):
    """A round disk.

    Attributes
    ----------
    disk : Disk
        Circle through the rim, and width of the edge.
    center : (2,) float64
        Centre of the profile, pixels. It is also the centre of the rim (rings inside the disk can move the fitted rim).
    value : callable
        Returns the intensity at a distance from this centre, pixels. It is 1 on the plateau.
    """

    disk: Disk
    center: np.ndarray
    value: Callable[[Any], Any]


class Shape(NamedTuple):
    """A model of a probe without noise.

    Attributes
    ----------
    plateau : float
        Mean of the image inside the disk.
    rim, noise : float
        Rms distance of the rim from a circle, pixels: as measured, and as the noise of the image would give for a circle.
    image : callable
        Returns the intensity at x, y relative to the centre of the profile: the profile plus all differences that are certain.
    """

    plateau: float
    rim: float
    noise: float
    image: Callable[[np.ndarray, np.ndarray], np.ndarray]


def usual_reach(disk: Disk) -> float:
    """Return the radius of the window in which a disk is fitted, pixels."""
    return disk.radius + max(3.0, 2.0 + 1.3 * disk.edge)


@kept_by_content(maxsize=8)
def radial_profile(pixels: bytes, shape: tuple[int, int]) -> RadialProfile:
    """Fit the radial profile of an image float64, around its own centre.

    The probe's pixels lie at many different radii, so together they sample its edge far more finely than one pixel. A logistic edge is
    fitted, and a smoothing spline is fitted to the residual (`even_spline`). Height, place and width of the edge are fitted again
    together with the spline, so that the spline does not have to correct errors of them in a noisy image.

    The result is cached, because one probe is used for many searches, and measuring it takes as long as hundreds of patterns.
    """
    disk = measure_disk(image := np.frombuffer(pixels).reshape(shape))
    if disk.residual > max(ROUND, ROUND_SHARE * disk.radius):
        raise InputError(
            f"the probe's edge deviates {disk.residual:.1f} px rms from a circle: a radial profile needs a round probe; "
            "use refine='correlation'"
        )

    def edge(q: Any) -> Any:
        """Return the logistic edge at distances q."""
        return 1 / (1 + np.exp(np.clip(4 * (q - disk.radius) / disk.edge, -60, 60)))

    def terms(q: Any) -> np.ndarray:
        """Return height, place and width of the edge as terms without a penalty."""
        f = edge(q)
        return np.stack([f, f * (1 - f), f * (1 - f) * (q - disk.radius) / disk.edge], axis=-1)

    step = float(np.clip(disk.edge / KNOTS_AN_EDGE, CLOSEST, WIDEST))
    center = np.array(disk[:2])
    value: Callable[[Any], Any] = edge
    for i in range(ROUNDS):
        x, y, r, values = _about(image, center, disk.radius)
        height = value(r)
        noisy = np.clip(height / DARKEST, 0.0, 1.0).sum()  # pixels without counts have no noise
        rest = even_spline(r, values - edge(r), np.maximum(height, DARKEST), terms, step, float(noisy))
        value = _sum(edge, rest)
        if i < ROUNDS - 1:
            center = center + _shift(x, y, r, values, value, disk.radius)
    return RadialProfile(disk, center, value)


def _sum(one: Callable[[Any], Any], other: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return the sum of two functions."""
    return lambda q: one(q) + other(q)


def _about(image: np.ndarray, center: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return x, y, r and the intensity, in units of the plateau, of the pixels in and around a disk."""
    x, y = np.arange(image.shape[0])[:, None] - center[0], np.arange(image.shape[1])[None, :] - center[1]
    r = np.hypot(x, y)
    near = r <= 1.5 * radius + 6
    x, y = (np.broadcast_to(v, r.shape)[near] for v in (x, y))
    return x, y, r[near], image[near] / image[r <= max(0.7 * radius, r.min())].mean()


def _shift(x: np.ndarray, y: np.ndarray, r: np.ndarray, values: np.ndarray, value: Callable[[Any], Any], radius: float) -> np.ndarray:
    """Return the shift from the assumed to the fitted centre of the disk, pixels. Slopes of the intensity inside are fitted too."""
    height = value(r)
    fall = (value(np.maximum(r - STEP, 0.0)) - value(r + STEP)) / (2 * STEP) / np.maximum(r, STEP)
    rows = np.stack([fall * x, fall * y, height * x / radius, height * y / radius])
    weight = 1 / np.maximum(height, DARKEST)
    normal, right = np.einsum("in,n,jn->ij", rows, weight, rows), np.einsum("in,n->i", rows, weight * (values - height))
    shift = np.linalg.lstsq(normal, right, rcond=1e-12)[0][:2]
    return shift if np.hypot(*shift) <= FARTHEST else np.zeros(2)


def shape_of(image: np.ndarray, profile: RadialProfile) -> Shape:
    """Fit the differences of a probe from its radial profile: harmonics of the rim, slopes and curvatures inside.

    The difference I - D(r) is fitted by weighted least squares with D'(r) cos mθ, D'(r) sin mθ, and D(r) times x, y, x² - y², 2 x y, x r²,
    y r². The noise is measured from the residual inside, in units of the square root of D. So the image may have any scale.
    """
    disk, center, value = profile
    x, y = np.arange(image.shape[0])[:, None] - center[0], np.arange(image.shape[1])[None, :] - center[1]
    r = np.hypot(x, y)
    reach = usual_reach(disk)
    plateau = image[r <= max(0.7 * disk.radius, r.min())].mean()
    rest = image / plateau - value(r)
    inside = r <= reach
    most = int(np.clip(np.pi * disk.radius / 3, 2, HARMONICS))  # a harmonic needs three pixels of the rim for its amplitude and phase
    x, y = (np.broadcast_to(v, r.shape)[inside] for v in (x, y))
    terms = _terms(x, y, profile, most)
    weight = 1 / np.maximum(value(r[inside]), DARKEST)
    normal = np.linalg.pinv((terms * weight) @ terms.T, hermitian=True)
    found = normal @ ((terms * weight) @ rest[inside])
    left = rest[inside] - found @ terms
    core = r[inside] <= max(CORE * disk.radius, 1.5)  # not at the rim: there a form that is not round would count as noise
    leverage = weight * np.einsum("in,ij,jn->n", terms, normal, terms)
    covariance = normal * (weight @ (left**2 * core)) / max(core @ (1 - leverage), 1.0)
    pairs = np.arange(len(terms)).reshape(-1, 2)
    chi = [found[p] @ np.linalg.pinv(covariance[np.ix_(p, p)], hermitian=True) @ found[p] for p in pairs]
    certain = np.where(np.repeat(np.asarray(chi) > CERTAIN, 2), found, 0.0)
    rim = slice(2, 2 * most)  # the first two are a shift

    def smooth(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the intensity without noise at x, y."""
        x, y = np.broadcast_arrays(x, y)
        r = np.hypot(x, y)
        out, near = value(r), r <= reach
        out[near] += certain @ _terms(x[near], y[near], profile, most)
        return np.maximum(out, 0.0)

    return Shape(float(plateau), float(np.sqrt((found[rim] ** 2).sum() / 2)), float(np.sqrt(covariance.diagonal()[rim].sum() / 2)), smooth)


def _terms(x: np.ndarray, y: np.ndarray, profile: RadialProfile, harmonics: int) -> np.ndarray:
    """Return (2 harmonics + 6, n): changes by harmonics of the rim (cos θ, sin θ, cos 2θ, … in pixels), then by slopes inside."""
    r, angle = np.hypot(x, y), np.arctan2(y, x)
    value = profile.value
    fall = (value(np.maximum(r - STEP, 0.0)) - value(r + STEP)) / (2 * STEP)
    rim = [fall * wave(m * angle) for m in range(1, harmonics + 1) for wave in (np.cos, np.sin)]
    u, v, height = x / profile.disk.radius, y / profile.disk.radius, value(r)
    inner = [u, v, u * u - v * v, 2 * u * v, u * (u * u + v * v), v * (u * u + v * v)]
    return np.stack([*rim, *(height * t for t in inner)])
