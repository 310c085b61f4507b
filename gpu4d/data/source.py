"""The small protocol that everything answers which holds a scan: a file, an array, a view of either."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array, DType
from gpu4d.errors import InputError

Shape4 = tuple[int, int, int, int]


@runtime_checkable
class Source(Protocol):
    """Where diffraction patterns come from.

    Attributes
    ----------
    shape : (Rx, Ry, Qx, Qy)
    dtype : numpy.dtype or the dtype of the array's own namespace
        Native: what the detector wrote.
    blocks : (int, int)
        Natural block of scan positions: reading a multiple of it, aligned to it, reads every byte once. (1, 1) where
        any cut is as good.
    resident : bool
        True where `read` returns a view of memory or mapped pages and costs no buffer.
    description : str
        Layout in a few words, for people.

    Notes
    -----
    A source may also have ``will_read(rows, columns) -> None``: a hint that these patterns will be read soon, at which it
    asks the operating system to bring their bytes into its cache. It returns at once, raises nothing, and takes no memory of
    the process; `will_read` of this module calls it where there is one.

    And ``scratch_bytes``, an int: what one thread holds at most beside the caller's buffer while it reads, such as chunks before
    and after they are decoded. A sweep counts it for each of its readers; sources without it are taken to need nothing.

    A source that keeps events has `gpu4d.data.events.ReadsEvents` too. Corrections are no matter of a source that reads: `CorrectedSource`
    of `gpu4d.data.views` lies over it and carries them.
    """

    shape: Shape4
    dtype: DType
    blocks: tuple[int, int]
    resident: bool
    description: str

    def read(self, rows: slice, columns: slice, out: np.ndarray | None = None) -> Array:
        """Patterns of scan rows × columns, (n_rows, n_columns, Qx, Qy), in the native dtype.

        Both slices have a start and a stop inside the scan. `out` is a buffer of that shape to fill; a resident source may
        return a view instead and leave `out` alone. Called from several threads at once.
        """
        ...


def will_read(source: Source, rows: slice, columns: slice) -> None:
    """Tell a source which patterns will be read soon; nothing happens with those that take no such hint."""
    hint = getattr(source, "will_read", None)
    if hint is not None:
        hint(rows, columns)


def scratch_bytes(source: Source) -> int:
    """What one thread holds beside the caller's buffer while it reads from a source; 0 for those that do not say."""
    return int(getattr(source, "scratch_bytes", 0))


def itemsize(dtype: DType) -> int:
    """Return the bytes of one value of a dtype of any array library."""
    size = getattr(dtype, "itemsize", None)
    return int(size) if size is not None else np.dtype(str(dtype).split(".")[-1]).itemsize


class ArraySource:
    """A four-dimensional array of any array library, used in place; NumPy arrays of foreign byte order are converted as they are read."""

    blocks = (1, 1)

    def __init__(self, array: Array):
        if not arrays.is_array(array):
            raise InputError(f"need a four-dimensional array (Rx, Ry, Qx, Qy), got {type(array).__name__}")
        if len(array.shape) != 4:
            raise InputError(f"the array is {tuple(array.shape)}, need (Rx, Ry, Qx, Qy); reshape it, or give scan_shape")
        self.array = array
        self.shape: Shape4 = tuple(int(n) for n in array.shape)  # type: ignore[assignment]
        self.dtype, self.resident = array.dtype, True
        self.description = f"{type(array).__module__.split('.')[0]} array in memory"
        if isinstance(array, np.ndarray):
            if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
                raise InputError(f"the array holds {array.dtype}: need bool, integers, or floats of at most 64 bits")
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
    """An empty array of the library and on the device that a source's patterns come in; None where they come from a file.

    Views (cropped, binned, swapped, corrected) are looked through: each has the source it is a view of as `source`.
    """
    while not hasattr(source, "array") and hasattr(source, "source"):
        source = source.source
    array = getattr(source, "array", None)
    return None if array is None else array[:0, :0, :, :]
