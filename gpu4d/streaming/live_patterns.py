"""Hold patterns of a live scan until they are reduced: parts of scan rows in buffers, within a memory budget.

Patterns are gathered by segments (`gpu4d.streaming.tiles`), the parts of a scan row in which a sweep adds floats. A segment that is
complete goes to the threads that reduce it, after those before it in its row. So the results of a live scan have the bits of a sweep.

If no buffer is free, who brings patterns waits. Nothing is lost, and nothing more is held.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpu4d.device.memory import available_memory
from gpu4d.device.processors.processor import Buffer
from gpu4d.errors import InputError, MemoryBudgetError


class Segment:
    """Patterns of a part of one scan row, in a buffer."""

    def __init__(self, row: int, first: int, buffer: Buffer, frames: np.ndarray):
        self.row, self.first, self.buffer, self.frames = row, first, buffer, frames
        self.have = np.zeros(len(frames), bool)  # which of them have come
        self.filled = 0
        self.over = False  # reduced


class LivePatterns:
    """Buffers with patterns between those who bring them and the threads that reduce them.

    Parameters
    ----------
    shape : (Rx, Ry, Qx, Qy)
    dtype : dtype
        Of the patterns as they come.
    columns : int
        Columns of a segment.
    any_order : bool
        True if no result depends on the order, so that parts of segments may be reduced to free their buffers.
    allocate : callable
        Function that gives a buffer of so many bytes.
    most : int
        Number of buffers that may be held.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, columns: int, any_order: bool, allocate: Callable[[int], Buffer], most: int):
        self.shape, self.dtype, self.columns = shape, np.dtype(dtype), columns
        self.any_order, self.most = any_order, most
        self.frame_bytes = int(np.prod(shape[2:], dtype=np.int64)) * self.dtype.itemsize
        self._allocate = allocate
        self._changed = threading.Condition()
        self._buffers: list[Buffer] = []  # all
        self._free: list[Buffer] = []
        self._open: dict[tuple[int, int], Segment] = {}  # (row, first column) -> a segment that is not complete
        self._waiting: dict[int, dict[int, Segment]] = defaultdict(dict)  # row -> first column -> complete, behind one that is not
        self._next_of_row: dict[int, int] = {}  # row -> first column of the next segment to reduce
        self._ready: deque[Segment] = deque()
        self._at_work: dict[int, Segment] = {}  # row -> the segment on which a thread works
        self._pauses = 0
        self._ended = False
        self.error: BaseException | None = None
        self.reduced = 0  # patterns
        self.blocked = 0  # how often a thread that feeds had to wait for a free buffer

    # ---------------------------------------------------------------- who brings patterns

    def put(self, start: int, frames: np.ndarray) -> int:
        """Copy patterns (n, Qx, Qy) into the segment of the place `start`, counted row by row, and return how many it took.

        Waits until there is room. An error leaves everything as it was.
        """
        self._check()
        row, column = divmod(start, self.shape[1])
        segment = self._segment(row, column - column % self.columns)
        at = column - segment.first
        n = min(len(frames), len(segment.frames) - at)
        segment.frames[at : at + n] = frames[:n]
        with self._changed:
            self._check()  # it may have been closed meanwhile, and has forgotten the segment
            segment.have[at : at + n] = True
            segment.filled += n
            if segment.filled == len(segment.frames):
                self._completed(segment)
        return n

    def end(self, reduce_rest: bool) -> None:
        """Take no more patterns. Segments that are not complete are reduced as they are, or all that waits is dropped."""
        with self._changed:
            if not self._ended and reduce_rest:
                rest = [*self._open.values(), *(one for row in self._waiting.values() for one in row.values())]
                self._ready.extend(sorted(rest, key=lambda one: (one.row, one.first)))
            elif not reduce_rest:
                for segment in self._ready:
                    segment.over = True
                self._ready.clear()
            self._open.clear()
            self._waiting.clear()
            self._ended = True
            self._changed.notify_all()

    def _segment(self, row: int, first: int) -> Segment:
        """Return the open segment of a place, or a new one as soon as there is a buffer."""
        segment = self._open.get((row, first))
        if segment is None:
            with self._changed:
                buffer = self._room()
                n = min(self.columns, self.shape[1] - first)
                segment = Segment(row, first, buffer, buffer.view((n, *self.shape[2:]), self.dtype, 0))
                self._open[row, first] = segment
        return segment

    def _room(self) -> Buffer:
        """Return a free buffer; wait for one if as many are held as may be."""
        waited = False
        while True:
            self._check()
            if self._free:
                return self._free.pop()
            if len(self._buffers) < self.most:
                try:
                    self._buffers.append(self._allocate(self.columns * self.frame_bytes))
                    return self._buffers[-1]
                except MemoryError:
                    if not self._buffers:
                        raise
                    self.most = len(self._buffers)  # the machine has no more: go on with those that are there
                    continue
            if not self._ready and not self._at_work:
                self._make_room()
            self.blocked += not waited
            waited = True
            self._changed.wait()

    def _make_room(self) -> None:
        """Let the fullest open segment be reduced as it is, where order does not matter; else nothing can be done."""
        if not self.any_order or not self._open:
            bytes_ = self.columns * self.frame_bytes
            what = "a live scan whose patterns come out of order: parts of rows that wait for their neighbours,"
            raise MemoryBudgetError(what, (len(self._buffers) + 1) * bytes_, available_memory(), self.most * bytes_)
        fullest = max(self._open.values(), key=lambda one: one.filled)
        del self._open[fullest.row, fullest.first]
        self._ready.append(fullest)
        self._changed.notify_all()

    def _completed(self, segment: Segment) -> None:
        """Hand on a segment, and those of its row that waited for it."""
        del self._open[segment.row, segment.first]
        if self.any_order:
            self._ready.append(segment)
        else:
            row = self._waiting[segment.row]
            row[segment.first] = segment
            first = self._next_of_row.get(segment.row, 0)
            while first in row:
                self._ready.append(row.pop(first))
                first += self.columns
            self._next_of_row[segment.row] = first
            if not row:
                del self._waiting[segment.row]
        self._changed.notify_all()

    def _check(self) -> None:
        if self.error is not None:
            raise self.error
        if self._ended:
            raise InputError("the live sweep is closed: make another one for the next scan")

    def free(self) -> None:
        """Give back all buffers, when no thread works on them any more."""
        self._free.clear()
        while self._buffers:
            self._buffers.pop().free()

    # ---------------------------------------------------------------- threads that reduce them

    def take(self) -> Segment | None:
        """Wait for a segment in whose row no thread works, and return it. None at the end."""
        with self._changed:
            while self.error is None:
                if not self._pauses:
                    for number, segment in enumerate(self._ready):
                        if segment.row not in self._at_work:
                            del self._ready[number]
                            self._at_work[segment.row] = segment
                            return segment
                    if self._ended and not self._ready:
                        return None
                self._changed.wait()
            return None

    def done(self, segment: Segment) -> None:
        """Take back the buffer of a segment that is reduced."""
        with self._changed:
            del self._at_work[segment.row]
            segment.over = True
            self._free.append(segment.buffer)
            self.reduced += segment.filled
            self._changed.notify_all()

    def fail(self, segment: Segment, error: BaseException) -> None:
        """Stop everything: who brings patterns gets this error."""
        with self._changed:
            del self._at_work[segment.row]
            self.error = self.error or error
            self._changed.notify_all()

    @contextmanager
    def paused(self, caught_up: bool) -> Iterator[None]:
        """Let no thread reduce inside the block. `caught_up` first waits for all segments that are complete now."""
        with self._changed:
            if caught_up:
                known = [*self._ready, *self._at_work.values()]
                self._changed.wait_for(lambda: self.error is not None or all(segment.over for segment in known))
            self._pauses += 1
            self._changed.wait_for(lambda: not self._at_work)
        try:
            yield
        finally:
            with self._changed:
                self._pauses -= 1
                self._changed.notify_all()
