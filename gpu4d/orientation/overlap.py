"""Find a second grain in patterns of overlapping grains: what the first does not explain is matched again."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from gpu4d import arrays
from gpu4d.orientation.candidates import Candidates, FitOptions, find_candidates, refined
from gpu4d.orientation.library import OrientationLibrary
from gpu4d.orientation.peaks import Peaks

LEAST_PEAKS = 3  # that only the second grain explains
LEAST_GAIN = 10.0  # nats: chance coincidences of three peaks with one of a thousand orientations reach 7
LEFT = 0.3  # of the weakest peak: what is left of an explained peak counts as this much at least


class Overlap(NamedTuple):
    """Two grains in each of some patterns.

    Attributes
    ----------
    rows : (k,) int
        Numbers of the patterns.
    first, second : Candidates
        Refined together, and the alternatives of each.
    """

    rows: Any
    first: Candidates
    second: Candidates


def find_overlap(peaks: Peaks, first: Candidates, libraries: list[OrientationLibrary], options: FitOptions) -> Overlap:
    """Return the patterns in which a second grain explains peaks that the first one leaves."""
    xp = arrays.namespace(peaks.table)
    index = xp.arange(peaks.table.shape[1], dtype=peaks.counts.dtype, device=arrays.device(peaks.table))
    unexplained = (index < peaks.counts[:, None]) & (first.expected[:, 0, :] == 0)
    enough = xp.sum(xp.astype(unexplained, xp.int64), axis=-1) >= LEAST_PEAKS
    (rows,) = xp.nonzero(enough & (first.phase[:, 0] >= 0))
    if not rows.shape[0]:
        return Overlap(rows, first.rows(rows), first.rows(rows))
    left = _without(peaks, rows, xp.take(first.expected[:, 0, :], rows, axis=0), options)
    second = find_candidates(left, libraries, options)
    m, variance = left.table[..., 2], left.table[..., 3]
    single = xp.where(index < left.counts[:, None], 4 * m**2 / variance, xp.zeros_like(m))
    won = 0.5 * (xp.sum(single, axis=-1) - second.cost[:, 0]) >= LEAST_GAIN  # False for a NaN
    new = xp.take(unexplained, rows, axis=0) & (second.expected[:, 0, :] > 0)
    (found,) = xp.nonzero(won & (xp.sum(xp.astype(new, xp.int64), axis=-1) >= LEAST_PEAKS))
    rows, second = xp.take(rows, found, axis=0), second.rows(found)
    one, other = _together(peaks, rows, first.rows(rows), second, libraries, options)
    return Overlap(rows, one, other)


def amount(candidates: Candidates, libraries: list[OrientationLibrary]) -> np.ndarray:
    """Return how much of the beam's path is in the crystal, up to a factor that is the same for all phases: (n,).

    Kinematical intensities are proportional to |F|²/V², and the largest |F| is 1 in the fit.
    """
    whole = np.array([(lib.structure.volume / lib.largest) ** 2 for lib in libraries])
    return candidates.scale[:, 0] ** 2 * whole[candidates.phase[:, 0]]


def _without(peaks: Peaks, rows: Any, expected: Any, options: FitOptions) -> Peaks:
    """Return the peaks of some patterns with the intensities that a grain does not explain. Their variances stay."""
    xp = arrays.namespace(peaks.table)
    table = xp.take(peaks.table, rows, axis=0)
    m = table[..., 2]
    left = xp.where(m - expected > LEFT * options.least, m - expected, xp.full_like(m, LEFT * options.least))
    left = xp.where((expected > 0) & (left < m), left, m)
    table = xp.concat([table[..., :2], left[..., None], table[..., 3:]], axis=-1)
    return Peaks(table, xp.take(peaks.counts, rows, axis=0))


def _together(
    peaks: Peaks, rows: Any, first: Candidates, second: Candidates, libraries: list[OrientationLibrary], options: FitOptions
) -> tuple[Candidates, Candidates]:
    """Refine each grain with the intensities that the other leaves."""
    for _ in range(2):
        first = _again(_without(peaks, rows, second.expected[:, 0, :], options), first, libraries, options)
        second = _again(_without(peaks, rows, first.expected[:, 0, :], options), second, libraries, options)
    return first, second


def _again(peaks: Peaks, candidates: Candidates, libraries: list[OrientationLibrary], options: FitOptions) -> Candidates:
    """Refine the best candidate of each pattern with other intensities. The others are shifted by the same cost."""
    xp = arrays.namespace(candidates.turns)
    turns, phase, cost, scale, score, normal, expected = candidates
    best = [field[:, :1, ...] for field in (turns, cost, scale, normal, expected)]
    for number, library in enumerate(libraries):
        own = phase[:, :1] == number
        start = xp.where(own[..., None, None], best[0], xp.full_like(best[0], math.nan))
        fitted = refined(start, peaks, library, options)
        best = [xp.where(xp.reshape(own, (*own.shape, *(1,) * (a.ndim - 2))), b, a) for a, b in zip(best, fitted)]
    shifted = cost + (best[1] - cost[:, :1])
    turns, scale, normal, expected = (
        xp.concat([new, old[:, 1:, ...]], axis=1) for new, old in zip((best[0], *best[2:]), (turns, scale, normal, expected))
    )
    return Candidates(turns, phase, shifted, scale, score, normal, expected)
