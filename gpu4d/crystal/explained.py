"""Weigh which of several lattices explain the disks of each position.

A disk that belongs to a lattice lies near a node, within a Gaussian whose width grows with the distance from the origin, because strain
and rotation move high orders more. A disk that belongs to none may lie anywhere. The ratio of both densities, in nats and summed over the
disks of a position, is the evidence of a lattice there. It counts the area |g1 × g2| for each node, so a lattice that is too fine and
explains everything gains little.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gpu4d import arrays
from gpu4d.data.storable import Storable

STRAY = 0.1  # share of the disks that belong to no lattice: false ones, and those of what was not looked for
NEAR = 3.5  # standard deviations: disks farther from a node are not explained by it; 0.2 % of those that belong to it are
AHEAD = 20.0  # times: a disk near nodes of two lattices belongs to one of them if it is so much more probable there
SAME = 0.5  # standard deviations: nodes of two lattices that are nearer are one disk
LEAST_DISKS = 3  # of a lattice at a position: fewer are explained by chance, and no lattice can be fitted to them
LEAST_PRESENT = 10.0  # nats of a lattice at a position, alone or beside others: e¹⁰ to 1
DIRECT = 0.4  # of the shortest vector: disks nearer to the origin are the unscattered one, which belongs to every lattice


class _Spread(NamedTuple):
    px: float
    share: float


class Spread(_Spread, Storable, stored="px: [px]"):
    """Standard deviation of disks about the nodes of a lattice, along each axis: σ² = px² + (share |q|)²."""

    __slots__ = ()


class Explanation(NamedTuple):
    """What explains P positions with n disks, by K lattices.

    Attributes
    ----------
    evidence : (K, P) float64
        Of each lattice alone against no lattice, nats.
    together : (P,) float64
        Of all lattices that are present, nats. 0 where there is none.
    present : (K, P) bool
        The lattice is there: it adds evidence to the others.
    own : (K, n) bool
        The disk belongs to the lattice, which is present. A disk where nodes of two present lattices coincide belongs to both. One
        where they nearly coincide, and no second disk was found, belongs to neither.
    near : (K, n) bool
        The disk is near a node of the lattice.
    """

    evidence: Any
    together: Any
    present: Any
    own: Any
    near: Any

    @property
    def label(self) -> Any:
        """Return the present lattice with most evidence, (P,) int64, and -1 where there is none."""
        xp = arrays.namespace(self.evidence)
        best = xp.argmax(xp.where(self.present, self.evidence, xp.full_like(self.evidence, -np.inf)), axis=0)
        return xp.where(xp.any(self.present, axis=0), xp.astype(best, xp.int64), -1)


class Beside(NamedTuple):
    """Disks beside the nodes of a lattice.

    Attributes
    ----------
    node : (n, 2) float64
        The nearest node, relative to the origin of the disk's position, px.
    order : (n, 2) float64
        Its h and k.
    square : (n,) float64
        Squared distance of the disk from it, px².
    variance : (n,) float64
        Of the disks about it, along each axis, px².
    ratio : (n,) float64
        Density of its disks there over that of stray ones.
    near : (n,) bool
        The disk is within 3.5 standard deviations of the node.
    """

    node: Any
    order: Any
    square: Any
    variance: Any
    ratio: Any
    near: Any


def explain(v: Any, offsets: Any, bases: np.ndarray, spreads: list[Spread]) -> Explanation:
    """Find out which lattices explain the disks of each position.

    Parameters
    ----------
    v : (n, 2) float64
        Disks relative to the origin of their position, px. A NaN is no disk.
    offsets : (P + 1,) int64
        Disks of position i are ``offsets[i]:offsets[i + 1]``.
    bases : (K, 2, 2) float64
        Rows g1 and g2.
    spreads : list of Spread

    Returns
    -------
    Explanation
    """
    return weigh([beside(v, basis, spread) for basis, spread in zip(bases, spreads)], scattered(v, bases), offsets)


def scattered(v: Any, bases: np.ndarray) -> Any:
    """Return True for measured disks that are not the unscattered one, (n,)."""
    xp = arrays.namespace(v)
    shortest = DIRECT * float(np.linalg.norm(bases, axis=-1).min())
    square = v[:, 0] ** 2 + v[:, 1] ** 2
    return xp.isfinite(square) & (square > shortest**2)


def beside(v: Any, basis: np.ndarray, spread: Spread) -> Beside:
    """Put each disk beside the nearest node of a lattice, the same for all positions."""
    xp = arrays.namespace(v)
    matrix, inverse = (arrays.from_numpy(np.ascontiguousarray(m), v) for m in (basis, np.linalg.inv(basis)))
    order = xp.round(xp.matmul(v, inverse))
    node = xp.matmul(order, matrix)
    variance = spread.px**2 + spread.share**2 * (node[:, 0] ** 2 + node[:, 1] ** 2)
    return _compared(v, order, node, variance, abs(float(np.linalg.det(basis))))


def beside_local(v: Any, at: Any, local: tuple[Any, Any, Any], spread: Spread, everywhere: Beside) -> Beside:
    """Put each disk beside the nearest node of the local lattice of its position, or of the mean one where there is none.

    Parameters
    ----------
    v : (n, 2) float64
    at : (n,) int64
        Position of each disk.
    local : g1, g2, origin, each (P, 2) float64
        Relative to the origin of `v`, px. NaN where there is no local lattice.
    spread : Spread
        About local nodes.
    everywhere : Beside
        For the mean lattice.
    """
    xp = arrays.namespace(v)
    (ax, ay), (bx, by), (ox, oy) = ((xp.take(part[:, 0], at), xp.take(part[:, 1], at)) for part in local)
    cell = ax * by - ay * bx
    known = xp.isfinite(cell) & (xp.abs(cell) > 0)
    cell = xp.where(known, cell, xp.ones_like(cell))
    dx, dy = v[:, 0] - ox, v[:, 1] - oy
    h, k = xp.round((dx * by - dy * bx) / cell), xp.round((dy * ax - dx * ay) / cell)
    node = xp.stack([ox + h * ax + k * bx, oy + h * ay + k * by], axis=-1)
    variance = spread.px**2 + spread.share**2 * (node[:, 0] ** 2 + node[:, 1] ** 2)
    here = _compared(v, xp.stack([h, k], axis=-1), node, variance, xp.abs(cell))
    pairs = zip(here, everywhere)
    return Beside(*(xp.where(known if a.ndim == 1 else known[:, None], a, b) for a, b in pairs))


def _compared(v: Any, order: Any, node: Any, variance: Any, cell: Any) -> Beside:
    """Return the disks beside nodes, with the density of a Gaussian times the area of the cell."""
    xp = arrays.namespace(v)
    away = (v[:, 0] - node[:, 0]) ** 2 + (v[:, 1] - node[:, 1]) ** 2
    square = away / variance
    known = xp.isfinite(square)
    ratio = cell / (2 * np.pi * variance) * xp.exp(-0.5 * square)
    return Beside(node, order, away, variance, xp.where(known, ratio, xp.zeros_like(ratio)), known & (square < NEAR**2))


def weigh(disks: list[Beside], scattered: Any, offsets: Any, costs: Any = None, reach: float = 0.0) -> Explanation:
    """Find out which lattices explain the disks of each position.

    Parameters
    ----------
    disks : list of K Beside
    scattered : (n,) bool
        Disks that count.
    offsets : (P + 1,) int64
    costs : (K, P) float64, optional
        Nats that each lattice must bring beyond the others, for the numbers that were fitted to the position.
    reach : float
        Disks that are nearer to each other than this may overlap, px.
    """
    ratios, near = [d.ratio for d in disks], [d.near for d in disks]
    xp = arrays.namespace(ratios[0])
    zero = xp.zeros_like(ratios[0])

    def evidence(density: Any) -> Any:
        """Sum the evidence of a density of disks, relative to that of stray ones."""
        return sums(xp.where(scattered, xp.log(STRAY + (1 - STRAY) * density), zero), offsets)

    alone = xp.stack([evidence(r) for r in ratios], axis=0)
    if costs is not None:
        alone = alone - costs
    at = position_of(offsets, zero.shape[0])
    present, density = _present(alone, disks, scattered, offsets, evidence, costs)
    inside = [xp.take(present[k, :], at) for k in range(len(disks))]
    first = [_nearest_of_node(d, at) for d in disks] if reach > 0 else None
    own = [owned(k, inside, disks, first, reach) for k in range(len(disks))]
    together = xp.where(xp.any(present, axis=0), evidence(density), xp.zeros_like(alone[0, :]))
    return Explanation(alone, together, present, xp.stack(own, axis=0), xp.stack([n & scattered for n in near], axis=0))


def _present(alone: Any, disks: list[Beside], scattered: Any, offsets: Any, evidence: Any, costs: Any) -> tuple[Any, Any]:
    """Return which lattices are present at each position, (K, P), and the density of their disks together, (n,).

    The best one is present, then others as long as they add evidence. One that explains m of n disks for the first time takes a share
    (m + 1) / (n + 2) of them.
    """
    xp = arrays.namespace(alone)
    lattices = len(disks)
    index = xp.arange(lattices, dtype=xp.int64, device=arrays.device(alone))[:, None]
    near = [scattered & d.near for d in disks]
    number = lambda chosen: sums(xp.astype(chosen, xp.float64), offsets)  # noqa: E731
    judged = xp.where(xp.stack([number(n) >= LEAST_DISKS for n in near], axis=0), alone, xp.full_like(alone, -np.inf))
    present = (index == xp.argmax(judged, axis=0)[None, :]) & (judged > LEAST_PRESENT)
    at, count = position_of(offsets, scattered.shape[0]), number(scattered)
    density, explained = xp.zeros_like(disks[0].ratio), xp.zeros_like(scattered)
    for k, one in enumerate(disks):
        inside = xp.take(present[k, :], at)
        density, explained = xp.where(inside, one.ratio, density), explained | (inside & near[k])
    for _ in range(lattices - 1):
        before = evidence(density)
        gains, mixtures = [], []
        for k, one in enumerate(disks):
            new = number(near[k] & ~explained)
            share = xp.take((new + 1) / (count + 2), at)
            mixtures.append((1 - share) * density + share * one.ratio)
            gain = evidence(mixtures[k]) - before
            gain = gain if costs is None else gain - costs[k, :]
            able = xp.any(present, axis=0) & ~present[k, :] & (new >= LEAST_DISKS)
            gains.append(xp.where(able, gain, xp.full_like(gain, -np.inf)))
        every = xp.stack(gains, axis=0)
        added = (index == xp.argmax(every, axis=0)[None, :]) & (every > LEAST_PRESENT)
        if not bool(xp.any(added)):
            break
        present = present | added
        for k in range(lattices):
            inside = xp.take(added[k, :], at)
            density, explained = xp.where(inside, mixtures[k], density), explained | (inside & near[k])
    return present, density


def owned(k: int, inside: list[Any], disks: list[Beside], first: list[Any] | None = None, reach: float = 0.0) -> Any:
    """Return which disks belong to lattice k, (n,).

    Where nodes of two present lattices are nearer than `reach`, and not the same, their disks overlap. Two disks that were found there are
    one of each. A single one may be both, with its place between them, so it belongs to neither.

    Parameters
    ----------
    k : int
    inside : list of K (n,) bool
        Whether each lattice is present at the disk's position.
    disks : list of K Beside
    first : list of K (n,) int64, optional
        Number of the disk that is nearest to the node that the disk is beside. Needed for a `reach`.
    reach : float
        px.
    """
    mine = disks[k]
    xp = arrays.namespace(mine.ratio)
    own = inside[k] & mine.near
    number = xp.arange(mine.ratio.shape[0], dtype=xp.int64, device=arrays.device(mine.ratio))
    for other, theirs in enumerate(disks):
        if other == k:
            continue
        apart = (mine.node[:, 0] - theirs.node[:, 0]) ** 2 + (mine.node[:, 1] - theirs.node[:, 1]) ** 2
        wrong = theirs.near & (mine.ratio <= AHEAD * theirs.ratio)
        if first is not None and mine.ratio.shape[0]:
            partner = first[other]
            two = (first[k] == number) & (partner != number) & xp.take(theirs.near, partner)
            wrong = xp.where(apart < reach**2, ~two, wrong)
        own = own & ~(inside[other] & wrong & (apart >= SAME**2 * mine.variance))
    return own


def _nearest_of_node(disks: Beside, at: Any) -> Any:
    """Return for each disk the number of the disk that is nearest to the same node, (n,) int64. `at` is the position of each disk, (n,)."""
    xp = arrays.namespace(disks.square)
    count = disks.square.shape[0]
    if count == 0:
        return xp.astype(at, xp.int64)
    known = xp.isfinite(disks.square)
    far = xp.where(known, disks.square, xp.full_like(disks.square, np.inf))
    order = xp.astype(xp.where(known[:, None], disks.order, xp.zeros_like(disks.order)), xp.int64)
    most = 2 * xp.max(xp.abs(order)) + 1
    key = (xp.astype(at, xp.int64) * most + order[:, 0]) * most + order[:, 1]
    sorted_ = xp.argsort(far, stable=True)
    sorted_ = xp.take(sorted_, xp.argsort(xp.take(key, sorted_), stable=True))
    start = xp.searchsorted(xp.take(key, sorted_), key)
    return xp.take(sorted_, start)


def sums(values: Any, offsets: Any) -> Any:
    """Sum values of disks for each position."""
    xp = arrays.namespace(values)
    running = xp.cumulative_sum(values, include_initial=True)
    return xp.take(running, offsets[1:]) - xp.take(running, offsets[:-1])


def position_of(offsets: Any, count: int) -> Any:
    """Return the position of each disk, (n,)."""
    xp = arrays.namespace(offsets)
    index = xp.arange(count, dtype=offsets.dtype, device=arrays.device(offsets))
    return xp.searchsorted(offsets[1:], index, side="right")
