"""Fit a steady drift together with aberrations to side bands: the frequencies of an oblique grid move with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.ptychography.aberration_parts import Parts
from gpu4d.ptychography.experiment import Experiment
from gpu4d.ptychography.sideband_fit import RIDGE, SETTLED, Normal, Sidebands

MOST_STEPS = 40
LIKELY = 0.1  # of the shorter side of the scan: a drift much larger than this is rare, and no longer steady
NUDGE = 1e-4  # of a step of the scan, in which the change of frequencies with the drift is measured: it is linear over much more


@dataclass(frozen=True)
class Drifting:
    """A steady drift of a scan: two numbers, in scan steps over the whole scan.

    Attributes
    ----------
    known : Experiment
        With the grid without drift.
    shape : (int, int)
        Of the scan.
    fast : int
        The axis along which the beam runs.
    cycles : (m, 2) float64
        Chosen frequencies, cycles per step.
    """

    known: Experiment
    shape: tuple[int, int]
    fast: int
    cycles: np.ndarray

    def experiment(self, drift: np.ndarray) -> Experiment:
        """Return the geometry with a drift: the step across the rows grows by it over the number of rows."""
        slow, rows = 1 - self.fast, self.shape[1 - self.fast]
        vectors = self.known.steps.copy()
        vectors[:, slow] += drift * self.known.r_pixel / rows
        vectors[:, self.fast] += drift * self.known.r_pixel / (rows * self.shape[self.fast])
        return replace(self.known, vectors=vectors)

    def places(self, drift: np.ndarray) -> np.ndarray:
        """Return where the frequencies lie on the detector, (m, 2) pixels."""
        return self.cycles @ self.experiment(drift).cycle()

    def slopes(self, drift: np.ndarray) -> np.ndarray:
        """Return how the frequencies move on the detector with the drift, (m, 2, 2): pixel axis, drift axis."""
        nudges = NUDGE * np.eye(2)
        return np.stack([(self.places(drift + n) - self.places(drift - n)) / (2 * NUDGE) for n in nudges], -1)


@dataclass(frozen=True)
class DriftFit:
    """Coefficients and a drift that were fitted together.

    Attributes
    ----------
    scaled : (p,) float64
    drift : (2,) float64
        Scan steps.
    covariance : (p + 2, p + 2) float64
        Of both, in this order.
    normal : Normal
        Without what is assumed of the drift.
    bands : Sidebands
        The spectra that were fitted.
    """

    scaled: np.ndarray
    drift: np.ndarray
    covariance: np.ndarray
    normal: Normal
    bands: Sidebands


def fit_with_drift(bands: Callable[..., Sidebands], parts: Parts, start: np.ndarray, drifting: Drifting, drift: np.ndarray) -> DriftFit:
    """Improve scaled coefficients (p,) and the drift (2,) by damped Gauss-Newton steps.

    The drift is assumed to be 0 with a standard deviation of `LIKELY` of the scan. That holds the combinations that data do not tell.

    Parameters
    ----------
    bands : callable
        Gives the spectra under windows that follow coefficients and drift.
    parts, start, drifting, drift
    """
    used = bands(start, drift)
    vector, damping = np.concatenate([start, drift]), 1e-3
    here = joint_equations(used, parts, vector, drifting)
    # -log L is χ² over its mean per pair. So a Gaussian prior adds d² / 2σ² times that mean to χ², and the second derivative is twice that.
    held = np.zeros(len(vector))
    held[-2:] = here.misfit / used.pairs / (2 * (LIKELY * min(drifting.shape)) ** 2)
    for _ in range(MOST_STEPS):
        curvature = here.curvature + np.diag(held)
        step = np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), here.gradient.sum(0) - held * vector)
        tried = joint_equations(used, parts, vector + step, drifting)
        gained = here.misfit + held @ vector**2 - tried.misfit - held @ (vector + step) ** 2
        if not gained > 0:
            damping *= 10
            if damping > 1e4:
                break
            continue
        vector, here, damping = vector + step, tried, damping / 5
        if gained < SETTLED * here.misfit / used.pairs:
            break
    inverse = np.linalg.inv(here.curvature + np.diag(held))
    number = max(2, len(here.gradient))
    scatter = here.gradient.T @ here.gradient * (number / max(1, number - len(vector))) + np.diag(held) * here.misfit / used.pairs / 2
    return DriftFit(vector[:-2], vector[-2:], inverse @ scatter @ inverse, here, used)


def joint_equations(bands: Sidebands, parts: Parts, vector: np.ndarray, drifting: Drifting) -> Normal:
    """Make the normal equations of coefficients and drift (p + 2,), with the object eliminated at every frequency.

    The side bands are A = Ψ₀*(k) Ψ₀(k - K) and B = Ψ₀(k) Ψ₀*(k + K) with Ψ₀ = exp(-iχ). So ∂A/∂K = i ∇χ(k - K) A and
    ∂B/∂K = i ∇χ(k + K) B. Which pairs of a pixel and a frequency count follows the frequencies of `bands`, so that χ² does not jump.
    """
    scaled, drift = vector[:-2], vector[-2:]
    places, moves = drifting.places(drift), drifting.slopes(drift)
    spectra = arrays.to_numpy(bands.spectra)
    gradients, misfits, powers = [], [], []
    curvature = np.zeros((len(vector),) * 2)
    chi, each = parts.polynomial(scaled) * np.pi, parts.polynomials * np.pi
    for m, (place, counted, move) in enumerate(zip(places, bands.frequencies, moves)):
        clear, lit = _pairs(bands, counted)
        at, weights = bands.at[clear], bands.weights[clear]
        phase, terms = _values(chi, at), _values(each, at)
        columns, slopes = [], []
        for side, sign in enumerate((1, -1)):  # A, then B
            there = at - sign * place
            wave = np.where(lit[side][clear], np.exp(1j * sign * (phase - _values(chi, there))), 0)
            change = sign * (terms - _values(each, there)).T
            slope = parts.gradient(scaled, there) @ move
            columns.append(wave)
            slopes.append(1j * wave[:, None] * np.concatenate([change, slope], axis=1))
        gradient, curve, misfit, power = _eliminated(spectra[clear, m], np.stack(columns, -1), slopes, weights)
        gradients.append(gradient)
        curvature += curve
        misfits.append(misfit)
        powers.append(power)
    return Normal(np.array(gradients), curvature, float(np.sum(misfits)), float(np.sum(powers)))


def _pairs(bands: Sidebands, frequency: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return which pixels (n,) count at a frequency, and where the side bands A and B are lit, as `sideband_products` has it."""
    distance = [np.hypot(*(bands.at + sign * frequency).T) for sign in (0, -1, 1)]
    clear = np.all([np.abs(d - bands.radius) >= bands.margin for d in distance], axis=0)
    center, a, b = (d < bands.radius for d in distance)
    return clear & center & (a | b), (a, b)


