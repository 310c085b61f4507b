"""Map which of several lattices explains each position, and fit each lattice where it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike, ReturnedArray
from gpu4d.beam.brightest_disk import brightest_disk
from gpu4d.crystal.candidates import points_of
from gpu4d.crystal.explained import Explanation, sums
from gpu4d.crystal.fit_lattice import LEAST_INDEXED, LatticeFit, fit_lattice
from gpu4d.crystal.hidden_lattices import added, hidden_lattices
from gpu4d.crystal.lattice import Lattice, two_vectors
from gpu4d.crystal.pattern_evidence import Patterns
from gpu4d.crystal.refine_lattices import Model
from gpu4d.crystal.several_lattices import Lattices
from gpu4d.crystal.which_lattice import chosen, chosen_disks, overlap_distance, put_back, which_lattices
from gpu4d.data.arguments import OriginLike, disk_lists, origins, real_values
from gpu4d.data.pointlist import PointListArray
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.real_arrays import real_number


@dataclass(frozen=True, eq=False)
class LatticesFit(Sequence[LatticeFit], Storable, stored="label overlap: Rx Ry; present shared evidence: lattice Rx Ry"):
    """Which lattice explains each position, and the fit of each lattice. A sequence: ``found[k]`` is the `LatticeFit` of lattice k.

    Attributes
    ----------
    label : (Rx, Ry) int64
        Number of the lattice with most evidence at the position, and -1 where none explains its disks.
    present : (K, Rx, Ry) bool
        Where each lattice is: it explains the disks, or it adds evidence to the lattices that do.
    overlap : (Rx, Ry) bool
        True where two or more lattices are present.
    shared : (K, Rx, Ry) bool
        True where the lattice is present and has no fit, because other disks than those that may be of two lattices do not determine it.
    evidence : (K, Rx, Ry) float64
        Likelihood of the disks with each lattice alone against no lattice, nats. 0 where there are no disks.
    fits : tuple of K LatticeFit
        Each with NaN where its lattice is not present. `gpu4d.strain_map` takes them.
    """

    label: ReturnedArray
    present: ReturnedArray
    overlap: ReturnedArray
    shared: ReturnedArray
    evidence: ReturnedArray
    fits: tuple[LatticeFit, ...]

    @overload
    def __getitem__(self, index: int) -> LatticeFit: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[LatticeFit]: ...
    def __getitem__(self, index: int | slice) -> LatticeFit | Sequence[LatticeFit]:
        return self.fits[index]

    def __len__(self) -> int:
        return len(self.fits)

    def __iter__(self) -> Iterator[LatticeFit]:
        return iter(self.fits)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the scan, (Rx, Ry)."""
        return tuple(self.label.shape)

    @property
    def shares(self) -> np.ndarray:
        """Return the fraction of all positions at which each lattice is the one with most evidence, (K,)."""
        label = arrays.to_numpy(self.label)
        return np.array([np.mean(label == k) for k in range(len(self))]) if label.size else np.zeros(len(self))

    def __repr__(self) -> str:
        shares = ", ".join(f"{k}: {100 * s:.0f} %" for k, s in enumerate(self.shares))
        label, overlap = arrays.to_numpy(self.label), arrays.to_numpy(self.overlap)
        none, both = (100 * float(np.mean(m)) if m.size else 0.0 for m in (label < 0, overlap))
        shape = "×".join(map(str, self.shape))
        return f"LatticesFit({shape} positions, {len(self)} lattices: {shares}; none: {none:.0f} %, several at {both:.0f} %)"


