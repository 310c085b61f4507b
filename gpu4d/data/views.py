"""Views of a source: cropped, binned, with swapped axes. Nothing is read or copied until the view itself is read."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.data.source import Shape4, Source


class CroppedSource:
    """A range of scan rows, scan columns and detector pixels of another source."""

    def __init__(self, source: Source, ranges: tuple[slice, slice, slice, slice]):
        self.source, self.ranges = source, ranges
        self.shape: Shape4 = tuple(r.stop - r.start for r in ranges)  # type: ignore[assignment]
        self.dtype, self.blocks, self.resident = source.dtype, source.blocks, source.resident
        if ranges[0].start % source.blocks[0] or ranges[1].start % source.blocks[1]:
            self.blocks = (1, 1)  # the cut goes through the file's own blocks: no alignment is left to keep
        self.description = f"{source.description}, cropped"

    def read(self, rows: slice, columns: slice, out: Any = None) -> Any:
        rx, ry, qx, qy = self.ranges
        frames = self.source.read(
            slice(rows.start + rx.start, rows.stop + rx.start), slice(columns.start + ry.start, columns.stop + ry.start)
        )
        return frames[:, :, qx, qy]


class BinnedSource:
    """Sums of neighbouring detector pixels and scan positions; what does not fill a bin at the end is left out."""

    resident = False

    def __init__(self, source: Source, scan: int, detector: int):
        self.source, self.scan, self.detector = source, scan, detector
        rx, ry, qx, qy = source.shape
        self.shape: Shape4 = (rx // scan, ry // scan, qx // detector, qy // detector)
        self.dtype = binned_dtype(source.dtype, (scan * detector) ** 2)
        self.blocks = tuple(max(1, b // scan) if b % scan == 0 else b for b in source.blocks)  # type: ignore[assignment]
        self.description = f"{source.description}, binned (scan {scan}, detector {detector})"

    def read(self, rows: slice, columns: slice, out: Any = None) -> Any:
        s, d = self.scan, self.detector
        frames = self.source.read(slice(rows.start * s, rows.stop * s), slice(columns.start * s, columns.stop * s))
        xp = arrays.namespace(frames)
        _, _, qx, qy = self.shape
        nx, ny = rows.stop - rows.start, columns.stop - columns.start
        parts = xp.reshape(frames[:, :, : qx * d, : qy * d], (nx, s, ny, s, qx, d, qy, d))
        return xp.sum(parts, axis=(1, 3, 5, 7), dtype=self.dtype)


class SwappedSource:
    """Another source with its two detector axes, its two scan axes, or both pairs exchanged."""

    def __init__(self, source: Source, scan: bool, detector: bool):
        self.source, self.scan, self.detector = source, scan, detector
        a, b, c, d = source.shape
        self.shape: Shape4 = (*((b, a) if scan else (a, b)), *((d, c) if detector else (c, d)))
        self.dtype, self.resident = source.dtype, source.resident
        self.blocks = source.blocks[::-1] if scan else source.blocks
        self.description = (
            f"{source.description}, transposed ({' and '.join(n for n, on in (('scan', scan), ('detector', detector)) if on)})"
        )

    def read(self, rows: slice, columns: slice, out: Any = None) -> Any:
        frames = self.source.read(columns, rows) if self.scan else self.source.read(rows, columns)
        xp = arrays.namespace(frames)
        order = (1, 0) if self.scan else (0, 1)
        return xp.permute_dims(frames, (*order, *((3, 2) if self.detector else (2, 3))))


def binned_dtype(dtype: Any, count: int) -> Any:
    """The smallest integer type that holds a sum of `count` values of an integer type; floats keep theirs.

    Libraries with dtypes of their own have too few unsigned ones: there a sum of integers is int64.
    """
    try:
        native = np.dtype(dtype)
    except TypeError:
        integers = np.dtype(str(dtype).rpartition(".")[2]).kind in "iu" and count > 1
        return importlib.import_module(type(dtype).__module__.partition(".")[0]).int64 if integers else dtype
    if native.kind not in "iu" or count == 1:
        return native
    top = int(np.iinfo(native).max) * count
    for candidate in (np.uint8, np.uint16, np.uint32, np.uint64) if native.kind == "u" else (np.int16, np.int32, np.int64):
        if np.iinfo(candidate).max >= top:
            return np.dtype(candidate)
    return np.dtype(np.int64)
