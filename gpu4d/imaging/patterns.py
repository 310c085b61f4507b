"""Compute mean and maximum pattern of a scan."""

from __future__ import annotations

import operator
from typing import Any, ClassVar

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array, ArrayLike
from gpu4d.data import DiffractionSlice
from gpu4d.data.arguments import OriginLike, mean_place, origins, real_values
from gpu4d.data.datacube import itemsize
from gpu4d.data.events import Events, check_counts
from gpu4d.device import tables
from gpu4d.errors import InputError
from gpu4d.imaging.event_sums import event_patterns
from gpu4d.imaging.frame_reductions import FrameReductions
from gpu4d.imaging.fused import exact, fused
from gpu4d.imaging.pattern_sums import pattern_maximum, pattern_sums
from gpu4d.imaging.shifted_patterns import shifted_patterns
from gpu4d.streaming import BlockSums, ScanInfo, SumReduction
from gpu4d.streaming.reduction import Join, defined
from gpu4d.streaming.sums import Value


def without_masked(frames: Any, valid: np.ndarray | None) -> Any:
    """Return frames (n, Qx, Qy) in which a masked pixel that is NaN or infinite is 0, so that it does not spoil its pattern.

    Frames of whole numbers are returned as they are, and so are NumPy arrays whose masked pixels are all finite.
    """
    if valid is None or arrays.is_integer(frames):
        return frames
    if isinstance(frames, np.ndarray) and np.isfinite(frames[:, ~valid]).all():
        return frames
    return arrays.zeroed(frames, tables.beside(valid, frames))


def _maximum(a: Any, b: Any) -> Any:
    return arrays.namespace(a, b).maximum(a, b)


