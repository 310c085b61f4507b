"""Measure how the images of bright-field pixels are shifted, and fit the shifts by the gradient of the aberrations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d import arrays, fft
from gpu4d.ptychography.tracked_spectra import PixelImages, windowed_spectra, windows
from gpu4d.robust import robust_sigma

LEVELS = (1.5, 3.0, 6.0, 6.0)  # groups of pixels along a radius of the disk, coarse to fine; the last twice, as windows follow the fit
LARGEST = 256  # samples: of longer scans only the lower frequencies are compared, which bounds the memory
SLOWEST = 1.5  # cycles per field: lower frequencies are ramps of thickness, which no shift shows
FASTEST = 0.5  # of the disk's radius: at higher frequencies most pixels see one side band alone, whose phase is not a shift
LEAST_BAND = 4.0  # cycles per field: the limit is not set below it
FARTHEST = 0.25  # of the field: the largest shift of a coarse group
NEARBY = 2.0  # scan steps, or a quarter of the largest shift: finer groups are looked for about the fit
WHITEN = 0.5  # power of the spectrum that is divided out: between the plain correlation and the phases alone, as both fail on some scans
OUTLYING = 2.5  # robust standard deviations: shifts farther off the fit count less, by Huber's weights
STEPS = 12  # of the robust fit


@dataclass(frozen=True)
class ImageShifts:
    """Measured shifts of groups of pixels, and the linear map that fits them.

    Attributes
    ----------
    matrix : (2, 2) float64
        shift = matrix @ k: scan steps, k in detector pixels from the axis. Pixel k sees at R what the axis sees at R + shift.
    covariance : (2, 2) float64
        Of a row of the matrix, from the scatter of the measured shifts.
    at, measured : (n, 2) float64
        Middle of each group, and its shift.
    scatter : float
        Robust standard deviation of the measured shifts about the fit, scan steps.
    """

    matrix: np.ndarray
    covariance: np.ndarray
    at: np.ndarray
    measured: np.ndarray
    scatter: float


def measure_shifts(images: PixelImages, at: np.ndarray, edge: float) -> ImageShifts:
    """Compare groups of pixels, coarse to fine, each with the sum of those nearer to the axis, and fit their shifts.

    Parameters
    ----------
    images : PixelImages
    at : (P, 2)
        The pixels from the axis.
    edge : float
        Radius of the bright-field disk in cycles per scan step.
    """
    scan = images.cube.scan_shape
    band = SLOWEST, max(LEAST_BAND, FASTEST * edge * min(scan))  # cycles per field of the shorter side
    found: ImageShifts | None = None
    for level in LEVELS:
        guess = np.zeros((2, 2)) if found is None else found.matrix
        size = float(np.abs(at).max()) / level
        groups = np.unique(np.round(at / size).astype(int), axis=0, return_inverse=True)[1].ravel()
        middle = np.stack([np.bincount(groups, at[:, axis]) / np.bincount(groups) for axis in (0, 1)], -1)
        spectra = _group_spectra(images, groups, at @ guess.T)
        reach = FARTHEST * min(scan) if found is None else max(NEARBY, 0.25 * float(np.abs(at @ guess.T).max()))
        beyond = _against_the_sum(spectra, middle, reach, np.array(scan) / np.minimum(scan, LARGEST), band)
        found = _fitted(middle, middle @ guess.T + beyond, np.bincount(groups))
    assert found is not None
    return found


def _group_spectra(images: PixelImages, groups: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Return the spectra (g, n, m) of the sums of groups of pixels, every pixel moved back by its expected shift."""
    scan = images.cube.scan_shape
    size = [min(n, LARGEST) for n in scan]
    rows = np.round(np.fft.fftfreq(size[0]) * size[0]).astype(int)
    columns = np.arange(size[1] // 2 + 1)

    def some(first: int, group: Any) -> np.ndarray:
        here = shifts[first : first + group.shape[0]]
        spectra, _ = windowed_spectra(group, windows(scan, here), images.bad)
        xp = arrays.namespace(spectra)
        low = xp.take(xp.take(spectra, arrays.from_numpy(rows % scan[0], group), axis=1), arrays.from_numpy(columns, group), axis=2)
        turn = [np.exp(-2j * np.pi * np.outer(here[:, axis], k / scan[axis])) for axis, k in ((0, rows), (1, columns))]
        return arrays.to_numpy(low) * turn[0][:, :, None] * turn[1][:, None, :]

    total = np.zeros((int(groups.max()) + 1, size[0], len(columns)), np.complex128)
    first = 0
    for spectra in images.mapped(some):
        np.add.at(total, groups[first : first + len(spectra)], spectra)
        first += len(spectra)
    return total


def _against_the_sum(spectra: np.ndarray, middle: np.ndarray, reach: float, step: np.ndarray, band: tuple[float, float]) -> np.ndarray:
    """Return the shift (g, 2) of every group from the sum of those nearer to the axis, in scan steps."""
    shape = spectra.shape[1], 2 * (spectra.shape[2] - 1)
    kx, ky = np.fft.fftfreq(shape[0])[:, None] * shape[0], np.arange(spectra.shape[2])[None, :]
    field = np.array(shape) * step
    cycles = np.hypot(kx / field[0], ky / field[1]) * field.min()
    passed = (cycles >= band[0]) & (cycles <= band[1])
    place = [np.fft.fftfreq(n) * n * s for n, s in zip(shape, step)]
    near = np.hypot(place[0][:, None], place[1]) <= reach
    order = np.argsort(np.hypot(*middle.T), kind="stable")
    total, found = spectra[order[0]].copy(), np.zeros((len(middle), 2))
    for group in order[1:]:
        product = total * np.conj(spectra[group]) * passed
        size = np.abs(product)
        product = np.where(size > 0, product / np.where(size > 0, size, 1) ** WHITEN, 0)
        correlation = np.where(near, fft.irfft2(product, shape), -np.inf)
        peak = np.unravel_index(int(np.argmax(correlation)), shape)
        found[group] = [
            _signed(peak[axis] + _parabola(np.take(correlation, peak[1 - axis], 1 - axis), peak[axis]), shape[axis]) * step[axis]
            for axis in (0, 1)
        ]
        turn = [np.exp(-2j * np.pi * k * found[group][axis] / step[axis] / shape[axis]) for axis, k in ((0, kx), (1, ky))]
        total = total + spectra[group] * turn[0] * turn[1]
    return found


def _parabola(line: np.ndarray, peak: Any) -> float:
    """Return where the parabola through a maximum and its neighbours is highest, relative to the maximum."""
    left, middle, right = line[peak - 1], line[peak], line[(peak + 1) % len(line)]
    bend = left - 2 * middle + right
    return float(0.5 * (left - right) / bend) if np.isfinite(bend) and bend < 0 else 0.0


def _signed(place: float, n: int) -> float:
    return place - n if place > n / 2 else place


def _fitted(at: np.ndarray, measured: np.ndarray, sizes: np.ndarray) -> ImageShifts:
    """Fit shift = matrix @ k + constant by least squares with Huber's weights. The constant is the sum's own shift."""
    design = np.concatenate([at, np.ones((len(at), 1))], axis=1)
    weights = sizes.astype(float)
    for _ in range(STEPS):
        normal = design.T @ (weights[:, None] * design)
        solution = np.linalg.pinv(normal) @ design.T @ (weights[:, None] * measured)
        off = np.hypot(*(measured - design @ solution).T)
        scatter = max(float(robust_sigma(np.concatenate([off, -off]))), 1e-9)
        weights = sizes * np.minimum(1, OUTLYING * scatter / np.maximum(off, 1e-12))
    inverse = np.linalg.pinv(normal)[:2, :2]
    variance = float((weights * off**2).sum() / max(1, 2 * len(at) - 6))
    return ImageShifts(solution[:2].T, inverse * variance, at, measured, scatter / np.sqrt(2))
