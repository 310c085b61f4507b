"""Find all lattices of a scan: twins, grains, a film and its substrate, precipitates."""

from __future__ import annotations

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.crystal.candidates import disk_spacing, nearest_nodes, node_tolerance, points_of
from gpu4d.crystal.close_lattices import GAP, are_continuous, doubled, islands
from gpu4d.crystal.explained import DIRECT, Spread
from gpu4d.crystal.find_lattice import find_lattice
from gpu4d.crystal.fit_lattice import LatticeFit, fit_lattice
from gpu4d.crystal.lattice import Lattice, canonical
from gpu4d.crystal.pattern_evidence import LEAST_LEFT, Patterns, search
from gpu4d.crystal.refine_lattices import Model, drop_unneeded, fit, needed, refine, without_common_cell
from gpu4d.crystal.relation import least_stretch, relate
from gpu4d.crystal.several_lattices import Lattices, no_lattices
from gpu4d.data.arguments import OriginLike
from gpu4d.data.calibration import Calibration
from gpu4d.data.pointlist import PointListArray
from gpu4d.errors import InputError
from gpu4d.on_host import on_host

ENOUGH = 60_000  # disks, of patterns drawn evenly: three thousand patterns, of which a precipitate in 1 % has thirty
MOST = 8  # lattices: pairs and overlaps of more are not told apart by a few dozen disks
EXPLAINED = 0.12  # of |g1|: disks nearer to a node of the local lattice are explained, as in `fit_lattice`
LARGEST_DEFORMATION = 0.15  # of a local lattice: one that differs by more has caught disks of another lattice
WHOLE = 0.06  # of a cell: how far vectors may be from whole numbers of others, of which they are then multiples or fractions
LARGEST_INDEX = 4  # of a superlattice: p(2×2) has four cells
LOW_ORDERS = 13  # of each lattice, whose sums double diffraction shows
AREA = 0.5  # share of the detector that sums of two lattices may cover: then they explain nothing


