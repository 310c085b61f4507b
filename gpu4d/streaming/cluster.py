"""Sweep a scan on a cluster of dask.distributed: each worker opens the file and reduces scan rows, and the states are merged here.

Dask decides which worker has which rows, and repeats the tasks of workers that are lost. Sums are kept for each scan row and added in
row order (`gpu4d.streaming.sums`), values per position are stored at their positions. So results have the bits of a sweep in this process.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu4d._version import __version__
from gpu4d.data.datacube import DataCube, itemsize
from gpu4d.data.source import ArraySource, Shape4, below_views
from gpu4d.data.views import uncorrected
from gpu4d.device.choose import DeviceLike
from gpu4d.errors import DeviceError, Gpu4dError, InputError
from gpu4d.sizes import format_bytes
from gpu4d.streaming import cluster_tasks
from gpu4d.streaming.cluster_shares import Group, Rows, folding, share_out
from gpu4d.streaming.cluster_tasks import Job, Machine
from gpu4d.streaming.merge import Named
from gpu4d.streaming.plan import scan_info
from gpu4d.streaming.reduction import ScanInfo

if TYPE_CHECKING:
    from distributed import Client, Future

log = logging.getLogger("gpu4d")

MOST_SENT = 64 << 20  # bytes of an array that travels to every worker; a larger one is opened there from a file
BATCH = 512  # tasks that are sent at once: the first workers begin while others are still to be sent
FIRST = 10  # priority of what frees the memory of workers, before further rows are reduced
PATIENCE = 10  # seconds without any worker before a warning says so
NEEDS = "client= needs Dask on both sides: pip install 'gpu4d[distributed]'"


def sweep_on_cluster(
    cube: DataCube,
    named: Named,
    client: Client | str,
    report: Callable[[int], None],
    *,
    device: DeviceLike = "auto",
    memory: int | float | str | None = None,
    where: Any = None,
) -> None:
    """Fill reductions with a scan that the workers of a cluster read.

    Parameters
    ----------
    cube : DataCube
        Its file must be at the same path on all workers. An array of at most 64 MiB travels to them.
    named : dict of str to Reduction
        They are started here, and filled.
    client : distributed.Client or str
        Or the address of a scheduler, "tcp://host:8786".
    report : callable
        Told how many patterns were reduced.
    device, memory, where
        As of `gpu4d.sweep`, on each worker.

    Raises
    ------
    InputError
        Something cannot be sent, or workers have another version of gpu4d or devices of several kinds.
    DeviceError
        The cluster is gone, or its workers die again and again.
    """
    check_sent(cube)
    scan, _ = scan_info(cube, where)
    several = [name for name, one in named.items() if one.passes(scan, 1 << 62) > 1]
    if several:
        raise InputError(f"{', '.join(several)} needs several passes, each of which builds on the one before: leave client out")
    with connected(client) as link, _in_our_words(link):
        workers = _workers(link, device)
        kind = next(iter(workers.values())).device
        slots = sum(link.nthreads().values())
        groups = groups_of(cube, scan, named, slots)
        log.info("sweep: %d tasks for %d workers with %d threads on %s", sum(len(g.tasks) for g in groups), len(workers), slots, kind)
        job = Job.of(cube, named, scan.where, kind, memory)
        check_size(job.cube.nbytes)
        for copy in cluster_tasks.reductions_of(job).values():
            copy.start(scan, "cpu")  # raises what is wrong before anything is read
        sent = _send(link, job, groups, scan, named)
        _collect(link, sent, named, scan, report)


def groups_of(cube: DataCube, scan: ScanInfo, named: Named, threads: int) -> list[Group]:
    """Divide a scan into tasks for so many threads. Rows without a position to visit are left out."""
    raw = uncorrected(cube.source)[0]
    frame = max(1, int(np.prod(raw.shape[2:], dtype=np.int64)) * itemsize(raw.dtype))
    shape: Shape4 = scan.shape
    groups = share_out(shape, frame, max(1, cube.source.blocks[0]), max(1, threads), bool(folding(named)))
    kept = [Group(group.rows, tuple(rows for rows in group.tasks if _frames(scan, rows))) for group in groups]
    return [group for group in kept if group.tasks]


def check_sent(cube: DataCube) -> None:
    """Raise InputError if a scan is in the memory of this process, and on a device or too large to travel to every worker."""
    below = below_views(cube.source)
    if not isinstance(below, ArraySource):
        return
    if not isinstance(below.array, np.ndarray):
        raise InputError(
            "client=: the scan is an array on a device of this process; save it, and give gpu4d.open of the file, or leave client out"
        )
    check_size(below.array.nbytes)


def check_size(held: int) -> None:
    """Raise InputError if what a scan holds in memory is too much to travel: patterns, events, or arrays in the graph of Dask."""
    if held > MOST_SENT:
        raise InputError(
            f"client=: the scan holds {format_bytes(held)} in the memory of this process, and at most {format_bytes(MOST_SENT)} are sent "
            "to workers; save it, and give gpu4d.open of the file"
        )


@contextlib.contextmanager
def connected(client: Client | str) -> Iterator[Client]:
    """Yield a client: the given one, or one for the scheduler at an address, which is closed at the end.

    Raises
    ------
    InputError
        Neither of the two, a client that is used with await, or Dask is not installed.
    DeviceError
        No scheduler answers at the address.
    """
    if not isinstance(client, str):
        if not (type(client).__module__.partition(".")[0] == "distributed" and hasattr(client, "submit")):
            raise InputError(
                f"client is a {type(client).__name__}: need a distributed.Client, or the address of a scheduler, 'tcp://host:8786'"
            )
        if client.asynchronous:
            raise InputError("client is asynchronous, and a sweep waits for its results: give distributed.Client(address)")
        if client.status != "running":
            raise InputError(f"client is {client.status}: give a distributed.Client that is connected")
        yield client
        return
    try:
        from distributed import Client as Connect
    except ImportError:
        raise InputError(NEEDS) from None
    _check_address(client)
    try:
        link = Connect(client, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise DeviceError(
            f"no scheduler answers at {client!r} ({error}): start one with `dask scheduler`, and give the address it prints"
        ) from error
    with link:
        yield link


def _check_address(address: str) -> None:
    """Raise InputError for what is no address. A client of Dask would wait for it when Python ends."""
    from distributed.comm.addressing import get_address_host_port

    if address.startswith("inproc://"):  # a scheduler in this process has no port
        return
    try:
        get_address_host_port(address)
    except ValueError as error:
        raise InputError(
            f"{address!r} is no address of a scheduler ({error}): need 'tcp://host:8786', as `dask scheduler` prints it"
        ) from None


@contextlib.contextmanager
def _in_our_words(client: Client) -> Iterator[None]:
    """Translate what Dask raises when workers or the scheduler are gone."""
    from concurrent.futures import CancelledError

    from distributed.comm import CommClosedError
    from distributed.scheduler import KilledWorker

    try:
        yield
    except Gpu4dError:
        raise
    except KilledWorker as error:
        raise DeviceError(
            f"{error.allowed_failures + 1} workers died over the same rows: look into the log of {error.last_worker.address}; "
            "if they ran out of memory, lower memory=, or give workers more"
        ) from error
    except (CancelledError, CommClosedError) as error:
        raise DeviceError(
            f"the cluster at {_address(client)} has gone, or cancelled the sweep ({type(error).__name__}): start it again"
        ) from error
    except RuntimeError as error:
        if "deserialization of the task graph" not in str(error):
            raise
        raise InputError(
            f"the scheduler at {_address(client)} cannot read the tasks: install gpu4d {__version__} there, and the same Dask as here"
        ) from error
    except TypeError as error:
        if not str(error).startswith("Could not serialize"):
            raise
        cause = str(error).split("TypeError: ")[-1].splitlines()[0]
        raise InputError(f"client=: the state of a reduction cannot be sent to other processes ({cause}); leave client out") from error


def _address(client: Client) -> str:
    return str(getattr(client.scheduler, "address", "an address that is not known"))


def _workers(client: Client, device: DeviceLike) -> dict[str, Machine]:
    """Wait for a worker, ask all that are there what they are, and return their answers."""
    from distributed import TimeoutError as NoneYet

    if not isinstance(device, str):
        raise InputError(f"device={device!r} with client=: each worker uses one device: 'auto', 'cpu' or 'cuda'")
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except NoneYet:
        log.warning("no worker has joined the scheduler at %s yet: waiting for one", _address(client))
        client.wait_for_workers(1)
    found = client.run(cluster_tasks.describe, device, on_error="return")
    for address, one in found.items():
        if isinstance(one, Gpu4dError):
            raise type(one)(f"the worker {address}: {one}") from one
        if isinstance(one, BaseException):
            raise InputError(f"the worker {address} cannot use gpu4d {__version__} ({one}): install it there") from one
        if one.version != __version__:
            raise InputError(f"the worker {address} has gpu4d {one.version}, the client {__version__}: install the same version on both")
    kinds = sorted({one.device for one in found.values()})
    if len(kinds) > 1:
        raise InputError(
            f"device={device!r}: some workers have {kinds[0]}, others {kinds[1]}, and results differ by rounding: give device='cpu'"
        )
    return found


@dataclass
class Sent:
    """What was sent to the cluster: tasks and their numbers of patterns, what follows them there, and those whose states come here."""

    frames: dict[Future, int]
    after: list[Future]
    roots: set[Future]


def _send(client: Client, job: Job, groups: list[Group], scan: ScanInfo, named: Named) -> Sent:
    """Submit all tasks. States of neighbours are merged there if that makes them smaller; others come here as they are."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sending large graph")  # once; what is scattered instead is lost with its worker
        carried = client.submit(cluster_tasks.carry, job, key=f"gpu4d-job-{job.number}")
    tasks = [rows for group in groups for rows in group.tasks]
    keys = [f"gpu4d-rows-{job.number}-{first}-{last}" for first, last in tasks]
    futures = client.map(cluster_tasks.reduce_rows, tasks, key=keys, job=carried, batch_size=BATCH)
    sent, left = Sent({future: _frames(scan, rows) for future, rows in zip(futures, tasks)}, [], set()), iter(futures)
    sums = folding(named)
    others = [name for name in named if name not in sums]
    for group in groups:
        members = [next(left) for _ in group.tasks]
        if len(members) > 1:
            one: dict[str, Any] = {"key": f"gpu4d-merge-{job.number}-{group.rows[0]}-{group.rows[1]}", "priority": FIRST}
            after = [client.submit(cluster_tasks.merge_rows, group.rows, members, carried, sums, **one)]
            if others:
                parts = [f"gpu4d-part-{job.number}-{rows[0]}-{rows[1]}" for rows in group.tasks]
                after += client.map(cluster_tasks.part_of, members, key=parts, names=others, priority=FIRST)
            sent.after += after
            members = after
        sent.roots.update(members)
    return sent