class MeanPattern(SumReduction):
    """Reduction: weighted mean of all patterns.

    Parameters
    ----------
    weights : (Rx, Ry) array, optional
        Weight of each position: a bool region, a map of classes, a dose correction. Patterns of weight zero do not count.
    origin : pair, (Rx, Ry, 2) array or Origin, optional
        Detector pixels. Patterns are moved, with bilinear interpolation, so that all origins lie at their mean. This gives an
        aligned average. By default patterns are not moved.

    Notes
    -----
    The result is a `DiffractionSlice` (Qx, Qy) float64 in counts. Patterns with a NaN or infinity are left out, and `left_out`
    counts them. The mean of no pattern is NaN. Pixels outside the detector mask are NaN, and their values are never looked at.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> cube = gpu4d.DataCube(np.arange(4, dtype="uint8").reshape(2, 2, 1, 1))
    >>> out = gpu4d.sweep(cube, {"all": gpu4d.MeanPattern(), "row": gpu4d.MeanPattern(weights=[[1, 1], [0, 0]])})
    >>> out["all"][0, 0].item(), out["row"][0, 0].item()
    (1.5, 0.5)
    """

    # covered: sum of weights of each pixel, needed only if masked pixels move with their patterns
    sums: ClassVar = dict.fromkeys(("totals", "counts", "seen", "covered"), operator.add)

    def __init__(self, weights: ArrayLike | None = None, origin: OriginLike | None = None):
        self.weights = None if weights is None else real_values(weights, "weights", "one weight per position").astype(np.float64)
        self.origin = None if origin is None else origins(origin)

    def bytes_needed(self, scan: ScanInfo, n_frames: int) -> int:
        frame = scan.shape[2] * scan.shape[3]
        per_pixel = 32 if defined(pattern_sums, scan) else 1  # where frames are finite
        if self.origin is not None:
            per_pixel += 56 if defined(shifted_patterns, scan) else 8 if scan.on_host else 16
            if scan.detector_mask is not None:  # a mask for each frame is moved first, and given back before the frames are moved
                per_pixel += 8
        per_pixel += _masked_bytes(scan, self.origin is not None)
        exactly = self.weights is None and self.origin is None and exact(scan)
        waiting = scan.open_blocks + (0 if exactly else scan.open_rows)
        images = 2 if self.origin is not None and scan.detector_mask is not None else 1  # the other sums are numbers
        return 8 * frame * (5 + images * (4 + waiting)) + per_pixel * n_frames * frame + (8 * frame if n_frames else 0)

    def start(self, scan: ScanInfo, device: str, pass_: int = 0) -> None:
        if self.weights is not None and self.weights.shape != tuple(scan.shape[:2]):
            raise InputError(f"weights is {self.weights.shape}, the scan is {tuple(scan.shape[:2])}: need one weight per position")
        if self.origin is not None:
            origins(self.origin, scan.shape[:2])
        super().start(scan, device, pass_)
        self.valid = None if scan.detector_mask is None else scan.detector_mask.copy()  # a copy, because the caller may change the array

    @property
    def _moves_mask(self) -> bool:
        return self.origin is not None and self.scan.detector_mask is not None

    def in_tiles(self) -> bool:
        return self.weights is not None or self.origin is not None or not exact(self.scan)

    def update(self, frames: Array, positions: np.ndarray) -> None:
        seen, weights = float(len(positions)), None
        if self.weights is not None:
            own = self.weights[positions[:, 0], positions[:, 1]]
            seen, weights = float(own.sum()), arrays.from_numpy(own, frames)
        covered = {}
        if not self._moves_mask:
            frames = without_masked(frames, self.valid)
        if self.origin is not None:
            shifts = arrays.from_numpy(self._shifts(positions), frames)
            if self._moves_mask:
                assert self.valid is not None
                # 0 at masked pixels, because interpolation must not spread their values to neighbours
                frames = arrays.zeroed(frames, tables.beside(self.valid, frames))
                covered["covered"] = self._coverage(frames, shifts, weights)
            frames = shifted_patterns(frames, shifts)
        total, count = pattern_sums(frames, weights=weights)
        self.add(positions, seen=seen, totals=total, counts=count, **covered)

    def takes_events(self, scan: ScanInfo) -> bool:
        """Say whether its sums are sums of whole numbers, which events give to the last bit."""
        return self.weights is None and self.origin is None and exact(scan)

    def update_events(self, events: Events, positions: np.ndarray) -> None:
        seen = float(len(positions))
        total, _ = event_patterns(*events.arrays(), self.scan.shape[2] * self.scan.shape[3])
        self.add(positions, seen=seen, totals=total.reshape(self.scan.shape[2:]), counts=np.float64(seen))

    def joins(self) -> Join | None:
        return fused if self.weights is None and self.origin is None and exact(self.scan) else None

    def frame_masks(self) -> list[np.ndarray]:
        return []

    def moments_mask(self) -> None:
        return None

    def take(self, sums: FrameReductions, positions: np.ndarray) -> list[tuple[BlockSums, Value]]:
        return [(self.kept["seen"], float(len(positions))), (self.kept["totals"], sums.total), (self.kept["counts"], sums.count)]

    def _shifts(self, positions: np.ndarray) -> np.ndarray:
        """Return the shifts that move the origin of each position to the mean of all, (n, 2)."""
        assert self.origin is not None
        if self.origin.ndim == 1:
            return np.zeros((len(positions), 2))
        return mean_place(self.origin) - self.origin[positions[:, 0], positions[:, 1]]

    def _coverage(self, frames: Any, shifts: Any, weights: Any) -> Any:
        """Return the weights of valid pixels, moved like their patterns. Patterns with a NaN have weight 0."""
        xp = arrays.namespace(frames)
        assert self.valid is not None
        mask = tables.beside(self.valid, frames)
        good = xp.all(xp.isfinite(arrays.as_float(frames)), axis=(-2, -1))
        one = arrays.as_float64(good) if weights is None else xp.where(good, weights, xp.zeros_like(weights))
        return pattern_sums(shifted_patterns(xp.broadcast_to(arrays.as_float64(mask), frames.shape), shifts), weights=one)[0]

    @property
    def left_out(self) -> float:
        """Number (or weight) of patterns that were left out because of a NaN or an infinity."""
        counts = self.result("counts")
        return float((self.result("seen") or 0.0) - (0.0 if counts is None else float(counts)))

    def finish(self) -> DiffractionSlice:
        total, count = self.result("totals"), self.result("counts")
        if total is None:
            mean: Any = np.full(self.scan.shape[2:], np.nan)
        else:
            xp = arrays.namespace(total)
            nan = xp.asarray(float("nan"), dtype=xp.float64, device=arrays.device(total))
            if self._moves_mask:
                count = self.result("covered")
            mean = arrays.as_float64(total) / xp.where(count != 0, count, nan)
        if not self._moves_mask:
            mean = _masked(mean, self.scan)
        return DiffractionSlice.calibrated(mean, "mean pattern", "counts", self.scan.calibration.q_pixel)


