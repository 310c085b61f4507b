"""Read hits of a Timepix3 recording as events of a scan. Only the numbers of hits and where their rows lie are in memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d.data.events import PIECE_EVENTS, SORTED_BYTES, Events, EventSource, most_events
from gpu4d.data.source import Shape4
from gpu4d.errors import InputError
from gpu4d.io.foreign import shown
from gpu4d.io.sources.frame_files import MappedFile
from gpu4d.io.sources.timepix_packets import OK, collect_hits, index_hits
from gpu4d.sizes import format_bytes

CHIP = 256  # pixels along an edge of a chip


@dataclass(frozen=True)
class Sweep:
    """How the probe moved: when which positions begin.

    Attributes
    ----------
    edges : (k,) int64
        Ticks of the triggers, sorted.
    per_edge : int
        Positions that follow each: 1, Ry, or Rx · Ry.
    row_ticks, dwell_ticks : float
        From row to row, and at a position.
    now : int
        Time of the first edge of any kind, from which the turn of the clock of hits is known.
    """

    edges: np.ndarray
    per_edge: int
    row_ticks: float
    dwell_ticks: float
    now: int

    def arguments(self) -> tuple[Any, ...]:
        """Return the arguments of compiled functions that describe the sweep."""
        return self.edges, self.per_edge, self.row_ticks, self.dwell_ticks


def pixel_table(chips: int, gap: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the pixel of every address of every chip, and the detector's shape.

    Parameters
    ----------
    chips : {1, 4}
        Four lie in a square: chip 3 at the upper left, 0 at the upper right, 1 at the lower right, 2 at the lower left, the lower ones
        turned by half a turn. This is the layout of ASI's quads.
    gap : int
        Rows and columns between chips, which no address belongs to.

    Returns
    -------
    table : (chips, 65536) int32
    shape : (Qx, Qy)

    Examples
    --------
    >>> table, shape = pixel_table(1, 0)
    >>> shape, int(table[0, 0b0000001_000000_101])
    ((256, 256), 259)
    """
    address = np.arange(1 << 16)
    column = (address >> 9 << 1) + (address >> 2 & 1)  # of double columns of 256 rows, in groups of 4 rows and 2 columns
    row = (address >> 3 & 63) * 4 + (address & 3)
    if chips == 1:
        return (row * CHIP + column)[None].astype(np.int32), (CHIP, CHIP)
    far, size = CHIP + gap, 2 * CHIP + gap
    places = [
        (row, column + far),
        (CHIP - 1 - row + far, CHIP - 1 - column + far),
        (CHIP - 1 - row + far, CHIP - 1 - column),
        (row, column),
    ]
    return np.stack([x * size + y for x, y in places]).astype(np.int32), (size, size)


class TimepixSource(EventSource):
    """A scan recorded as hits of a Timepix3 detector, in a file of packets.

    Parameters
    ----------
    path : str
    sweep : Sweep
    scan_shape : (int, int)
        (Rx, Ry).
    chips : {1, 4}
    gap : int
        Rows and columns of pixels between chips.
    """

    def __init__(self, path: str, sweep: Sweep, scan_shape: tuple[int, int], chips: int, gap: int):
        self.path, self.dataset, self.sweep, self.chips, self.gap = os.path.abspath(path), None, sweep, chips, gap
        self.table, detector = pixel_table(chips, gap)
        self.shape: Shape4 = (*scan_shape, *detector)
        self.dtype: np.dtype = np.dtype(np.uint16)
        self.file = mapped_words(path)
        rx, ry = scan_shape
        self.scans = max(1, len(sweep.edges) * sweep.per_edge // (rx * ry))
        counts, rows = np.zeros(rx * ry, np.int64), np.zeros((self.scans * rx, 3), np.int64)
        shape = np.array(scan_shape, np.int64)
        self.outside = index_hits(words(self.file), sweep.now, self.table, *sweep.arguments(), shape, counts, rows)
        self.file.check()
        self.offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        self.rows = rows
        hits = int(self.offsets[-1])
        again = f", {self.scans} scans added" if self.scans > 1 else ""
        self.description = f"Timepix3, {hits} hits in a file ({format_bytes(self.file.stop)}){again}"
        self.scratch_bytes = SORTED_BYTES * most_events(self.offsets, min(PIECE_EVENTS, hits))

    def read_events(self, rows: slice, columns: slice) -> Events:
        """Read the hits of scan rows × columns from the file."""
        width, size = self.shape[1], (rows.stop - rows.start, columns.stop - columns.start)
        numbers = np.diff(self.offsets).reshape(self.shape[:2])[rows, columns].ravel()
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(numbers)])
        pixels, cursors = np.empty(int(offsets[-1]), np.int64), np.stack([offsets[:-1], offsets[1:]], axis=1)
        if size[0] * size[1] == 0 or not len(pixels):
            return Events(offsets, pixels, None, self.shape[2:])
        self.file.check()
        everything, shape = words(self.file), np.array((self.shape[0], width), np.int64)
        for scan in range(self.scans):
            held = self.rows[scan * self.shape[0] + rows.start : scan * self.shape[0] + rows.stop]
            held = held[held[:, 1] > 0]
            if not len(held):
                continue
            first, last = int(held[:, 0].min()), int(held[:, 1].max())
            now = int(held[held[:, 0].argmin(), 2])
            window = np.array([scan, rows.start, rows.stop, columns.start, columns.stop], np.int64)
            status = collect_hits(
                everything[first:], now, last - first, self.table, *self.sweep.arguments(), shape, window, cursors, pixels
            )
            if status != OK:
                break
        else:
            status = OK
        self.file.check()
        if status != OK or (cursors[:, 0] != cursors[:, 1]).any():
            raise InputError(f"{shown(self.path)}: its hits are not those that were counted: the file was changed while it was read")
        return Events(offsets, pixels, None, self.shape[2:])

    def __reduce__(self) -> Any:
        return TimepixSource, (self.path, self.sweep, self.shape[:2], self.chips, self.gap)


def mapped_words(path: str) -> MappedFile:
    """Map a recording. Its length must be a multiple of a word."""
    try:
        size = os.stat(path).st_size
    except OSError as error:
        raise InputError(f"{shown(path)}: cannot be read ({shown(error.strerror or str(error))})") from error
    if size % 8:
        raise InputError(f"{shown(path)}: {size} bytes, not a whole number of packets of 8 bytes: it is truncated, copy it again")
    return MappedFile(path, size)


def words(file: MappedFile) -> np.ndarray:
    """Return a mapped recording as words (n,) uint64."""
    return file.bytes.view("<u8")
