"""Run the passes of a sweep in this process: conveyors on every device take row blocks from one supply, until there are none."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np

from gpu4d.data.datacube import DataCube
from gpu4d.device import threads
from gpu4d.device.processors.processor import Processor, Workspace
from gpu4d.device.timeline import Timeline
from gpu4d.errors import MemoryBudgetError
from gpu4d.streaming.conveyor import Conveyor, Shared
from gpu4d.streaming.merge import Named
from gpu4d.streaming.plan import Plan
from gpu4d.streaming.reduction import ScanInfo, SparsePixels, joined, takes_events


def frames_of(scan: ScanInfo) -> int:
    return sum(scan.frames_in_block(block) for block in range(scan.blocks))


@contextlib.contextmanager
def refusing(what: str, todo: Plan, processor: Processor) -> Iterator[None]:
    """Let a lack of memory in the block end the sweep, because there are no smaller steps."""
    try:
        yield
    except MemoryBudgetError:
        raise
    except MemoryError as error:
        raise MemoryBudgetError(what, todo.held_bytes, processor.free_memory(), todo.budget, error) from error


@contextlib.contextmanager
def open_workspaces(todo: Plan, timeline: Timeline | None) -> Iterator[list[Workspace]]:
    """Yield one workspace for each device. They give back all memory at the end, also after an error."""
    opened: list[Workspace] = []
    try:
        for processor in todo.processors:
            opened.append(processor.workspace(max(1, todo.budget), todo.readers, timeline))
        yield opened
    finally:
        for workspace in opened:
            workspace.close()


def one_pass(
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
        with refusing(f"starting {', '.join(needed)} on {processor.name}", todo, processor):
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
