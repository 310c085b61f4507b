"""The radial profile of a vacuum probe, and in what the probe differs from it by more than its noise."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gpu4d.errors import InputError
from gpu4d.probe.measure_disk import Disk, measure_disk

STEP = 0.05  # px, bins of a radial profile
KNOTS, KNOT_POINTS = 0.4, 4  # px and bins between knots of its spline: closer ones follow the noise of the probe
ROUND, ROUND_SHARE = 1.0, 0.05  # px, and radii, rms from a circle: farther off, the profile is that of no disk
HARMONICS = 6  # of the rim: a square has its first beside the constant in cos 4θ
CERTAIN = 20.0  # χ² of two terms that noise reaches once in 20 000 times
CORE = 0.75  # radii: farther in, what a fit leaves over is noise
DARKEST = 0.02  # of the plateau: pixels behind the disk weigh no more than those


class RadialProfile(NamedTuple):
    """Where the probe's disk is, and its intensity (1 on the plateau) by distance from there, pixels."""

    disk: Disk
    value: Callable[[Any], Any]


class Shape(NamedTuple):
    """A probe without its noise.

    Attributes
    ----------
    plateau : float
        The image's mean inside the disk.
    rim, noise : float
        rms distance of the rim from a circle, pixels: what the image shows, and what its noise would show of a circle.
    image : callable
        From x, y relative to the disk's centre to the intensity: the profile, and what differs from it with certainty.
    """

    plateau: float
    rim: float
    noise: float
    image: Callable[[np.ndarray, np.ndarray], np.ndarray]


def usual_reach(disk: Disk) -> float:
    """Radius of the window a disk is fitted in, pixels."""
    return disk.radius + max(3.0, 2.0 + 1.3 * disk.edge)


@lru_cache(maxsize=8)
def radial_profile(pixels: bytes, shape: tuple[int, int]) -> RadialProfile:
    """Of an image float64, kept: a probe serves many searches, and measuring it takes as long as hundreds of patterns.

    The probe's pixels lie at many different radii, so together they sample its edge far more finely than one a pixel: a logistic
    edge is fitted, and what it leaves over is averaged in bins of 0.05 px with a least-squares spline through their means.
    """
    disk = measure_disk(image := np.frombuffer(pixels).reshape(shape))
    if disk.residual > max(ROUND, ROUND_SHARE * disk.radius):
        raise InputError(
            f"the probe's edge lies {disk.residual:.1f} px rms off a circle: a radial profile needs a round probe; use refine='correlation'"
        )
    x, y = np.arange(shape[0])[:, None] - disk.qx, np.arange(shape[1])[None, :] - disk.qy
    r = np.hypot(x, y)
    values = image / image[r <= max(0.7 * disk.radius, r.min())].mean()

    def edge(q: Any) -> Any:
        return 1 / (1 + np.exp(np.clip(4 * (q - disk.radius) / disk.edge, -60, 60)))

    # The spline sees what the fitted edge leaves over: the pixels of a probe centred on one lie at few radii, and noise between
    # neighbouring radii would be a steep slope.
    near = r <= 1.5 * disk.radius + 6
    rest = _smooth(r[near], (values - edge(r))[near], 1 / np.maximum(edge(r[near]), DARKEST))
    return RadialProfile(disk, lambda q: edge(q) + rest(q))


def _smooth(r: np.ndarray, rest: np.ndarray, weight: np.ndarray) -> Any:
    """Weighted means in narrow bins of r, a least-squares cubic spline through them; even about r = 0, and 0 behind the last."""
    from scipy.interpolate import LSQUnivariateSpline

    bins = (r / STEP).astype(int)
    total = np.bincount(bins, weight)
    some = total > 0
    radius, mean = (np.bincount(bins, weight * v)[some] / total[some] for v in (r, rest))
    off = radius > 0
    x, y, w = (np.concatenate([sign * v[off][::-1], v]) for sign, v in ((-1, radius), (1, mean), (1, np.sqrt(total[some]))))
    knots, at = [], 0
    for i in range(KNOT_POINTS, len(x) - KNOT_POINTS):
        if i - at >= KNOT_POINTS and x[i] - x[at] >= KNOTS:
            knots.append((x[i] + x[i - 1]) / 2)
            at = i
    curve = LSQUnivariateSpline(x, y, knots, w)
    return lambda q: np.where(q <= radius[-1], curve(np.minimum(q, radius[-1])), 0.0)


