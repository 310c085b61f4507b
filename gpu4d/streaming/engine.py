"""Sweep a scan: one pass over it feeds any number of reductions."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol, TypedDict, TypeVar, Unpack, overload

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.datacube import DataCube
from gpu4d.data.source import check_whole
from gpu4d.device import threads
from gpu4d.device.choose import DeviceLike
from gpu4d.device.memory import available_memory
from gpu4d.device.processors.processor import Processor, Workspace
from gpu4d.device.timeline import Timeline, place_of_trace
from gpu4d.errors import InputError, MemoryBudgetError
from gpu4d.streaming.conveyor import Conveyor, Shared
from gpu4d.streaming.merge import Named, gather, merge, shares, to_host
from gpu4d.streaming.plan import Plan, plan
from gpu4d.streaming.progress import Counter, Progress
from gpu4d.streaming.reduction import Reduction, Result, ScanInfo, SparsePixels, joined, takes_events
from gpu4d.streaming.registered import named_reductions

log = logging.getLogger("gpu4d")

R = TypeVar("R", covariant=True)


class Finishes(Protocol[R]):
    """A reduction, by the type of its result."""

    def finish(self) -> R:
        """Return the result."""


class PassOptions(TypedDict, total=False):
    """Keyword arguments of `sweep` without `memory` and `where`, for calls that pass them on and have these two of their own."""

    device: DeviceLike
    progress: Progress
    keep: str | None
    trace: Timeline | str | os.PathLike[str] | None
    client: None


class VisitOptions(PassOptions, total=False):
    """Keyword arguments of `sweep` without `memory`."""

    where: ArrayLike | None


class BudgetOptions(PassOptions, total=False):
    """Keyword arguments of `sweep` without `where`."""

    memory: int | float | str | None


class SweepOptions(VisitOptions, BudgetOptions, total=False):
    """All keyword arguments of `sweep`."""


@overload
def sweep(cube: DataCube, reductions: Mapping[str, Reduction | str], **options: Unpack[SweepOptions]) -> dict[str, Result]: ...


@overload
def sweep(cube: DataCube, reductions: Finishes[R], **options: Unpack[SweepOptions]) -> R: ...


def sweep(
    cube: DataCube,
    reductions: Mapping[str, Reduction | str] | Finishes[object],
    *,
    device: DeviceLike = "auto",
    memory: int | float | str | None = None,
    where: ArrayLike | None = None,
    progress: Progress = False,
    keep: str | None = None,
    trace: Timeline | str | os.PathLike[str] | None = None,
    client: None = None,
) -> Result:
    """Read a scan once and feed every reduction with it.

    The scan is divided along the file's own layout. Memory, workers and the number of devices only decide how much of it is under way
    at a time. So no bit of a result depends on them. Results of CPU and GPU agree to rounding, and exactly for integers. Reading,
    copying to a device and computing go on at the same time (docs/explanation/streaming.md). If memory runs out, the sweep continues in
    smaller steps.

    Parameters
    ----------
    cube : DataCube
    reductions : mapping of str to Reduction, or one Reduction
        `VirtualImage`, `MeanPattern`, `MaxPattern`, `CenterOfMass`, `BraggDisks`, or your own. In a mapping also the name of one that
        another package brings (`gpu4d.streaming.registered_reductions`).
    device : {"auto", "cpu", "cuda", "cuda:N"} or sequence of CUDA devices
        Device on which files are reduced. "auto" takes a GPU if there is one. Several GPUs share the row blocks. Arrays on a device are
        reduced there. Arrays on the host are reduced on the CPU, unless a device is named.
    memory : int or str, optional
        Bytes that the sweep may hold on each device, or "512 MB". For a GPU, page-locked host memory may be as much again. By default
        half of the free memory of the GPU, or half of the free memory of the host but at most 4 GB.
    where : (Rx, Ry) bool, optional
        Positions to visit. Results at other positions are NaN or empty.
    progress : bool or callable
        True draws a bar if `rich` is installed. A callable is called with (patterns done, patterns in all).
    keep : {"host", "device"}, optional
        Place of the results. By default results of files are on the host, and results of arrays on the device of the array. "device" keeps
        results on the device on which they were made, which must be one.
    trace : path or Timeline, optional
        File for a Chrome trace of reading, copying and computing (open it in ui.perfetto.dev). An earlier trace is replaced, another
        file is not. If writing fails at the end, a warning is logged and the results are returned. A
        `gpu4d.device.timeline.Timeline` is filled, but not written. Several sweeps can share one.
    client : optional
        Reserved for a dask.distributed client. This version accepts only None.

    Returns
    -------
    dict of str to result, or one result
        In the form of `reductions`. Each result is what `finish` of its reduction returns.

    Raises
    ------
    InputError
        An argument cannot be used. Raised before anything is read.
    MemoryBudgetError
        The work needs more than the budget. The error says how much is needed, free and allowed.
    DeviceError
        A device is not there, or has stopped answering. Nothing of the sweep stays in memory.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> cube = gpu4d.DataCube(np.ones((2, 3, 4, 4), dtype="uint16"))
    >>> out = gpu4d.sweep(cube, {"mean": gpu4d.MeanPattern(), "bf": gpu4d.VirtualImage(np.ones((4, 4), dtype=bool))})
    >>> float(out["mean"][0, 0]), float(out["bf"][1, 2])
    (1.0, 16.0)
    """
    named = _checked(cube, reductions, keep, progress, client)
    place = None if trace is None or isinstance(trace, Timeline) else place_of_trace(trace, f"trace={trace!r}")
    timeline = Timeline() if place is not None else trace if isinstance(trace, Timeline) else None
    todo = plan(cube, named, device=device, memory=memory, where=where)
    if keep == "device" and len(todo.processors) > 1:
        raise InputError("keep='device' with several devices: their results are merged on the host; leave keep out, or name one device")
    if todo.passes > 1 and len(todo.processors) > 1:
        several = ", ".join(name for name, passes in todo.passes_of.items() if passes > 1)
        raise InputError(f"{several} needs several passes, each of which builds on the one before: name one device")
    log.info("sweep: %s", "; ".join(todo.describe()))
    parts = shares(named, len(todo.processors))
    try:
        with Counter(progress, _frames(todo.scan) * todo.passes) as report, _workspaces(todo, timeline) as workspaces:
            for pass_ in range(todo.passes):
                _one_pass(cube, todo, pass_, parts, workspaces, report, timeline)
            if _frames(todo.scan):
                check_whole(cube.source)  # an error if a mapped file was cut short while its last tiles were used or copied
            _merged(todo, parts, workspaces)
            results = results_of(todo, named, workspaces[0], keep or ("host" if todo.ring else "device"))
    finally:
        if place is not None and timeline is not None:
            _write(timeline, place)
    return results if isinstance(reductions, Mapping) else results["result"]


def _checked(cube: Any, reductions: Any, keep: Any, progress: Any, client: Any) -> Named:
    """Return the reductions by name, after checking the other arguments."""
    if not isinstance(cube, DataCube):
        make = "gpu4d.open(path)" if isinstance(cube, str | os.PathLike) else "gpu4d.DataCube(array)"
        raise InputError(f"the scan is a {type(cube).__name__}, need a DataCube: {make} makes one")
    if not isinstance(progress, bool) and not callable(progress):
        raise InputError(f"progress={progress!r}: need True, False or a function of (patterns done, patterns in all)")
    if client is not None:
        raise InputError("client= is not supported by this version: leave it None")
    if keep not in (None, "host", "device"):
        raise InputError(f"keep={keep!r}: need 'host' or 'device'")
    return named_reductions(reductions)


def _write(timeline: Timeline, place: Path) -> None:
    """Write the trace, or log a warning: the results, or the error that ended the sweep, are more important."""
    try:
        timeline.write(place)
    except Exception as error:
        log.warning("the trace %s could not be written: %s", place, error)


def _merged(todo: Plan, parts: list[Named], workspaces: list[Workspace]) -> None:
    """Merge what every device found into the reductions of the first. A merge cannot be repeated, so lack of memory ends the sweep."""
    first, *others = zip(todo.processors, parts, workspaces)
    for processor, part, workspace in others:
        with _refusing(f"gathering what {processor.name} found", todo, processor):
            states = gather(part, workspace)
        with _refusing(f"bringing together what several devices found, on {first[0].name},", todo, first[0]):
            merge(first[1], states, first[2])


@contextlib.contextmanager
def _refusing(what: str, todo: Plan, processor: Processor) -> Iterator[None]:
    """Let a lack of memory in the block end the sweep, because there are no smaller steps."""
    try:
        yield
    except MemoryBudgetError:
        raise
    except MemoryError as error:
        raise MemoryBudgetError(what, todo.held_bytes, processor.free_memory(), todo.budget, error) from error


def results_of(todo: Plan, named: Named, workspace: Workspace, keep: str) -> dict[str, Any]:
    """Make the results of the reductions on their device, within its memory. The rings are freed before."""
    processor = todo.processors[0]  # results of several devices were merged there
    for last in (False, True):
        free = processor.free_memory
        try:
            stream = workspace.stream("compute")
            with workspace.computing(stream, "finish"):
                results = {name: reduction.finish() for name, reduction in named.items()}
                if keep == "host":
                    free = available_memory
                    results = {name: to_host(result) for name, result in results.items()}
            stream.synchronize()
            return results
        except MemoryBudgetError:
            raise
        except MemoryError as error:
            if last:
                raise MemoryBudgetError("the result of a sweep", todo.held_bytes, free(), todo.budget, error) from error
            workspace.trim()
    raise AssertionError("not reached")


def _frames(scan: ScanInfo) -> int:
    return sum(scan.frames_in_block(block) for block in range(scan.blocks))


@contextlib.contextmanager
def _workspaces(todo: Plan, timeline: Timeline | None) -> Iterator[list[Workspace]]:
    """Yield one workspace for each device. They give back all memory at the end, also after an error."""
    opened: list[Workspace] = []
    try:
        for processor in todo.processors:
            opened.append(processor.workspace(max(1, todo.budget), todo.readers, timeline))
        yield opened
    finally:
        for workspace in opened:
            workspace.close()


def _one_pass(
    cube: DataCube,
    todo: Plan,
    pass_: int,
    parts: list[Named],
    workspaces: list[Workspace],
    report: Callable[[int], None],
    timeline: Timeline | None,
) -> None:
    """Run conveyors that take row blocks in order from one supply. The first error stops all of them and is raised here."""
    stop = threading.Event()
    shared = Shared(_Supply(todo.scan.blocks), stop, report)
    start, conveyors = workspaces[0].now(), []
    needed = [name for name, passes in todo.passes_of.items() if pass_ < passes]
    for processor, workspace, named in zip(todo.processors, workspaces, parts):
        active = [named[name] for name in needed]
        scan = dataclasses.replace(todo.scan, sample=processor.sample(cube.dtype))
        with _refusing(f"starting {', '.join(needed)} on {processor.name}", todo, processor):
            for reduction in active:
                reduction.start(scan, processor.name, pass_)
        pixels = _pixels(cube, processor, active)
        fed = _fed(active, todo) if pixels is None else active
        for _ in range(todo.lanes):
            conveyors.append(Conveyor(cube, todo, fed, pixels, workspace, processor, shared))
    try:
        _run(conveyors, stop)
    finally:
        if timeline is not None:
            timeline.span("passes", f"pass {pass_ + 1} of {todo.passes}: {', '.join(needed)}", start, workspaces[0].now())


def _fed(active: list[Any], todo: Plan) -> list[Any]:
    """Choose what is updated: reductions that are given events stay alone, others are joined where they have work in common."""
    events = [bool(todo.given_events) and takes_events(one, todo.scan) for one in active]
    return [*itertools.compress(active, events), *joined([one for one, alone in zip(active, events) if not alone])]


def _run(conveyors: list[Conveyor], stop: threading.Event) -> None:
    if len(conveyors) == 1:
        conveyors[0].run()
        return
    door = _Door()

    def work(conveyor: Conveyor) -> None:
        with door.entered() as may:
            if not may:
                return
            try:
                conveyor.run()
            except BaseException:
                stop.set()
                raise

    try:
        _share_out(work, conveyors, stop)
    except BaseException:
        # If Ctrl-C comes while a thread starts, its pool does not know the thread. The buffers must stay while it works.
        stop.set()
        door.close()
        raise


def _share_out(work: Callable[[Conveyor], None], conveyors: list[Conveyor], stop: threading.Event) -> None:
    if conveyors[0].processor.copies:  # they only wait for a device, and compute nothing
        with threads.beside(len(conveyors), "gpu4d-sweep") as begin:
            _finish([begin(work, one) for one in conveyors], stop)
        return
    begun = [threads.submit(work, one) for one in conveyors[1:]]
    try:
        with threads.along():
            work(conveyors[0])
    except BaseException:
        threads.finish(begun)
        raise
    _finish([one for one in begun if not one.cancel()], stop)  # no row block is left, so conveyors that have not started have nothing to do


def _finish(conveyors: list[Future], stop: threading.Event) -> None:
    try:
        for conveyor in conveyors:
            conveyor.result()
    except BaseException:  # Ctrl-C arrives here, in the main thread: let the conveyors end first
        stop.set()
        threads.finish(conveyors)
        raise


class _Door:
    """Counts the threads at work, so that a thread that no pool knows is waited for too."""

    def __init__(self) -> None:
        self._inside, self._closed, self._changed = 0, False, threading.Condition()

    @contextlib.contextmanager
    def entered(self) -> Iterator[bool]:
        """Count a thread while it works. Yields False if the door is closed already."""
        with self._changed:
            may = not self._closed
            self._inside += may
        try:
            yield may
        finally:
            with self._changed:
                self._inside -= may
                self._changed.notify_all()

    def close(self) -> None:
        """Let no more threads in, and wait until all inside have left."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: self._inside == 0)


class _Supply:
    """Numbers of row blocks. Each is handed out once, in order."""

    def __init__(self, blocks: int):
        self._blocks, self._lock = iter(range(blocks)), threading.Lock()

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        with self._lock:
            return next(self._blocks)


def _pixels(cube: DataCube, processor: Processor, active: list[Any]) -> np.ndarray | None:
    """Return the only detector pixels that a pass needs, if gathering them on the host saves at least half of the bytes on the link.

    This is done for a single reduction, because several would each need their own order. It is not done for files that are decoded
    into buffers, because they have no patterns in memory to gather from.
    """
    if not processor.copies or not cube.source.resident or len(active) != 1 or not isinstance(active[0], SparsePixels):
        return None
    wanted = active[0].wanted_pixels()
    return wanted if wanted is not None and 2 * len(wanted) <= np.prod(cube.detector_shape) else None
