"""Read scans that lie in a file as one plain block of bytes. The file is mapped, never loaded."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
import threading
from typing import Any

import numpy as np

from gpu4d.data.source import Shape4
from gpu4d.errors import InputError
from gpu4d.io.sources.guard import Watched, watch
from gpu4d.io.sources.layout import hints, native_dtype


class MappedSource:
    """A scan mapped read-only from a byte offset of a file. The operating system loads pages as they are read.

    Parameters
    ----------
    path : str
    offset : int
        First byte of the first pattern.
    shape : (Rx, Ry, Qx, Qy)
    dtype : numpy.dtype
        As stored, with its byte order.
    description : str
        "HDF5 contiguous" or ".npy". The offset is added.
    dataset : str, optional
        Name inside an HDF5 file.
    """

    blocks = (1, 1)

    def __init__(self, path: str, offset: int, shape: Shape4, dtype: Any, description: str, dataset: str | None = None):
        self.path, self.dataset, self.offset, self.shape = os.path.abspath(path), dataset, int(offset), shape
        self.stored = np.dtype(dtype)
        self.dtype = native_dtype(self.stored)
        self.nbytes = int(np.prod(shape, dtype=np.int64)) * self.stored.itemsize
        # HDF5 may store an array at an unaligned address. Compiled code and DLPack refuse such an array.
        self.resident = self.dtype == self._view_dtype and self.offset % self.stored.itemsize == 0
        note = "" if self.resident else f", {self.stored} converted" if self.dtype != self._view_dtype else ", not aligned: copied"
        self.description = f"{description}, mapped at byte {self.offset}{note}"
        self._opening = threading.Lock()
        self._map: mmap.mmap | None = None
        self._watched: Watched | None = None
        self._patterns: np.ndarray | None = None
        self._open()

    @property
    def _view_dtype(self) -> np.dtype:
        return np.dtype(np.uint8) if self.stored.kind == "b" else self.stored

    def _open(self) -> np.ndarray:
        with self._opening:
            if self._patterns is None:
                start = self.offset - self.offset % mmap.ALLOCATIONGRANULARITY
                try:
                    with open(self.path, "rb") as file:
                        self._check_size(os.fstat(file.fileno()).st_size)
                        length = self.offset + self.nbytes - start
                        self._map = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ, offset=start)
                except OSError as error:
                    raise InputError(f"{self.path}: cannot be read ({error.strerror or error})") from error
                self._address = np.frombuffer(self._map, np.uint8).ctypes.data
                self._watched = watch(self._map, self._address)
                self._patterns = np.ndarray(self.shape, self._view_dtype, buffer=self._map, offset=self.offset - start)
            return self._patterns

    def _check_size(self, size: int) -> None:
        need = self.offset + self.nbytes
        if size < need or (self._watched is not None and self._watched.lost):
            raise InputError(
                f"{self.path}: the file is too short, {size} bytes where its header promises at least {need}: "
                "it is truncated, or was shortened while it was read; copy it again"
            )

    def read(self, rows: slice, columns: slice, out: Any = None) -> Any:
        patterns = self._patterns if self._patterns is not None else self._open()
        self.check_whole()
        block = patterns[rows, columns]
        if self.resident:
            return block
        if out is None:
            out = np.empty(block.shape, self.dtype)
        np.copyto(out, block)
        self.check_whole()  # it may have been cut short while it was copied
        return out

    def check_whole(self) -> None:
        """Raise an error if the file was cut short since it was mapped, also if it was renamed or replaced."""
        if self._map is not None:
            self._check_size(self._map.size())

    def will_read(self, rows: slice, columns: slice) -> None:
        """Ask the operating system to load the pages of these patterns into its cache. Returns at once."""
        if self._map is None or not hasattr(mmap, "MADV_WILLNEED"):
            return
        n_columns, frame = self.shape[1], self.nbytes // max(1, self.shape[0] * self.shape[1])
        first = self.offset % mmap.ALLOCATIONGRANULARITY  # byte of the map
        if columns.stop - columns.start == n_columns:
            runs = [(rows.start * n_columns, rows.stop * n_columns)]
        else:
            runs = [(row * n_columns + columns.start, row * n_columns + columns.stop) for row in range(rows.start, rows.stop)]
        with contextlib.suppress(OSError):  # only a hint
            for start, stop in runs:
                page, end = (first + start * frame) // mmap.PAGESIZE * mmap.PAGESIZE, first + stop * frame
                if not _cached(self._address + (end - 1) // mmap.PAGESIZE * mmap.PAGESIZE):
                    for begin, length in hints(page, end):
                        self._map.madvise(mmap.MADV_WILLNEED, begin, length)

    def reshaped(self, scan_shape: tuple[int, int]) -> MappedSource:
        """Return a source of the same bytes with another scan shape."""
        description = self.description.split(", mapped at")[0]
        return MappedSource(self.path, self.offset, (*scan_shape, *self.shape[2:]), self.stored, description, self.dataset)

    def __reduce__(self) -> Any:
        description = self.description.split(", mapped at")[0]
        return MappedSource, (self.path, self.offset, self.shape, self.stored, description, self.dataset)


@functools.cache
def _mincore() -> Any:
    """Return the system call that tells which pages of a mapping are in memory; None if the system has none."""
    found = getattr(ctypes.CDLL(None), "mincore", None) if os.name == "posix" else None
    if found is not None:
        found.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
    return found


def _cached(page: int) -> bool:
    """Say whether the page at an address is in memory. Asking costs a hundredth of a hint for pages that are all there."""
    ask, answer = _mincore(), ctypes.create_string_buffer(1)
    return ask is not None and ask(page, 1, answer) == 0 and bool(answer.raw[0] & 1)
