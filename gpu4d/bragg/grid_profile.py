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
GATHERED, STRAIGHT = 60.0, 1.6  # normals within ± 10° are one; sides have so many times those of a circle
CORNER, SIDES = 0.5, 8  # radians between sides at least; sides at most
SLOPES, ALIKE = 0.1, 1.6  # share, rms, and factor, at most, by which their edges differ from the rim's
SHARPEST = 0.3  # px: a narrower edge lies between two pixels, and nobody knows where


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


@lru_cache(maxsize=8)
def grid_profile(pixels: bytes, shape: tuple[int, int]) -> GridProfile:
    """Of a vacuum image float64 with one probe of any compact form, kept.

    D(q) = f(q) / (1 + exp -φ(q)) is fitted to the pixels with weights of counts. φ is a cubic spline with a knot a pixel plus
    r, cos 2θ, sin 2θ, r cos 2θ, r sin 2θ: of a round or elliptic rim the spline is nothing. Second differences of its
    coefficients are penalised, with the weight of largest restricted likelihood of the linearised fit (REML; Wood, "Generalized
    Additive Models", 2017, §6.2), so that a noisy image gives a smooth rim and a clean one an exact one; no noise needs to be known. f
    is a polynomial, constant unless terms of higher degree (up to 3) lower the misfit with certainty; structure inside that is
    sharper is in φ. Corners are undersampled even in φ: where the normals of the rim gather in directions, D has as factors the
    edges of straight sides too, Π 1 / (1 + exp -(a + b x + c y)), if that lowers the misfit with certainty.

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


class _Known(NamedTuple):
    """What is known of coefficients before the pixels: rows, what they should make, and its weight."""

    rows: Any
    wanted: np.ndarray
    weight: np.ndarray

    def misfit(self, found: np.ndarray) -> float:
        return float(self.weight @ (self.rows @ found - self.wanted) ** 2)


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
        self.known = _Known(sparse.csr_array((0, self.values.shape[1])), np.zeros(0), np.zeros(0))
        self.stiff = self.values.shape[1] - self.free

    def rows(self, steep: np.ndarray, cuts: np.ndarray) -> Any:
        """Change of the intensity with every coefficient, (pixels, knots + waves + 3 cuts): by φ, and by the planes of straight sides."""
        from scipy import sparse

        plane = np.stack([np.ones_like(self.window.x), self.window.x, self.window.y], -1)
        sides = (cuts[:, :, None] * plane[None]).transpose(1, 0, 2).reshape(len(plane), -1)
        return sparse.hstack([sparse.diags_array(steep) @ self.values, sparse.csr_array(sides)]).tocsr()

    def solve(self, rows: Any, wanted: np.ndarray, weight: np.ndarray, cost: float) -> tuple[np.ndarray, float]:
        """Coefficients of least Σ w (z - rows c)² + cost · bending, and the logarithm of the determinant of their matrix."""
        from scipy import sparse
        from scipy.sparse.linalg import splu

        sides = rows.shape[1] - self.values.shape[1]
        bend = sparse.block_diag([self.bend, sparse.csr_array((sides, sides))]) if sides else self.bend
        ridge = sparse.eye_array(rows.shape[1]) * LEAST
        normal = (rows.T @ sparse.diags_array(weight) @ rows + cost * bend + ridge).tocsc()
        factors = splu(normal, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
        return factors.solve(rows.T @ (weight * wanted)), float(np.log(np.abs(factors.U.diagonal())).sum())

    def choose(self, rows: Any, wanted: np.ndarray, weight: np.ndarray, informed: int, at: int) -> tuple[np.ndarray, int]:
        """`solve` with the cost of largest restricted likelihood, `at` or next to it."""
        freedom = max(informed - self.free - rows.shape[1] + self.values.shape[1], 1)
        best = None
        for i in range(max(0, at - 1), min(len(BENDING), at + 2)):
            found, size = self.solve(rows, wanted, weight, BENDING[i])
            left = weight @ (wanted - rows @ found) ** 2 + self.bending(found, BENDING[i])
            unlikely = freedom * np.log(max(left, 1e-300)) + size - self.stiff * np.log(BENDING[i])
            if best is None or unlikely < best[0]:
                best = (unlikely, found, i)
        assert best is not None
        return best[1:]

    def bending(self, found: np.ndarray, cost: float) -> float:
        found = found[: self.values.shape[1]]
        return float(cost * (found @ (self.bend @ found)))

    def freedom(self, rows: Any, weight: np.ndarray, cost: float) -> float:
        """Terms that the pixels determine: the trace of the matrix that makes the fit of the counts, from how the determinant grows
        with the cost."""
        none, more = np.zeros(len(weight)), 1.1
        grown = self.solve(rows, none, weight, more * cost)[1] - self.solve(rows, none, weight, cost)[1]
        return rows.shape[1] - grown / np.log(more)

    def at(self, found: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        from scipy.ndimage import map_coordinates

        count = self.knots[0] * self.knots[1]
        place = [(v - f) / self.window.step + 1 for v, f in zip((x, y), self.window.first)]
        spline = map_coordinates(found[:count].reshape(self.knots), place, order=3, prefilter=False, mode="nearest")
        return spline + _waves(x, y) @ found[count : self.values.shape[1]]

    def parts(self, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """1 / (1 + e^-φ), and the same of every straight side, (sides, pixels)."""
        count = self.values.shape[1]
        return _rise(self.values @ found[:count]), _sides(found[count:], self.window.x, self.window.y)


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


def _rise(phi: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(phi, -60, 60)))


def _logit(rise: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(rise, 1e-9) / np.maximum(1 - rise, 1e-9))


def _sides(planes: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.stack([_rise(a + b * x + c * y) for a, b, c in planes.reshape(-1, 3)]) if planes.size else np.zeros((0, len(x)))


class _Fit(NamedTuple):
    """Coefficients of φ and of straight sides, what bending φ costs; the filling's; filling and outline on the pixels."""

    surface: _Surface
    found: np.ndarray
    cost: int
    powers: np.ndarray
    fill: np.ndarray
    rise: np.ndarray
    score: float
    noise: float


