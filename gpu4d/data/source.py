"""Define where patterns come from: the protocol of files, arrays, and views of them."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array, DType
from gpu4d.errors import InputError
from gpu4d.real_arrays import real_array

Shape4 = tuple[int, int, int, int]


@runtime_checkable
class Source(Protocol):
    """Reads the patterns of a scan.

    Attributes
    ----------
    shape : (Rx, Ry, Qx, Qy)
    dtype : numpy.dtype or the dtype of the array's own namespace
        Native dtype, as the detector wrote it.
    blocks : (int, int)
        Natural block of scan positions. If a read is aligned to such blocks and covers whole ones, every byte is read once.
        (1, 1) if any cut is equally good.
    resident : bool
        True if `read` returns a view of memory or of mapped pages, and needs no buffer.
    description : str
        Layout in a few words, for readers.

    Notes
    -----
    A source may have a method ``will_read(rows, columns) -> None``. It is a hint that these patterns will be read soon: the source
    asks the operating system to load their bytes into its cache. The method returns at once, raises nothing, and takes no memory
    of the process. `will_read` of this module calls it if it exists.

    A source may have an int ``scratch_bytes``: the most bytes that one thread holds beside the caller's buffer while it reads, such
    as chunks before and after they are decoded. A sweep counts it for each of its readers. Without it, the source is assumed to
    need none.

    A source with a method ``check_whole() -> None`` (`Checked`) is asked after its patterns were used or copied.

    A source that keeps events has the methods of `gpu4d.data.events.ReadsEvents` too. A source that reads a file or an array has no
    corrections. `CorrectedSource` of `gpu4d.data.views` is a view that has them.
    """

    shape: Shape4
    dtype: DType
    blocks: tuple[int, int]
    resident: bool
    description: str

    def read(self, rows: slice, columns: slice, out: np.ndarray | None = None) -> Array:
        """Return patterns of scan rows × columns, (n_rows, n_columns, Qx, Qy), in the native dtype.

        Both slices have a start and a stop inside the scan. `out` is a buffer of that shape to fill. A resident source may
        return a view instead and leave `out` unchanged. Several threads may call this at the same time.
        """
        ...


@runtime_checkable
class View(Protocol):
    """A source that is made of another one: cropped, binned, swapped, corrected."""

    source: Source


@runtime_checkable
class Checked(Protocol):
    """A source whose bytes can go away after they were given, as those of a mapped file that is cut short."""

    def check_whole(self) -> None:
        """Raise an InputError if something that was read may not have been what the file held."""
        ...


def below_views(source: Source) -> Source:
    """Return the source below all views: the one that reads."""
    while isinstance(source, View):
        source = source.source
    return source


def will_read(source: Source, rows: slice, columns: slice) -> None:
    """Tell a source which patterns will be read soon. Sources without this hint are left alone."""
    hint = getattr(source, "will_read", None)
    if hint is not None:
        hint(rows, columns)


def check_whole(source: Source) -> None:
    """Raise an InputError if patterns that a source gave may be wrong, because its file was cut short meanwhile.

    Ask after the last use of patterns that were not copied, and after every copy.
    """
    below = below_views(source)
    if isinstance(below, Checked):
        below.check_whole()


def copied(source: Source, rows: slice, columns: slice) -> Array:
    """Read patterns into memory of their own. What happens to the file later does not change them.

    Arrays in memory are not copied.
    """
    below = below_views(source)
    if isinstance(below, ArraySource) and not _is_mapped(below.array):
        return source.read(rows, columns)
    out = np.empty((rows.stop - rows.start, columns.stop - columns.start, *source.shape[2:]), source.dtype)
    found = source.read(rows, columns, out)
    if found is not out:
        np.copyto(out, found)
    check_whole(source)
    return out


def _is_mapped(array: Any) -> bool:
    """Say whether the values of a NumPy array lie in a mapped file."""
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return isinstance(array, mmap.mmap)


def scratch_bytes(source: Source) -> int:
    """Return the bytes that one thread holds beside the caller's buffer while it reads. 0 for sources that do not say."""
    return int(getattr(source, "scratch_bytes", 0))


