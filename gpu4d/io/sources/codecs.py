"""Undo HDF5's filters without the HDF5 library: in any thread, outside its lock, into memory that exists already.

The codecs are those in the shared libraries of hdf5plugin. They are called through ctypes, which releases the interpreter's lock. Codecs
trust the lengths written inside a chunk. So these lengths are compared with the number of bytes before any codec is called.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

log = logging.getLogger("gpu4d")

DEFLATE, SHUFFLE, FLETCHER32, BLOSC, LZ4, BITSHUFFLE, ZSTD = 1, 2, 3, 32001, 32004, 32008, 32015  # registered numbers of HDF5 filters
Filter = tuple[int, tuple[int, ...]]  # number and the values the writer left for it
Bytes = Any  # np.ndarray of uint8, one-dimensional: NumPy's types do not say that arrays are buffers
Run = tuple[int, int, int, int]  # number of the chunk, first byte in it, address they go to, how many

PIECE = 1 << 18  # bytes in which gzip is undone: it stays in the cache, and a call costs little compared with the work on it
WORDS = 1 << 16  # of 16 bits whose weighted sum fits into 64 bits

ADDRESS, SIZE, WHOLE, NUMBER = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64, ctypes.c_int
FUNCTIONS: dict[str, tuple[str, Any, tuple[Any, ...]]] = {
    "bshuf_bitunshuffle": ("bshuf", WHOLE, (ADDRESS, ADDRESS, SIZE, SIZE, SIZE)),
    "bshuf_decompress_lz4": ("bshuf", WHOLE, (ADDRESS, ADDRESS, SIZE, SIZE, SIZE)),
    "bshuf_decompress_zstd": ("bshuf", WHOLE, (ADDRESS, ADDRESS, SIZE, SIZE, SIZE)),
    "bshuf_default_block_size": ("bshuf", SIZE, (SIZE,)),
    "bshuf_compress_lz4": ("bshuf", WHOLE, (ADDRESS, ADDRESS, SIZE, SIZE, SIZE)),
    "bshuf_compress_lz4_bound": ("bshuf", SIZE, (SIZE, SIZE, SIZE)),
    "bshuf_compress_zstd": ("bshuf", WHOLE, (ADDRESS, ADDRESS, SIZE, SIZE, SIZE, NUMBER)),
    "bshuf_compress_zstd_bound": ("bshuf", SIZE, (SIZE, SIZE, SIZE)),
    "LZ4_decompress_safe": ("lz4", NUMBER, (ADDRESS, ADDRESS, NUMBER, NUMBER)),
    "ZSTD_decompress": ("zstd", SIZE, (ADDRESS, SIZE, ADDRESS, SIZE)),
    "blosc_cbuffer_validate": ("blosc", NUMBER, (ADDRESS, SIZE, ctypes.POINTER(SIZE))),
    "blosc_decompress_ctx": ("blosc", NUMBER, (ADDRESS, ADDRESS, SIZE, NUMBER)),
    "blosc_compress_ctx": ("blosc", NUMBER, (NUMBER, NUMBER, SIZE, SIZE, ADDRESS, ADDRESS, SIZE, ctypes.c_char_p, SIZE, NUMBER)),
}
"""Name of a function -> library of hdf5plugin that exports it, its result, its arguments."""


class DamagedChunk(ValueError):
    """The bytes of a chunk are not what its filters write. `place` is that of the chunk among all, where it is known."""

    def __init__(self, message: str, place: tuple[int, ...] | None = None):
        self.place = place
        super().__init__(message)


class CodecMissing(RuntimeError):
    """No installed library exports the function that a filter needs."""


class Step(Protocol):
    """The code that undoes one filter."""

    def undo(self, packed: Bytes, out: Bytes) -> None:
        """Fill all of `out` from the bytes `packed`, both one-dimensional uint8. Raise DamagedChunk if that is not possible."""
        ...


@functools.cache
def function(name: str) -> Callable[..., int]:
    """Return a codec's function from the libraries of hdf5plugin; raise CodecMissing if there is none."""
    library, result, arguments = FUNCTIONS[name]
    try:
        import hdf5plugin

        ending = hdf5plugin.get_config().build_config.filter_file_extension
        found = getattr(ctypes.CDLL(os.path.join(hdf5plugin.PLUGIN_PATH, f"libh5{library}{ending}")), name)
    except (ImportError, OSError, AttributeError) as error:
        raise CodecMissing(f"{name} of hdf5plugin cannot be called ({error})") from error
    found.restype, found.argtypes = result, arguments
    return found