@on_host("lists")
def find_lattices(
    disks: PointListArray,
    origin: OriginLike | None = None,
    *,
    most: int = 4,
    min_spacing: float | None = None,
    where: ArrayLike | None = None,
    calibration: Calibration | None = None,
) -> Lattices:
    """Find all lattices in the disks of a scan, and name how they lie to each other.

    The first one is that of `find_lattice`. Each further one is searched among the disks that those before do not explain, in each pattern
    with its local lattice, so that strain and bending leave nothing over. A candidate is judged pattern by pattern: with n disks left, m
    of them near its nodes, and p the chance of a random disk to be near one, its evidence in a pattern is the likelihood ratio
    m ln(f / p) + (n − m) ln((1 − f) / (1 − p)), f = 0.7. It must exceed 30 nats over all patterns, at the price of 3 nats for each pattern
    that is counted. So a precipitate in 5 % of the patterns is found, and random disks are not. In the end all lattices are refined
    together, each with the disks that belong to it, and each must still explain 30 nats that the others do not.

    What makes no second lattice:

    * fractions of a lattice: superlattice disks of an ordered phase, up to four cells. They are disks of the same lattice, and an ordered
      and a disordered phase of the same lattice have the same strain. Classes of patterns tell them apart (`gpu4d.classify`);
    * sums of vectors of two lattices where both are present: double diffraction;
    * strain and bending: lattices that pass into each other from position to position are one;
    * a lattice of nearly the same vectors (up to 5 %) that is never in the same pattern: that is strain, relative to the other one.

    Lattices that differ little are told apart where both are in the same pattern and high orders are resolved, because a lattice has only
    one disk of each order: so a film and its substrate that differ by 3 % are found where they overlap. Beyond 5 %, or 3° of rotation,
    positions whose local lattices form islands with nothing in between are lattices of their own.

    The classical way is Radon transforms or clustering of the Bragg vector map. This is clustering with evidence: cluster centres give the
    candidates, and the likelihood of the disks decides.

    Parameters
    ----------
    disks : PointListArray
        Fields ``qx, qy`` (px), ``intensity``.
    origin : Origin, (2,) or (Rx, Ry, 2) array, optional
        Origin of the patterns, px. None: measured by `gpu4d.calibrate.origin`. Positions whose origin is NaN are not used.
    most : int
        Largest number of lattices, 1 to 8.
    min_spacing : float, optional
        Shortest lattice vector to consider, px. None: a quarter of the median distance of neighbouring disks.
    where : (Rx, Ry) bool array, optional
        Positions to use.
    calibration : Calibration, optional
        Its ellipse is removed before lattices are compared. The vectors stay as they are on the detector.

    Returns
    -------
    Lattices
        A sequence of `Lattice`, the one at most positions first. Empty if there is none: empty lists, NaN, too few disks, amorphous
        areas, fine grains. With one lattice it is the result of `find_lattice`, bit by bit. `indexed_fraction` of several is the share of
        the disks that belong to each.

    Raises
    ------
    InputError
        `most` is not in 1 to 8, or what `find_lattice` raises.

    Examples
    --------
    >>> import numpy as np
    >>> h, k = np.mgrid[-2:3, -2:3].reshape(2, -1)
    >>> one = np.stack([h, k], -1) @ np.array([[12.0, 1.0], [-1.0, 12.0]])
    >>> other = np.stack([h, k], -1) @ np.array([[11.0, 5.0], [-5.0, 11.0]])
    >>> q = np.concatenate([one, one, other, other]) + 40
    >>> lists = PointListArray(np.arange(5) * 25, {"qx": q[:, 0], "qy": q[:, 1], "intensity": np.ones(100)}, (2, 2))
    >>> found = find_lattices(lists, (40.0, 40.0))
    >>> len(found), found.relations[0].kind, found.shares.tolist()
    (2, 'rotated', [0.5, 0.5])
    """
    if isinstance(most, bool) or not isinstance(most, int | np.integer) or not 1 <= most <= MOST:
        raise InputError(f"most={most!r}: need a whole number of lattices, 1 to {MOST}")
    first = find_lattice(disks, origin, min_spacing=min_spacing, where=where)
    patterns, shortest = _scattered(disks, origin, min_spacing, where)
    if patterns is None or (most == 1 and first is None):
        return no_lattices() if first is None else _single(first)
    starts = [Model.of([] if first is None else [first.matrix], patterns)]
    if first is not None and most > 1:
        starts = [*without_common_cell(starts[0], patterns), *starts]
    for start in starts:
        model = _completed(start, patterns, shortest, most, alone=first is not None)
        if len(model.bases) > 1 or (first is None and len(model.bases)):
            return _result(model, patterns, calibration)
    return no_lattices() if first is None else _single(first)


def _completed(model: Model, patterns: Patterns, shortest: float, most: int, alone: bool) -> Model:
    """Search further lattices, split those that are two, and refine all. A single one that was found before (`alone`) is not refined."""
    while len(model.bases) < most:
        new = _next(model, patterns, shortest)
        if new is None:
            break
        model = Model.of([*model.bases, new], patterns)
    model = _split(model, patterns, most)
    if not len(model.bases) or (len(model.bases) == 1 and alone):
        return model
    return drop_unneeded(refine(model, patterns), patterns)


def _scattered(
    disks: PointListArray, origin: OriginLike | None, min_spacing: float | None, where: ArrayLike | None
) -> tuple[Patterns | None, float]:
    """Return the disks relative to their origins, and the shortest lattice vector. None if there are too few."""
    v, weight, position = points_of(disks, origin, where)
    spacing = disk_spacing(v, position)
    if spacing is None:
        return None, 0.0
    return Patterns.of(v, weight, position).some(ENOUGH), spacing / 4 if min_spacing is None else float(min_spacing)


