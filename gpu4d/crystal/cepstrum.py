"""Compute power cepstra of patterns: the power spectrum of the windowed logarithm of the counts."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from gpu4d import arrays, fft
from gpu4d.arrays import Array, ArrayLike, ReturnedArray
from gpu4d.data.arguments import pixel_mask, real_values
from gpu4d.errors import InputError
from gpu4d.real_arrays import real_array, real_number

WINDOWS = ("sine", "hann", "none")
DONORS = 16  # good pixels that a hidden one is filled from: enough to bridge a beam stop from all sides


def power_cepstrum(
    patterns: Array, *, window: str | ArrayLike = "sine", offset: float = 1.0, mask: ArrayLike | None = None
) -> ReturnedArray:
    """Compute the power cepstrum of patterns, |FFT(window · (log(I + offset) − mean))|².

    It is the exit-wave power cepstrum (EWPC) of Padgett et al., Ultramicroscopy 214 (2020) 112994. The disks of a crystal repeat with
    the reciprocal lattice, so their logarithm has maxima at the vectors of the real-space lattice. The logarithm turns a product of the
    lattice with slow changes (tilt, thickness, shape factor) into a sum, in which slow changes stay near the centre.

    Parameters
    ----------
    patterns : (..., Qx, Qy) array
        Counts. Negative values count as 0.
    window : {"sine", "hann", "none"} or (Qx, Qy) array
        What the logarithm is multiplied with. "sine" is the square root of "hann". Its maxima are narrower, and those of a pattern that
        ends at the border do not leak into each other. The weighted mean is subtracted first, so that the centre stays low.
    offset : float
        Counts added before the logarithm, above 0. With 1, an empty pixel gives 0, and pixels of much less than one count enter in
        proportion to their counts: a sparse pattern gives its autocorrelation and no noise of log 0.
    mask : (Qx, Qy) bool, optional
        True where the detector counts. The logarithm of other pixels is filled from the 16 nearest good ones, weighted by 1/distance².

    Returns
    -------
    (..., Qx, Qy) float64
        The centre is at (Qx // 2, Qy // 2). One pixel along axis c is 1 / (Q_c q_pixel) in Å. An empty pattern, and one with a NaN or an
        infinity on a good pixel, is NaN.

    Raises
    ------
    InputError
        The offset is not above 0, no such window, or shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(64)
    >>> rows = np.exp(np.cos(2 * np.pi * x / 8))[:, None] * np.ones(64)  # a line every 8 pixels: 64 / 8 = 8 from the centre
    >>> power = power_cepstrum(rows, offset=1e-6)
    >>> np.unravel_index(np.argmax(power), power.shape)[0].item() in (24, 40)
    True
    """
    patterns = real_array(patterns, "patterns", "an array (..., Qx, Qy)")
    if patterns.ndim < 2 or 0 in patterns.shape[-2:]:
        raise InputError(f"patterns are {tuple(patterns.shape)}: need (..., Qx, Qy)")
    xp, shape = arrays.namespace(patterns), tuple(int(n) for n in patterns.shape)
    good = pixel_mask(mask, shape[-2:], "mask")
    weights = arrays.from_numpy(window_of(window, shape[-2:]), patterns)
    flat = xp.reshape(patterns, (math.prod(shape[:-2]), *shape[-2:]))
    logs, usable = log_patterns(flat, weights, checked_offset(offset), None if good is None else arrays.from_numpy(good, patterns))
    spectrum = fft.fft2(logs)
    power = xp.real(spectrum) ** 2 + xp.imag(spectrum) ** 2
    power = xp.where(usable[:, None, None], power, xp.full_like(power, float("nan")))
    return xp.reshape(xp.roll(power, (shape[-2] // 2, shape[-1] // 2), axis=(-2, -1)), shape)


def checked_offset(offset: float) -> float:
    """Return the offset as a number, after checking it."""
    value = real_number(offset, "offset")
    if not 0 < value < float("inf"):
        raise InputError(f"offset={offset}: need counts above 0, 1 for counted electrons")
    return value


def window_of(window: str | ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    """Return a window by its name, or a given one after checking it, (Qx, Qy) float64.

    Examples
    --------
    >>> window_of("hann", (4, 1)).round(3).tolist()
    [[0.146], [0.854], [0.854], [0.146]]
    """
    if isinstance(window, str):
        if window not in WINDOWS:
            raise InputError(f"window={window!r}: need one of {', '.join(map(repr, WINDOWS))}, or an array (Qx, Qy)")
        sine = [np.sin(np.pi * (np.arange(n) + 0.5) / n) for n in shape]
        return np.outer(*sine) ** {"sine": 1, "hann": 2, "none": 0}[window]
    values = real_values(window, "window", "a name or an array (Qx, Qy)").astype(np.float64)
    if values.shape != tuple(shape) or not np.isfinite(values).all() or not (values >= 0).all() or not values.any():
        raise InputError(f"window is {values.shape}: need weights {tuple(shape)} from 0 on, like the patterns, not all 0")
    return values


def log_patterns(patterns: Any, window: Any, offset: float, mask: Any = None) -> tuple[Any, Any]:
    """Return window · (log(I + offset) − weighted mean), (n, Qx, Qy) float64, and which patterns have counts and no NaN, (n,) bool."""
    xp = arrays.namespace(patterns, window)
    x = arrays.as_float64(patterns)
    if mask is not None:
        x = xp.where(mask, x, xp.zeros_like(x))
    usable = xp.all(xp.isfinite(x), axis=(-2, -1)) & xp.any(x > 0, axis=(-2, -1))
    x = xp.log(xp.where((x > 0) & usable[:, None, None], x, xp.zeros_like(x)) + offset)
    if mask is not None:
        x = _filled(x, mask)
    window = arrays.as_float64(window)
    mean = xp.sum(x * window, axis=(-2, -1), keepdims=True) / xp.sum(window)
    return (x - mean) * window, usable


def _filled(x: Any, mask: Any) -> Any:
    """Fill hidden pixels of images (n, Qx, Qy) from good ones around them."""
    xp, shape = arrays.namespace(x), x.shape
    hidden, donors, shares = fill_tables(arrays.to_numpy(mask))
    if not hidden.size:
        return x
    flat = xp.reshape(x, (shape[0], shape[1] * shape[2]))
    values = xp.take(flat, arrays.from_numpy(donors.reshape(-1), x), axis=1)
    new = xp.sum(xp.reshape(values, (shape[0], *donors.shape)) * arrays.from_numpy(shares, x), axis=-1)
    place = np.arange(flat.shape[1])
    place[hidden] = flat.shape[1] + np.arange(hidden.size)  # of the images with the new values behind them
    return xp.reshape(xp.take(xp.concat([flat, new], axis=1), arrays.from_numpy(place, x), axis=1), shape)


def fill_tables(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Say from which good pixels the hidden ones of a mask are filled. The arrays are cached and must not be changed.

    Returns
    -------
    hidden (m,) int64, donors (m, k) int64, shares (m, k) float64
        Numbers qx · Qy + qy of the hidden pixels and of their nearest good ones, and weights whose sum is 1.
    """
    return _fill_tables(mask.shape, np.ascontiguousarray(mask, bool).tobytes())


@lru_cache(maxsize=8)
def _fill_tables(shape: tuple[int, int], packed: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from scipy.spatial import cKDTree

    mask = np.frombuffer(packed, bool).reshape(shape)
    hidden, good = np.flatnonzero(~mask), np.argwhere(mask)
    if not hidden.size or not len(good):
        return np.zeros(0, np.int64), np.zeros((0, 1), np.int64), np.zeros((0, 1))
    count = min(DONORS, len(good))
    away, which = cKDTree(good).query(np.argwhere(~mask), k=count)
    away, which = away.reshape(-1, count), which.reshape(-1, count)
    shares = 1 / away**2
    return hidden, np.flatnonzero(mask)[which], shares / shares.sum(axis=1, keepdims=True)