@on_host("judged")
def fit_lattices(
    disks: PointListArray,
    lattices: Lattices | Sequence[Lattice | ArrayLike] | ArrayLike,
    *,
    origin: OriginLike | None = None,
    where: ArrayLike | None = None,
    weights: str = "sqrt",
    tolerance: float = 0.12,
    min_indexed: float = LEAST_INDEXED,
    outliers: float | None = 4.0,
    radius: float | None = None,
) -> LatticesFit:
    """Map which of several lattices explains each position, and fit each lattice at its positions.

    The evidence of a lattice at a position is Σ ln(ε + (1 − ε) ρ) over its scattered disks, with ε = 0.1 the share of stray disks, and ρ
    the density of disks about the nearest node, a Gaussian, times the area |g1 × g2| for each node. Its width σ² = σ₀² + (s |q|)² is
    measured from the scan; s holds strain and rotation within it. A lattice is present with 10 nats and three disks. A second one must
    add 10 nats to the first, with three disks that the first does not explain.

    Then `fit_lattice` fits each lattice where it is present. Where two are, it is given the disks that belong to it, those where nodes of
    both coincide, and the unscattered disk. Where nodes of both are nearer than two radii of a disk, two disks must have been found, one
    of each. A single one is left out: it may be both, and then it lies between the nodes.

    Two lattices that differ by a few per cent may hide in one another: all their disks overlap, and look like those of one lattice between
    them. Where that lattice lies, compared with the strain of other positions, tells the probability of one lattice alone. Below 0.5
    the position has no fit. What is left of the doubt is added to the covariance: the mean square of f times the difference of both
    lattices, with f the part of it by which the fit may be off.

    Parameters
    ----------
    disks : PointListArray
        Fields ``qx, qy`` (px), ``intensity`` and, where known, the standard errors ``sx, sy`` (px).
    lattices : Lattices, or a sequence of Lattice or (2, 2) arrays
        From `find_lattices` (rows g1, g2, px).
    origin : Origin, (2,) or (Rx, Ry, 2) array, optional
        Origin of the patterns, px, right to a few tenths of a pixel. None: measured by `gpu4d.calibrate.origin`. A position whose origin
        is NaN has label -1.
    where : (Rx, Ry) bool array, optional
        Positions from which the widths σ are measured. All positions are mapped.
    weights, tolerance, min_indexed, outliers
        As for `fit_lattice`. `min_indexed` counts, where several lattices are present, only the disks that belong to the lattice.
    radius : float, optional
        Radius of the disks, px. None: the least distance at which two disks were found, which is about as large.

    Returns
    -------
    LatticesFit
        In the namespace of the disks. Empty positions, NaN and positions with fewer than three disks have label -1. With one lattice
        there is nothing to decide between: its fit is that of `fit_lattice` for all positions.

    Raises
    ------
    InputError
        No lattice is given, or what `fit_lattice` raises.

    Examples
    --------
    >>> import numpy as np
    >>> h, k = np.mgrid[-2:3, -2:3].reshape(2, -1)
    >>> a, b = np.array([[12.0, 1.0], [-1.0, 12.0]]), np.array([[11.0, 5.0], [-5.0, 11.0]])
    >>> q = np.concatenate([np.stack([h, k], -1) @ m for m in (a, b, a)]) + 40
    >>> lists = PointListArray(np.array([0, 25, 50, 75, 75]), {"qx": q[:, 0], "qy": q[:, 1], "intensity": np.ones(75)}, (2, 2))
    >>> found = fit_lattices(lists, [a, b], origin=(40.0, 40.0))
    >>> found.label.tolist(), found[1].g1[0, 1].round(6).tolist()
    ([[0, 1], [0, -1]], [11.0, 5.0])
    """
    disk_lists(disks)
    given = _each(lattices)
    bases = _bases(given)
    centre = origins(brightest_disk(disks, where=where) if origin is None else origin, disks.shape)
    model = _model(lattices, bases, disks, centre, where)
    options: dict[str, Any] = {"weights": weights, "tolerance": tolerance, "min_indexed": min_indexed, "outliers": outliers}
    reach = None if radius is None else 2 * _positive(radius)
    found = which_lattices(disks, centre, model, options, reach)
    xp = arrays.namespace(disks.offsets)
    shared = xp.zeros_like(found.present)
    if len(bases) == 1:
        fits = [fit_lattice(disks, given[0], origin=centre, **options)]
    else:
        fits, shared = _fits_of_several(disks, centre, given, found, reach, options)
    grid = (len(bases), *disks.shape)
    present = xp.reshape(found.present, grid)
    overlap = xp.sum(xp.astype(present, xp.int64), axis=0) > 1
    label = xp.reshape(found.label, disks.shape)
    return LatticesFit(label, present, overlap, xp.reshape(shared, grid), xp.reshape(found.evidence, grid), tuple(fits))


