"""Open and read HDF5 files. This is the door for errors of other libraries: each becomes one line with the file and its member."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

import h5py

from gpu4d.errors import Gpu4dError, InputError
from gpu4d.io.foreign import FOREIGN, reason, shown

# What a failing disk or a lost network drive gives; not every system has all of these numbers.
DRIVE_ERRORS = {getattr(errno, name, None) for name in ("EIO", "ESTALE", "ETIMEDOUT", "ENOTCONN", "EHOSTDOWN", "ENXIO", "ENODEV")} - {None}


def open_file(path: str) -> h5py.File:
    """Open a file read-only. If HDF5 cannot read it, raise an error of one clear line."""
    with contextlib.suppress(ImportError):
        import hdf5plugin  # noqa: F401  registers bitshuffle, LZ4, Zstandard, Blosc …
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"{shown(path)} is not a regular file")  # HDF5 would wait for ever for a pipe that nothing writes to
    try:
        return h5py.File(path, "r")
    except FOREIGN as error:
        text = str(error)
        if "truncated" in text:
            raise InputError(f"{shown(path)}: the HDF5 file is truncated (shorter than its header says): copy it again") from error
        if "unable to lock" in text:
            raise InputError(f"{shown(path)}: another program has the file open for writing: close it there, then try again") from error
        raise InputError(f"{shown(path)}: HDF5 cannot open it ({reason(error)}): it is damaged, or still being written") from error


@contextlib.contextmanager
def reading(path: str, member: str) -> Iterator[None]:
    """Turn every error of another library in the block into one line with the file and the member that is read."""
    try:
        yield
    except Gpu4dError:
        raise
    except FOREIGN as error:
        why = "the file is truncated or damaged, or a file it links to is missing"
        if isinstance(error, OSError) and error.errno in DRIVE_ERRORS:
            why = "its disk or network drive failed; try again, or copy the file to another drive"
        raise InputError(f"{shown(path)}: {shown(member)} cannot be read ({reason(error)}): {why}") from error


@contextlib.contextmanager
def opening(path: str) -> Iterator[None]:
    """Turn every error of another library in the block into one line, while a file is opened and nothing large is read.

    Sizes in a damaged file may be any number. So a lack of memory is an error of the file here.
    """
    try:
        with reading(path, "what it holds"):
            yield
    except MemoryError as error:
        raise InputError(
            f"{shown(path)}: opening it takes more memory than there is: a size in the file is damaged, or too large"
        ) from error
