"""Find by what two scans of one specimen are displaced, to a fraction of a step, and resample one of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy  # its parts are imported when they are used

from gpu4d import arrays, fft
from gpu4d.arrays import ArrayLike, ArrayT
from gpu4d.data.arguments import real_values
from gpu4d.data.storable import Storable
from gpu4d.deflection.curl_free import curl_free
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.real_arrays import floats, real_array, real_number

ORDER = 5  # of the splines, which are exact for polynomials of that order, to the edges
MOST = 0.25  # of the smaller side of the scan: largest displacement looked for unless one is given
NEIGHBOURS = 2.0  # steps: correlations nearer than this belong to the same maximum
LOST = 0.05  # weight of positions without a value, from which on a resampled position has none
FINEST = 256  # positions a side in the middle of the scan, which are enough for the fraction of a step


@dataclass(frozen=True)
class ScanShift(Storable):
    """The displacement of two scans.

    Attributes
    ----------
    shift : (float, float)
        Steps along x and y: position R of the second scan lies over the place R + shift of the first.
    error : (float, float)
        Standard errors from four parts of the scan, steps (jackknife).
    correlation : float
        Of both fields at that displacement. Negative if most of the field changed its sign between the scans.
    rival : float
        Largest correlation of the products at another displacement, as a share of that at this one: 1 means undecided.
    """

    shift: tuple[float, float]
    error: tuple[float, float]
    correlation: float
    rival: float

    def __str__(self) -> str:
        parts = " and ".join(f"{s:+.2f} ± {e:.2f}" for s, e in zip(self.shift, self.error))
        size = f"correlation {self.correlation:+.2f}, products elsewhere at most {self.rival:.2f} of those here"
        return f"the second scan is displaced by {parts} steps ({size})"


@on_host("map")
def find_shift(first: ArrayLike, second: ArrayLike, *, max_shift: float | None = None) -> ScanShift:
    """Find the displacement between two scans of the same specimen from their fields.

    A part of the field may have changed its sign between the scans, as a magnetic one does if the specimen is turned over. So the
    products F_x², F_y² and F_x F_y of the curl-free parts are compared, which have no sign: their correlation is largest at the
    displacement, whichever part is the stronger. Whole steps come from Fourier transforms, fractions from the maximum of the splines'
    correlation. What helps is detail of both fields; of few smooth features the displacement is not known well, as its error says.

    Parameters
    ----------
    first, second : (Rx, Ry, 2) real
        In scan axes, any unit. NaN positions are left out.
    max_shift : float, optional
        Largest displacement to look for, steps. A quarter of the smaller side unless given.

    Returns
    -------
    ScanShift

    Raises
    ------
    InputError
        Wrong shapes, fields without variation, or no such displacement.

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.meshgrid(np.arange(40.0), np.arange(40.0), indexing="ij")
    >>> def field(sx, sy):
    ...     dx, dy = (x + sx - 18) / 5, (y + sy - 22) / 5
    ...     return np.stack([dx, dy], -1) * np.exp(-(dx**2 + dy**2) / 2)[..., None]
    >>> found = find_shift(field(0, 0), -field(1.3, -0.7))
    >>> [round(s, 2) for s in found.shift], found.correlation < -0.99
    ([1.3, -0.7], True)
    """
    fields = [real_values(v, n, "a field (Rx, Ry, 2)").astype(np.float64) for v, n in ((first, "first"), (second, "second"))]
    for v, name in zip(fields, ("first", "second")):
        if v.ndim != 3 or v.shape[-1] != 2 or v.shape != fields[0].shape or min(v.shape[:2]) < 4:
            raise InputError(f"{name} has shape {v.shape}: need two fields (Rx, Ry, 2) of one shape, with four positions a side")
    side = min(fields[0].shape[:2])
    most = MOST * side if max_shift is None else float(real_number(max_shift, "max_shift"))
    if not 0 <= most <= side - 4:
        raise InputError(f"max_shift={max_shift}: need 0 to {side - 4} steps, for a scan of {fields[0].shape[:2]}")
    smooth = []
    for v, name in zip(fields, ("first", "second")):
        part = curl_free(np.where(np.isfinite(v).all(-1, keepdims=True), v, np.nan))
        part = part - np.nanmean(part, axis=(0, 1)) if np.isfinite(part).any() else part
        if not np.nansum(part**2) > 0:
            raise InputError(f"{name} is the same at all positions, so its displacement cannot be found: need a field that varies")
        smooth.append(part)
    start, rival = _whole_steps(_products(smooth[0]), _products(smooth[1]), most)
    a, b = (_middle(v) for v in smooth)
    shift = _refined(a, b, start)
    return ScanShift((float(shift[0]), float(shift[1])), _jackknife(a, b, shift), _correlation(a, b, shift), rival)


def resampled(field: ArrayT, shift: tuple[float, float]) -> ArrayT:
    """Resample a field of the second scan at the positions of the first, (Rx, Ry, n): its values at R − shift.

    Splines of the fifth order. NaN where the second scan has no position, or one without a value takes part.

    Raises
    ------
    InputError
        Wrong shapes.

    Examples
    --------
    >>> import numpy as np
    >>> ramp = np.arange(6.0)[:, None, None] + np.zeros((6, 6, 1))
    >>> resampled(ramp, (0.5, 0.0))[:, 0, 0].round(1).tolist()
    [nan, 0.5, 1.5, 2.5, 3.5, 4.5]
    """
    values = arrays.as_float64(real_array(field, "field", "(Rx, Ry, n)"))
    moved = floats(shift, 2, "shift")
    if len(values.shape) != 3 or min(values.shape) < 1 or not all(map(math.isfinite, moved)):
        raise InputError(f"field has shape {tuple(values.shape)}, shift is {moved}: need (Rx, Ry, n), and two finite numbers of steps")
    return _through(values, [resampling(n, s) for n, s in zip(values.shape[:2], moved)])


def resampled_variance(variance: ArrayT, shift: tuple[float, float]) -> ArrayT:
    """Return the variances of what `resampled` gives, (Rx, Ry, n), for errors that do not depend on each other."""
    matrices = [resampling(n, s) for n, s in zip(variance.shape[:2], shift)]
    return _through(arrays.as_float64(variance), [(m**2, inside) for m, inside in matrices])


def resampling(n: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrix (n, n) that gives a line's values at i − shift, and which i lie within the line."""
    places = np.arange(n) - shift
    inside = (places >= -1e-9) & (places <= n - 1 + 1e-9)
    if n < 4:
        return np.eye(n), inside & (shift == 0)
    spline = scipy.interpolate.make_interp_spline(np.arange(n), np.eye(n), k=3 if n <= ORDER else ORDER)
    return spline(np.clip(places, 0, n - 1)), inside


