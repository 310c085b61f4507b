"""Encode chunks for HDF5 and zarr: in any thread, without the interpreter's lock, by the libraries of hdf5plugin.

`gpu4d.io.sources.codecs` undoes what is done here.
"""

from __future__ import annotations

import struct
from typing import Any, Protocol

import numpy as np

from gpu4d.errors import InputError
from gpu4d.io.sources.codecs import BITSHUFFLE, Filter, function

CODECS = {"lz4": "fast", "zstd": "smaller, for archives", "none": "not compressed"}  # names that users give -> what they are for
ZSTD_LEVEL = 3  # of bitshuffled counts, higher ones take several times as long for a few per cent
LZ4_FLAG, ZSTD_FLAG = 2, 3  # bitshuffle's numbers of its compressions
SHUFFLES_BITS = 2  # blosc's number
LEAST_BLOSC = 16  # bytes that blosc adds to what it cannot compress


class Encoder(Protocol):
    """Encodes chunks."""

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Return the encoded bytes of a chunk in C order, in memory of their own."""
        ...


def check_codec(codec: str) -> str:
    """Return the name of a codec; raise InputError for others."""
    if codec not in CODECS:
        raise InputError(f"codec is {codec!r}: accepted are {', '.join(f'{name} ({what})' for name, what in CODECS.items())}")
    return codec


class Bitshuffle:
    """HDF5's bitshuffle filter, 32008, with LZ4 or Zstandard.

    Parameters
    ----------
    codec : {"lz4", "zstd"}
    itemsize : int
        Bytes of a value.
    """

    def __init__(self, codec: str, itemsize: int):
        self.width = itemsize
        self.levels = () if codec == "lz4" else (ZSTD_LEVEL,)
        self.compress, self.bound = function(f"bshuf_compress_{codec}"), function(f"bshuf_compress_{codec}_bound")
        self.block = function("bshuf_default_block_size")(itemsize)
        self.filter: Filter = (BITSHUFFLE, (0, LZ4_FLAG if codec == "lz4" else ZSTD_FLAG, *self.levels))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        out = np.empty(12 + self.bound(values.size, self.width, self.block), np.uint8)
        out[:12] = np.frombuffer(struct.pack(">QI", values.nbytes, self.block * self.width), np.uint8)
        size = self.compress(values.ctypes.data, out.ctypes.data + 12, values.size, self.width, self.block, *self.levels)
        if size < 0:
            raise MemoryError(f"bitshuffle cannot encode {values.nbytes} bytes ({size})")
        return _shortened(out, 12 + size)


class Blosc:
    """Blosc 1 with bitshuffle, and LZ4 or Zstandard inside, as zarr stores it."""

    def __init__(self, codec: str, itemsize: int):
        self.name, self.width, self.level = codec, itemsize, 5 if codec == "lz4" else ZSTD_LEVEL
        self.compress = function("blosc_compress_ctx")

    def __call__(self, values: np.ndarray) -> np.ndarray:
        out = np.empty(values.nbytes + LEAST_BLOSC, np.uint8)
        source, target = values.ctypes.data, out.ctypes.data
        size = self.compress(self.level, SHUFFLES_BITS, self.width, values.nbytes, source, target, out.size, self.name.encode(), 0, 1)
        if size <= 0:
            raise MemoryError(f"blosc cannot encode {values.nbytes} bytes ({size})")
        return _shortened(out, size)


class Plain:
    """No compression: the bytes of the values."""

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return values.reshape(-1).view(np.uint8).copy()


def _shortened(out: Any, size: int) -> np.ndarray:
    """Return the first bytes. If they are much less than the memory behind them, in memory of their own."""
    return out[:size] if 2 * size > out.size else out[:size].copy()