def _values(polynomial: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return polynomials (..., 7, 7) in detector pixels at places (n, 2): (..., n)."""
    powers = np.arange(polynomial.shape[-1])
    x, y = (at[:, axis, None] ** powers for axis in (0, 1))
    return np.einsum("ni,...ij,nj->...n", x, polynomial, y, optimize=True)


def _eliminated(values: np.ndarray, columns: np.ndarray, slopes: list[Any], weights: np.ndarray) -> tuple[Any, Any, float, float]:
    """Fit the object's two numbers at one frequency, and return gradient (p,), curvature (p, p), χ² and power of the rest."""
    back = columns.conj().T * weights
    bands = back @ columns
    largest = float(np.diag(bands).real.max(initial=0.0))
    inverse = np.linalg.inv(bands + (RIDGE * largest or 1.0) * np.eye(2))
    amplitudes = inverse @ (back @ values)
    residual = values - columns @ amplitudes
    change = slopes[0] * amplitudes[0] + slopes[1] * amplitudes[1]
    change = change - columns @ (inverse @ (back @ change))
    weighted = change.conj().T * weights
    power = float((weights * np.abs(values) ** 2).sum())
    return (weighted @ residual).real, (weighted @ change).real, float((weights * np.abs(residual) ** 2).sum()), power
