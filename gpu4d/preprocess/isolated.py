"""Electrons of raw frames that are alone: what they tell of the charge of one electron."""

from __future__ import annotations

import math

import numpy as np

from gpu4d.errors import InputError
from gpu4d.preprocess.charge import SQRT_TAU, ChargeModel

ALONE = 5  # px: side of the square that has no other maximum
ONE_SIGMA = 15.865525  # percentile of a normal distribution one standard deviation below the middle
SPREADS = (0.1, 1.5)  # px: range of the charge that the model takes
ENERGY_SPREADS = (0.05, 1.0)  # of ln(signal): range that detectors can have


def isolated_squares(signal: np.ndarray, good: np.ndarray, level: float) -> np.ndarray:
    """Return 3 × 3 pixels around maxima that have no other maximum within two pixels.

    Parameters
    ----------
    signal : (n, Qx, Qy) real
        Frames without their dark level.
    good : (Qx, Qy) bool
        Pixels that can be used.
    level : float
        Smallest maximum.

    Returns
    -------
    (m, 3, 3) float64

    Raises
    ------
    InputError
        No electron is isolated.
    """
    from scipy.ndimage import maximum_filter, uniform_filter

    values = np.where(good & np.isfinite(signal), signal, 0.0)
    alone = (values >= level) & (values == maximum_filter(values, (1, 3, 3)))
    crowded = uniform_filter(alone.astype(np.float64), (1, ALONE, ALONE), mode="constant") * ALONE**2 > 1.5
    whole = uniform_filter(good.astype(np.float64), 3, mode="constant") > 0.99
    frame, x, y = np.nonzero(alone & ~crowded & whole)
    if not len(frame):
        raise InputError(
            "no electron is isolated: the dose is too high for counting. Record frames with fewer electrons, or take other frames"
        )
    around = np.arange(-1, 2)
    return values[frame[:, None, None], x[:, None, None] + around[:, None], y[:, None, None] + around].astype(np.float64)


def charge_of_one(squares: np.ndarray, noise: float) -> tuple[float, ChargeModel]:
    """Return the mean signal of one electron, and the model of its charge, from squares about isolated electrons.

    Median and 16th percentile of the signals give the middle and the width of ln(signal): the pairs that are taken for one electron
    are above both. An electron leaves on average the share spread / √(2π) of its charge in the next row of pixels, because its place
    in a pixel is evenly distributed: ∫₀¹ Φ(−u / spread) du.

    Parameters
    ----------
    squares : (m, 3, 3) float64
    noise : float
        Of a pixel, in the same units.

    Examples
    --------
    >>> square = np.array([[0.0, 14.0, 0.0], [14.0, 44.0, 14.0], [0.0, 14.0, 0.0]])
    >>> electron, model = charge_of_one(np.stack([0.8 * square, square, 1.2 * square]), 3.0)
    >>> round(model.spread, 2)
    0.35
    """
    sums = squares.sum(axis=(1, 2))
    low, middle = np.percentile(sums, (ONE_SIGMA, 50))
    energy = float(np.clip(math.log(middle / max(low, 1e-3 * middle)), *ENERGY_SPREADS))
    total = float(sums.sum())
    outer = (squares[:, ::2].sum() + squares[:, :, ::2].sum()) / (4 * total)
    electron = float(middle) * math.exp(energy**2 / 2)
    return electron, ChargeModel(float(np.clip(outer * SQRT_TAU, *SPREADS)), noise / electron, energy)
