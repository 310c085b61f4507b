"""Read a scan in tiles, hash every pattern, and encode its chunks in several threads; one thread writes them in their order."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.data.source import Source, check_whole, itemsize, scratch_bytes, will_read
from gpu4d.io.writing.checksum import pattern_hashes
from gpu4d.io.writing.chunks import Chunks, Tile, frame_bytes
from gpu4d.io.writing.encoders import Encoder

MEMORY = 256 << 20  # bytes, of tiles that are read and encoded at the same time
MOST_TILE = 4 << 20  # bytes: patterns are still in the cache when they are encoded. Larger if the blocks of the source ask for it
MOST_THREADS = 16  # more wait for the disk


@dataclass
class Done:
    """A tile that was read: the hashes of its patterns, and its chunks.

    Attributes
    ----------
    tile : Tile
    hashes : (rows, columns) uint64
    chunks : list of ((int, int), array)
        First position of each chunk, and its encoded bytes. Empty without an encoder.
    patterns : (rows, columns, Qx, Qy) array or None
        The patterns, if they are asked for.
    """

    tile: Tile
    hashes: np.ndarray
    chunks: list[tuple[tuple[int, int], np.ndarray]]
    patterns: np.ndarray | None = None


def usual_threads() -> int:
    """Return the number of threads that read and encode, unless it is given."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, MOST_THREADS))


def tile_bytes(source: Source, threads: int, memory: int = MEMORY) -> int:
    """Return how large a tile may be: each thread holds one with its encoded chunks, and as many wait to be written."""
    largest = max(1, memory // (4 * threads) - scratch_bytes(source))
    block = min(source.blocks[0], source.shape[0]) * source.shape[1] * frame_bytes(source.shape, itemsize(source.dtype))
    return min(largest, max(MOST_TILE, block if source.blocks[0] > 1 else 0))


def pump(
    source: Source,
    wanted: Sequence[Tile],
    chunks: Chunks,
    encode: Encoder | None = None,
    *,
    place: Callable[[Tile, np.ndarray], None] | None = None,
    threads: int | None = None,
    keep: bool = False,
) -> Iterator[Done]:
    """Read tiles of a scan and encode their chunks, in several threads. Results come in the order of the tiles.

    Parameters
    ----------
    source : Source
    wanted : sequence of Tile
    chunks : (int, int)
        Positions in a chunk. Chunks over the edge of the scan are filled up with zeros.
    encode : Encoder, optional
    place : callable (tile, patterns), optional
        Is called in the thread that has read the tile, with its patterns.
    threads : int, optional
    keep : bool
        Return the patterns too, in memory that no other tile uses.

    Raises
    ------
    InputError
        The source cannot be read.
    """
    threads = usual_threads() if threads is None else max(1, threads)
    buffers, dtype = _Buffers(), native(source.dtype)

    def one(tile: Tile) -> Done:
        shape = tile.rows.stop - tile.rows.start, tile.columns.stop - tile.columns.start, *source.shape[2:]
        patterns = _read(source, tile, np.empty(shape, dtype) if keep else buffers.of(shape, dtype))
        hashes = pattern_hashes(patterns)
        if place is not None:
            place(tile, patterns)
        coded = [] if encode is None else [_encoded(patterns, tile, cut, chunks, encode) for cut in tile.chunks(chunks)]
        check_whole(source)
        return Done(tile, hashes, coded, patterns if keep else None)

    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Done]] = deque()
        left: Iterable[Tile] = iter(wanted)
        try:
            for tile in left:
                will_read(source, tile.rows, tile.columns)
                waiting.append(pool.submit(one, tile))
                if len(waiting) > 2 * threads - 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def native(dtype: Any) -> np.dtype:
    """Return NumPy's dtype for that of any array library."""
    return dtype if isinstance(dtype, np.dtype) else np.dtype(str(dtype).rpartition(".")[2])


def _read(source: Source, tile: Tile, buffer: np.ndarray) -> np.ndarray:
    """Return the patterns of a tile in C order: those of the source, if it has them so, or in the buffer."""
    found = arrays.to_numpy(source.read(tile.rows, tile.columns, None if source.resident else buffer))
    if found is buffer or (found.flags.c_contiguous and found.dtype == buffer.dtype):
        return found
    np.copyto(buffer, found)
    return buffer


def _encoded(
    patterns: np.ndarray, tile: Tile, cut: tuple[slice, slice], chunks: Chunks, encode: Encoder
) -> tuple[tuple[int, int], np.ndarray]:
    rows, columns = (slice(c.start - t.start, c.stop - t.start) for c, t in zip(cut, (tile.rows, tile.columns)))
    part = patterns[rows, columns]
    if part.shape[:2] != chunks:
        whole = np.zeros((*chunks, *part.shape[2:]), part.dtype)
        whole[: part.shape[0], : part.shape[1]] = part
        part = whole
    return (cut[0].start, cut[1].start), encode(np.ascontiguousarray(part))


class _Buffers(threading.local):
    """A buffer of each thread, used again and again."""

    held: np.ndarray | None = None

    def of(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        size = int(np.prod(shape, dtype=np.int64))
        if self.held is None or self.held.size < size or self.held.dtype != dtype:
            self.held = None  # freed before a larger one is allocated
            self.held = np.empty(size, dtype)
        return self.held[:size].reshape(shape)
