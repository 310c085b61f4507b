"""Bring row blocks of a scan through one device, chunk by chunk. Reading, copying and computing go on at the same time.

    file ──readers──▶ page-locked ring ──copy stream──▶ device ring ──compute stream──▶ reductions

Nothing in the loop waits for the device. A buffer is given back with an event after its last use. The next to fill it waits for that
event: the copy stream for a device buffer, a reader for a host buffer. On the CPU there is no copy. Readers fill the ring in which
frames are reduced. Frames that are already on the device need no ring.

If memory runs out, `_start_over` handles it, wherever it happened. It waits for all work under way and discards it. It halves the
chunk or, if the chunk is a single tile, shortens the rings. Then tiles that some reduction has not taken yet are read again.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from gpu4d import arrays
from gpu4d.data.datacube import DataCube, itemsize
from gpu4d.data.events import Events, events_of
from gpu4d.data.source import will_read
from gpu4d.data.views import uncorrected
from gpu4d.device.memory import available_memory, leaving
from gpu4d.device.processors.processor import Buffer, Event, Pending, Processor, Stream, Workspace
from gpu4d.errors import MemoryBudgetError
from gpu4d.streaming.plan import Plan
from gpu4d.streaming.reduction import LargeUpdates, in_tiles, takes_events
from gpu4d.streaming.tiles import Tile

log = logging.getLogger("gpu4d")

ANNOUNCED = 8  # tiles that a source is told of before they are read; these tens of megabytes let a disk work ahead


class Work(NamedTuple):
    """Tiles that travel together, and the reductions that have not taken them yet."""

    tiles: tuple[Tile, ...]
    reductions: tuple[Any, ...]

    def __str__(self) -> str:
        return f"reduce rows {self.tiles[0].rows.start}…{self.tiles[-1].rows.stop - 1}"


@dataclass
class Slot:
    """A buffer for one chunk, and the event after its last use. None if there is nothing to wait for."""

    buffer: Buffer
    used: Event | None = None


@dataclass
class Chunk:
    """A chunk that is being read into a slot, or copied to one."""

    work: Work
    slot: Slot
    reads: list[Pending] = field(default_factory=list)
    arrived: Event | None = None


@dataclass(frozen=True)
class Shared:
    """What all conveyors of a pass have in common; several threads use it at once.

    Attributes
    ----------
    blocks : iterator of int
        Row blocks that no conveyor has taken yet.
    stop : threading.Event
        Set by the first conveyor that fails.
    report : callable
        Told how many patterns were reduced.
    """

    blocks: Iterator[int]
    stop: threading.Event
    report: Callable[[int], None]


class Conveyor:
    """Takes row blocks from a shared supply, and feeds their frames to reductions on one device.

    Parameters
    ----------
    cube : DataCube
    todo : Plan
    reductions : list
        Objects that are updated (`gpu4d.streaming.reduction.joined`).
    pixels : (P,) int or None
        Only these detector pixels travel. None for all.
    workspace : Workspace
    processor : Processor
        Processor of the workspace.
    shared : Shared
    """

    def __init__(
        self,
        cube: DataCube,
        todo: Plan,
        reductions: list[Any],
        pixels: np.ndarray | None,
        workspace: Workspace,
        processor: Processor,
        shared: Shared,
    ):
        self.source, self.corrections = uncorrected(cube.source)
        self.todo, self.scan = todo, todo.scan
        self.reductions, self.pixels = tuple(reductions), pixels
        self.workspace, self.processor = workspace, processor
        self.blocks, self.stop, self.report = shared.blocks, shared.stop, shared.report
        self.frame_shape = tuple(self.scan.shape[2:]) if pixels is None else (len(pixels),)
        self.dtype = self.source.dtype  # raw, as the corrections expect it
        self.frame_bytes = int(np.prod(self.frame_shape, dtype=np.int64)) * itemsize(self.dtype)
        self.events = events_of(self.source) if todo.given_events else None
        self.given_events = frozenset(id(one) for one in reductions if self.events is not None and takes_events(one, self.scan))
        self.chunk_tiles, self.ring, self.staging = todo.chunk_tiles, todo.ring, todo.staging
        plain = not self.ring and self.scan.where is None and not self.corrections and self.events is None
        if plain and len(reductions) == 1 and isinstance(reductions[0], LargeUpdates):
            room = (todo.budget - todo.bytes) // (todo.lanes * todo.tile_bytes)  # frames that are not one run of memory are copied
            self.chunk_tiles = max(self.chunk_tiles, min(self.chunk_tiles + room, reductions[0].update_bytes() // todo.tile_bytes))
        self.backlog: deque[Work] = deque()  # taken from the supply, not started
        self.begun: deque[Work] = deque()  # started, in order
        self.reading: deque[Chunk] = deque()
        self.held: list[Buffer] = []
        self.short = ""  # the kind of host memory that ran out; empty for device memory
        self.last_try: Any = ...  # first work of the last attempt with the smallest steps; ... before any

    def run(self) -> None:
        """Work until the supply of row blocks is used up, or `stop` is set."""
        while True:
            self.short = ""
            try:
                self._convey()
                break
            except MemoryBudgetError:
                raise
            except MemoryError as error:
                self._start_over(error)
        if not self.stop.is_set():  # else readers may still use buffers, and closing the workspace waits for them
            for buffer in self.held:
                buffer.free()

    # ---------------------------------------------------------------- three ways in which frames arrive

    def _convey(self) -> None:
        compute = self.workspace.stream("compute")
        if not self.ring:
            self._in_place(compute)
        elif not self.processor.copies:
            self._by_reading(compute)
        else:
            self._over_a_link(compute, self.workspace.stream("copy"))
        compute.synchronize()

    def _in_place(self, compute: Stream) -> None:
        while (work := self._next()) is not None:
            runs = _runs(work.tiles, self.scan.shape[1])
            frames = [None if self.todo.events_only else self._flat(self.source.read(*_rectangle(run))) for run in runs]
            self._reduce(work, compute, list(zip(runs, frames)))

    def _by_reading(self, compute: Stream) -> None:
        free = self._slots(self.ring, self.workspace.allocate)
        while self._read_ahead(free):
            chunk = self._read_next()
            self._reduce(chunk.work, compute, [self._arrived(chunk)])
            free.append(chunk.slot)

    def _over_a_link(self, compute: Stream, copy: Stream) -> None:
        """Start the copy of the next chunk before the work on this one, so that both go on at the same time."""
        with self._of_the_host("page-locked"):
            free = self._slots(self.staging, self.workspace.pinned)
        ring, arriving = self._slots(self.ring, self.workspace.allocate), deque[Chunk]()
        while self._read_ahead(free) or arriving:
            if self.reading and ring:
                chunk = self._read_next()
                arriving.append(self._copy(chunk, ring.popleft(), copy))
                free.append(chunk.slot)
            if len(arriving) > 1 or not self.reading or not ring:  # at the end, and with a ring of one, there is no next chunk
                chunk = arriving.popleft()
                compute.wait(chunk.arrived)  # type: ignore[arg-type]
                self._reduce(chunk.work, compute, [self._arrived(chunk)])
                chunk.slot.used = compute.record()
                ring.append(chunk.slot)

    # ---------------------------------------------------------------- steps of these ways

    def _next(self) -> Work | None:
        """Return the next chunk of work, of this row block or a new one. None if there is no more, or if a conveyor has failed."""
        while not self.backlog:
            block = next(self.blocks, None)
            if block is None:
                return None
            if tiles := tuple(self.todo.tiles(block)):
                self._announce(tiles[:ANNOUNCED])
                self.backlog.append(Work(tiles, self.reductions))
        if self.stop.is_set():
            return None
        work = self.backlog.popleft()
        if len(work.tiles) > self.chunk_tiles:
            later = work.tiles[self.chunk_tiles :]
            self._announce(later[max(0, ANNOUNCED - self.chunk_tiles) : ANNOUNCED])
            self.backlog.appendleft(Work(later, work.reductions))
            work = Work(work.tiles[: self.chunk_tiles], work.reductions)
        self.begun.append(work)
        return work

    def _announce(self, tiles: tuple[Tile, ...]) -> None:
        """Tell the source what will be read soon, so that the disk works ahead of the readers."""
        for tile in tiles:
            will_read(self.source, tile.rows, tile.columns)

    def _slots(self, count: int, get: Callable[[int], Buffer]) -> deque[Slot]:
        """Make a ring: `count` buffers of the size of a chunk, none of them in use."""
        slots = deque[Slot]()
        for _ in range(count):
            self.held.append(get(self.chunk_tiles * self.todo.cut.frames * self.frame_bytes))
            slots.append(Slot(self.held[-1]))
        return slots

    def _read_ahead(self, free: deque[Slot]) -> bool:
        """Start readers on every free slot. Return False if nothing is being read and nothing is left to read."""
        while free and (work := self._next()) is not None:
            chunk, offset = Chunk(work, free.popleft()), 0
            self.reading.append(chunk)
            for tile in work.tiles:
                chunk.reads.append(self.workspace.submit(self._read, tile, chunk.slot.buffer, offset, chunk.slot.used))
                offset += tile.frames * self.frame_bytes
        return bool(self.reading) and not self.stop.is_set()

    def _read(self, tile: Tile, buffer: Buffer, offset: int, used: Event | None) -> None:
        """Read one tile into its place in a buffer, in native dtype. Readers call this."""
        if used is not None:
            used.wait()
        size = tile.rows.stop - tile.rows.start, tile.columns.stop - tile.columns.start
        if self.pixels is None:
            into = buffer.view((*size, *self.frame_shape), self.dtype, offset)
            found = self.source.read(tile.rows, tile.columns, into)
            if found is not into:
                np.copyto(into, found)
        else:
            into = buffer.view((tile.frames, *self.frame_shape), self.dtype, offset)
            frames = np.asarray(self.source.read(tile.rows, tile.columns)).reshape(tile.frames, -1)
            np.take(frames, self.pixels, axis=1, out=into, mode="clip")  # other modes of np.take allocate a buffer

    def _read_next(self) -> Chunk:
        """Wait for the readers of the next chunk, and return it. Until then it counts as being read."""
        with self._of_the_host("host"):
            for read in self.reading[0].reads:
                read.result()
        return self.reading.popleft()

    def _copy(self, chunk: Chunk, slot: Slot, copy: Stream) -> Chunk:
        """Put the copy of a chunk to the device into the copy stream. The host buffer is free after it."""
        if slot.used is not None:
            copy.wait(slot.used)
        frames = sum(tile.frames for tile in chunk.work.tiles)
        self.workspace.copy(slot.buffer, chunk.slot.buffer, frames * self.frame_bytes, copy)
        chunk.slot.used = copy.record()
        return Chunk(chunk.work, slot, arrived=chunk.slot.used)

    def _arrived(self, chunk: Chunk) -> tuple[tuple[Tile, ...], Any]:
        """Return the tiles of a chunk, and their frames (n, Qx, Qy)."""
        tiles = chunk.work.tiles
        return tiles, _read_only(chunk.slot.buffer.view((_frames(tiles), *self.frame_shape), self.dtype))

    def _flat(self, frames: Any) -> Any:
        xp = arrays.namespace(frames)
        flat = xp.reshape(frames, (frames.shape[0] * frames.shape[1], *self.frame_shape))
        # removes numpy.memmap too, because views of it cost Python calls
        return _read_only(np.ascontiguousarray(flat)) if isinstance(flat, np.ndarray) else flat

    def _reduce(self, work: Work, compute: Stream, parts: list[tuple[tuple[Tile, ...], Any]]) -> None:
        """Feed the reductions. If memory runs out, the work that was not taken goes back to the front of `begun`."""
        asked = [[(one, _grouped(one, tiles, self.todo.cut.segment)) for one in work.reductions] for tiles, _ in parts]
        steps, done = [Work(piece, (one,)) for part in asked for one, pieces in part for piece in pieces], 0
        try:
            with self.workspace.computing(compute, str(work)), leaving(self._room()):
                for (tiles, frames), part in zip(parts, asked):
                    events = self.events.read_events(*_rectangle(tiles)) if self.events is not None else None
                    if self.corrections:
                        frames = _read_only(self.corrections.apply(frames))
                    for one, pieces in part:
                        for given in _cut(events if id(one) in self.given_events else frames, pieces):
                            self._update(steps[done], given)
                            done += 1
        except MemoryError:
            self._put_back(steps, done)
            raise
        self._put_back(steps, done)

    def _room(self) -> int:
        """Return the bytes left for the work on a chunk. There are more if chunks or rings had to become smaller."""
        planned, now = self.todo.ring * self.todo.chunk_tiles, self.ring * self.chunk_tiles
        return self.todo.room // self.todo.lanes + max(0, planned - now) * self.todo.tile_bytes

    def _put_back(self, steps: list[Work], done: int) -> None:
        """Put back the work that was not taken. Report a tile once, when the last reduction has taken it."""
        self.begun.popleft()
        self.begun.extendleft(reversed(steps[done:]))
        tiles = tuple(tile for step in steps[:done] if step.reductions[-1] is self.reductions[-1] for tile in step.tiles)
        done_frames = _frames(tiles) if self.scan.where is None else sum(int(self._kept(tile).sum()) for tile in tiles)
        if done_frames:
            self.report(done_frames)

    def _update(self, step: Work, frames: Any) -> None:
        """Give one reduction its frames, or its events: all, or those that `where` keeps."""
        positions = step.tiles[0].positions() if len(step.tiles) == 1 else np.concatenate([tile.positions() for tile in step.tiles])
        if self.scan.where is not None:
            keep = np.flatnonzero(np.concatenate([self._kept(tile) for tile in step.tiles]))
            if not len(keep):
                return
            if len(keep) < len(positions):
                positions, frames = positions[keep], self._picked(frames, keep)
        (reduction,) = step.reductions
        if isinstance(frames, Events):
            reduction.update_events(frames, positions)
            return
        (reduction.update if self.pixels is None else reduction.update_pixels)(frames, positions)

    def _picked(self, frames: Any, keep: np.ndarray) -> Any:
        """Pick some frames, read-only as they are elsewhere, so that code is compiled once; or the events of some."""
        if isinstance(frames, Events):
            return frames.take(keep)
        return _read_only(arrays.namespace(frames).take(frames, arrays.from_numpy(keep, frames), axis=0))

    def _kept(self, tile: Tile) -> np.ndarray:
        assert self.scan.where is not None
        return self.scan.where[tile.rows, tile.columns].ravel()

    # ---------------------------------------------------------------- out of memory

    @contextlib.contextmanager
    def _of_the_host(self, kind: str) -> Iterator[None]:
        """Mark a lack of memory inside the block as one of host memory."""
        try:
            yield
        except MemoryError:
            self.short = kind if self.processor.copies else ""
            raise

    def _start_over(self, error: MemoryError) -> None:
        """Discard all work under way, give back all buffers, and continue with the rest in smaller steps."""
        for chunk in self.reading:
            for read in chunk.reads:
                if not read.cancel():
                    with contextlib.suppress(Exception):  # any other error: the read is repeated, and fails again
                        read.result()
        self.reading.clear()
        self.workspace.trim()  # waits for the device, because its streams may still use the buffers
        while self.held:
            self.held.pop().free()
        self.workspace.trim()
        self.backlog.extendleft(reversed(self.begun))
        self.begun.clear()
        first = (self.backlog[0].tiles[0], self.backlog[0].reductions[0]) if self.backlog else None
        if self.chunk_tiles > 1:
            self.chunk_tiles //= 2
        elif self.ring > 1:
            self.ring -= 1
        elif first != self.last_try:
            self.last_try = first  # meanwhile other programs may have freed memory
        else:
            what, least, free = "a sweep of single tiles", max(self.ring, 1) * self.todo.tile_bytes, self.processor.free_memory
            if self.short:
                what, free = f"{what}, in {self.short} memory,", available_memory
            else:
                least += self.todo.held_bytes
            raise MemoryBudgetError(what, least, free(), self.todo.budget, error) from error
        self.staging = min(self.staging, self.ring)
        reason = str(error)  # text only: a log handler that keeps the error would keep views of the freed buffers
        log.info("%s; continuing with chunks of %d tiles, %d at the same time", reason, self.chunk_tiles, self.ring)


def _read_only(frames: Any) -> Any:
    """Return the same frames, read-only. Writing into them would change them for other reductions, or the caller's array."""
    if isinstance(frames, np.ndarray):
        frames = frames.view()
        frames.flags.writeable = False
    return frames


