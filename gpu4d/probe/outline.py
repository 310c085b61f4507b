"""Find the outline of a patterned disk, whose bright parts are separated by dark ones."""

from __future__ import annotations

import numpy as np

from gpu4d.robust import biweight, robust_sigma

RAYS = 180  # number of rays, 2° apart
STEP = 0.25  # px: sampling along a ray
HALF = 0.5  # of the height: where an outline is
ROUND, SHARE = 0.05, 0.6  # radii, and least part of the rays whose outermost edge is that near to the circle
OTHERS = 0.15  # least part of the bright pixels that lies outside the largest bright region
ROUNDS = 4  # of moving the rays to the centre of the circle
BIN = 0.5  # px: of the mean over angles in which dark rings are looked for
DARKER = 0.7  # of the brightest ring outside: a darker ring belongs to a pattern
THIN = 1.0  # px: least breadth of the outermost bright zone that is fitted


def bright_outline(pattern: np.ndarray, smooth: np.ndarray, label: np.ndarray, floor: float) -> np.ndarray | None:
    """Return points (n, 2) on the rim of a round disk that consists of several bright regions. None if they are no such disk.

    Parameters
    ----------
    pattern, smooth : (Qx, Qy) float64
    label : (Qx, Qy) int
        Numbers of the bright regions, from 1 on.
    floor : float
        Level of the background.
    """
    bright = np.argwhere(label > 0)
    if len(bright) < 16 or np.bincount(label[label > 0]).max() > (1 - OTHERS) * len(bright):
        return None
    center = 0.5 * (bright.min(0) + bright.max(0))
    radius = float(np.hypot(*(bright - center).T).max())
    height = float(np.median(smooth[label > 0])) - floor
    for _ in range(ROUNDS):
        points = _outermost(pattern, center, 1.3 * radius + 2, floor + HALF * height)
        if len(points) < RAYS * SHARE:
            return None
        center, radius, _ = circle(points)
    off = np.abs(np.hypot(*(points - center).T) - radius)
    return points if (off < ROUND * radius).sum() >= SHARE * RAYS else None


def _outermost(pattern: np.ndarray, center: np.ndarray, reach: float, level: float) -> np.ndarray:
    """Return the point (n, 2) on each ray beyond which the intensity stays below a level. Rays that leave the detector have none."""
    from scipy import ndimage

    angle = np.arange(RAYS) * (2 * np.pi / RAYS)
    r = np.arange(0.0, reach, STEP)
    x, y = (c + r[None, :] * t(angle)[:, None] for c, t in zip(center, (np.cos, np.sin)))
    lines = ndimage.map_coordinates(pattern, [x, y], order=1, mode="constant")
    lines = ndimage.gaussian_filter1d(lines, 0.5 / STEP, axis=1)
    over = lines > level
    last = len(r) - 1 - np.argmax(over[:, ::-1], axis=1)
    ok = over.any(axis=1) & (last < len(r) - 1)
    rows, at = np.flatnonzero(ok), last[ok]
    here, beyond = lines[rows, at] - level, lines[rows, at + 1] - level
    distance = r[at] + STEP * here / np.maximum(here - beyond, 1e-300)
    return np.stack([center[0] + distance * np.cos(angle[rows]), center[1] + distance * np.sin(angle[rows])], -1)


def dark_ring(pattern: np.ndarray, r: np.ndarray, radius: float) -> float:
    """Return the middle of the outermost bright zone of a disk, px, if there is a dark ring inside of it, else 0.

    The mean over angles is followed from the rim inwards.

    Parameters
    ----------
    pattern, r : (Qx, Qy) float64
        Intensity, and distance from the centre in pixels.
    radius : float
        Pixels.
    """
    number = (r / BIN).astype(np.int64)
    inside = r < radius
    count = np.bincount(number[inside])
    mean = np.bincount(number[inside], pattern[inside]) / np.maximum(count, 1)
    ground = float(np.median(pattern[(r > 1.1 * radius + 1) & (r < 1.4 * radius + 2)])) if (r > 1.1 * radius + 1).any() else 0.0
    highest, place = -np.inf, 0
    for i in range(len(mean) - 1, int(0.3 * radius / BIN), -1):
        if count[i] == 0:
            continue
        if mean[i] > highest:
            highest, place = mean[i], i
        elif mean[i] - ground < DARKER * (highest - ground):
            return min((place + 0.5) * BIN, radius - THIN)
    return 0.0


def circle(points: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Fit a circle to points by Tukey-weighted least squares. Return centre, radius, and weighted rms distance of the points."""
    center, radius = points.mean(0), 0.0
    weight = np.ones(len(points))
    for _ in range(30):
        # |p|² = 2 c·p + (R² - |c|²) is linear in c and the bracket (Kåsa); the weights leave out outliers
        p = points - points.mean(0)
        a = np.column_stack([2 * p, np.ones(len(p))]) * np.sqrt(weight)[:, None]
        solution = np.linalg.lstsq(a, (p**2).sum(1) * np.sqrt(weight), rcond=None)[0]
        center = solution[:2] + points.mean(0)
        radius = float(np.sqrt(max(solution[2] + solution[:2] @ solution[:2], 1e-12)))
        off = np.hypot(*(points - center).T) - radius
        scale = max(float(robust_sigma(off, 0.0)), 0.02)
        new = biweight(off / scale)
        if np.abs(new - weight).max() < 1e-6:
            break
        weight = new
    return center, radius, float(np.sqrt((weight * off**2).sum() / weight.sum()))
