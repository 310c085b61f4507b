"""Measure the first shell of a radial distribution function: where it is, how wide, and how many atoms are in it."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

HALF = 0.5  # of its height: above, the first peak is taken for a Gaussian
FARTHEST = 1.65  # of the first peak's distance: second shells of metallic glasses begin at about this, those of network glasses peak there


class Shell(NamedTuple):
    """First shell of groups of profiles; arrays are (g,) float64, NaN where there is none.

    Attributes
    ----------
    peak : (g,)
        Where G(r) is largest, Å: of a parabola through the largest value and its neighbours.
    start, end : float
        Å, the same for all groups. From `start` on, the RDF grows up to the peak; `start` is not below `r_min`. At `end`, g(r) has its
        deepest minimum behind, up to 1.65 of the peak's distance, or its first one if there is none so near.
    atoms : (g,)
        ∫ 4πr²ρ g(r) dr from `start` to `end`.
    gaussian_position, gaussian_width, gaussian_atoms : (g,)
        Of a Gaussian fitted to RDF(r)/r above half of its height: its middle and standard deviation, Å, and its atoms.
    """

    peak: np.ndarray
    start: float
    end: float
    atoms: np.ndarray
    gaussian_position: np.ndarray
    gaussian_width: np.ndarray
    gaussian_atoms: np.ndarray


def first_peak(r: np.ndarray, values: np.ndarray, between: tuple[float, float]) -> np.ndarray:
    """Return where G (g, m) has its highest maximum between two distances, Å, (g,); NaN where it has none."""
    inside = np.flatnonzero((r >= between[0]) & (r <= between[1]))
    if len(inside) < 3 or not len(values):
        return np.full(len(values), np.nan)
    part = values[:, inside]
    inner = part[:, 1:-1]
    top = (inner >= part[:, :-2]) & (inner > part[:, 2:])
    candidates = np.where(top, inner, -np.inf)
    at = candidates.argmax(axis=-1)
    found = np.take_along_axis(candidates, at[:, None], axis=-1)[:, 0] > -np.inf
    low, middle, high = (np.take_along_axis(part, at[:, None] + i, axis=-1)[:, 0] for i in range(3))
    with np.errstate(invalid="ignore", divide="ignore"):
        shift = 0.5 * (low - high) / (low - 2 * middle + high)
    step = r[1] - r[0]
    return np.where(found, r[inside[0] + 1 + at] + step * np.where(np.abs(shift) <= 1, shift, 0.0), np.nan)


def shell_limits(r: np.ndarray, values: np.ndarray, smooth: np.ndarray, density: float, peak: float, r_min: float) -> tuple[float, float]:
    """Return where the shell about `peak` begins in G (m,) and ends in a smooth G (m,), Å; NaN where that has no minimum behind the peak.

    The smooth one has no ripples from the end of the band. A shoulder of the peak or a ripple has a minimum of its own, which is not the
    deepest.
    """
    if not (np.isfinite(peak) and density > 0):
        return math.nan, math.nan
    over_r = 4 * np.pi * density * r + values  # RDF / r
    top = int(np.argmin(np.abs(r - peak)))
    first = min(int(np.searchsorted(r, r_min)), top)
    falls = np.flatnonzero(np.diff((over_r * r)[first : top + 1]) <= 0)  # the last one is where the way up to the peak begins
    start = first + int(falls[-1]) + 1 if len(falls) else first
    behind = smooth[top:] / r[top:]
    turns = np.flatnonzero((behind[1:-1] <= behind[:-2]) & (behind[1:-1] < behind[2:])) + 1
    if not len(turns):
        return math.nan, math.nan
    near = turns[r[top + turns] <= FARTHEST * peak]
    end = near[np.argmin(behind[near])] if len(near) else turns[0]
    return float(r[start]), float(r[top + end])


def first_shell(r: np.ndarray, values: np.ndarray, density: np.ndarray, peak: np.ndarray, limits: tuple[float, float]) -> Shell:
    """Measure the shell about `peak` (g,) of G (g, m), and count its atoms between two distances. The density is (g,), 1/Å³."""
    count = len(values)
    known = np.isfinite(peak) & (density > 0)
    over_r = 4 * np.pi * np.where(density > 0, density, np.nan)[:, None] * r + values
    atoms = np.full(count, np.nan)
    if np.isfinite(limits[1]):
        atoms = over_r @ shell_weights(r, *limits)
    found = Shell(peak, limits[0], limits[1], atoms, *(np.full(count, np.nan) for _ in range(3)))
    for i in np.flatnonzero(known).tolist():
        _gaussian(found, i, r, over_r[i], int(np.argmin(np.abs(r - peak[i]))))
    return found


def shell_weights(r: np.ndarray, start: float, end: float) -> np.ndarray:
    """Return the weights (m,) of RDF(r)/r in the number of atoms: those of the integral of the RDF, by trapezoids."""
    inside = (r >= start) & (r <= end)
    weights = np.where(inside, (r[1] - r[0]) * r, 0.0)
    if inside.any():
        weights[np.flatnonzero(inside)[[0, -1]]] /= 2
    return weights


def _gaussian(found: Shell, i: int, r: np.ndarray, over_r: np.ndarray, top: int) -> None:
    """Fit a parabola to the logarithm of RDF/r about its maximum, weighted as equal errors of RDF/r ask."""
    high = over_r > HALF * over_r[top]
    low = top - int(np.argmin(high[top::-1])) if not high[: top + 1].all() else -1
    stop = top + int(np.argmin(high[top:])) if not high[top:].all() else len(r)
    part = slice(low + 1, stop)
    if stop - low - 1 < 4 or not over_r[top] > 0:
        return
    x, y = r[part] - r[top], over_r[part]
    c, b, a = np.polynomial.polynomial.polyfit(x, np.log(y), 2, w=y)
    if not a < 0:
        return
    width, middle = np.sqrt(-0.5 / a), -0.5 * b / a
    height = np.exp(c - b**2 / (4 * a))
    found.gaussian_position[i], found.gaussian_width[i] = r[top] + middle, width
    found.gaussian_atoms[i] = height * np.sqrt(2 * np.pi) * width * (r[top] + middle)