def _fits_of_several(
    disks: PointListArray, centre: np.ndarray, given: list[Any], found: Explanation, reach: float | None, options: dict[str, Any]
) -> tuple[list[LatticeFit], Any]:
    """Fit each lattice where its own disks determine it. Return the fits, and where disks that may be shared leave none, (K, P)."""
    xp, every = arrays.namespace(disks.offsets), range(len(given))
    fits = [_fit_there(disks, centre, one, found.own[k, :], found.present[k, :], options) for k, one in enumerate(given)]
    several = xp.sum(xp.astype(found.present, xp.int64), axis=0) > 1
    if reach is None:
        reach = overlap_distance(chosen(disks, centre, several)[0] if bool(xp.any(several)) else disks, _bases(given))
    present, own = arrays.to_numpy(found.present), arrays.to_numpy(found.own)
    hidden = hidden_lattices(disks, _bases(given), present, own, fits, reach)
    doubtful = arrays.from_numpy(hidden.doubtful, disks.offsets)
    for k in every:
        if hidden.doubtful[k].any():  # they would also make the errors of all other positions larger
            fits[k] = _fit_there(disks, centre, given[k], found.own[k, :], found.present[k, :] & ~doubtful[k, :], options)
        if hidden.variance[k].any():
            fits[k] = replace(fits[k], covariance=added(fits[k], hidden.variance[k]))
    near, mine = ([sums(xp.astype(part[k, :], xp.float64), disks.offsets) for k in every] for part in (found.near, found.own & found.near))
    lost = [found.present[k, :] & ~xp.reshape(fits[k].mask, (-1,)) & (doubtful[k, :] | (mine[k] < near[k])) for k in every]
    return fits, xp.stack(lost, axis=0)


def _positive(radius: float) -> float:
    value = real_number(radius, "radius")
    if not 0 < value < math.inf:
        raise InputError(f"radius={radius}: need the radius of the disks, px, above 0")
    return value


def _fit_there(disks: PointListArray, centre: np.ndarray, lattice: Any, own: Any, present: Any, options: dict[str, Any]) -> LatticeFit:
    """Fit a lattice to its own disks of the positions where it is, and put NaN elsewhere."""
    few, beam = chosen(disks, centre, present)
    mine = own[chosen_disks(disks, present)]
    fit = fit_lattice(few.where(mine), lattice, origin=beam, **options)
    xp = arrays.namespace(own)

    def spread(part: Any, empty: Any) -> Any:
        """Put values of chosen positions to their places in the scan."""
        flat = xp.reshape(part, (part.shape[1], *part.shape[2:]))
        everywhere = put_back(flat, present, xp.full((1,), empty, dtype=flat.dtype, device=arrays.device(flat)))
        return xp.reshape(everywhere, (*disks.shape, *part.shape[2:]))

    nan = {name: spread(getattr(fit, name), math.nan) for name in ("g1", "g2", "origin", "covariance", "residual", "indexed_fraction")}
    return replace(fit, **nan, count=spread(fit.count, 0), mask=spread(fit.mask, False))


def _each(lattices: Any) -> list[Any]:
    """Return the lattices as they were given, or as (2, 2) arrays."""
    if isinstance(lattices, Lattices | list | tuple):
        many = list(lattices)
    else:
        values = real_values(lattices, "lattices", "what find_lattices gives, or g1 and g2 of each lattice as rows, (K, 2, 2), px")
        if values.ndim != 3:
            raise InputError(f"lattices has shape {values.shape}: need g1 and g2 of each lattice as rows, (K, 2, 2), px")
        many = list(values)
    if not many:
        raise InputError("lattices is empty (find_lattices found none): give g1 and g2 of each as (2, 2) arrays in px")
    return [one if isinstance(one, Lattice) else two_vectors(one, f"lattices[{k}]") for k, one in enumerate(many)]


def _bases(given: list[Any]) -> np.ndarray:
    """Return the vectors of the lattices, (K, 2, 2)."""
    rows = [one.matrix if isinstance(one, Lattice) else one for one in given]
    for k, one in enumerate(rows):
        if not abs(np.linalg.det(one)) > 1e-3 * np.sum(one**2):
            raise InputError(f"lattices[{k}] is {np.round(one, 3).tolist()}: need two vectors (2, 2), px, that are not parallel")
    return np.stack(rows)


def _model(lattices: Any, bases: np.ndarray, disks: PointListArray, centre: np.ndarray, where: Any) -> Model:
    """Return widths and shift of the lattices, as they were found or measured from these disks."""
    if isinstance(lattices, Lattices) and len(lattices) > 1:
        return Model(bases, list(lattices.spreads), lattices.shift)
    v, weight, position = points_of(disks, centre, where)
    return Model.of(bases, Patterns.of(v, weight, position))
