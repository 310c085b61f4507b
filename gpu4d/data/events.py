"""Electron-counted scans as lists of events: which detector pixel was struck, pattern by pattern.

Most pixels of a counted pattern are zero, so that its events take a small part of the bytes of the pattern. `EventSource` keeps a scan in
this form. It makes patterns of the events, as every source gives them. It gives the events themselves to reductions that use them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Protocol, runtime_checkable

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike, DType
from gpu4d.data.arguments import two_sizes
from gpu4d.data.source import Shape4, Source
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.real_arrays import real_array
from gpu4d.sizes import format_bytes

PIECE_EVENTS = 1 << 14  # made into patterns at a time, or one pattern if it has more; this limits the memory of a read
SORTED_BYTES = 64  # of an event while patterns are made of it: its place, in order, and its count, in 64 bits, and copies of them


@dataclass(frozen=True, eq=False)
class Events(Storable, stored="offsets: boundary; pixels counts: event"):
    """Events of a few patterns, as arrays of the host. Do not write to them: they may be parts of larger arrays.

    Each is a count of one pixel. `gpu4d.preprocess.Electrons` are electrons found in raw frames, which have a signal too.

    Attributes
    ----------
    offsets : (n + 1,) int64
        Events of pattern i are ``offsets[i]:offsets[i + 1]`` of the other arrays, which may hold events before and after these.
    pixels : (m,) int
        Number qx · Qy + qy of the pixel that was struck, in any order; a pixel may come more than once.
    counts : (m,) int or None
        How often each was struck, not negative; None for once.
    detector_shape : (Qx, Qy)

    Examples
    --------
    >>> events = Events(np.array([0, 2, 3]), np.array([1, 1, 2]), None, (2, 2))
    >>> events.dense("uint8").tolist(), len(events)
    ([[[0, 2], [0, 0]], [[0, 0], [1, 0]]], 2)
    """

    offsets: np.ndarray
    pixels: np.ndarray
    counts: np.ndarray | None
    detector_shape: tuple[int, int]

    def __repr__(self) -> str:
        events = int(self.offsets[-1]) - int(self.offsets[0])
        return f"Events({len(self)} patterns of {'×'.join(map(str, self.detector_shape))} pixels, {events} events)"

    def __len__(self) -> int:
        """Number of patterns."""
        return len(self.offsets) - 1

    @property
    def whole(self) -> slice:
        """Where in `pixels` and `counts` the events of these patterns lie."""
        return slice(int(self.offsets[0]), int(self.offsets[-1]))

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return offsets from 0, and pixels and counts of these events alone: what operations on events take."""
        counts = None if self.counts is None else self.counts[self.whole]
        return self.offsets - self.offsets[0], self.pixels[self.whole], counts

    def pattern_of_event(self) -> np.ndarray:
        """Return the pattern (0 … n − 1) of every event, (events,) int64."""
        return np.repeat(np.arange(len(self), dtype=np.int64), np.diff(self.offsets))

    def pixel_of_event(self) -> np.ndarray:
        """Return the pixel of every event of these patterns, (events,) int64."""
        return self.pixels[self.whole].astype(np.int64, copy=False)

    def count_of_event(self) -> np.ndarray | None:
        """Return how often each of these events struck, (events,) int; None for once."""
        return None if self.counts is None else self.counts[self.whole]

    def part(self, first: int, last: int) -> Events:
        """Return the events of patterns first … last − 1; nothing is copied."""
        return Events(self.offsets[first : last + 1], self.pixels, self.counts, self.detector_shape)

    def take(self, index: np.ndarray) -> Events:
        """Return the events of some patterns, (k,) int, in that order; their events are copied."""
        sizes = np.diff(self.offsets)[index]
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        chosen = np.repeat(self.offsets[index] - offsets[:-1], sizes) + np.arange(offsets[-1])
        return Events(offsets, self.pixels[chosen], None if self.counts is None else self.counts[chosen], self.detector_shape)

    def dense(self, dtype: DType, out: np.ndarray | None = None) -> np.ndarray:
        """Make patterns of the events.

        Parameters
        ----------
        dtype : dtype
            Of any kind of number that holds the counts.
        out : (n, Qx, Qy) array, optional
            Of that dtype and in C order. It is filled, and no new array is made.

        Returns
        -------
        (n, Qx, Qy) array
            Exact; pixels without an event are 0.

        Raises
        ------
        InputError
            A count is larger than the largest whole number up to which the dtype holds all, or `out` has another shape or dtype.
        """
        shape = len(self), *self.detector_shape
        if out is None:
            out = np.empty(shape, dtype)
        elif out.shape != shape or out.dtype != np.dtype(dtype) or not out.flags.c_contiguous:
            raise InputError(f"out is {out.shape} {out.dtype}: need {shape} {np.dtype(dtype)} in C order")
        out[...] = 0
        flat, pixels = out.reshape(-1), prod(self.detector_shape)
        for first, last in self._pieces():
            piece = self.part(first, last)
            place, sums = summed((piece.pattern_of_event() + first) * pixels + piece.pixel_of_event(), piece.count_of_event())
            check_counts(sums, dtype)
            flat[place] = sums
        return out

    def _pieces(self) -> list[tuple[int, int]]:
        """Cut the patterns into ranges with at most `PIECE_EVENTS` events, or one pattern."""
        found, first = [], 0
        while first < len(self):
            last = int(np.searchsorted(self.offsets, self.offsets[first] + PIECE_EVENTS, side="right")) - 1
            found.append((first, max(last, first + 1)))
            first = found[-1][1]
        return found


