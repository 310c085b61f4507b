"""Read scans whose patterns are stored one after the other, each behind a header of its own, in one file or in several.

Detectors write such files: Merlin, EMPAD, MRC, TVIPS, blockfiles. The files are mapped, never loaded. A format says where the
patterns lie (`Stretch`), how the bytes of one become its pixels (`Plain`, or a class of its own), and which pattern belongs to which
position, if some are missing.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import functools
import itertools
import math
import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gpu4d.data.source import Shape4
from gpu4d.errors import InputError
from gpu4d.io.foreign import shown
from gpu4d.io.sources.guard import Watched, watch
from gpu4d.io.sources.layout import hints, native_dtype
from gpu4d.io.sources.scratch import scratch

MISSING = -1  # number of a pattern that was not recorded
OPEN_FILES = 64  # that are mapped at a time; systems allow a process some 1000 files
PIECE_BYTES = 1 << 20  # of stored patterns that are unpacked at a time, so that they are still in cache when they are written


@dataclass(frozen=True)
class Stretch:
    """Patterns at regular distances in one file.

    Attributes
    ----------
    path : str
    offset : int
        First byte of the first pattern, behind its header.
    stride : int
        Bytes from one pattern to the next.
    frames : int
        Number of patterns.
    """

    path: str
    offset: int
    stride: int
    frames: int


def regular_stretches(path: str, offsets: np.ndarray) -> list[Stretch]:
    """Return the patterns that begin at these bytes of a file, (n,) int, as few stretches, each at one distance.

    Examples
    --------
    >>> [(s.offset, s.stride, s.frames) for s in regular_stretches("a", np.array([8, 28, 48, 99, 119]))]
    [(8, 20, 3), (99, 20, 2)]
    """
    steps = np.diff(offsets)
    breaks = np.append(np.nonzero(np.diff(steps))[0] + 1, len(steps))  # steps from which on the distance is another
    found: list[Stretch] = []
    at = 0
    while at < len(offsets):
        regular = at < len(steps) and steps[at] > 0
        last = int(breaks[np.searchsorted(breaks, at, side="right")]) if regular else at
        found.append(Stretch(path, int(offsets[at]), int(steps[at]) if regular else 0, last - at + 1))
        at = last + 1
    return found


class Storage(Protocol):
    """How one pattern is stored. Can be pickled.

    Attributes
    ----------
    shape : (Qx, Qy)
    dtype : numpy.dtype
        Of the patterns that come out, in this machine's byte order.
    nbytes : int
        Bytes of a stored pattern, without its header.
    """

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def dtype(self) -> np.dtype: ...

    @property
    def nbytes(self) -> int: ...

    def unpack(self, stored: np.ndarray, out: np.ndarray) -> None:
        """Write stored patterns (n, nbytes) uint8, whose rows may be any distance apart, into out (n, Qx, Qy)."""
        ...


@dataclass(frozen=True)
class Plain:
    """Pixels as numbers, row after row.

    Parameters
    ----------
    shape : (Qx, Qy)
    stored : str
        Type and byte order of the numbers, such as ">u2".
    swapped : bool
        True if the file's rows run along Qy: the stored array is (Qy, Qx).
    flipped : (bool, bool)
        True where the file's order along Qx, Qy is opposite to ours.
    rows : int or None
        Stored rows, if there are more than Qx: those behind Qx are left out (EMPAD's two rows of numbers behind its 128).
    """

    shape: tuple[int, int]
    stored: str
    swapped: bool = False
    flipped: tuple[bool, bool] = (False, False)
    rows: int | None = None

    @functools.cached_property
    def dtype(self) -> np.dtype:
        return native_dtype(np.dtype(self.stored))

    @functools.cached_property
    def nbytes(self) -> int:
        rows = self.shape[0] if self.rows is None else self.rows
        return rows * self.shape[1] * np.dtype(self.stored).itemsize

    @functools.cached_property
    def as_it_is(self) -> bool:
        """True if stored pixels can be used where they lie."""
        stored = np.dtype(self.stored)
        return stored.kind == "b" or native_dtype(stored) == stored

    @functools.cached_property
    def copied(self) -> bool:
        """True if the bytes of a pattern are those that come out."""
        return self.as_it_is and not self.swapped and not any(self.flipped) and self.rows in (None, self.shape[0])

    def pixels(self, stored: np.ndarray) -> np.ndarray:
        """Return a view (n, Qx, Qy) of stored patterns (n, nbytes)."""
        kind = np.dtype(self.stored)
        numbers = stored.view(np.uint8 if kind.kind == "b" else kind)
        if self.swapped:
            frames = numbers.reshape(len(stored), self.shape[1], -1)[:, :, : self.shape[0]].swapaxes(1, 2)
        else:
            frames = numbers.reshape(len(stored), -1, self.shape[1])[:, : self.shape[0]]
        return frames[:, :: -1 if self.flipped[0] else 1, :: -1 if self.flipped[1] else 1]

    def unpack(self, stored: np.ndarray, out: np.ndarray) -> None:
        if self.copied and out.flags.c_contiguous:
            np.copyto(out.reshape(len(out), -1).view(np.uint8), stored)  # bytes: numbers may lie at any address
        elif self.swapped:
            np.copyto(out, self.pixels(forwards(stored)))
        elif self.flipped[0]:
            upright = dataclasses.replace(self, flipped=(False, False)).pixels(stored)
            here = forwards(upright, self.dtype)  # bytes change their order on the way, as fast as they are copied
            np.copyto(out, here[:, ::-1, :: -1 if self.flipped[1] else 1])
        else:
            np.copyto(out, self.pixels(stored))


def forwards(stored: np.ndarray, dtype: np.dtype | None = None) -> np.ndarray:
    """Return a copy of stored patterns in cache, good until the next call: memory is read forwards several times as fast as backwards."""
    kind = stored.dtype if dtype is None else dtype
    copy = scratch.bytes("forwards", stored.size * kind.itemsize).view(kind).reshape(stored.shape)
    np.copyto(copy, stored)
    return copy


class MappedFile:
    """A file that is mapped from its first byte, or a part of it that holds all patterns."""

    def __init__(self, path: str, stop: int):
        self.path, self.stop = path, stop
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                self.watched = Watched()
                if size < stop:
                    raise InputError(self._too_short(size))
                self.map = mmap.mmap(file.fileno(), stop, access=mmap.ACCESS_READ)
        except OSError as error:
            raise InputError(f"{shown(path)}: cannot be read ({shown(error.strerror or str(error))})") from error
        self.bytes = np.frombuffer(self.map, np.uint8)
        self.watched = watch(self.map, self.bytes.ctypes.data)

    def _too_short(self, size: int) -> str:
        return (
            f"{shown(self.path)}: the file is too short, {size} bytes where its patterns need {self.stop}: "
            "it is truncated, or was shortened while it was read; copy it again"
        )

    def check(self) -> None:
        """Raise an error if the file was cut short since it was mapped."""
        size = self.map.size()
        if size < self.stop or self.watched.lost:
            raise InputError(self._too_short(size))

    def will_read(self, start: int, stop: int) -> None:
        """Ask the operating system to load a range of bytes. Returns at once."""
        if hasattr(mmap, "MADV_WILLNEED"):
            page = start // mmap.PAGESIZE * mmap.PAGESIZE
            with contextlib.suppress(OSError, ValueError):  # only a hint
                for first, length in hints(page, min(stop, self.stop)):
                    self.map.madvise(mmap.MADV_WILLNEED, first, length)


class FrameFiles:
    """A scan of patterns that lie at regular distances in one or several files.

    Parameters
    ----------
    stretches : sequence of Stretch
        In the order of the patterns. Several may lie in one file.
    storage : Storage
        How a pattern is stored: `Plain` or a class of the format.
    scan_shape : (int, int)
        (Rx, Ry).
    description : str
        "Merlin, 12 bit". How it is read is added.
    numbers : (Rx · Ry,) int array, optional
        The pattern at every position, counted over all stretches, -1 where none was recorded: those are all zero.
        Without it patterns follow the positions row by row.

    Raises
    ------
    InputError
        A file is missing or shorter than its patterns, or there are fewer patterns than positions.
    """

    blocks = (1, 1)

    def __init__(
        self,
        stretches: Sequence[Stretch],
        storage: Storage,
        scan_shape: tuple[int, int],
        description: str,
        numbers: np.ndarray | None = None,
    ):
        self.stretches = tuple(stretches)
        self.storage, self.numbers, self.said = storage, numbers, description
        self.shape: Shape4 = (*scan_shape, *storage.shape)
        self.dtype = storage.dtype
        self.path = os.path.abspath(self.stretches[0].path) if self.stretches else ""
        self.dataset = None
        self._firsts = [0, *itertools.accumulate(s.frames for s in self.stretches)]  # number of the first pattern of every stretch
        self._stops = self._ends()
        self._maps: OrderedDict[str, MappedFile] = OrderedDict()
        self._opening = threading.Lock()
        self._check_numbers()
        self._check_files()
        self._patterns = self._view()
        self.resident = self._patterns is not None
        self.scratch_bytes = 0 if self.resident else 2 * max(PIECE_BYTES, storage.nbytes)  # a copy that is read, and halves of 24 bits
        files = len(self._stops)
        self.description = f"{description}, {f'{files} files, ' if files > 1 else ''}mapped{'' if self.resident else ', unpacked'}"

    def _ends(self) -> dict[str, int]:
        """Return for every file the byte behind its last pattern."""
        ends: dict[str, int] = {}
        for s in self.stretches:
            if s.frames < 0 or s.offset < 0 or s.stride < 0:
                raise InputError(
                    f"{shown(s.path)}: {s.frames} patterns from byte {s.offset}, {s.stride} bytes apart: it is damaged, copy it again"
                )
            if s.frames:
                ends[s.path] = max(ends.get(s.path, 0), s.offset + (s.frames - 1) * s.stride + self.storage.nbytes)
        return ends

    def _check_numbers(self) -> None:
        positions, frames = math.prod(self.shape[:2]), int(self._firsts[-1])
        if self.numbers is None:
            if positions > frames:
                raise InputError(
                    f"{shown(self.path)}: {frames} patterns are too few for a scan of {self.shape[0]}×{self.shape[1]} positions"
                )
        elif len(self.numbers) != positions or np.any(self.numbers >= frames) or np.any(self.numbers < MISSING):
            raise InputError(
                f"{shown(self.path)}: the numbers of its patterns do not fit a scan of {self.shape[0]}×{self.shape[1]} positions"
            )

    def _check_files(self) -> None:
        """Raise an error if a file is missing or too short, before anything is read."""
        for path, stop in self._stops.items():
            try:
                size = os.stat(path).st_size
            except OSError as error:
                raise InputError(f"{shown(path)}: cannot be read ({shown(error.strerror or str(error))})") from error
            if size < stop:
                raise InputError(
                    f"{shown(path)}: the file is too short, {size} bytes where its patterns need {stop}: it is truncated; copy it again"
                )

    def _mapped(self, path: str) -> MappedFile:
        with self._opening:
            found = self._maps.get(path)
            if found is None:
                found = self._maps[path] = MappedFile(path, self._stops[path])
                if len(self._maps) > OPEN_FILES:
                    self._maps.popitem(last=False)  # it is closed when the last reader lets it go
            else:
                self._maps.move_to_end(path)
            return found

    def _view(self) -> np.ndarray | None:
        """Return all patterns as one array in the mapped file, if pixels can be used where they lie."""
        storage = self.storage
        if len(self.stretches) != 1 or self.numbers is not None or not isinstance(storage, Plain) or not storage.as_it_is:
            return None
        s, size = self.stretches[0], storage.dtype.itemsize
        if s.offset % size or s.stride % size:  # compiled code and DLPack refuse arrays that are not aligned
            return None
        n = math.prod(self.shape[:2])
        return storage.pixels(self._stored(self._mapped(s.path), s, 0, n)).reshape(self.shape)

    def _stored(self, file: MappedFile, s: Stretch, first: int, frames: int) -> np.ndarray:
        """Return patterns of a stretch as they are stored, a view (frames, nbytes) of the mapped file."""
        values = file.bytes
        at = s.offset + first * s.stride
        if s.stride == self.storage.nbytes:  # without headers a plain reshape, whose views numbers can be made of in any way
            return values[at : at + frames * s.stride].reshape(frames, s.stride)
        last = at + (frames - 1) * s.stride + self.storage.nbytes
        if frames == 1:
            return values[at:last].reshape(1, -1)
        return np.ndarray((frames, self.storage.nbytes), np.uint8, values.data, at, (s.stride, 1))

    def read(self, rows: slice, columns: slice, out: Any = None) -> Any:
        if self._patterns is not None:
            self.check_whole()
            return self._patterns[rows, columns]
        shape = rows.stop - rows.start, columns.stop - columns.start
        if out is None:
            out = np.empty((*shape, *self.shape[2:]), self.dtype)
        whole = shape[1] == self.shape[1] and out.flags.c_contiguous
        first = rows.start * self.shape[1] + columns.start
        if whole:
            self._read_run(first, out.reshape(-1, *self.shape[2:]))
        else:
            for i in range(shape[0]):
                self._read_run(first + i * self.shape[1], out[i])
        return out

    def _read_run(self, first: int, out: np.ndarray) -> None:
        """Fill out (n, Qx, Qy) with the patterns of positions first … first + n − 1, counted row by row."""
        file: MappedFile | None = None
        for where, s, number, frames in self._pieces(first, first + len(out)):
            if s is None:
                out[where : where + frames] = 0
                continue
            if file is None or file.path != s.path:
                if file is not None:
                    file.check()
                file = self._mapped(s.path)
                file.check()
            self.storage.unpack(self._stored(file, s, number, frames), out[where : where + frames])
        if file is not None:
            file.check()  # it may have been cut short while it was copied

    def _pieces(self, start: int, stop: int, most: int | None = None) -> Iterator[tuple[int, Stretch | None, int, int]]:
        """Return runs of patterns: place behind `start`, stretch (None: missing), number of the first one in it, how many."""
        if most is None:
            most = (
                stop - start
                if isinstance(self.storage, Plain) and self.storage.copied
                else max(1, PIECE_BYTES // max(1, self.storage.nbytes))
            )
        at = start
        for number, frames in self._runs(start, stop):
            end = at + frames
            if number == MISSING:
                yield at - start, None, 0, frames
                at = end
            while at < end:
                i = bisect.bisect_right(self._firsts, number) - 1
                inside = number - self._firsts[i]
                run = min(end - at, self.stretches[i].frames - inside, most)
                yield at - start, self.stretches[i], inside, run
                at, number = at + run, number + run

    def _runs(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Return runs of positions whose patterns follow each other: number of the first pattern, how many."""
        if self.numbers is None:
            yield start, stop - start
            return
        numbers = self.numbers[start:stop]
        steps = np.where(numbers[:-1] == MISSING, 0, 1)
        edges = [0, *(np.nonzero(np.diff(numbers) != steps)[0] + 1).tolist(), len(numbers)]
        for first, last in itertools.pairwise(edges):
            yield int(numbers[first]), last - first

    def check_whole(self) -> None:
        """Raise an error if a file was cut short since it was mapped."""
        with self._opening:
            maps = list(self._maps.values())
        for mapped in maps:
            mapped.check()

    def will_read(self, rows: slice, columns: slice) -> None:
        """Ask the operating system to load the bytes of these patterns into its cache. Returns at once."""
        n_columns = self.shape[1]
        whole = columns.stop - columns.start == n_columns
        runs = (
            [(rows.start * n_columns, rows.stop * n_columns)]
            if whole
            else [(row * n_columns + columns.start, row * n_columns + columns.stop) for row in range(rows.start, rows.stop)]
        )
        for start, stop in runs:
            for _, s, first, frames in self._pieces(start, stop, stop - start):
                if s is not None:
                    begin = s.offset + first * s.stride
                    with contextlib.suppress(InputError):
                        self._mapped(s.path).will_read(begin, begin + (frames - 1) * s.stride + self.storage.nbytes)

    def reshaped(self, scan_shape: tuple[int, int]) -> FrameFiles:
        """Return a source of the same patterns with another scan shape."""
        return FrameFiles(self.stretches, self.storage, scan_shape, self.said, self.numbers)

    def __reduce__(self) -> Any:
        return FrameFiles, (self.stretches, self.storage, self.shape[:2], self.said, self.numbers)
