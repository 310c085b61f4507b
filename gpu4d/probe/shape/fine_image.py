"""Describe a disk on a finer grid than the detector's pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gpu4d.data.storable import Storable
from gpu4d.errors import InputError


@dataclass(frozen=True)
class FineImage(Storable, stored="values: x y; step: [px]"):
    """Intensity of one disk between the pixels, measured from disks at many sub-pixel positions.

    Attributes
    ----------
    values : (M, M) float64
        M is odd. Values are 1 on the disk's plateau. The centre of the disk is the middle sample.
    step : float
        Distance of the samples, pixels.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(-40, 41) / 4
    >>> fine = FineImage(1 / (1 + np.exp(4 * (np.hypot(x[:, None], x) - 6))), 0.25)
    >>> round(float(fine.interpolator()(np.asarray(6.1), np.asarray(0.0))), 2), fine.reach
    (0.4, 10.0)
    """

    values: np.ndarray
    step: float

    def __repr__(self) -> str:
        return f"FineImage({'×'.join(map(str, self.values.shape))} samples, {self.step:.3g} px apart)"

    def __post_init__(self) -> None:
        shape = np.shape(self.values)
        if len(shape) != 2 or shape[0] != shape[1] or shape[0] % 2 == 0 or shape[0] < 5:
            raise InputError(f"a fine image has shape {shape}: need (M, M), M odd and at least 5, the disk's centre in the middle")
        if not (np.isfinite(self.values).all() and self.step > 0):
            raise InputError(f"a fine image needs finite values and a step of some pixels, got step={self.step}")

    @property
    def reach(self) -> float:
        """Return the distance of the outermost samples from the centre along an axis, pixels."""
        return (len(self.values) // 2) * self.step

    def interpolator(self) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """Return a function of x, y relative to the centre, pixels: the intensity by a cubic spline, and 0 beyond the samples."""
        from scipy.ndimage import map_coordinates, spline_filter

        spline, middle = spline_filter(np.asarray(self.values, np.float64), order=3, mode="nearest"), len(self.values) // 2

        def value(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            """Return the intensity at x, y."""
            x, y = np.broadcast_arrays(x, y)
            at = np.stack([x.ravel(), y.ravel()]) / self.step + middle
            return map_coordinates(spline, at, order=3, mode="grid-constant", cval=0.0, prefilter=False).reshape(x.shape)

        return value
