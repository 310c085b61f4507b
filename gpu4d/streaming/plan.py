"""How a scan is cut: row blocks and tiles follow from shape, dtype and file layout; only how many are in flight from memory.

A **tile** is what one `update` sees: a rectangle of scan positions of about four megabytes, along the file's own blocks. A
**row block** is a run of scan rows that one thread works through, tile by tile, in order. Because neither depends on
memory or workers, results do not either, to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.data.datacube import DataCube, itemsize
from gpu4d.data.source import Shape4, sample_of
from gpu4d.device.choose import cpu_threads
from gpu4d.device.memory import available_memory, default_budget
from gpu4d.errors import InputError, MemoryBudgetError
from gpu4d.sizes import format_bytes, parse_memory
from gpu4d.streaming.reduction import Reduction, ScanInfo

TILE_BYTES = 4 << 20  # a few tiles fit into the last-level cache, and one hides the cost of a call
LEAST_BLOCKS = 8  # row blocks of a small scan, where its layout allows: threads need work to share
MOST_BLOCKS = 64  # row blocks of a scan: enough to share out, few enough to keep their sums
LARGEST_NATURAL_TILE = 64 << 20  # blocks of a file above this are read in parts, more than once
READ_AHEAD = 3  # tiles of a worker: one in work, two being read


@dataclass(frozen=True)
class Cut:
    """Rows and columns of a tile, and rows of a row block."""

    rows: int
    columns: int
    block_rows: int
    amplification: float = 1.0  # how often the bytes of a file's own block are read

    @property
    def frames(self) -> int:
        return self.rows * self.columns


def cut(shape: Shape4, frame_bytes: int, natural: tuple[int, int]) -> Cut:
    """The cut of a scan, from its shape, the bytes of a frame and the natural blocks of its source."""
    rx, ry = max(shape[0], 1), max(shape[1], 1)
    bx, by = min(natural[0], rx), min(natural[1], ry)
    amplification = 1.0
    if bx * by * frame_bytes > LARGEST_NATURAL_TILE:
        rows, columns = 1, max(1, min(ry, LARGEST_NATURAL_TILE // frame_bytes))
        amplification = bx * by / (rows * min(columns, by))
    else:
        columns = min(ry, by * max(1, TILE_BYTES // (bx * by * frame_bytes)))
        rows = bx
        if columns == ry:
            share = ceil(ceil(rx / bx) / LEAST_BLOCKS)
            rows = min(rx, bx * max(1, min(share, TILE_BYTES // (bx * ry * frame_bytes))))
    block_rows = rows * ceil(ceil(rx / rows) / MOST_BLOCKS)
    return Cut(rows, columns, block_rows, amplification)


@dataclass(frozen=True)
class Plan:
    """What a sweep will do, before it allocates anything."""

    scan: ScanInfo
    cut: Cut
    workers: int
    buffers: int  # per worker; 0 where the source needs none
    tile_bytes: int
    held_bytes: int  # by the reductions
    budget: int
    passes: int

    @property
    def bytes(self) -> int:
        """What the sweep will hold at most."""
        return self.held_bytes + self.workers * max(self.buffers, 1) * self.tile_bytes

    def tiles(self, block: int) -> Iterator[tuple[slice, slice]]:
        """Rows and columns of the tiles of one row block, in order."""
        first, last = self.scan.block_rows[block], self.scan.block_rows[block + 1]
        for row in range(first, last, self.cut.rows):
            for column in range(0, self.scan.shape[1], self.cut.columns):
                yield slice(row, min(row + self.cut.rows, last)), slice(column, min(column + self.cut.columns, self.scan.shape[1]))

    def describe(self) -> list[str]:
        """For people."""
        c, patterns = self.cut, self.scan.shape[0] * self.scan.shape[1]
        buffers = f"{self.buffers} buffers each" if self.buffers else "no buffers: the data are used where they lie"
        lines = [
            f"tiles of {c.rows}×{c.columns} patterns ({format_bytes(self.tile_bytes)}), "
            f"{self.scan.blocks} row blocks of {c.block_rows} rows",
            f"{self.workers} worker{'s' * (self.workers > 1)}, {buffers}",
            f"holds {format_bytes(self.bytes)} of {format_bytes(self.budget)} allowed; "
            f"{patterns} patterns, {self.passes} pass{'es' * (self.passes > 1)}",
        ]
        if c.amplification > 1.01:
            lines.append(
                f"the file's own blocks are larger than a tile: its bytes are read {c.amplification:.3g} times; "
                "rewrite it with smaller chunks"
            )
        return lines


def scan_info(cube: DataCube, where: Any = None) -> tuple[ScanInfo, Cut]:
    """What reductions are told of a cube, and how it is cut."""
    frame_bytes = int(np.prod(cube.detector_shape, dtype=np.int64)) * itemsize(cube.dtype)
    pieces = cut(cube.shape, max(frame_bytes, 1), cube.source.blocks)
    starts = (*range(0, cube.shape[0], pieces.block_rows), cube.shape[0])
    scan = ScanInfo(
        shape=cube.shape,
        dtype=cube.dtype,
        calibration=cube.calibration,
        detector_mask=cube.detector_mask,
        where=_where(where, cube.scan_shape),
        block_rows=starts,
        tile_frames=pieces.frames,
        sample=sample_of(cube.source),
    )
    return scan, pieces


def plan(cube: DataCube, reductions: Mapping[str, Reduction], *, memory: Any = None, where: Any = None) -> Plan:
    """Decide how a sweep runs within a memory budget.

    Parameters
    ----------
    cube : DataCube
    reductions : mapping of str to Reduction
    memory : int or str, optional
        Bytes of private memory gpu4d may hold, or "512 MB"; half of what is free, at most 4 GB, by default.
    where : (Rx, Ry) bool, optional

    Raises
    ------
    MemoryBudgetError
        Even one worker with two buffers does not fit; the error says what is asked, free and allowed.
    """
    scan, pieces = scan_info(cube, where)
    budget = default_budget() if memory is None else parse_memory(memory)
    free = available_memory()
    frame_bytes = int(np.prod(cube.detector_shape, dtype=np.int64)) * itemsize(cube.dtype)
    tile_bytes = pieces.frames * frame_bytes
    held = sum(r.bytes_needed(scan, pieces.frames) for r in reductions.values())
    room = min(budget, free) - held
    host = scan.sample is None or isinstance(scan.sample, np.ndarray)
    buffers, wanted = (0, 1) if cube.source.resident or not host else (READ_AHEAD, 2)  # a buffer is a NumPy array
    if room < wanted * tile_bytes:
        raise MemoryBudgetError(f"a sweep for {', '.join(reductions) or 'nothing'}", held + wanted * tile_bytes, free, budget)
    workers = max(1, min(cpu_threads(), scan.blocks, room // (max(buffers, 1) * tile_bytes))) if host else 1
    if buffers:
        buffers = int(min(READ_AHEAD, room // (workers * tile_bytes)))
    passes = max((r.passes(scan, room) for r in reductions.values()), default=1)
    return Plan(scan, pieces, workers, buffers, tile_bytes, held, budget, passes)


def _where(where: Any, shape: tuple[int, int]) -> np.ndarray | None:
    if where is None:
        return None
    host = arrays.to_numpy(getattr(where, "data", where) if not isinstance(where, np.ndarray) else where)
    if host.shape != tuple(shape):
        raise InputError(f"where is {host.shape}, the scan is {tuple(shape)}: need one bool per scan position")
    return host.astype(bool)
