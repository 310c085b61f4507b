"""Average the vacuum probe from patterns of the scan itself."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array, ArrayLike
from gpu4d.data import DataCube, DiffractionSlice
from gpu4d.data.arguments import positions_of
from gpu4d.data.fill import fill_from_neighbours
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.probe.bad_pixels_beside_beam import bad_pixels_beside_beam
from gpu4d.real_arrays import real_array
from gpu4d.robust import robust_sigma
from gpu4d.streaming.engine import BudgetOptions

HIT = 8.0  # standard deviations of the brightest pixel over the patterns: a larger one is the hit of an X-ray


@on_host("statistics")
def from_vacuum(
    patterns: DataCube | Array, region: ArrayLike | None = None, *, align: bool = True, **options: Unpack[BudgetOptions]
) -> DiffractionSlice:
    """Average the patterns over vacuum. Each pattern is moved so that all probes have one centre.

    Parameters
    ----------
    patterns : DataCube or (..., Qx, Qy) array
        A scan, or a stack of vacuum patterns.
    region : (Rx, Ry) bool, or ((int, int), (int, int)), optional
        Positions over vacuum: a mask, or half-open ranges of rows and columns. Default: every position.
    align : bool
        Move each pattern by the centre of mass of its disk before adding (bilinear, sub-pixel). False: add patterns unmoved.
    **options
        Options of `gpu4d.sweep`: memory, progress.

    Returns
    -------
    DiffractionSlice, (Qx, Qy) float64
        Mean vacuum pattern, counts. Empty and NaN patterns are left out, and so are patterns with the hit of an X-ray. Hot and dead
        pixels have the value of their nearest good pixel.

    Raises
    ------
    InputError
        The region has the wrong shape or is empty, or no pattern in it has counts.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> stack = np.stack([gpu4d.probe.synthetic((32, 32), 5.0, center=(16.0 + d, 16.0)) for d in (-1.0, 0.0, 1.0)])
    >>> round(float(gpu4d.probe.from_vacuum(stack)[16, 16]), 3)
    1.0
    """
    from gpu4d.imaging.brightest import Brightest
    from gpu4d.imaging.com_map import CenterOfMass
    from gpu4d.imaging.patterns import MaxPattern, MeanPattern
    from gpu4d.streaming import sweep

    cube = _as_cube(patterns)
    where = _region(region, cube.scan_shape)
    first = sweep(cube, {"mean": MeanPattern(weights=where), "max": MaxPattern(), "brightest": Brightest()}, where=where, **options)
    first = {name: arrays.to_numpy(found) for name, found in first.items()}
    mean = first["mean"]
    if not np.nansum(mean) > 0:
        raise InputError("the vacuum region has no pattern with counts: choose another region")
    bad = ~bad_pixels_beside_beam(mean, int(where.sum()), first["max"]).mask
    if bad.any():
        good = ~bad if cube.detector_mask is None else cube.detector_mask & ~bad
        cube = DataCube(cube.source, cube.calibration, cube.metadata, good, cube.name)
        first["brightest"] = arrays.to_numpy(sweep(cube, Brightest(), where=where, **options))
    seen = where & ~_hit(first["brightest"])
    if bad.any() or (seen != where).any():
        mean = arrays.to_numpy(sweep(cube, MeanPattern(weights=seen), where=seen, **options))
    if align:
        # Only pixels in and near the disk are used. A threshold at half height instead would bias the centres by parts of a pixel.
        near = DataCube(cube.source, cube.calibration, cube.metadata, _near_disk(mean, cube.detector_mask), cube.name)
        com = np.moveaxis(arrays.to_numpy(sweep(near, CenterOfMass(), where=where, **options)), 0, -1)
        seen &= np.isfinite(com).all(-1)
        if not seen.any():
            raise InputError("no pattern of the vacuum region has counts in its disk: choose another region")
        centers = np.where(seen[..., None], com, com[seen].mean(0))
        origin = centers - centers[seen].mean(0) + com[seen].mean(0)
        mean = arrays.to_numpy(sweep(cube, MeanPattern(weights=seen, origin=origin), where=seen, **options))
    missing = bad & ~np.isfinite(mean)
    if missing.any():
        mean = np.where(missing, fill_from_neighbours(mean, np.isfinite(mean)), mean)
    return DiffractionSlice.calibrated(mean, "vacuum probe", "counts", cube.calibration.q_pixel)


def _hit(brightest: np.ndarray) -> np.ndarray:
    """Find patterns whose brightest pixel is far above that of the others. More than half of them cannot be."""
    known = np.isfinite(brightest)
    values = brightest[known]
    if not values.size:
        return np.zeros(brightest.shape, bool)
    middle = float(np.median(values))
    spread = max(float(robust_sigma(values, middle)), float(np.sqrt(max(middle, 0.0))))
    return known & (np.where(known, brightest, 0.0) > middle + HIT * spread)


def _as_cube(patterns: Any) -> DataCube:
    """Return patterns as a cube. A stack becomes a scan with one row."""
    if isinstance(patterns, DataCube):
        return patterns
    stack = real_array(patterns, "patterns", "a DataCube or (..., Qx, Qy)")
    shape = tuple(stack.shape)
    if len(shape) < 2 or 0 in shape:
        raise InputError(f"patterns is {shape}, need a DataCube or (..., Qx, Qy)")
    return DataCube(arrays.namespace(stack).reshape(stack, (1, -1, *shape[-2:])))


def _region(region: Any, shape: tuple[int, int]) -> np.ndarray:
    """Return the region as a mask (Rx, Ry)."""
    if isinstance(region, tuple) and len(region) == 2 and all(np.size(r) == 2 for r in region):
        where = np.zeros(shape, dtype=bool)
        where[slice(*region[0]), slice(*region[1])] = True
    else:
        where = positions_of(region, shape, "region")
    if not where.any():
        raise InputError("the vacuum region holds no position: choose another region")
    return where


def _near_disk(mean: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """Return a mask (Qx, Qy) of valid pixels in and near the disk of the mean pattern."""
    from gpu4d.probe.measure_disk import measure_disk

    disk = measure_disk(mean, valid)
    x, y = np.arange(mean.shape[0])[:, None] - disk.qx, np.arange(mean.shape[1])[None, :] - disk.qy
    near = np.hypot(x, y) < 1.5 * disk.radius + 3
    return near if valid is None else near & valid
