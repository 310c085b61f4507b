"""Read scans that another library computes when they are asked for: arrays of dask, or like them."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import numpy as np

from gpu4d.data.source import Shape4
from gpu4d.errors import Gpu4dError, InputError
from gpu4d.io.foreign import reason, shown
from gpu4d.io.sources.layout import ACCEPTED, is_usable, native_dtype


class ComputedSource:
    """A scan in an array whose parts are computed when they are read.

    Parameters
    ----------
    array : (Rx, Ry, Qx, Qy) array of dask
        Has `shape`, `dtype` and `chunks`. Parts of it have `compute`.
    path : str
        File that it reads, for messages.
    description : str

    Raises
    ------
    InputError
        Values are not real numbers.
    """

    resident = False
    dataset = None

    def __init__(self, array: Any, path: str, description: str):
        self.lazy, self.path, self.description = array, path, description
        if not is_usable(array.dtype):
            raise InputError(f"{shown(path)}: it holds {array.dtype}; accepted are {ACCEPTED}")
        self.shape: Shape4 = tuple(int(n) for n in array.shape)  # type: ignore[assignment]
        self.dtype = native_dtype(array.dtype)
        largest = [max((int(n) for n in sizes), default=1) for sizes in array.chunks]
        self.blocks = (max(1, largest[0]), max(1, largest[1]))
        # what is read is made of whole chunks; two of them, and what they are computed from
        self.scratch_bytes = 2 * int(np.prod(largest, dtype=np.int64)) * np.dtype(array.dtype).itemsize
        self._one = threading.Lock()  # a reader of the other library may share one open file among threads

    def read(self, rows: slice, columns: slice, out: Any = None) -> Any:
        if out is None:
            out = np.empty((rows.stop - rows.start, columns.stop - columns.start, *self.shape[2:]), self.dtype)
        for r in _pieces(rows, self.blocks[0]):
            for c in _pieces(columns, self.blocks[1]):
                part = out[r.start - rows.start : r.stop - rows.start, c.start - columns.start : c.stop - columns.start]
                np.copyto(part, self._computed(r, c))
        return out

    def _computed(self, rows: slice, columns: slice) -> np.ndarray:
        try:
            with self._one:
                return np.asarray(self.lazy[rows, columns].compute(scheduler="synchronous"))
        except (Gpu4dError, MemoryError):
            raise
        except Exception as error:  # what another library raises for a damaged file may be anything
            raise InputError(f"{shown(self.path)}: reading it failed ({reason(error)}): it is damaged, or changed meanwhile") from error


def _pieces(whole: slice, block: int) -> list[slice]:
    """Cut a range at multiples of a block."""
    edges = [whole.start, *range((whole.start // block + 1) * block, whole.stop, block), whole.stop]
    return [slice(a, b) for a, b in itertools.pairwise(edges) if b > a]
