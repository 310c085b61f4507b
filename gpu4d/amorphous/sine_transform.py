"""Transform between structure factor and distances: the sine transform of values between which a straight line is drawn."""

from __future__ import annotations

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import real_values
from gpu4d.errors import InputError
from gpu4d.on_host import on_host

SMALL = 2e-4  # rad of phase over a step: below, the exact formula loses digits, and a sine that is straight between values is exact to 1e-8


def sine_matrix(x: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return the matrix (m, n) of the sine transform: ∫ f(x) sin(at · x) dx for f that is linear between its values at `x`.

    Parameters
    ----------
    x : (n,) float64
        Growing.
    at : (m,) float64
        Of the conjugate variable.

    Notes
    -----
    Every value stands for a hat function, whose integral is written down: with d the step at one side of x, that side gives
    ± cos(at x)/at and ∓ the difference of sin(at x) over at² d. Nothing is sampled, so at may be as large as one likes.
    """
    out = np.zeros((len(at), len(x)))
    step, y = np.diff(x), at[:, None]
    if not len(step):
        return out
    sine, cosine = np.sin(y * x), np.cos(y * x)
    small = np.abs(y * step) < SMALL
    w = np.where(y == 0, 1.0, y)
    slope = np.diff(sine, axis=1) / (w**2 * step)
    left = np.where(small, step * (2 * sine[:, :-1] + sine[:, 1:]) / 6, cosine[:, :-1] / w - slope)
    right = np.where(small, step * (sine[:, :-1] + 2 * sine[:, 1:]) / 6, slope - cosine[:, 1:] / w)
    out[:, :-1] += left
    out[:, 1:] += right
    return out


@on_host("curve")
def sine_transform(x: ArrayLike, values: ArrayLike, at: ArrayLike) -> np.ndarray:
    """Compute the sine transform ∫ f(x) sin(x y) dx of values between which f is linear. The integral is exact.

    It gives G(r) = (2/π) ∫ Q (S − 1) sin(Qr) dQ of a structure factor, and Q (S − 1) = ∫ G(r) sin(Qr) dr back.

    Parameters
    ----------
    x : (n,) array
        Growing; the integral goes from its first value to its last.
    values : (..., n) array
        f at `x`.
    at : (m,) array
        Values of y, 1 / unit of x.

    Returns
    -------
    (..., m) float64
        A row with a NaN gives NaN.

    Raises
    ------
    InputError
        `x` does not grow or is not finite, or shapes do not fit.

    Examples
    --------
    The transform of exp(−x) is y / (1 + y²):

    >>> x = np.linspace(0, 30, 3001)
    >>> sine_transform(x, np.exp(-x), [0.5, 1.0, 2.0]).round(4).tolist()
    [0.4, 0.5, 0.4]
    """
    places, y = growing(x, "x"), real_values(at, "at").astype(np.float64)
    f = real_values(values, "values").astype(np.float64)
    if f.ndim < 1 or f.shape[-1] != len(places):
        raise InputError(f"values are {f.shape}, and x has {len(places)}: need one value for each x along the last axis")
    if y.ndim != 1 or not np.isfinite(y).all():
        raise InputError(f"at is {y.shape}, and {int((~np.isfinite(y)).sum())} of it are not finite: need finite numbers (m,)")
    return f @ sine_matrix(places, y).T


def growing(given: ArrayLike, name: str) -> np.ndarray:
    """Return growing finite numbers (n,) as float64, or refuse them."""
    found = real_values(given, name).astype(np.float64)
    if found.ndim != 1 or not len(found) or not np.isfinite(found).all() or (np.diff(found) <= 0).any():
        raise InputError(f"{name} has shape {found.shape}: need finite numbers (n,), each larger than the one before")
    return found