@runtime_checkable
class ReadsEvents(Protocol):
    """What a source has beside `Source` if it keeps events, in memory or in a file.

    Attributes
    ----------
    offsets : (Rx · Ry + 1,) int64
        Of all positions of the scan, in memory: a sweep plans with the number of events.
    """

    @property
    def offsets(self) -> np.ndarray: ...

    def read_events(self, rows: slice, columns: slice) -> Events:
        """Return the events of scan rows × columns, position by position, row by row. Called from several threads at once."""
        ...


class EventSource:
    """A scan kept as events in memory (CSR: offsets and flat arrays).

    Parameters
    ----------
    offsets : (Rx · Ry + 1,) int
        Events of position (rx, ry) are those from ``offsets[rx · Ry + ry]`` to the next offset.
    pixels : (m,) int
        Number qx · Qy + qy of the pixel each event struck.
    scan_shape, detector_shape : (int, int)
    counts : (m,) int, optional
        How often the pixel was struck; once by default. All arrays are used in place: do not change them later.
    dtype : dtype, optional
        Of the patterns that `read` gives; uint16 by default. Reading a larger count is an error. A sweep whose reductions all take
        events makes no patterns, and has no such limit.

    Raises
    ------
    InputError
        Arrays that do not fit each other, the scan or the detector, or counts that are no whole numbers from 0 on.

    Examples
    --------
    >>> import gpu4d
    >>> source = EventSource([0, 2, 3], [1, 1, 2], (1, 2), (2, 2))
    >>> np.asarray(gpu4d.sweep(gpu4d.DataCube(source), gpu4d.VirtualImage(np.ones((2, 2), bool)))).tolist()
    [[2.0, 1.0]]
    """

    blocks = (1, 1)
    resident = False

    def __init__(
        self,
        offsets: ArrayLike,
        pixels: ArrayLike,
        scan_shape: tuple[int, int],
        detector_shape: tuple[int, int],
        counts: ArrayLike | None = None,
        dtype: DType = np.uint16,
    ):
        self.shape: Shape4 = (*two_sizes(scan_shape, "scan_shape"), *two_sizes(detector_shape, "detector_shape"))
        self.dtype = np.dtype(dtype)
        self.offsets = _whole_numbers(offsets, "offsets").astype(np.int64)
        self.pixels = _whole_numbers(pixels, "pixels")
        self.counts = None if counts is None else _whole_numbers(counts, "counts")
        self._check()
        given = self.pixels.nbytes + (0 if self.counts is None else self.counts.nbytes)
        self.description = f"{len(self.pixels)} events in memory ({format_bytes(given)})"
        self.scratch_bytes = SORTED_BYTES * most_events(self.offsets, min(PIECE_EVENTS, len(self.pixels)))

    def _check(self) -> None:
        positions, pixels, events = prod(self.shape[:2]), prod(self.shape[2:]), len(self.pixels)
        if len(self.offsets) != positions + 1:
            raise InputError(
                f"{len(self.offsets)} offsets for a scan of {positions} positions: need {positions + 1}, one more than positions"
            )
        falls = np.flatnonzero(np.diff(self.offsets) < 0)
        if len(falls):
            at = int(falls[0])
            raise InputError(f"offsets fall from {self.offsets[at]} to {self.offsets[at + 1]} at position {at}: they must not fall")
        if self.offsets[0] != 0 or self.offsets[-1] != events:
            raise InputError(f"offsets run from {self.offsets[0]} to {self.offsets[-1]} over {events} events: need 0 to {events}")
        if events and not (0 <= int(self.pixels.min()) and int(self.pixels.max()) < pixels):
            raise InputError(
                f"pixels run from {self.pixels.min()} to {self.pixels.max()}: need numbers qx · Qy + qy from 0 to {pixels - 1}"
            )
        if self.counts is not None and len(self.counts) != events:
            raise InputError(f"{len(self.counts)} counts for {events} events: need one for each")
        most = 0 if self.counts is None or not events else int(self.counts.max()) * events * max(self.shape[2:])
        if self.counts is not None and events and (int(self.counts.min()) < 0 or most >= 2**63):
            raise InputError(
                f"counts run from {self.counts.min()} to {self.counts.max()}: need numbers from 0 on whose sums and first moments "
                "stay below 2⁶³"
            )
        largest(self.dtype)

    def read(self, rows: slice, columns: slice, out: np.ndarray | None = None) -> np.ndarray:
        """Make the patterns of scan rows × columns of their events."""
        size = rows.stop - rows.start, columns.stop - columns.start
        out = np.empty((*size, *self.shape[2:]), self.dtype) if out is None else out
        flat = out.reshape(-1, *self.shape[2:]) if out.flags.c_contiguous else np.empty((prod(size), *self.shape[2:]), self.dtype)
        first = 0
        for row in _bands(rows, columns, self.shape[1]):  # events of whole rows are one run of memory, and are not copied
            events = self.read_events(row, columns)
            events.dense(self.dtype, flat[first : first + len(events)])
            first += len(events)
        if not out.flags.c_contiguous:
            out[...] = flat.reshape(out.shape)
        return out

    def read_events(self, rows: slice, columns: slice) -> Events:
        """Return the events of scan rows × columns; those of whole rows, or of one row, are not copied."""
        whole = Events(self.offsets, self.pixels, self.counts, self.shape[2:])
        if rows.stop - rows.start == 1 or columns == slice(0, self.shape[1]):
            return whole.part(rows.start * self.shape[1] + columns.start, (rows.stop - 1) * self.shape[1] + columns.stop)
        numbers = np.arange(rows.start, rows.stop)[:, None] * self.shape[1] + np.arange(columns.start, columns.stop)
        return whole.take(numbers.ravel())


