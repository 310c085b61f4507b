"""Find the rotation between detector and scan by comparing a STEM image with shadow images of the defocused probe.

Host by design: a few images.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import scipy  # its parts are imported when they are used

from gpu4d import physics
from gpu4d.arrays import ArrayLike
from gpu4d.calibrate.shadow_fresnel import half_turn_from_fringes
from gpu4d.calibrate.shadow_points import ShadowRotation
from gpu4d.data.arguments import FARTHEST, host_image, real_values
from gpu4d.data.calibration import Calibration
from gpu4d.data.scan_axes import scan_matrix
from gpu4d.errors import InputError
from gpu4d.on_host import on_host

COARSE = math.radians(4.0)  # step of the search; a particle at the rim of a disk of 80 px moves by 6 px, less than its width
SAMPLES = 40  # pixels across the bright-field disk in the search
SEARCHED = 3  # shadow images of the search; all of them are used for the refinement
SCALES = np.geomspace(0.05, 20, 45)  # scan pixels per detector pixel that are tried if it is not known: neighbours differ by 15 %
STEPS = np.array([2e-3, 2e-3, 0.05, 0.05])  # rad, 1, px, px: of the numerical derivatives
ROUNDS = 25  # of the refinement, at most
LEAST_INSIDE = 0.15  # of the disk's pixels must fall into the STEM image
SURE = 5.0  # standard errors by which Fresnel fringes must tell the sign of the defocus
PARTS = 4  # of an image along each axis, which are left out one after the other for the standard error


@on_host("image")
def shadow_rotation(
    image: ArrayLike,
    shadows: ArrayLike,
    positions: ArrayLike,
    *,
    center: tuple[float, float],
    radius: float,
    defocus: float | None = None,
    scale: float | None = None,
    calibration: Calibration | None = None,
) -> ShadowRotation:
    """Find rotation and transpose by registering shadow images of the defocused probe with a STEM image of the same place.

    A shadow image shows the specimen: in scan axes the detector vector k sees the place r = R0 + λ C10 k, where R0 is the probe position.
    All angles are compared, with and without transpose. The best one is refined together with the scale and a common shift. The
    agreement is the squared correlation, because a shadow is dark where an annular dark-field image is bright.

    An underfocused probe (C10 < 0) shows the specimen upside down. So the sign of the defocus decides about 180°. If it is not given,
    the Fresnel fringes decide where they can: a specimen that is denser attracts electrons, and seen in overfocus it is brighter in its
    middle than absorption alone makes it. If they cannot, the result says so.

    Parameters
    ----------
    image : (Rx, Ry) array
        STEM image, for example of an annular detector. It may be a `RealSlice`.
    shadows : (Qx, Qy) or (n, Qx, Qy) array
        Shadow images, which are patterns of the defocused probe.
    positions : (2,) or (n, 2) array
        Probe position of each shadow image in pixels of the STEM image.
    center : (float, float)
        Centre of the bright-field disk, detector px.
    radius : float
        Its radius, detector px.
    defocus : float, optional
        Defocus, Å, positive for underfocus (defocus = −C10). Its sign decides about 180°. With a calibration, its size fixes the scale.
    scale : float, optional
        Scan pixels per detector pixel, if it is known. None: from `defocus` and `calibration`, else searched.
    calibration : Calibration, optional
        Its energy, q_pixel and r_pixel are used.

    Returns
    -------
    ShadowRotation

    Warns
    -----
    UserWarning
        180° are not decided.

    Raises
    ------
    InputError
        Shapes do not fit, or the shadow images show places outside the STEM image.

    Notes
    -----
    Guide, section 7.3. The convention of the angle is that of `gpu4d.calibrate.rotation`.
    """
    stem = host_image(image, "image").astype(np.float64)
    if not np.isfinite(stem).all():
        raise InputError("the STEM image has NaN: crop it to what was measured, or fill the gaps")
    if defocus is not None and not math.isfinite(defocus):
        raise InputError(f"defocus={defocus}: need a number in Å, positive for underfocus")
    frames, places = _checked(shadows, positions, center, radius)
    size = None if defocus is None else abs(float(defocus))
    if scale is None and size and calibration is not None and calibration.q_pixel and calibration.r_pixel and calibration.energy:
        scale = physics.wavelength(calibration.energy) * size * calibration.q_pixel / calibration.r_pixel
    views = [_View(stem, frame, place, np.asarray(center, np.float64), float(radius)) for frame, place in zip(frames, places, strict=True)]
    (angle, transpose, factor), others = _search(views[:: math.ceil(len(views) / SEARCHED)], scale)
    best = _refined(views, np.array([angle, math.log(factor), 0.0, 0.0]), transpose, scale is None)
    rival = max(_refined_agreement(views, other, scale is None, best, transpose) for other in others)
    error = _error(views, best, transpose, scale is None)
    correlation = _together([view.correlation(best, transpose) for view in views])
    found, factor = float(best[0]), math.exp(best[1])
    overfocused, how, fringes = _side(views, best, transpose, defocus, calibration)
    if overfocused is False:
        found += math.pi
    found = math.remainder(found, 2 * math.pi)
    under = None if overfocused is None else not overfocused
    shift = float(best[2]), float(best[3])
    result = ShadowRotation(found, error, transpose, factor, correlation, correlation**2 / max(rival, 1e-12), how, shift, under, fringes)
    if how == "undecided":
        text = (
            f"the sign of the defocus is not known, so the rotation is {math.degrees(found):.1f}° or 180° more: give defocus= with its sign"
        )
        warnings.warn(text, stacklevel=2)
    return result


def _checked(shadows: ArrayLike, positions: ArrayLike, center: tuple[float, float], radius: float) -> tuple[np.ndarray, np.ndarray]:
    frames = real_values(shadows, "shadows", "(Qx, Qy) or (n, Qx, Qy)").astype(np.float64)
    places = real_values(positions, "positions", "(n, 2) scan pixels").astype(np.float64)
    frames = frames[None] if frames.ndim == 2 else frames
    places = places[None] if places.ndim == 1 else places
    if frames.ndim != 3 or 0 in frames.shape or places.shape != (len(frames), 2):
        raise InputError(f"shadows are {frames.shape} and positions {places.shape}: need one position (x, y) for each shadow image")
    if not np.isfinite(frames).all() or not (np.abs(places) < FARTHEST).all():
        raise InputError("shadows or positions are not finite: fill bad pixels first (gpu4d.preprocess.fill_from_neighbours)")
    if len(center) != 2 or not 4 <= radius < max(frames.shape[1:]):
        raise InputError(f"center={center}, radius={radius:g}: need the centre and the radius (4 or more) of the bright-field disk, px")
    return frames, places


class _View:
    """One shadow image, sampled on a grid inside the bright-field disk, and the STEM image it is compared with."""

    def __init__(self, stem: np.ndarray, frame: np.ndarray, place: np.ndarray, center: np.ndarray, radius: float):
        step = max(1.0, 2 * radius / SAMPLES)
        axis = np.arange(-0.9 * radius, 0.9 * radius + 1e-9, step)
        grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
        self.q = grid[np.linalg.norm(grid, axis=-1) < 0.9 * radius]  # detector px, from the centre
        smooth = scipy.ndimage.gaussian_filter(frame, step / 2)
        values = scipy.ndimage.map_coordinates(smooth, (self.q + center).T, order=1, mode="nearest")
        trend = np.stack([np.ones(len(self.q)), *(self.q / radius).T, (np.linalg.norm(self.q, axis=-1) / radius) ** 2], axis=-1)
        self.values = values - trend @ np.linalg.lstsq(trend, values, rcond=None)[0]  # uneven illumination is none of the specimen
        self.stem, self.place, self.center, self.radius, self.frame = stem, place, center, radius, frame
        self.step = step
        self._smoothed: dict[tuple[int, bool], np.ndarray] = {}

    def places(self, parameters: np.ndarray, transpose: bool) -> np.ndarray:
        """Return the scan places (n, 2) that the detector points show, for (angle, log scale, shift x, shift y) of an overfocused probe."""
        angle, log_scale, *shift = parameters
        return self.place + np.asarray(shift) + math.exp(log_scale) * self.q @ scan_matrix(angle, transpose).T

    def correlation(self, parameters: np.ndarray, transpose: bool) -> tuple[float, float]:
        """Return the correlation with the STEM image, and the number of points inside it. (0, 0) if too few are inside."""
        r = self.places(parameters, transpose)
        inside = self.inside(r)
        if inside.sum() < LEAST_INSIDE * len(self.q):
            return 0.0, 0.0
        blurred = self.smoothed(math.exp(parameters[1]) * self.step / 2)
        a, b = scipy.ndimage.map_coordinates(blurred, r[inside].T, order=1), self.values[inside]
        a, b = a - a.mean(), b - b.mean()
        norm = math.sqrt(float(a @ a) * float(b @ b))
        return (float(a @ b) / norm if norm > 0 else 0.0), float(inside.sum())

    def inside(self, r: np.ndarray, border: float = 0.0) -> np.ndarray:
        """Return True for places (n, 2) within the STEM image."""
        return np.asarray(np.logical_and(r >= border, r <= np.asarray(self.stem.shape) - 1 - border).all(axis=-1))

    def smoothed(self, sigma: float, spline: bool = False) -> np.ndarray:
        """Return the STEM image, blurred to the distance of the samples, or the coefficients of its spline. A few of them are kept."""
        key = (round(math.log(max(sigma, 0.05)) * 4), spline)
        if key not in self._smoothed:
            blurred = scipy.ndimage.gaussian_filter(self.stem, math.exp(key[0] / 4))
            self._smoothed[key] = scipy.ndimage.spline_filter(blurred, mode="mirror") if spline else blurred
        return self._smoothed[key]

    def residual(self, parameters: np.ndarray, transpose: bool, kept: np.ndarray, sigma: float) -> np.ndarray:
        """Return what is left of the shadow, in units of its own size, after the best multiple of the STEM image is subtracted."""
        r = self.places(parameters, transpose)[kept]
        a, b = scipy.ndimage.map_coordinates(self.smoothed(sigma, True), r.T, order=3, mode="mirror", prefilter=False), self.values[kept]
        a, b = a - a.mean(), b - b.mean()
        left = b - (float(a @ b) / max(float(a @ a), 1e-300)) * a
        return left / math.sqrt(max(float(b @ b), 1e-300))


def _together(parts: list[tuple[float, float]]) -> float:
    """Return the mean correlation of several shadow images, by the number of points."""
    weights = np.array([n for _, n in parts])
    return float(np.array([c for c, _ in parts]) @ weights / weights.sum()) if weights.any() else 0.0


Answer = tuple[float, bool, float]  # angle, transpose, scale


def _search(views: list[_View], scale: float | None) -> tuple[Answer, list[Answer]]:
    """Return the best angle, transpose and scale on a grid, and its rivals: the best with the other transpose, and at another angle."""
    angles = np.arange(-math.pi, math.pi, COARSE)
    scales = SCALES if scale is None else [scale]
    found = []
    for factor in scales:
        for transpose in (False, True):
            for angle in angles:
                at = np.array([angle, math.log(factor), 0.0, 0.0])
                found.append((_together([v.correlation(at, transpose) for v in views]) ** 2, angle, transpose, factor))
    best = max(found)
    if not best[0] > 0:
        raise InputError(
            "the shadow images show places outside the STEM image: check positions= (pixels of the STEM image) and the defocus"
        )
    near = [abs(math.remainder(row[1] - best[1], 2 * math.pi)) <= 4 * COARSE for row in found]
    mirrored = max(row for row in found if row[2] != best[2])
    turned = max(row for row, close in zip(found, near, strict=True) if row[2] == best[2] and not close)
    return best[1:], [mirrored[1:], turned[1:]]


def _refined_agreement(views: list[_View], answer: Answer, free_scale: bool, best: np.ndarray, transpose: bool) -> float:
    """Return the agreement of a rival after it was refined like the best answer. 0 if the refinement leads to the same answer."""
    angle, other, factor = answer
    try:
        found = _refined(views, np.array([angle, math.log(factor), 0.0, 0.0]), other, free_scale)
    except InputError:
        return 0.0
    if other == transpose and abs(math.remainder(found[0] - best[0], 2 * math.pi)) < COARSE:
        return 0.0
    return _together([view.correlation(found, other) for view in views]) ** 2


def _refined(views: list[_View], start: np.ndarray, transpose: bool, free_scale: bool, kept: list[np.ndarray] | None = None) -> np.ndarray:
    """Minimise what is left of the shadows, over angle, shift and, if it is not known, scale (Levenberg and Marquardt)."""
    free = np.array([True, free_scale, True, True])
    sigma = math.exp(start[1]) * views[0].step / 2
    some = [v.inside(v.places(start, transpose), 2.0) & (True if kept is None else kept[n]) for n, v in enumerate(views)]
    used = [(v, k) for v, k in zip(views, some, strict=True) if k.sum() > 20]
    if not used:
        raise InputError("hardly any point of the shadow images lies inside the STEM image: check positions= and the defocus")

    def left(at: np.ndarray) -> np.ndarray:
        return np.concatenate([v.residual(at, transpose, k, sigma) for v, k in used])

    best, damping = start.copy(), 1e-2
    residual = left(best)
    for _ in range(ROUNDS):
        slopes = []
        for number in np.flatnonzero(free):
            step = np.zeros(4)
            step[number] = STEPS[number]
            slopes.append((left(best + step) - left(best - step)) / 2)
        jacobian = np.stack(slopes, axis=-1)
        normal, right = jacobian.T @ jacobian, jacobian.T @ residual
        change = np.zeros(4)
        change[free] = -np.linalg.solve(normal + damping * np.diag(np.diag(normal) + 1e-12), right) * STEPS[free]
        tried = left(best + change)
        if tried @ tried < residual @ residual:
            best, residual, damping = best + change, tried, damping / 5
            if np.all(np.abs(change) < 1e-3 * STEPS):
                break
        else:
            damping *= 10
            if damping > 1e6:
                break
    return best


def _error(views: list[_View], best: np.ndarray, transpose: bool, free_scale: bool) -> float:
    """Return the standard error of the angle by the jackknife over parts of the detector: neighbouring pixels are not independent."""
    angles = []
    for part in range(PARTS * PARTS):
        i, j = divmod(part, PARTS)
        kept = []
        for v in views:
            cell = np.floor((v.q / (0.9 * v.radius) + 1) / 2 * PARTS).clip(0, PARTS - 1)
            kept.append(~((cell[:, 0] == i) & (cell[:, 1] == j)))
        if all(k.all() for k in kept):
            continue
        angles.append(_refined(views, best, transpose, free_scale, kept)[0])
    n = len(angles)
    return float(math.sqrt((n - 1) / n * np.sum((np.array(angles) - np.mean(angles)) ** 2)))


def _side(
    views: list[_View], best: np.ndarray, transpose: bool, defocus: float | None, calibration: Calibration | None
) -> tuple[bool | None, str, float]:
    """Return whether the probe is overfocused, None if that is not known, what decided, and how clear fringes are, standard errors."""
    if defocus is not None and defocus != 0:
        return defocus < 0, "defocus", math.nan
    z = half_turn_from_fringes(
        [(v.stem, v.frame, v.center, v.radius, v.place + best[2:], v.q) for v in views], best, transpose, calibration
    )
    if abs(z) >= SURE:
        return z > 0, "fringes", z
    return None, "undecided", z
