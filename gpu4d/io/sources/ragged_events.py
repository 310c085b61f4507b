"""Read events from arrays of different lengths: one array of pixels for each frame, in any order of positions."""

from __future__ import annotations

import numpy as np

from gpu4d.data.events import PIECE_EVENTS, SORTED_BYTES, Events, EventSource, most_events
from gpu4d.data.source import Shape4
from gpu4d.errors import InputError
from gpu4d.io.foreign import shown
from gpu4d.io.sources.heap_arrays import HeapArrays
from gpu4d.sizes import format_bytes


class RaggedEventSource(EventSource):
    """A counted scan in arrays of an HDF5 file. Only the number of events of every position is in memory, and where they lie.

    Parameters
    ----------
    arrays : HeapArrays
    frames : (f,) int
        Arrays in the order of their positions.
    starts : (Rx · Ry + 1,) int
        Frames of position i are ``frames[starts[i]:starts[i + 1]]``: none, one or several, which are added up.
    shape : (Rx, Ry, Qx, Qy)
    dtype : dtype
        Of the patterns.
    """

    def __init__(self, arrays: HeapArrays, frames: np.ndarray, starts: np.ndarray, shape: Shape4, dtype: np.dtype):
        self.arrays, self.frames, self.starts = arrays, frames, starts
        self.path, self.dataset, self.shape, self.dtype = arrays.path, arrays.dataset, shape, np.dtype(dtype)
        self.offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(arrays.lengths[frames])])[starts]
        total = int(self.offsets[-1])
        self.description = f"{total} events in arrays of an HDF5 file ({format_bytes(arrays.dtype.itemsize * total)})"
        self.scratch_bytes = SORTED_BYTES * most_events(self.offsets, min(PIECE_EVENTS, total))

    def read_events(self, rows: slice, columns: slice) -> Events:
        """Read the events of scan rows × columns from the file."""
        width = self.shape[1]
        runs = [(row * width + columns.start, row * width + columns.stop) for row in range(rows.start, rows.stop)]
        if columns == slice(0, width):
            runs = [(rows.start * width, rows.stop * width)]
        frames = np.concatenate([self.frames[self.starts[first] : self.starts[last]] for first, last in runs])
        sizes = np.concatenate([np.diff(self.offsets[first : last + 1]) for first, last in runs])
        pixels, most = self.arrays.read(frames), self.shape[2] * self.shape[3]
        if len(pixels) and not (0 <= int(pixels.min()) and int(pixels.max()) < most):
            raise InputError(
                f"{shown(self.path)}: {shown(self.dataset)} has pixel numbers outside of 0 to {most - 1}: it is damaged, copy it again"
            )
        return Events(np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]), pixels, None, self.shape[2:])
