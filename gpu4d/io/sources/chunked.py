"""Read HDF5 datasets in chunks: each chunk is read once, and decoded outside any lock if its filters allow it."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import math
import os
import threading
from collections.abc import Iterator
from operator import mul
from typing import Any, NamedTuple

import numpy as np

from gpu4d.data.source import Shape4
from gpu4d.errors import InputError
from gpu4d.io.foreign import shown
from gpu4d.io.sources import codecs
from gpu4d.io.sources.chunk_index import ChunkIndex
from gpu4d.io.sources.codecs import Bytes, Filter, Run
from gpu4d.io.sources.hdf5_file import open_file, reading
from gpu4d.io.sources.layout import hints, kept_axes, native_dtype
from gpu4d.io.sources.links import follow
from gpu4d.io.sources.scratch import scratch

LEAST_RUN = 4096  # bytes; shorter runs are not worth a call each
READ_AT_ONCE = 512 << 10  # bytes: small chunks that follow each other are read together up to this size
NOTHING = np.empty(0, np.uint8)
Box = tuple[slice, ...]


class LibrarySource:
    """Read an HDF5 dataset with the HDF5 library itself, which knows any layout and filter.

    Parameters
    ----------
    path, dataset : str
    shape : (Rx, Ry, Qx, Qy)
    dtype : numpy.dtype
        As stored.
    blocks : (int, int)
    description : str
    stored_shape : tuple of int, optional
        Shape of the dataset, `shape` by default. Axes of length one are left away where it has more than four. With three it appears
        as one scan row of all its frames.
    chunk_bytes : int
        Bytes of a decoded chunk. 0 without chunks.
    """

    resident = False

    def __init__(
        self,
        path: str,
        dataset: str,
        shape: Shape4,
        dtype: Any,
        blocks: tuple[int, int],
        description: str,
        stored_shape: tuple[int, ...] | None = None,
        chunk_bytes: int = 0,
    ):
        self.path, self.dataset, self.shape = os.path.abspath(path), dataset, shape
        self.stored, self.blocks, self.description = np.dtype(dtype), blocks, description
        self.stored_shape = shape if stored_shape is None else tuple(stored_shape)
        self._kept = kept_axes(self.stored_shape)
        self.dtype = native_dtype(self.stored)
        self.chunk_bytes = chunk_bytes
        self.scratch_bytes = 3 * chunk_bytes  # in the library: as stored, decoded, and one more of a filter that doubles its buffer
        self._lock = threading.Lock()
        self._open_dataset: Any = None

    def _arguments(self) -> tuple[Any, ...]:
        return self.path, self.dataset, self.shape, self.stored, self.blocks, self.description, self.stored_shape, self.chunk_bytes

    def __reduce__(self) -> Any:
        return type(self), self._arguments()

    def _buffer(self, rows: slice, columns: slice, out: Any) -> np.ndarray:
        if out is not None:
            return out
        return np.empty((rows.stop - rows.start, columns.stop - columns.start, *self.shape[2:]), self.dtype)

    def read(self, rows: slice, columns: slice, out: Any = None) -> Any:
        out = self._buffer(rows, columns, out)
        frames = len(self._kept) == 3
        wanted, values = ((columns,), out[0]) if frames else ((rows, columns), out)
        inside = dict(zip(self._kept, wanted))
        selection = tuple(inside.get(axis, slice(None) if axis in self._kept else 0) for axis in range(len(self.stored_shape)))
        with self._lock, reading(self.path, self.dataset):
            if self._open_dataset is None:
                self._open_dataset = follow(open_file(self.path), self.dataset)
            if values.flags.c_contiguous and self.stored.kind != "b":
                self._open_dataset.read_direct(values, selection)
            else:
                values[...] = self._open_dataset[selection]
        return out


class Piece(NamedTuple):
    """The part of a chunk that lies inside the block being read."""

    place: tuple[int, ...]  # in the grid of chunks
    inside: Box
    part: np.ndarray  # memory it goes to
    offset: int  # of the chunk in the file; -1 if it was never written
    size: int  # of the chunk in the file
    skipped: int  # bits of the filters that were not applied to it


class ChunkedSource(LibrarySource):
    """Read chunks at their places in the file, and decode them in the reading thread, without the HDF5 library.

    The places of all chunks are looked up once. After that any number of threads can read the file at the same time. Each thread keeps
    buffers as large as a chunk: for the stored bytes, and for what cannot be decoded straight into its place. Parameters are those of
    `LibrarySource`, and:

    Parameters
    ----------
    chunks : tuple of int
        Shape of a chunk, with four dimensions.
    filters : tuple of (int, tuple of int)
        HDF5 filter numbers and their values in the order they were applied. `codecs.steps` must know them.
    fill : number
        Value of chunks that were never written.
    index : ChunkIndex
    """

    def __init__(self, *common: Any, chunks: tuple[int, ...], filters: tuple[Filter, ...], fill: Any, index: ChunkIndex):
        super().__init__(*common)
        self.chunks, self.filters, self.fill, self.index = chunks, filters, fill, index
        self._held = np.dtype(np.uint8) if self.stored.kind == "b" else self.stored
        self._nbytes = int(np.prod(chunks, dtype=np.int64)) * self.stored.itemsize
        self._strides = tuple(self.stored.itemsize * math.prod(chunks[i + 1 :]) for i in range(4))  # bytes, of a decoded chunk
        self._steps = codecs.steps(filters, self.stored.itemsize) or ()
        self._checksummed = codecs.checksummed(filters)
        self.scratch_bytes = self._scratch_bytes()
        self._descriptor: int | None = None

    def __reduce__(self) -> Any:
        return _restore, (self._arguments(), {"chunks": self.chunks, "filters": self.filters, "fill": self.fill, "index": self.index})

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            os.close(self._descriptor)  # type: ignore[arg-type]

    def _scratch_bytes(self) -> int:
        """Count the scratch bytes of one thread, at most: stored bytes, a chunk after every filter, and what a codec allocates."""
        if not self._steps and not self._checksummed:  # read straight into their places, except short or converted rows
            straight = self.dtype == self._held and self.chunks[2:] == self.shape[2:] and self._strides[1] >= LEAST_RUN
            return 0 if straight else self._nbytes
        sizes = self.index.sizes
        packed = max(int(sizes.max(initial=0)), min(READ_AT_ONCE, int(sizes.sum())))
        inflated = 3 * codecs.PIECE if any(isinstance(step, codecs.Inflate) for step in self._steps) else 0  # a piece as it grows
        return packed + self._nbytes * max(1, len(self._steps)) + inflated

    def read(self, rows: slice, columns: slice, out: Any = None) -> Any:
        out = self._buffer(rows, columns, out)
        for pieces in self._pieces_by_read(rows, columns, out):
            first, last = pieces[0], pieces[-1]
            if first.offset < 0:
                first.part[...] = self.fill
                continue
            try:
                packed, left = NOTHING, pieces
                if self._steps or self._checksummed:  # unfiltered bytes are read straight to their place
                    packed = self._bytes(first.offset, last.offset + last.size - first.offset)
                    left = self._decode_straight([self._verified(piece, packed, first.offset) for piece in pieces], packed)
                for piece in left:
                    start = piece.offset - first.offset
                    self._decode(piece, packed[start : start + piece.size])
            except codecs.DamagedChunk as damage:
                where = "" if damage.place is None else f" at {self._position(damage.place)}"
                raise InputError(
                    f"{shown(self.path)}: {shown(self.dataset)} cannot be read: its chunk{where} is damaged ({damage}); copy the file again"
                ) from damage
        return out

    def _verified(self, piece: Piece, packed: Bytes, first: int) -> Piece:
        """Return a piece without the checksum at the end of its chunk, after checking it."""
        if not self._checksummed or piece.skipped >> len(self._steps) & 1:
            return piece
        start = piece.offset - first
        try:
            return piece._replace(size=self._without_checksum(packed[start : start + piece.size]).size)
        except codecs.DamagedChunk as damage:
            if self._may_be_unfiltered(piece):
                return piece._replace(skipped=-1)
            damage.place = piece.place
            raise

    def _without_checksum(self, packed: Bytes) -> Bytes:
        return codecs.without_checksum(packed)

    def _as_chunk(self, values: Bytes) -> np.ndarray:
        """Return the decoded bytes of a chunk as its values."""
        return values.view(self._held).reshape(self.chunks)

    def will_read(self, rows: slice, columns: slice) -> None:
        """Ask the operating system to load the chunks of these patterns into its cache. Returns at once."""
        if not hasattr(os, "posix_fadvise"):
            return
        box = (rows, columns, *(slice(0, n) for n in self.shape[2:]))
        offsets, sizes, _ = self.index.lookup(tuple(slice(r.start // c, -(-r.stop // c)) for r, c in zip(box, self.chunks)))
        with contextlib.suppress(OSError, InputError):  # only a hint: the read itself reports what is wrong
            for start, stop in runs_of_bytes(offsets[offsets >= 0], sizes[offsets >= 0]):
                for begin, length in hints(start, stop):
                    os.posix_fadvise(self._file(), begin, length, os.POSIX_FADV_WILLNEED)

    def _pieces_by_read(self, rows: slice, columns: slice, out: np.ndarray) -> Iterator[list[Piece]]:
        """Group pieces of a block. Pieces in one list follow each other in the file and are read at once."""
        held: list[Piece] = []
        end, size = -1, 0
        for piece in self._touched(rows, columns, out):
            follows = (self._steps or self._checksummed) and piece.offset == end and piece.offset >= 0 and size + piece.size <= READ_AT_ONCE
            if held and not follows:
                yield held
                held, size = [], 0
            held.append(piece)
            end, size = piece.offset + piece.size, size + piece.size
        if held:
            yield held

    def _touched(self, rows: slice, columns: slice, out: np.ndarray) -> Iterator[Piece]:
        """Return the pieces of all chunks that hold a part of the block."""
        axes = self._spans(rows, columns)
        stored = self.index.lookup(tuple(slice(spans[0][0], spans[-1][0] + 1) for spans in axes))
        for along, *where in zip(itertools.product(*axes), *(values.tolist() for values in stored)):
            place, inside, target = zip(*along)
            yield Piece(place, inside, out[target], *where)

    def _spans(self, rows: slice, columns: slice) -> list[list[tuple[int, slice, slice]]]:
        """Return for each axis the chunks that hold a part of a block: number, and which part it is in the chunk and in the block."""
        axes = []
        for start, stop, c in zip((rows.start, columns.start, 0, 0), (rows.stop, columns.stop, *self.shape[2:]), self.chunks):
            spans = [(p, max(start, p * c), min(stop, (p + 1) * c)) for p in range(start // c, -(-stop // c))]
            axes.append([(p, slice(low - p * c, high - p * c), slice(low - start, high - start)) for p, low, high in spans])
        return axes

    def _decode_straight(self, pieces: list[Piece], packed: Bytes) -> list[Piece]:
        """Decode in one call all pieces whose bytes in the chunk can go straight to memory. Return the others, which need a buffer."""
        step = self._steps[0] if len(self._steps) == 1 else None
        if not isinstance(step, codecs.BitshuffleBlocks):
            return pieces
        runs = [[] if piece.skipped else self._runs(piece, i) for i, piece in enumerate(pieces)]
        places = [(piece.offset - pieces[0].offset, piece.size) for piece in pieces]
        status = step.undo_runs(packed, places, self._nbytes, list(itertools.chain(*runs))).tolist()
        return [piece for piece, found, result in zip(pieces, runs, status) if not found or result != step.DONE]

    def _decode(self, piece: Piece, packed: Bytes) -> None:
        """Fill a piece from the bytes of its chunk."""
        steps = tuple(step for i, step in enumerate(self._steps) if not piece.skipped >> i & 1)
        if not steps:
            self._plain(piece, packed)
            return
        stored, runs = packed, self._runs(piece)
        try:
            whole = len(runs) == 1 and runs[0][3] == self._nbytes
            values = at_address(runs[0][2], self._nbytes) if whole else scratch.bytes("values", self._nbytes)
            for i in reversed(range(len(steps))):
                target = scratch.bytes(f"step {i}", self._nbytes) if i else values
                steps[i].undo(packed, target)
                packed = target
            if not whole:
                self._copy(values, piece)
        except codecs.DamagedChunk as damage:
            if not self._may_be_unfiltered(piece):
                damage.place = piece.place
                raise
            self._plain(piece, stored)

    def _may_be_unfiltered(self, piece: Piece) -> bool:
        """Say whether a chunk may be stored without its filters: if it crosses the dataset's edge, the file need not say so."""
        over_edge = any((p + 1) * c > n for p, c, n in zip(piece.place, self.chunks, self.shape))
        return over_edge and piece.size == self._nbytes

    def _runs(self, piece: Piece, number: int = 0) -> list[Run]:
        """Return runs of bytes that are contiguous both in a chunk and in memory; none if they are too short to be worth a call each."""
        part = piece.part
        if part.dtype != self._held:
            return []
        if part.nbytes == self._nbytes and part.flags.c_contiguous:  # the whole chunk
            return [(number, 0, part.ctypes.data, part.nbytes)]
        axis, length = 4, part.itemsize
        while axis > 0 and part.strides[axis - 1] == length and part.shape[axis:] == self.chunks[axis:]:
            axis -= 1
            length *= part.shape[axis]
        if length < min(LEAST_RUN, part.nbytes):
            return []
        first = sum(s.start * stride for s, stride in zip(piece.inside, self._strides))
        address = part.ctypes.data
        if axis == 0:
            return [(number, first, address, length)]
        return [
            (number, first + sum(map(mul, index, self._strides)), address + sum(map(mul, index, part.strides)), length)
            for index in itertools.product(*map(range, part.shape[:axis]))
        ]

    def _plain(self, piece: Piece, packed: Bytes) -> None:
        """Fill a piece of a chunk that is stored without filters, from its bytes or, if these are not read yet, from the file."""
        if piece.size != self._nbytes:
            raise codecs.DamagedChunk(f"it holds {piece.size} bytes, not {self._nbytes}", piece.place)
        runs = [] if packed.size else self._runs(piece)
        for _, first, address, length in runs:
            self._fill(at_address(address, length), piece.offset + first)
        if not runs:
            self._copy(packed if packed.size else self._bytes(piece.offset, piece.size), piece)

    def _copy(self, values: Bytes, piece: Piece) -> None:
        part, values = piece.part, self._as_chunk(values)[piece.inside]
        if part.dtype == self._held and part.strides[-1] == values.strides[-1] == part.itemsize:
            row = np.dtype((np.void, part.shape[-1] * part.itemsize))  # copied as one thing, not value by value
            part, values = part.view(row), values.view(row)
        np.copyto(part, values, casting="unsafe")

    def _bytes(self, offset: int, size: int) -> Bytes:
        """Read bytes of the file into a buffer of this thread, which the next call overwrites."""
        packed = scratch.bytes("packed", size)
        self._fill(packed, offset)
        return packed

    def _fill(self, out: Bytes, offset: int) -> None:
        view, done = memoryview(out), 0
        while done < len(view):
            with reading(self.path, self.dataset):
                got = _read_at(self._file(), view[done:], offset + done)
            if got == 0:
                raise InputError(
                    f"{shown(self.path)}: the file ends inside a chunk of {shown(self.dataset)}: it is truncated, or was shortened; "
                    "copy it again"
                )
            done += got

    def _file(self) -> int:
        if self._descriptor is None:
            with self._lock:
                if self._descriptor is None:
                    try:
                        self._descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
                    except OSError as error:
                        raise InputError(f"{self.path}: cannot be read ({error.strerror})") from error
        return self._descriptor

    def _position(self, place: tuple[int, ...]) -> tuple[int, ...]:
        """Return the position of the first value of a chunk, in the axes of the dataset."""
        return tuple(p * c for p, c in zip(place, self.chunks))[4 - len(self._kept) :]


def runs_of_bytes(offsets: np.ndarray, sizes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Return byte ranges of chunks in the order of the file. Ranges that touch are joined."""
    order = np.argsort(offsets)
    start = stop = -1
    for offset, size in zip(offsets[order].tolist(), sizes[order].tolist()):
        if offset != stop:
            if stop > start:
                yield start, stop
            start = offset
        stop = offset + size
    if stop > start:
        yield start, stop


def at_address(address: int, length: int) -> Bytes:
    """Return an array of bytes at an address. The caller keeps the memory alive."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * length).from_address(address))


def _read_at(descriptor: int, view: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [view], offset)
    data = os.pread(descriptor, len(view), offset)
    view[: len(data)] = data
    return len(data)


def _restore(common: tuple[Any, ...], special: dict[str, Any]) -> ChunkedSource:
    return ChunkedSource(*common, **special)
