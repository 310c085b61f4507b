"""A file for the HDF5 library that never refuses a write, so that a full disk is an error and not the end of the process."""

from __future__ import annotations

import io
import os
from typing import Any


class SafeFile(io.RawIOBase):
    """A file that never refuses a write. After the first error it continues in memory, and keeps the error.

    The HDF5 library does not survive a failed write: it keeps the file open, repeats the write when it closes, and can end the process.
    So the library does not see that the disk is full until it has finished.
    """

    def __init__(self, path: str):
        self.file = open(path, "x+b", buffering=0)
        self.at = 0
        self.error: OSError | None = None
        self.kept: list[tuple[int, bytes]] = []

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset if whence == 0 else offset + (self.at if whence == 1 else os.fstat(self.file.fileno()).st_size)
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        self.file.seek(self.at)
        n = 0
        while n < len(view) and (got := self.file.readinto(view[n:])):
            n += got
        view[n:] = bytes(len(view) - n)
        for start, data in self.kept:
            low, high = max(start, self.at), min(start + len(data), self.at + len(view))
            if low < high:
                view[low - self.at : high - self.at] = data[low - start : high - start]
        return len(view)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if self.error is None:
            try:
                self.file.seek(self.at)
                done = 0
                while done < len(view):
                    done += self.file.write(view[done:])
                return len(view)
            except OSError as error:
                self.error = error
        self.kept.append((self.at, bytes(view)))
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        if self.error is None:
            try:
                self.file.truncate(size)
            except OSError as error:
                self.error = error
        return size or 0

    def flush(self) -> None:
        pass

    def finish(self) -> None:
        """Write everything to the disk, or raise the first error."""
        if self.error is None:
            os.fsync(self.file.fileno())
        self.file.close()
        if self.error is not None:
            raise self.error
