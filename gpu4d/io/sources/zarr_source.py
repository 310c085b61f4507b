"""Read the chunks of a zarr array: each is read once, and decoded in the reading thread. Of shards only the chunks that are needed."""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpu4d.data.source import Shape4
from gpu4d.errors import InputError
from gpu4d.io.foreign import reason, shown
from gpu4d.io.sources import codecs, zarr_codecs
from gpu4d.io.sources.chunked import READ_AT_ONCE, Bytes, ChunkedSource, LibrarySource, Piece
from gpu4d.io.sources.codecs import DamagedChunk, Run
from gpu4d.io.sources.layout import hints, kept_axes
from gpu4d.io.sources.zarr_array import INDEX_ENTRY, Shards, ZarrArray
from gpu4d.io.sources.zarr_store import Place, Store

MOST_PLACES = 4096  # places of files that are kept
OPEN_FILES = 64  # systems allow a process some 1000
MOST_INDEX = 32 << 20  # bytes of indices of shards that are kept
NOWHERE = (1 << 64) - 1  # offset and length of a chunk that a shard does not hold
EXTRA = 1 << 16  # bytes that an encoded chunk may be longer than its values, beside 1/64 of them; every codec stays far below
MOST_RATIO = 40_000  # of values to their encoded bytes; Zstandard reaches 33 thousand for zeros
FILE = 1 << 62  # distance of the addresses of files: chunks of one file follow each other, those of two never do


