"""What a probe that is not round, or not evenly filled, looks like between the pixels of one vacuum image.

A sharp edge is undersampled by pixels, so no interpolation of the image is right between them. Its logit is: an edge 1 / (1 + e^-φ) has
a φ that runs straight through it, whatever its width, and bends only as the rim does. So φ is what is interpolated, by splines whose
bending costs as much as the image's own noise makes best; and the filling inside is a polynomial of as many terms as are certain.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gpu4d.errors import InputError
from gpu4d.probe.measure_disk import Disk, measure_disk

DARKEST = 0.02  # of the plateau: pixels behind the disk weigh no more than those
DARK = 1e-3  # of it: a fill cannot be seen there
BENDING = 10.0 ** np.arange(-6.0, 3.1, 0.5)  # what bending may cost, beside the misfit of pixels
START, STIFFER = 8, 2  # places in that: of the first fit; from the best to one that tells how much the choice matters
ROUNDS, STEPS = 10, 2  # of choosing that cost anew, and Newton steps in each
HALVINGS = 6  # of a step that makes the fit worse
LEVELS = 0.02, 0.98  # an image is clipped to these before its first logit, which starts at a cost of
SMOOTH = 1e-2
INFORMED, LEAST = 1e-4, 1e-12  # weight of a pixel that has a say; of any
BLUR, OUTLINE, PLATEAU = 1.0, 0.15, 0.8  # px; and of the maximum after it: where the probe is, and where its inside is
MARGIN = 6  # px of window around what is brighter than that
WIDEST = 44  # splines each way: of larger probes they are more than a pixel apart
CERTAIN = 20.0  # by which terms of the filling must lower n ln χ²: noise does once in 20 000 times
HIGHEST = 3  # degree of the filling
REACH = 1.5  # px: what the usual window has beyond the farthest part of the rim, at least
SHARPEST = 0.3  # px: a narrower edge lies between two pixels, and nobody knows where


class GridProfile(NamedTuple):
    """A probe between its pixels.

    Attributes
    ----------
    disk : Disk
        Centre as `measure_disk` finds it; radius and edge with which the usual window holds the probe, pixels.
    value, stiffer : callable
        From x, y relative to the centre, pixels, to the intensity, about 1 inside; and the same of a fit in which bending costs
        ten times as much: where the two differ, it is not the image that tells what lies between the pixels.
    noise : float
        What the image differs from it by, in units of the square root of its intensity, both in units of the plateau: one over
        the square root of the counts a pixel, for counts.
    """

    disk: Disk
    value: Callable[[Any, Any], np.ndarray]
    stiffer: Callable[[Any, Any], np.ndarray]
    noise: float


@lru_cache(maxsize=8)
def grid_profile(pixels: bytes, shape: tuple[int, int]) -> GridProfile:
    """Of a vacuum image float64 with one probe of any compact form, kept.

    D(q) = f(q) / (1 + exp -φ(q)) is fitted to the pixels with weights of counts. φ is a cubic spline with a knot a pixel plus
    r, cos 2θ, sin 2θ, r cos 2θ, r sin 2θ: of a round or elliptic rim the spline is nothing. Second differences of its
    coefficients are penalised, with the weight of largest restricted likelihood of the linearised fit (REML; Wood, "Generalized
    Additive Models", 2017, §6.2), so that a noisy image gives a smooth rim and a clean one an exact one; no noise needs to be known. f
    is a polynomial, constant unless terms of higher degree (up to 3) lower the misfit with certainty; structure inside that is
    sharper is in φ.

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
    window = _window(image, disk)
    fit = _fitted(window, 0)
    for degree in range(1, HIGHEST + 1):
        better = _fitted(window, degree)
        if not better.score < fit.score - CERTAIN:
            break
        fit = better
    width, farthest = _edge(fit, window)
    if width < SHARPEST:
        raise InputError(
            f"this is no round probe, and its edge is {width:.2f} px wide, too sharp for pixels to show where it lies; "
            "use refine='correlation'"
        )
    measured = Disk(disk.qx, disk.qy, max(disk.radius, farthest - REACH), width, disk.residual)
    stiff = _stiffened(window, fit)
    plateau = float(np.average(fit.fill, weights=fit.rise))
    return GridProfile(measured, _between(window, fit, plateau), _between(window, stiff, plateau), fit.noise)


class _Window(NamedTuple):
    """The pixels that are fitted, flat, in units of the plateau.

    x, y are relative to the disk's centre, `first` is that of the first pixel, `shape` their rows and columns, `step` the pixels
    between knots, `scale` what the polynomial measures x and y in.
    """

    counts: np.ndarray
    x: np.ndarray
    y: np.ndarray
    first: tuple[float, float]
    shape: tuple[int, int]
    step: float
    scale: float


def _window(image: np.ndarray, disk: Disk) -> _Window:
    from scipy import ndimage

    blurred = ndimage.gaussian_filter(image, BLUR)
    top = blurred.max()
    label, _ = ndimage.label(blurred > OUTLINE * top)
    probe = np.nonzero(label == label[np.unravel_index(blurred.argmax(), image.shape)])
    low, high = ([int(edge(i)) for i in probe] for edge in (np.min, np.max))
    if min(low) < 1 or any(h > n - 2 for h, n in zip(high, image.shape)):
        raise InputError("the probe touches the border of its image: its rim must be whole; use refine='correlation'")
    rows, columns = (slice(max(a - MARGIN, 0), min(b + MARGIN + 1, n)) for a, b, n in zip(low, high, image.shape))
    part = image[rows, columns]
    plateau = part[blurred[rows, columns] > PLATEAU * top].mean()
    first = (rows.start - disk.qx, columns.start - disk.qy)
    x, y = np.meshgrid(*(np.arange(n) + f for n, f in zip(part.shape, first)), indexing="ij")
    step = max(1.0, max(part.shape) / WIDEST)
    return _Window(part.ravel() / plateau, x.ravel(), y.ravel(), first, part.shape, step, max(disk.radius, 1.0))


class _Surface:
    """Smooth surfaces over a window: cubic splines that cost to bend, and waves of the rim that cost nothing."""

    def __init__(self, window: _Window):
        from scipy import sparse

        self.window = window
        rows = [_splines(n, window.step) for n in window.shape]
        self.knots = tuple(r.shape[1] for r in rows)
        waves = _waves(window.x, window.y)
        self.values = sparse.hstack([sparse.kron(*rows), sparse.csr_array(waves)]).tocsr()
        bend = 0
        for order, weight in enumerate((1.0, 2.0, 1.0)):  # ∂²/∂y², ∂²/∂x∂y, ∂²/∂x²
            d = sparse.kron(*(_differences(n, o) for n, o in zip(self.knots, (order, 2 - order))))
            bend = bend + weight * (d.T @ d)
        free = sparse.csr_array((waves.shape[1], waves.shape[1]))
        self.bend = sparse.block_diag([bend, free]).tocsc()
        self.free = 3 + waves.shape[1]  # planes do not bend
        self.stiff = self.values.shape[1] - self.free

    def solve(self, wanted: np.ndarray, weight: np.ndarray, cost: float) -> tuple[np.ndarray, float]:
        """Coefficients of least Σ w (z - φ)² + cost · bending, and the logarithm of the determinant of their matrix."""
        from scipy import sparse
        from scipy.sparse.linalg import splu

        normal = (self.values.T @ sparse.diags_array(weight) @ self.values + cost * self.bend).tocsc()
        factors = splu(normal, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
        return factors.solve(self.values.T @ (weight * wanted)), float(np.log(np.abs(factors.U.diagonal())).sum())

    def choose(self, wanted: np.ndarray, weight: np.ndarray, at: int) -> tuple[np.ndarray, int]:
        """`solve` with the cost of largest restricted likelihood, `at` or next to it."""
        informed = max(int((weight > INFORMED).sum()) - self.free, 1)
        best = None
        for i in range(max(0, at - 1), min(len(BENDING), at + 2)):
            found, size = self.solve(wanted, weight, BENDING[i])
            left = weight @ (wanted - self.values @ found) ** 2 + self.bending(found, BENDING[i])
            unlikely = informed * np.log(left) + size - self.stiff * np.log(BENDING[i])
            if best is None or unlikely < best[0]:
                best = (unlikely, found, i)
        assert best is not None
        return best[1:]

    def bending(self, found: np.ndarray, cost: float) -> float:
        return float(cost * (found @ (self.bend @ found)))

    def freedom(self, weight: np.ndarray, cost: float) -> float:
        """Terms that the pixels determine: the trace of the matrix that makes φ of z, from how the determinant grows with the cost."""
        none, more = np.zeros(len(weight)), 1.1
        grown = self.solve(none, weight, more * cost)[1] - self.solve(none, weight, cost)[1]
        return self.values.shape[1] - grown / np.log(more)

    def at(self, found: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        from scipy.ndimage import map_coordinates

        count = self.knots[0] * self.knots[1]
        place = [(v - f) / self.window.step + 1 for v, f in zip((x, y), self.window.first)]
        spline = map_coordinates(found[:count].reshape(self.knots), place, order=3, prefilter=False, mode="nearest")
        return spline + _waves(x, y) @ found[count:]


def _splines(count: int, step: float) -> Any:
    """Cubic B-splines, `step` pixels apart, at whole pixels: (count, knots) sparse."""
    from scipy import sparse

    at = np.arange(count) / step
    first = np.floor(at).astype(int)
    t = at - first
    weight = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], -1) / 6
    which = first[:, None] + np.arange(4)
    return sparse.csr_array((weight.ravel(), (np.repeat(np.arange(count), 4), which.ravel())), shape=(count, first[-1] + 4))


def _differences(count: int, order: int) -> Any:
    from scipy import sparse

    d = sparse.eye_array(count, format="csr")
    for _ in range(order):
        d = d[1:] - d[:-1]
    return d


def _waves(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """r, cos 2θ, sin 2θ, r cos 2θ, r sin 2θ, smooth in the middle, (n, 5): φ of an ellipse is made of these and a plane."""
    r = np.sqrt(x * x + y * y + 1)
    c, s = (x * x - y * y) / r**2, 2 * x * y / r**2
    return np.stack([r, c, s, r * c, r * s], -1)


def _powers(x: np.ndarray, y: np.ndarray, degree: int) -> np.ndarray:
    return np.stack([x**i * y ** (n - i) for n in range(degree + 1) for i in range(n + 1)], -1)


class _Fit(NamedTuple):
    """φ's coefficients and what bending them costs; the filling's; filling and 1 / (1 + e^-φ) on the pixels."""

    surface: _Surface
    found: np.ndarray
    cost: int
    powers: np.ndarray
    fill: np.ndarray
    rise: np.ndarray
    score: float
    noise: float


def _fitted(window: _Window, degree: int) -> _Fit:
    """Newton steps for φ and least squares for the filling in turn, from the image's own logit."""
    from scipy.special import expit

    counts = window.counts
    terms = _powers(window.x / window.scale, window.y / window.scale, degree)
    surface, cost, fill = _Surface(window), START, np.ones_like(counts)
    clipped = np.clip(counts, *LEVELS)
    found = surface.solve(np.log(clipped / (1 - clipped)), np.ones_like(counts), SMOOTH)[0]
    powers = np.zeros(terms.shape[1])
    for _ in range(ROUNDS):
        for step in range(STEPS):
            found, cost = _stepped(surface, counts, found, fill, cost, choose=step == 0)
        rise = expit(surface.values @ found)
        root = rise / np.sqrt(np.maximum(fill * rise, DARKEST))
        seen = rise > DARK
        powers = np.linalg.lstsq(terms[seen] * root[seen, None], counts[seen] / rise[seen] * root[seen], rcond=None)[0]
        fill = np.maximum(terms @ powers, DARKEST)
    return _judged(_Fit(surface, found, cost, powers, fill, rise, 0.0, 0.0), counts)


def _working(surface: _Surface, counts: np.ndarray, found: np.ndarray, fill: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What φ would have to be, with which weight, and the variance of counts, linearised about a φ."""
    phi = np.clip(surface.values @ found, -30, 30)
    rise = 1 / (1 + np.exp(-phi))
    slope, variance = fill * rise * (1 - rise), np.maximum(fill * rise, DARKEST)
    wanted = phi + (counts - fill * rise) * slope / np.maximum(slope**2, 1e-10)
    return wanted, np.maximum(slope**2 / variance, LEAST), variance


def _stepped(surface: _Surface, counts: np.ndarray, found: np.ndarray, fill: np.ndarray, cost: int, choose: bool) -> tuple[np.ndarray, int]:
    """One Newton step, shortened until it does no harm."""
    wanted, weight, variance = _working(surface, counts, found, fill)
    if choose:
        new, cost = surface.choose(wanted, weight, cost)
    else:
        new = surface.solve(wanted, weight, BENDING[cost])[0]

    def misfit(some: np.ndarray) -> float:
        model = fill / (1 + np.exp(-np.clip(surface.values @ some, -30, 30)))
        return float(((counts - model) ** 2 / variance).sum()) + surface.bending(some, BENDING[cost])

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
    weight = _working(fit.surface, counts, fit.found, fit.fill)[1]
    terms = fit.surface.freedom(weight, BENDING[fit.cost]) + len(fit.powers)
    count = int(bright.sum())
    left = max(square, 1e-30) / max(count - terms, 1.0)
    return fit._replace(score=count * np.log(left) + terms, noise=float(np.sqrt(left)))


def _stiffened(window: _Window, fit: _Fit) -> _Fit:
    found, cost = fit.found, min(fit.cost + STIFFER, len(BENDING) - 1)
    for _ in range(2 * STEPS):
        found, _ = _stepped(fit.surface, window.counts, found, fit.fill, cost, choose=False)
    return fit._replace(found=found, cost=cost)


def _between(window: _Window, fit: _Fit, plateau: float) -> Callable[[Any, Any], np.ndarray]:
    """The fit at any point; nothing outside the window."""
    degree = int(np.sqrt(2 * len(fit.powers))) - 1
    last = [f + n - 1 for f, n in zip(window.first, window.shape)]

    def value(x: Any, y: Any) -> np.ndarray:
        x, y = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
        near = (x >= window.first[0]) & (x <= last[0]) & (y >= window.first[1]) & (y <= last[1])
        out, u, v = np.zeros(x.shape), x[near], y[near]
        rise = 1 / (1 + np.exp(-np.clip(fit.surface.at(fit.found, u, v), -60, 60)))
        fill = np.maximum(_powers(u / window.scale, v / window.scale, degree) @ fit.powers, DARKEST)
        out[near] = fill * rise / plateau
        return out

    return value


def _edge(fit: _Fit, window: _Window) -> tuple[float, float]:
    """Width of the edge, and the distance of the farthest bright pixel from the centre, pixels.

    ∫ 4 p (1 - p) ds is w across an edge, and ∫ |∇p| ds is 1; 4 / w is the slope of φ, whatever there is inside.
    """
    steep = np.hypot(*np.gradient(fit.rise.reshape(window.shape))).sum()
    slope = np.hypot(*np.gradient((fit.surface.values @ fit.found).reshape(window.shape))).ravel()
    half = fit.rise * (1 - fit.rise)
    width = min(4 * half.sum() / steep, 4 / np.average(slope, weights=half * slope**2 + LEAST))
    return float(width), float(np.hypot(window.x, window.y)[fit.rise > 0.5].max(initial=0.0))
