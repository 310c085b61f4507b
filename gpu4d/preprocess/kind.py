"""Recognise patterns that are no diffraction patterns of a beam: raw frames of a counting detector, and empty ones."""

from __future__ import annotations

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import host_image, measured_pixels, real_values
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.robust import robust_sigma

ABOVE = 8.0  # standard deviations of the level: what a single electron exceeds in a raw frame
MOST_LIT = 0.05  # of the pixels of a frame: with more electrons than that they overlap
LEAST_LIT = 8  # pixels above the level in a frame: fewer may be hits of X-rays
ELSEWHERE = 0.8  # of the lit pixels: as many lie at other places in every raw frame
RAISED = 3.0  # standard deviations of a frame: the mean of a pixel that is lit in most frames is higher
EVEN = 1.15  # times the noise of counts: pixels of an empty detector differ by no more


@on_host("raw")
def raw_frames(frames: ArrayLike, mean: ArrayLike) -> bool:
    """Say whether patterns are raw frames in which single electrons can be told.

    In such a frame few pixels stand out of the level of the detector, and in the next frame these are others.

    Parameters
    ----------
    frames : (n, Qx, Qy) real
        A few patterns.
    mean : (Qx, Qy) real
        Mean pattern of the scan. NaN pixels do not count.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> frames = rng.normal(50, 3, (6, 64, 64))
    >>> frames[rng.random(frames.shape) < 0.01] += 120
    >>> mean = np.full((64, 64), 51.2)
    >>> raw_frames(frames, mean), raw_frames(rng.poisson(51, (6, 64, 64)), mean)
    (True, False)
    """
    level = host_image(mean, "mean").astype(np.float64)
    values = real_values(frames, "frames", "frames (n, Qx, Qy) of real numbers").astype(np.float64)
    if values.ndim != 3 or values.shape[1:] != level.shape:
        raise InputError(f"frames have shape {values.shape}, the mean {level.shape}: need (n, {level.shape[0]}, {level.shape[1]})")
    known = measured_pixels(level)
    if not known.any() or not len(values):
        return False
    found = [_raw(frame[known], level[known]) for frame in values]
    return 2 * sum(found) > len(found)


def _raw(frame: np.ndarray, mean: np.ndarray) -> bool:
    """Say whether one frame has few lit pixels, most of them at places that are not lit in the mean."""
    rest = frame - mean
    sigma = float(robust_sigma(rest))
    lit = rest > ABOVE * sigma
    if not (sigma > 0 and LEAST_LIT <= lit.sum() <= MOST_LIT * lit.size):
        return False
    return float((mean[lit] < np.median(mean) + RAISED * sigma).mean()) >= ELSEWHERE


@on_host("image")
def is_flat(mean: ArrayLike, patterns: int) -> bool:
    """Say whether the pixels of a mean pattern of counts differ by no more than counting noise.

    Parameters
    ----------
    mean : (Qx, Qy) real
        Counts. NaN pixels do not count.
    patterns : int
        Number of patterns in the mean.

    Examples
    --------
    >>> mean = np.random.default_rng(0).poisson(3, (40, 32, 32)).mean(0)
    >>> is_flat(mean, 40), is_flat(mean + 2 * np.eye(32), 40)
    (True, False)
    """
    values = host_image(mean, "mean").astype(np.float64)
    values = values[measured_pixels(values)]
    return bool(values.size) and float(np.std(values)) <= EVEN * float(np.sqrt(max(values.mean(), 0.0) / patterns))
