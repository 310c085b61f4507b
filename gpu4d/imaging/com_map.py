"""Compute the centre of mass at every scan position. DPC starts from it."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array
from gpu4d.data.events import Events
from gpu4d.data.slices import RealSlice
from gpu4d.device import tables
from gpu4d.errors import InputError
from gpu4d.imaging.center_of_mass import divided
from gpu4d.imaging.detectors import DetectorLike, as_detector
from gpu4d.imaging.event_sums import event_sums
from gpu4d.imaging.first_moments import first_moments
from gpu4d.imaging.frame_reductions import FrameReductions
from gpu4d.imaging.fused import exact, fused
from gpu4d.streaming.reduction import Join, ScanInfo, defined
from gpu4d.streaming.sums import BlockSums, PerPositionReduction, Value


class CenterOfMass(PerPositionReduction):
    """Reduction: the centre of mass at every scan position, (2, Rx, Ry) in detector pixels.

    Parameters
    ----------
    detector : Detector or (Qx, Qy) bool array, optional
        Only these pixels count. A geometry of `gpu4d.detectors` is centred on the mean origin and follows the
        calibrated ellipse. Pixels outside the cube's detector
        mask never count.
    relative_to_origin : bool
        Subtract the calibrated origin of each position. False gives positions on the detector.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> cube = gpu4d.DataCube(np.ones((2, 3, 4, 6), dtype="uint16"))
    >>> com = gpu4d.sweep(cube, gpu4d.CenterOfMass())
    >>> com.labels, com["com_y"][0, 0].item()
    (('com_x', 'com_y'), 2.5)
    """

    planes = 3  # Σ I, Σ qx I, Σ qy I; dividing once at the end is cheaper than in every update

    def __init__(self, detector: DetectorLike | None = None, relative_to_origin: bool = False):
        self.detector = None if detector is None else as_detector(detector)
        self.relative_to_origin = bool(relative_to_origin)

    def bytes_needed(self, scan: ScanInfo, n_frames: int) -> int:
        rx, ry, qx, qy = scan.shape
        per_frame = 24 * qx * qy if defined(first_moments, scan) else 0
        finish = (32 if scan.on_host else 112) + 96 * self.relative_to_origin
        of_events = 24 * qx * qy if scan.on_host else 0
        return self.held_bytes(scan, n_frames) + finish * rx * ry + 2 * qx * qy + of_events + per_frame * n_frames

    def start(self, scan: ScanInfo, device: str, pass_: int = 0) -> None:
        if self.relative_to_origin and scan.calibration.origin is None:
            raise InputError("relative_to_origin=True, but the origin is not known: set calibration.origin, or measure it first")
        masks = [] if scan.detector_mask is None else [scan.detector_mask]
        if self.detector is not None:
            masks.append(self.detector.mask(scan.shape[2:], scan.calibration.origin_mean, scan.calibration.ellipse) != 0)
        super().start(scan, device, pass_)
        self.mask = np.logical_and.reduce(masks) if masks else None
        self.by_pixel: np.ndarray | None = None  # weights of events, made when some come

    def in_tiles(self) -> bool:
        return False

    def update(self, frames: Array, positions: np.ndarray) -> None:
        moments = first_moments(frames, None if self.mask is None else tables.beside(self.mask, frames))
        self.put(positions, arrays.as_float64(moments))

    def takes_events(self, scan: ScanInfo) -> bool:
        """Say whether its moments are sums of whole numbers, which events give to the last bit."""
        return exact(scan)

    def update_events(self, events: Events, positions: np.ndarray) -> None:
        if self.by_pixel is None:
            inside = np.ones(self.scan.shape[2:], np.int64) if self.mask is None else self.mask.astype(np.int64)
            x, y = np.indices(self.scan.shape[2:])
            self.by_pixel = np.stack([inside, x * inside, y * inside], axis=-1).reshape(-1, 3)
        self.put(positions, event_sums(*events.arrays(), self.by_pixel).astype(np.float64))

    def joins(self) -> Join | None:
        return fused if exact(self.scan) else None

    def frame_masks(self) -> list[np.ndarray]:
        return []

    def moments_mask(self) -> tuple[np.ndarray | None]:
        return (self.mask,)

    def take(self, sums: FrameReductions, positions: np.ndarray) -> list[tuple[BlockSums, Value]]:
        self.put(positions, arrays.as_float64(sums.moments))
        return []

    def finish(self) -> RealSlice:
        """Return a stack (2, Rx, Ry) float64 with planes com_x and com_y, in pixels. NaN for positions not visited and empty patterns."""
        moments = self.values.result()
        xp = arrays.namespace(moments)
        moments = xp.permute_dims(moments, (1, 2, 0))
        if isinstance(moments, np.ndarray):  # row by row, so that copies stay small
            com = np.empty((*moments.shape[:2], 2))
            for row, out in zip(moments, com):
                out[...] = divided(row)
        else:
            com = divided(moments)
        if self.relative_to_origin:
            rx, ry = self.scan.shape[:2]
            positions = np.indices((rx, ry)).reshape(2, -1).T
            origin = self.scan.calibration.origin_at(positions)
            assert origin is not None  # `start` checked it
            com = com - arrays.from_numpy(origin.reshape(rx, ry, 2), com)
        return self._slice(xp.permute_dims(com, (2, 0, 1)), "com", "px", ("com_x", "com_y"))

    def total(self) -> RealSlice:
        """Return the counts (Rx, Ry) of the pixels that count. NaN at positions not visited."""
        return self._slice(self.values.result()[0, :, :], "sum", "counts", ())

    def _slice(self, data: Any, name: str, units: str, labels: tuple[str, ...]) -> RealSlice:
        step = self.scan.calibration.r_pixel
        return RealSlice(data, name, units, step, "Å" if step else "px", labels)
