"""Plan a sweep: how the scan is divided (`tiles`), and what memory is held. All of it is decided before anything is allocated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import scan_mask
from gpu4d.data.corrections import Corrections
from gpu4d.data.datacube import DataCube, check_origin, itemsize
from gpu4d.data.events import ReadsEvents, events_of
from gpu4d.data.source import scratch_bytes
from gpu4d.data.views import uncorrected
from gpu4d.device.choose import DeviceLike, cpu_threads
from gpu4d.device.memory import available_memory, default_budget, parse_memory
from gpu4d.device.processors.processor import Processor
from gpu4d.errors import MemoryBudgetError
from gpu4d.sizes import format_bytes
from gpu4d.streaming.place import RESIDENT_BYTES, in_order, on_host, processors_for
from gpu4d.streaming.reduction import Reduction, ScanInfo, takes_events
from gpu4d.streaming.tiles import LARGEST_NATURAL_TILE, Cut, Tile, cut, largest_tiles

CHUNK_BYTES = 64 << 20  # bytes copied to a device at once: this takes 1 ms on a link, and starting a copy takes 10 µs
MOST_READERS = 8  # threads that fill page-locked memory: fewer already saturate a link
EVENT_BYTES = 128  # held for an event in an update: pixel, count and position in 64 bits, and as much as `TakesEvents` allows beside
RING = 3  # chunks a conveyor holds on each side of a link: one in use, one arriving, one spare


@dataclass(frozen=True)
class Plan:
    """Plan of a sweep, made before anything is allocated.

    Attributes
    ----------
    scan, cut : ScanInfo, Cut
    processors : tuple of Processor
        Devices on which frames are reduced. The numbers below are for each of them.
    lanes : int
        Number of conveyors.
    readers : int
        Number of threads that read. 0 if frames are used in place.
    chunk_tiles : int
        Number of tiles that travel together.
    ring, staging : int
        Chunks that a conveyor holds on the device, and in page-locked host memory before a link.
    tile_bytes : int
        Bytes of one whole tile.
    held_bytes : int
        Bytes that the reductions hold and that updates take, of all lanes together.
    scratch_bytes : int
        Bytes of host memory that a reader holds beside the tile it fills: chunks of the file before and after they are decoded.
    budget : int
        Bytes that may be held on the device, and as many on the host beside it.
    room : int
        Bytes of the budget that are left for the work on a chunk.
    copied : bool
        Whether frames may be copied before they are reduced. Only frames that are in order on a device are not.
    passes_of : dict of str to int
        Passes over the scan that each reduction needs within the memory that the plan leaves it.
    corrections : Corrections
        Made to the patterns of each chunk where it is reduced, once, before all reductions.
    given_events : frozenset of str
        Reductions that are given events in place of patterns.
    """

    scan: ScanInfo
    cut: Cut
    processors: tuple[Processor, ...]
    lanes: int
    readers: int
    chunk_tiles: int
    ring: int
    staging: int
    tile_bytes: int
    held_bytes: int
    scratch_bytes: int
    budget: int
    room: int
    copied: bool
    passes_of: Mapping[str, int]
    corrections: Corrections = field(default_factory=Corrections)
    given_events: frozenset[str] = frozenset()

    @property
    def events_only(self) -> bool:
        """Whether all reductions are given events, so that no patterns are made."""
        return bool(self.given_events) and len(self.given_events) == len(self.passes_of)

    @property
    def passes(self) -> int:
        return max(self.passes_of.values(), default=1)

    @property
    def chunk_bytes(self) -> int:
        return self.chunk_tiles * self.tile_bytes

    @property
    def bytes(self) -> int:
        """Most bytes that the sweep will hold on a device, reductions included."""
        decoding = 0 if self.staging else self.decoding_bytes
        return self.held_bytes + self.lanes * max(self.ring, int(self.copied)) * self.chunk_bytes + decoding

    @property
    def staging_bytes(self) -> int:
        """Bytes of host memory for each device: page-locked memory, and memory in which readers decode."""
        return self.page_locked_bytes + self.decoding_bytes if self.staging else 0

    @property
    def page_locked_bytes(self) -> int:
        return self.lanes * self.staging * self.chunk_bytes

    @property
    def decoding_bytes(self) -> int:
        return self.readers * self.scratch_bytes

    @property
    def bytes_fed(self) -> int:
        """Bytes of the tiles of all passes. They arrive at the devices, unless pixels are gathered before."""
        frames = sum(tile.frames for block in range(self.scan.blocks) for tile in self.tiles(block))
        return self.passes * frames * (self.tile_bytes // self.cut.frames)

    @property
    def bytes_read(self) -> int:
        """Bytes that all passes read from the file."""
        return int(self.bytes_fed * self.cut.amplification)

    @property
    def link_rate(self) -> float | None:
        """Nominal bytes per second to all devices together. None if nothing is copied."""
        rates = [processor.link_rate for processor in self.processors]
        return sum(rate for rate in rates if rate) if all(rates) else None

    def seconds(self, read_rate: float) -> float:
        """Return the expected time of all passes: that of reading at the measured `read_rate` or of the link, whichever is longer."""
        return max(self.bytes_read / read_rate, self.bytes_fed / self.link_rate if self.link_rate else 0.0)

    def tiles(self, block: int) -> Iterator[Tile]:
        """Yield the tiles of one row block that hold a position to visit, in order."""
        first, last = self.scan.block_rows[block], self.scan.block_rows[block + 1]
        for row in range(first, last, self.cut.rows):
            for column in range(0, self.scan.shape[1], self.cut.columns):
                tile = Tile(slice(row, min(row + self.cut.rows, last)), slice(column, min(column + self.cut.columns, self.scan.shape[1])))
                if self.scan.where is None or self.scan.where[tile.rows, tile.columns].any():
                    yield tile

    def describe(self) -> list[str]:
        """Describe the plan in a few lines for readers."""
        c, patterns, many = self.cut, self.scan.shape[0] * self.scan.shape[1], len(self.processors) > 1
        lines = [
            f"tiles of {c.rows}×{c.columns} patterns ({format_bytes(self.tile_bytes)}), "
            f"{self.scan.blocks} row blocks of {c.block_rows} rows",
            f"on {', '.join(p.name for p in self.processors)}{' each' * many}: {self.lanes} worker{'s' * (self.lanes > 1)}, {self._flow()}",
            f"holds {format_bytes(self.bytes)} of {format_bytes(self.budget)} allowed"
            + (f", and {format_bytes(self.page_locked_bytes)} page-locked on the host" if self.staging else "")
            + (f", {'beside' if self.staging else 'of it'} {format_bytes(self.decoding_bytes)} to decode in" if self.decoding_bytes else "")
            + f"; {patterns} patterns, {self.passes} pass{'es' * (self.passes > 1)}",
        ]
        if self.corrections:
            lines.append(f"corrected where it is reduced, once for each chunk: {self.corrections.description}")
        if self.given_events:
            lines.append(f"given events as they are: {', '.join(sorted(self.given_events))}")
        if c.amplification > 1.01:
            lines.append(
                f"the file's own blocks are larger than a tile: its bytes are read {c.amplification:.3g} times; "
                "allow more memory, or rewrite it with smaller chunks"
            )
        return lines

    def _flow(self) -> str:
        if not self.ring:
            return "no buffers: the data are used in place"
        if not self.staging:
            return f"{self.ring} buffers each"
        return (
            f"chunks of {self.chunk_tiles} tile{'s' * (self.chunk_tiles > 1)} ({format_bytes(self.chunk_bytes)}), "
            f"{self.staging} in page-locked memory and {self.ring} on the device, {self.readers} readers"
        )


def plan(
    cube: DataCube,
    reductions: Mapping[str, Reduction],
    *,
    device: DeviceLike = "auto",
    memory: int | float | str | None = None,
    where: ArrayLike | None = None,
    rows: tuple[int, int] | None = None,
) -> Plan:
    """Decide how a sweep runs within a memory budget.

    Parameters
    ----------
    cube : DataCube
    reductions : mapping of str to Reduction
    device, memory, where
        As for `gpu4d.sweep`.
    rows : (int, int), optional
        First scan row of the sweep, and the one after the last. All rows by default.

    Raises
    ------
    MemoryBudgetError
        Not even tiles of one segment, each alone, fit. The error says how much is needed, free and allowed.
    """
    processors, in_place = processors_for(cube, device)
    one = processors[0]
    free, host = min(p.free_memory() for p in processors), available_memory()
    on_cuda = one.copies or getattr(one, "on_cuda", False)
    budget = parse_memory(memory) if memory is not None else free // 2 if on_cuda else default_budget()
    raw, corrections = uncorrected(cube.source)
    takers, events = _takers(cube, one, where, reductions)
    host_cap, refused = min(budget, host // len(processors)), list[Plan]()
    sizes = largest_tiles(cube.shape, _frame_bytes(cube), cube.source.blocks)
    ways = ((size, *way) for size in sizes for way in _candidates(cube, one, in_place, takers, reductions, size))
    for largest, lanes, tiles, ring, given_events in ways:
        events_only = _all_given(given_events, reductions)
        scratch = 0 if events_only else scratch_bytes(raw)
        work = Share(tiles, lanes, len(processors), rows)
        scan, pieces = scan_info(cube, where, one.sample(cube.dtype), work, largest)
        held, tile = _held(reductions, scan, lanes), pieces.frames * _frame_bytes(cube)
        held += _correcting(corrections, scan, raw.dtype, lanes)
        held += lanes * tiles * EVENT_BYTES * events if given_events else 0
        locked = lanes * ring * tiles * tile if one.copies else 0
        todo = Plan(
            scan=scan,
            cut=pieces,
            processors=processors,
            lanes=lanes,
            readers=0 if not ring else _readers(scratch, host_cap - locked) if one.copies else lanes,
            chunk_tiles=tiles,
            ring=ring,
            staging=ring if one.copies else 0,
            tile_bytes=tile,
            held_bytes=held,
            scratch_bytes=scratch,
            budget=budget,
            room=0,
            copied=not (in_order(cube) or events_only),
            passes_of={name: r.passes(scan, max(0, min(budget, free) - held)) for name, r in reductions.items()},
            corrections=corrections,
            given_events=given_events,
        )
        if todo.bytes <= min(budget, free) and todo.staging_bytes <= host_cap:
            return replace(todo, room=min(budget, free) - todo.bytes)
        refused.append(todo)
    raise _refused(min(reversed(refused), key=lambda one: one.bytes), reductions, free, host)


def _refused(least: Plan, reductions: Mapping[str, Reduction], free: int, host: int) -> MemoryBudgetError:
    """Say what is missing for the plan that needs the least memory: room on the device, or on the host beside it."""
    what = f"a sweep for {', '.join(reductions) or 'nothing'}"
    if least.bytes > min(least.budget, free):
        return MemoryBudgetError(what, least.bytes, free, least.budget)
    devices = len(least.processors)
    several = f" of {devices} devices" if devices > 1 else ""
    decoding = " and to decode in" if least.scratch_bytes else ""
    what = f"{what}, in page-locked memory{decoding}{several},"
    return MemoryBudgetError(what, devices * least.staging_bytes, host, devices * least.budget)


def _readers(scratch: int, room: int) -> int:
    """Return the number of threads that fill page-locked memory: as many as have memory to decode in, at least one."""
    most = min(cpu_threads(), MOST_READERS)
    return max(1, min(most, room // scratch)) if scratch else most


def _takers(
    cube: DataCube, processor: Processor, where: ArrayLike | None, reductions: Mapping[str, Reduction]
) -> tuple[frozenset[str], int]:
    """Name the reductions that may be given events, and count the events of the tile that has most.

    There are none if corrections or a link to a device need patterns.
    """
    events = None if processor.copies or not on_host(cube) else events_of(cube.source)
    if events is None:
        return frozenset(), 0
    scan, pieces = scan_info(cube, where)
    takers = frozenset(name for name, reduction in reductions.items() if takes_events(reduction, scan))
    return takers, _events_in_a_tile(events, scan, pieces)


def _all_given(given_events: frozenset[str], reductions: Mapping[str, Reduction]) -> bool:
    """Return True if all reductions are given events, so that no patterns are made."""
    return bool(reductions) and len(given_events) == len(reductions)


def _events_in_a_tile(events: ReadsEvents, scan: ScanInfo, pieces: Cut) -> int:
    """Count the events of the tile that has most."""
    rows, columns = (np.arange(0, n, step) for n, step in ((scan.shape[0], pieces.rows), (scan.shape[1], pieces.columns)))
    if not len(rows) or not len(columns):
        return 0
    counts = np.diff(events.offsets).reshape(scan.shape[:2])
    return int(np.add.reduceat(np.add.reduceat(counts, rows, axis=0), columns, axis=1).max())


def _candidates(
    cube: DataCube, processor: Processor, in_place: bool, takers: frozenset[str], reductions: Mapping[str, Reduction], largest: int
) -> Iterator[tuple[int, int, int, frozenset[str]]]:
    """Yield lanes, tiles in a chunk, chunks in a ring and the reductions given events: from the fastest choice to the least memory.

    For the same lanes events come before patterns, because adding events is several times faster than making patterns of them.
    """
    pieces = _cut_of(cube, largest)
    in_a_row = ceil(max(cube.shape[1], 1) / pieces.columns)
    in_a_block = pieces.block_rows // pieces.rows * in_a_row
    most = max(1, min(CHUNK_BYTES // (pieces.frames * _frame_bytes(cube)), in_a_block))
    if in_order(cube):  # whole scan rows are one run of memory, and one update
        row_bytes = pieces.rows * max(cube.shape[1], 1) * _frame_bytes(cube)
        most = max(most, min(RESIDENT_BYTES // row_bytes * in_a_row, in_a_block))
    halved = [most >> i for i in range(most.bit_length())]
    # On the CPU one tile of patterns is a chunk: it stays in the cache, and a call costs little compared with the work on it.
    together = halved if processor.copies or not on_host(cube) else [1]
    ways = [takers, frozenset[str]()] if takers else [frozenset[str]()]
    for lanes in range(processor.lanes, 0, -1):
        for given_events in ways:
            events_only = _all_given(given_events, reductions)
            for tiles in halved if events_only else together:
                yield lanes, tiles, 0 if in_place or events_only else RING, given_events
            if not (in_place or events_only):
                yield lanes, 1, 2, given_events
    if not in_place:
        for given_events in ways:
            if not _all_given(given_events, reductions):
                yield 1, 1, 1, given_events


def _held(reductions: Mapping[str, Reduction], scan: ScanInfo, lanes: int) -> int:
    """Return the bytes of the reductions: what they hold, once, and what an update takes, for every lane."""
    lasting = sum(r.bytes_needed(scan, 0) for r in reductions.values())
    updating = sum(r.bytes_needed(scan, scan.update_frames) for r in reductions.values()) - lasting
    updating += 64 * scan.update_frames  # positions
    if scan.where is not None:  # the frames to keep are picked from those of a chunk
        updating += scan.update_frames * scan.shape[2] * scan.shape[3] * itemsize(scan.dtype)
    return lasting + lanes * updating


def _correcting(corrections: Corrections, scan: ScanInfo, native: Any, lanes: int) -> int:
    """Count the bytes of corrected frames and of the work on them: what lasts once, what a chunk takes for every lane."""
    lasting, chunk = (corrections.bytes_needed(n, scan.shape[2:], native) for n in (0, scan.update_frames))
    return lasting + lanes * (chunk - lasting)


@dataclass(frozen=True)
class Share:
    """What is under way at a time: tiles in an update, conveyors of each device, devices; and which scan rows. None for all rows."""

    tiles: int = 1
    lanes: int = 1
    devices: int = 1
    rows: tuple[int, int] | None = None


def scan_info(
    cube: DataCube, where: Any = None, sample: Any = None, work: Share = Share(), largest: int = LARGEST_NATURAL_TILE
) -> tuple[ScanInfo, Cut]:
    """Return what reductions need to know of a cube, and how it is divided. Blocks of a file above `largest` bytes are divided."""
    check_origin(cube.calibration, cube.scan_shape)  # it may have been set after the cube was made
    pieces = _cut_of(cube, largest)
    parts_of_rows = pieces.columns < cube.shape[1]
    first, last = (0, cube.shape[0]) if work.rows is None else work.rows
    starts, lanes = (*range(first, last, pieces.block_rows), last), work.lanes
    waiting = 1 if lanes == 1 else lanes + 1
    if work.devices > 1:
        waiting = len(starts)
    if work.rows is not None:  # rows of a part of the scan wait for those before them, and travel as they are
        waiting += last - first
    scan = ScanInfo(
        shape=cube.shape,
        dtype=cube.dtype,
        calibration=cube.calibration,
        detector_mask=cube.detector_mask,
        where=scan_mask(where, cube.scan_shape),
        block_rows=starts,
        update_frames=work.tiles * pieces.frames,
        open_blocks=waiting + lanes * parts_of_rows,
        open_rows=lanes * (pieces.rows if parts_of_rows else 1),
        sample=sample,
        rows=work.rows,
    )
    return scan, pieces


def _cut_of(cube: DataCube, largest: int = LARGEST_NATURAL_TILE) -> Cut:
    """Return how a cube is divided. For frames in order on a device, a row block is as long as an update, because one worker takes all."""
    return cut(cube.shape, _frame_bytes(cube), cube.source.blocks, RESIDENT_BYTES if in_order(cube) else 0, largest)


def _frame_bytes(cube: DataCube) -> int:
    """Count the bytes of a raw pattern, as it is read and travels."""
    return max(1, int(np.prod(cube.detector_shape, dtype=np.int64)) * itemsize(uncorrected(cube.source)[0].dtype))