def events_of(source: Source) -> ReadsEvents | None:
    """Return a source that keeps events as such; None for others, also for views of one, whose patterns are made of events first."""
    return source if isinstance(source, ReadsEvents) else None


def most_events(offsets: np.ndarray, least: int = 0) -> int:
    """Count the events of the position that has most; `least`, if that is more."""
    return max(least, int(np.diff(offsets).max(initial=0)))


def exact_sums(index: np.ndarray, counts: np.ndarray | None, size: int) -> np.ndarray:
    """Add counts by index, exactly.

    Parameters
    ----------
    index : (m,) int
        From 0 to size − 1.
    counts : (m,) int or None
        None for 1 each.
    size : int

    Returns
    -------
    (size,) int64

    Examples
    --------
    >>> exact_sums(np.array([0, 2, 2]), np.array([1, 5, 6]), 3).tolist()
    [1, 0, 11]
    """
    if counts is None:
        return np.bincount(index, minlength=size).astype(np.int64, copy=False)
    if int(counts.sum(dtype=np.int64)) < 2**53:  # up to here float64, in which bincount adds, holds every whole number
        return np.bincount(index, weights=counts, minlength=size).astype(np.int64)
    total = np.zeros(size, np.int64)
    np.add.at(total, index, counts.astype(np.int64))
    return total


def largest(dtype: DType) -> int:
    """Return the largest whole number up to which a dtype holds all.

    Examples
    --------
    >>> largest("uint8"), largest("float32")
    (255, 16777216)
    """
    kind: np.dtype[Any] = np.dtype(dtype)
    if kind.kind in "iu":
        return int(np.iinfo(kind).max)
    if kind.kind == "f":
        return 2 ** (np.finfo(kind).nmant + 1)
    if kind.kind == "b":
        return 1
    raise InputError(f"dtype={dtype!r}: counts need bool, integers or floats")


def summed(place: np.ndarray, counts: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Add counts of the same place; return the places, each once, and the sums (int64)."""
    if counts is not None and bool((np.diff(place) > 0).all()):
        return place, counts.astype(np.int64)
    order = np.argsort(place, kind="stable")
    place = place[order]
    first = np.flatnonzero(np.diff(place, prepend=-1))
    if counts is None:
        return place[first], np.diff(first, append=len(place))
    return place[first], np.add.reduceat(counts[order].astype(np.int64), first) if len(first) else np.zeros(0, np.int64)


def check_counts(sums: np.ndarray, dtype: DType) -> None:
    """Raise InputError if counts of pixels are larger than the largest whole number up to which a dtype holds all."""
    most = int(sums.max(initial=0))
    if most > largest(dtype):
        raise InputError(f"a pixel has {most} counts, {np.dtype(dtype)} holds {largest(dtype)} at most: read with a larger dtype")


def _bands(rows: slice, columns: slice, width: int) -> list[slice]:
    """Cut rows into groups whose events are one run of memory: all rows where they are read whole, else one by one."""
    if columns == slice(0, width):
        return [rows]
    return [slice(row, row + 1) for row in range(rows.start, rows.stop)]


def _whole_numbers(given: ArrayLike, name: str) -> np.ndarray:
    host = arrays.to_numpy(real_array(given, name, "whole numbers"))
    if host.ndim != 1 or (host.dtype.kind not in "iu" and host.size):
        raise InputError(f"{name} is {host.shape} {host.dtype}: need whole numbers, one-dimensional")
    return host if host.dtype.kind in "iu" else host.astype(np.int64)
