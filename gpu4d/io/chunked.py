"""HDF5 datasets in chunks: every chunk is read once and decoded outside any lock, where its filters allow."""

from __future__ import annotations

import itertools
import os
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpu4d.data.source import Shape4
from gpu4d.errors import InputError
from gpu4d.io.layout import native_dtype

DEFLATE, SHUFFLE = 1, 2  # numbers the HDF5 library gives its filters
Box = tuple[slice, ...]


class LibrarySource:
    """An HDF5 dataset read by the HDF5 library itself: any layout and filter it knows.

    Parameters
    ----------
    path, dataset : str
    frames : bool
        The dataset has three dimensions; it appears as one scan row of all its frames.
    blocks : (int, int)
    description : str
    shape : (Rx, Ry, Qx, Qy)
    dtype : numpy.dtype
        As stored.
    """

    resident = False

    def __init__(self, path: str, dataset: str, shape: Shape4, dtype: Any, blocks: tuple[int, int], description: str, frames: bool = False):
        self.path, self.dataset, self.shape = os.path.abspath(path), dataset, shape
        self.stored, self.blocks, self.description, self.frames = np.dtype(dtype), blocks, description, frames
        self.dtype = native_dtype(self.stored)
        self._lock = threading.Lock()
        self._open_dataset: Any = None

    def _arguments(self) -> tuple[Any, ...]:
        return self.path, self.dataset, self.shape, self.stored, self.blocks, self.description, self.frames

    def __reduce__(self) -> Any:
        return type(self), self._arguments()

    def _buffer(self, rows: slice, columns: slice, out: Any) -> np.ndarray:
        if out is not None:
            return out
        return np.empty((rows.stop - rows.start, columns.stop - columns.start, *self.shape[2:]), self.dtype)

    def read(self, rows: slice, columns: slice, out: Any = None) -> Any:
        out = self._buffer(rows, columns, out)
        self._by_library((rows, columns, slice(0, self.shape[2]), slice(0, self.shape[3])), out)
        return out

    def _by_library(self, box: Box, out: np.ndarray) -> None:
        from gpu4d.io.hdf5 import open_file, reading

        with self._lock, reading(self.path, self.dataset):
            if self._open_dataset is None:
                self._open_dataset = open_file(self.path)[self.dataset]
            selection = box[1:] if self.frames else box
            values = out[0] if self.frames else out
            if values.flags.c_contiguous and self.stored.kind != "b":
                self._open_dataset.read_direct(values, np.s_[selection])
            else:
                values[...] = self._open_dataset[selection]


class ChunkedSource(LibrarySource):
    """Chunks without a filter, or with shuffle and gzip: read from their places in the file, decoded by whoever asks.

    Where each chunk lies is looked up once; after that the file is read without the HDF5 library, in as many threads as
    ask. Parameters as `LibrarySource`, and:

    Parameters
    ----------
    chunks : tuple of int
        Shape of a chunk, with four dimensions.
    filters : tuple of int
        HDF5 filter numbers in the order they were applied.
    fill : number
        Value of chunks that were never written.
    index : dict
        ``"offsets"``, ``"sizes"``, ``"skipped"``: arrays over the grid of chunks, from `gpu4d.io.hdf5.chunk_index`;
        offset -1 where a chunk was never written.
    """

    def __init__(self, *common: Any, chunks: tuple[int, ...], filters: tuple[int, ...], fill: Any, index: dict[str, np.ndarray]):
        super().__init__(*common)
        self.chunks, self.filters, self.fill, self.index = chunks, filters, fill, index
        self._descriptor: int | None = None

    def __reduce__(self) -> Any:
        return _restore, (self._arguments(), {"chunks": self.chunks, "filters": self.filters, "fill": self.fill, "index": self.index})

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            os.close(self._descriptor)  # type: ignore[arg-type]

    def read(self, rows: slice, columns: slice, out: Any = None) -> Any:
        out = self._buffer(rows, columns, out)
        for place, inside, target in self._touched(rows, columns):
            part = out[target]
            if self.index["offsets"][place] < 0:
                part[...] = self.fill
                continue
            try:
                np.copyto(part, self._chunk(place)[inside], casting="unsafe")
            except zlib.error:
                # chunks on the edge may be stored in another way; the library knows, or says what is wrong with the file
                start = [r.start + t.start for r, t in zip((rows, columns, slice(0, 0), slice(0, 0)), target)]
                box = tuple(slice(a, a + n) for a, n in zip(start, part.shape))
                held = np.empty(part.shape, self.dtype)
                self._by_library(box, held)
                part[...] = held
        return out

    def _touched(self, rows: slice, columns: slice) -> Iterator[tuple[tuple[int, ...], Box, Box]]:
        """Chunks that hold a part of the block: place in the grid, the part inside the chunk, where it goes in the block."""
        starts, stops = (rows.start, columns.start, 0, 0), (rows.stop, columns.stop, *self.shape[2:])
        grid = [range(a // c, -(-b // c)) for a, b, c in zip(starts, stops, self.chunks)]
        for place in itertools.product(*grid):
            low = [max(a, p * c) for a, p, c in zip(starts, place, self.chunks)]
            high = [min(b, (p + 1) * c) for b, p, c in zip(stops, place, self.chunks)]
            inside = tuple(slice(l - p * c, h - p * c) for l, h, p, c in zip(low, high, place, self.chunks))
            yield place, inside, tuple(slice(l - a, h - a) for l, h, a in zip(low, high, starts))

    def _chunk(self, place: tuple[int, ...]) -> np.ndarray:
        size = int(self.index["sizes"][place])
        data: Any = self._bytes(int(self.index["offsets"][place]), size)
        skipped, n = int(self.index["skipped"][place]), int(np.prod(self.chunks))
        width = self.stored.itemsize
        for i in reversed(range(len(self.filters))):
            if skipped >> i & 1:
                continue
            if self.filters[i] == DEFLATE:
                data = zlib.decompress(data, bufsize=n * width)
            elif len(data) == n * width:
                data = unshuffle(data, width)
        if len(data) != n * width:
            raise zlib.error("chunk of unexpected length")
        return np.frombuffer(data, self.stored).reshape(self.chunks)

    def _bytes(self, offset: int, size: int) -> bytes:
        with self._lock:
            if self._descriptor is None:
                try:
                    self._descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
                except OSError as error:
                    raise InputError(f"{self.path}: cannot be read ({error.strerror})") from error
        data = os.pread(self._descriptor, size, offset)
        while 0 < len(data) < size and (more := os.pread(self._descriptor, size - len(data), offset + len(data))):
            data += more
        if len(data) < size:
            raise InputError(
                f"{self.path}: the file ends inside a chunk of {self.dataset}: it is truncated, or was shortened; copy it again"
            )
        return data


def unshuffle(data: bytes, width: int) -> np.ndarray:
    """Bytes of values, from first all first bytes, then all second bytes, … (HDF5's shuffle filter)."""
    planes = np.frombuffer(data, np.uint8).reshape(width, -1)
    values = np.empty((planes.shape[1], width), np.uint8)
    for i in range(width):
        values[:, i] = planes[i]
    return values.reshape(-1)


def _restore(common: tuple[Any, ...], special: dict[str, Any]) -> ChunkedSource:
    return ChunkedSource(*common, **special)
