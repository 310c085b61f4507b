"""Make lists of disks: their fields, the tables of updates, and lists in the order of the scan."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import DType
from gpu4d.bragg.disk_search import DiskSearch, Found
from gpu4d.bragg.find_disks import Disks
from gpu4d.data import PointListArray
from gpu4d.data.datacube import itemsize
from gpu4d.data.events import Events
from gpu4d.streaming import ScanInfo

HELD = {"qx": "float64", "qy": "float64", "intensity": "float32", "sx": "float32", "sy": "float32"}
UNITS = {"qx": "px", "qy": "px", "intensity": "counts/px", "sx": "px", "sy": "px"}
PADDED_BYTES = 280  # of a place for a disk while the lists of an update are made: disks, fits, fields, and their copies in the lists
TABLE_BYTES = 83  # of a place for a disk in the tables of an update: 5 numbers of the correlation, 5 of the fit and 3 flags
MADE = 1 << 20  # bytes of patterns that are made of their events at a time, and searched while they are in the cache
KEPT_BYTES = 64 << 20  # of such tables on a device; then lists are made, with one wait for some 10 000 patterns


def lists_of(disks: Disks, shape: tuple[int, ...] | None = None) -> PointListArray:
    """Return padded disks as lists, in the shape of their patterns. On a device this waits for the numbers of disks."""
    xp = arrays.namespace(disks.qx)
    fields = {name: xp.astype(getattr(disks, name), getattr(xp, kind)) for name, kind in HELD.items()}
    return PointListArray.from_padded(disks.count, fields, shape or (disks.count.shape[0],), UNITS)


def in_scan_order(parts: list[tuple[np.ndarray, PointListArray]], shape: tuple[int, ...]) -> PointListArray:
    """Return one list for each position of the scan, from tiles in any order. Positions in no tile have no points."""
    counts = np.zeros(int(np.prod(shape)), dtype=np.int64)
    for number, points in parts:
        counts[number] = arrays.to_numpy(points.counts)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    if not parts:
        return PointListArray(offsets, {name: np.zeros(0, kind) for name, kind in HELD.items()}, shape, UNITS)
    places = [_places(number, arrays.to_numpy(points.offsets), offsets) for number, points in parts]
    like = parts[0][1].offsets
    flat = {}
    for name, kind in HELD.items():
        if isinstance(like, np.ndarray):  # each tile is copied to its place, so that there is no third copy of long lists
            flat[name] = np.empty(offsets[-1], kind)
            for (_, points), at in zip(parts, places):
                flat[name][at] = points.flat(name)
        else:
            xp = arrays.namespace(like)
            order = arrays.from_numpy(np.argsort(np.concatenate(places)), like)
            flat[name] = xp.take(xp.concat([points.flat(name) for _, points in parts]), order)
    return PointListArray(arrays.from_numpy(offsets, like), flat, shape, UNITS)


def one_list(parts: list[tuple[np.ndarray, PointListArray]]) -> dict[int, tuple[np.ndarray, PointListArray]]:
    """Return the lists of many tiles, on the host, as those of one. The key is the number of its first position."""
    if not parts:
        return {}
    numbers = np.sort(np.concatenate([number for number, _ in parts]))
    joined = in_scan_order([(np.searchsorted(numbers, number), points) for number, points in parts], numbers.shape)
    return {int(numbers[0]): (numbers, joined)}


def _places(number: np.ndarray, inside: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the places of a tile's points in the whole list.

    `number` are the positions of the tile, `inside` its own offsets, `offsets` those of the scan.
    """
    return np.arange(inside[-1]) + np.repeat(offsets[number] - inside[:-1], np.diff(inside))


class DiskTables:
    """Disks of the updates of a sweep, by the number of their first position.

    On the host each update makes its lists. On a device the length of a list is known only when its kernel has ended. So padded
    tables are kept there. Lists are made from them on request, or when the tables hold `KEPT_BYTES`.
    """

    def __init__(self, search: DiskSearch):
        self.search = search
        self._lists: dict[int, tuple[np.ndarray, PointListArray]] = {}
        self._tables: dict[int, tuple[np.ndarray, Found]] = {}

    @staticmethod
    def bytes_needed(scan: ScanInfo, n_frames: int, max_peaks: int) -> int:
        """Return the bytes of the tables with `n_frames` frames in one update, including tables kept on a device."""
        update = n_frames * max_peaks
        if scan.on_host:
            made = max(MADE, scan.shape[2] * scan.shape[3] * itemsize(scan.dtype)) if n_frames else 0
            return update * PADDED_BYTES + made
        kept = min(scan.shape[0] * scan.shape[1] * max_peaks * TABLE_BYTES, KEPT_BYTES + update * TABLE_BYTES)
        return update * PADDED_BYTES + kept

    def put(self, number: np.ndarray, frames: Any) -> None:
        """Search frames, and keep their disks. `number` has the number of each frame's position in the scan."""
        first = int(number[0])
        if isinstance(frames, np.ndarray):
            self._lists[first] = number, lists_of(self.search(frames))
            return
        waiting = sum(len(held) for held, _ in list(self._tables.values()))
        if waiting * self.search.limits.max_peaks * TABLE_BYTES > KEPT_BYTES:
            self._make_lists()
        self._tables[first] = number, self.search.find(frames)

    def put_events(self, number: np.ndarray, events: Events, dtype: DType) -> None:
        """Search patterns of a dtype that are kept as events, some at a time."""
        qx, qy = events.detector_shape
        step = max(1, MADE // (qx * qy * itemsize(dtype)))
        for first in range(0, len(events), step):
            frames = events.part(first, min(first + step, len(events))).dense(dtype)
            frames.flags.writeable = False  # as the patterns of a sweep are, so that code is compiled once
            self.put(number[first : first + step], frames)

    def lists(self) -> dict[int, tuple[np.ndarray, PointListArray]]:
        """Return the numbers and the lists of every update."""
        self._make_lists()
        return dict(self._lists)

    def replace(self, lists: dict[int, tuple[np.ndarray, PointListArray]]) -> None:
        """Replace all disks by these lists."""
        self._lists, self._tables = dict(lists), {}

    def on_host(self) -> dict[int, tuple[np.ndarray, PointListArray]]:
        """Return all lists as those of one update, on the host."""
        return one_list([(number, points.to_host()) for number, points in self.lists().values()])

    def add(self, lists: dict[int, tuple[np.ndarray, PointListArray]]) -> None:
        """Add lists of other positions. Several devices may have made lists, which are merged on the host."""
        if any(not isinstance(points.offsets, np.ndarray) for _, points in self.lists().values()):
            self.replace(self.on_host())
        self._lists |= lists

    def _make_lists(self) -> None:
        """Make lists from all tables."""
        for first, (number, found) in list(self._tables.items()):  # keep the list before the table goes, so that no disks are lost
            self._lists[first] = number, lists_of(self.search.merge(found))
            self._tables.pop(first, None)
