"""Sum images of detector pixels after each is moved back by its shift, on a grid as fine as is asked for."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from gpu4d import arrays, fft
from gpu4d.ptychography.tracked_spectra import PixelImages

LEAST_COVERED = 0.1  # of the pixels: where fewer see a place, at the border of the scan, the image is NaN


def aligned_sum(images: PixelImages, shifts: np.ndarray, *, upsample: int = 1, limit: float = math.inf) -> tuple[Any, np.ndarray]:
    """Return the mean of aligned images, relative to their mean counts, and how many pixels see every place.

    Images are put on the fine grid with zeros between their samples. Their shifts differ by parts of a step, so that together
    they fill the grid, and what repeats in the spectrum of a single one cancels in the sum.

    Parameters
    ----------
    images : PixelImages
    shifts : (P, 2)
        Pixel k sees at R what the sum has at R + shift. Scan steps.
    upsample : int
        Samples of the result along a scan step.
    limit : float
        Highest frequency of the result, cycles per scan step along the first axis.

    Returns
    -------
    (Rx · upsample, Ry · upsample) float64 array, NumPy array of the same shape
        1 is the mean. NaN where fewer than a tenth of the pixels see the place. The number of pixels that see it is 0 to P.
    """
    scan, far = images.cube.scan_shape, np.ceil(np.abs(shifts).max(axis=0)).astype(int) + 1
    padded = tuple(fft.next_fast_len(int(n + p)) for n, p in zip(scan, far))
    fine = (padded[0] * upsample, padded[1] * upsample)
    rows, columns = fft.frequencies(fine[0]) * upsample, fft.frequencies(fine[1], half=True) * upsample  # cycles per scan step

    def one(first: int, group: Any) -> tuple[Any, float]:
        xp = arrays.namespace(group)
        deviations, mean = _deviations(group, images.bad)
        across = xp.zeros((*deviations.shape[:2], padded[1] - scan[1]), dtype=deviations.dtype, device=arrays.device(group))
        wide = xp.concat([deviations, across], axis=2)
        below = xp.zeros((wide.shape[0], padded[0] - scan[0], padded[1]), dtype=wide.dtype, device=arrays.device(group))
        spectra = fft.fft2(xp.concat([wide, below], axis=1))
        here = shifts[first : first + group.shape[0]]
        turns = [arrays.from_numpy(np.exp(-2j * np.pi * np.outer(here[:, a], k)), group) for a, k in ((0, rows), (1, columns))]
        turns = [xp.astype(turn, spectra.dtype) for turn in turns]
        repeated = [arrays.from_numpy(np.arange(n) % p, group) for n, p in ((fine[0], padded[0]), (len(columns), padded[1]))]
        spectra = xp.take(xp.take(spectra, repeated[0], axis=1) * turns[0][:, :, None], repeated[1], axis=2) * turns[1][:, None, :]
        return xp.sum(spectra, axis=0, dtype=xp.complex128), mean

    found = functools.reduce(lambda a, b: (a[0] + b[0], a[1] + b[1]), images.mapped(one))
    passed = np.hypot(rows[:, None], columns) <= limit
    total = fft.irfft2(found[0] * arrays.from_numpy(passed.astype(float), found[0]), fine) * (upsample**2 / max(found[1], 1e-300))
    seen = _coverage(images, shifts, padded, rows, columns, fine)[: scan[0] * upsample, : scan[1] * upsample]
    share = arrays.from_numpy(np.where(seen < LEAST_COVERED * len(shifts), np.nan, seen / len(shifts)), found[0])
    return 1 + total[: scan[0] * upsample, : scan[1] * upsample] / share, seen


def _deviations(group: Any, bad: np.ndarray | None) -> tuple[Any, float]:
    """Return images minus their means, 0 at bad positions, and the sum of the means."""
    xp = arrays.namespace(group)
    group = xp.astype(group, xp.float32)
    good = np.ones(group.shape[1:]) if bad is None else (~bad).astype(float)
    if bad is not None and bad.any():
        group = xp.where(arrays.from_numpy(bad, group), xp.zeros_like(group), group)
    mean = xp.sum(group, axis=(1, 2), keepdims=True, dtype=xp.float64) / max(1.0, float(good.sum()))
    weight = arrays.from_numpy(good.astype(np.float32), group)
    return (group - xp.astype(mean, xp.float32)) * weight, float(xp.sum(mean))


def _coverage(
    images: PixelImages, shifts: np.ndarray, padded: tuple[int, ...], rows: np.ndarray, columns: np.ndarray, fine: tuple[int, int]
) -> np.ndarray:
    """Return how many pixels see every place of the fine grid: the scan's good positions, moved with every pixel's image."""
    good = np.zeros(padded)
    good[: images.cube.scan_shape[0], : images.cube.scan_shape[1]] = ~images.bad
    spectrum = fft.fft2(good)
    at = np.arange(fine[0]) % padded[0], np.arange(len(columns)) % padded[1]
    inside = (np.abs(rows)[:, None] < 0.5) & (np.abs(columns) < 0.5)  # the same between the samples: no repetition
    moved = np.exp(-2j * np.pi * np.outer(rows, shifts[:, 0])) @ np.exp(-2j * np.pi * np.outer(shifts[:, 1], columns))
    return fft.irfft2(spectrum[at[0]][:, at[1]] * moved * inside, fine) * (fine[0] // padded[0]) ** 2