class MaxPattern(SumReduction):
    """Reduction: largest value of every pixel over the scan.

    Notes
    -----
    The result is a `DiffractionSlice` (Qx, Qy) float64 in counts. Patterns with a NaN or infinity are left out. The result is NaN
    if there was no pattern, and at pixels outside the detector mask.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> cube = gpu4d.DataCube(np.arange(8, dtype="uint8").reshape(2, 2, 1, 2))
    >>> np.asarray(gpu4d.sweep(cube, gpu4d.MaxPattern())).tolist()
    [[6.0, 7.0]]
    """

    sums: ClassVar = {"largest": _maximum}

    def bytes_needed(self, scan: ScanInfo, n_frames: int) -> int:
        frame = scan.shape[2] * scan.shape[3]
        per_pixel = 32 if defined(pattern_maximum, scan) else 1  # where frames are finite
        per_pixel += _masked_bytes(scan)
        return self.held_bytes(scan, 8 * frame, row_by_row=False) + per_pixel * n_frames * frame + (8 * frame if n_frames else 0)

    def in_tiles(self) -> bool:
        return False  # a maximum does not depend on the grouping of frames

    def update(self, frames: Array, positions: np.ndarray) -> None:
        self.add(positions, largest=pattern_maximum(without_masked(frames, self.scan.detector_mask)))

    def takes_events(self, scan: ScanInfo) -> bool:
        """Say whether patterns have integers, whose maximum events give to the last bit."""
        return exact(scan)

    def update_events(self, events: Events, positions: np.ndarray) -> None:
        _, top = event_patterns(*events.arrays(), self.scan.shape[2] * self.scan.shape[3])
        check_counts(top, self.scan.dtype)
        self.add(positions, largest=top.reshape(self.scan.shape[2:]))

    def joins(self) -> Join | None:
        return fused if exact(self.scan) else None

    def frame_masks(self) -> list[np.ndarray]:
        return []

    def moments_mask(self) -> None:
        return None

    def take(self, sums: FrameReductions, positions: np.ndarray) -> list[tuple[BlockSums, Value]]:
        return [(self.kept["largest"], sums.maximum)]

    def finish(self) -> DiffractionSlice:
        top = self.result("largest")
        if top is None:
            values: Any = np.full(self.scan.shape[2:], np.nan)
        else:
            xp = arrays.namespace(top)
            floor = xp.iinfo(top.dtype).min if arrays.is_integer(top) else -float("inf")
            values = xp.where(top == floor, xp.asarray(float("nan"), dtype=xp.float64, device=arrays.device(top)), arrays.as_float64(top))
        return DiffractionSlice.calibrated(_masked(values, self.scan), "maximum pattern", "counts", self.scan.calibration.q_pixel)


def _masked_bytes(scan: ScanInfo, always: bool = False) -> int:
    """Return the bytes a pixel of a copy of the frames without masked values; 0 where no copy is made."""
    copied = scan.detector_mask is not None and (always or not arrays.is_integer_dtype(scan.dtype))
    return (itemsize(scan.dtype) + 1) * copied


def _masked(image: Any, scan: ScanInfo) -> Any:
    if scan.detector_mask is None:
        return image
    xp = arrays.namespace(image)
    return xp.where(arrays.from_numpy(scan.detector_mask, image), image, xp.full_like(image, float("nan")))
