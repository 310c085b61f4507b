"""Write the patterns of a scan into an open HDF5 file, compressed by several threads.

`write_patterns` is for any writer of HDF5 files: `gpu4d convert`, and results that carry their scan with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from gpu4d.data.source import Source
from gpu4d.io.writing.checksum import NAME, checksum
from gpu4d.io.writing.chunks import choose_chunks, tiles
from gpu4d.io.writing.encoders import Bitshuffle, check_codec
from gpu4d.io.writing.pump import MEMORY, native, pump, tile_bytes, usual_threads

CHECKSUM, KIND = "checksum", "checksum_kind"  # attributes of the dataset


@dataclass(frozen=True)
class Written:
    """What became of a scan.

    Attributes
    ----------
    checksum : str
        Of its patterns, as `gpu4d.io.writing.checksum` says.
    hashes : (Rx, Ry) uint64
        Of every pattern.
    stored_bytes : int
        Bytes of the patterns in the file.
    """

    checksum: str
    hashes: np.ndarray
    stored_bytes: int


def write_patterns(
    group: h5py.Group,
    name: str,
    source: Source,
    *,
    codec: str = "lz4",
    threads: int | None = None,
    memory: int = MEMORY,
    progress: Callable[[int, int], None] | None = None,
    check: Callable[[], None] | None = None,
) -> Written:
    """Write all patterns of a scan as a dataset, read and compressed by several threads.

    Parameters
    ----------
    group : h5py.Group
        Of a file that is open for writing.
    name : str
        Name of the dataset in it.
    source : Source
        For example `cube.source`.
    codec : {"lz4", "zstd", "none"}
        Bitshuffle with LZ4 or with Zstandard, in chunks of whole patterns of about 1 MB; or one block that is not compressed.
    threads : int, optional
        As many as there are cores by default.
    memory : int
        Bytes that tiles may take.
    progress : callable (done, total), optional
        Is told the number of patterns after each tile.
    check : callable, optional
        Is called after each tile, and raises an error if the file cannot be written.

    Returns
    -------
    Written
        With the checksum that stands in the attributes of the dataset.

    Raises
    ------
    InputError
        Another codec, or the source cannot be read.

    Examples
    --------
    >>> import io
    >>> from gpu4d.data.source import ArraySource
    >>> scan = np.arange(2 * 3 * 8 * 8, dtype="uint16").reshape(2, 3, 8, 8)
    >>> with h5py.File(io.BytesIO(), "w") as file:
    ...     written = write_patterns(file, "data", ArraySource(scan))
    ...     bool((file["data"][()] == scan).all()), file["data"].attrs["checksum"] == written.checksum
    (True, True)
    """
    dataset, encode = make_dataset(group, name, source, codec)
    threads = usual_threads() if threads is None else threads
    chunks = choose_chunks(source)
    hashes = np.zeros(source.shape[:2], np.uint64)
    stored = done = 0
    for part in pump(
        source, tiles(source, chunks, tile_bytes(source, threads, memory)), chunks, encode, threads=threads, keep=encode is None
    ):
        where = part.tile.rows, part.tile.columns
        hashes[where] = part.hashes
        for place, coded in part.chunks:
            dataset.id.write_direct_chunk((*place, 0, 0), coded)
            stored += coded.size
        if part.patterns is not None:
            dataset[where] = part.patterns
            stored += part.patterns.nbytes
        done += part.hashes.size
        if check is not None:
            check()
        if progress is not None:
            progress(done, hashes.size)
    found = checksum(hashes, source.shape, dataset.dtype)
    dataset.attrs[CHECKSUM], dataset.attrs[KIND] = found, NAME
    return Written(found, hashes, stored)


def make_dataset(group: h5py.Group, name: str, source: Source, codec: str) -> tuple[h5py.Dataset, Any]:
    """Make the dataset of a scan, still without patterns. Return also what encodes its chunks; None if it is one plain block."""
    dtype = native(source.dtype)
    if check_codec(codec) == "none":
        return group.create_dataset(name, source.shape, dtype, track_times=False), None
    encode = Bitshuffle(codec, dtype.itemsize)
    number, values = encode.filter
    chunks = (*choose_chunks(source), *source.shape[2:])
    made = group.create_dataset(name, source.shape, dtype, chunks=chunks, compression=number, compression_opts=values, track_times=False)
    return made, encode