def _next(model: Model, patterns: Patterns, shortest: float) -> np.ndarray | None:
    """Return one more lattice, from the disks that those of the model do not explain. None if there is no evidence of one."""
    away = np.linalg.norm(patterns.v, axis=-1)
    spacing = disk_spacing(patterns.v, patterns.position) or 0.0
    left = away > max(DIRECT * spacing, 0.7 * shortest)
    for basis in model.bases:
        left &= ~_on_local(basis, patterns)
    if len(model.bases) > 1:
        left &= ~_on_sums(model, patterns, spacing)
    for _ in range(MOST):
        new = search(patterns.only(left, LEAST_LEFT), shortest)
        if new is None:
            return None
        if any(_is_multiple(new, basis) for basis in model.bases):
            left &= ~(nearest_nodes(new, patterns.v)[1] < node_tolerance(patterns.v, spacing))
        elif any(are_continuous(basis, new, patterns) for basis in model.bases):
            left &= ~_on_local(new, patterns)
        else:
            return new
    return None


def _on_local(basis: np.ndarray, patterns: Patterns) -> np.ndarray:
    """Return which disks lie near nodes of the local lattice of their pattern, or of the mean one where there is no local one, (n,)."""
    fit: LatticeFit = fit_lattice(patterns.lists(), basis, origin=(0.0, 0.0), min_indexed=0.5)
    local = np.stack([np.asarray(fit.g1)[0], np.asarray(fit.g2)[0]], axis=-2)
    near = np.abs(np.linalg.solve(basis, local) - np.eye(2)).max(axis=(-2, -1)) < LARGEST_DEFORMATION  # NaN is not near
    local = np.where(near[:, None, None], local, basis)
    origin = np.where(near[:, None], np.asarray(fit.origin)[0], 0.0)
    at = patterns.position
    v = patterns.v - origin[at]
    order = np.rint(np.einsum("ni,nij->nj", v, np.linalg.inv(local)[at]))
    distance = np.linalg.norm(v - np.einsum("ni,nij->nj", order, local[at]), axis=-1)
    return np.asarray(distance < EXPLAINED * np.linalg.norm(basis, axis=-1).min())


def _on_sums(model: Model, patterns: Patterns, spacing: float) -> np.ndarray:
    """Return which disks lie near sums of vectors of two lattices in patterns that hold both, (n,): double diffraction."""
    from scipy.spatial import cKDTree

    found = model.explain(patterns)
    at, on = patterns.position, np.zeros(len(patterns.v), bool)
    reach = node_tolerance(patterns.v, spacing)
    extent = float(np.linalg.norm(patterns.v, axis=-1).max())
    for i in range(len(model.bases)):
        for j in range(i):
            sums = (_low_nodes(model.bases[i])[:, None] + _low_nodes(model.bases[j])).reshape(-1, 2)
            sums = sums[np.linalg.norm(sums, axis=-1) < extent]
            if len(sums) * np.mean(reach**2) > AREA * extent**2:
                sums = sums[np.argsort(np.linalg.norm(sums, axis=-1))][: int(AREA * extent**2 / np.mean(reach**2))]
            both = (found.present[i] & found.present[j])[at]
            if both.any() and len(sums):
                on[both] |= cKDTree(sums).query(patterns.v[both])[0] < reach[both]
    return on


def _low_nodes(basis: np.ndarray) -> np.ndarray:
    """Return the lowest nodes of a lattice without the origin."""
    nodes = np.mgrid[-3:4, -3:4].reshape(2, -1).T @ basis
    return np.asarray(nodes[np.argsort(np.linalg.norm(nodes, axis=-1))][1:LOW_ORDERS])


def _is_multiple(new: np.ndarray, known: np.ndarray) -> bool:
    """Return whether a lattice contains a known one as a superlattice of few cells does, or is the same or a part of it."""
    for one, other in ((known, new), (new, known)):
        change = one @ np.linalg.inv(other)
        whole = np.rint(change)
        if np.abs(change - whole).max() < WHOLE * 2 and 1 <= round(abs(np.linalg.det(whole))) <= LARGEST_INDEX:
            return True
    return False


