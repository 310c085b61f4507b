"""Measure centre, radius and edge of the bright-field disk."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import host_image, measured_pixels
from gpu4d.data.bad_pixels import find_bad_pixels
from gpu4d.data.fill import fill_from_neighbours
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.probe.outline import bright_outline, circle, dark_ring
from gpu4d.probe.small_disk import SMALL, small_disk, standard_errors

RAYS = 180  # number of rays, 2° apart
STEP = 0.1  # sampling along a ray, px
MAYBE_SMALL = 4.0  # px: a bright region of this radius may be a disk of less than `SMALL` px, and is tried as one
CLEAN = 0.15  # px rms from the circle: a disk with less is taken as even, and its centre is fitted


class _Disk(NamedTuple):
    qx: float
    qy: float
    radius: float
    edge: float
    residual: float
    radius_error: float = math.nan


class Disk(_Disk, Storable, stored="qx qy radius edge residual radius_error: [px]"):
    """A measured disk.

    Attributes
    ----------
    qx, qy : float
        Centre, detector pixels.
    radius : float
        Distance from the centre at which the intensity has fallen half way, pixels.
    edge : float
        Width w of the sigmoid edge 1 / (1 + exp(4 (r - R) / w)), pixels.
    residual : float
        Rms distance of the edge from the circle, pixels. Above a pixel or two this is no round disk.
    radius_error : float
        Standard error of the radius, from the scatter of the pixels about the fit, pixels. NaN if it is not known.
    """

    __slots__ = ()


@on_host("image")
def measure_disk(image: ArrayLike, mask: ArrayLike | None = None) -> Disk:
    """Fit a circle to the edge of the brightest disk of a pattern.

    Rays go outwards from the brightest region. On each ray the edge is the point where the smoothed intensity falls steepest, to a
    fraction of a pixel. A circle is fitted to these points with Tukey weights, so that neighbouring disks, a beam stop or contrast
    inside the disk do not distort it. Then radius and width of the edge are fitted to the pixels near the edge. The result is the
    centre of the disk, not its centre of mass. Structure inside the disk shifts the centre of mass, but not this centre.

    Hot pixels and hits of X-rays are left out if they stand out as `gpu4d.preprocess.find_bad_pixels` asks.

    A disk of less than 3 px has no edge that rays could cross. Centre, radius and edge are then fitted to all of its pixels at once.

    A patterned disk, such as a bullseye or a cross, has bright parts that dark ones separate. If the outline of several bright parts
    together is a circle, this circle is the disk. Its radius is that of the outermost rim.

    Parameters
    ----------
    image : (Qx, Qy) array
        A mean pattern or a vacuum probe. NaN pixels are left out.
    mask : (Qx, Qy) bool, optional
        True where the detector counts.

    Returns
    -------
    Disk

    Raises
    ------
    InputError
        No disk stands out: an empty, flat or all-NaN pattern. Or its brightest spot is so small or noisy that its pixels do not tell
        centre and radius, such as a single hot pixel.

    Examples
    --------
    >>> from gpu4d.probe import synthetic
    >>> d = measure_disk(synthetic((64, 64), 9.0, center=(30.25, 33.5)))
    >>> round(d.qx, 2), round(d.qy, 2), round(d.radius, 1)
    (30.25, 33.5, 9.0)
    """
    from scipy import ndimage

    pattern = _filled(host_image(image, "the pattern"), mask)
    smooth = ndimage.gaussian_filter(pattern, 1.0, mode="nearest")
    floor, top = np.percentile(smooth, 10), smooth.max()
    if not top > floor:
        raise InputError("no disk in this pattern: it is flat or empty. Give a pattern with the unscattered beam")
    label, _ = ndimage.label(smooth > floor + 0.4 * (top - floor))
    weight = ndimage.sum_labels(pattern - floor, label, np.arange(1, label.max() + 1))
    inside = label == 1 + int(np.argmax(weight))
    outline = bright_outline(pattern, smooth, label, floor) if label.max() > 1 else None
    center = np.array(ndimage.center_of_mass(inside))
    radius = float(np.sqrt(inside.sum() / np.pi))
    if outline is None and radius < MAYBE_SMALL:
        spot = small_disk(pattern, center, radius)
        if spot.radius < SMALL:
            if not spot.determined:
                raise InputError(
                    f"the brightest spot, at ({center[0]:.0f}, {center[1]:.0f}), has hardly any counts or is a single pixel, which tell "
                    "neither centre nor radius: sum more patterns, or mask a hot pixel"
                )
            return Disk(float(spot.center[0]), float(spot.center[1]), spot.radius, spot.edge, spot.misfit, spot.errors[1])
    residual = np.inf
    if outline is not None:
        center, radius, residual = circle(outline)
    for _ in range(4 if outline is None else 0):  # centre and radius stop changing after two or three rounds
        points = _edges(pattern, center, radius)
        if len(points) < 8:
            raise InputError(
                "no disk in this pattern: its brightest region has no edge inside the detector. Give a pattern with the whole disk"
            )
        center, radius, residual = circle(points)
    qx, qy, fitted, edge, radius_error = _edge_fit(pattern, center, radius, free_center=residual < CLEAN)
    return Disk(qx, qy, fitted, edge, residual, radius_error)


def _filled(pattern: np.ndarray, mask: Any) -> np.ndarray:
    """Return the pattern as float64, with NaN, masked and hot pixels replaced by their nearest valid neighbour."""
    pattern = pattern.astype(np.float64)
    good = measured_pixels(pattern, mask)
    if not good.any():
        raise InputError("no disk in this pattern: every pixel is masked or NaN. Give a mask that is True at pixels that count")
    good &= ~find_bad_pixels(np.where(good, pattern, np.nan), patterns=1).hot
    return pattern if good.all() else fill_from_neighbours(pattern, good)


def _edges(pattern: np.ndarray, center: np.ndarray, radius: float) -> np.ndarray:
    """Return points (n, 2) at which the intensity falls steepest, on rays from half to one and a half radii."""
    from scipy import ndimage

    angle = np.arange(RAYS) * (2 * np.pi / RAYS)
    r = np.arange(max(0.5, 0.5 * radius), 1.5 * radius + 2, STEP)
    x = center[0] + r[None, :] * np.cos(angle)[:, None]
    y = center[1] + r[None, :] * np.sin(angle)[:, None]
    lines = ndimage.map_coordinates(pattern, [x, y], order=1, mode="nearest")
    width = max(1.0, 0.06 * radius)  # px: smoothing along the ray reduces noise, and does not move a symmetric edge
    slope = ndimage.gaussian_filter1d(lines, width / STEP, axis=1, order=1)
    on_detector = (x >= 0) & (x <= pattern.shape[0] - 1) & (y >= 0) & (y <= pattern.shape[1] - 1)
    slope = np.where(on_detector, slope, np.inf)
    at = np.argmin(slope, axis=1)
    ok = (at > 0) & (at < len(r) - 1)
    rows = np.flatnonzero(ok)
    left, mid, right = (slope[rows, at[rows] + o] for o in (-1, 0, 1))
    bend = left - 2 * mid + right
    good = np.isfinite(bend) & (bend > 0) & (mid < 0)
    rows = rows[good]
    shift = 0.5 * (left - right)[good] / bend[good]
    distance = r[at[rows]] + np.clip(shift, -1, 1) * STEP
    return np.stack([center[0] + distance * np.cos(angle[rows]), center[1] + distance * np.sin(angle[rows])], -1)


def _edge_fit(pattern: np.ndarray, center: np.ndarray, radius: float, free_center: bool) -> tuple[float, float, float, float, float]:
    """Fit a sigmoid disk to the pixels near the edge. Return centre, radius, edge width, and the standard error of the radius.

    The centre is fitted too if the edge is a clean circle. For a vacuum probe it is right to a thousandth of a pixel. With contrast
    inside the disk the centre of the robust circle is more accurate, and only radius and width are fitted.
    """
    from scipy.optimize import least_squares

    x, y = np.meshgrid(np.arange(pattern.shape[0]), np.arange(pattern.shape[1]), indexing="ij")
    r = np.hypot(x - center[0], y - center[1])
    zone = dark_ring(pattern, r, radius)
    beyond = 1.4 * radius + 1 if zone == 0 else radius + max(2.5, 2 * (radius - zone))
    near = (r > max(0.6 * radius, zone)) & (r < beyond)
    x, y, z = x[near], y[near], pattern[near]
    low, high = np.percentile(z, [15, 85])
    if not high > low:
        raise InputError(f"the disk has hardly any counts ({z.sum():.3g} in and about it): sum more vacuum patterns")
    scale = high - low

    def misfit(p: np.ndarray) -> np.ndarray:
        """Return the residual of each pixel for parameters p."""
        cx, cy = (p[4], p[5]) if free_center else center
        fall = np.clip(4 * (np.hypot(x - cx, y - cy) - p[2]) / p[3], -60, 60)
        # A slope inside the disk is fitted too, because it would look like a shift of the edge.
        height = p[1] * (1 + (p[6] * (x - cx) + p[7] * (y - cy)) / radius) if free_center else p[1]
        return (p[0] + height / (1 + np.exp(fall)) - z) / scale

    start = [low, high - low, radius, 1.0]
    lower, upper = [-np.inf, 0.0, 0.8 * radius - 1, 0.05], [np.inf, np.inf, 1.2 * radius + 1, max(2.0, radius)]
    if free_center:
        start = [*start, *center, 0.0, 0.0]
        lower, upper = [*lower, *(center - 0.5), -1.0, -1.0], [*upper, *(center + 0.5), 1.0, 1.0]
    units = [scale, scale, 1.0, 1.0, 1.0, 1.0, 0.1, 0.1][: len(start)]
    start = np.clip(start, np.asarray(lower) + 1e-9, np.asarray(upper) - 1e-9).tolist()
    fit = least_squares(misfit, start, bounds=(lower, upper), loss="soft_l1", f_scale=0.2, x_scale=units)
    p = fit.x
    cx, cy = (p[4], p[5]) if free_center else center
    return float(cx), float(cy), float(p[2]), float(p[3]), float(standard_errors(fit.jac, misfit(p))[2])
