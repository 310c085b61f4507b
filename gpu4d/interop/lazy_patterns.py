"""Patterns of a scan as an array of Dask, which reads them when they are needed."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.data.datacube import DataCube
from gpu4d.data.source import copied

CHUNK_BYTES = 32 << 20  # of patterns in a chunk, at most, unless a block of the file is larger


class Patterns:
    """A scan that acts as an array: indexing reads patterns. Several threads may do this at the same time."""

    ndim = 4

    def __init__(self, cube: DataCube):
        self.source = cube.source
        self.shape, self.dtype = cube.shape, np.dtype(str(cube.dtype).rpartition(".")[2])

    def __getitem__(self, key: Any) -> np.ndarray:
        """Return a part of the scan. Slices with a step, and lists of positions, are taken from the block that holds them."""
        given = key if isinstance(key, tuple) else (key,)
        given = (*given, *(slice(None),) * (4 - len(given)))
        scan, rest = zip(*(_block(part, n) for part, n in zip(given[:2], self.shape)))
        found = arrays.to_numpy(copied(self.source, *scan))
        return found[(*rest, *given[2:])]


def _block(part: Any, length: int) -> tuple[slice, Any]:
    """Return the range of positions that holds what an index asks for, and the index within it."""
    if isinstance(part, slice):
        chosen = np.arange(length)[part]
        start, step = (int(chosen[0]), part.step or 1) if len(chosen) else (0, 1)
        if step == 1:
            return slice(start, start + len(chosen)), slice(None)
    else:
        chosen = np.arange(length)[part]
    if np.ndim(chosen) == 0:
        return slice(int(chosen), int(chosen) + 1), 0
    low = int(chosen.min()) if len(chosen) else 0
    high = int(chosen.max()) + 1 if len(chosen) else 0
    return slice(low, high), chosen - low


def patterns_of(cube: DataCube) -> Any:
    """Return all patterns: an array of Dask if it is installed, else a NumPy array in memory.

    Chunks hold whole blocks of the file, of whole patterns, so that nothing is decoded twice.

    Raises
    ------
    MemoryBudgetError
        Without Dask: the patterns do not fit into the memory that is free.
    """
    try:
        import dask.array
    except ImportError:
        return np.asarray(cube)
    rows, columns = cube.source.blocks
    frame = max(int(np.prod(cube.detector_shape)) * np.dtype(str(cube.dtype).rpartition(".")[2]).itemsize, 1)
    width = min(max(CHUNK_BYTES // (frame * rows) // columns, 1) * columns, cube.shape[1])
    height = min(max(CHUNK_BYTES // (frame * width) // rows, 1) * rows, cube.shape[0])
    chunks = (height, width, *cube.detector_shape)
    return dask.array.from_array(Patterns(cube), chunks=chunks, name=False, meta=np.empty((0,) * 4, Patterns(cube).dtype))
