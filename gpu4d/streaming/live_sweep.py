"""Reduce a scan while it is acquired: patterns are fed as they come, and results are there at any time."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import math
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike
from gpu4d.data._live_scan import NoPatterns, live_positions
from gpu4d.data.arguments import real_values
from gpu4d.data.datacube import DataCube
from gpu4d.data.views import CorrectedSource, uncorrected
from gpu4d.device import threads
from gpu4d.device.choose import DeviceLike
from gpu4d.device.memory import available_memory, leaving
from gpu4d.device.processors.processor import Buffer, Event
from gpu4d.errors import InputError, MemoryBudgetError
from gpu4d.operation import dtype_name
from gpu4d.streaming.engine import Finishes, results_of
from gpu4d.streaming.live_patterns import LivePatterns, Segment
from gpu4d.streaming.plan import Plan, plan
from gpu4d.streaming.reduction import Reduction, Result, in_tiles, joined
from gpu4d.streaming.registered import named_reductions
from gpu4d.streaming.sums import GROUPS

RING = 2  # segments on a device: one is copied while the other is reduced


class LiveSweep:
    """Reductions of a scan that is still being acquired.

    Patterns are fed in any portions. They are reduced in threads of their own, beside the thread that feeds them. Results are there at any
    time. After the last pattern they have the bits of `gpu4d.sweep` of the same scan.

    If patterns come faster than they are reduced, they wait in memory. If `memory` is full, `feed` waits: the source is slowed, and no
    pattern is lost.

    Parameters
    ----------
    scan : DataCube
        What is known of the scan: shape, dtype, calibration, detector mask and corrections. `gpu4d.data.live_scan` makes one; that of
        an earlier scan, of which no pattern is read, does too.
    reductions : mapping of str to Reduction, or one Reduction
        As of `gpu4d.sweep`. They must need one pass.
    device : {"auto", "cpu", "cuda", "cuda:N"}
        One device, on which patterns are reduced. "auto" takes a GPU if there is one.
    memory : int or str, optional
        Bytes that it may hold on the device, patterns that wait included, or "512 MB". For a GPU, patterns wait in as much page-locked
        host memory. By default half of what is free, on the host at most 4 GB.
    where : (Rx, Ry) bool, optional
        Positions to visit. Patterns of others are fed too, and left out.

    Attributes
    ----------
    scan : DataCube
    arrived : int
        How many patterns were fed.
    reduced : int
        How many of them are in the results.
    error : Exception or None
        What ended the reductions, which `feed`, `results` and `close` raise.
    waits : int
        How often `feed` had to wait, because the reductions are slower than the source.

    Raises
    ------
    InputError
        An argument cannot be used, or a reduction needs several passes.
    MemoryBudgetError
        The reductions and the patterns of one part of a scan row do not fit.
    DeviceError
        A device that is not there.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> data = np.random.default_rng(0).poisson(3.0, (6, 8, 16, 16)).astype("uint16")
    >>> scan = gpu4d.data.live_scan(data.shape, data.dtype)
    >>> with gpu4d.streaming.LiveSweep(scan, {"mean": gpu4d.MeanPattern(), "com": gpu4d.CenterOfMass()}) as live:
    ...     live.feed(data[:3].reshape(-1, 16, 16))
    ...     early = live.results(wait=True)
    ...     live.feed(data[3:].reshape(-1, 16, 16))
    >>> bool(np.isnan(np.asarray(early["com"])[3:]).all()), live
    (True, LiveSweep(6×8 positions, 48 arrived, 48 reduced, closed))
    >>> whole = gpu4d.sweep(gpu4d.DataCube(data), gpu4d.MeanPattern())
    >>> np.asarray(live.results()["mean"]).tobytes() == np.asarray(whole).tobytes()
    True
    """

    def __init__(
        self,
        scan: DataCube,
        reductions: Mapping[str, Reduction | str] | Finishes[object],
        *,
        device: DeviceLike = "auto",
        memory: int | float | str | None = None,
        where: ArrayLike | None = None,
    ):
        if not isinstance(scan, DataCube):
            raise InputError(f"the scan is a {type(scan).__name__}, need a DataCube: gpu4d.data.live_scan(shape, dtype) makes one")
        self._named, self._alone = named_reductions(reductions), not isinstance(reductions, Mapping)
        self.scan, self._corrections = _without_patterns(scan)
        self._todo = todo = plan(self.scan, self._named, device=device, memory=memory, where=where)
        _check(todo, device)
        self._processor = todo.processors[0]
        raw = uncorrected(self.scan.source)[0]
        self._seen = np.zeros(math.prod(self.scan.scan_shape), bool)
        self._dtype, self._segment_bytes = raw.dtype, todo.cut.segment * (todo.tile_bytes // todo.cut.frames)
        self._workspace = self._processor.workspace(max(1, todo.budget), 0)
        try:
            info = dataclasses.replace(todo.scan, sample=self._processor.sample(self.scan.dtype))
            for reduction in self._named.values():
                reduction.start(info, self._processor.name)
            self._fed = joined(list(self._named.values()))
            copies = self._processor.copies
            self._room, most = self._shares(self._left())
            self._patterns = LivePatterns(
                raw.shape,
                raw.dtype,
                todo.cut.segment,
                not any(in_tiles(one) for one in self._fed),
                self._workspace.pinned if copies else self._workspace.allocate,
                most,
            )
            self._ring: list[tuple[Buffer, Event | None]] = []
            self._compute, self._copy = self._workspace.stream("compute"), self._workspace.stream("copy")
            if copies:
                self._ring = [(self._workspace.allocate(self._segment_bytes), None) for _ in range(RING)]
        except BaseException:
            self._workspace.close()
            raise
        self._next, self._in_order, self.arrived = 0, True, 0
        self._feeding, self._finishing, self._closed = threading.Lock(), threading.RLock(), False
        self._final: dict[str, Any] | None = None
        self._workers = [
            threading.Thread(target=contextvars.copy_context().run, args=(self._work,), name=f"gpu4d-live {n}", daemon=True)
            for n in range(todo.lanes)
        ]
        for worker in self._workers:
            worker.start()

    def _left(self) -> int:
        """Return the bytes of the budget that the reductions leave."""
        return self._todo.room + self._todo.bytes - self._todo.held_bytes

    def _shares(self, left: int) -> tuple[int, int]:
        """Divide bytes between the work on a segment, in each thread, and patterns that wait: their number of segments."""
        work = max(0, min(left // 4, left - self._segment_bytes))
        waiting = min(self._todo.budget, available_memory() // 2) if self._processor.copies else left - work
        return work // self._todo.lanes, max(1, waiting // self._segment_bytes)

    # ---------------------------------------------------------------- feeding

    def feed(self, frames: ArrayLike, positions: ArrayLike | None = None) -> None:
        """Take patterns, and return as soon as they are copied. Waits while memory is full.

        Parameters
        ----------
        frames : (n, Qx, Qy) or (Qx, Qy)
            In host memory and in the dtype of the scan. They may be changed afterwards.
        positions : (n, 2) or (2,) int, optional
            Their places in the scan, in any order. By default those after the last fed, along the rows. Each place comes once.

        Raises
        ------
        InputError
            Another shape or dtype, a place outside the scan or for the second time, or the sweep is closed. Nothing was taken.
        MemoryBudgetError
            Patterns come so far out of order that parts of rows, which wait for their neighbours, fill `memory`. `arrived` says how many
            were taken before.

        Notes
        -----
        An error of a reduction is raised by the next call.
        """
        given = self._as_frames(frames)
        with self._feeding:
            for start, first, last in self._places(len(given), positions):
                while first < last:
                    taken = self._patterns.put(start, given[first:last])
                    self._seen[start : start + taken] = True
                    self.arrived += taken
                    start, first = start + taken, first + taken
                    self._next = start

    def _as_frames(self, frames: Any) -> np.ndarray:
        if type(frames) is not np.ndarray:
            if arrays.is_array(frames) and arrays.is_cuda(frames):
                raise InputError("frames are on a GPU: a live sweep takes patterns in host memory and copies them to its device itself")
            listed, frames = isinstance(frames, list | tuple), real_values(frames, "frames")
            if listed:  # lists have no dtype of their own
                with np.errstate(all="ignore"):
                    exact = frames.astype(self._dtype)
                frames = exact if np.array_equal(exact, frames) else frames
        if frames.ndim == 2:
            frames = frames[None]
        if frames.ndim != 3 or frames.shape[1:] != self.scan.detector_shape:
            raise InputError(f"frames are {frames.shape}: need (n, {', '.join(map(str, self.scan.detector_shape))})")
        if frames.dtype != self._dtype and frames.dtype.newbyteorder("=") != self._dtype:
            raise InputError(
                f"frames are {frames.dtype}, the scan is {self._dtype}: give them as they are, or frames.astype({self._dtype.name!r})"
            )
        return frames

    def _places(self, n: int, positions: Any) -> list[tuple[int, int, int]]:
        """Return runs of patterns that lie side by side: the number of the first place, and which patterns."""
        rx, ry = self.scan.scan_shape
        if positions is None:
            if self._next + n > rx * ry:
                raise InputError(f"{n} patterns after {self._next} of a scan of {rx}×{ry}: it has no place for them")
            if not self._in_order and self._seen[self._next : self._next + n].any():
                raise InputError("patterns without positions follow the last ones, and some of these places have one: give positions")
            return [(self._next, 0, n)] if n else []
        at = live_positions(positions, n, self.scan.scan_shape)
        number = at[:, 0] * ry + at[:, 1]
        again = number[self._seen[number]] if len(np.unique(number)) == n else number[:1]
        if len(again):
            raise InputError(f"the pattern at {divmod(int(again[0]), ry)} or another comes for the second time: each place comes once")
        ends = np.flatnonzero(np.diff(number, append=-2) != 1) + 1
        runs = [(int(number[first]), int(first), int(last)) for first, last in zip([0, *ends[:-1]], ends)]
        if len(runs) > 1 or (runs and runs[0][0] != self._next):
            self._allow_any_order()
        return runs

    def _allow_any_order(self) -> None:
        """Keep memory for the sums of all rows, which may be begun at the same time if patterns do not come in order."""
        if not self._in_order:
            return
        scan = self._todo.scan
        rows = dataclasses.replace(scan, open_rows=scan.shape[0], open_blocks=scan.shape[0] + min(GROUPS, scan.shape[0]))
        more = sum(one.bytes_needed(rows, 1) - one.bytes_needed(scan, 1) for one in self._named.values())
        left = self._left() - more
        if left < self._segment_bytes * (RING if self._ring else 1):
            asked = self._todo.held_bytes + more + self._segment_bytes
            raise MemoryBudgetError("a live sweep of patterns out of order", asked, self._processor.free_memory(), self._todo.budget)
        self._room, self._patterns.most = self._shares(left)
        self._in_order = False

    # ---------------------------------------------------------------- reducing

    def _work(self) -> None:
        """Reduce segments until there are no more. Run by threads of this sweep."""
        alone = contextlib.nullcontext() if len(self._workers) == 1 else threads.along()
        with alone:
            while (segment := self._patterns.take()) is not None:
                try:
                    self._reduce(segment)
                except BaseException as error:
                    self._patterns.fail(segment, error)
                    return
                self._patterns.done(segment)

    def _reduce(self, segment: Segment) -> None:
        columns = slice(segment.first, segment.first + len(segment.have))
        where = self._todo.scan.where
        keep = segment.have if where is None else segment.have & where[segment.row, columns]
        at = np.flatnonzero(keep)
        if not len(at):
            return
        positions = np.stack([np.full(len(at), segment.row), segment.first + at], -1)
        waiting = list(self._fed)
        for last in (False, True):
            try:
                self._update(segment, at, positions, waiting)
                return
            except MemoryBudgetError:
                raise
            except MemoryError as error:
                if last:
                    free, asked = self._processor.free_memory(), self._todo.held_bytes + self._segment_bytes
                    raise MemoryBudgetError("a part of a scan row in a live sweep", asked, free, self._todo.budget, error) from error
                self._workspace.trim()

    def _update(self, segment: Segment, at: np.ndarray, positions: np.ndarray, waiting: list[Any]) -> None:
        """Give patterns of a segment to the reductions that wait for them. Who has taken them waits no more."""
        frames: Any = segment.frames
        compute, copy = self._compute, self._copy  # a device has one worker
        if self._ring:
            buffer, used = self._ring.pop(0)
            if used is not None:
                copy.wait(used)
            self._workspace.copy(buffer, segment.buffer, segment.frames.nbytes, copy)
            arrived = copy.record()
            compute.wait(arrived)
            frames = buffer.view(segment.frames.shape, self._dtype)
        try:
            with self._workspace.computing(compute, f"reduce row {segment.row}"), leaving(self._room):
                if len(at) < len(segment.have):
                    frames = arrays.namespace(frames).take(frames, arrays.from_numpy(at, frames), axis=0)
                if self._corrections:
                    frames = self._corrections.apply(frames)
                if isinstance(frames, np.ndarray):
                    frames = frames.view()
                    frames.flags.writeable = False
                while waiting:
                    waiting[0].update(frames, positions)
                    waiting.pop(0)
        finally:
            if self._processor.copies:
                self._ring.append((buffer, compute.record()))
                arrived.wait()  # then who feeds may write to the host buffer again

    # ---------------------------------------------------------------- results

    def results(self, wait: bool = False) -> Result:
        """Return the results of the patterns so far, in the form of `reductions`. Changes nothing. Any thread may call it.

        Parameters
        ----------
        wait : bool
            True first waits for all complete parts of rows that were fed. Parts are those of a sweep: whole scan rows, or about a
            megabyte of one.

        Returns
        -------
        dict of str to result, or one result
            On the host. Positions without a pattern, or whose part of a row is not complete, are NaN or empty until `close`.
        """
        with self._finishing:
            if self._final is None:
                with self._patterns.paused(wait):
                    found = self._found()
            else:
                found = self._final
        return found["result"] if self._alone else found

    def _found(self) -> dict[str, Any]:
        if self._patterns.error is not None:
            raise self._patterns.error
        if self._closed:
            raise InputError("the live sweep was closed before it had results")
        self._compute.synchronize()
        return results_of(self._todo, self._named, self._workspace, "host")

    def close(self, reduce_rest: bool = True) -> None:
        """Take no more patterns, reduce those that wait, and give back threads and memory. `results` stay.

        Parameters
        ----------
        reduce_rest : bool
            False drops the patterns that wait: for who wants to end soon.

        Raises
        ------
        Exception
            The error of a reduction, if one failed.
        """
        with self._feeding if reduce_rest else contextlib.nullcontext():
            self._patterns.end(reduce_rest)
        try:
            for worker in self._workers:
                worker.join()
        except BaseException:  # Ctrl-C
            self._patterns.end(reduce_rest=False)
            for worker in self._workers:
                worker.join()
            raise
        finally:
            if not any(worker.is_alive() for worker in self._workers):
                self._finish()
        if self._patterns.error is not None:
            raise self._patterns.error

    def _finish(self) -> None:
        with self._feeding, self._finishing:  # who still feeds copies to the buffers that are given back
            if self._closed:
                return
            try:
                if self._patterns.error is None:
                    self._final = self._found()
            except Exception as error:
                self._patterns.error = error
            finally:
                self._closed = True
                self._give_back()

    def _give_back(self) -> None:
        """Free all buffers, when the device has ended its work on them."""
        try:
            self._copy.synchronize()
            self._compute.synchronize()
            self._patterns.free()
            while self._ring:
                self._ring.pop()[0].free()
        finally:
            self._workspace.close()

    @property
    def error(self) -> BaseException | None:
        return self._patterns.error

    @property
    def reduced(self) -> int:
        return self._patterns.reduced

    @property
    def waits(self) -> int:
        return self._patterns.blocked

    def __enter__(self) -> LiveSweep:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
            return
        with contextlib.suppress(Exception):  # the error that ended the block is more important
            self.close(reduce_rest=issubclass(kind, Exception))

    def __repr__(self) -> str:
        rx, ry = self.scan.scan_shape
        return f"LiveSweep({rx}×{ry} positions, {self.arrived} arrived, {self.reduced} reduced{', closed' * self._closed})"


def _without_patterns(scan: DataCube) -> tuple[DataCube, Any]:
    """Return a scan of the same shape, dtype, calibration, mask and corrections that has no patterns, and its corrections."""
    raw, corrections = uncorrected(scan.source)
    blank = NoPatterns(raw.shape, np.dtype(dtype_name(raw.dtype)))
    source = CorrectedSource(blank, corrections) if corrections else blank
    return DataCube(source, scan.calibration, scan.metadata, scan.detector_mask, scan.name), corrections


def _check(todo: Plan, device: Any) -> None:
    if len(todo.processors) > 1:
        raise InputError(f"device={device!r}: a live sweep runs on one device; name one")
    several = ", ".join(name for name, passes in todo.passes_of.items() if passes > 1)
    if several:
        raise InputError(
            f"{several} needs several passes, and a live scan comes once: allow more memory=, or sweep the scan when it is saved"
        )