def steps(filters: Sequence[Filter], itemsize: int) -> tuple[Step, ...] | None:
    """Return what undoes each filter of a dataset, in the order they were applied; None if only the HDF5 library can.

    Supported are any number of shuffles, followed by at most one compression, and a checksum at the end, which is no step but left to
    `without_checksum`. Then every step gives as many bytes as a chunk has.

    Parameters
    ----------
    filters : sequence of (int, tuple of int)
        Registered numbers and the values the writer left for them.
    itemsize : int
        Bytes of a value.
    """
    filters = filters[:-1] if checksummed(filters) else filters
    known = {number for number, _ in filters} <= STEPS.keys()
    if not known or any(compresses(f) for f in filters[:-1]):
        return None
    try:
        return tuple(STEPS[number](values, itemsize) for number, values in filters)
    except CodecMissing as missing:
        log.info("chunks are decoded by the HDF5 library, one at a time: %s", missing)
        return None


def checksummed(filters: Sequence[Filter]) -> bool:
    """Say whether a checksum is the last filter that is applied to a chunk."""
    return bool(filters) and filters[-1][0] == FLETCHER32


def compresses(filter_: Filter) -> bool:
    """Say whether a filter changes the number of bytes."""
    number, values = filter_
    return bool(_compression(values)) if number == BITSHUFFLE else number != SHUFFLE


def _compression(values: tuple[int, ...]) -> int:
    """Return the compression inside bitshuffle: 0 none, 2 LZ4, 3 Zstandard."""
    return values[4] if len(values) > 4 else 0


class Inflate:
    """The gzip filter, undone by Python's zlib."""

    window = zlib.MAX_WBITS

    def __init__(self, values: tuple[int, ...], itemsize: int):
        pass

    def undo(self, packed: Bytes, out: Bytes) -> None:
        # Piece by piece, and never more than fits: a few bytes may be written to become many gigabytes.
        stream, taken, done = zlib.decompressobj(self.window), 0, 0
        try:
            while not stream.eof:
                given = stream.unconsumed_tail
                if not given:
                    given = packed[taken : taken + PIECE]
                    taken += len(given)
                if not len(given):
                    raise DamagedChunk("it is incomplete")
                data = stream.decompress(given, min(PIECE, out.size - done) or 1)
                if done + len(data) > out.size:
                    raise DamagedChunk(f"it holds more than {out.size} bytes")
                out[done : done + len(data)] = np.frombuffer(data, np.uint8)
                done += len(data)
        except zlib.error as error:
            raise DamagedChunk(str(error)) from error
        _check_length(done, out.size)


def without_checksum(packed: Bytes) -> Bytes:
    """Return the bytes of a chunk before HDF5's fletcher32 filter. Raise DamagedChunk if the checksum, its last four bytes, is wrong.

    HDF5 itself can end the process on damaged chunks with this filter.
    """
    if packed.size < 4:
        raise DamagedChunk(f"{packed.size} bytes have no checksum")
    data, stored = packed[:-4], int.from_bytes(packed[-4:].tobytes(), "little")
    if stored not in fletcher32(data):
        raise DamagedChunk("its checksum is wrong")
    return data


