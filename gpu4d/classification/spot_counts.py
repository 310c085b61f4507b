"""Read the counts of spots, and the mean patterns of classes, from the patterns of a scan: two reductions."""

from __future__ import annotations

import operator
from typing import ClassVar

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array, ArrayLike
from gpu4d.classification.vector_map_maxima import places
from gpu4d.data import Calibration, DiffractionSlice, RealSlice
from gpu4d.data.arguments import OriginLike, mean_place, origins, real_values
from gpu4d.device import tables
from gpu4d.errors import InputError
from gpu4d.imaging.masked_sums import annular_sums
from gpu4d.imaging.shifted_patterns import shifted_patterns
from gpu4d.on_host import on_host
from gpu4d.streaming import PerPositionReduction, ScanInfo, SumReduction
from gpu4d.streaming.reduction import defined


@on_host("statistics")
class SpotCounts(PerPositionReduction):
    """Reduction: the counts in a circle around every reflection, also where no disk was significant enough to be found.

    Parameters
    ----------
    spots : (K, 2) array
        Reflections relative to the origin, pixels.
    radii : (K,) array or float
        Radii of the circles, pixels. Circles that do not overlap have independent counts.
    origin : pair, (Rx, Ry, 2) array or Origin, optional
        Position of the unscattered beam. By default the calibrated origin.

    Notes
    -----
    The result is a `RealSlice` (K, Rx, Ry) in counts. It is NaN at positions not visited, where the origin is NaN, and if a pattern has
    a NaN in the circle. Pixels outside of the detector or of its mask count as 0.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> cube = gpu4d.DataCube(np.ones((2, 2, 16, 16), dtype="uint16"))
    >>> gpu4d.sweep(cube, SpotCounts([[4.0, 0.0], [0.0, 4.0]], 1.1, origin=(8.0, 8.0)))[:, 0, 0].tolist()
    [5.0, 5.0]
    """

    def __init__(self, spots: ArrayLike, radii: ArrayLike | float, origin: OriginLike | None = None):
        self.spots = places(spots, "spots")
        given = real_values(radii, "radii", "one radius in pixels, or one for each spot").astype(np.float64)
        if given.ndim > 1 or (given.ndim == 1 and given.shape[0] != len(self.spots)) or not (given > 0).all():
            raise InputError(
                f"radii is {given.shape} for {len(self.spots)} spots: need one positive radius, or one for each spot, in pixels"
            )
        self.radii = np.broadcast_to(given, (len(self.spots),)).copy()
        self.planes = len(self.spots)
        self.origin = None if origin is None else origins(origin)

    def bytes_needed(self, scan: ScanInfo, n_frames: int) -> int:
        per_pixel = 64 * defined(annular_sums, scan)
        return self.held_bytes(scan, n_frames) + per_pixel * n_frames * scan.shape[2] * scan.shape[3] + 48 * n_frames * self.planes

    def start(self, scan: ScanInfo, device: str, pass_: int = 0) -> None:
        super().start(scan, device, pass_)
        self.valid = None if scan.detector_mask is None else scan.detector_mask.copy()  # a copy, because the caller may change the array
        self.places = scan.calibration if self.origin is None else Calibration(origin=origins(self.origin, scan.shape[:2]))
        if self.places.origin is None:
            raise InputError("SpotCounts needs the origin of the patterns: give origin=, or calibrate the scan (gpu4d.calibrate.origin)")

    def in_tiles(self) -> bool:
        return False

    def update(self, frames: Array, positions: np.ndarray) -> None:
        center = self.places.origin_at(positions)
        assert center is not None
        mask = None if self.valid is None else tables.beside(self.valid, frames)
        columns = []
        for spot, radius in zip(self.spots, self.radii):
            around = arrays.from_numpy(np.ascontiguousarray(center + spot), frames)
            ring = tables.beside(np.array([[-1.0, radius]]), frames)
            columns.append(arrays.as_float64(annular_sums(frames, around, ring, mask=mask))[:, 0])
        xp = arrays.namespace(frames)
        empty = xp.zeros((len(positions), 0), dtype=xp.float64, device=arrays.device(frames))
        self.put(positions, xp.stack(columns, axis=-1) if columns else empty)

    def finish(self) -> RealSlice:
        return RealSlice.calibrated(self.values.result(), "counts of spots", "counts", self.scan.calibration.r_pixel)