def _frames(tiles: tuple[Tile, ...]) -> int:
    return sum(tile.frames for tile in tiles)


def _grouped(reduction: Any, tiles: tuple[Tile, ...], segment: int) -> list[tuple[Tile, ...]]:
    """Cut a run of tiles into the pieces a reduction takes: the whole, or segment by segment."""
    return [(part,) for tile in tiles for part in tile.segments(segment)] if in_tiles(reduction) else [tiles]


def _cut(frames: Any, pieces: list[tuple[Tile, ...]]) -> Iterator[Any]:
    """Yield the frames, or events, of each of the pieces that they consist of."""
    if len(pieces) == 1:
        yield frames
        return
    first = 0
    for piece in pieces:
        last = first + _frames(piece)
        yield frames.part(first, last) if isinstance(frames, Events) else frames[first:last, ...]
        first = last


def _runs(tiles: tuple[Tile, ...], columns: int) -> list[tuple[Tile, ...]]:
    """Group tiles so that the positions of a group are a rectangle in scan order. The scan has `columns` columns."""
    rows: list[list[Tile]] = []
    for tile in tiles:
        if rows and _continues(rows[-1], tile):
            rows[-1].append(tile)
        else:
            rows.append([tile])
    runs: list[list[Tile]] = []
    for row in rows:
        if runs and _whole(runs[-1], columns) and _whole(row, columns) and runs[-1][-1].rows.stop == row[0].rows.start:
            runs[-1] += row
        else:
            runs.append(row)
    return [tuple(run) for run in runs]


def _continues(run: list[Tile], tile: Tile) -> bool:
    rows, columns = _rectangle(run)
    beside = rows == tile.rows and rows.stop - rows.start == 1 and columns.stop == tile.columns.start
    return beside or (columns == tile.columns and rows.stop == tile.rows.start)


def _whole(run: list[Tile], columns: int) -> bool:
    """Return True if a rectangle of tiles is made of whole scan rows."""
    return _rectangle(run)[1] == slice(0, columns)


def _rectangle(run: Sequence[Tile]) -> tuple[slice, slice]:
    return slice(run[0].rows.start, run[-1].rows.stop), slice(run[0].columns.start, run[-1].columns.stop)
