"""Judge a detector by frames without a beam: level and noise of every pixel, and the pixels that cannot be used."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import real_values
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.preprocess.defects import dark_levels, defects_of

OUTLIER = 7.0  # standard deviations: pixels of a sound detector of 10⁸ pixels stay within 6, and none of them has to be left out
LEAST_FRAMES = 4  # from which on the noise of a pixel says something


class _DarkReference(NamedTuple):
    mean: np.ndarray
    noise: np.ndarray
    hot: np.ndarray
    dead: np.ndarray
    flickering: np.ndarray


class DarkReference(_DarkReference, Storable, stored="mean noise: Qx Qy [ADU]; hot dead flickering: Qx Qy"):
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
        Pixels that are much noisier than their neighbours. They are not counted as hot.
    """

    __slots__ = ()

    @property
    def mask(self) -> np.ndarray:
        """Detector mask of the pixels that can be used, (Qx, Qy) bool."""
        return ~(self.hot | self.dead | self.flickering)

    def __repr__(self) -> str:
        bad = ", ".join(f"{int(getattr(self, name).sum())} {name}" for name in ("hot", "dead", "flickering"))
        return f"DarkReference({'×'.join(map(str, self.mean.shape))} pixels: {bad})"


@on_host("raw")
def dark_reference(frames: ArrayLike) -> DarkReference:
    """Find level, noise and bad pixels of a detector from frames without a beam.

    Bad pixels are those of `find_defects` with a threshold of 7 σ.

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
    values = real_values(frames, "frames", "frames without a beam, (..., Qx, Qy)")
    if values.ndim < 2 or 0 in values.shape:
        raise InputError(f"frames have shape {values.shape}: need (..., Qx, Qy) with at least one frame")
    values = values.reshape(-1, *values.shape[-2:])
    levels = dark_levels(values)
    known = np.isfinite(levels.mean)
    if not known.any():
        raise InputError("frames hold no finite pixel: every one is NaN or infinite in some frame")
    found = defects_of(levels, OUTLIER)
    noise = np.full(known.shape, np.nan)
    if levels.variance is not None and levels.frames >= LEAST_FRAMES:
        noise = np.sqrt(levels.variance)
    dead = found.dead | ~known
    return DarkReference(levels.mean, noise, found.hot & ~found.flickering, dead, found.flickering & ~dead)