def _fitted(window: _Window, degree: int, sides: np.ndarray | None = None, noise: float = 0.0) -> _Fit:
    """Newton steps for φ and least squares for the filling in turn, from the image's own logit.

    `sides`: planes (n, 3) whose logistic edges cut the probe, to start from; an image of that noise does not change their slopes by
    much more than `SLOPES`.
    """
    counts = window.counts
    terms = _powers(window.x / window.scale, window.y / window.scale, degree)
    surface, cost, fill = _Surface(window), START, np.ones_like(counts)
    planes = np.zeros(0) if sides is None else sides.ravel()
    if sides is not None:
        surface.known = _slopes(sides, surface.values.shape[1], noise)
    open_ = np.prod(_sides(planes, window.x, window.y), 0)
    clipped = np.clip(counts / np.maximum(open_, LEVELS[0]), *LEVELS)
    found = surface.solve(surface.values, np.log(clipped / (1 - clipped)), np.maximum(open_, LEAST) ** 2, SMOOTH)[0]
    found = np.concatenate([found, planes])
    powers = np.zeros(terms.shape[1])
    for _ in range(ROUNDS):
        for step in range(STEPS):
            found, cost = _stepped(surface, counts, found, fill, cost, choose=step == 0)
        outline, cuts = surface.parts(found)
        rise = outline * np.prod(cuts, 0)
        root = rise / np.sqrt(np.maximum(fill * rise, DARKEST))
        seen = rise > DARK
        powers = np.linalg.lstsq(terms[seen] * root[seen, None], counts[seen] / rise[seen] * root[seen], rcond=None)[0]
        fill = np.maximum(terms @ powers, DARKEST)
    return _judged(_Fit(surface, found, cost, powers, fill, rise, 0.0, 0.0), counts)


def _working(surface: _Surface, counts: np.ndarray, found: np.ndarray, fill: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, int]:
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


def _slopes(sides: np.ndarray, before: int, noise: float) -> _Known:
    """Of straight sides: as steep as they start, to about `SLOPES`."""
    from scipy import sparse

    steep = np.hypot(sides[:, 1], sides[:, 2])
    rows = np.zeros((len(sides), before + sides.size))
    for i, (side, slope) in enumerate(zip(sides, steep)):
        rows[i, before + 3 * i + 1 : before + 3 * i + 3] = side[1:] / slope
    return _Known(sparse.csr_array(rows), steep, (noise / (SLOPES * steep)) ** 2)


def _stepped(surface: _Surface, counts: np.ndarray, found: np.ndarray, fill: np.ndarray, cost: int, choose: bool) -> tuple[np.ndarray, int]:
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


def _with_sides(window: _Window, fit: _Fit, degree: int) -> _Fit:
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


def _straight(window: _Window, slope: float) -> np.ndarray:
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
        rise = _rise(fit.surface.at(fit.found, u, v)) * np.prod(_sides(fit.found[fit.surface.values.shape[1] :], u, v), 0)
        fill = np.maximum(_powers(u / window.scale, v / window.scale, degree) @ fit.powers, DARKEST)
        out[near] = fill * rise / plateau
        return out

    return value


def _edge(fit: _Fit, window: _Window) -> tuple[float, float]:
    """Width of the edge, and the distance of the farthest bright pixel from the centre, pixels.

    ∫ 4 p (1 - p) ds is w across an edge, and ∫ |∇p| ds is 1; 4 / w is the slope of φ, whatever there is inside.
    """
    steep = np.hypot(*np.gradient(fit.rise.reshape(window.shape))).sum()
    slope = np.hypot(*np.gradient(_logit(fit.rise).reshape(window.shape))).ravel()
    half = fit.rise * (1 - fit.rise)
    width = min(4 * half.sum() / steep, 4 / np.average(slope, weights=half * slope**2 + LEAST))
    return float(width), float(np.hypot(window.x, window.y)[fit.rise > 0.5].max(initial=0.0))
