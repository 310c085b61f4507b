"""Find hot pixels: they exceed the median of their neighbours by more than noise explains."""

from __future__ import annotations

import math
from typing import Any

from gpu4d import arrays
from gpu4d.arrays import ArrayLike, ArrayT
from gpu4d.data.arguments import pixel_mask
from gpu4d.errors import InputError
from gpu4d.imaging.pattern_sums import pattern_sums
from gpu4d.imaging.patterns import without_masked
from gpu4d.preprocess.hot_pixel_median import hot_pixel_median
from gpu4d.real_arrays import real_array
from gpu4d.robust import MAD_TO_SIGMA


def hot_pixels(frames: ArrayT, /, threshold: float = 5.0, *, unit: float = 1.0, mask: ArrayLike | None = None) -> ArrayT:
    """Find the hot pixels of a detector, with `hot_pixel_median` on the sum of all frames.

    Parameters
    ----------
    frames : (..., Qx, Qy) real
        Patterns, or one image: a sum, a mean, a dark reference. Readout noise is taken from the differences of neighbours.
    threshold : float
        In σ, 3 to 5.
    unit : float
        Signal of one electron in a pixel of the frames: 1 for counts, the gain for ADU, 1/n for the mean of n frames of counts.
    mask : (Qx, Qy) bool, optional
        True where a pixel counts. Other pixels are ignored.

    Returns
    -------
    (Qx, Qy) bool
        True where a pixel is hot. The detector mask for further work is ``mask & ~hot_pixels(frames)``.

    Examples
    --------
    >>> import numpy as np
    >>> frames = np.random.default_rng(0).poisson(3, (50, 16, 16))
    >>> frames[:, 4, 7] += 6
    >>> np.argwhere(hot_pixels(frames)).tolist()
    [[4, 7]]
    """
    frames = real_array(frames, "frames", "an array (..., Qx, Qy)")
    xp = arrays.namespace(frames)
    if len(frames.shape) < 2 or 0 in frames.shape:
        raise InputError(f"frames have shape {tuple(frames.shape)}, need (..., Qx, Qy) with at least one pixel")
    valid = pixel_mask(mask, tuple(frames.shape[-2:]), "mask")
    counted = None if valid is None else arrays.from_numpy(valid, frames)
    total: Any = frames
    if len(frames.shape) > 2:
        total, _ = pattern_sums(without_masked(xp.reshape(frames, (-1, *frames.shape[-2:])), valid))
    image: ArrayT = arrays.as_float64(total)
    steps = xp.abs(image[..., 1:] - image[..., :-1])
    good = xp.isfinite(steps)
    if counted is not None:
        allowed = xp.astype(counted, xp.bool)
        good = good & allowed[..., 1:] & allowed[..., :-1]
    known = xp.reshape(xp.where(good, steps, xp.full_like(steps, math.inf)), (-1,))
    number = int(xp.sum(xp.astype(good, xp.int64)))
    noise = float(xp.sort(known)[number // 2]) * MAD_TO_SIGMA / math.sqrt(2) if number else 0.0
    return hot_pixel_median(image, threshold=threshold, unit=unit, noise=noise, mask=counted)[1]
