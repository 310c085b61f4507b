"""Tell the content of files by a digest: whole of small ones, of samples of large ones. A run reads each file for it once."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from gpu4d.sizes import format_bytes

WHOLE = 64 << 20  # bytes: a smaller file is read as a whole, which takes a tenth of a second
BLOCK, BLOCKS = 64 << 10, 128  # bytes and number of the blocks that are read of a larger one: 8 MiB, evenly spread, with both ends
READ = 1 << 20  # bytes that are read at once


class Content(NamedTuple):
    """What tells the content of a file.

    Attributes
    ----------
    digest : str
        BLAKE2b of 128 bits, 32 digits.
    of : str
        What it is of, in words.
    changed : int
        Time of the last change in ns, if samples were read; 0 if the whole file was.
    """

    digest: str
    of: str
    changed: int


def content_of(path: str | os.PathLike[str], exact: bool = False) -> Content:
    """Return what tells the content of a file.

    A file of up to 64 MiB is read as a whole. Of a larger one the size and 128 blocks of 64 KiB count, which are spread evenly, with the
    beginning and the end: this finds another file, and not every change. The time of the last change stands beside it.

    Parameters
    ----------
    path : path
    exact : bool
        Read large files as a whole, too.

    Raises
    ------
    OSError
        The file cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "empty"
    >>> path.write_bytes(b"")
    0
    >>> content_of(path)[:2]
    ('cae66941d9efbd404e4d88758ea67670', 'BLAKE2b-128 of the whole file')
    """
    found, about = hashlib.blake2b(digest_size=16), os.stat(path)
    with open(path, "rb", buffering=0) as opened:
        if exact or about.st_size <= WHOLE:
            while part := opened.read(READ):
                found.update(part)
            return Content(found.hexdigest(), "BLAKE2b-128 of the whole file", 0)
        found.update(f"{about.st_size}\n".encode())
        for number in range(BLOCKS):
            opened.seek((about.st_size - BLOCK) * number // (BLOCKS - 1))
            found.update(opened.read(BLOCK))
    of = f"BLAKE2b-128 of the size and of {BLOCKS} blocks of {format_bytes(BLOCK)} at equal distances"
    return Content(found.hexdigest(), of, about.st_mtime_ns)


class Contents:
    """Contents of the files of one run. Each file is read when it is first asked for, and no second time.

    Parameters
    ----------
    exact : bool
        Read large files as a whole, too.
    """

    def __init__(self, exact: bool = False):
        self.exact = exact
        self._known: dict[str, Content] = {}

    def of(self, path: Path) -> Content:
        """Return what tells the content of a file, as of `content_of`."""
        name = os.path.abspath(path)
        if name not in self._known:
            self._known[name] = content_of(path, self.exact)
        return self._known[name]