def _collect(client: Client, sent: Sent, named: Named, scan: ScanInfo, report: Callable[[int], None]) -> None:
    """Merge the states of tasks as they come. After an error nothing is left to do on the cluster.

    The reductions start when the first states are here. So they can be sent again if no task had enough memory.
    """
    from distributed import as_completed

    everything, started = [*sent.frames, *sent.after], False
    try:
        for batch in as_completed(everything, loop=client.loop).batches():
            for future in batch:
                if future.status != "finished":
                    future.result()  # raises what went wrong
                if future in sent.frames:
                    report(sent.frames[future])
            for states in client.gather([future for future in batch if future in sent.roots]):
                if not started:
                    _start(named, scan)
                    started = True
                for name, state in states.items():
                    named[name].merge(state)
            for future in batch:
                future.release()  # a worker keeps a state no longer than the merge that waits for it
    except BaseException:
        client.cancel(everything, force=True)
        raise
    if not started:
        _start(named, scan)


def _start(named: Named, scan: ScanInfo) -> None:
    for reduction in named.values():
        reduction.start(scan, "cpu")


def _frames(scan: ScanInfo, rows: Rows) -> int:
    return (rows[1] - rows[0]) * scan.shape[1] if scan.where is None else int(scan.where[slice(*rows)].sum())
