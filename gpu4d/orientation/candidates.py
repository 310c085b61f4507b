"""Find the best orientations of each pattern: correlation with the library, refinement of its best maxima, distinct ones by cost."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from gpu4d import arrays, physics
from gpu4d.device import tables
from gpu4d.orientation.correlate_orientations import correlate_orientations
from gpu4d.orientation.distinct_orientations import distinct_orientations
from gpu4d.orientation.library import AMPLITUDE_POWER, RADIAL_POWER, OrientationLibrary
from gpu4d.orientation.peaks import Peaks
from gpu4d.orientation.refine_orientations import refine_orientations, turned

FIRST_STEPS = ((0, 3), (5, 4))  # rough and fine steps of two tries: zone axes are up to a degree off, beyond the next minimum of the fit
STEPS = 6
REFINED, SHIFTED, SHIFT_STEPS = 8, 4, (2, 3)  # candidates that are refined in full, and those that are tried again from six tilts
GAP = 1000.0  # of the cost: an orientation that is dearer by more is not tried again. Wrong minima near the truth may cost hundreds more
TILT = math.radians(0.9)  # between minima of the fit, which are a main maximum of the shape factor apart
TILTS = TILT * np.array([[math.cos(a), math.sin(a), 0.0] for a in np.arange(6) * math.pi / 3])
DISTINCT = math.radians(3.0)  # orientations nearer than this are one: their patterns differ by less than the fit tells apart
KEPT = 4  # distinct orientations of a pattern
FLIP = np.diag([-1.0, -1.0, 1.0])  # half a turn about the beam: it exchanges g and -g, whose intensities are alike
MIRROR = np.diag([-1.0, 1.0, -1.0])  # half a turn about y: it mirrors the pattern, because g and -g are alike in the crystal


class FitOptions(NamedTuple):
    """Numbers of the fit that do not depend on the crystal (see `refine_orientations`)."""

    radius: float
    reach: float | None
    least: float
    q_max: float
    q_min: float
    unit: float
    relative: float
    maxima: int


class Candidates(NamedTuple):
    """Distinct orientations of n patterns, the best first; NaN where there are fewer. Arrays of the library of the peaks.

    Attributes
    ----------
    turns : (n, k, 3, 3)
    phase : (n, k) int64
        Number of the library, -1 where there is no orientation.
    cost, scale, correlation : (n, k)
    normal : (n, k, 4, 4)
    expected : (n, k, p)
    """

    turns: Any
    phase: Any
    cost: Any
    scale: Any
    correlation: Any
    normal: Any
    expected: Any

    def rows(self, index: Any) -> Candidates:
        """Return the candidates of some patterns, by an array of their numbers."""
        xp = arrays.namespace(self.turns)
        return Candidates(*(xp.take(field, index, axis=0) for field in self))

    def on_host(self) -> Candidates:
        """Return the candidates as NumPy arrays."""
        return Candidates(*(arrays.to_numpy(field) for field in self))


def find_candidates(peaks: Peaks, libraries: list[OrientationLibrary], options: FitOptions) -> Candidates:
    """Return the distinct orientations of lowest cost, of all phases."""
    found = [_of_one_phase(peaks, number, library, options) for number, library in enumerate(libraries)]
    first = _distinct(_joined(found), libraries)
    tilted = [_from_tilts(peaks, first, number, library, options) for number, library in enumerate(libraries)]
    return _distinct(_joined([first, *tilted]), libraries)


def _joined(parts: list[Candidates]) -> Candidates:
    xp = arrays.namespace(parts[0].turns)
    return Candidates(*(xp.concat(fields, axis=1) for fields in zip(*parts)))


def _of_one_phase(peaks: Peaks, number: int, library: OrientationLibrary, options: FitOptions) -> Candidates:
    """Return refined candidates of one phase."""
    table = peaks.table
    xp = arrays.namespace(table)
    q = xp.sqrt(table[..., 0] ** 2 + table[..., 1] ** 2)
    index = xp.arange(table.shape[1], dtype=peaks.counts.dtype, device=arrays.device(table))
    weight = xp.where(index < peaks.counts[:, None], q**RADIAL_POWER * table[..., 2] ** (AMPLITUDE_POWER / 2), xp.zeros_like(q))
    beside = lambda a: tables.beside(a, table)  # noqa: E731
    correlation, angle = correlate_orientations(
        xp.stack([table[..., 0], table[..., 1], weight], axis=-1), beside(library.shells), beside(library.real), beside(library.imaginary),
        width=library.width,
    )  # fmt: skip
    turns, score = _maxima(correlation, angle, library, options.maxima)
    turns = xp.concat([turns, xp.matmul(beside(FLIP), turns)], axis=1)
    tries = [refined(turns, peaks, library, options, steps, rough)[:2] for rough, steps in FIRST_STEPS]
    turns, cost = (xp.concat(parts, axis=1) for parts in zip(*tries))
    turns, score = _best(turns, cost, xp.concat(2 * len(tries) * [score], axis=1), REFINED)
    return _candidates(refined(turns, peaks, library, options), score, number)


def _from_tilts(peaks: Peaks, found: Candidates, number: int, library: OrientationLibrary, options: FitOptions) -> Candidates:
    """Refine the best orientations of one phase again, from six tilts around each. The fit has other minima beside the best one."""
    xp = arrays.namespace(found.turns)
    best = (found.phase[:, :SHIFTED] == number) & (found.cost[:, :SHIFTED] < found.cost[:, :1] + GAP)
    start = found.turns[:, :SHIFTED, ...]
    start = xp.where(best[..., None, None], start, xp.full_like(start, math.nan))
    turns = turned(start[:, :, None, ...], tables.beside(TILTS, start))
    turns = xp.reshape(turns, (turns.shape[0], 6 * turns.shape[1], 3, 3))
    score = xp.repeat(found.correlation[:, :SHIFTED], 6, axis=1)
    return _candidates(refined(turns, peaks, library, options, SHIFT_STEPS[1], SHIFT_STEPS[0]), score, number)


def _candidates(fitted: tuple[Any, ...], score: Any, number: int) -> Candidates:
    """Return candidates of one phase."""
    turns, cost, scale, normal, expected = fitted
    xp = arrays.namespace(cost)
    phase = xp.full(cost.shape, number, dtype=xp.int64, device=arrays.device(cost))
    return Candidates(turns, phase, cost, scale, score, normal, expected)


def _best(turns: Any, cost: Any, score: Any, count: int) -> tuple[Any, Any]:
    """Return the cheapest candidates and their correlation."""
    xp = arrays.namespace(turns)
    order = xp.argsort(xp.where(xp.isfinite(cost), cost, xp.full_like(cost, math.inf)), axis=-1)[:, : min(count, cost.shape[1])]
    pick = xp.broadcast_to(order[..., None, None], (*order.shape, 3, 3))
    return xp.take_along_axis(turns, pick, axis=1), xp.take_along_axis(score, order, axis=1)


def refined(
    turns: Any, peaks: Peaks, library: OrientationLibrary, options: FitOptions, steps: int = STEPS, rough: int = 0
) -> tuple[Any, ...]:
    """Refine candidates (n, c, 3, 3) of one phase, with the numbers of its library."""
    beside = lambda a: tables.beside(a, peaks.table)  # noqa: E731
    return refine_orientations(
        turns, peaks.table, peaks.counts, beside(library.g), beside(library.factor), wave_number=1 / physics.wavelength(library.energy),
        thickness=library.thickness, radius=options.radius, reach=options.reach or 3 / library.thickness, least=options.least,
        q_max=options.q_max, q_min=options.q_min, unit=options.unit, relative=options.relative, rough=rough, steps=steps,
    )  # fmt: skip


def _maxima(correlation: Any, angle: Any, library: OrientationLibrary, count: int) -> tuple[Any, Any]:
    """Return the orientations of the highest local maxima over zone axes, (n, count, 3, 3), and their correlation (n, count)."""
    xp = arrays.namespace(correlation)
    axes = correlation.shape[-1]
    around = xp.zeros_like(correlation)  # only positive values count
    neighbours = tables.beside(library.neighbours, angle)
    for k in range(neighbours.shape[1]):
        around = xp.maximum(around, xp.take(correlation, neighbours[:, k], axis=-1))
    top = xp.where((correlation >= around) & (correlation > 0), correlation, -xp.ones_like(correlation))
    flat = xp.reshape(top, (top.shape[0], 2 * axes))
    order = xp.argsort(-flat, axis=-1)[:, : min(count, 2 * axes)]
    score, phi = (xp.take_along_axis(xp.reshape(a, (a.shape[0], 2 * axes)), order, axis=1) for a in (top, angle))
    c, s = xp.cos(phi), xp.sin(phi)
    zero, one = xp.zeros_like(c), xp.ones_like(c)
    spin = xp.stack([xp.stack([c, -s, zero], axis=-1), xp.stack([s, c, zero], axis=-1), xp.stack([zero, zero, one], axis=-1)], axis=-2)
    base = xp.reshape(xp.take(tables.beside(library.turns, angle), xp.reshape(order % axes, (-1,)), axis=0), (*order.shape, 3, 3))
    turns = xp.matmul(spin, base)
    mirrored = (order >= axes)[..., None, None]
    turns = xp.where(mirrored, xp.matmul(tables.beside(MIRROR, angle), turns), turns)
    return xp.where((score > 0)[..., None, None], turns, xp.full_like(turns, math.nan)), score


def _distinct(all_of_them: Candidates, libraries: list[OrientationLibrary]) -> Candidates:
    """Return the cheapest candidates of each pattern, without those that are nearly a cheaper one."""
    turns, phase, cost = all_of_them[:3]
    xp = arrays.namespace(turns)
    rotations = [tables.beside(library.structure.rotations, turns) for library in libraries]
    owner = [xp.full(r.shape[:1], k, dtype=xp.int64, device=arrays.device(turns)) for k, r in enumerate(rotations)]
    order = distinct_orientations(turns, cost, phase, xp.concat(rotations, axis=0), xp.concat(owner), angle=DISTINCT, count=KEPT)
    missing = order < 0
    pick = xp.where(missing, xp.zeros_like(order), order)
    turns, phase, cost, scale, score, normal, expected = (_picked(xp, field, pick) for field in all_of_them)
    nan = lambda a: xp.where(xp.reshape(missing, (*missing.shape, *(1,) * (a.ndim - 2))), xp.full_like(a, math.nan), a)  # noqa: E731
    phase = xp.where(missing, xp.full_like(phase, -1), phase)
    expected = xp.where(missing[..., None], xp.zeros_like(expected), expected)
    return Candidates(nan(turns), phase, nan(cost), nan(scale), nan(score), normal, expected)


def _picked(xp: Any, field: Any, index: Any) -> Any:
    """Return chosen candidates (n, k, …) of each pattern, by their numbers (n, k)."""
    flat = xp.reshape(field, (field.shape[0] * field.shape[1], *field.shape[2:]))
    first = xp.arange(field.shape[0], dtype=index.dtype, device=arrays.device(index))[:, None] * field.shape[1]
    return xp.reshape(xp.take(flat, xp.reshape(index + first, (-1,)), axis=0), (*index.shape, *field.shape[2:]))
