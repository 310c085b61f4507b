"""Write scans as one plain block of values: `.npy` and raw files, with what is known of the scan in a file NAME.json beside them."""

from __future__ import annotations

import io
import os
from typing import Any, ClassVar

import numpy as np

from gpu4d.data.source import Shape4
from gpu4d.io.formats.carried import Document
from gpu4d.io.writing.chunks import Tile, frame_bytes
from gpu4d.io.writing.journal import Record
from gpu4d.io.writing.pump import Done, native
from gpu4d.io.writing.writer import Job, record_of


class Block:
    """A file that holds all patterns from one byte on. Any thread writes any tile."""

    def __init__(self, path: str, offset: int, shape: Shape4, item: int):
        self.offset, self.shape, self.frame = offset, shape, frame_bytes(shape, item)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0), 0o666)
        size = offset + shape[0] * shape[1] * self.frame
        if os.fstat(self._file).st_size < size:
            os.ftruncate(self._file, size)

    def place(self, tile: Tile, patterns: np.ndarray) -> None:
        """Write the patterns of a tile, in C order."""
        columns = self.shape[1]
        if tile.columns == slice(0, columns):
            self.write(patterns.reshape(-1).view(np.uint8), self.offset + tile.rows.start * columns * self.frame)
            return
        for number, row in enumerate(range(tile.rows.start, tile.rows.stop)):
            start = self.offset + (row * columns + tile.columns.start) * self.frame
            self.write(patterns[number].reshape(-1).view(np.uint8), start)

    def write(self, values: Any, offset: int) -> None:
        """Write bytes at a place."""
        left = memoryview(values)
        while len(left):
            done = os.pwrite(self._file, left, offset)
            left, offset = left[done:], offset + done

    def close(self, whole: bool = False) -> None:
        if self._file >= 0:
            if whole:
                os.fsync(self._file)
            os.close(self._file)
            self._file = -1


class Raw:
    """A file of values alone, lowest byte first."""

    folder: ClassVar = False
    beside: ClassVar = True
    encode = None

    def __init__(self, job: Job):
        self.job = job
        self.block: Block | None = None
        self.dtype = native(job.cube.dtype).newbyteorder("<")

    def header(self) -> bytes:
        """Return the bytes before the values."""
        return b""

    def begin(self, records: list[Record]) -> int:
        header = self.header()
        self.block = Block(self.job.path, len(header), self.job.cube.shape, self.dtype.itemsize)
        self.block.write(header, 0)
        return len(records)

    def place(self, tile: Tile, patterns: np.ndarray) -> None:
        assert self.block is not None
        self.block.place(tile, np.ascontiguousarray(patterns, self.dtype))

    def put(self, part: Done) -> list[Record]:
        return [record_of(part)]

    def finish(self, known: Document) -> None:
        assert self.block is not None
        self.block.close(whole=True)

    def close(self) -> None:
        if self.block is not None:
            self.block.close()


class Npy(Raw):
    """A NumPy array."""

    def header(self) -> bytes:
        text = io.BytesIO()
        described = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": self.job.cube.shape}
        np.lib.format.write_array_header_1_0(text, described)
        return text.getvalue()
