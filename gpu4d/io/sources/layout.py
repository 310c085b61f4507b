"""Code that file sources share: accepted value types, hints to the operating system, scans stored as one long row of frames."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpu4d.data.arguments import two_sizes
from gpu4d.data.source import Shape4, Source, read_run, rows_of_run, scratch_bytes, will_read
from gpu4d.errors import InputError

FRAMES = (1, -1)  # the scan shape that means one row of all frames
ACCEPTED = "real numbers: bool, (u)int8 to 64, float16, 32, 64"

HINT_BYTES = 512 << 10  # bytes: if a hint is longer, Linux loads only as much as the disk takes in one request


def is_usable(dtype: Any) -> bool:
    """Say whether a scan may have values of this type."""
    dtype = np.dtype(dtype)
    return dtype.kind in "biu" or (dtype.kind == "f" and dtype.itemsize <= 8)


def native_dtype(stored: Any) -> np.dtype:
    """Return the dtype of frames: in this machine's byte order, with bool as uint8 (True counts 1) and float16 as float32."""
    stored = np.dtype(stored)
    if stored.kind == "b":
        return np.dtype(np.uint8)
    if stored.kind == "f" and stored.itemsize == 2:
        return np.dtype(np.float32)
    return stored.newbyteorder("=")


def check_scan_shape(scan_shape: Any, frames: int, what: str) -> tuple[int, int]:
    """Return `scan_shape` as two whole numbers whose product is the number of frames, or raise an error."""
    if tuple(scan_shape) == FRAMES:
        return 1, frames
    shape = two_sizes(scan_shape, "scan_shape")
    if shape[0] * shape[1] != frames:
        rows = _divisor(frames)
        raise InputError(
            f"scan_shape {shape[0]},{shape[1]} is {shape[0] * shape[1]} positions, {what} has {frames} frames: "
            f"give a scan shape with that product (for example {rows},{frames // rows})"
        )
    return shape


MOST_LISTED = 6  # shapes that an error lists


def decide_scan_shape(given: Any, stated: tuple[int, int] | None, frames: int, what: str) -> tuple[int, int]:
    """Return the scan shape of a list of patterns: the caller's, else the one that the file states. Refuse to guess another.

    Parameters
    ----------
    given : (int, int) or None
        What the caller asks for: `OpenOptions.scan_shape`.
    stated : (int, int) or None
        What metadata or a file beside it state. It is taken if it has as many positions as there are patterns.
    frames : int
        Number of patterns.
    what : str
        Name of the file in messages.

    Raises
    ------
    InputError
        The caller's shape does not fit, or nothing is known. The error lists the shapes that are possible.

    Examples
    --------
    >>> decide_scan_shape(None, (3, 4), 12, "scan.mib"), decide_scan_shape((2, 6), (3, 4), 12, "scan.mib")
    ((3, 4), (2, 6))
    """
    if given is not None:
        return check_scan_shape(given, frames, what)
    if stated is not None and min(stated) > 0 and stated[0] * stated[1] == frames:
        return stated
    if frames == 1:
        return 1, 1
    said = "its scan shape is not stated" if stated is None else f"it states a scan of {stated[0]}×{stated[1]} positions"
    shapes = factorings(frames)
    listed = ", ".join(f"{a},{b}" for a, b in shapes[:MOST_LISTED]) + (", …" if len(shapes) > MOST_LISTED else "")
    raise InputError(
        f"{what} has {frames} patterns, and {said}: give --scan-shape Rx,Ry or scan_shape=(Rx, Ry); possible are {listed}; "
        'for another number, scan_shape="frames" and gpu4d.preprocess.reshape'
    )