@on_host("statistics")
class ClassPatterns(SumReduction):
    """Reduction: mean patterns of several classes in one pass, moved so that all origins lie at their mean.

    `gpu4d.MeanPattern(weights=…, origin=…)` is the same for one class. Here every pattern is moved once for all classes.

    Parameters
    ----------
    weights : (J, Rx, Ry) array
        Weight of every position in every class: fractions, or bools.
    origin : pair, (Rx, Ry, 2) array or Origin
        Position of the unscattered beam, pixels.

    Notes
    -----
    The result is a `DiffractionSlice` (J, Qx, Qy) in counts. A class of no weight is NaN. Patterns with a NaN are left out, and so are
    positions whose origin or weight is NaN. Pixels outside of the detector mask are 0 before patterns are moved.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> cube = gpu4d.DataCube(np.arange(4, dtype="uint8").reshape(2, 2, 1, 1))
    >>> gpu4d.sweep(cube, ClassPatterns([[[1, 1], [0, 0]], [[0, 0], [1, 1]]], (0.0, 0.0)))[:, 0, 0].tolist()
    [0.5, 2.5]
    """

    sums: ClassVar = {"totals": operator.add, "counts": operator.add}

    def __init__(self, weights: ArrayLike, origin: OriginLike):
        self.weights = np.nan_to_num(real_values(weights, "weights", "weights of every class, (J, Rx, Ry)").astype(np.float64))
        if self.weights.ndim != 3 or not len(self.weights):
            raise InputError(f"weights is {self.weights.shape}: need a weight of every position in every class, (J, Rx, Ry)")
        self.origin = origins(origin)

    def bytes_needed(self, scan: ScanInfo, n_frames: int) -> int:
        frame, many = scan.shape[2] * scan.shape[3], len(self.weights)
        per_pixel = 24 + (56 if defined(shifted_patterns, scan) else 16)
        held = self.held_bytes(scan, 8 * many * frame) // len(self.sums)  # the counts are few numbers
        return held + per_pixel * n_frames * frame + 16 * many * frame * (n_frames > 0)

    def start(self, scan: ScanInfo, device: str, pass_: int = 0) -> None:
        if self.weights.shape[1:] != tuple(scan.shape[:2]):
            raise InputError(f"weights is {self.weights.shape}, the scan is {tuple(scan.shape[:2])}: need (J, Rx, Ry)")
        super().start(scan, device, pass_)
        self.center = np.broadcast_to(origins(self.origin, scan.shape[:2]), (*scan.shape[:2], 2))
        self.valid = None if scan.detector_mask is None else scan.detector_mask.copy()

    def update(self, frames: Array, positions: np.ndarray) -> None:
        xp = arrays.namespace(frames)
        shifts = mean_place(self.center) - self.center[positions[:, 0], positions[:, 1]]
        known = np.isfinite(shifts).all(-1)
        own = np.where(known, self.weights[:, positions[:, 0], positions[:, 1]], 0.0)
        used = np.flatnonzero(own.any(1))  # a tile has few of the classes
        values, weights = frames, arrays.from_numpy(own[used], frames)
        if self.valid is not None:
            values = arrays.zeroed(values, tables.beside(self.valid, frames))
        if not arrays.is_integer(frames):
            good = xp.all(xp.isfinite(values), axis=(-2, -1))
            values = xp.where(good[:, None, None], values, xp.zeros_like(values))
            own = own * arrays.to_numpy(good)
            weights = weights * arrays.as_float64(good)[None, :]
        moved = shifted_patterns(values, arrays.from_numpy(np.where(known[:, None], shifts, 0.0), frames))
        some = weights @ xp.reshape(moved, (moved.shape[0], moved.shape[1] * moved.shape[2]))
        empty = (
            xp.zeros_like(some[0, :])
            if len(used)
            else xp.zeros((moved.shape[1] * moved.shape[2],), dtype=xp.float64, device=arrays.device(frames))
        )
        place = {int(j): i for i, j in enumerate(used)}
        total = xp.stack([some[place[j], :] if j in place else empty for j in range(len(own))])
        self.add(positions, totals=xp.reshape(total, (len(own), *moved.shape[1:])), counts=own.sum(1))

    def finish(self) -> DiffractionSlice:
        total, count = self.result("totals"), self.result("counts")
        if total is None:
            return DiffractionSlice(np.full((len(self.weights), *self.scan.shape[2:]), np.nan), "class patterns", "counts")
        per = arrays.from_numpy(np.where(count > 0, count, np.nan), total)
        mean = total / per[:, None, None]
        return DiffractionSlice.calibrated(mean, "class patterns", "counts", self.scan.calibration.q_pixel)
