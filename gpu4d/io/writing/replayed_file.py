"""A file that HDF5 writes once more after the process was killed: the same calls put the same bytes into the same places."""

from __future__ import annotations

import os
from typing import Any

from gpu4d.io.safe_file import SafeFile


class ReplayedFile(SafeFile):
    """A file that may hold chunks of an earlier process. It is never shortened before the end.

    HDF5 places what it writes by the order of the calls alone. So after the same calls chunks lie where they already are. A chunk that
    would lie elsewhere is not written, and `moved` says so: then the file must be written from the start.

    Attributes
    ----------
    placed : int
        Where the last chunk of `awaited` bytes was put; -1 if it was not.
    moved : bool
    """

    def __init__(self, path: str):
        if not os.path.exists(path):
            super().__init__(path)
        else:
            self.file, self.at, self.error, self.kept = open(path, "r+b", buffering=0), 0, None, []
        self.end = 0  # of what was written now
        self.awaited, self.expected, self.placed, self.moved = -1, -1, -1, False

    def await_chunk(self, size: int, expected: int = -1) -> None:
        """Watch for the next write of so many bytes. If it is not at the place that is expected, it is left out."""
        self.awaited, self.expected, self.placed = size, expected, -1

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == 2:
            self.at = offset + self.end
            return self.at
        return super().seek(offset, whence)

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        if size == self.awaited and self.placed < 0:
            self.placed = self.at
            self.moved |= self.expected not in (-1, self.at)
        self.end = max(self.end, self.at + size)
        return size if self.moved else super().write(data)

    def truncate(self, size: int | None = None) -> int:
        return size or 0

    def read_at(self, offset: int, size: int) -> bytes:
        """Return bytes that an earlier process has written."""
        return os.pread(self.file.fileno(), size, offset) if hasattr(os, "pread") else _read(self.file, offset, size)

    def finish(self) -> None:
        """Cut off what lies behind the end, and write everything to the disk; or raise the first error."""
        if self.error is None:
            try:
                self.file.truncate(self.end)
            except OSError as error:
                self.error = error
        super().finish()


def _read(file: Any, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)
