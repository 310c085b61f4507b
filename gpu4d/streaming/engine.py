"""The sweep: one pass over a scan feeds any number of reductions."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.data.datacube import DataCube
from gpu4d.data.source import sample_of
from gpu4d.device.choose import Device, choose
from gpu4d.errors import DeviceError, InputError
from gpu4d.streaming.plan import Plan, plan
from gpu4d.streaming.reduction import Reduction, ScanInfo, joined

log = logging.getLogger("gpu4d")

Progress = bool | Callable[[int, int], None]


def sweep(
    cube: DataCube,
    reductions: Mapping[str, Reduction] | Reduction,
    *,
    device: str | Device = "auto",
    memory: int | str | None = None,
    where: Any = None,
    progress: Progress = False,
    client: Any = None,
) -> Any:
    """Read a scan once and feed every reduction with it.

    The scan is cut along the file's own layout, never by memory or workers, so that results do not depend on either, to the
    last bit. On the CPU, threads each work through row blocks of their own while reader threads decode what comes next.

    Parameters
    ----------
    cube : DataCube
    reductions : mapping of str to Reduction, or one Reduction
        `VirtualImage`, `MeanPattern`, `MaxPattern`, `CenterOfMass`, `BraggDisks`, or your own.
    device : {"auto", "cpu", "cuda:N"}
        Arrays are reduced where they are; files are reduced on the CPU.
    memory : int or str, optional
        Private memory the sweep may hold, bytes or "512 MB". Half of the free memory, at most 4 GB, by default.
    where : (Rx, Ry) bool, optional
        Positions to visit; results of others are NaN or empty.
    progress : bool or callable
        True draws a bar where `rich` is installed; a callable is given (patterns done, patterns in all).
    client : optional
        Reserved for a dask.distributed client; only None is accepted by this version.

    Returns
    -------
    dict of str to result, or one result
        As `reductions` was given; each in the form its `finish` documents.

    Raises
    ------
    MemoryBudgetError
        The least the work needs is over the budget: what is asked, free and allowed.
    DeviceError
        A device that is not there, or that holds no path for this kind of data.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> cube = gpu4d.DataCube(np.ones((2, 3, 4, 4), dtype="uint16"))
    >>> out = gpu4d.sweep(cube, {"mean": gpu4d.MeanPattern(), "bf": gpu4d.VirtualImage(np.ones((4, 4), dtype=bool))})
    >>> float(out["mean"][0, 0]), float(out["bf"][1, 2])
    (1.0, 16.0)
    """
    if client is not None:
        raise InputError("client= is not served by this version: leave it None")
    single = not isinstance(reductions, Mapping)
    named: dict[str, Reduction] = {"result": reductions} if single else dict(reductions)  # type: ignore[dict-item,arg-type]
    for name, reduction in named.items():
        if not isinstance(reduction, Reduction):
            raise InputError(f"{name!r} is a {type(reduction).__name__}, need a Reduction such as gpu4d.MeanPattern()")
    where_to = _device(choose(device), cube)
    todo = plan(cube, named, memory=memory, where=where)
    log.info("sweep on %s: %s", where_to, "; ".join(todo.describe()))
    with _reporter(progress, _frames(todo.scan) * todo.passes) as report:
        for pass_ in range(todo.passes):
            active = [r for r in named.values() if pass_ < r.passes(todo.scan, todo.budget)]
            for reduction in active:
                reduction.start(todo.scan, where_to, pass_)
            _one_pass(cube, todo, joined(active), report)
            if cube.source.resident and _frames(todo.scan):
                cube.source.read(slice(0, 1), slice(0, 1))  # a mapped file cut short while its last tiles were in work says so here
    results = {name: reduction.finish() for name, reduction in named.items()}
    return results["result"] if single else results


def _device(device: Device, cube: DataCube) -> Device:
    """Where the work happens: arrays are reduced where they lie, files on the CPU."""
    sample = sample_of(cube.source)
    if sample is not None and arrays.is_cuda(sample):
        return Device("cuda", device.index)
    if device.kind == "cuda" and cube.source.resident and sample is not None:
        raise DeviceError(f"device={device}: the cube is an array on the CPU; move it to the GPU (cupy.asarray) or use device='cpu'")
    if device.kind == "cuda":
        how = "gpu4d.DataCube(cupy.asarray(cube.load().source.array)) is reduced on the GPU"
        log.info("device=%s: scans in files are reduced on the CPU by this version; %s", device, how)
    return Device("cpu")


def _frames(scan: ScanInfo) -> int:
    return sum(scan.frames_in_block(block) for block in range(scan.blocks))


def _one_pass(cube: DataCube, todo: Plan, reductions: list[Any], report: Callable[[int], None]) -> None:
    """Workers take row blocks in order; the first error stops all of them and is raised here."""
    blocks = iter(range(todo.scan.blocks))
    lock, stop = threading.Lock(), threading.Event()

    def tiles_of_a_worker() -> Iterator[tuple[slice, slice]]:
        while not stop.is_set():
            with lock:
                block = next(blocks, None)
            if block is None:
                return
            yield from todo.tiles(block)

    def work() -> None:
        try:
            for rows, columns, frames in _read_ahead(cube, todo, tiles_of_a_worker()):
                if stop.is_set():
                    return
                _update(todo.scan, reductions, rows, columns, frames, report)
        except BaseException:
            stop.set()
            raise

    if todo.workers == 1:
        work()
        return
    with ThreadPoolExecutor(todo.workers, thread_name_prefix="gpu4d-sweep") as pool:
        futures = [pool.submit(contextvars.copy_context().run, work) for _ in range(todo.workers)]  # gpu4d.using holds there too
        try:
            for future in futures:
                future.result()
        except BaseException:  # Ctrl-C arrives here, in the main thread: let the workers end first
            stop.set()
            raise


def _read_ahead(cube: DataCube, todo: Plan, tiles: Iterator[tuple[slice, slice]]) -> Iterator[tuple[slice, slice, Any]]:
    """Tiles with their frames. Where reading costs, a thread of its own fills a ring of buffers ahead of the caller."""
    source = cube.source
    if not todo.buffers:
        for rows, columns in tiles:
            if _wanted(todo.scan, rows, columns):
                yield rows, columns, source.read(rows, columns)
        return
    ring = [np.empty((todo.cut.rows, todo.cut.columns, *cube.detector_shape), dtype=cube.dtype) for _ in range(todo.buffers)]
    free = deque(ring)
    ahead: deque[tuple[slice, slice, np.ndarray, Future]] = deque()

    with ThreadPoolExecutor(1, thread_name_prefix="gpu4d-read") as reader:

        def submit() -> None:
            for rows, columns in tiles:
                if _wanted(todo.scan, rows, columns):
                    buffer = free.popleft()
                    view = buffer[: rows.stop - rows.start, : columns.stop - columns.start]
                    ahead.append((rows, columns, buffer, reader.submit(source.read, rows, columns, view)))
                    return

        for _ in range(todo.buffers):
            submit()
        while ahead:
            rows, columns, buffer, future = ahead.popleft()
            yield rows, columns, future.result()
            free.append(buffer)
            submit()


def _wanted(scan: ScanInfo, rows: slice, columns: slice) -> bool:
    return scan.where is None or bool(scan.where[rows, columns].any())


def _update(scan: ScanInfo, reductions: list[Any], rows: slice, columns: slice, frames: Any, report: Callable[[int], None]) -> None:
    """Hand one tile to every reduction: all of its frames, or those that `where` keeps."""
    xp = arrays.namespace(frames)
    positions = np.stack(np.meshgrid(np.arange(rows.start, rows.stop), np.arange(columns.start, columns.stop), indexing="ij"), -1).reshape(
        -1, 2
    )
    frames = xp.reshape(frames, (positions.shape[0], *scan.shape[2:]))
    if isinstance(frames, np.ndarray):
        frames = np.ascontiguousarray(frames)  # also strips numpy.memmap, whose views cost Python calls
    if scan.where is not None:
        keep = np.flatnonzero(scan.where[rows, columns])
        if len(keep) < len(positions):
            positions, frames = positions[keep], xp.take(frames, arrays.from_numpy(keep, frames), axis=0)
    for reduction in reductions:
        reduction.update(frames, positions)
    report(len(positions))


class _reporter:
    """Counts patterns for a progress bar, a callable, or nobody."""

    def __init__(self, progress: Progress, total: int):
        self.total, self.done, self.lock = total, 0, threading.Lock()
        self.call = progress if callable(progress) else None
        self.bar = _bar(total) if progress is True else None

    def __enter__(self) -> Callable[[int], None]:
        if self.bar is not None:
            self.bar.start()
        return self.add

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def add(self, patterns: int) -> None:
        if self.call is None and self.bar is None:
            return
        with self.lock:
            self.done += patterns
            if self.bar is not None:
                self.bar.update(self.bar.task_ids[0], completed=self.done)
            if self.call is not None:
                self.call(self.done, self.total)


def _bar(total: int) -> Any:
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        log.info("no progress bar: install gpu4d[app] for one")
        return None
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} patterns"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    bar.add_task("sweep", total=total)
    return bar
