"""Scans as arrays of Dask, in and out: a sweep reads them chunk by chunk, and Dask reads the scans of gpu4d when it needs them.

Dask is imported when it is needed. Sweeps on the workers of a cluster are `gpu4d.sweep(client=)`.
"""

from __future__ import annotations

import sys
import threading
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu4d import arrays
from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.data.source import Shape4
from gpu4d.errors import InputError
from gpu4d.interop.lazy_patterns import patterns_of
from gpu4d.interop.libraries import library

if TYPE_CHECKING:
    import dask.array


def from_dask(array: dask.array.Array, calibration: Calibration | None = None, name: str = "datacube") -> DataCube:
    """Make a scan of an array of Dask. Nothing is computed: chunks are, when a sweep needs their patterns.

    Each chunk is computed in the thread that reads it, by Dask's synchronous scheduler. So several readers work at the same time, also
    inside the workers of a cluster, and none waits for another.

    Parameters
    ----------
    array : (Rx, Ry, Qx, Qy) dask array of bool, integers or floats
        Sweeps are cut along its chunks of scan positions. Whole patterns in a chunk are best: a chunk that holds a part of each
        pattern is computed as often as tiles touch it.
    calibration : Calibration, optional
    name : str
        Name of the scan.

    Returns
    -------
    DataCube
        Chunks of CuPy come to the host.

    Raises
    ------
    InputError
        Dask is not installed, another kind of array, not four dimensions, no real numbers, chunks of unknown size, or an array that
        was persisted on a cluster.

    Examples
    --------
    >>> import dask.array, gpu4d
    >>> cube = from_dask(dask.array.ones((4, 6, 8, 8), chunks=(2, 6, 8, 8), dtype="uint16"))
    >>> float(gpu4d.sweep(cube, gpu4d.MeanPattern())[0, 0]), cube.source.blocks
    (1.0, (2, 6))
    """
    return DataCube(DaskSource(array), calibration, name=name)


def to_dask(cube: DataCube) -> dask.array.Array:
    """Return the patterns of a scan as an array of Dask, which reads them when they are needed.

    Parameters
    ----------
    cube : DataCube

    Returns
    -------
    (Rx, Ry, Qx, Qy) dask array
        In the native dtype, corrected where the scan carries corrections. A chunk has whole patterns, and whole blocks of the file, so
        that nothing is decoded twice. Workers of a cluster open the file themselves. A scan of `from_dask` gives its own array.

    Raises
    ------
    InputError
        Dask is not installed, or something else than a scan.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> cube = gpu4d.DataCube(np.arange(24, dtype="uint16").reshape(2, 3, 2, 2))
    >>> int(to_dask(cube).sum().compute())
    276
    """
    if not isinstance(cube, DataCube):
        raise InputError(f"cube is a {type(cube).__name__}: need a DataCube; gpu4d.open(path) and gpu4d.DataCube(array) make one")
    _dask_array("to_dask")
    return cube.source.array if isinstance(cube.source, DaskSource) else patterns_of(cube)


class DaskSource:
    """The patterns of an array of Dask, as `from_dask` describes it."""

    resident = False

    def __init__(self, array: dask.array.Array):
        made = _dask_array("from_dask").Array
        if not isinstance(array, made):
            raise InputError(f"array is a {type(array).__name__}: need an array of Dask; gpu4d.DataCube(array) takes arrays in memory")
        if array.ndim != 4:
            raise InputError(f"the array is {array.shape}, need (Rx, Ry, Qx, Qy): reshape it")
        if any(np.isnan(size) for along in array.chunks for size in along):
            raise InputError("the array has chunks of unknown size: call array.compute_chunk_sizes() first")
        dtype = np.dtype(array.dtype)
        if dtype.kind not in "biuf" or dtype.itemsize > 8:
            raise InputError(f"the array holds {array.dtype}: need bool, integers, or floats of at most 64 bits")
        if "distributed" in sys.modules and sys.modules["distributed"].futures_of(array):
            raise InputError("the array was persisted on a cluster, where its readers cannot get it: give it before persist()")
        self.array, self.dtype = array, dtype.newbyteorder("=")
        self.shape: Shape4 = tuple(int(n) for n in array.shape)  # type: ignore[assignment]
        rows, columns, *detector = (max(along, default=1) for along in array.chunks)
        self.blocks = max(1, int(rows)), max(1, int(columns))
        chunk = int(np.prod([rows, columns, *detector], dtype=np.int64)) * dtype.itemsize
        self.scratch_bytes = 2 * chunk  # a chunk, and the chunks of a tile put together
        self.description = f"Dask array, chunks of {'×'.join(str(int(n)) for n in (rows, columns, *detector))}"
        self._lock = threading.Lock()

    def read(self, rows: slice, columns: slice, out: np.ndarray | None = None) -> np.ndarray:
        """Compute some patterns in this thread."""
        with self._lock:  # choosing is quick, and Dask does not promise that several threads may do it
            part = self.array[rows, columns]
        found: Any = part.compute(scheduler="synchronous")
        if isinstance(found, np.ma.MaskedArray):
            if np.ma.is_masked(found):
                raise InputError("the array has masked values, whose mask would be lost: give dask.array.ma.filled(array, 0)")
            found = found.data
        found = arrays.to_numpy(found)
        if found.shape != part.shape or not np.can_cast(found.dtype, self.dtype, "same_kind"):
            raise InputError(
                f"chunks of the array came as {found.shape} {found.dtype}, and it promised {part.shape} {self.dtype}: "
                "give map_blocks the right chunks= and dtype="
            )
        if out is None:
            return np.asarray(found, self.dtype)
        np.copyto(out, found)
        return out

    def __reduce__(self) -> tuple[type, tuple[dask.array.Array]]:
        return DaskSource, (self.array,)


def _dask_array(caller: str) -> ModuleType:
    return library("dask.array", caller, "Dask", "'gpu4d[interop]'")
