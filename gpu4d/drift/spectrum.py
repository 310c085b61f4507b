"""Measure the noise and the power spectrum of pictures, from which the prior of the specimen's field is made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpu4d import fft

BINS = 16  # rings of frequencies
HIGHEST = 0.72  # cycles per step: the corner of the square of frequencies, 1/√2, lies within
FLAT = 0.35  # cycles per step: above it most of what a picture shows is noise
FAINTEST = 1e-3  # of the noise: least power of the field, so that it may have details of any size
RESPONSE = 64  # frequencies along an axis, and rows, in which the response to a shifted row is computed
ROUNDING = 64 * float(np.finfo(np.float64).eps)  # of the largest value: what a fit of three numbers leaves of a plane
MEDIAN = 0.693  # of a power spectrum of noise over its mean: ln 2


@dataclass(frozen=True)
class Spectrum:
    """Power of the field by frequency, in units of the noise of one value.

    Attributes
    ----------
    frequencies : (BINS,) float64
        Cycles per step.
    power : (n, BINS) float64
        Of every channel.
    """

    frequencies: np.ndarray
    power: np.ndarray

    def at(self, frequencies: np.ndarray) -> np.ndarray:
        """Return the power (n, ...) at frequencies. It falls to the least beyond the highest one that was measured."""
        tail = np.exp(-(np.maximum(frequencies / HIGHEST - 1, 0) ** 2) / 0.02)
        return np.stack([np.maximum(np.interp(frequencies, self.frequencies, each) * tail, FAINTEST * 0.1) for each in self.power])

    def information(self) -> np.ndarray:
        """Return what each channel (n,) of two scans tells of their displacement: Σ k² 2 S² / (2 S + 1) over frequencies."""
        rings = self.frequencies**3  # k² times the number of frequencies in a ring
        return (rings * 2 * self.power**2 / (2 * self.power + 1)).sum(-1)

    def colour(self) -> np.ndarray:
        """Return the power of residuals (n,) where slopes are, over their mean power.

        A picture predicts another one of the same noise with residuals of power (2 S + 1) / (S + 1): twice the noise where the signal
        is strong, once elsewhere. Slopes k² S² / (S + 1) are where the signal is strong.
        """
        rings = self.frequencies  # proportional to the number of frequencies in a ring
        residual = (2 * self.power + 1) / (self.power + 1)
        slopes = rings**3 * self.power**2 / (self.power + 1)
        return (slopes * residual).sum(-1) / slopes.sum(-1) / ((rings * residual).sum(-1) / rings.sum())

    def row_kernel(self, rows: int) -> np.ndarray:
        """Return by how much of its own shift a row moves a filtered picture at the distances of 0, 1, … rows: (rows,).

        Rows that are shifted by sin(2πpx) take a frequency k of the picture to k ± p, and the filter passes it by its gain there. So the
        filtered picture shows a shift of frequency p by the mean gain at k + p over the frequencies k that make slopes.
        """
        line = (np.arange(RESPONSE) - RESPONSE // 2) / RESPONSE
        kx, ky = np.meshgrid(line, line, indexing="ij")
        power = self.at(np.hypot(kx, ky))
        weight = (kx**2 + ky**2) * power**2 / (power + 1)
        share = self.information() / self.information().sum() / weight.sum((1, 2))
        passed = []
        for p in np.arange(RESPONSE // 2 + 1) / RESPONSE:
            there = self.at(np.hypot((kx + p + 0.5) % 1 - 0.5, ky))
            passed.append(share @ (weight * there / (there + 1)).sum((1, 2)))
        found = fft.irfft(np.array(passed)[None], RESPONSE)[0, : RESPONSE // 2]
        return np.concatenate([found, np.zeros(rows)])[:rows]


def without_plane(picture: np.ndarray) -> np.ndarray:
    """Subtract from every channel of a picture (nx, ny, n) the plane that fits best. NaN values stay NaN and take no part.

    What is left of a plane of large numbers is rounding. It is set to zero, because it would else pass for contrast.
    """
    x, y = np.meshgrid(*(np.linspace(-1, 1, n) for n in picture.shape[:2]), indexing="ij")
    design = np.stack([np.ones(x.size), x.ravel(), y.ravel()], -1)
    flat = picture.reshape(-1, picture.shape[-1])
    known = np.isfinite(flat).all(-1)
    solution = np.linalg.lstsq(design[known], flat[known], rcond=None)[0]
    left = flat - design @ solution
    rounding = ROUNDING * np.abs(flat[known]).max(axis=0, initial=0.0)
    left[:, (np.abs(left[known]) <= rounding).all(axis=0)] *= 0.0  # NaN stays NaN
    return left.reshape(picture.shape)


def powers(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return frequencies (m,) and powers (m, n) of a picture under a window: 1 for noise of variance 1 at every value."""
    window = np.outer(*(np.hanning(n + 2)[1:-1] for n in picture.shape[:2])) * np.isfinite(picture).all(-1)
    planes = np.moveaxis(np.nan_to_num(picture) * window[..., None], -1, 0)
    power = np.abs(fft.rfft2(planes)) ** 2 / (window**2).sum()
    k = np.hypot(fft.frequencies(picture.shape[0])[:, None], fft.frequencies(picture.shape[1], half=True))
    return k.ravel(), power.reshape(len(power), -1).T


def noise_of(picture: np.ndarray) -> np.ndarray:
    """Return the standard deviation (n,) of white noise in a picture, from the median of its power at the highest frequencies."""
    k, power = powers(picture)
    return np.sqrt(np.median(power[k > FLAT], axis=0) / MEDIAN)


def spectrum_of(pictures: list[np.ndarray]) -> Spectrum:
    """Return the mean spectrum of pictures (nx, ny, n) whose noise has variance 1."""
    each = [powers(picture) for picture in pictures]
    k, power = np.concatenate([a for a, _ in each]), np.concatenate([b for _, b in each])
    ring = np.minimum((k / HIGHEST * BINS).astype(int), BINS - 1)
    count = np.bincount(ring, minlength=BINS)
    total = np.stack([np.bincount(ring, p, minlength=BINS) for p in power.T])
    middle = (np.arange(BINS) + 0.5) / BINS * HIGHEST
    return Spectrum(middle[count > 0], np.maximum(total[:, count > 0] / count[count > 0] - 1, FAINTEST))
