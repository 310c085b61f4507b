"""Tell the sign of the defocus of shadow images from their Fresnel fringes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scipy  # its parts are imported when they are used

from gpu4d import fft
from gpu4d.data.calibration import Calibration
from gpu4d.data.scan_axes import scan_matrix

BLOCKS = 5  # parts of an image along each axis whose coefficients are compared, for the standard error


def half_turn_from_fringes(
    views: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, float, np.ndarray, np.ndarray]],
    best: np.ndarray,
    transpose: bool,
    calibration: Calibration | None,
) -> float:
    """Return how clearly the fringes are those of an overfocused probe, in standard errors. Negative: of an underfocused one.

    A shadow image is the hologram that a point source at the distance C10 makes. A thin specimen of projected mass m, with absorption
    a m and phase b m, gives the intensity 1 − 2 a F⁻¹[cos(π λ C10 k²) m̂] + 2 b F⁻¹[sin(π λ C10 k²) m̂] (weak object). Both a and b are
    positive: mass absorbs, and its potential attracts electrons. The mass is taken from the annular dark-field image. The sign of the
    second coefficient is the sign of C10.

    Parameters
    ----------
    views : sequence
        STEM image, shadow image, centre and radius of the bright-field disk, probe position in the STEM image, and detector points.
    best : (angle, log scale, shift, shift)
        The registration that was found, as of an overfocused probe.
    transpose : bool
    calibration : Calibration or None
        Energy, q_pixel and r_pixel give λ |C10|. Without them the fringes cannot be computed, and the answer is 0.
    """
    c = calibration
    if c is None or not (c.q_pixel and c.r_pixel and c.energy):
        return 0.0
    product = math.exp(best[1]) / (c.q_pixel * c.r_pixel)  # λ |C10| = scale · r_pixel / q_pixel, in squared scan pixels
    coefficients, weights = [], []
    matrix = math.exp(best[1]) * scan_matrix(float(best[0]), transpose)
    for stem, frame, center, radius, place, q in views:
        absorbed, turned = _holograms(stem, product)
        r = place + q @ matrix.T
        inside = ((r >= 2) & (r <= np.asarray(stem.shape) - 3)).all(axis=-1)
        smooth = scipy.ndimage.gaussian_filter(frame, 0.7)
        seen = scipy.ndimage.map_coordinates(smooth, (q + center).T, order=1, mode="nearest")
        block = np.floor((q / radius + 1) / 2 * BLOCKS).clip(0, BLOCKS - 1) @ [BLOCKS, 1]
        for number in np.unique(block[inside]):
            some = inside & (block == number)
            if some.sum() < 20:
                continue
            terms = [np.ones(some.sum()), *q[some].T / radius]
            terms += [scipy.ndimage.map_coordinates(image, r[some].T, order=1) for image in (absorbed, turned)]
            design = np.stack(terms, axis=-1)
            design[:, 1:] -= design[:, 1:].mean(axis=0)
            fit = np.linalg.lstsq(design, seen[some] / max(seen[some].mean(), 1e-12), rcond=None)[0]
            coefficients.append(fit[-1])
            weights.append(float(np.sum(design[:, -1] ** 2)))
    if len(coefficients) < 4:
        return 0.0
    values, w = np.array(coefficients), np.array(weights) / np.sum(weights)
    mean = float(values @ w)
    scatter = math.sqrt(float(np.sum(w**2 * (values - mean) ** 2)) * len(w) / (len(w) - 1))
    return mean / scatter if scatter > 0 else 0.0


def _holograms(stem: np.ndarray, product: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the mass seen through the cosine and the sine of π λ |C10| k². `product` is λ |C10| in squared scan pixels."""
    mass = (stem - np.median(stem)) / max(float(np.ptp(stem)), 1e-12)
    shape = tuple(2 * n for n in mass.shape)  # mirrored, so that opposite borders fit each other
    even = np.pad(mass, [(0, n) for n in mass.shape], mode="symmetric")
    kx, ky = np.fft.fftfreq(shape[0]), np.fft.fftfreq(shape[1])
    chi = np.pi * product * (kx[:, None] ** 2 + ky[None, :] ** 2)
    soft = np.exp(-(chi**2) / 50)  # beyond a few fringes, coherence and pixels leave nothing
    spectrum = fft.fft2(even) * soft
    back = [np.real(fft.ifft2(spectrum * f(chi)))[: mass.shape[0], : mass.shape[1]] for f in (np.cos, np.sin)]
    return back[0], back[1]
