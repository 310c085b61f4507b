"""Make views of a source: cropped, binned, with exchanged axes, or corrected. Nothing is read or copied until a view is read."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array
from gpu4d.data.corrections import Corrections
from gpu4d.data.source import Shape4, Source, View, itemsize, sample_of, scratch_bytes, will_read
from gpu4d.errors import InputError

PIECE_BYTES = 8 << 20  # most bytes that a view reads at once from the source below; the memory plan of a sweep counts them


class CroppedSource:
    """Ranges of scan rows, scan columns and detector pixels of another source."""

    def __init__(self, source: Source, ranges: tuple[slice, slice, slice, slice]):
        self.source, self.ranges = source, ranges
        self.shape: Shape4 = tuple(r.stop - r.start for r in ranges)  # type: ignore[assignment]
        self.dtype, self.blocks, self.resident = source.dtype, source.blocks, source.resident
        if ranges[0].start % source.blocks[0] or ranges[1].start % source.blocks[1]:
            self.blocks = (1, 1)  # the range begins inside a block of the file, so no cut is better than another
        self.description = f"{source.description}, cropped"
        self.scratch_bytes = scratch_bytes(source) + _piece_bytes(source, source.blocks)

    def _below(self, rows: slice, columns: slice) -> tuple[slice, slice]:
        rx, ry = self.ranges[:2]
        return slice(rows.start + rx.start, rows.stop + rx.start), slice(columns.start + ry.start, columns.stop + ry.start)

    def will_read(self, rows: slice, columns: slice) -> None:
        will_read(self.source, *self._below(rows, columns))

    def read(self, rows: slice, columns: slice, out: np.ndarray | None = None) -> Array:
        _, _, qx, qy = self.ranges
        rows, columns = self._below(rows, columns)
        if self.resident or not _on_host(self.source):
            return self.source.read(rows, columns)[:, :, qx, qy]
        out = _buffer(self, rows, columns) if out is None else out
        for r, c in pieces(self.source.blocks, _frame_bytes(self.source), rows, columns):
            out[_inside(r, rows), _inside(c, columns)] = self.source.read(r, c)[:, :, qx, qy]
        return out


class BinnedSource:
    """Sums of neighbouring detector pixels and scan positions. A remainder at the end of an axis is left out."""

    resident = False

    def __init__(self, source: Source, scan: int, detector: int, valid: np.ndarray | None = None):
        self.source, self.scan, self.detector = source, scan, detector
        self.valid = valid  # binned pixels that count; None for all
        rx, ry, qx, qy = source.shape
        self.shape: Shape4 = (rx // scan, ry // scan, qx // detector, qy // detector)
        self.dtype = binned_dtype(source.dtype, (scan * detector) ** 2)
        bx, by = (max(1, b // scan) if b % scan == 0 else b for b in source.blocks)
        self.blocks = (bx, by)
        self.description = f"{source.description}, binned (scan {scan}, detector {detector})"
        self.scratch_bytes = scratch_bytes(source) + self._bytes_to_sum()

    def read(self, rows: slice, columns: slice, out: np.ndarray | None = None) -> Array:
        if not _on_host(self.source):
            return self._summed(rows, columns)
        out = _buffer(self, rows, columns) if out is None else out
        for r, c in pieces(self.blocks, self.scan**2 * _frame_bytes(self.source), rows, columns):
            out[_inside(r, rows), _inside(c, columns)] = self._summed(r, c)
        return out

    def _below(self, rows: slice, columns: slice) -> tuple[slice, slice]:
        return slice(rows.start * self.scan, rows.stop * self.scan), slice(columns.start * self.scan, columns.stop * self.scan)

    def will_read(self, rows: slice, columns: slice) -> None:
        will_read(self.source, *self._below(rows, columns))

    def _bytes_to_sum(self) -> int:
        """Return the bytes of a piece while it is summed: frames of the source below, their copy if a remainder is left out, and sums."""
        if not _on_host(self.source):
            return 0
        below = _read_bytes(self.source, (self.blocks[0] * self.scan, self.blocks[1] * self.scan))
        copies = int(not self.source.resident) + int(any(n % self.detector for n in self.source.shape[2:]))
        return copies * below + below * _frame_bytes(self) // (self.scan**2 * _frame_bytes(self.source))

    def _summed(self, rows: slice, columns: slice) -> Any:
        s, d = self.scan, self.detector
        frames = self.source.read(*self._below(rows, columns))
        xp = arrays.namespace(frames)
        _, _, qx, qy = self.shape
        nx, ny = rows.stop - rows.start, columns.stop - columns.start
        parts = xp.reshape(frames[:, :, : qx * d, : qy * d], (nx, s, ny, s, qx, d, qy, d))
        total = xp.sum(parts, axis=(1, 3, 5, 7), dtype=self.dtype)
        if arrays.is_integer(frames) and not arrays.sums_are_exact(frames.dtype):
            self._check_size(xp.sum(arrays.as_float64(parts), axis=(1, 3, 5, 7)))
        return total

    def _check_size(self, sums: Any) -> None:
        """Raise InputError if sums of 64-bit numbers (…, Qx, Qy), given as floats, do not fit into their dtype."""
        xp = arrays.namespace(sums)
        least, most = (0.0, 2.0**64) if "uint" in str(self.dtype) else (-(2.0**63), 2.0**63)
        wrong = (sums < least) | (sums >= most)
        wrong = wrong if self.valid is None else wrong & arrays.from_numpy(self.valid, sums)
        if bool(xp.any(wrong)):
            raise InputError(
                f"sums of binned pixels do not fit into {self.dtype}: mask pixels of very large values with detector_mask=, or convert "
                "the patterns to float64"
            )


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
        self.scratch_bytes = scratch_bytes(source) + _piece_bytes(source, source.blocks)

    def will_read(self, rows: slice, columns: slice) -> None:
        will_read(self.source, *((columns, rows) if self.scan else (rows, columns)))

    def read(self, rows: slice, columns: slice, out: np.ndarray | None = None) -> Array:
        if self.resident or not _on_host(self.source):
            return self._exchanged(rows, columns)
        out = _buffer(self, rows, columns) if out is None else out
        for r, c in pieces(self.blocks, _frame_bytes(self.source), rows, columns):
            out[_inside(r, rows), _inside(c, columns)] = self._exchanged(r, c)
        return out

    def _exchanged(self, rows: slice, columns: slice) -> Any:
        frames = self.source.read(columns, rows) if self.scan else self.source.read(rows, columns)
        xp = arrays.namespace(frames)
        order = (1, 0) if self.scan else (0, 1)
        return xp.permute_dims(frames, (*order, *((3, 2) if self.detector else (2, 3))))


class CorrectedSource:
    """Another source whose patterns are corrected after they are read. A sweep reads the one below, and corrects on the device.

    Corrections of a corrected source are joined to one list, in the order in which they are applied.
    """

    resident = False

    def __init__(self, source: Source, corrections: Corrections):
        for step in corrections.steps:
            if step.detector_shape not in (None, tuple(source.shape[2:])):
                raise InputError(
                    f"the correction ({step.description}) is for a detector of {step.detector_shape}, the patterns are "
                    f"{tuple(source.shape[2:])}: correct first, then crop, bin or swap axes"
                )
        below, earlier = uncorrected(source)
        self.source: Source = below
        self.corrections: Corrections = earlier.then(corrections)
        self.shape: Shape4 = below.shape
        self.dtype, self.blocks = self.corrections.dtype(below.dtype), below.blocks
        self.description = f"{below.description}, corrected ({self.corrections.description})"
        self.scratch_bytes = scratch_bytes(below) + self._bytes_to_correct()

    def will_read(self, rows: slice, columns: slice) -> None:
        will_read(self.source, rows, columns)

    def read(self, rows: slice, columns: slice, out: np.ndarray | None = None) -> Array:
        if not _on_host(self.source):
            return self.corrections.apply(self.source.read(rows, columns))
        out = _buffer(self, rows, columns) if out is None else out
        for r, c in pieces(self.blocks, _frame_bytes(self.source), rows, columns):
            out[_inside(r, rows), _inside(c, columns)] = self.corrections.apply(self.source.read(r, c))
        return out

    def _bytes_to_correct(self) -> int:
        """Count what a piece takes while it is corrected: the frames below, and the work on them."""
        if not _on_host(self.source):
            return 0
        below = _read_bytes(self.source, self.blocks)
        work = self.corrections.bytes_needed(below // _frame_bytes(self.source), self.shape[2:], self.source.dtype)
        return _piece_bytes(self.source, self.blocks) + work


def uncorrected(source: Source) -> tuple[Source, Corrections]:
    """Take a source apart: what is read, and the corrections to be made to it. A source without corrections is read itself."""
    return (source.source, source.corrections) if isinstance(source, CorrectedSource) else (source, Corrections())


def corrections_of(source: Source) -> Corrections:
    """Return all corrections of a source, also those below its views, in the order in which they are made."""
    found, below = Corrections(), source
    while isinstance(below, View):
        if isinstance(below, CorrectedSource):
            found = below.corrections.then(found)
        below = below.source
    return found


def cropped(source: Source, ranges: tuple[slice, slice, slice, slice]) -> Source:
    """Return a cropped view. Corrections stay on top of it where cropped patterns can be corrected to the same values."""
    if isinstance(source, CorrectedSource):
        whole = all(r.start == 0 and r.stop == n for r, n in zip(ranges[2:], source.shape[2:]))
        kept = source.corrections if whole else source.corrections.cropped(*ranges[2:])
        if kept is not None:
            return CorrectedSource(CroppedSource(source.source, ranges), kept)
    return CroppedSource(source, ranges)


def swapped(source: Source, scan: bool, detector: bool) -> Source:
    """Return a view with exchanged axes. Corrections stay on top of it where they have a form for exchanged axes."""
    if isinstance(source, CorrectedSource):
        kept = source.corrections.swapped() if detector else source.corrections
        if kept is not None:
            return CorrectedSource(SwappedSource(source.source, scan, detector), kept)
    return SwappedSource(source, scan, detector)


def pieces(blocks: tuple[int, int], position_bytes: int, rows: slice, columns: slice) -> Iterator[tuple[slice, slice]]:
    """Split rows and columns into pieces of at most `PIECE_BYTES`, or of one block of the source if that is larger.

    Parameters
    ----------
    blocks : (int, int)
        Blocks of positions that the pieces are aligned to, so that no block is read twice.
    position_bytes : int
        Bytes to read for one position.
    """
    bx, by = blocks
    across = by * max(1, PIECE_BYTES // (position_bytes * bx * by))
    down = bx * max(1, PIECE_BYTES // (position_bytes * bx * min(across, columns.stop - columns.start)))
    for r in _cut(rows, down):
        for c in _cut(columns, across):
            yield r, c


def _read_bytes(source: Source, blocks: tuple[int, int]) -> int:
    """Return the bytes of the largest of the `pieces` of a source, read in multiples of these blocks."""
    frame, positions = _frame_bytes(source), source.shape[0] * source.shape[1]
    block = min(blocks[0], source.shape[0]) * min(blocks[1], source.shape[1]) * frame
    return min(max(PIECE_BYTES, block), positions * frame)


def _piece_bytes(source: Source, blocks: tuple[int, int]) -> int:
    """Return the bytes that a view holds of the source below while it reads a piece. 0 if that source gives views of memory."""
    return 0 if source.resident or not _on_host(source) else _read_bytes(source, blocks)


def _cut(whole: slice, step: int) -> Iterator[slice]:
    start = whole.start
    while start < whole.stop:
        stop = min((start // step + 1) * step, whole.stop)
        yield slice(start, stop)
        start = stop


def _inside(part: slice, whole: slice) -> slice:
    return slice(part.start - whole.start, part.stop - whole.start)


def _on_host(source: Source) -> bool:
    """Return True if frames are NumPy arrays. These are read in pieces into one buffer."""
    sample = sample_of(source)
    return sample is None or isinstance(sample, np.ndarray)


def _buffer(view: Source, rows: slice, columns: slice) -> np.ndarray:
    return np.empty((rows.stop - rows.start, columns.stop - columns.start, *view.shape[2:]), dtype=view.dtype)


def _frame_bytes(source: Source) -> int:
    return max(1, source.shape[2] * source.shape[3] * itemsize(source.dtype))


def binned_dtype(dtype: Any, count: int) -> Any:
    """Return the smallest integer type that holds a sum of `count` values of an integer type. Floats keep their type.

    Libraries with their own dtypes have too few unsigned types. Their sums of integers are int64.
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
    return np.dtype(np.uint64 if native.kind == "u" else np.int64)  # `BinnedSource` refuses sums that do not fit
