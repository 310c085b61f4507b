"""Say what pixels show in frames without hits, and how much one electron adds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

TRIMMED = 64  # frames of which one value of a pixel is left out, and at least one: a pixel is hit in one frame of many thousands


class Usual(NamedTuple):
    """What each pixel shows in frames without a hit, each (Qx, Qy) float64, and how many frames that was."""

    mean: np.ndarray
    variance: np.ndarray
    top: np.ndarray
    frames: int


def usual_values(frames: np.ndarray) -> Usual:
    """Return mean, variance and maximum of each pixel over frames, its largest values left out: one, and one more for 64 frames.

    Parameters
    ----------
    frames : (n, Qx, Qy) float32
        At least two.
    """
    n = len(frames)
    left = n - max(1, n // TRIMMED)
    flat = np.ascontiguousarray(frames.reshape(n, -1).T)
    flat.partition(left, axis=1)
    kept = flat[:, :left]
    shape = frames.shape[1:]
    mean = kept.mean(axis=1, dtype=np.float64)
    variance = kept.var(axis=1, dtype=np.float64)
    return Usual(mean.reshape(shape), variance.reshape(shape), kept.max(axis=1).astype(np.float64).reshape(shape), left)


def electron(frames: np.ndarray, noise: float) -> float:
    """Return the signal of one electron: by how much the variance of a pixel grows with its mean, at least the noise.

    Parameters
    ----------
    frames : (n, Qx, Qy) float32
    noise : float
        Standard deviation of a pixel without a beam. It is the answer where no pixel is lit.
    """
    mean, variance = frames.mean(axis=0, dtype=np.float64), frames.var(axis=0, dtype=np.float64)
    lit = mean > max(3 * noise / np.sqrt(len(frames)), float(np.quantile(mean, 0.5)))
    if not lit.any():
        return noise
    return max(float(np.median((variance[lit] - noise**2) / mean[lit])), noise)