class ZarrSource(ChunkedSource):
    """Patterns in a zarr array.

    Parameters
    ----------
    store : Store
    array : ZarrArray
        With four axes beside those of length one, or with three.
    shape : (Rx, Ry, Qx, Qy)
    """

    def __init__(self, store: Store, array: ZarrArray, shape: Shape4):
        kept = kept_axes(array.shape)
        chunks = (*(1,) * (4 - len(kept)), *(array.chunks[axis] for axis in kept))
        self._packed_bytes = array.chunk_bytes + array.chunk_bytes // 64 + EXTRA
        blocks = (min(chunks[0], shape[0]), min(chunks[1], shape[1]))
        name = "/" + array.key
        LibrarySource.__init__(self, store.path, name, shape, array.dtype, blocks, array.words, array.shape, array.chunk_bytes)
        self.store, self.stored_as, self.chunks, self.fill = store, array, chunks, array.fill
        self._held = np.dtype(np.uint8) if array.dtype.kind == "b" else array.dtype
        self._nbytes = math.prod(chunks) * array.dtype.itemsize
        self._strides = tuple(array.dtype.itemsize * math.prod(chunks[i + 1 :]) for i in range(4))
        self._turned = array.axes != tuple(range(len(array.shape)))
        self._steps = zarr_codecs.steps(array.codecs, self._held, f"{shown(store.path)}: {shown(name)}")
        self._checksummed = zarr_codecs.checksummed(array.codecs)
        self.scratch_bytes = self._scratch_bytes()
        together = (1,) * len(array.shape) if array.shards is None else array.shards.chunks
        self._grid = tuple(-(-n // (c * k)) for n, c, k in zip(array.shape, array.chunks, together))  # of files
        self._places: OrderedDict[int, Place] = OrderedDict()  # of files, by their numbers in the grid
        self._files: OrderedDict[str, Any] = OrderedDict()
        self._indices: OrderedDict[int, np.ndarray] = OrderedDict()
        self._listing = threading.Lock()
        if self._nbytes != array.chunk_bytes:
            raise InputError(f"{shown(store.path)}: {shown(name)} has chunks longer than its axes of length one: store it anew")

    def __reduce__(self) -> Any:
        return type(self), (self.store, self.stored_as, self.shape)

    def __del__(self) -> None:
        pass  # files close themselves

    def _scratch_bytes(self) -> int:
        if not self._steps and not self._checksummed:
            return self._nbytes
        return max(self._packed_bytes, READ_AT_ONCE) + self._nbytes * max(1, len(self._steps)) + 3 * codecs.PIECE

    # ------------------------------------------------------------ places

    def _touched(self, rows: slice, columns: slice, out: np.ndarray) -> Iterator[Piece]:
        for along in itertools.product(*self._spans(rows, columns)):
            place, inside, target = zip(*along)
            yield Piece(place, inside, out[target], *self._located(place), 0)

    def _located(self, place: tuple[int, ...]) -> tuple[int, int]:
        """Return address and length of a chunk; -1 and 0 if it is not stored."""
        numbers = [0] * len(self.stored_as.shape)
        for axis, value in zip(self._kept, place[4 - len(self._kept) :]):
            numbers[axis] = value
        shards = self.stored_as.shards
        outer, inner = (numbers, []) if shards is None else zip(*(divmod(n, k) for n, k in zip(numbers, shards.chunks)))
        number = int(np.ravel_multi_index(outer, self._grid))
        file = self._place(number)
        if file is None:
            return -1, 0
        offset, size = 0, file.size
        if shards is not None:
            offset, size = (int(n) for n in self._index(number, file, shards)[inner])
            if offset == NOWHERE and size == NOWHERE:
                return -1, 0
            if offset + size > file.size:
                raise InputError(f"{self._called(file)}: a chunk lies behind its end: it is truncated or damaged; copy it again")
        if size > self._packed_bytes:
            raise InputError(f"{self._called(file)}: {size} bytes for a chunk of {self._nbytes}: it is damaged; copy it again")
        return number * FILE + file.offset + offset, size

    def _place(self, number: int) -> Place | None:
        """Return where the file of a chunk or shard is; None if it is not there."""
        with self._listing:
            held = self._places.get(number)
        if held is None:
            held = self.store.locate(self.stored_as.file_of([int(n) for n in np.unravel_index(number, self._grid)]))
            if held is not None:
                with self._listing:
                    self._places[number] = held
                    if len(self._places) > MOST_PLACES:
                        self._places.popitem(last=False)
        return held

    def _index(self, number: int, place: Place, shards: Shards) -> np.ndarray:
        """Return offset and length of every chunk in a shard, (…, 2) uint64."""
        with self._listing:
            held = self._indices.get(number)
        if held is not None:
            return held
        size = shards.index_bytes
        if size > place.size:
            raise InputError(f"{self._called(place)}: it is shorter than its index: it is truncated, copy it again")
        raw = np.empty(size, np.uint8)
        self._fill(raw, number * FILE + place.offset + (place.size - size if shards.at_end else 0))
        try:
            values = zarr_codecs.without_crc32c(raw) if shards.checksummed else raw
        except DamagedChunk as error:
            raise InputError(f"{self._called(place)}: its index is damaged ({error}): copy it again") from error
        index = values.view(f"{shards.order}u8").astype(np.uint64).reshape(*shards.chunks, 2)
        with self._listing:
            self._indices[number] = index
            while len(self._indices) > max(1, MOST_INDEX // (math.prod(shards.chunks) * INDEX_ENTRY)):
                self._indices.popitem(last=False)
        return index

    def _called(self, place: Place) -> str:
        return f"{shown(place.file)} of {shown(self.dataset)}"

    # ------------------------------------------------------------ bytes

    def _open(self, name: str) -> Any:
        """Return an open file. It is closed when the last reader lets it go."""
        with self._listing:
            held = self._files.get(name)
            if held is None:
                try:
                    held = open(name, "rb", buffering=0)
                except OSError as error:
                    raise InputError(f"{shown(name)}: cannot be read ({reason(error)}): it is gone, or was moved") from error
                self._files[name] = held
                if len(self._files) > OPEN_FILES:
                    self._files.popitem(last=False)
            else:
                self._files.move_to_end(name)
            return held

    def _fill(self, out: Bytes, offset: int) -> None:
        number, at = divmod(offset, FILE)
        place = self._place(number)
        if place is None:
            raise InputError(f"{shown(self.path)}: a file of {shown(self.dataset)} is gone; copy it again")
        name = place.file
        file, view, done = self._open(name), memoryview(out), 0
        while done < len(view):
            try:
                got = _read_at(file, view[done:], at + done)
            except OSError as error:
                raise InputError(f"{shown(name)}: cannot be read ({reason(error)}): its disk or network drive failed") from error
            if got == 0:
                raise InputError(f"{shown(name)}: it ends inside a chunk of {shown(self.dataset)}: it is truncated; copy it again")
            done += got

    def will_read(self, rows: slice, columns: slice) -> None:
        if not hasattr(os, "posix_fadvise"):
            return
        try:
            for along in itertools.product(*self._spans(rows, columns)):
                address, size = self._located(tuple(number for number, _, _ in along))
                place = self._place(address // FILE) if address >= 0 else None
                if place is not None:
                    for begin, length in hints(address % FILE, address % FILE + size):
                        os.posix_fadvise(self._open(place.file).fileno(), begin, length, os.POSIX_FADV_WILLNEED)
        except (OSError, InputError):
            return  # only a hint: the read itself reports what is wrong

    # ------------------------------------------------------------ values

    def _decode(self, piece: Piece, packed: Bytes) -> None:
        if self._steps and piece.size * MOST_RATIO < self._nbytes:
            raise DamagedChunk(f"{piece.size} bytes are too few for {self._nbytes}", piece.place)
        super()._decode(piece, packed)

    def _without_checksum(self, packed: Bytes) -> Bytes:
        return zarr_codecs.without_crc32c(packed)

    def _may_be_unfiltered(self, piece: Piece) -> bool:
        return False

    def _as_chunk(self, values: Bytes) -> np.ndarray:
        if not self._turned:
            return super()._as_chunk(values)
        stored = values.view(self._held).reshape([self.stored_as.chunks[axis] for axis in self.stored_as.axes])
        return np.transpose(stored, np.argsort(self.stored_as.axes)).reshape(self.chunks)

    def _runs(self, piece: Piece, number: int = 0) -> list[Run]:
        return [] if self._turned else super()._runs(piece, number)


def _read_at(file: Any, view: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(file.fileno(), [view], offset)
    data = os.pread(file.fileno(), len(view), offset)
    view[: len(data)] = data
    return len(data)