def _split(model: Model, patterns: Patterns, most: int) -> Model:
    """Split lattices of which there are two nearly equal ones in the same patterns, or islands of positions with a gap between them."""
    if not len(model.bases):
        return model
    pairs: list[np.ndarray] = []
    others: list[np.ndarray] = []
    found = model.explain(patterns)
    for k, basis in enumerate(model.bases):
        rest = np.arange(len(model.bases)) != k
        foreign = (found.own[rest] & found.near[rest] & ~found.near[k]).any(axis=0)
        close = doubled(basis, patterns.only(~foreign))
        if close is not None:
            pairs += close
            continue
        label = found.label
        others += islands(basis, patterns.only(((label == k) | (label < 0))[patterns.position]))
    for basis in others:
        if not any(np.abs(least_stretch(one, basis)[0] - np.eye(2)).max() < GAP for one in pairs):
            pairs.append(basis)
    return model if len(pairs) == len(model.bases) else Model.of(pairs[:most], patterns)


def _single(lattice: Lattice) -> Lattices:
    nan = np.full((1, 2, 2), np.nan)
    spread = Spread(np.nan, np.nan)
    return Lattices((lattice,), np.ones(1), np.full(1, np.nan), nan, (), np.zeros(2), (spread,))


def _described(basis: np.ndarray, own: np.ndarray, patterns: Patterns, shift: np.ndarray) -> Lattice:
    """Return a lattice with its figures. `own` are its scattered disks, (n,)."""
    v, weight = patterns.v[own] - shift, patterns.weight
    order, distance = nearest_nodes(basis, v)
    scattered = np.linalg.norm(patterns.v, axis=-1) > DIRECT * float(np.linalg.norm(basis, axis=-1).min())
    names, count = np.unique(order.astype(np.int64), axis=0, return_counts=True)
    common = count >= max(1, len(np.unique(patterns.position[own])) / 20)
    names, count = names[common], count[common]
    limit = float(np.quantile(distance, 0.99)) if len(distance) else 0.0
    chance = np.pi * limit**2 / abs(float(np.linalg.det(basis)))
    rms = float(np.sqrt(np.average(distance**2, weights=weight[own])))
    share = float(weight[own].sum() / weight[scattered].sum())
    return Lattice(basis[0], basis[1], share, min(chance, 1.0), rms, int(own.sum()), names[np.argsort(-count, kind="stable")])


def _result(model: Model, patterns: Patterns, calibration: Calibration | None) -> Lattices:
    """Put lattices in the order of their shares, and name how they lie to each other."""
    model = model._replace(bases=np.stack([canonical(b) for b in model.bases]))
    shares = np.mean(model.explain(patterns).present, axis=1)
    order = np.argsort(-shares, kind="stable")
    model = Model(model.bases[order], [model.spreads[k] for k in order], model.shift)
    found, evidence = model.explain(patterns), needed(model, patterns)
    ellipse = None if calibration is None else calibration.ellipse
    lattices, covariances = [], []
    for k in range(len(model.bases)):
        fitted = fit(model, k, patterns, found)
        basis, covariance = fitted if fitted is not None else (model.bases[k], np.full((2, 2), np.nan))
        lattices.append(_described(basis, found.own[k] & found.near[k], patterns, model.shift))
        covariances.append(covariance)
    relations = []
    for k in range(1, len(lattices)):
        each = [relate(lattices[j].matrix, lattices[k].matrix, (j, k), (covariances[j], covariances[k]), ellipse) for j in range(k)]
        relations.append(next((r for r in each if r.kind != "other"), each[0]))
    return Lattices(tuple(lattices), shares[order], evidence, np.stack(covariances), tuple(relations), model.shift, tuple(model.spreads))
