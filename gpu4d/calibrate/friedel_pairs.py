"""Measure the origin from Friedel pairs: disks g and −g lie opposite each other, also if a beam stop covers the unscattered beam."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gpu4d import arrays
from gpu4d.beam.surface import fit_surface
from gpu4d.crystal.fit_lattice import fit_lattice
from gpu4d.crystal.lattice import Lattice
from gpu4d.data.pointlist import PointListArray

MOST = 40  # brightest disks of a pattern that form pairs
BLOCK = 1024  # patterns at a time: their votes take less than 100 MB
CELL = 1.0  # px: pairs vote for cells of this size; the weighted mean of the winners is finer
NEAR = 1.5  # px: pairs whose middle is so near to the elected one agree with it
NEIGHBOURS = tuple((h, k) for h in (-1, 0, 1) for k in (-1, 0, 1))


@dataclass(frozen=True, eq=False)
class Pairs:
    """All pairs of disks of the same pattern.

    Attributes
    ----------
    position : (n,) int
        Number of the pattern.
    middle : (n, 2) float64
        Middle of the two disks, px.
    weight : (n,) float64
        Root of the product of both intensities. A pair of a bright and a faint disk is no Friedel pair.
    first, second : (n,) int
        Numbers of the disks.
    """

    position: np.ndarray
    middle: np.ndarray
    weight: np.ndarray
    first: np.ndarray
    second: np.ndarray


def friedel_pairs(
    disks: PointListArray, lattice: Lattice | None, guess: np.ndarray | None, radius: float | None, order: int, used: np.ndarray
) -> np.ndarray:
    """Return the origin of every position from its Friedel pairs, (Rx, Ry, 2) float64, px. NaN where there is no pair.

    With a lattice, every pattern fixes its origin up to a whole lattice vector, from the phases of its disks: a position half a lattice
    vector off, where the middles of many pairs meet as well, cannot occur. The lattice vector is elected by the pairs of the pattern.
    Then all positions together decide: a surface through the elected origins, and the sum of all votes for it and for its neighbours.
    Last, origin and lattice are fitted to the disks of every position.

    Without a lattice, the middles of all pairs vote, and the origin is the mean of the middles that agree.

    Parameters
    ----------
    disks : PointListArray
        Fields ``qx, qy`` (px), ``intensity``, and standard errors ``sx, sy`` where known.
    lattice : Lattice or None
        Mean lattice, as from `lattice_free_of_origin`.
    guess : (Rx, Ry, 2) array or None
        Approximate origin.
    radius : float or None
        Largest distance from the guess, or from the surface through all positions, px. It matters without a lattice.
    order : int
        Of the surface over the scan that settles doubtful positions.
    used : (Rx, Ry) bool array
        Positions to use.
    """
    q = np.stack([arrays.to_numpy(disks.flat(f)).astype(np.float64) for f in ("qx", "qy")], axis=-1)
    light = np.clip(arrays.to_numpy(disks.flat("intensity")).astype(np.float64), 0, None)
    shape, offsets = disks.shape, np.asarray(arrays.to_numpy(disks.offsets))

    def agreed(about: np.ndarray | None, reach: float) -> np.ndarray:
        places = None if about is None else about.reshape(-1, 2)
        parts = []
        for start, pairs in _blocks(q, light, offsets):
            there = None if places is None else places[start : start + BLOCK]
            parts.append(_agreed(pairs, min(BLOCK, len(offsets) - 1 - start), there, reach))
        return np.concatenate(parts).reshape(*shape, 2)

    if lattice is None:
        elected = agreed(guess, np.inf if radius is None else radius)
        if guess is not None or not np.isfinite(elected[used]).any():
            return elected
        surface = fit_surface(elected, order, True, used)
        reach = 4 * max(float(np.hypot(*surface.residual)), NEAR) if radius is None else radius
        return agreed(surface.fitted, reach)
    start = _on_lattice(q, light, disks, lattice, guess, order, used)
    fit = fit_lattice(disks, lattice, origin=start, weights="errors" if _have_errors(disks) else "sqrt")
    fitted = np.asarray(arrays.to_numpy(fit.origin))
    few = agreed(start, NEAR)  # too few disks for a lattice, but a pair
    return np.where(np.isfinite(fitted).all(axis=-1, keepdims=True), fitted, few)


def _have_errors(disks: PointListArray) -> bool:
    if not {"sx", "sy"} <= set(disks.fields):
        return False
    errors = [arrays.to_numpy(disks.flat(f)) for f in ("sx", "sy")]
    return all(bool((e[np.isfinite(e)] > 0).all()) for e in errors)


def _blocks(q: np.ndarray, light: np.ndarray, offsets: np.ndarray) -> Iterator[tuple[int, Pairs]]:
    """Yield the first pattern and the pairs of blocks of patterns: the pairs of a whole scan would take gigabytes.

    Numbers of patterns and disks in the pairs are relative to the block.
    """
    for start in range(0, len(offsets) - 1, BLOCK):
        some = offsets[start : start + BLOCK + 1]
        inside = slice(int(some[0]), int(some[-1]))
        yield start, _pairs(q[inside], light[inside], some - some[0])


def _pairs(q: np.ndarray, light: np.ndarray, offsets: np.ndarray) -> Pairs:
    """Return all pairs of the brightest disks of every pattern. Of equally bright ones those near their middle count first."""
    counts = np.diff(offsets)
    position = np.repeat(np.arange(counts.size), counts)
    good = np.isfinite(q).all(axis=-1) & np.isfinite(light) & (light > 0)
    number = np.maximum(np.bincount(position[good], minlength=counts.size), 1)
    middle = np.stack([np.bincount(position[good], q[good, c], counts.size) for c in (0, 1)], axis=-1) / number[:, None]
    away = np.where(good, np.linalg.norm(np.where(good[:, None], q, 0.0) - middle[position], axis=-1), np.inf)
    order = np.lexsort((away, -np.where(good, light, -np.inf), position))
    rank = np.arange(len(order)) - np.repeat(offsets[:-1] - offsets[0], counts)
    kept = order[(rank < MOST) & good[order]]
    counts = np.bincount(position[kept], minlength=counts.size)
    starts = np.concatenate([[0], np.cumsum(counts)])
    partners = counts[position[kept]] - 1 - (np.arange(len(kept)) - starts[position[kept]])  # later disks of the same pattern
    first = np.repeat(np.arange(len(kept)), partners)
    second = first + 1 + np.arange(len(first)) - np.repeat(np.cumsum(partners) - partners, partners)
    a, b = kept[first], kept[second]
    return Pairs(position[a], (q[a] + q[b]) / 2, np.sqrt(light[a] * light[b]), a, b)


def _votes(place: np.ndarray, position: np.ndarray, weight: np.ndarray, count: int) -> np.ndarray:
    """Return the cell (n, 2) with most weight for each of `count` patterns, from whole-numbered cells of pairs. −1e9 without pairs."""
    elected = np.full((count, 2), -(10**9))
    if not len(place):
        return elected
    low = place.min(axis=0)
    size = place.max(axis=0) - low + 1
    cells, back = np.unique((position * size[0] + place[:, 0] - low[0]) * size[1] + place[:, 1] - low[1], return_inverse=True)
    total = np.bincount(back, weights=weight)
    owner = cells // (size[0] * size[1])
    best = np.lexsort((total, owner))
    last = best[np.flatnonzero(np.diff(owner[best], append=-1))]  # the largest of each pattern
    cell = cells[last] % (size[0] * size[1])
    elected[owner[last]] = np.stack([cell // size[1], cell % size[1]], axis=-1) + low
    return elected


def _agreed(pairs: Pairs, count: int, guess: np.ndarray | None, reach: float) -> np.ndarray:
    """Return the mean of the middles that agree in each pattern (count, 2). Only those within `reach` of the guess vote."""
    middle, position, weight = pairs.middle, pairs.position, pairs.weight
    if guess is not None:
        near = np.linalg.norm(middle - guess.reshape(-1, 2)[position], axis=-1) <= reach
        middle, position, weight = middle[near], position[near], weight[near]
    # two grids, half a cell apart, so that no cluster is always cut by a border
    centres = [(_votes(np.floor(middle / CELL + half).astype(int), position, weight, count) + 0.5 - half) * CELL for half in (0.0, 0.5)]
    found, most = np.full((count, 2), np.nan), np.zeros(count)
    for centre in centres:
        for _ in range(3):
            agree = np.linalg.norm(middle - centre[position], axis=-1) < NEAR
            total = np.bincount(position[agree], weights=weight[agree], minlength=count)
            sums = [np.bincount(position[agree], weights=weight[agree] * middle[agree, c], minlength=count) for c in (0, 1)]
            centre = np.stack(sums, axis=-1) / np.where(total > 0, total, np.nan)[:, None]
        better = total > most
        found[better], most[better] = centre[better], total[better]
    return found


def _on_lattice(
    q: np.ndarray,
    light: np.ndarray,
    disks: PointListArray,
    lattice: Lattice,
    guess: np.ndarray | None,
    order: int,
    used: np.ndarray,
) -> np.ndarray:
    """Return the origin of every position as a node of its lattice, (Rx, Ry, 2)."""
    shape, position = disks.shape, np.asarray(arrays.to_numpy(disks.positions))
    count = int(np.prod(shape))
    there = q @ np.linalg.inv(lattice.matrix)  # in units of the lattice vectors
    weight = np.sqrt(light)
    good = np.isfinite(there).all(axis=-1) & np.isfinite(weight)
    wave = np.exp(2j * np.pi * there[good])
    sums = [np.bincount(position[good], weight[good] * f(wave[:, c]), count) for c in (0, 1) for f in (np.real, np.imag)]
    part = np.stack([np.arctan2(sums[1], sums[0]), np.arctan2(sums[3], sums[2])], axis=-1) / (2 * np.pi)
    has = np.bincount(position[good], minlength=count) > 0
    part[~has] = np.nan
    node = np.rint(there - np.nan_to_num(part)[position])
    node = np.where(good[:, None], node, 0).astype(int)
    offsets = np.asarray(arrays.to_numpy(disks.offsets))
    elected = np.full((count, 2), np.nan)
    for start, place, owner, vote in _node_votes(q, light, node, offsets):
        block = _votes(place, owner, vote, min(BLOCK, count - start)).astype(np.float64)
        elected[start : start + BLOCK] = np.where(block[:, :1] < -(10**8), np.nan, block)
    measured = ((part + elected) @ lattice.matrix).reshape(*shape, 2)
    if guess is None:
        if not np.isfinite(measured[used]).any():
            return measured
        smooth = fit_surface(measured, min(order, 1), True, used).fitted
        nearest = _nearest(part, smooth, lattice)
        support = np.zeros(len(NEIGHBOURS))
        for start, place, owner, vote in _node_votes(q, light, node, offsets):
            there, counted = nearest[start : start + BLOCK], used.reshape(-1)[start : start + BLOCK]
            support += [_support(place, owner, vote, there + shift, counted) for shift in NEIGHBOURS]
        smooth = smooth + np.asarray(NEIGHBOURS[int(np.argmax(support))]) @ lattice.matrix
        measured = ((part + _nearest(part, smooth, lattice)) @ lattice.matrix).reshape(*shape, 2)
        guess = fit_surface(measured, order, True, used).fitted
    return ((part + _nearest(part, guess, lattice)) @ lattice.matrix).reshape(*shape, 2)


def _node_votes(
    q: np.ndarray, light: np.ndarray, node: np.ndarray, offsets: np.ndarray
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield, for blocks of patterns, the first pattern, and for each pair the node in its middle, its pattern, and its weight."""
    for start, pairs in _blocks(q, light, offsets):
        inside = node[offsets[start] :]
        twice = inside[pairs.first] + inside[pairs.second]
        even = (twice % 2 == 0).all(axis=-1)  # the middle of other pairs is half a lattice vector off
        yield start, twice[even] // 2, pairs.position[even], pairs.weight[even]


def _nearest(part: np.ndarray, guess: np.ndarray, lattice: Lattice) -> np.ndarray:
    """Return the whole lattice vectors (n, 2) that bring each pattern's origin nearest to the guess."""
    inside = guess.reshape(-1, 2) @ np.linalg.inv(lattice.matrix) - part
    near = np.rint(inside)
    steps = np.asarray(NEIGHBOURS, np.float64)  # rounding is not the nearest node of an oblique lattice
    away = np.linalg.norm((near[:, None] + steps - inside[:, None]) @ lattice.matrix, axis=-1)
    away[~np.isfinite(away)] = 0
    return near + steps[np.argmin(away, axis=1)]


def _support(place: np.ndarray, owner: np.ndarray, vote: np.ndarray, node: np.ndarray, used: np.ndarray) -> float:
    """Sum the votes of all pairs for the given nodes of their patterns."""
    agree = (place == node[owner]).all(axis=-1) & used[owner]
    return float(vote[agree].sum())
