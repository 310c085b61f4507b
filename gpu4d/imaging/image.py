"""Compute virtual images: one value for each scan position and virtual detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array
from gpu4d.data import Calibration, DataCube, RealSlice
from gpu4d.data.arguments import OriginLike, origins
from gpu4d.data.events import Events, exact_sums
from gpu4d.device import tables
from gpu4d.errors import InputError
from gpu4d.imaging.detectors import Detector, DetectorLike, as_detector, checked_ellipse
from gpu4d.imaging.event_sums import event_sums
from gpu4d.imaging.frame_reductions import FrameReductions
from gpu4d.imaging.fused import exact, fused
from gpu4d.imaging.masked_sums import annular_sums, masked_sums
from gpu4d.streaming import PerPositionReduction, ScanInfo, sweep
from gpu4d.streaming.engine import SweepOptions
from gpu4d.streaming.reduction import Join, defined
from gpu4d.streaming.sums import BlockSums, Value

Detectors = DetectorLike | Mapping[str, DetectorLike] | Sequence[DetectorLike]


class VirtualImage(PerPositionReduction):
    """Reduction: counts under one or several virtual detectors, in one pass.

    Parameters
    ----------
    detector : Detector, (Qx, Qy) array, or a mapping or sequence of them
        Detectors from `gpu4d.detectors`, or masks. Several give a stack with their names as labels.
    origin : pair, (Rx, Ry, 2) array or Origin, optional
        Centre that the geometry follows, detector pixels. By default the calibrated origin.
    ellipse : (a, b, theta), optional
        Elliptical distortion that disks, annuli and sectors follow. By default the calibrated one; (1, 1, 0) for none.

    Notes
    -----
    The result is a `RealSlice` (Rx, Ry), or (n, Rx, Ry) with labels, in counts. It is NaN at positions not visited, and if a
    pattern has a NaN under the detector. Pixels outside the cube's detector mask do not count.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> cube = gpu4d.DataCube(np.ones((2, 3, 9, 9), dtype="uint16"))
    >>> both = {"bf": gpu4d.detectors.disk(2.1), "adf": gpu4d.detectors.annulus(2.1, 4.1)}
    >>> image = gpu4d.sweep(cube, gpu4d.VirtualImage(both))
    >>> image.shape, image.labels, image["bf"][0, 0].item()
    ((2, 2, 3), ('bf', 'adf'), 13.0)
    """

    def __init__(self, detector: Detectors, origin: OriginLike | None = None, ellipse: tuple[float, float, float] | None = None):
        given: Any = arrays.unwrapped(detector)
        many = isinstance(given, Mapping | Sequence) and not isinstance(given, str)
        if isinstance(given, Mapping):
            self.labels = tuple(given)
            self.detectors: tuple[Detector, ...] = tuple(as_detector(d) for d in given.values())
        elif many:
            self.detectors = tuple(as_detector(d) for d in given)
            self.labels = tuple(f"detector {i}" for i in range(len(self.detectors)))
        elif arrays.is_array(given) and len(given.shape) == 3:
            many = True
            self.detectors = tuple(as_detector(given[i, ...]) for i in range(given.shape[0]))
            self.labels = tuple(f"detector {i}" for i in range(len(self.detectors)))
        else:
            self.detectors, self.labels = (as_detector(given),), ("",)
        if not self.detectors:
            raise InputError("VirtualImage() without a detector: give at least one")
        self.stack, self.planes = many, len(self.detectors)
        self.origin = None if origin is None else origins(origin)
        self.ellipse = None if ellipse is None else checked_ellipse(ellipse)

    def bytes_needed(self, scan: ScanInfo, n_frames: int) -> int:
        frame, many = scan.shape[2] * scan.shape[3], len(self.detectors)
        masks = 2 * many * frame * (8 if self._weighs else 1)  # one copy on the host, one on the device of the frames
        per_pixel = 48 * defined(masked_sums, scan)
        masks_follow = any(d.follows_origin and (d.radii is None or self._stretched(scan)) for d in self.detectors)
        moving = 48 * frame if masks_follow else 0  # a mask for each pattern
        return self.held_bytes(scan, n_frames) + masks + (per_pixel * n_frames * frame + 8 * many * frame + moving) * (n_frames > 0)

    def start(self, scan: ScanInfo, device: str, pass_: int = 0) -> None:
        super().start(scan, device, pass_)
        self.prepare(scan)

    def prepare(self, scan: ScanInfo) -> None:
        """Make the masks for a scan, and say which detectors follow the origin. No values are stored yet."""
        self.scan = scan
        self.valid = None if scan.detector_mask is None else scan.detector_mask.copy()  # a copy, because the caller may change the array
        self.places = scan.calibration if self.origin is None else Calibration(origin=origins(self.origin, scan.shape[:2]))
        origin = self.places.origin
        moving = origin is not None and origin.ndim == 3
        self.following = [i for i, d in enumerate(self.detectors) if moving and d.follows_origin]
        self.stretch = self._stretched(scan)
        self.round = [] if self.stretch else [i for i in self.following if self.detectors[i].radii is not None]
        self.radii = np.array([self.detectors[i].radii for i in self.round], dtype=np.float64).reshape(-1, 2)
        still = [i for i in range(len(self.detectors)) if i not in self.following]
        self.still = {i: self._masked(self.detectors[i].mask(scan.shape[2:], self.places.origin_mean, self.stretch)) for i in still}
        self.stacks = _stacks(self.still)
        self.by_pixel: np.ndarray | None = None  # the fixed masks as weights of events, made when some come
        self.gathered: list[tuple[list[int], np.ndarray]] | None = None  # masks restricted to the wanted pixels

    def _stretched(self, scan: ScanInfo) -> tuple[float, float, float] | None:
        """Return the ellipse that circles become on the detector; None if they stay circles."""
        ellipse = scan.calibration.ellipse if self.ellipse is None else self.ellipse
        return None if ellipse is None or ellipse[0] == ellipse[1] else ellipse

    def _masked(self, mask: np.ndarray) -> np.ndarray:
        valid = self.scan.detector_mask
        return mask if valid is None else (mask & valid if mask.dtype == bool else mask * valid)

    def moved_mask(self, number: int, origin: np.ndarray) -> np.ndarray:
        """Return the mask of one of the detectors about an origin (2,)."""
        return self._masked(self.detectors[number].mask(self.scan.shape[2:], origin, self.stretch))

    def in_tiles(self) -> bool:
        return False

    def update(self, frames: Array, positions: np.ndarray) -> None:
        self._put(positions, frames, self.stacks, self._follow(frames, positions) if self.following else {})

    def wanted_pixels(self) -> np.ndarray | None:
        return None if self.following else np.flatnonzero(np.any([mask != 0 for mask in self.still.values()], axis=0))

    def update_pixels(self, values: Array, positions: np.ndarray) -> None:
        xp, pixels = arrays.namespace(values), self.wanted_pixels()
        if self.gathered is None:
            self.gathered = [(members, stack.reshape(len(members), 1, -1)[:, :, pixels]) for members, stack in self.stacks]
        self._put(positions, xp.reshape(values, (len(positions), 1, -1)), self.gathered, {})

    def takes_events(self, scan: ScanInfo) -> bool:
        """Say whether its detectors are masks of bools, or circles that move: sums of whole numbers, which events give to the last bit."""
        origin = scan.calibration.origin if self.origin is None else self.origin
        moves = origin is not None and origin.ndim == 3
        circles = not self._stretched(scan)
        shapes = [d for d in self.detectors if d.follows_origin and (d.radii is None or not circles)]
        return exact(scan) and not (moves and shapes) and not self._weighs

    def update_events(self, events: Events, positions: np.ndarray) -> None:
        sums = np.empty((len(positions), len(self.detectors)))
        if self.by_pixel is None:
            masks = np.zeros((self.scan.shape[2] * self.scan.shape[3], len(self.still)), np.int64)
            for column, mask in enumerate(self.still.values()):
                masks[:, column] = mask.reshape(-1)
            self.by_pixel = masks
        sums[:, list(self.still)] = event_sums(*events.arrays(), self.by_pixel)
        if self.round:
            sums[:, self.round] = self._in_circles(events, positions)
        self.put(positions, sums)

    def _in_circles(self, events: Events, positions: np.ndarray) -> np.ndarray:
        """Count the events in circles about the origin of each position, as `annular_sums` sums patterns."""
        origin = self.places.origin_at(positions)
        assert origin is not None
        rows, pixels, times = events.pattern_of_event(), events.pixel_of_event(), events.count_of_event()
        x, y = np.divmod(pixels, self.scan.shape[3])
        r2 = (x - origin[rows, 0]) ** 2 + (y - origin[rows, 1]) ** 2
        valid = True if self.valid is None else self.valid.reshape(-1)[pixels]
        known, columns = np.isfinite(origin).all(axis=-1), []
        for inner, outer in self.radii:
            inside = (r2 < outer * outer) & ((inner < 0) | (r2 > inner * inner)) & valid
            counted = exact_sums(rows[inside], None if times is None else times[inside], len(positions))
            columns.append(np.where(known, counted, np.nan))
        return np.stack(columns, axis=-1)

    def _put(self, positions: np.ndarray, frames: Any, stacks: list[tuple[list[int], np.ndarray]], columns: dict[int, Any]) -> None:
        """Store sums under fixed masks, together with the columns of other detectors."""
        sums = [(members, masked_sums(frames, tables.beside(stack, frames))) for members, stack in stacks]
        if len(sums) == 1 and not columns:  # one stack has all detectors, in their order
            self.put(positions, arrays.as_float64(sums[0][1]))
            return
        for members, found in sums:
            columns.update(self._columns(found, members))
        self.put(positions, arrays.namespace(frames).stack([columns[i] for i in range(len(self.detectors))], axis=-1))

    def joins(self) -> Join | None:
        fixed = not self.following and all(mask.dtype == bool for mask in self.still.values())
        return fused if fixed and exact(self.scan) else None

    def frame_masks(self) -> list[np.ndarray]:
        return [self.still[i] for i in range(len(self.detectors))]

    def moments_mask(self) -> None:
        return None

    def take(self, sums: FrameReductions, positions: np.ndarray) -> list[tuple[BlockSums, Value]]:
        self.put(positions, arrays.as_float64(sums.masked))
        return []

    def _follow(self, frames: Any, positions: np.ndarray) -> dict[int, Any]:
        """Return sums of detectors that move with the origin: circles by their radii, other shapes by a mask for each pattern."""
        origins = self.places.origin_at(positions)
        assert origins is not None
        columns: dict[int, Any] = {}
        if self.round:
            mask = None if self.valid is None else tables.beside(self.valid, frames)
            sums = annular_sums(frames, arrays.from_numpy(origins, frames), tables.beside(self.radii, frames), mask=mask)
            columns.update(self._columns(sums, self.round))
        xp = arrays.namespace(frames)
        for i in set(self.following) - set(self.round):
            one = []
            for n, origin in enumerate(origins):
                if not np.isfinite(origin).all():
                    one.append(xp.full((1, 1), float("nan"), dtype=xp.float64, device=arrays.device(frames)))
                    continue
                mask = self.moved_mask(i, origin)
                one.append(arrays.as_float64(masked_sums(frames[n : n + 1, ...], arrays.from_numpy(mask[None], frames))))
            columns[i] = xp.concat(one)[:, 0]
        return columns

    @property
    def _weighs(self) -> bool:
        return any(d.kind == "array" and d.parameters[0].array.dtype != bool for d in self.detectors)

    @staticmethod
    def _columns(sums: Any, members: list[int]) -> dict[int, Any]:
        sums = arrays.as_float64(sums)
        return {i: sums[:, column] for column, i in enumerate(members)}

    def finish(self) -> RealSlice:
        planes = self.values.result()
        data = planes if self.stack else planes[0, :, :]
        return RealSlice.calibrated(data, "virtual image", "counts", self.scan.calibration.r_pixel, self.labels if self.stack else ())


def _stacks(masks: dict[int, np.ndarray]) -> list[tuple[list[int], np.ndarray]]:
    """Return stacks of masks (m, Qx, Qy) with their numbers: one stack of bool masks, one of weights."""
    kinds = [(kind, [i for i, mask in masks.items() if (mask.dtype == bool) == (kind is bool)]) for kind in (bool, float)]
    return [(members, np.stack([masks[i] for i in members]).astype(kind, copy=False)) for kind, members in kinds if members]


def virtual_image(
    cube: DataCube,
    detector: Detectors,
    origin: OriginLike | None = None,
    *,
    ellipse: tuple[float, float, float] | None = None,
    **options: Unpack[SweepOptions],
) -> RealSlice:
    """Compute the counts under a virtual detector at every scan position, in one sweep of the cube.

    Parameters
    ----------
    cube : DataCube
    detector : Detector, (Qx, Qy) array, or a mapping or sequence of them
        `gpu4d.detectors.disk(12)`, `annulus(20, 40)`, … in pixels relative to the origin, or a mask.
    origin : pair, (Rx, Ry, 2) array or Origin, optional
        Detector pixels. By default the calibrated origin or, if it is not known, the middle of the detector.
    ellipse : (a, b, theta), optional
        Elliptical distortion that disks, annuli and sectors follow. By default the calibrated one; (1, 1, 0) for none.
    **options
        Options of `gpu4d.sweep`: device, memory, where, progress.

    Returns
    -------
    RealSlice, (Rx, Ry) or (n, Rx, Ry)
        Counts. NaN at positions not visited, and if a pattern has a NaN under the detector.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> cube = gpu4d.DataCube(np.ones((2, 2, 8, 8), dtype="uint16"))
    >>> virtual_image(cube, gpu4d.detectors.disk(2.0))[0, 0].item()
    12.0
    """
    return sweep(cube, VirtualImage(detector, origin, ellipse), **options)
