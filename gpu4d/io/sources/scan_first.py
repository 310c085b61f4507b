"""Read scans that are stored detector pixel by detector pixel: all positions of the first pixel, then all of the second.

DigitalMicrograph stores spectrum images so, and 4D-STEM scans of its older versions. A pattern is then scattered over the whole file.
Such a scan is read in strips of scan rows, and exchanged in pieces that stay in the processor's cache.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpu4d.data.source import Shape4
from gpu4d.errors import InputError
from gpu4d.io.foreign import shown
from gpu4d.io.sources.layout import native_dtype
from gpu4d.io.sources.mapped import MappedSource

STRIP_BYTES = 4096  # of one detector pixel that are read together: a page, which is the least that comes from a file
PIXELS, POSITIONS = 64, 256  # of a piece that is exchanged at a time: half a cache of the first level each; other sizes are not faster


class ScanFirst:
    """A scan whose file has the scan axes as its fastest: (Qx, Qy, Rx, Ry), mapped, and exchanged while it is read.

    Parameters
    ----------
    path : str
    offset : int
        First byte of the values.
    shape : (Rx, Ry, Qx, Qy)
    stored : str
        Type and byte order of the values, such as "<u2".
    description : str
    """

    resident = False
    dataset = None

    def __init__(self, path: str, offset: int, shape: Shape4, stored: str, description: str):
        rx, ry, qx, qy = shape
        self.stored = np.dtype(stored)
        self.dtype = native_dtype(self.stored)
        if self.stored.kind not in "biuf" or self.dtype.itemsize != self.stored.itemsize:
            raise InputError(f"{shown(path)}: values of type {self.stored}: need bool, integers, or floats of 32 or 64 bits")
        # as bytes, because values may lie at any byte of such a file
        self._file = MappedSource(path, offset, (qx, qy, rx, ry * self.stored.itemsize), np.uint8, description)
        self.path, self.shape, self.offset, self.said = self._file.path, shape, offset, description
        rows = math.ceil(STRIP_BYTES / max(1, ry * self.stored.itemsize))
        self.blocks = (max(1, min(rows, rx)), max(1, ry))
        self.description = f"{description}, scan axes first: patterns are scattered over the file, so gpu4d convert once pays"

    def read(self, rows: slice, columns: slice, out: Any = None) -> Any:
        _, ry, qx, qy = self.shape
        if out is None:
            out = np.empty((rows.stop - rows.start, columns.stop - columns.start, qx, qy), self.dtype)
        whole = self._file.read(slice(0, qx), slice(0, qy)).reshape(qx * qy, -1).view(self.stored)
        runs = [(slice(None), rows.start * ry, rows.stop * ry)]
        if columns.stop - columns.start < ry:
            runs = [
                (slice(i, i + 1), row * ry + columns.start, row * ry + columns.stop) for i, row in enumerate(range(rows.start, rows.stop))
            ]
        for part, first, last in runs:
            if out[part].flags.c_contiguous:
                _exchange(whole[:, first:last], out[part].reshape(last - first, qx * qy))
                continue
            for n, (i, j) in enumerate(np.ndindex(out[part].shape[:2])):  # slow, but without memory of its own
                out[part][i, j] = whole[:, first + n].reshape(qx, qy)
        self._file.check_whole()
        return out

    def check_whole(self) -> None:
        """Raise an error if the file was cut short since it was mapped."""
        self._file.check_whole()

    def reshaped(self, scan_shape: tuple[int, int]) -> ScanFirst:
        """Return a source of the same bytes with another scan shape."""
        return ScanFirst(self.path, self.offset, (*scan_shape, *self.shape[2:]), self.stored.str, self.said)

    def __reduce__(self) -> Any:
        return ScanFirst, (self.path, self.offset, self.shape, self.stored.str, self.said)


def _exchange(stored: np.ndarray, out: np.ndarray) -> None:
    """Write stored values (pixels, positions) into out (positions, pixels), in pieces whose lines stay in cache meanwhile."""
    for pixel in range(0, stored.shape[0], PIXELS):
        for position in range(0, stored.shape[1], POSITIONS):
            piece = slice(position, position + POSITIONS), slice(pixel, pixel + PIXELS)
            np.copyto(out[piece], stored[piece[::-1]].T)
