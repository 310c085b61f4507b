"""Read events of a counted scan from a file, those of the positions that are asked for; nothing else is in memory but the offsets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpu4d.data.events import PIECE_EVENTS, SORTED_BYTES, Events, EventSource, most_events
from gpu4d.data.source import Shape4
from gpu4d.errors import InputError
from gpu4d.io.foreign import shown
from gpu4d.io.sources.hdf5_file import open_file, reading
from gpu4d.io.sources.links import dataset_at
from gpu4d.sizes import format_bytes


@dataclass(frozen=True)
class Column:
    """A one-dimensional dataset of an HDF5 file, of which parts are read.

    Attributes
    ----------
    path, dataset : str
    dtype : numpy.dtype
        As it is stored.
    size : int
    offset : int or None
        Byte of the file where the values begin, if they lie there one after the other.
    """

    path: str
    dataset: str
    dtype: np.dtype
    size: int
    offset: int | None

    def read(self, first: int, last: int) -> np.ndarray:
        """Return values first … last − 1 in native byte order."""
        with reading(self.path, self.dataset):
            if self.offset is not None:
                found = np.fromfile(self.path, self.dtype, last - first, offset=self.offset + first * self.dtype.itemsize)
            else:
                with open_file(self.path) as file:
                    found = dataset_at(file, self.dataset)[first:last]  # type: ignore[index]  # it was there when the file was opened
        if len(found) != last - first:
            raise InputError(
                f"{shown(self.path)}: {shown(self.dataset)} ends after {first + len(found)} values: the file is truncated, copy it again"
            )
        return found.astype(self.dtype.newbyteorder("="), copy=False)


class FileEventSource(EventSource):
    """A scan kept as events in a file.

    Parameters
    ----------
    offsets : (Rx · Ry + 1,) int64
        In memory. They must not fall, and run from 0 to the number of events.
    pixels, counts : Column, or None for counts of one
    shape : (Rx, Ry, Qx, Qy)
    dtype : dtype
        Of the patterns.
    """

    def __init__(self, offsets: np.ndarray, pixels: Column, counts: Column | None, shape: Shape4, dtype: np.dtype):
        self.shape, self.dtype, self.offsets = shape, np.dtype(dtype), offsets
        self.stored, self.stored_counts = pixels, counts
        self.path, self.dataset = pixels.path, pixels.dataset
        given = pixels.size * (pixels.dtype.itemsize + (0 if counts is None else counts.dtype.itemsize))
        self.description = f"{pixels.size} events in a file ({format_bytes(given)})"
        self.scratch_bytes = SORTED_BYTES * most_events(offsets, min(PIECE_EVENTS, pixels.size))

    def read_events(self, rows: slice, columns: slice) -> Events:
        """Read the events of scan rows × columns from the file."""
        width = self.shape[1]
        if columns == slice(0, width):
            return self._run(rows.start * width, rows.stop * width)
        parts = [self._run(row * width + columns.start, row * width + columns.stop) for row in range(rows.start, rows.stop)]
        if len(parts) == 1:
            return parts[0]
        sizes = np.concatenate([np.zeros(1, np.int64), *(np.diff(part.offsets) for part in parts)])
        counts = None if self.stored_counts is None else np.concatenate([part.counts for part in parts])
        return Events(np.cumsum(sizes), np.concatenate([part.pixels for part in parts]), counts, self.shape[2:])

    def _run(self, first: int, last: int) -> Events:
        """Read the events of positions first … last − 1, whose numbers follow each other."""
        begin, end = int(self.offsets[first]), int(self.offsets[last])
        pixels = self.stored.read(begin, end)
        most = self.shape[2] * self.shape[3]
        if len(pixels) and not (0 <= int(pixels.min()) and int(pixels.max()) < most):
            raise InputError(
                f"{shown(self.path)}: {shown(self.dataset)} has pixel numbers outside of 0 to {most - 1}: it is damaged, copy it again"
            )
        counts = None if self.stored_counts is None else self.stored_counts.read(begin, end)
        if counts is not None and len(counts) and int(counts.min()) < 0:
            raise InputError(f"{shown(self.path)}: {shown(self.dataset)} has negative counts: it is damaged, copy it again")
        return Events(self.offsets[first : last + 1] - begin, pixels, counts, self.shape[2:])
