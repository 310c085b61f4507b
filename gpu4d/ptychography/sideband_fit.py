"""Fit aberrations to side bands by Gauss and Newton's method. The object's spectrum is eliminated at every frequency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.device.threads import in_threads
from gpu4d.ptychography.aberration_parts import Parts
from gpu4d.ptychography.sideband_products import sideband_products

TOGETHER = 16  # frequencies of one call, of which threads make several at the same time
RIDGE = 1e-6  # of the larger column: where A and B are the same column, the data say nothing about their difference
MOST_STEPS = 30
SETTLED = 0.01  # decrease of χ² over its value per pair: a step that gains less is a tenth of the standard error


@dataclass(frozen=True)
class Sidebands:
    """Spectra of pixels at chosen frequencies, and where they are.

    Attributes
    ----------
    spectra : (n, m) complex
    at : (n, 2) float64
        Pixels from the axis.
    frequencies : (m, 2) float64
        Detector pixels.
    weights : (n,) float64
        1 over the variance of the spectra.
    radius, margin : float
        See `sideband_products`.
    pairs : int
        How many pairs of a pixel and a frequency count.
    """

    spectra: Any
    at: np.ndarray
    frequencies: np.ndarray
    weights: np.ndarray
    radius: float
    margin: float
    pairs: int

    def products(self, chi: Any, parts: Any) -> np.ndarray:
        """Return the products of columns (m, c, c), on the host."""
        at, weights = (arrays.from_numpy(a, self.spectra) for a in (self.at, self.weights))

        def some(first: int) -> np.ndarray:
            part = slice(first, min(first + TOGETHER, len(self.frequencies)))
            frequencies = arrays.from_numpy(self.frequencies[part], self.spectra)
            options: dict[str, Any] = {"radius": self.radius, "margin": self.margin, "chi": chi, "parts": parts}
            return arrays.to_numpy(sideband_products(self.spectra[:, part], at, frequencies, weights, **options))

        firsts = range(0, len(self.frequencies), TOGETHER)
        return np.concatenate(list((in_threads if isinstance(self.spectra, np.ndarray) else map)(some, firsts)))


def count_pairs(at: np.ndarray, frequencies: np.ndarray, radius: float, margin: float) -> int:
    """Return how many pairs of a pixel (n, 2) and a frequency (m, 2) count in `sideband_products`; at least 1."""
    clear, lit = np.ones((len(at), len(frequencies)), bool), []
    for sign in (0, -1, 1):
        x, y = (at[:, axis, None] + sign * frequencies[None, :, axis] for axis in (0, 1))
        distance = np.hypot(x, y)
        clear &= np.abs(distance - radius) >= margin
        lit.append(distance < radius)
    return max(1, int((clear & lit[0] & (lit[1] | lit[2])).sum()))


@dataclass(frozen=True)
class Normal:
    """Normal equations of a fit, with the object eliminated.

    Attributes
    ----------
    gradient : (m, p)
        Of -χ² / 2, from every frequency.
    curvature : (p, p)
    misfit, power : float
        χ², and χ² without any object: sums over frequencies.
    """

    gradient: np.ndarray
    curvature: np.ndarray
    misfit: float
    power: float

    @property
    def coherence(self) -> float:
        """The part of the power that the side bands explain."""
        return 1 - self.misfit / self.power if self.power else 0.0


def normal_equations(products: np.ndarray) -> Normal:
    """Make the normal equations for all parts from the products of columns (m, c, c).

    G = a A + b B with free a and b at every frequency. A phase object has b = -a. But cos φ - 1 of a strong phase, and absorption, have
    b = a, so with b = -a they would be taken for aberrations.
    """
    m, c, _ = products.shape
    p = (c - 3) // 2
    bands = products[:, 1:3, 1:3]
    largest = np.maximum(bands[:, 0, 0].real, bands[:, 1, 1].real)
    ridge = np.where(largest > 0, RIDGE * largest, 1.0)
    inverse = np.linalg.inv(bands + ridge[:, None, None] * np.eye(2))
    amplitudes = np.einsum("mab,mb->ma", inverse, products[:, 1:3, 0])
    residual = np.zeros((m, c), complex)
    residual[:, 0], residual[:, 1:3] = 1.0, -amplitudes
    slopes = np.zeros((m, c, p), complex)
    slopes[:, 3 : 3 + p, :] = 1j * amplitudes[:, 0, None, None] * np.eye(p)
    slopes[:, 3 + p :, :] = -1j * amplitudes[:, 1, None, None] * np.eye(p)
    slopes[:, 1:3, :] = -np.einsum("mab,mbc,mcp->map", inverse, products[:, 1:3, :], slopes, optimize=True)
    weighted = np.einsum("mab,mbp->map", products, slopes, optimize=True)
    gradient = np.einsum("map,ma->mp", weighted.conj(), residual).real
    curvature = np.einsum("map,maq->pq", slopes.conj(), weighted, optimize=True).real
    misfit = np.einsum("ma,mab,mb->m", residual.conj(), products, residual, optimize=True).real
    return Normal(gradient, curvature, float(misfit.sum()), float(products[:, 0, 0].real.sum()))


def coherence(bands: Sidebands, parts: Parts, vector: np.ndarray) -> float:
    """Return the part of the spectra's power that side bands with these aberrations explain."""
    return normal_equations(bands.products(parts.chi(vector), ())).coherence


def fit(bands: Sidebands, parts: Parts, start: np.ndarray, free: Sequence[int]) -> tuple[np.ndarray, Normal]:
    """Improve scaled coefficients by damped Gauss-Newton steps.

    Parameters
    ----------
    bands : Sidebands
    parts : Parts
    start : (p,)
    free : sequence of int
        The coefficients that change. The normal equations are those of these alone.

    Returns
    -------
    (p,), Normal
    """
    chosen, each = list(free), parts.each()
    some = tuple(each[i] for i in chosen)
    vector, damping = start.copy(), 1e-3
    here = normal_equations(bands.products(parts.chi(vector), some))
    for _ in range(MOST_STEPS):
        diagonal = np.diag(here.curvature)
        full = here.curvature + np.diag(damping * diagonal + 1e-12 * diagonal.max(initial=0.0) + 1e-300)
        there = vector.copy()
        there[chosen] += np.linalg.solve(full, here.gradient.sum(0))
        tried = normal_equations(bands.products(parts.chi(there), some))
        if not tried.misfit < here.misfit:
            damping *= 10
            if damping > 1e4:
                break
            continue
        gained = here.misfit - tried.misfit
        vector, here, damping = there, tried, damping / 5
        if gained < SETTLED * here.misfit / bands.pairs:
            break
    return vector, here


def covariance(found: Normal) -> np.ndarray:
    """Return the covariance (p, p) of fitted coefficients from how the gradients scatter over frequencies.

    Gradients hold the noise of the counts and what no aberration explains: borders of the scan, strong objects. Counting
    statistics alone would give the inverse of twice the curvature, which is too small where the other errors are larger.
    """
    number, p = found.gradient.shape
    inverse = np.linalg.pinv(found.curvature, hermitian=True)
    scatter = found.gradient.T @ found.gradient * (number / max(1, number - p))
    return inverse @ scatter @ inverse
