"""Refine the lattice of every pattern by a Poisson fit of the whole pattern: `refine_lattice`."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Unpack

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array, ArrayLike
from gpu4d.bragg.likelihood.poisson_fit import DiskProfile, disk_profile
from gpu4d.bragg.likelihood.tied_fit import GEOMETRY, overlapping, tied_fit, work_bytes
from gpu4d.bragg.likelihood.zero_point import zero_point
from gpu4d.crystal.fit_lattice import LatticeFit
from gpu4d.data import DataCube
from gpu4d.data.arguments import real_values
from gpu4d.device.tables import beside
from gpu4d.errors import InputError
from gpu4d.probe.template_kernel import TemplateLike, as_template
from gpu4d.real_arrays import real_array
from gpu4d.streaming import ScanInfo, sweep
from gpu4d.streaming.engine import SweepOptions
from gpu4d.streaming.sums import PerPositionReduction

FARTHEST = 5  # order: disks are looked for up to this h and k, unless the scan or the caller says which there are
MARGIN = 0.1  # disks that much farther out than those that were seen are fitted, too
MOST_DISKS = 120  # of a pattern: more would be a lattice of something else
PARAMETERS = 6  # of a disk fitted alone: level and slopes of the background are fitted here, too
AT_ONCE = 16  # patterns that the definition fits at once on a device; on the host one at a time, which stays in the cache
COVARIANCES = ((2, 2), (2, 4), (4, 4), (3, 3), (3, 5), (5, 5))  # places in the matrix of the fit: g1 and g2 by x, then by y


def refine_lattice(
    cube_or_patterns: DataCube | Array,
    template: TemplateLike,
    fit: LatticeFit,
    *,
    orders: ArrayLike | None = None,
    overlaps: bool = True,
    **options: Unpack[SweepOptions],
) -> LatticeFit:
    """Fit the lattice of every position to all counts of its pattern, with all disks tied to it.

    `gpu4d.fit_lattice` takes positions of single disks. Here one Poisson fit of the whole pattern has only six numbers for all
    positions: origin, g1 and g2. Every disk has its own brightness. So disks that are too weak to be found, or that overlap, still tell
    where the lattice is. Use it where disks are weak, patterned or overlap. It assumes that one flat lattice places all disks: two
    lattices in one pattern, or distortions of the detector, are not in the model.

    λ(q) = B(q) + Σⱼ aⱼ D(q − rⱼ) + Σᵢⱼ cᵢⱼ D(q − rᵢ) D(q − rⱼ), with rⱼ = r₀ + hⱼ g1 + kⱼ g2. The background B is bilinear between the
    corners of the detector. The operation `gpu4d.bragg.likelihood.tied_fit` fits it, some 2 to 5 ms a pattern of 128² and core.

    Parameters
    ----------
    cube_or_patterns : DataCube or (Rx, Ry, Qx, Qy) array
        Counts.
    template : Template or (Qx, Qy) array
        As in `find_bragg_disks`. The fit takes the shape of its probe as it is: round, patterned or any other.
    fit : LatticeFit
        From `fit_lattice`: the start. It must be right to about a pixel at the outermost disk. Where it has no lattice, the fit starts
        with the scan's median.
    orders : (J, 2) int array, optional
        h, k of the disks. Default: all that are no farther from the origin than those that `find_lattice` saw.
    overlaps : bool
        True: disks that overlap interfere, with a strength c of its own for each pair. It is constant in the overlap, as for a focused
        probe. False: their intensities add up, which is faster, and 2 to 5 % more precise where they do not interfere.
    **options
        Options of `gpu4d.sweep`, for a cube: memory, where, progress.

    Returns
    -------
    LatticeFit
        With g1, g2, origin and covariance of this fit, and ``weights="likelihood"``. `error_scale` is the scatter of the counts about the
        model, in units of Poisson noise. The covariance is multiplied by its square if that exceeds 1. The other fields are those of
        `fit`. A pattern that is empty or has a NaN, and one whose fit failed, has NaN.

    Raises
    ------
    InputError
        The scan of the fit has another shape, no position has a lattice, or the orders leave fewer than three disks.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> hk = np.mgrid[-1:2, -1:2].reshape(2, -1).T
    >>> true = np.array([[13.1, 0.4], [-0.2, 12.9]])
    >>> disks = [gpu4d.probe.synthetic((48, 48), 4.0, center=tuple(c)) for c in hk @ true + 24.2]
    >>> counts = np.rint(40 * np.sum(disks, 0) + 0.2)[None, None]
    >>> probe = gpu4d.probe.synthetic((48, 48), 4.0)
    >>> first = gpu4d.fit_lattice(gpu4d.find_bragg_disks(counts, probe), true, origin=(24.2, 24.2))
    >>> better = refine_lattice(counts, probe, first, orders=hk)
    >>> bool(np.abs(np.stack([better.g1[0, 0], better.g2[0, 0]]) - true).max() < 0.03), better.weights
    (True, 'likelihood')
    """
    given = as_template(template)
    cube = cube_or_patterns
    if not isinstance(cube, DataCube):
        patterns = real_array(cube, "patterns", "a DataCube or an array (Rx, Ry, Qx, Qy)")
        if patterns.ndim != 4:
            raise InputError(f"patterns has shape {tuple(patterns.shape)}: need a DataCube or (Rx, Ry, Qx, Qy)")
        cube = DataCube(patterns)
    if tuple(cube.scan_shape) != fit.shape or cube.detector_shape != given.shape:
        raise InputError(
            f"the scan is {cube.scan_shape} with patterns of {cube.detector_shape}, the fit {fit.shape}, the template {given.shape}: "
            "need the scan from which the fit was made, and a template of its detector"
        )
    reduction = _TiedLattices(given, fit, orders, overlaps)
    values = sweep(cube, reduction, **options)
    return _as_fit(values, fit)


class _TiedLattices(PerPositionReduction):
    """Reduction: lattice, covariances and scatter of every pattern."""

    planes = GEOMETRY + len(COVARIANCES) + 1

    def __init__(self, template: Any, fit: LatticeFit, orders: ArrayLike | None, overlaps: bool):
        self.start_at, mean = _starts(fit)
        profile = disk_profile(template)
        self.shift = zero_point(template, PARAMETERS).shift
        chosen = _orders(orders, fit, mean, template.shape, profile)
        pairs = overlapping(chosen, mean[2:].reshape(2, 2), profile.radius) if overlaps else np.zeros((2, 0), np.int64)
        self.profile, self.orders, self.pairs = profile, chosen, pairs

    def bytes_needed(self, scan: ScanInfo, n_frames: int) -> int:
        shape, sizes = scan.shape[2:], (len(self.orders), self.pairs.shape[1], len(self.profile.pixels))
        kind = tied_fit.kind_for(scan.dtype, scan.sample, shape)
        at_once = n_frames if kind != "definition" else 1 if scan.on_host else min(AT_ONCE, n_frames)
        return self.held_bytes(scan, n_frames) + work_bytes(kind, at_once, shape, *sizes)

    def in_tiles(self) -> bool:
        return False  # each pattern is fitted alone

    def update(self, frames: Array, positions: np.ndarray) -> None:
        xp = arrays.namespace(frames)
        first = self.start_at[positions[:, 0], positions[:, 1]]
        mask = None if self.scan.detector_mask is None else beside(self.scan.detector_mask, frames)
        orders, pairs, table, pixels = (beside(a, frames) for a in (self.orders, self.pairs, self.profile.table, self.profile.pixels))
        definition = tied_fit.kind_for(frames.dtype, frames, tuple(frames.shape)) == "definition"
        step = frames.shape[0] if not definition else 1 if isinstance(frames, np.ndarray) else AT_ONCE
        rows = []
        for i in range(0, frames.shape[0], step):
            start = arrays.from_numpy(np.ascontiguousarray(first[i : i + step]), frames)
            one = tied_fit(frames[i : i + step, ...], start, orders, pairs, table, pixels, mask=mask)
            pair = [one.covariance[:, i, j] for i, j in COVARIANCES]
            origin = [one.geometry[:, i] - self.shift[i] for i in (0, 1)]
            rows.append(xp.stack([*origin, *(one.geometry[:, i] for i in range(2, GEOMETRY)), *pair, one.scatter], axis=-1))
        self.put(positions, xp.concat(rows, axis=0))

    def finish(self) -> Any:
        return self.values.result()


def _starts(fit: LatticeFit) -> tuple[np.ndarray, np.ndarray]:
    """Return origin, g1 and g2 of every position (Rx, Ry, 6), without gaps, and their median (6,)."""
    parts = [arrays.to_numpy(v).astype(np.float64) for v in (fit.origin, fit.g1, fit.g2)]
    start = np.concatenate(parts, axis=-1)
    known: np.ndarray = np.isfinite(start.sum(axis=-1))
    if not known.any():
        raise InputError("the fit has a lattice at no position: look at the disks and the lattice first")
    middle = np.median(start[known], axis=0)
    return np.where(known[..., None], start, middle), middle


def _orders(given: ArrayLike | None, fit: LatticeFit, mean: np.ndarray, shape: tuple[int, int], profile: DiskProfile) -> np.ndarray:
    """Return the orders (J, 2) of the disks whose middle lies on the detector."""
    if given is not None:
        orders = real_values(given, "orders", "whole numbers h, k, (J, 2)")
        if orders.ndim != 2 or orders.shape[1] != 2 or not (np.rint(orders) == orders).all():
            raise InputError(f"orders has shape {orders.shape}: need whole numbers h, k, (J, 2)")
    elif len(fit.lattice.orders):
        basis = mean[2:].reshape(2, 2)
        far = np.hypot(*(fit.lattice.orders @ basis).T).max() * (1 + MARGIN)
        most = int(far * np.hypot(*basis.T).max() / abs(np.linalg.det(basis))) + 1
        orders = np.mgrid[-most : most + 1, -most : most + 1].reshape(2, -1).T
        orders = orders[np.hypot(*(orders @ basis).T) <= far]
    else:
        orders = np.mgrid[-FARTHEST : FARTHEST + 1, -FARTHEST : FARTHEST + 1].reshape(2, -1).T
    orders = np.unique(orders.astype(np.int64), axis=0)
    at = mean[:2] + orders @ mean[2:].reshape(2, 2)
    orders = orders[((at > -0.5) & (at < np.asarray(shape) - 0.5)).all(-1)]
    if not 3 <= len(orders) <= MOST_DISKS:
        raise InputError(f"{len(orders)} disks lie on the detector: need 3 to {MOST_DISKS}; give orders=")
    return orders.astype(np.float64)


def _as_fit(values: Any, fit: LatticeFit) -> LatticeFit:
    """Return the planes (13, Rx, Ry) of a sweep as a `LatticeFit`."""
    xp = arrays.namespace(values)
    ok = xp.isfinite(values[0, ...])
    scatter = arrays.to_numpy(values[-1, ...])
    scale = float(np.sqrt(np.nanmedian(scatter))) if np.isfinite(scatter).any() else math.nan
    grow = scale**2 if scale > 1 else 1.0
    both = lambda i: xp.stack([values[i, ...], values[i + 1, ...]], axis=-1)  # noqa: E731
    part = [grow * values[GEOMETRY + i, ...] for i in range(len(COVARIANCES))]
    matrix = [xp.stack([xp.stack([a, b], axis=-1), xp.stack([b, c], axis=-1)], axis=-2) for a, b, c in (part[:3], part[3:])]
    return dataclasses.replace(
        fit,
        origin=both(0),
        g1=both(2),
        g2=both(4),
        covariance=xp.stack(matrix, axis=-3),
        mask=ok,
        weights="likelihood",
        error_scale=scale,
    )