def rows_of_run(start: int, stop: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Return where patterns start … stop − 1 lie, counted row by row: the rest of a row, whole rows together, the beginning of a row.

    Examples
    --------
    >>> list(rows_of_run(3, 13, 4))
    [(slice(0, 1, None), slice(3, 4, None)), (slice(1, 3, None), slice(0, 4, None)), (slice(3, 4, None), slice(0, 1, None))]
    """
    while start < stop:
        row, column = divmod(start, width)
        whole = (stop - start) // width if column == 0 else 0
        end = start + whole * width if whole else min(stop, (row + 1) * width)
        yield (slice(row, row + whole), slice(0, width)) if whole else (slice(row, row + 1), slice(column, column + end - start))
        start = end


def read_run(source: Source, start: int, stop: int, out: np.ndarray) -> None:
    """Read patterns start … stop − 1, counted row by row, into a buffer (stop − start, Qx, Qy) in C order."""
    done = 0
    for rows, columns in rows_of_run(start, stop, source.shape[1]):
        shape = rows.stop - rows.start, columns.stop - columns.start
        piece = out[done : done + shape[0] * shape[1]].reshape(*shape, *source.shape[2:])
        got = source.read(rows, columns, piece)
        if got is not piece:
            np.copyto(piece, got)
        done += shape[0] * shape[1]


def itemsize(dtype: DType) -> int:
    """Return the bytes of one value of a dtype of any array library."""
    size = getattr(dtype, "itemsize", None)
    return int(size) if size is not None else np.dtype(str(dtype).split(".")[-1]).itemsize


class ArraySource:
    """A four-dimensional array of any library, used in place. NumPy arrays in foreign byte order are converted while they are read."""

    blocks = (1, 1)

    def __init__(self, array: Array):
        if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
            raise InputError(
                "the array is a NumPy masked array, and its mask would be lost: give array.filled(0), and detector_mask= with "
                "True at the detector pixels that count"
            )
        array = real_array(array, "the array") if isinstance(array, list | tuple | memoryview) else arrays.unwrapped(array)
        if not arrays.is_array(array):
            raise InputError(
                f"need a four-dimensional array (Rx, Ry, Qx, Qy), got {type(array).__name__}: for a file use "
                "gpu4d.open(path), for an object of another library numpy.asarray(object)"
            )
        if len(array.shape) != 4:
            raise InputError(f"the array is {tuple(array.shape)}, need (Rx, Ry, Qx, Qy); reshape it, or give scan_shape")
        self.array = array
        self.shape: Shape4 = tuple(int(n) for n in array.shape)  # type: ignore[assignment]
        self.dtype, self.resident = array.dtype, True
        self.description = f"{type(array).__module__.split('.')[0]} array in memory"
        if isinstance(array, np.ndarray):
            if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
                raise InputError(f"the array holds {array.dtype}: need bool, integers, or floats of at most 64 bits")
        elif not arrays.is_real(array):
            raise InputError(f"the array holds {array.dtype}: need bool, integers, or floats of at most 64 bits")
        if isinstance(array, np.ndarray):
            self.dtype, self.resident = array.dtype.newbyteorder("="), array.dtype.isnative

    def read(self, rows: slice, columns: slice, out: np.ndarray | None = None) -> Array:
        found = self.array[rows, columns, :, :]
        if self.resident:
            return found
        if out is None:
            return found.astype(self.dtype)
        np.copyto(out, found)
        return out


def sample_of(source: Source) -> Any:
    """Return an empty array of the library and on the device of a source's patterns. None if they come from a file.

    For views it is that of the source below them.
    """
    array = getattr(below_views(source), "array", None)
    return None if array is None else array[:0, :0, :, :]
