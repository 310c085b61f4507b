"""Read HDF5 datasets whose last axis counts the patterns: (Qx, Qy, frames), as Velox writes them."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu4d.io.sources.chunked import LibrarySource
from gpu4d.io.sources.hdf5_file import open_file, reading
from gpu4d.io.sources.links import follow

READ_AT_ONCE = 32 << 20  # bytes of patterns that are read together where the file has no chunks: longer runs of neighbouring frames


class FramesLast(LibrarySource):
    """One row of patterns (1, frames, Qx, Qy) of a dataset (Qx, Qy, frames), read by the HDF5 library, some frames at a time.

    Parameters are those of `LibrarySource`; `blocks` holds as many frames as a chunk does.
    """

    def __init__(self, *common: Any):
        super().__init__(*common)
        self.scratch_bytes += self.blocks[1] * self._frame_bytes

    @property
    def _frame_bytes(self) -> int:
        return self.shape[2] * self.shape[3] * self.stored.itemsize

    def read(self, rows: slice, columns: slice, out: Any = None) -> Any:
        out = self._buffer(rows, columns, out)
        if not len(out):
            return out
        step = self.blocks[1]
        with self._lock, reading(self.path, self.dataset):
            if self._open_dataset is None:
                self._open_dataset = follow(open_file(self.path), self.dataset)
            at = columns.start
            while at < columns.stop:
                end = min(columns.stop, at - at % step + step)
                np.copyto(out[0, at - columns.start : end - columns.start], np.moveaxis(self._open_dataset[:, :, at:end], 2, 0))
                at = end
        return out


def frames_together(shape: tuple[int, ...], chunks: tuple[int, ...] | None, itemsize: int) -> int:
    """Return how many frames of a dataset (Qx, Qy, frames) are read at once: those of a chunk, or as many as `READ_AT_ONCE` holds."""
    if chunks is not None:
        return min(chunks[2], shape[2])
    return max(1, min(shape[2], READ_AT_ONCE // (shape[0] * shape[1] * itemsize)))