def shape_of(image: np.ndarray, profile: RadialProfile) -> Shape:
    """What of a probe its radial profile does not hold: harmonics of the rim, slopes and curvatures inside.

    A weighted least-squares fit of I - D(r) by D'(r) cos mθ, D'(r) sin mθ and D(r) times x, y, x² - y², 2 x y, x r², y r². The noise
    is what that fit leaves over inside, in units of the square root of D: so it needs no counts, and an image on any scale will do.
    """
    disk, value = profile
    x, y = np.arange(image.shape[0])[:, None] - disk.qx, np.arange(image.shape[1])[None, :] - disk.qy
    r = np.hypot(x, y)
    reach = usual_reach(disk)
    plateau = image[r <= max(0.7 * disk.radius, r.min())].mean()
    rest = image / plateau - value(r)
    inside = r <= reach
    most = int(np.clip(np.pi * disk.radius / 3, 2, HARMONICS))  # three pixels of rim to a harmonic and its phase
    x, y = (np.broadcast_to(v, r.shape)[inside] for v in (x, y))
    terms = _terms(x, y, profile, most)
    weight = 1 / np.maximum(value(r[inside]), DARKEST)
    normal = np.linalg.pinv((terms * weight) @ terms.T, hermitian=True)
    found = normal @ ((terms * weight) @ rest[inside])
    left = rest[inside] - found @ terms
    core = r[inside] <= max(CORE * disk.radius, 1.5)  # a rim that is not round would be taken for noise
    leverage = weight * np.einsum("in,ij,jn->n", terms, normal, terms)
    covariance = normal * (weight @ (left**2 * core)) / max(core @ (1 - leverage), 1.0)
    pairs = np.arange(len(terms)).reshape(-1, 2)
    chi = [found[p] @ np.linalg.pinv(covariance[np.ix_(p, p)], hermitian=True) @ found[p] for p in pairs]
    certain = np.where(np.repeat(np.asarray(chi) > CERTAIN, 2), found, 0.0)
    rim = slice(2, 2 * most)  # the first two are a shift

    def smooth(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        x, y = np.broadcast_arrays(x, y)
        r = np.hypot(x, y)
        out, near = value(r), r <= reach
        out[near] += certain @ _terms(x[near], y[near], profile, most)
        return np.maximum(out, 0.0)

    return Shape(float(plateau), float(np.sqrt((found[rim] ** 2).sum() / 2)), float(np.sqrt(covariance.diagonal()[rim].sum() / 2)), smooth)


def _terms(x: np.ndarray, y: np.ndarray, profile: RadialProfile, harmonics: int) -> np.ndarray:
    """First the rim's cos θ, sin θ, cos 2θ, … in pixels, then what is inside, (2 harmonics + 6, n)."""
    r, angle = np.hypot(x, y), np.arctan2(y, x)
    value = profile.value
    fall = (value(np.maximum(r - STEP, 0.0)) - value(r + STEP)) / (2 * STEP)
    rim = [fall * wave(m * angle) for m in range(1, harmonics + 1) for wave in (np.cos, np.sin)]
    u, v, height = x / profile.disk.radius, y / profile.disk.radius, value(r)
    inner = [u, v, u * u - v * v, 2 * u * v, u * (u * u + v * v), v * (u * u + v * v)]
    return np.stack([*rim, *(height * t for t in inner)])