def fletcher32(data: Bytes) -> tuple[int, int]:
    """Return Fletcher's checksum of some bytes as HDF5 writes it, and as old versions of HDF5 wrote it on some machines."""
    words = np.zeros(-(-data.size // 2), ">u2")
    words.view(np.uint8)[: data.size] = data
    low = high = 0
    for first in range(0, words.size, WORDS):
        part = words[first : first + WORDS].astype(np.uint64)
        high += low * part.size + int((part * np.arange(part.size, 0, -1, dtype=np.uint64)).sum())
        low += int(part.sum())
        low, high = low % 65535, high % 65535
    if data.size and words.any():  # ones' complement has two zeros, and sums that are not of zeros alone end at the other one
        low, high = low or 65535, high or 65535
    swapped = [(n & 0xFF) << 8 | n >> 8 for n in (low, high)]
    return high << 16 | low, swapped[1] << 16 | swapped[0]


class Unshuffle:
    """HDF5's shuffle filter: all first bytes of the values, then all second bytes, …"""

    def __init__(self, values: tuple[int, ...], itemsize: int):
        self.width = (values[0] if values else 0) or itemsize

    def undo(self, packed: Bytes, out: Bytes) -> None:
        _check_length(packed.size, out.size)
        n = out.size // self.width
        planes, values = packed[: n * self.width].reshape(self.width, n), out[: n * self.width].reshape(n, self.width)
        for i in range(self.width):
            values[:, i] = planes[i]
        out[n * self.width :] = packed[n * self.width :]


class LZ4Blocks:
    """The LZ4 filter: size and block size (highest byte first), then the length and the bytes of every block."""

    def __init__(self, values: tuple[int, ...], itemsize: int):
        self.decompress = function("LZ4_decompress_safe")

    def undo(self, packed: Bytes, out: Bytes) -> None:
        from gpu4d.io.sources.blocks import block_starts

        if packed.size < 12:
            raise DamagedChunk(f"{packed.size} bytes are not an LZ4 chunk")
        size, block = struct.unpack_from(">QI", packed)
        _check_length(size, out.size)
        if block == 0 or 4 * -(-size // block) > packed.size:
            raise DamagedChunk(f"blocks of {block} bytes do not fit")
        starts = np.empty(-(-size // block) + 1, np.int64)
        if not block_starts(packed, 12, starts):
            raise DamagedChunk("its blocks do not fit")
        source, target = packed.ctypes.data, out.ctypes.data
        for k, first in enumerate(range(0, size, block)):
            begin, length, expected = int(starts[k]) + 4, int(starts[k + 1] - starts[k]) - 4, min(block, size - first)
            if length == expected:  # stored as it was
                out[first : first + expected] = packed[begin : begin + length]
            elif self.decompress(source + begin, target + first, length, expected) != expected:
                raise DamagedChunk(f"LZ4 block {k} cannot be decoded")


class ZstdFrame:
    """The Zstandard filter."""

    def __init__(self, values: tuple[int, ...], itemsize: int):
        self.decompress = function("ZSTD_decompress")

    def undo(self, packed: Bytes, out: Bytes) -> None:
        written = self.decompress(out.ctypes.data, out.size, packed.ctypes.data, packed.size)
        _check_length(written, out.size)  # errors are returned as numbers near 2⁶⁴


class BloscBuffer:
    """Blosc 1, with a context for each call, because the common context has a lock."""

    def __init__(self, values: tuple[int, ...], itemsize: int):
        self.validate, self.decompress = function("blosc_cbuffer_validate"), function("blosc_decompress_ctx")

    def undo(self, packed: Bytes, out: Bytes) -> None:
        size = ctypes.c_size_t()
        if self.validate(packed.ctypes.data, packed.size, ctypes.byref(size)) < 0:
            raise DamagedChunk("the Blosc header does not fit the chunk")
        _check_length(size.value, out.size)
        _check_length(self.decompress(packed.ctypes.data, out.ctypes.data, out.size, 1), out.size)


class BitUnshuffle:
    """Bitshuffle without compression: the lowest bits of all values in a block, then the next ones, …"""

    def __init__(self, values: tuple[int, ...], itemsize: int):
        self.width = (values[2] if len(values) > 2 else 0) or itemsize
        self.block = values[3] if len(values) > 3 else 0
        self.unshuffle = function("bshuf_bitunshuffle")

    def undo(self, packed: Bytes, out: Bytes) -> None:
        _check_length(packed.size, out.size)
        _check_whole(out.size, self.width)
        if self.unshuffle(packed.ctypes.data, out.ctypes.data, out.size // self.width, self.width, self.block) < 0:
            raise DamagedChunk("bitshuffle cannot decode it")


class BitshuffleBlocks:
    """Bitshuffle with LZ4 or Zstandard: size and block size in bytes (highest byte first), then the length and the bytes of every block.

    Each block is coded separately. So a part of the chunk can be decoded alone, directly into its place.
    """

    DONE, CUTS_BLOCKS = 0, 1
    DAMAGE = ("", "", "its size is not that of a chunk", "its block size is none", "its blocks do not fit", "a block cannot be decoded")

    def __init__(self, values: tuple[int, ...], itemsize: int, codec: str):
        self.width = values[2] or itemsize
        decompress = function(f"bshuf_decompress_{codec}")
        self.decompress = ctypes.cast(decompress, ctypes.c_void_p).value  # type: ignore[arg-type]
        self.default_block = function("bshuf_default_block_size")(self.width)

    def undo(self, packed: Bytes, out: Bytes) -> None:
        self.check(int(self.undo_runs(packed, [(0, packed.size)], out.size, [(0, 0, out.ctypes.data, out.size)])[0]))

    def undo_runs(self, packed: Bytes, places: Sequence[tuple[int, int]], size: int, runs: Sequence[Run]) -> np.ndarray:
        """Decode runs of several chunks straight to their addresses, without the interpreter.

        Parameters
        ----------
        packed : (n,) uint8
        places : sequence of (int, int)
            First byte in `packed` and length of every chunk.
        size : int
            Bytes of a decoded chunk.
        runs : sequence of (int, int, int, int)
            In the order of the chunks: number of the chunk, first of its decoded bytes, address they go to, how many.

        Returns
        -------
        (chunks,) int64
            `DONE`, or `CUTS_BLOCKS` if a run begins or ends inside a block (then nothing was decoded). Other values are for `check`.
        """
        from gpu4d.io.sources.blocks import bitshuffle_runs

        status = np.empty(len(places), np.int64)
        where, what = np.array(places, np.int64).reshape(-1, 2), np.array(runs, np.int64).reshape(-1, 4)
        bitshuffle_runs(self.decompress, packed, where, size, self.width, self.default_block, what, status)
        return status

    def check(self, status: int) -> None:
        """Raise what a status of `undo_runs` says."""
        if status != self.DONE:
            raise DamagedChunk(self.DAMAGE[status])


def _bitshuffle(values: tuple[int, ...], itemsize: int) -> Step:
    codec = {0: "", 2: "lz4", 3: "zstd"}.get(_compression(values))
    if codec is None:
        raise CodecMissing(f"compression {values[4]} of bitshuffle is not known")
    return BitshuffleBlocks(values, itemsize, codec) if codec else BitUnshuffle(values, itemsize)


STEPS: dict[int, Callable[[tuple[int, ...], int], Step]] = {
    DEFLATE: Inflate,
    SHUFFLE: Unshuffle,
    BLOSC: BloscBuffer,
    LZ4: LZ4Blocks,
    BITSHUFFLE: _bitshuffle,
    ZSTD: ZstdFrame,
}


def _check_length(given: int, expected: int) -> None:
    if given != expected:
        raise DamagedChunk(f"it holds {given} bytes, not {expected}" if 0 <= given < 1 << 62 else "it cannot be decoded")


def _check_whole(size: int, width: int) -> None:
    if size % width:
        raise DamagedChunk(f"{size} bytes are not a whole number of values of {width} bytes")
