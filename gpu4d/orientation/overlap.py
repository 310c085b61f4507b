"""Find a second grain in patterns of overlapping grains: what the first does not explain is matched again."""

from __future__ import annotations

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
    rows : (k,) int64
        Numbers of the patterns.
    first, second : Candidates
        Refined together, and the alternatives of each.
    """

    rows: np.ndarray
    first: Candidates
    second: Candidates


def find_overlap(peaks: Peaks, first: Candidates, libraries: list[OrientationLibrary], options: FitOptions) -> Overlap:
    """Return the patterns in which a second grain explains peaks that the first one leaves."""
    table, counts = (arrays.to_numpy(a) for a in peaks)
    there = np.arange(table.shape[1]) < counts[:, None]
    unexplained = there & (first.expected[:, 0] == 0)
    rows = np.flatnonzero((unexplained.sum(axis=-1) >= LEAST_PEAKS) & (first.phase[:, 0] >= 0))
    if not len(rows):
        return Overlap(rows, Candidates(*(f[rows] for f in first)), Candidates(*(f[rows] for f in first)))
    left = _without(peaks, rows, first.expected[rows, 0], options)
    second = find_candidates(left, libraries, options)
    m, variance = (arrays.to_numpy(left.table)[..., i] for i in (2, 3))
    alone = np.sum(np.where(there[rows], 4 * m**2 / variance, 0.0), axis=-1)
    with np.errstate(invalid="ignore"):
        won = 0.5 * (alone - second.cost[:, 0]) >= LEAST_GAIN
    new = np.sum(unexplained[rows] & (second.expected[:, 0] > 0), axis=-1)
    found = np.flatnonzero(won & (new >= LEAST_PEAKS))
    rows, second = rows[found], Candidates(*(f[found] for f in second))
    one, other = _together(peaks, rows, Candidates(*(f[rows] for f in first)), second, libraries, options)
    return Overlap(rows, one, other)


def amount(candidates: Candidates, libraries: list[OrientationLibrary]) -> np.ndarray:
    """Return how much of the beam's path is in the crystal, up to a factor that is the same for all phases: (n,).

    Kinematical intensities are proportional to |F|²/V², and the largest |F| is 1 in the fit.
    """
    whole = np.array([(lib.structure.volume / lib.largest) ** 2 for lib in libraries])
    return candidates.scale[:, 0] ** 2 * whole[candidates.phase[:, 0]]


def _without(peaks: Peaks, rows: np.ndarray, expected: np.ndarray, options: FitOptions) -> Peaks:
    """Return the peaks of some patterns with the intensities that a grain does not explain. Their variances stay."""
    table = arrays.to_numpy(peaks.table)[rows]
    left = np.maximum(table[..., 2] - expected, LEFT * options.least)
    table[..., 2] = np.where(expected > 0, np.minimum(left, table[..., 2]), table[..., 2])
    like = peaks.table
    return Peaks(arrays.from_numpy(table, like), arrays.from_numpy(arrays.to_numpy(peaks.counts)[rows], like))


def _together(
    peaks: Peaks, rows: np.ndarray, first: Candidates, second: Candidates, libraries: list[OrientationLibrary], options: FitOptions
) -> tuple[Candidates, Candidates]:
    """Refine each grain with the intensities that the other leaves."""
    for _ in range(2):
        first = _again(_without(peaks, rows, second.expected[:, 0], options), first, libraries, options)
        second = _again(_without(peaks, rows, first.expected[:, 0], options), second, libraries, options)
    return first, second


def _again(peaks: Peaks, candidates: Candidates, libraries: list[OrientationLibrary], options: FitOptions) -> Candidates:
    """Refine the best candidate of each pattern with other intensities. The others are shifted by the same cost."""
    fields = [field.copy() for field in candidates]
    for number, library in enumerate(libraries):
        own = np.flatnonzero(candidates.phase[:, 0] == number)
        if not len(own):
            continue
        some = Peaks(*(arrays.from_numpy(arrays.to_numpy(a)[own], a) for a in peaks))
        start: Any = arrays.from_numpy(candidates.turns[own, :1], some.table)
        turns, cost, scale, normal, expected = (arrays.to_numpy(a) for a in refined(start, some, library, options))
        fields[2][own] += cost - candidates.cost[own, :1]
        for place, value in zip((0, 3, 5, 6), (turns, scale, normal, expected)):
            fields[place][own, :1] = value
    return Candidates(*fields)
