"""Divide a scan into tiles, segments and row blocks.

A **tile** is a rectangle of scan positions of about four megabytes, along the file's own blocks. A **row block** is a run of scan rows
that one conveyor processes, tile by tile, in order. A **chunk** is a run of tiles of one row block that travel to a device together.
They follow from the layout of the file and from the memory. A **segment** is a part of one scan row. It follows from the shape and the
dtype alone, and every tile consists of whole segments. Floats are summed segment by segment. So neither the file's layout nor memory,
workers and the number of devices of one kind change a bit of a result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, lcm

import numpy as np

from gpu4d.data.source import Shape4

TILE_BYTES = 4 << 20  # a few tiles fit into the last-level cache, and a call costs little compared with its work
SEGMENTS = 4  # at least so many segments in a tile: fewer would force larger tiles on some files, more cost more calls
LEAST_BLOCKS = 8  # row blocks of a small scan, if its layout allows, so that threads can share the work
MOST_BLOCKS = 64  # row blocks of a scan: enough for many threads, and few enough to hold a sum for each
LARGEST_NATURAL_TILE = 64 << 20  # larger blocks of a file are read whole only where the memory allows it, by fewer workers


@dataclass(frozen=True)
class Cut:
    """Size of a tile in rows and columns, of a row block in rows, and of a segment in columns."""

    rows: int
    columns: int
    block_rows: int
    segment: int = 1
    amplification: float = 1.0  # how many times the bytes of a file's own block are read

    @property
    def frames(self) -> int:
        return self.rows * self.columns


def segment_of(frame_bytes: int) -> int:
    """Return the number of columns in a segment: a power of two, at most a quarter of `TILE_BYTES`."""
    return 1 << max(0, (TILE_BYTES // SEGMENTS // frame_bytes).bit_length() - 1)


def cut(shape: Shape4, frame_bytes: int, natural: tuple[int, int], block_bytes: int = 0, largest: int = LARGEST_NATURAL_TILE) -> Cut:
    """Divide a scan, given its shape, the bytes of a frame, the natural blocks of its source and the least bytes of a row block.

    A tile is a natural block, or as many natural blocks side by side as give `TILE_BYTES`, in whole segments. If these are all
    columns, a tile has several rows of blocks, but at least `LEAST_BLOCKS` tiles are left. Natural blocks above `largest` bytes
    are divided and read more than once. The smallest tile is one segment.
    """
    rx, ry = max(shape[0], 1), max(shape[1], 1)
    bx, by = min(natural[0], rx), min(natural[1], ry)
    segment = min(segment_of(frame_bytes), ry)
    whole = min(ry, lcm(by, segment))  # columns of whole natural blocks and whole segments
    usual = min(TILE_BYTES, largest)
    if bx * whole * frame_bytes <= largest:
        rows, columns = bx, min(ry, whole * max(1, usual // (bx * whole * frame_bytes)))
    else:
        steps = (whole, segment) if whole * frame_bytes <= largest else (segment,)
        parts = ((_divisor(bx, largest // (step * frame_bytes)), step) for step in steps)
        tiles = [(r, min(ry, step * max(1, largest // (r * step * frame_bytes)))) for r, step in parts]
        rows, columns = min(tiles, key=lambda tile: _times_read((bx, by), ry, *tile))
    if columns == ry and rows == bx:
        share = ceil(ceil(rx / bx) / LEAST_BLOCKS)
        rows = min(rx, bx * max(1, min(share, usual // (bx * ry * frame_bytes))))
    block_rows = rows * max(ceil(ceil(rx / rows) / MOST_BLOCKS), min(ceil(rx / rows), block_bytes // (rows * ry * frame_bytes)))
    return Cut(rows, columns, block_rows, segment, _times_read((bx, by), ry, rows, columns))


def _divisor(n: int, most: int) -> int:
    """Return the largest divisor of `n` that is not above `most`, at least 1."""
    return next((d for d in range(min(n, most), 1, -1) if n % d == 0), 1)


def _times_read(block: tuple[int, int], scan_columns: int, rows: int, columns: int) -> float:
    """Return how many times each block of a file is read in tiles of so many rows and columns, on average."""
    touched = sum((min(at + columns, scan_columns) - 1) // block[1] - at // block[1] + 1 for at in range(0, scan_columns, columns))
    return ceil(block[0] / min(rows, block[0])) * touched / ceil(scan_columns / block[1])


@dataclass(frozen=True)
class Tile:
    """A rectangle of scan positions."""

    rows: slice
    columns: slice

    @property
    def frames(self) -> int:
        return (self.rows.stop - self.rows.start) * (self.columns.stop - self.columns.start)

    def segments(self, columns: int) -> Iterator[Tile]:
        """Yield its parts in one row and one segment of so many columns, in the order of its frames."""
        for row in range(self.rows.start, self.rows.stop):
            for start in range(self.columns.start, self.columns.stop, columns):
                yield Tile(slice(row, row + 1), slice(start, min(start + columns, self.columns.stop)))

    def positions(self) -> np.ndarray:
        """Return the positions of the tile, (n, 2) int64, in scan order."""
        n, columns = self.rows.stop - self.rows.start, self.columns.stop - self.columns.start
        found = np.empty((n, columns, 2), np.int64)
        found[:, :, 0] = np.arange(self.rows.start, self.rows.stop)[:, None]
        found[:, :, 1] = np.arange(self.columns.start, self.columns.stop)
        return found.reshape(n * columns, 2)

    def __str__(self) -> str:
        return f"rows {self.rows.start}…{self.rows.stop - 1}, columns {self.columns.start}…{self.columns.stop - 1}"


def largest_tiles(shape: Shape4, frame_bytes: int, natural: tuple[int, int]) -> Iterator[int]:
    """Yield the most bytes of a tile to try: enough for a natural block of the file, so that it is read once, then less and less."""
    bx, by = (min(block, max(n, 1)) for block, n in zip(natural, shape))
    segment = segment_of(frame_bytes)
    whole = bx * min(max(shape[1], 1), lcm(by, segment)) * frame_bytes
    size = whole
    while size > LARGEST_NATURAL_TILE:
        yield size
        size //= 2
    yield LARGEST_NATURAL_TILE
    size = min(max(whole, TILE_BYTES), LARGEST_NATURAL_TILE) // 2
    while size >= segment * frame_bytes:
        yield size
        size //= 2
