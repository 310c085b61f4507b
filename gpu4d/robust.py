"""Estimate spread and weights that few outliers do not change."""

from __future__ import annotations

from typing import Any

import numpy as np

MAD_TO_SIGMA = 1.4826  # standard deviation of a Gaussian over its median absolute deviation
TUKEY = 4.685  # standard deviations from which a value has no weight: 95 % efficiency for Gaussian errors (Huber & Ronchetti)


def robust_sigma(values: np.ndarray, about: Any = None, axis: int | None = None) -> Any:
    """Return the standard deviation that the median absolute deviation stands for.

    Parameters
    ----------
    values : array
        At least one value, none of them NaN.
    about : float or array, optional
        Known middle. None: the median.
    axis : int, optional
        Axis along which the median is taken. None: all values.
    """
    middle = np.median(values, axis=axis, keepdims=True) if about is None else about
    return MAD_TO_SIGMA * np.median(np.abs(values - middle), axis=axis)


def biweight(sigmas: np.ndarray) -> np.ndarray:
    """Return Tukey's biweight of residuals in standard deviations: 1 at zero, 0 from `TUKEY` on."""
    return np.clip(1 - (sigmas / TUKEY) ** 2, 0, None) ** 2
