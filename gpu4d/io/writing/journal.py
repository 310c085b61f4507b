"""Record which tiles of a conversion are written, so that the same command goes on after the process was killed.

The journal is a text file beside the unfinished scan: a first line that says what is converted into what, and a line for each tile, in
order. Each line ends with a checksum. A line that a killed process did not complete is left out.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import zlib
from typing import Any

import numpy as np

from gpu4d.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Record = dict[str, Any]


class Journal:
    """The record of one conversion. It is held by one process at a time.

    Parameters
    ----------
    path : str
    header : dict
        What is converted into what. Records of another conversion are forgotten.

    Raises
    ------
    InputError
        Another process is converting into the same file, or the folder cannot be written to.
    """

    def __init__(self, path: str, header: Record):
        self.path, self.header = path, json.loads(json.dumps(header))
        self.records: list[Record] = []
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error.strerror}): choose another folder") from error
        try:
            if fcntl is not None:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._file)
            raise InputError(f"another process is converting into this file ({path} is in use): wait until it is done") from error
        except OSError:
            pass  # a drive without locks
        self._load()

    def _load(self) -> None:
        with open(self.path, "rb") as file:
            lines = file.read().split(b"\n")
        found, good = [], 0
        for line in lines[:-1]:
            record = _parsed(line)
            if record is None:
                break
            found.append(record)
            good += len(line) + 1
        if found and found[0] == self.header:
            self.records = found[1:]
            self._cut(good)
        else:
            self.restart()

    def restart(self) -> None:
        """Forget all records."""
        self.records = []
        self._cut(0)
        self._append(self.header)

    def keep(self, count: int) -> None:
        """Forget all records but the first ones."""
        records = self.records[:count]
        self.restart()
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Record a tile that is written."""
        self.records.append(record)
        self._append(record)

    def _append(self, record: Record) -> None:
        text = json.dumps(record, separators=(",", ":")).encode()
        line = text + b"\t%08x\n" % zlib.crc32(text)
        while line:
            line = line[os.write(self._file, line) :]

    def _cut(self, size: int) -> None:
        os.ftruncate(self._file, size)
        os.lseek(self._file, size, os.SEEK_SET)

    def close(self, remove: bool) -> None:
        """Give the journal back, and remove it if nothing can go on from it."""
        if remove:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
        os.close(self._file)


def _parsed(line: bytes) -> Record | None:
    text, _, mark = line.rpartition(b"\t")
    try:
        return json.loads(text) if int(mark, 16) == zlib.crc32(text) else None
    except ValueError:
        return None


def as_text(hashes: np.ndarray) -> str:
    """Return hashes of patterns as text for a record."""
    return base64.b64encode(np.ascontiguousarray(hashes, "<u8").tobytes()).decode()


def from_text(text: str, shape: tuple[int, int]) -> np.ndarray:
    """Return the hashes in a record, (rows, columns) uint64."""
    return np.frombuffer(base64.b64decode(text), "<u8").reshape(shape).astype(np.uint64)
