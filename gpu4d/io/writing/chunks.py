"""Choose the chunks that a scan is written in, and the pieces that it is read in for that."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gpu4d.data.source import Shape4, Source, itemsize

CHUNK_BYTES = 1 << 20  # of patterns: large enough that a call for each costs little, small enough for a core's cache
LEAST_BYTES, MOST_BYTES = CHUNK_BYTES // 2, 2 * CHUNK_BYTES  # accepted for a chunk that follows the blocks of the source
Chunks = tuple[int, int]  # positions along rx and ry; the detector is never cut


@dataclass(frozen=True)
class Tile:
    """A part of a scan that is read at once: whole chunks, except at the end of the scan."""

    rows: slice
    columns: slice

    def chunks(self, chunks: Chunks) -> Iterator[tuple[slice, slice]]:
        """Return the rows and columns of every chunk inside."""
        for x in range(self.rows.start, self.rows.stop, chunks[0]):
            for y in range(self.columns.start, self.columns.stop, chunks[1]):
                yield slice(x, min(x + chunks[0], self.rows.stop)), slice(y, min(y + chunks[1], self.columns.stop))


def choose_chunks(source: Source) -> Chunks:
    """Return how many positions a chunk has: whole patterns along a row, of about 1 MB; several short rows, or one large pattern.

    Where the source has blocks of columns, a chunk is a whole number of them, so that each is read once.

    Examples
    --------
    >>> import numpy as np
    >>> from gpu4d.data.source import ArraySource
    >>> choose_chunks(ArraySource(np.zeros((8, 100, 128, 128), "uint16"))), choose_chunks(ArraySource(np.zeros((8, 10, 16, 16), "uint8")))
    ((1, 25), (8, 10))
    """
    rx, ry, frame = source.shape[0], source.shape[1], frame_bytes(source.shape, itemsize(source.dtype))
    if ry * frame < LEAST_BYTES:
        return evenly(rx, max(1, CHUNK_BYTES // (ry * frame))), ry
    across = source.blocks[1]
    if 1 < across < ry and LEAST_BYTES <= across * frame * max(1, CHUNK_BYTES // (across * frame)) <= MOST_BYTES:
        return 1, across * max(1, CHUNK_BYTES // (across * frame))
    return 1, evenly(ry, max(1, CHUNK_BYTES // frame))


def evenly(n: int, most: int) -> int:
    """Return the size of pieces of at most `most` that n is cut into, as even as possible.

    Examples
    --------
    >>> evenly(100, 32), evenly(10, 32), evenly(7, 2)
    (25, 10, 2)
    """
    return -(-n // -(-n // most))


def frame_bytes(shape: Shape4, item: int) -> int:
    """Return the bytes of a pattern."""
    return shape[2] * shape[3] * item


def tiles(source: Source, chunks: Chunks, most_bytes: int) -> list[Tile]:
    """Cut a scan into tiles, row by row. A tile covers whole chunks, and whole blocks of the source as far as `most_bytes` allow it.

    One chunk is a tile in any case.
    """
    rx, ry = source.shape[:2]
    frame = frame_bytes(source.shape, itemsize(source.dtype))
    down, across = (math.lcm(chunk, block) if block <= n else n for chunk, block, n in zip(chunks, source.blocks, (rx, ry)))
    if min(down, rx) * chunks[1] * frame > most_bytes:
        down = chunks[0]  # blocks of the source are read more than once
    down = min(down, -(-rx // chunks[0]) * chunks[0])
    most = max(chunks[1], most_bytes // (min(down, rx) * frame))  # columns
    across = across * (most // across) if across <= most else chunks[1] * (most // chunks[1])
    across = min(across, ry)
    if across == ry:
        down *= max(1, most_bytes // (min(down, rx) * ry * frame))
    return [Tile(slice(x, min(x + down, rx)), slice(y, min(y + across, ry))) for x in range(0, rx, down) for y in range(0, ry, across)]
