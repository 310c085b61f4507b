"""Open and read HDF5 files, with errors of the library reduced to one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import h5py

from gpu4d.errors import InputError


def open_file(path: str) -> h5py.File:
    """Open a file read-only. If HDF5 cannot read it, raise an error of one clear line."""
    with contextlib.suppress(ImportError):
        import hdf5plugin  # noqa: F401  registers bitshuffle, LZ4, Zstandard, Blosc …
    try:
        return h5py.File(path, "r")
    except OSError as error:
        text = str(error)
        if "truncated" in text:
            raise InputError(f"{path}: the HDF5 file is truncated (shorter than its header says): copy it again") from error
        if "unable to lock" in text:
            raise InputError(f"{path}: another program has the file open for writing: close it there, then try again") from error
        raise InputError(f"{path}: HDF5 cannot open it ({reason(error)}): it is damaged, or still being written") from error


@contextlib.contextmanager
def reading(path: str, dataset: str) -> Iterator[None]:
    """Turn errors of the HDF5 library while reading into one line."""
    try:
        yield
    except (OSError, RuntimeError, KeyError) as error:
        raise InputError(
            f"{path}: {dataset} cannot be read ({reason(error)}): the file is truncated or damaged, or a file it links to is missing"
        ) from error


def reason(error: Exception) -> str:
    """Return the informative part of an HDF5 error: the innermost parentheses, on one line."""
    text = str(error).strip("'\"")
    return (text[text.rfind("(") + 1 :].rstrip(")") if text.endswith(")") else text).splitlines()[0]