def factorings(frames: int) -> list[tuple[int, int]]:
    """Return all (Rx, Ry) with this product, the squarest first.

    Examples
    --------
    >>> factorings(12)
    [(3, 4), (4, 3), (2, 6), (6, 2), (1, 12), (12, 1)]
    """
    small = [n for n in range(1, math.isqrt(frames) + 1) if frames % n == 0]
    pairs = [pair for n in reversed(small) for pair in ((n, frames // n), (frames // n, n))]
    return list(dict.fromkeys(pairs))


def without_unit_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of an array of more than four dimensions without axes of length one, the first ones first, until four are left.

    Values keep their order. The result has more than four axes if the array has.

    Examples
    --------
    >>> without_unit_axes((4, 6, 1, 12, 10)), without_unit_axes((1, 4, 6, 12)), without_unit_axes((1, 1, 4, 6, 12))
    ((4, 6, 12, 10), (1, 4, 6, 12), (1, 4, 6, 12))
    """
    kept = list(shape)
    while len(kept) > 4 and 1 in kept:
        kept.remove(1)
    return tuple(kept)


def kept_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the numbers of the axes of a dataset that are those of the scan: all, except the axes of length one that are left away.

    Examples
    --------
    >>> kept_axes((4, 6, 1, 12, 10)), kept_axes((24, 12, 10))
    ((0, 1, 3, 4), (0, 1, 2))
    """
    left = len(shape) - len(without_unit_axes(shape))
    dropped = [axis for axis, n in enumerate(shape) if n == 1][:left]
    return tuple(axis for axis in range(len(shape)) if axis not in dropped)


def _divisor(frames: int) -> int:
    """Return the divisor of `frames` next below its square root."""
    return next((n for n in range(int(frames**0.5), 0, -1) if frames % n == 0), 1)


def hints(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Split a range of bytes into pieces (first byte, length) that the operating system will load completely when hinted."""
    for first in range(start, stop, HINT_BYTES):
        yield first, min(HINT_BYTES, stop - first)


class ReshapedScan:
    """A source whose scan positions, in row-major order, have another shape. Its usual use is frames stored in one long row.

    Parameters
    ----------
    source : Source
    scan_shape : (int, int)
        Its product is the number of positions of the source.
    """

    resident = False

    def __init__(self, source: Source, scan_shape: tuple[int, int]):
        self.source = source
        self.shape: Shape4 = (*scan_shape, *source.shape[2:])
        self.dtype = source.dtype
        self.description = source.description
        self.scratch_bytes = scratch_bytes(source)
        self.path, self.dataset = getattr(source, "path", None), getattr(source, "dataset", None)
        # frames that are stored together: a block of columns, if a row of the file holds more than one block
        together = source.blocks[1] if source.blocks[0] == 1 else source.blocks[0] * source.shape[1]
        columns = scan_shape[1]
        if columns % together == 0:
            self.blocks = (1, together)
        else:
            self.blocks = (min(-(-together // columns), scan_shape[0]), columns)

    def read(self, rows: slice, columns: slice, out: Any = None) -> Any:
        n_columns = self.shape[1]
        if out is None:
            out = np.empty((rows.stop - rows.start, columns.stop - columns.start, *self.shape[2:]), self.dtype)
        if columns.stop - columns.start == n_columns:
            read_run(self.source, rows.start * n_columns, rows.stop * n_columns, out.reshape(-1, *self.shape[2:]))
        else:
            for i, row in enumerate(range(rows.start, rows.stop)):
                read_run(self.source, row * n_columns + columns.start, row * n_columns + columns.stop, out[i])
        return out

    def will_read(self, rows: slice, columns: slice) -> None:
        n_columns = self.shape[1]
        if columns.stop - columns.start == n_columns:
            frames = [(rows.start * n_columns, rows.stop * n_columns)]
        else:
            frames = [(row * n_columns + columns.start, row * n_columns + columns.stop) for row in range(rows.start, rows.stop)]
        for start, stop in frames:
            for stored_rows, stored_columns in rows_of_run(start, stop, self.source.shape[1]):
                will_read(self.source, stored_rows, stored_columns)
