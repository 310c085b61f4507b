"""Take off what a method leaves open before two phases or two objects are compared: a constant, a ramp of the phase, a shift."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gpu4d import fft

STEPS = 30  # of the fit at the most: it ends before where nothing changes any more
SETTLED = 1e-6  # px and rad: a step below it ends the fit
FARTHEST = 3.0  # px: a shift that grows beyond it from where the correlation began has lost its way
DIGITS = 6  # after the point of what is told: smaller numbers are rounding
LEAST = 16  # values from which on a ramp and a shift can be fitted


@dataclass(frozen=True, eq=False)
class Fitted:
    """What was taken off.

    Attributes
    ----------
    second : (X, Y) array
        The second with constant, ramp and shift, NaN where it is not known.
    constant : float
        Radians.
    ramp : (float, float)
        Radians per pixel along both axes.
    shift : (float, float)
        Pixels by which the second was moved.
    """

    second: np.ndarray
    constant: float
    ramp: tuple[float, float] = (0.0, 0.0)
    shift: tuple[float, float] = (0.0, 0.0)


def turned(first: np.ndarray, second: np.ndarray) -> Fitted:
    """Return the second with the global phase that brings it nearest to the first.

    Parameters
    ----------
    first, second : array of complex
        Of the same shape. NaN where nothing is known.
    """
    good = np.isfinite(first) & np.isfinite(second)
    phase = float(np.angle(np.sum(first[good] * np.conj(second[good])))) if good.any() else 0.0
    return Fitted(second * np.exp(1j * phase), phase)


def fitted(first: np.ndarray, second: np.ndarray) -> Fitted:
    """Return the second with the constant, the ramp of its phase and the shift that bring it nearest to the first.

    A ramp of the object and the opposite ramp of the probe cancel in every pattern, and so do shifts of both: iterative ptychography
    cannot tell them. The fit begins at the highest correlation, and goes on by least squares.

    Parameters
    ----------
    first, second : (X, Y) array of float or complex
        Phases in radians, or transmissions. NaN where nothing is known.
    """
    begin = _begin(first, second)
    if begin is None:
        return Fitted(second, 0.0)
    along = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in first.shape), indexing="ij")
    filled = np.where(np.isfinite(second), second, np.nanmean(second))
    shift, phase = np.array(begin), np.zeros(3)  # constant, and the ramp along both axes
    for _ in range(STEPS):
        moved, slopes = _moved(filled, shift)
        ramp = phase[0] + phase[1] * along[0] + phase[2] * along[1]
        if np.iscomplexobj(first):
            model = moved * np.exp(1j * ramp)
            columns = [1j * model, 1j * model * along[0], 1j * model * along[1], *(-slope * np.exp(1j * ramp) for slope in slopes)]
        else:
            model = moved + ramp
            columns = [np.ones(first.shape), along[0], along[1], *(-slope for slope in slopes)]
        good = np.isfinite(first) & np.isfinite(second) & np.isfinite(model) & np.isfinite(columns[3]) & np.isfinite(columns[4])
        if good.sum() < LEAST:
            return Fitted(second, 0.0)
        step = _least_squares([column[good] for column in columns], (first - model)[good])
        phase, shift = phase + step[:3], shift + step[3:]
        if np.abs(shift - begin).max() > FARTHEST:
            return Fitted(second, 0.0)
        if np.abs(step).max() < SETTLED:
            break
    moved, _ = _moved(filled, shift)
    ramp = phase[0] + phase[1] * along[0] + phase[2] * along[1]
    whole = moved * np.exp(1j * ramp) if np.iscomplexobj(first) else moved + ramp
    found = np.where(np.isfinite(second), whole, np.nan)
    return Fitted(found, float(phase[0]), (float(phase[1]), float(phase[2])), (float(shift[0]), float(shift[1])))


def on_grid(
    values: np.ndarray,
    own: tuple[float, tuple[float, float]],
    grid: tuple[float, tuple[float, float]],
    shape: tuple[int, ...],
) -> np.ndarray:
    """Return a map at the pixels of another grid, NaN beyond its ends.

    What the coarser grid cannot show is smoothed away before.

    Parameters
    ----------
    values : (X, Y) array of float or complex
    own, grid : (float, (float, float))
        Pixel in Å, and the position of pixel [0, 0] in Å, of the map and of the other grid.
    shape : (int, int)
        Of the other grid.
    """
    from scipy import ndimage

    (step, corner), (pixel, first) = own, grid
    if step == pixel and corner == first and values.shape == tuple(shape):
        return values
    wide = max(0.0, (pixel / step) ** 2 - 1) / 12  # variance of the coarse pixel less that of the fine one, px²
    at = [(f + pixel * np.arange(n) - c) / step for f, c, n in zip(first, corner, shape)]
    places = np.meshgrid(*at, indexing="ij")

    def one(part: np.ndarray) -> np.ndarray:
        smooth = ndimage.gaussian_filter(part.astype(np.float64), math.sqrt(wide)) if wide else part
        return np.asarray(ndimage.map_coordinates(smooth, places, order=3, mode="constant", cval=math.nan))

    return one(values.real) + 1j * one(values.imag) if np.iscomplexobj(values) else one(values)


def words(found: Fitted, pixel: float, unit: str) -> str:
    """Say what was taken off, in the unit of the pixel."""
    ramp, shift = (value / pixel for value in found.ramp), (value * pixel for value in found.shift)
    slopes, moved = (", ".join(f"{round(value, DIGITS):.3g}" for value in values) for values in (ramp, shift))
    return f"without a constant, a ramp of ({slopes}) rad/{unit} and a shift of ({moved}) {unit}, which ptychography leaves open"


def _begin(first: np.ndarray, second: np.ndarray) -> tuple[float, float] | None:
    """Return the shift in whole pixels at which the second correlates best with the first. None if there are too few values."""
    if (np.isfinite(first) & np.isfinite(second)).sum() < LEAST or min(first.shape) < 4:
        return None
    one, other = (_without_plane(np.angle(part) if np.iscomplexobj(part) else part) for part in (first, second))
    rows, columns = first.shape
    spectra = [fft.rfft2(np.pad(part, ((0, rows), (0, columns)))) for part in (one, other)]  # so that shifts do not wrap around
    together = fft.irfft2(spectra[0] * np.conj(spectra[1]), (2 * rows, 2 * columns))
    most = [max(1, n // 4) for n in first.shape]  # beyond a quarter of the map, too little is left to compare
    places = [np.r_[-m : m + 1] for m in most]
    best = np.unravel_index(int(np.argmax(together[np.ix_(places[0], places[1])])), (len(places[0]), len(places[1])))
    return float(places[0][best[0]]), float(places[1][best[1]])


def _without_plane(values: np.ndarray) -> np.ndarray:
    """Return a map without its mean and its slopes, zero where nothing is known."""
    good = np.isfinite(values)
    along = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in values.shape), indexing="ij")
    columns = [np.ones(values.shape), *along]
    fit = _least_squares([column[good] for column in columns], values[good])
    return np.where(good, values - sum(c * column for c, column in zip(fit, columns)), 0.0)


def _moved(values: np.ndarray, shift: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return a map that is moved by a shift, with its slopes along both axes, NaN where the moved map ends."""
    from scipy import ndimage

    def one(part: np.ndarray) -> np.ndarray:
        return np.asarray(ndimage.shift(part, shift, order=3, mode="constant", cval=math.nan))

    if np.iscomplexobj(values):
        moved = one(values.real.astype(np.float64)) + 1j * one(values.imag.astype(np.float64))
    else:
        moved = one(values.astype(np.float64))
    return moved, list(np.gradient(moved))


def _least_squares(columns: list[np.ndarray], values: np.ndarray) -> np.ndarray:
    """Return the real numbers by which columns are multiplied so that their sum comes nearest to the values."""
    matrix = np.stack(columns, axis=-1)
    if np.iscomplexobj(matrix) or np.iscomplexobj(values):
        matrix, values = np.concatenate([matrix.real, matrix.imag]), np.concatenate([values.real, values.imag])
    return np.asarray(np.linalg.lstsq(matrix, values, rcond=None)[0])
