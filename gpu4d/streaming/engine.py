"""Sweep a scan: one pass over it feeds any number of reductions."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, TypeVar, Unpack, overload

from gpu4d.arrays import ArrayLike
from gpu4d.data.datacube import DataCube
from gpu4d.data.source import check_whole
from gpu4d.device.choose import DeviceLike
from gpu4d.device.memory import available_memory
from gpu4d.device.processors.processor import Workspace
from gpu4d.device.timeline import Timeline, place_of_trace
from gpu4d.errors import InputError, MemoryBudgetError
from gpu4d.streaming.merge import Named, gather, merge, shares, to_host
from gpu4d.streaming.passes import frames_of, one_pass, open_workspaces, refusing
from gpu4d.streaming.plan import Plan, plan, scan_info
from gpu4d.streaming.progress import Counter, Progress
from gpu4d.streaming.reduction import Reduction, Result
from gpu4d.streaming.registered import named_reductions

if TYPE_CHECKING:
    from distributed import Client

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
    client: Client | str | None


class VisitOptions(PassOptions, total=False):
    """Keyword arguments of `sweep` without `memory`."""

    where: ArrayLike | None


class BudgetOptions(PassOptions, total=False):
    """Keyword arguments of `sweep` without `where`."""

    memory: int | float | str | None


class SweepOptions(VisitOptions, BudgetOptions, total=False):
    """All keyword arguments of `sweep`."""


class _OfEachWorker(TypedDict):
    """Keyword arguments of `sweep` that every worker of a cluster is given."""

    device: DeviceLike
    memory: int | float | str | None
    where: ArrayLike | None


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
    client: Client | str | None = None,
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
        True draws a bar in a notebook, and at a terminal if `rich` is installed. A callable is called with (patterns done, patterns in
        all).
    keep : {"host", "device"}, optional
        Place of the results. By default results of files are on the host, and results of arrays on the device of the array. "device" keeps
        results on the device on which they were made, which must be one.
    trace : path or Timeline, optional
        File for a Chrome trace of reading, copying and computing (open it in ui.perfetto.dev). An earlier trace is replaced, another
        file is not. If writing fails at the end, a warning is logged and the results are returned. A
        `gpu4d.device.timeline.Timeline` is filled, but not written. Several sweeps can share one.
    client : distributed.Client or str, optional
        A cluster of Dask, or the address of its scheduler, "tcp://host:8786" (docs/how-to/cluster.md). Each worker opens the file and
        reduces scan rows, on a GPU if it has one. `memory` is then of each worker. Results come to the host, to the last bit as without.

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
    named = _checked(cube, reductions, keep, progress)
    if client is not None:
        results = _on_a_cluster(cube, named, client, progress, device=device, memory=memory, where=where, trace=trace, keep=keep)
        return results if isinstance(reductions, Mapping) else results["result"]
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
        with Counter(progress, frames_of(todo.scan) * todo.passes) as report, open_workspaces(todo, timeline) as workspaces:
            for pass_ in range(todo.passes):
                one_pass(cube, todo, pass_, parts, workspaces, report, timeline)
            if frames_of(todo.scan):
                check_whole(cube.source)  # an error if a mapped file was cut short while its last tiles were used or copied
            _merged(todo, parts, workspaces)
            results = results_of(todo, named, workspaces[0], keep or ("host" if todo.ring else "device"))
    finally:
        if place is not None and timeline is not None:
            _write(timeline, place)
    return results if isinstance(reductions, Mapping) else results["result"]


def _checked(cube: Any, reductions: Any, keep: Any, progress: Any) -> Named:
    """Return the reductions by name, after checking the other arguments."""
    if not isinstance(cube, DataCube):
        make = "gpu4d.open(path)" if isinstance(cube, str | os.PathLike) else "gpu4d.DataCube(array)"
        raise InputError(f"the scan is a {type(cube).__name__}, need a DataCube: {make} makes one")
    if not isinstance(progress, bool) and not callable(progress):
        raise InputError(f"progress={progress!r}: need True, False or a function of (patterns done, patterns in all)")
    if keep not in (None, "host", "device"):
        raise InputError(f"keep={keep!r}: need 'host' or 'device'")
    return named_reductions(reductions)


def _on_a_cluster(
    cube: DataCube,
    named: Named,
    client: Client | str,
    progress: Progress,
    *,
    keep: str | None,
    trace: Any,
    **options: Unpack[_OfEachWorker],
) -> dict[str, Any]:
    """Sweep with the workers of Dask. Results are made in this process."""
    from gpu4d.streaming.cluster import sweep_on_cluster

    if keep == "device":
        raise InputError("keep='device' with client=: states of workers are merged on the host; leave keep out")
    if trace is not None:
        raise InputError("trace= with client=: a trace shows one process; leave it out, and look at the dashboard of Dask")
    scan, _ = scan_info(cube, options["where"])
    with Counter(progress, frames_of(scan)) as report:
        sweep_on_cluster(cube, named, client, report, **options)
        return {name: to_host(reduction.finish()) for name, reduction in named.items()}


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
        with refusing(f"gathering what {processor.name} found", todo, processor):
            states = gather(part, workspace)
        with refusing(f"bringing together what several devices found, on {first[0].name},", todo, first[0]):
            merge(first[1], states, first[2])


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
