"""Hold a scan as one image for each detector pixel, so that a virtual image is the sum of a few of them."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ReturnedArray
from gpu4d.data.datacube import DataCube, itemsize
from gpu4d.imaging.detectors import Detector
from gpu4d.imaging.pattern_sums import pattern_sums

MOST_BIN = 64  # detector pixels that are summed along an axis at most: larger ones show no detector's shape
TOGETHER = 64  # images: of 128² positions they have 2 MB, which stay in the second-level cache when they were brought together
WORKERS = min(8, os.cpu_count() or 1)  # threads that sum: memory, not arithmetic, limits more of them


@dataclass(frozen=True)
class _Sum:
    """The sum of the images of some pixels. Whole numbers, so that pixels may be added and taken away without an error."""

    inside: np.ndarray
    values: np.ndarray


class PixelImages:
    """Images (Rx, Ry) of all detector pixels, in the native dtype, and their sums under virtual detectors.

    The next sum of whole numbers starts from nothing, from all pixels or from the last sum, whichever leaves the fewest pixels to add or
    to take away. So moving a detector by a pixel costs its edge only, and no sum takes more than half of the detector.

    Parameters
    ----------
    stack : (Qx * Qy, Rx, Ry) array
        On the host or on a device.
    detector_shape : (int, int)
        Pixels of the stack, (Qx, Qy).
    bin : int
        Pixels of the detector that were summed along an axis for a pixel of the stack.
    valid : (Qx, Qy) bool, optional
        Pixels of the stack that count.

    Examples
    --------
    >>> import numpy as np
    >>> images = PixelImages(np.arange(8, dtype="uint16").reshape(4, 1, 2), (2, 2))
    >>> images.sum_inside(np.array([[True, False], [True, False]])).tolist()
    [[4.0, 6.0]]
    """

    def __init__(self, stack: ReturnedArray, detector_shape: tuple[int, int], bin: int = 1, valid: np.ndarray | None = None):
        self.stack, self.detector_shape, self.bin, self.valid = stack, detector_shape, bin, valid
        self.whole_numbers = arrays.is_integer(stack) and itemsize(stack.dtype) <= 4
        self._lock = threading.Lock()
        scan = tuple(stack.shape[1:])
        self._known: list[_Sum] = [_Sum(np.zeros(detector_shape, bool).ravel(), np.zeros(scan, np.int64))]
        if self.whole_numbers:
            everything = np.ones(detector_shape, bool).ravel() if valid is None else valid.ravel().copy()
            self._known += [_Sum(everything, self._total(np.flatnonzero(everything)))]

    @property
    def exact(self) -> bool:
        """Say whether its sums are those of `gpu4d.VirtualImage`, to the last bit."""
        return self.bin == 1 and self.whole_numbers

    def inside(self, detector: Detector, ellipse: tuple[float, float, float] | None = None) -> np.ndarray:
        """Return the pixels of the stack that a detector takes, (Qx, Qy) bool. The detector is given in pixels of the scan."""
        small = scaled(detector, self.bin)
        mask = small.mask(self.detector_shape, None, ellipse)
        if self.bin > 1 and not mask.any():  # a detector between the centres of binned pixels
            mask = Detector("point", small.center, ()).mask(self.detector_shape)
        return mask if self.valid is None else mask & self.valid

    def sum_inside(self, inside: np.ndarray) -> np.ndarray:
        """Return the counts of some pixels at every position, (Rx, Ry) float64.

        Parameters
        ----------
        inside : (Qx, Qy) bool
            Pixels of the stack.
        """
        wanted = np.asarray(inside, bool).ravel()
        if not self.whole_numbers:
            return self._total(np.flatnonzero(wanted)).astype(np.float64)
        with self._lock:
            start = min(self._known, key=lambda known: int((known.inside ^ wanted).sum()))
        values = start.values.copy()
        for rows, sign in ((wanted & ~start.inside, 1), (start.inside & ~wanted, -1)):
            if rows.any():
                values += sign * self._total(np.flatnonzero(rows))
        with self._lock:
            self._known[2:] = [_Sum(wanted, values)]
        return values.astype(np.float64)

    def _total(self, rows: np.ndarray) -> np.ndarray:
        """Sum images of the stack, several threads a part each."""
        if not rows.size:
            return np.zeros(self.stack.shape[1:], np.int64)
        parts = np.array_split(rows, max(min(WORKERS, rows.size), -(-rows.size // TOGETHER)))
        together = isinstance(self.stack, np.ndarray) and len(parts) > 1
        return np.sum(list(pool().map(self._part, parts) if together else map(self._part, parts)), axis=0)

    def _part(self, rows: np.ndarray) -> np.ndarray:
        """Sum images. Neighbours are summed where they are, others are brought together first."""
        first, last = int(rows[0]), int(rows[-1]) + 1
        if last - first == rows.size:
            images: Any = self.stack[first:last, :, :]
        else:
            images = arrays.namespace(self.stack).take(self.stack, arrays.from_numpy(rows, self.stack), axis=0)
        if self.whole_numbers:
            return arrays.to_numpy(pattern_sums(images)[0])
        return arrays.to_numpy(arrays.namespace(images).sum(arrays.as_float64(images), axis=0))


def scaled(detector: Detector, bin: int) -> Detector:
    """Return a detector in pixels that are sums of bin × bin. The centre of the first of them lies at (bin - 1) / 2."""
    if bin == 1 or detector.center is None:
        return detector
    x, y = ((c - (bin - 1) / 2) / bin for c in detector.center)
    return Detector(detector.kind, (x, y), tuple(value / bin for value in detector.parameters))


def bin_that_fits(cube: DataCube, memory: int) -> int:
    """Return the smallest power of two by which the detector must be binned for all patterns to fit into `memory` bytes."""
    most = min(MOST_BIN, *cube.detector_shape)
    bin = 1
    while bin * 2 <= most and cube.bin(detector=bin).nbytes > memory:
        bin *= 2
    return bin


_pools: list[ThreadPoolExecutor] = []


def pool() -> ThreadPoolExecutor:
    """Return the threads that sum. They are made when they are needed first."""
    if not _pools:
        _pools.append(ThreadPoolExecutor(WORKERS, thread_name_prefix="gpu4d-view"))
    return _pools[0]
