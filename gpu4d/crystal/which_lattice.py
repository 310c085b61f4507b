"""Decide which lattices explain each position: first with the mean lattices, then, where two may overlap, with local ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.crystal.candidates import disk_distances
from gpu4d.crystal.explained import (
    AHEAD,
    LEAST_DISKS,
    Beside,
    Explanation,
    Spread,
    beside,
    beside_local,
    owned,
    position_of,
    scattered,
    sums,
    weigh,
)
from gpu4d.crystal.fit_lattice import fit_lattice
from gpu4d.crystal.refine_lattices import LEAST_SPREAD, Model
from gpu4d.data.pointlist import PointListArray

BLOCK = 4096  # positions at a time: their disks stay in the cache of a processor
CLOSEST = 0.02  # share of the disks that lie nearer to another one than disks that were found as two do, as false ones lie anywhere
ENOUGH_FITS = 2000  # positions from which the scatter about local lattices is measured
FITTED = 6  # numbers of a local lattice, each of which costs the logarithm of how much it was narrowed


def which_lattices(
    disks: PointListArray, centre: np.ndarray, model: Model, options: dict[str, Any], reach: float | None = None
) -> Explanation:
    """Find out which lattices explain each position of a scan.

    Parameters
    ----------
    disks : PointListArray
    centre : (2,) or (Rx, Ry, 2) float64
        Origins, px.
    model : Model
        Vectors and widths of the lattices.
    options : dict
        Of `fit_lattice`.
    reach : float, optional
        Disks that are nearer to each other than this may overlap, px. None: twice the least distance of two disks.

    Returns
    -------
    Explanation
        Of all positions and disks. Its evidence is that of the mean lattices.
    """
    xp = arrays.namespace(disks.offsets)
    parts, several, doubtful = [], [], []
    for first in range(0, int(np.prod(disks.shape)), BLOCK):
        v, offsets = _block(disks, centre + model.shift, first)
        nodes = [beside(v, basis, spread) for basis, spread in zip(model.bases, model.spreads)]
        found = weigh(nodes, scattered(v, model.bases), offsets)
        many, theirs = _contested(nodes, found, offsets)
        parts.append(found)
        several.append(many)
        doubtful.append(theirs)
    if not parts:
        none = xp.zeros((len(model.bases), 0), dtype=xp.float64, device=arrays.device(disks.offsets))
        return Explanation(none, none[0, :], none > 0, none > 0, none > 0)
    found, contested = _joined(parts), xp.concat(several, axis=0)
    if len(model.bases) == 1 or not bool(xp.any(contested)):
        return found
    return _decided(disks, centre, model, found, contested, xp.concat(doubtful, axis=-1), options, reach)


def _joined(parts: list[Explanation]) -> Explanation:
    """Join the results of blocks."""
    xp = arrays.namespace(parts[0].evidence)
    evidence, together, present, own, near = (xp.concat(list(part), axis=-1) for part in zip(*parts))
    return Explanation(evidence, together, present, own, near)


def _contested(nodes: list[Beside], found: Explanation, offsets: Any) -> tuple[Any, Any]:
    """Return where more than one lattice may be present, (P,), and the disks of each lattice if it is, (K, n).

    A further lattice may be present where three disks are much nearer to its nodes than to those of the lattice with most evidence.
    """
    xp = arrays.namespace(found.evidence)
    at = position_of(offsets, nodes[0].ratio.shape[0])
    mine, ratio = xp.take(found.label, at), xp.zeros_like(nodes[0].ratio)
    for k, one in enumerate(nodes):
        ratio = xp.where(mine == k, one.ratio, ratio)
    maybe = []
    for k, one in enumerate(nodes):
        ahead = found.near[k, :] & (one.ratio > AHEAD * ratio) & (mine >= 0)
        maybe.append((sums(xp.astype(ahead, ratio.dtype), offsets) >= LEAST_DISKS) | found.present[k, :])
    several = sum(xp.astype(m, xp.int64) for m in maybe) > 1
    inside = [xp.take(m & several, at) for m in maybe]
    return several, xp.stack([owned(k, inside, nodes) for k in range(len(nodes))], axis=0)


def _decided(
    disks: PointListArray,
    centre: np.ndarray,
    model: Model,
    found: Explanation,
    contested: Any,
    doubtful: Any,
    options: dict[str, Any],
    reach: float | None,
) -> Explanation:
    """Decide with local lattices where several may be present: strain blurs the mean ones, and moves disks between nearly equal nodes.

    Each local lattice costs what its fitted numbers were narrowed by: 6 ln(width about the mean lattice / width about the local one).
    """
    xp = arrays.namespace(disks.offsets)
    few, beams = chosen(disks, centre, contested)
    of_disk = chosen_disks(disks, contested)
    reach = overlap_distance(few, model.bases) if reach is None else reach
    local, spreads, costs = [], [], []
    for k, basis in enumerate(model.bases):
        fit = fit_lattice(few.where(doubtful[k, :][of_disk]), basis, origin=beams, **options)
        local.append([part[0, :, :] for part in (fit.g1, fit.g2, fit.origin)])
        spreads.append(_local_spread(disks, centre, basis, (found.label == k) & ~contested, options) or _typical(fit.residual))
        wide, far = model.spreads[k], 2 * float(np.linalg.norm(basis, axis=-1).mean())
        cost = FITTED * float(np.log(max(1.0, np.hypot(wide.px, wide.share * far) / spreads[k].px)))
        fitted = xp.isfinite(local[k][0][:, 0])
        costs.append(cost * xp.astype(fitted, xp.float64))
    parts = []
    for first in range(0, few.shape[1], BLOCK):
        v, offsets = _block(few, beams + model.shift, first)
        at, last = position_of(offsets, v.shape[0]), first + offsets.shape[0] - 1
        middle = _origins(few, beams + model.shift, first, last)
        nodes = []
        for k, spread in enumerate(spreads):
            g1, g2, beam = (part[first:last, :] for part in local[k])
            nodes.append(beside_local(v, at, (g1, g2, beam - middle), spread, beside(v, model.bases[k], model.spreads[k])))
        cost = xp.stack([c[first:last] for c in costs], axis=0)
        parts.append(weigh(nodes, scattered(v, model.bases), offsets, cost, reach))
    new, every = _joined(parts), range(len(model.bases))
    return Explanation(
        found.evidence,
        put_back(new.together, contested, found.together),
        xp.stack([put_back(new.present[k, :], contested, found.present[k, :]) for k in every], axis=0),
        xp.stack([put_back(new.own[k, :], of_disk, found.own[k, :]) for k in every], axis=0),
        xp.stack([put_back(new.near[k, :], of_disk, found.near[k, :]) for k in every], axis=0),
    )


def _local_spread(disks: PointListArray, centre: np.ndarray, basis: np.ndarray, where: Any, options: dict[str, Any]) -> Spread | None:
    """Measure how far disks lie from local lattices, at positions that have one lattice. None if there are none."""
    xp = arrays.namespace(disks.offsets)
    count = int(xp.sum(xp.astype(where, xp.int64)))
    if not count:
        return None
    number = xp.cumulative_sum(xp.astype(where, xp.int64))
    some, beams = chosen(disks, centre, where & (number % max(1, count // ENOUGH_FITS) == 0))
    return _typical(fit_lattice(some, basis, origin=beams, **options).residual) if len(some) else None


def _typical(residual: Any) -> Spread:
    """Return the width that the median residual of local fits gives."""
    rms = arrays.to_numpy(residual)
    return Spread(max(LEAST_SPREAD.px, float(np.median(rms[np.isfinite(rms)])) if np.isfinite(rms).any() else 0.0), LEAST_SPREAD.share)


def chosen(disks: PointListArray, centre: np.ndarray, where: Any) -> tuple[PointListArray, np.ndarray]:
    """Return the disks of chosen positions as a scan of one row, and their origins, (1, P, 2). If there are none, one without disks.

    Parameters
    ----------
    disks : PointListArray
        Of n positions.
    centre : (2,) or (Rx, Ry, 2) float64
    where : (n,) bool
    """
    xp = arrays.namespace(disks.offsets)
    few = disks.where(chosen_disks(disks, where))
    offsets = xp.concat([few.offsets[:1], few.offsets[1:][where]])
    beams = np.broadcast_to(centre, (*disks.shape, 2)).reshape(-1, 2)[arrays.to_numpy(where)]
    if not len(beams):
        offsets, beams = xp.concat([offsets, offsets]), np.zeros((1, 2))
    return PointListArray(offsets, {name: few.flat(name) for name in few.fields}, (1, len(beams)), few.units), beams[None]


def chosen_disks(disks: PointListArray, where: Any) -> Any:
    """Return True for the disks of chosen positions."""
    xp = arrays.namespace(disks.offsets)
    return xp.take(where, position_of(disks.offsets, len(disks))) if len(disks) else where[:0]


def put_back(new: Any, where: Any, old: Any) -> Any:
    """Put values of the chosen places, in their order, in place of those of `old`, which has one value for each place or for all."""
    xp = arrays.namespace(new)
    if new.shape[0] == 0:  # there are no disks
        return old
    number = xp.cumulative_sum(xp.astype(where, xp.int64)) - 1
    filled = xp.take(new, xp.where(where, number, xp.zeros_like(number)), axis=0)
    places = (-1,) + (1,) * (new.ndim - 1)
    return xp.where(xp.reshape(where, places), filled, xp.reshape(old, places))


def overlap_distance(disks: PointListArray, bases: np.ndarray) -> float:
    """Return a distance below which disks may overlap, px: twice the least one of two disks of a pattern, but for a few false ones.

    Two overlapping disks are found as two down to about their radius. Disks of one lattice do not overlap, so it is at most the shortest
    vector.
    """
    some = disks.to_host()
    near = disk_distances(np.stack([some.flat("qx"), some.flat("qy")], axis=-1).astype(np.float64), some.positions)
    shortest = float(np.linalg.norm(bases, axis=-1).min())
    return min(2 * float(np.quantile(near, CLOSEST)), shortest) if len(near) else shortest


def _origins(disks: PointListArray, centre: np.ndarray, first: int, last: int) -> Any:
    """Return the origins of a block of positions, (P, 2)."""
    xp, device = arrays.namespace(disks.offsets), arrays.device(disks.offsets)
    middle = np.broadcast_to(centre, (*disks.shape, 2)).reshape(-1, 2)[first:last]
    return xp.asarray(np.ascontiguousarray(middle), dtype=xp.float64, device=device)


def _block(disks: PointListArray, centre: np.ndarray, first: int) -> tuple[Any, Any]:
    """Return the disks of a block of positions relative to their origins, (n, 2), and the offsets of the positions."""
    xp = arrays.namespace(disks.offsets)
    last = min(first + BLOCK, int(np.prod(disks.shape)))
    start, stop = int(disks.offsets[first]), int(disks.offsets[last])
    offsets = disks.offsets[first : last + 1] - start
    q = xp.stack([arrays.as_float64(disks.flat(name)[start:stop]) for name in ("qx", "qy")], axis=-1)
    v = q - xp.take(_origins(disks, centre, first, last), position_of(offsets, stop - start), axis=0)
    light = arrays.as_float64(disks.flat("intensity")[start:stop])
    return xp.where((xp.isfinite(light) & (light > 0))[:, None], v, xp.full_like(v, np.nan)), offsets
