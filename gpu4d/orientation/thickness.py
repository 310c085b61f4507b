"""Choose the thickness of the crystal by the intensities of a sample of patterns."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.orientation.candidates import Candidates, FitOptions, find_candidates, refined
from gpu4d.orientation.library import OrientationLibrary
from gpu4d.orientation.peaks import Peaks

log = logging.getLogger("gpu4d")

THICKNESSES = (15.0, 22.0, 33.0, 50.0, 75.0, 110.0, 165.0, 250.0)  # Å: steps of 1.5, in which the cost has one minimum
FIRST_GUESS = 50.0  # Å
ROUNDS = 3  # of trying values between the best one and its neighbours


def best_thickness(
    sample: Peaks, make: Callable[[float], list[OrientationLibrary]], options: FitOptions, given: Sequence[float | None]
) -> float:
    """Return the thickness that explains the sample best, Å. Structures whose thickness is given keep it.

    Orientations are found with one thickness, and refined again with every other one; the least sum of costs wins. If it is far from the
    first, orientations are found again with it, since a wrong thickness leaves some of them wrong.

    Parameters
    ----------
    sample : Peaks
    make : callable
        Libraries for a thickness.
    options : FitOptions
    given : sequence of float or None
        Thickness of each structure, None where it is asked for.
    """
    best = FIRST_GUESS
    for _ in range(2):
        libraries = make(best)
        found = find_candidates(sample, libraries, options).on_host() if int(sample.counts.shape[0]) else None
        if found is None or not (found.phase >= 0).any():
            return best
        before, best = best, _least(lambda t: _cost(sample, found, libraries, options, given, t))  # noqa: B023
        if abs(best / before - 1) < 0.1:
            break
    log.info("match_orientations: a thickness of %.0f Å explains a sample of positions best", best)
    return best


def _least(cost_of: Callable[[float], float]) -> float:
    """Return the thickness of least cost: of the table, then of values between the best one and its neighbours."""
    cost = {t: cost_of(t) for t in THICKNESSES}
    for _ in range(ROUNDS):
        tried = sorted(cost)
        best = min(tried, key=cost.__getitem__)
        place = tried.index(best)
        for other in {tried[max(place - 1, 0)], tried[min(place + 1, len(tried) - 1)]} - {best}:
            between = float(np.sqrt(best * other))
            cost[between] = cost_of(between)
    return min(cost, key=cost.__getitem__)


def _cost(
    sample: Peaks, found: Candidates, libraries: list[OrientationLibrary], options: FitOptions, given: Sequence[float | None], guess: float
) -> float:
    """Return the summed cost of the best candidate of each pattern, with a thickness."""
    costs = np.full(found.cost.shape, np.inf)
    for number, (library, fixed) in enumerate(zip(libraries, given)):
        turns: Any = np.where((found.phase == number)[..., None, None], found.turns, np.nan)
        thick = dataclasses.replace(library, thickness=fixed or guess)
        cost = arrays.to_numpy(refined(arrays.from_numpy(turns, sample.table), sample, thick, options)[1])
        costs = np.where(found.phase == number, cost, costs)
    best = np.nanmin(costs, axis=1)
    return float(best[np.isfinite(best)].sum())
