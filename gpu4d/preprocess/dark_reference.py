"""Judge a detector by frames without a beam: level and noise of every pixel, and the pixels that cannot be used."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import real_values
from gpu4d.errors import InputError
from gpu4d.robust import robust_sigma

OUTLIER = 7.0  # robust standard deviations of a level among its neighbours: pixels of a sound detector of 10⁸ pixels stay within 6
NOISE_OUTLIER = 8.0  # standard errors of a noise above that of the other pixels
NEIGHBOURS = 5  # px: side of the square whose median is the level that a pixel is compared with
LEAST_FRAMES = 4  # from which on the noise of a pixel says something


class DarkReference(NamedTuple):
    """What frames without a beam say of a detector.

    Attributes
    ----------
    mean : (Qx, Qy) float64
        Level of every pixel, in the units of the frames (ADU).
    noise : (Qx, Qy) float64
        Standard deviation of every pixel, ADU. NaN from fewer than four frames.
    hot, dead : (Qx, Qy) bool
        Pixels whose level is far above, or far below, that of their neighbours. A pixel that is NaN, or that never changes while others
        do, is dead.
    flickering : (Qx, Qy) bool
        Pixels that are much noisier than others. They are not counted as hot.
    """

    mean: np.ndarray
    noise: np.ndarray
    hot: np.ndarray
    dead: np.ndarray
    flickering: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """Detector mask of the pixels that can be used, (Qx, Qy) bool."""
        return ~(self.hot | self.dead | self.flickering)

    def __repr__(self) -> str:
        bad = ", ".join(f"{int(getattr(self, name).sum())} {name}" for name in ("hot", "dead", "flickering"))
        return f"DarkReference({'×'.join(map(str, self.mean.shape))} pixels: {bad})"


def dark_reference(frames: ArrayLike) -> DarkReference:
    """Find level, noise and bad pixels of a detector from frames without a beam.

    Parameters
    ----------
    frames : (..., Qx, Qy) real
        Frames without a beam; four or more for the noise. One image is taken for their mean.

    Returns
    -------
    DarkReference

    Raises
    ------
    InputError
        No frames, or no pixels.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> frames = rng.normal(60, 3, (16, 32, 32)).round().astype("uint16")
    >>> frames[:, 3, 4] += 400
    >>> frames[:, 10, 20] = 0
    >>> frames[::4, 25, 5] += 100
    >>> dark_reference(frames)
    DarkReference(32×32 pixels: 1 hot, 1 dead, 1 flickering)
    """
    from scipy.ndimage import median_filter

    values = real_values(frames, "frames", "frames without a beam, (..., Qx, Qy)")
    if values.ndim < 2 or 0 in values.shape:
        raise InputError(f"frames have shape {values.shape}: need (..., Qx, Qy) with at least one frame")
    values = values.reshape(-1, *values.shape[-2:])
    n = len(values)
    mean = values.mean(axis=0, dtype=np.float64)
    noise = _noise(values, mean) if n >= LEAST_FRAMES else np.full(mean.shape, np.nan)
    known = np.isfinite(mean)
    if not known.any():
        raise InputError("frames hold no finite pixel: every one is NaN or infinite in some frame")
    level = np.where(known, mean, np.median(mean[known]))
    flickering, stuck = np.zeros(mean.shape, bool), np.zeros(mean.shape, bool)
    if n >= LEAST_FRAMES:
        typical = float(np.median(noise[known]))
        flickering = known & (noise > typical * (1 + NOISE_OUTLIER / math.sqrt(2 * (n - 1))))
        stuck = known & (noise == 0) & (typical > 0)
    off = level - median_filter(level, NEIGHBOURS)
    scatter = max(float(robust_sigma(off[known])), float(np.nanmedian(noise)) / math.sqrt(n) if n >= LEAST_FRAMES else 0.0)
    hot = known & (off > OUTLIER * scatter) & (off > 0) & ~flickering
    dead = ~known | (off < -OUTLIER * scatter) & (off < 0) | stuck & ~hot
    return DarkReference(mean, noise, hot, dead, flickering & ~dead)


def _noise(values: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return the standard deviation of every pixel, a frame at a time."""
    total = np.zeros(mean.shape)
    for frame in values:
        total += (frame - mean) ** 2
    return np.sqrt(total / (len(values) - 1))