def _through(values: ArrayT, along: list[tuple[np.ndarray, np.ndarray]]) -> ArrayT:
    """Resample along both axes."""
    xp = arrays.namespace(values)
    left, right = (arrays.from_numpy(np.ascontiguousarray(m), values) for m, _ in along)
    known = xp.all(xp.isfinite(values), axis=-1)
    inside = arrays.from_numpy(np.ascontiguousarray(np.logical_and.outer(along[0][1], along[1][1])), values)
    gaps = xp.where(known, xp.zeros_like(values[..., 0]), xp.ones_like(values[..., 0]))
    spread = xp.matmul(xp.matmul(xp.abs(left), gaps), xp.matrix_transpose(xp.abs(right)))
    good = inside & (spread < LOST)
    fill = arrays.nanmean(values, axis=(0, 1))
    parts = []
    for i in range(values.shape[-1]):
        plane = xp.where(known, values[..., i], fill[i])
        moved = xp.matmul(xp.matmul(left, plane), xp.matrix_transpose(right))
        parts.append(xp.where(good, moved, xp.full_like(moved, math.nan)))
    return xp.stack(parts, axis=-1)


def _middle(v: np.ndarray) -> np.ndarray:
    """Cut a large field to its middle."""
    return v[tuple(slice(max(n - FINEST, 0) // 2, (n + FINEST + 1) // 2) for n in v.shape[:2])]


def _products(v: np.ndarray) -> np.ndarray:
    """Return F_x², F_y² and √2 F_x F_y, whose scalar product is the square of that of the fields."""
    return np.stack([v[..., 0] ** 2, v[..., 1] ** 2, math.sqrt(2) * v[..., 0] * v[..., 1]], axis=-1)


def _whole_steps(a: np.ndarray, b: np.ndarray, most: float) -> tuple[np.ndarray, float]:
    """Return the displacement in whole steps, and the largest correlation away from it as a share of that one."""
    shape = (fft.next_fast_len(2 * a.shape[0], real=True), fft.next_fast_len(2 * a.shape[1], real=True))

    def spectrum(v: np.ndarray) -> np.ndarray:
        return fft.rfft2(np.pad(v, [(0, m - n) for m, n in zip(shape, v.shape)]))

    ok = [np.isfinite(v).all(-1).astype(np.float64) for v in (a, b)]
    a, b = (np.nan_to_num(v - np.nanmean(v, axis=(0, 1))) for v in (a, b))
    cross = sum(spectrum(a[..., i]) * np.conj(spectrum(b[..., i])) for i in range(a.shape[-1]))
    energy = [spectrum((a**2).sum(-1)) * np.conj(spectrum(ok[1])), spectrum(ok[0]) * np.conj(spectrum((b**2).sum(-1)))]
    top, left, right = (fft.irfft2(f, shape) for f in (cross, *energy))
    lags = [np.where(np.arange(m) > m // 2, np.arange(m) - m, np.arange(m)) for m in shape]
    near = np.hypot(lags[0][:, None], lags[1]) <= max(most, 1.0)
    size = np.where(near & (left > 0) & (right > 0), top / np.sqrt(np.maximum(left * right, 1e-300)), -1.0)
    at = np.unravel_index(int(size.argmax()), shape)
    best = np.array([lags[0][at[0]], lags[1][at[1]]], dtype=np.float64)
    elsewhere = _maxima(size) & (np.hypot(lags[0][:, None] - best[0], lags[1] - best[1]) > NEIGHBOURS)
    rival = max(float(size[elsewhere].max()), 0.0) if elsewhere.any() else 0.0
    return best, rival / float(size[at]) if size[at] > 0 else math.inf


def _maxima(size: np.ndarray) -> np.ndarray:
    """Return where an image is not smaller than its eight neighbours."""
    return size >= scipy.ndimage.maximum_filter(size, 3, mode="wrap")


def _correlation(a: np.ndarray, b: np.ndarray, shift: np.ndarray, where: np.ndarray | None = None, products: bool = False) -> float:
    """Return the normalised correlation of fields, or of their products, over the positions that both scans have."""
    moved = resampled(b, (float(shift[0]), float(shift[1])))
    if products:
        a, moved = _products(a), _products(moved)
    both = np.isfinite(moved).all(-1) & np.isfinite(a).all(-1)
    both = both if where is None else both & where
    if both.sum() < 4:
        return 0.0
    u, v = (w[both] - w[both].mean(0) for w in (a, moved))
    scale = math.sqrt(float((u * u).sum() * (v * v).sum()))
    return float((u * v).sum()) / scale if scale > 0 else 0.0


def _refined(a: np.ndarray, b: np.ndarray, start: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    """Return the displacement near `start` at which the size of the correlation is largest."""

    def cost(shift: np.ndarray) -> float:
        return 0.0 if np.abs(shift - start).max() > 1.5 else -_correlation(a, b, shift, where, products=True)

    simplex = start + np.array([[0.0, 0.0], [0.4, 0.0], [0.0, 0.4]])
    options = {"xatol": 2e-3, "fatol": 1e-6, "initial_simplex": simplex}
    return np.asarray(scipy.optimize.minimize(cost, start, method="Nelder-Mead", options=options).x)


def _jackknife(a: np.ndarray, b: np.ndarray, shift: np.ndarray) -> tuple[float, float]:
    """Return standard errors from the answers without each quarter of the scan."""
    nx, ny = a.shape[:2]
    found = []
    for i in (0, 1):
        for j in (0, 1):
            rest = np.ones((nx, ny), bool)
            rest[i * nx // 2 : (i + 1) * nx // 2, j * ny // 2 : (j + 1) * ny // 2] = False
            found.append(_refined(a, b, shift, rest))
    spread = np.sqrt(3 / 4 * ((np.array(found) - np.mean(found, axis=0)) ** 2).sum(axis=0))
    return float(spread[0]), float(spread[1])
