"""Predict a specimen's picture between the positions of a scan: Wiener's filter, and splines through what it leaves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy  # its parts are imported when they are used

from gpu4d import fft
from gpu4d.drift.spectrum import Spectrum

EDGE = 2.0  # steps: nearer to the border of a scan, or beyond it, nothing is predicted, as many of the neighbours are missing
MIRRORED = 12  # positions beyond the border that continue the picture for the filter: further than it reaches


@dataclass(frozen=True)
class Picture:
    """What one scan, or every second row of it, says about the specimen at any place between its positions.

    Attributes
    ----------
    splines : list of RectBivariateSpline
        One for every channel, in numbers of positions (i, j).
    good : (nx, ny) bool
        Positions whose neighbours, and they themselves, have values.
    colour : (n,) float64
        As `Spectrum.colour`.
    kernel : (rows,) float64
        As `Spectrum.row_kernel`.
    """

    splines: list[scipy.interpolate.RectBivariateSpline]
    good: np.ndarray
    colour: np.ndarray
    kernel: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, spectrum: Spectrum, *, parity: int | None = None, axis: int = 0) -> Picture:
        """Make the picture from values (nx, ny, n) with noise of variance 1. Missing values are NaN and count as the mean, 0.

        Parameters
        ----------
        values, spectrum
        parity : {0, 1}, optional
            Use every second row only, from this one on. The filter then separates what is folded back from higher frequencies.
        axis : int
            The axis of the array that counts rows.
        """
        shape = values.shape[:2]
        planes = np.moveaxis(np.nan_to_num(values), -1, 0)
        if parity is not None:
            used = np.arange(shape[axis]) % 2 == parity
            planes = planes * (used[:, None] if axis == 0 else used)
        before = [min(MIRRORED, n - 1) for n in shape]
        after = [min(fft.next_fast_len(n + 2 * b, real=True) - n - b, n - 1) for n, b in zip(shape, before)]
        wide = np.pad(planes, [(0, 0), *zip(before, after)], mode="reflect")
        k = [fft.frequencies(wide.shape[1])[:, None], fft.frequencies(wide.shape[2], half=True)]
        power = spectrum.at(np.hypot(*k))
        if parity is None:
            gain = power / (power + 1)
        else:
            k[axis] = 0.5 - np.abs(k[axis])  # half a cycle per row away: what rows that are two steps apart cannot tell from k
            gain = power / ((power + spectrum.at(np.hypot(*k))) / 2 + 1)
        smooth = fft.irfft2(fft.rfft2(wide) * gain, wide.shape[1:])
        smooth = smooth[:, before[0] : before[0] + shape[0], before[1] : before[1] + shape[1]]
        axes = [np.arange(float(n)) for n in shape]
        good = ~scipy.ndimage.binary_dilation(~np.isfinite(values).all(-1), np.ones((3, 3)))
        return cls(
            [scipy.interpolate.RectBivariateSpline(*axes, plane) for plane in smooth],
            good,
            spectrum.colour(),
            spectrum.row_kernel(shape[axis]),
        )

    def at(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return values (N, n), slopes (N, n, 2) per position, and which places (N, 2) the picture covers, (N,) bool."""
        last = np.array(self.good.shape) - 1
        inside = ((places >= EDGE) & (places <= last - EDGE)).all(-1)
        x, y = np.clip(places, 0, last).T
        inside &= self.good[np.round(x).astype(int), np.round(y).astype(int)]
        values = np.stack([spline.ev(x, y) for spline in self.splines], -1)
        slopes = [np.stack([spline.ev(x, y, dx=1 - a, dy=a) for spline in self.splines], -1) for a in (0, 1)]
        return values, np.stack(slopes, -1), inside
