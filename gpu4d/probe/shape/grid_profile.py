"""What a probe that is not round, or not evenly filled, looks like between the pixels of one vacuum image.

A sharp edge is undersampled by pixels, so no interpolation of the image is right between them. Its logit is: an edge 1 / (1 + e^-φ) has
a φ that runs straight through it, whatever its width, and bends only as the rim does. So φ is what is interpolated, by splines whose
bending costs as much as the image's own noise makes best; and the filling inside is a polynomial of as many terms as are certain.
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

DARKEST = 0.02  # of the plateau: pixels behind the disk weigh no more than those
DARK = 1e-3  # of it: a fill cannot be seen there
START, STIFFER = 8, 2  # places in BENDING: of the first fit; from the best to one that tells how much the choice matters
ROUNDS, STEPS = 10, 2  # of choosing that cost anew, and Newton steps in each
HALVINGS = 6  # of a step that makes the fit worse
LEVELS = 0.02, 0.98  # an image is clipped to these before its first logit, which starts at a cost of
SMOOTH = 1e-2
INFORMED = 1e-4  # weight of a pixel that has a say
CERTAIN = 20.0  # by which terms of the filling must lower n ln χ²: noise does once in 20 000 times
HIGHEST = 3  # degree of the filling
REACH = 1.5  # px: what the usual window has beyond the farthest part of the rim, at least
GATHERED, STRAIGHT = 60.0, 1.6  # normals within ± 10° are one; sides have so many times those of a circle
CORNER, SIDES = 0.5, 8  # radians between sides at least; sides at most
SLOPES, ALIKE = 0.1, 1.6  # share, rms, and factor, at most, by which their edges differ from the rim's
FLAT = 1e-5  # of the plateau: where a large window's edges change less between neighbours, a pixel stands for its surroundings
SHARPEST = 0.3  # px: a narrower edge lies between two pixels, at an unknown place


class GridProfile(NamedTuple):
    """A probe between its pixels.

    Attributes
    ----------
    disk : Disk
        Centre as `measure_disk` finds it; radius and edge with which the usual window holds the probe, pixels.
    value, other : callable
        From x, y relative to the centre, pixels, to the intensity, about 1 inside; and the same of another fit that the image
        allows, without straight sides, or with bending ten times as costly: where the two differ, it is not the image that tells
        what lies between the pixels.
    noise : float
        What the image differs from it by, in units of the square root of its intensity, both in units of the plateau: one over
        the square root of the counts a pixel, for counts.
    """

    disk: Disk
    value: Callable[[Any, Any], np.ndarray]
    other: Callable[[Any, Any], np.ndarray]
    noise: float


@kept_by_content(maxsize=8)
def grid_profile(pixels: bytes, shape: tuple[int, int]) -> GridProfile:
    """Of a vacuum image float64 with one probe of any compact form, kept.

    D(q) = f(q) / (1 + exp -φ(q)) is fitted to the pixels with weights of counts. φ is a cubic spline with a knot a pixel plus
    r, cos 2θ, sin 2θ, r cos 2θ, r sin 2θ: of a round or elliptic rim the spline is nothing. Second differences of its
    coefficients are penalised, with the weight of largest restricted likelihood of the linearised fit (REML; Wood, "Generalized
    Additive Models", 2017, §6.2), so that a noisy image gives a smooth rim and a clean one an exact one; no noise needs to be known. f
    is a polynomial, constant unless terms of higher degree (up to 3) lower the misfit with certainty; structure inside that is
    sharper is in φ. Corners are undersampled even in φ: where the normals of the rim gather in directions, D has as factors the
    edges of straight sides too, Π 1 / (1 + exp -(a + b x + c y)), if that lowers the misfit with certainty.

    Windows above 64 × 64 pixels have fewer splines than pixels, and take seconds: a square 80 px across two, one of 240 eight. The
    log says when.

    Parameters
    ----------
    pixels : bytes
        Of an image (Qx, Qy) float64, counts or any scale, background 0.
    shape : (int, int)

    Returns
    -------
    GridProfile

    Raises
    ------
    InputError
        No probe stands out, it touches the detector's border, or its edge lies between two pixels.

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
    logging.getLogger("gpu4d").info("grid profile of a probe in %d × %d px: once per template", *window.shape)
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
    return np.stack([x**i * y ** (n - i) for n in range(degree + 1) for i in range(n + 1)], -1)


class _Fit(NamedTuple):
    """Coefficients of φ and of straight sides, what bending φ costs; the filling's; filling and outline on the pixels."""

    surface: Surface
    found: np.ndarray
    cost: int
    powers: np.ndarray
    fill: np.ndarray
    rise: np.ndarray
    score: float
    noise: float


def _fitted(window: Window, degree: int, sides: np.ndarray | None = None, noise: float = 0.0) -> _Fit:
    """Newton steps for φ and least squares for the filling in turn, from the image's own logit.

    `sides`: planes (n, 3) whose logistic edges cut the probe, to start from; an image of that noise does not change their slopes by
    much more than `SLOPES`.
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
    """Linearised about a fit: rows, what they should make, its weight, and how many pixels tell of φ."""
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
    """Of straight sides: as steep as they start, to about `SLOPES`."""
    from scipy import sparse

    steep = np.hypot(sides[:, 1], sides[:, 2])
    rows = np.zeros((len(sides), before + sides.size))
    for i, (side, slope) in enumerate(zip(sides, steep)):
        rows[i, before + 3 * i + 1 : before + 3 * i + 3] = side[1:] / slope
    return Known(sparse.csr_array(rows), steep, (noise / (SLOPES * steep)) ** 2)


def _stepped(surface: Surface, counts: np.ndarray, found: np.ndarray, fill: np.ndarray, cost: int, choose: bool) -> tuple[np.ndarray, int]:
    """One Newton step, shortened until it does no harm."""
    rows, wanted, weight, informed = _working(surface, counts, found, fill)
    if choose:
        new, cost = surface.choose(rows, wanted, weight, informed, cost)
    else:
        new = surface.solve(rows, wanted, weight, BENDING[cost])[0]

    def misfit(some: np.ndarray) -> float:
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
    """With the noise that is left over, and n ln χ² plus the number of terms that the pixels determine."""
    model = fit.fill * fit.rise
    bright = model > DARKEST
    square = float(((counts - model)[bright] ** 2 / model[bright]).sum())
    rows, _, weight, _ = _working(fit.surface, counts, fit.found, fit.fill)
    terms = fit.surface.freedom(rows, weight, BENDING[fit.cost]) + len(fit.powers)
    count = int(bright.sum())
    left = max(square, 1e-30) / max(count - terms, 1.0)
    return fit._replace(score=count * np.log(left) + terms, noise=float(np.sqrt(left)))


def _with_sides(window: Window, fit: _Fit, degree: int) -> _Fit:
    """The fit with straight sides, if they make it better with certainty: each with about the edge that the rim has, or none."""
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
    """Planes (n, 3) along the straight sides of an outline: where the normals of its rim gather; of that slope."""
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
    found, cost = fit.found, min(fit.cost + STIFFER, len(BENDING) - 1)
    for _ in range(2 * STEPS):
        found, _ = _stepped(fit.surface, window.counts, found, fit.fill, cost, choose=False)
    return fit._replace(found=found, cost=cost)


def _rise(fit: _Fit, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return logistic(fit.surface.at(fit.found, x, y)) * np.prod(straight_sides(fit.found[fit.surface.values.shape[1] :], x, y), 0)


def _between(window: Window, fit: _Fit, plateau: float) -> Callable[[Any, Any], np.ndarray]:
    """The fit at any point; nothing outside the window. In large ones edges are computed only where pixels show any."""
    from scipy import ndimage

    degree = int(np.sqrt(2 * len(fit.powers))) - 1
    last = [f + n - 1 for f, n in zip(window.first, window.shape)]
    shown = _rise(fit, window.x, window.y).reshape(window.shape)
    flat = np.where(ndimage.maximum_filter(shown, 3) - ndimage.minimum_filter(shown, 3) < FLAT, shown, np.nan)

    def risen(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        if not window.large:
            return _rise(fit, u, v)
        rise = flat[tuple(np.rint(a - f).astype(int) for a, f in zip((u, v), window.first))]
        rim = np.isnan(rise)
        rise[rim] = _rise(fit, u[rim], v[rim])
        return rise

    def value(x: Any, y: Any) -> np.ndarray:
        x, y = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
        near = (x >= window.first[0]) & (x <= last[0]) & (y >= window.first[1]) & (y <= last[1])
        out, u, v = np.zeros(x.shape), x[near], y[near]
        fill = np.maximum(_powers(u / window.scale, v / window.scale, degree) @ fit.powers, DARKEST)
        out[near] = fill * risen(u, v) / plateau
        return out

    return value


def _edge(fit: _Fit, window: Window) -> tuple[float, float]:
    """Width of the edge, and the distance of the farthest bright pixel from the centre, pixels.

    ∫ 4 p (1 - p) ds is w across an edge, and ∫ |∇p| ds is 1; 4 / w is the slope of φ, whatever there is inside.
    """
    steep = np.hypot(*np.gradient(fit.rise.reshape(window.shape))).sum()
    slope = np.hypot(*np.gradient(logit(fit.rise).reshape(window.shape))).ravel()
    half = fit.rise * (1 - fit.rise)
    width = min(4 * half.sum() / steep, 4 / np.average(slope, weights=half * slope**2 + LEAST))
    return float(width), float(np.hypot(window.x, window.y)[fit.rise > 0.5].max(initial=0.0))
