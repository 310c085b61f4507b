"""Fit a model to one vacuum image of a probe that is not round or not evenly filled, and evaluate it between the pixels.

A sharp edge is undersampled by pixels, so an interpolation of the image is wrong between them. Its logit φ can be interpolated. Across
an edge 1 / (1 + e^-φ) of any width φ is linear, and it bends only as much as the rim does. So φ is interpolated by splines with a penalty
on bending, whose weight is chosen from the noise of the image. The filling inside is a polynomial. It has only terms that are certain.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gpu4d.cache import kept_by_content
from gpu4d.errors import InputError
from gpu4d.probe.measure_disk import Disk, measure_disk
from gpu4d.probe.shape.logit_surface import BENDING, BLUR, LEAST, STILL, Known, Surface, Window, logistic, logit, straight_sides, window_of

DARKEST = 0.02  # of the plateau: darker pixels get the weight of this level
DARK = 1e-3  # of the plateau: darker pixels are not used for the filling
START, STIFFER = 8, 2  # index in BENDING of the first fit; steps from the best to a stiffer fit, which shows how much the choice matters
ROUNDS, STEPS = 10, 2  # rounds, in each of which the weight of bending is chosen anew; Newton steps in each
HALVINGS = 6  # most halvings of a step that makes the fit worse
LEVELS = 0.02, 0.98  # of the plateau: an image is clipped to this range before its logit is taken for the first fit
SMOOTH = 1e-2  # weight of bending in this first fit of the logit
INFORMED = 1e-4  # least weight of a pixel that is counted as information on φ
CERTAIN = 20.0  # least decrease of n ln χ² by terms of the filling, or by sides; noise reaches it once in 20 000 times
HIGHEST = 3  # highest degree of the filling
REACH = 1.5  # px: the usual window extends beyond the farthest part of the rim by at least this
GATHERED, STRAIGHT = 60.0, 1.6  # concentration of directions: normals within ± 10° are one; least density of a side, relative to a circle
CORNER, SIDES = 0.5, 8  # least angle between two sides, radians; most sides
SLOPES, ALIKE = 0.1, 1.6  # expected relative change of the slopes of sides (rms); largest factor between their edges and that of the rim
FLAT = 1e-5  # of the plateau: if a pixel of a large window differs less from its neighbours, its value is used around it
SHARPEST = 0.3  # px: the place of a narrower edge between two pixels cannot be measured


class GridProfile(NamedTuple):
    """Model of a probe between its pixels.

    Attributes
    ----------
    disk : Disk
        Centre as `measure_disk` finds it. Radius and edge are such that the usual window holds the probe, pixels.
    value, other : callable
        Return the intensity at x, y relative to the centre, pixels. It is about 1 inside. `other` is another fit that the image allows:
        without straight sides, or with ten times the weight of bending. Where the two differ, the image does not determine the shape
        between its pixels.
    noise : float
        Residual of the image in units of the square root of the intensity, both in units of the plateau. For counts it is one over the
        square root of the counts per pixel.
    """

    disk: Disk
    value: Callable[[Any, Any], np.ndarray]
    other: Callable[[Any, Any], np.ndarray]
    noise: float


@kept_by_content(maxsize=8)
def grid_profile(pixels: bytes, shape: tuple[int, int]) -> GridProfile:
    """Fit a grid profile to a vacuum image with one probe of any compact form. The result is cached.

    D(q) = f(q) / (1 + exp -φ(q)) is fitted to the pixels with weights of counts. φ is a cubic spline with one knot per pixel, plus r,
    cos 2θ, sin 2θ, r cos 2θ, r sin 2θ. For a round or elliptic rim the spline is zero. Second differences of its coefficients are
    penalised. The weight of the penalty is that of largest restricted likelihood of the linearised fit (REML; Wood, "Generalized
    Additive Models", 2017, §6.2). So a noisy image gives a smooth rim, and a clean image an exact one. The noise need not be known.

    f is a polynomial. It is constant, unless terms of higher degree (up to 3) certainly lower the misfit. Sharper structure inside is
    described by φ. Corners are undersampled even in φ. If the normals of the rim concentrate in some directions, D is also multiplied
    by the edges of straight sides, Π 1 / (1 + exp -(a + b x + c y)), provided that this certainly lowers the misfit.

    Windows above 64 × 64 pixels have fewer splines than pixels, and take seconds: two for a square 80 px across, eight for one of 240.
    The log has a line when such a fit starts.

    Parameters
    ----------
    pixels : bytes
        Bytes of an image (Qx, Qy) float64, counts or any scale, background 0.
    shape : (int, int)

    Returns
    -------
    GridProfile

    Raises
    ------
    InputError
        No probe stands out, it touches the detector's border, or its edge is too sharp (0.3 px).

    Examples
    --------
    >>> x, y = np.arange(48.0)[:, None] - 23.7, np.arange(48.0)[None, :] - 24.2
    >>> def ellipse(x, y):
    ...     return 1 / (1 + np.exp(4 * (np.hypot(x / 1.1, y * 1.1) - 6)))
    >>> found = grid_profile((500 * ellipse(x, y)).tobytes(), (48, 48))
    >>> u, v = (np.linspace(-9, 9, 37) + shift for shift in (found.disk.qx - 23.7, found.disk.qy - 24.2))
    >>> miss = found.value(u[:, None] - found.disk.qx + 23.7, v - found.disk.qy + 24.2) - ellipse(u[:, None], v)
    >>> bool(np.abs(miss).max() < 0.005)
    True
    """
    image = np.frombuffer(pixels).reshape(shape)
    disk = measure_disk(image)
    window = window_of(image, disk)
    logging.getLogger("gpu4d").info("fit a grid profile to a probe in %d × %d px, once per template", *window.shape)
    fit, degree = _fitted(window, 0), 0
    while degree < HIGHEST:
        better = _fitted(window, degree + 1)
        if not better.score < fit.score - CERTAIN:
            break
        fit, degree = better, degree + 1
    width = _edge(fit, window)[0]
    if width < SHARPEST:
        raise InputError(
            f"this is no round probe, and its edge is {width:.2f} px wide, too sharp for pixels to show where it lies; "
            "use refine='correlation'"
        )
    free, fit = fit, _with_sides(window, fit, degree)
    width, farthest = _edge(fit, window)
    measured = Disk(disk.qx, disk.qy, max(disk.radius, farthest - REACH), width, disk.residual)
    other = _stiffened(window, fit) if fit is free else free
    plateau = float(np.average(fit.fill, weights=fit.rise))
    return GridProfile(measured, _between(window, fit, plateau), _between(window, other, plateau), fit.noise)


def _powers(x: np.ndarray, y: np.ndarray, degree: int) -> np.ndarray:
    """Return all terms of a polynomial up to a degree, (n, terms)."""
    return np.stack([x**i * y ** (n - i) for n in range(degree + 1) for i in range(n + 1)], -1)


class _Fit(NamedTuple):
    """Fit of φ and of the filling.

    `found` has the coefficients of φ and of straight sides, `cost` the index of the weight of bending, `powers` the coefficients of the
    filling. `fill` and `rise` are filling and outline on the pixels.
    """

    surface: Surface
    found: np.ndarray
    cost: int
    powers: np.ndarray
    fill: np.ndarray
    rise: np.ndarray
    score: float
    noise: float


def _fitted(window: Window, degree: int, sides: np.ndarray | None = None, noise: float = 0.0) -> _Fit:
    """Fit φ by Newton steps and the filling by least squares, in turn, starting from the logit of the image.

    `sides` are planes (n, 3) whose logistic edges cut the probe. The fit starts from them. `noise` is that of the image. It sets the
    weight of a penalty that keeps relative changes of the slopes of sides near `SLOPES` or below.
    """
    counts = window.counts
    terms = _powers(window.x / window.scale, window.y / window.scale, degree)
    surface, cost, fill = Surface(window), START, np.ones_like(counts)
    planes = np.zeros(0) if sides is None else sides.ravel()
    if sides is not None:
        surface.known = _slopes(sides, surface.values.shape[1], noise)
    open_ = np.prod(straight_sides(planes, window.x, window.y), 0)
    clipped = np.clip(counts / np.maximum(open_, LEVELS[0]), *LEVELS)
    found = surface.solve(surface.values, np.log(clipped / (1 - clipped)), np.maximum(open_, LEAST) ** 2, SMOOTH)[0]
    found = np.concatenate([found, planes])
    powers, before = np.zeros(terms.shape[1]), np.zeros_like(counts)
    for _ in range(ROUNDS):
        for step in range(STEPS):
            found, cost = _stepped(surface, counts, found, fill, cost, choose=step == 0)
        outline, cuts = surface.parts(found)
        rise = outline * np.prod(cuts, 0)
        root = rise / np.sqrt(np.maximum(fill * rise, DARKEST))
        seen = rise > DARK
        powers = np.linalg.lstsq(terms[seen] * root[seen, None], counts[seen] / rise[seen] * root[seen], rcond=None)[0]
        fill = np.maximum(terms @ powers, DARKEST)
        if window.large and np.abs(fill * rise - before).max() < STILL:
            break
        before = fill * rise
    return _judged(_Fit(surface, found, cost, powers, fill, rise, 0.0, 0.0), counts)


def _working(surface: Surface, counts: np.ndarray, found: np.ndarray, fill: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, int]:
    """Linearise the model around a fit. Return rows, target values, weights, and the number of pixels with information on φ."""
    from scipy import sparse

    outline, cuts = surface.parts(found)
    model = fill * outline * np.prod(cuts, 0)
    steep, weight = model * (1 - outline), 1 / np.maximum(model, DARKEST)
    rows = surface.rows(steep, model * (1 - cuts))
    informed = int((np.maximum(steep, (model * (1 - cuts)).max(0, initial=0.0)) ** 2 * weight > INFORMED).sum())
    wanted, known = counts - model + rows @ found, surface.known
    if known.weight.size:
        rows, wanted = sparse.vstack([rows, known.rows]).tocsr(), np.concatenate([wanted, known.wanted])
        weight = np.concatenate([weight, known.weight])
    return rows, wanted, weight, informed


def _slopes(sides: np.ndarray, before: int, noise: float) -> Known:
    """Return conditions that keep the slopes of straight sides near their start, to about `SLOPES`."""
    from scipy import sparse

    steep = np.hypot(sides[:, 1], sides[:, 2])
    rows = np.zeros((len(sides), before + sides.size))
    for i, (side, slope) in enumerate(zip(sides, steep)):
        rows[i, before + 3 * i + 1 : before + 3 * i + 3] = side[1:] / slope
    return Known(sparse.csr_array(rows), steep, (noise / (SLOPES * steep)) ** 2)


def _stepped(surface: Surface, counts: np.ndarray, found: np.ndarray, fill: np.ndarray, cost: int, choose: bool) -> tuple[np.ndarray, int]:
    """Make a Newton step. Halve it until the fit is not worse than before."""
    rows, wanted, weight, informed = _working(surface, counts, found, fill)
    if choose:
        new, cost = surface.choose(rows, wanted, weight, informed, cost)
    else:
        new = surface.solve(rows, wanted, weight, BENDING[cost])[0]

    def misfit(some: np.ndarray) -> float:
        """Return the penalised misfit of coefficients."""
        outline, cuts = surface.parts(some)
        square = float(((counts - fill * outline * np.prod(cuts, 0)) ** 2 * weight[: len(counts)]).sum())
        return square + surface.bending(some, BENDING[cost]) + surface.known.misfit(some)

    before, share = misfit(found), 1.0
    for _ in range(HALVINGS):
        if misfit(found + share * (new - found)) <= before:
            break
        share /= 2
    return found + share * (new - found), cost


def _judged(fit: _Fit, counts: np.ndarray) -> _Fit:
    """Return a fit with its noise, and with its score: n ln χ² plus the number of terms that the pixels determine."""
    model = fit.fill * fit.rise
    bright = model > DARKEST
    square = float(((counts - model)[bright] ** 2 / model[bright]).sum())
    rows, _, weight, _ = _working(fit.surface, counts, fit.found, fit.fill)
    terms = fit.surface.freedom(rows, weight, BENDING[fit.cost]) + len(fit.powers)
    count = int(bright.sum())
    left = max(square, 1e-30) / max(count - terms, 1.0)
    return fit._replace(score=count * np.log(left) + terms, noise=float(np.sqrt(left)))


def _with_sides(window: Window, fit: _Fit, degree: int) -> _Fit:
    """Return the fit with straight sides if it is certainly better, else the fit as it was. Sides must have about the edge of the rim."""
    slope = 4 / _edge(fit, window)[0]
    sides = _straight(window, slope)
    for _ in range(2):
        if not len(sides):
            return fit
        better = _fitted(window, degree, sides, fit.noise)
        planes = better.found[better.surface.values.shape[1] :].reshape(-1, 3)
        alike = np.abs(np.log(np.hypot(planes[:, 1], planes[:, 2]) / slope)) < np.log(ALIKE)
        if alike.all():
            return better if better.score < fit.score - CERTAIN else fit
        sides = sides[alike]
    return fit


def _straight(window: Window, slope: float) -> np.ndarray:
    """Return planes (n, 3) of the given slope along straight sides. A side is a direction in which normals of the rim concentrate."""
    from scipy import ndimage

    blurred = ndimage.gaussian_filter(window.counts.reshape(window.shape), BLUR)
    gx, gy = (g.ravel() for g in np.gradient(blurred))
    steep = np.maximum(np.hypot(gx, gy), LEAST)
    weight = steep**2
    angle = np.arctan2(-gy, -gx)
    far = (blurred.ravel() - 0.5 - gx * window.x - gy * window.y) / steep
    around = np.arange(0, 2 * np.pi, np.pi / 90)
    near = np.exp(GATHERED * (np.cos(angle[None] - around[:, None]) - 1))
    dense = near @ weight / weight.sum() / np.mean(np.exp(GATHERED * (np.cos(around) - 1)))
    sides: list[tuple[float, float]] = []
    for i in np.argsort(-dense):
        apart = [abs((around[i] - a + np.pi) % (2 * np.pi) - np.pi) for a, _ in sides]
        if dense[i] < STRAIGHT or len(sides) == SIDES:
            break
        if min(apart, default=np.pi) > CORNER:
            sides.append((around[i], float(np.average(far, weights=near[i] * weight))))
    return slope * np.array([[d, -np.cos(a), -np.sin(a)] for a, d in sides]).reshape(-1, 3)


def _stiffened(window: Window, fit: _Fit) -> _Fit:
    """Return the fit with a larger weight of bending."""
    found, cost = fit.found, min(fit.cost + STIFFER, len(BENDING) - 1)
    for _ in range(2 * STEPS):
        found, _ = _stepped(fit.surface, window.counts, found, fit.fill, cost, choose=False)
    return fit._replace(found=found, cost=cost)


def _rise(fit: _Fit, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the outline of the probe at points, 0 … 1."""
    return logistic(fit.surface.at(fit.found, x, y)) * np.prod(straight_sides(fit.found[fit.surface.values.shape[1] :], x, y), 0)


def _between(window: Window, fit: _Fit, plateau: float) -> Callable[[Any, Any], np.ndarray]:
    """Return a function that evaluates the fit at any point, 0 outside the window.

    In large windows the edge is computed only near the rim.
    """
    from scipy import ndimage

    degree = int(np.sqrt(2 * len(fit.powers))) - 1
    last = [f + n - 1 for f, n in zip(window.first, window.shape)]
    shown = _rise(fit, window.x, window.y).reshape(window.shape)
    flat = np.where(ndimage.maximum_filter(shown, 3) - ndimage.minimum_filter(shown, 3) < FLAT, shown, np.nan)

    def risen(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Return the outline at points in the window."""
        if not window.large:
            return _rise(fit, u, v)
        rise = flat[tuple(np.rint(a - f).astype(int) for a, f in zip((u, v), window.first))]
        rim = np.isnan(rise)
        rise[rim] = _rise(fit, u[rim], v[rim])
        return rise

    def value(x: Any, y: Any) -> np.ndarray:
        """Return the intensity at x, y in units of the plateau."""
        x, y = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
        near = (x >= window.first[0]) & (x <= last[0]) & (y >= window.first[1]) & (y <= last[1])
        out, u, v = np.zeros(x.shape), x[near], y[near]
        fill = np.maximum(_powers(u / window.scale, v / window.scale, degree) @ fit.powers, DARKEST)
        out[near] = fill * risen(u, v) / plateau
        return out

    return value


def _edge(fit: _Fit, window: Window) -> tuple[float, float]:
    """Return the width w of the edge, and the distance of the farthest bright pixel from the centre, pixels.

    Across an edge ∫ 4 p (1 - p) ds is w, and ∫ |∇p| ds is 1. The slope of φ is 4 / w for any intensity inside. The smaller w is taken.
    """
    steep = np.hypot(*np.gradient(fit.rise.reshape(window.shape))).sum()
    slope = np.hypot(*np.gradient(logit(fit.rise).reshape(window.shape))).ravel()
    half = fit.rise * (1 - fit.rise)
    width = min(4 * half.sum() / steep, 4 / np.average(slope, weights=half * slope**2 + LEAST))
    return float(width), float(np.hypot(window.x, window.y)[fit.rise > 0.5].max(initial=0.0))
