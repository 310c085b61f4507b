"""Do the work of a sweep that runs on a worker of a cluster: reduce some scan rows, and merge the states of neighbouring rows.

Each worker opens the file itself. A task depends on its rows alone, so it can be repeated anywhere. This module knows Dask only where it
asks for the threads and the memory of the worker.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d._version import __version__
from gpu4d.data.datacube import DataCube
from gpu4d.data.source import check_whole
from gpu4d.device import threads
from gpu4d.device.choose import choose_all
from gpu4d.device.memory import default_budget, parse_memory
from gpu4d.device.processors.cpu import CpuProcessor
from gpu4d.errors import Gpu4dError, InputError, MemoryBudgetError
from gpu4d.streaming.cluster_shares import Rows
from gpu4d.streaming.merge import Named, gather
from gpu4d.streaming.passes import frames_of, one_pass, open_workspaces
from gpu4d.streaming.plan import Plan, Share, plan, scan_info
from gpu4d.streaming.reduction import State

LARGE = 1 << 20  # bytes of an array that is worth not copying for every task, such as the origin of every position
KEPT_CUBES = 2  # opened scans that a worker keeps: of this sweep, and of one beside it

_cubes: dict[str, DataCube] = {}  # by the number of the job
_lock = threading.Lock()


@dataclass(frozen=True)
class Pickled:
    """An object as bytes, and its large arrays beside them, which are not copied again by those who read it."""

    data: bytes
    large: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, what: str, one: Any) -> Pickled:
        """Pickle an object. Classes of scripts and notebooks travel along. Raise InputError if it cannot be pickled."""
        import cloudpickle  # comes with Dask

        large: list[np.ndarray] = []

        def small(buffer: pickle.PickleBuffer) -> bool:
            held = buffer.raw()
            if held.nbytes >= LARGE:
                large.append(np.frombuffer(held, np.uint8))
            return held.nbytes < LARGE

        try:
            return cls(cloudpickle.dumps(one, protocol=5, buffer_callback=small), tuple(large))
        except (pickle.PicklingError, AttributeError, TypeError, ValueError) as error:
            raise InputError(f"client=: {what} cannot be sent to other processes ({error}); leave client out") from error

    @property
    def nbytes(self) -> int:
        """Count the bytes that travel."""
        return len(self.data) + sum(one.nbytes for one in self.large)

    def load(self) -> Any:
        """Make the object anew. Its large arrays are read-only, and shared by all that are made."""
        return pickle.loads(self.data, buffers=[one.data.toreadonly() for one in self.large])


@dataclass(frozen=True)
class Job:
    """What every task of a sweep needs. It travels to each worker once.

    Attributes
    ----------
    number : str
        Tells jobs apart.
    version : str
        Version of gpu4d that made it.
    cube, reductions : Pickled
        Every task makes its own reductions of them.
    where : (Rx, Ry) bool or None
    device : str
        "cpu" or "cuda": the same on all workers, so that results do not depend on which worker had which rows.
    memory : int or str or None
        As of `gpu4d.sweep`, of a worker.
    """

    number: str
    version: str
    cube: Pickled
    reductions: Pickled
    where: np.ndarray | None
    device: str
    memory: int | float | str | None

    @classmethod
    def of(cls, cube: DataCube, reductions: Named, where: np.ndarray | None, device: str, memory: int | float | str | None) -> Job:
        """Pickle a cube and reductions before they start. Raise InputError if that is not possible."""
        sent = Pickled.of("the scan", cube), Pickled.of("the reductions", reductions)
        return cls(uuid.uuid4().hex, __version__, *sent, where, device, memory)


@dataclass(frozen=True)
class Machine:
    """What the client asks a worker before it sends work."""

    version: str
    device: str
    process: int


def describe(device: Any) -> Machine:
    """Say which gpu4d this worker has, and on which kind of device it would reduce."""
    (chosen,) = choose_all(device)
    return Machine(__version__, getattr(chosen, "kind", "cpu"), os.getpid())


def carry(job: Job) -> Job:
    """Return the job. As the result of a task it is made again if the worker that holds it is lost."""
    return job


def reduce_rows(rows: Rows, job: Job) -> dict[str, State]:
    """Reduce some scan rows on this worker, and return the states of the reductions.

    On the CPU it uses the thread it is called in, because Dask runs as many tasks at the same time as the worker has threads.
    """
    cube, named = _opened(job), reductions_of(job)
    todo = _planned(cube, named, job, rows)
    if todo.passes > 1:
        raise InputError(f"{', '.join(named)}: several passes, each of which builds on the one before, need one machine; leave client out")
    with open_workspaces(todo, None) as workspaces, threads.along():
        one_pass(cube, todo, 0, [named], workspaces, lambda frames: None, None)
        if frames_of(todo.scan):
            check_whole(cube.source)
        return gather(named, workspaces[0])


def _planned(cube: DataCube, named: Named, job: Job, rows: Rows) -> Plan:
    """Plan a task. Where memory is short, count for all threads of the worker, because `memory=` is of all together."""
    try:
        return plan(cube, named, device=_processor(job), memory=_budget(job), where=job.where, rows=rows)
    except MemoryBudgetError as error:
        slots, _ = _slots()
        if slots == 1:
            raise
        what = f"a sweep for {', '.join(named)}, on {slots} threads of a worker at the same time,"
        raise MemoryBudgetError(what, slots * error.asked, error.free, slots * error.cap) from error


def part_of(states: dict[str, State], names: Collection[str]) -> dict[str, State]:
    """Return the states of some reductions, which travel without those of the others."""
    return {name: states[name] for name in names}


def merge_rows(rows: Rows, states: list[dict[str, State]], job: Job, names: Collection[str]) -> dict[str, State]:
    """Merge the states that some reductions have of tasks, which had all of some scan rows between them."""
    named = {name: one for name, one in reductions_of(job).items() if name in names}
    scan, _ = scan_info(_opened(job), job.where, work=Share(rows=rows))
    for name, reduction in named.items():
        reduction.start(scan, "cpu")
        for state in states:
            reduction.merge(state[name])
    return {name: reduction.state() for name, reduction in named.items()}


def _opened(job: Job) -> DataCube:
    """Return the scan, opened on this machine. It stays open for the next tasks."""
    if job.version != __version__:
        raise InputError(f"{_here()} has gpu4d {__version__}, the client {job.version}: install the same version on both")
    with _lock:
        if job.number not in _cubes:
            try:
                cube = job.cube.load()
            except Gpu4dError as error:
                raise InputError(f"{_here()}: {error}; every worker must see the file at the same path") from error
            except ImportError as error:
                raise _lacks(error, "scan") from error
            while len(_cubes) >= KEPT_CUBES:
                _cubes.pop(next(iter(_cubes)))
            _cubes[job.number] = cube
        return _cubes[job.number]


def reductions_of(job: Job) -> Named:
    """Return new reductions, which have not started."""
    try:
        return job.reductions.load()
    except (ImportError, AttributeError) as error:
        raise _lacks(error, "reductions") from error


def _lacks(error: Exception, what: str) -> InputError:
    """Say that this machine has not the module of a class of the caller."""
    return InputError(f"{_here()} cannot make the {what} ({error}): install their module there, or send it by client.upload_file")


def _processor(job: Job) -> Any:
    if job.device != "cpu":
        return job.device
    processor = CpuProcessor()
    processor.lanes = 1
    return processor


def _budget(job: Job) -> int | None:
    """Return the bytes of one task: the share of a thread in the memory of its worker. None: half of what the device has free."""
    slots, limit = _slots()
    if job.memory is not None:
        return max(1, parse_memory(job.memory) // slots)
    if job.device != "cpu":
        return None
    return max(1, min(default_budget(), limit // 2 if limit else default_budget()) // slots)


def _slots() -> tuple[int, int | None]:
    """Return how many tasks run at the same time on this worker, and the bytes that Dask allows it."""
    worker = _worker()
    if worker is None:
        return 1, None
    return max(1, int(worker.state.nthreads)), worker.memory_manager.memory_limit


def _here() -> str:
    worker = _worker()
    return f"the worker {worker.address}" if worker is not None else "this process"


def _worker() -> Any:
    """Return Dask's worker of this thread. None outside of a worker."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        return get_worker()
    except ValueError:
        return None
