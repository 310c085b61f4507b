"""Say what a sweep on a cluster costs beside the work, for up to 10 000 workers, and what limits it: scheduler, link, disk or merging.

    python benchmarks/distributed_scaling.py [--rows 10000] [--columns 1024] [--rate R] [--disk GB/s] [--json FILE]

The division into tasks, the states of tasks and the merging are those of `gpu4d.sweep(client=)`: this process makes the states of every
task with values from a generator, pickles them and merges them, checks the sums, and takes the time of every step. Only what is not here
is modelled: workers, scheduler, network and disks. A discrete simulation puts both together. It is run twice with the same tasks, once
with free scheduling, network and merging. What is added to the time of that run is the cost that the table shows.
"""

from __future__ import annotations

import argparse
import heapq
import json
import pickle
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

import gpu4d
from gpu4d.data.calibration import Calibration
from gpu4d.data.pointlist import PointListArray
from gpu4d.streaming.cluster import groups_of
from gpu4d.streaming.cluster_shares import Group, Rows, folding
from gpu4d.streaming.cluster_tasks import Job, merge_rows
from gpu4d.streaming.plan import Share, scan_info

DETECTOR = (256, 256)
DISKS = 20  # in a pattern
WORKERS = (16, 64, 256, 1024, 4096, 10_000)
JITTER = 0.05  # standard deviation of the time of tasks: machines and files are never the same
FRONT = 1e-3  # seconds until the first task is sent, after the client has made them


@dataclass(frozen=True)
class Cluster:
    """What is modelled.

    Attributes
    ----------
    link : float
        Bytes per second of the network card of each machine: 10 Gb/s.
    latency : float
        Seconds of a message.
    scheduling : float
        Seconds of Dask's scheduler for each task, which it does one after the other. `benchmarks/workers.py` measures it.
    disk, disks : float
        Bytes per second that one worker can read, and all workers together.
    rate : float
        Patterns per second that a worker can reduce.
    """

    link: float = 1.25e9
    latency: float = 1e-4
    scheduling: float = 1e-3
    disk: float = 1e9
    disks: float = 1e12
    rate: float = 3000.0


@dataclass(frozen=True)
class Costs:
    """Seconds, and bytes, of what this process measured.

    Attributes
    ----------
    planning : float
        For the whole scan.
    packing, state_bytes : float
        For each scan row in a task's state.
    merging : float
        For each scan row of a group that a worker merges.
    merged_bytes, here : float
        Of a state that comes to the client, and for merging it there.
    part_bytes, part : float
        The same of the part of a task's state that comes to the client at once, in a sweep for sums and for others. 0 if there is none.
    """

    planning: float
    state_bytes: float
    packing: float
    merging: float
    merged_bytes: float
    here: float
    part_bytes: float = 0.0
    part: float = 0.0


class Patterns:
    """A source with the shape of a scan, and no patterns: the states are made without them."""

    dtype, blocks, resident, description = np.dtype("uint16"), (1, 1), False, "no patterns"

    def __init__(self, rows: int, columns: int):
        self.shape = (rows, columns, *DETECTOR)

    def read(self, rows: slice, columns: slice, out: Any = None) -> Any:
        raise AssertionError("not read")


def reductions() -> dict[str, dict[str, Any]]:
    """Return the sweeps that are compared, by name."""
    probe = gpu4d.probe.synthetic(DETECTOR, 6.0)
    one: dict[str, Callable[[], Any]] = {
        "sum": gpu4d.MeanPattern,
        "com": gpu4d.CenterOfMass,
        "disks": lambda: gpu4d.BraggDisks(probe, refine="correlation"),
    }
    return {**{name: {name: make()} for name, make in one.items()}, "all three": {name: make() for name, make in one.items()}}


def state_of(name: str, reduction: Any, rows: Rows, columns: int) -> None:
    """Fill a reduction as a task would, which had some scan rows."""
    rng = np.random.default_rng(rows[0])
    if name == "sum":
        totals = rng.integers(0, 1 << 30, DETECTOR)
        for row in range(*rows):
            positions = np.stack([np.full(columns, row), np.arange(columns)], -1)
            reduction.add(positions, totals=totals + row, counts=np.float64(columns), seen=float(columns))
        return
    n = (rows[1] - rows[0]) * columns
    number = np.arange(rows[0] * columns, rows[1] * columns)
    if name == "com":
        reduction.put(np.stack(np.divmod(number, columns), -1), rng.random((n, reduction.planes)))
        return
    kinds = {"qx": "float64", "qy": "float64", "intensity": "float32", "sx": "float32", "sy": "float32"}
    values = {field: rng.random(n * DISKS).astype(kind) for field, kind in kinds.items()}
    units = {"qx": "px", "qy": "px", "intensity": "counts/px", "sx": "px", "sy": "px"}
    reduction.found.add({int(number[0]): (number, PointListArray(np.arange(n + 1) * DISKS, values, (n,), units))})


def measure(cube: gpu4d.DataCube, named: dict[str, Any], threads: int) -> tuple[list[Group], Costs]:
    """Divide the scan, make the states of its tasks, merge all of them, and time every step."""
    start = time.thread_time()
    scan, _ = scan_info(cube)
    groups = groups_of(cube, scan, named, threads)
    job = Job.of(cube, named, None, "cpu", None)
    planning = time.thread_time() - start
    here = pickle.loads(pickle.dumps(named))
    for reduction in here.values():
        reduction.start(scan, "cpu")
    sums = folding(named)
    taken: dict[str, list[float]] = {field.name: [] for field in fields(Costs)}
    step = max(1, len(groups) // 64)  # of a larger number of single tasks, some are merged: their costs are the same
    for group in groups[::step]:
        packed: Any = None
        states: list[Any] = []
        for rows in group.tasks:
            packed, seconds = _packed(cube, named, rows)
            states.append(packed)
            taken["packing"].append(seconds / (rows[1] - rows[0]))
            taken["state_bytes"].append(size(packed) / (rows[1] - rows[0]))
            if len(group.tasks) > 1 and len(sums) < len(named):
                part = pack({name: state for name, state in unpack(packed).items() if name not in sums})
                taken["part_bytes"].append(size(part))
                taken["part"].append(_merge(here, part))
        if len(states) > 1:
            start = time.thread_time()
            packed = pack(merge_rows(group.rows, [unpack(one) for one in states], job, sums))
            taken["merging"].append((time.thread_time() - start) / (group.rows[1] - group.rows[0]))
        taken["merged_bytes"].append(size(packed))
        taken["here"].append(_merge(here, packed))
    _check(here, groups, step)
    taken["planning"].append(planning)
    return groups, Costs(**{name: statistics.median(values or [0.0]) for name, values in taken.items()})


def _merge(here: dict[str, Any], packed: Any) -> float:
    """Merge a state on the client, and return the seconds."""
    start = time.thread_time()
    for name, state in unpack(packed).items():
        here[name].merge(state)
    return time.thread_time() - start


def pack(state: Any) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """Pickle a state as Dask does: arrays travel as they are."""
    arrays: list[pickle.PickleBuffer] = []
    return pickle.dumps(state, protocol=5, buffer_callback=arrays.append), arrays


def unpack(packed: tuple[bytes, list[pickle.PickleBuffer]]) -> Any:
    """Make a state of its bytes and arrays."""
    return pickle.loads(packed[0], buffers=packed[1])


def size(packed: tuple[bytes, list[pickle.PickleBuffer]]) -> int:
    """Count the bytes that travel."""
    return len(packed[0]) + sum(one.raw().nbytes for one in packed[1])


def _packed(cube: gpu4d.DataCube, named: dict[str, Any], rows: Rows) -> tuple[Any, float]:
    """Return the pickled state of a task, and the seconds that making and pickling it took."""
    own = pickle.loads(pickle.dumps(named))
    scan, _ = scan_info(cube, work=Share(rows=rows))
    for name, reduction in own.items():
        reduction.start(scan, "cpu")
        state_of(name, reduction, rows, cube.shape[1])
    start = time.thread_time()
    packed = pack({name: reduction.state() for name, reduction in own.items()})
    return packed, time.thread_time() - start


def _check(here: dict[str, Any], groups: list[Group], step: int) -> None:
    """Compare what was merged with what it must be."""
    if "sum" in here:
        expected: Any = 0
        for group in groups[::step]:
            for first, last in group.tasks:
                totals = np.random.default_rng(first).integers(0, 1 << 30, DETECTOR)
                expected = expected + totals * (last - first) + sum(range(first, last))
        assert np.array_equal(here["sum"].result("totals"), expected), "the merged sum is wrong"
    if "com" in here:
        seen = ~np.isnan(here["com"].values.result()[0]).all(1)
        assert seen.sum() == sum(g.rows[1] - g.rows[0] for g in groups[::step]), "positions are missing"


def simulate(groups: list[Group], costs: Costs, cluster: Cluster, workers: int, columns: int) -> dict[str, float]:
    """Run the tasks on modelled workers. Return when the last state is merged, and how busy the shared parts were."""
    rng, clock, order = np.random.default_rng(1), 0.0, 0
    frame = 2 * DETECTOR[0] * DETECTOR[1]
    disk = min(cluster.disk, cluster.disks / workers)
    row_seconds = columns * max(frame / disk, 1 / cluster.rate) + costs.packing
    waiting = [(rows, index) for index, group in enumerate(groups) for rows in group.tasks]
    jitter = np.maximum(0.2, 1 + JITTER * rng.standard_normal(len(waiting)))
    left = [len(group.tasks) for group in groups]
    merges: list[int] = []  # groups whose states are all made
    busy = {"scheduler": 0.0, "link": 0.0, "merging here": 0.0}
    free = dict.fromkeys(busy, costs.planning + FRONT * (costs.planning > 0))
    events: list[tuple[float, int, int, bool]] = [(free["scheduler"], number, -1, False) for number in range(workers)]
    heapq.heapify(events)
    order, next_task, end = workers, 0, 0.0

    def use(what: str, at: float, seconds: float) -> float:
        free[what] = max(free[what], at) + seconds
        busy[what] += seconds
        return free[what]

    def to_client(at: float, size: float, seconds: float) -> None:
        nonlocal end
        arrived = use("link", at + cluster.latency, size / cluster.link)
        end = max(end, use("merging here", arrived, seconds))

    idle = 0
    while events:
        clock, _, done, merged = heapq.heappop(events)
        if done >= 0 and not merged:
            left[done] -= 1
            if len(groups[done].tasks) == 1:
                to_client(clock, costs.merged_bytes, costs.here)
            elif costs.part_bytes:
                to_client(use("scheduler", clock, cluster.scheduling) + 2 * cluster.latency, costs.part_bytes, costs.part)
            if len(groups[done].tasks) > 1 and left[done] == 0:
                merges.append(done)
        elif done >= 0:
            to_client(clock, costs.merged_bytes, costs.here)
        idle += 1
        while idle and (merges or next_task < len(waiting)):
            begin = use("scheduler", clock, cluster.scheduling) + 2 * cluster.latency
            if merges:
                group = merges.pop(0)
                rows = groups[group].rows[1] - groups[group].rows[0]
                seconds = rows * (costs.state_bytes / cluster.link + costs.merging) + len(groups[group].tasks) * cluster.latency
                event = (begin + seconds, order, group, True)
            else:
                rows_of, group = waiting[next_task]
                seconds = (rows_of[1] - rows_of[0]) * row_seconds * jitter[next_task]
                event = (begin + seconds, order, group, False)
                next_task += 1
            heapq.heappush(events, event)
            order, idle = order + 1, idle - 1
    return {"seconds": end, **busy}


def table(rows: int, columns: int, cluster: Cluster, workers: tuple[int, ...] = WORKERS) -> list[dict[str, Any]]:
    """Return a row for each sweep and number of workers."""
    cube, found = gpu4d.DataCube(Patterns(rows, columns), Calibration()), []
    free = Cluster(1e30, 0.0, 0.0, cluster.disk, cluster.disks, cluster.rate)
    for name, named in reductions().items():
        for count in workers:
            groups, costs = measure(cube, named, count)
            real = simulate(groups, costs, cluster, count, columns)
            nothing = replace(costs, planning=0.0, packing=0.0, merging=0.0, here=0.0, part=0.0)
            ideal = simulate(groups, nothing, free, count, columns)["seconds"]
            single = rows * columns * max(2 * DETECTOR[0] * DETECTOR[1] / cluster.disk, 1 / cluster.rate)
            shared = {part: real[part] / real["seconds"] for part in ("scheduler", "link", "merging here")}
            found.append(
                {
                    "sweep": name,
                    "workers": count,
                    "tasks": sum(len(group.tasks) for group in groups),
                    "seconds": real["seconds"],
                    "cost": real["seconds"] / ideal - 1,
                    "efficiency": single / count / real["seconds"],
                    "costs": asdict(costs),
                    **shared,
                }
            )
            print(line(found[-1]), flush=True)
    return found


def line(row: dict[str, Any]) -> str:
    """Return a row of the table as text."""
    busy = "  ".join(f"{part} {row[part]:6.1%}" for part in ("scheduler", "link", "merging here"))
    start = f"{row['sweep']:<10} {row['workers']:>6} workers {row['tasks']:>6} tasks {row['seconds']:9.2f} s"
    return f"{start}  cost {row['cost']:7.2%}  efficiency {row['efficiency']:6.1%}  busy: {busy}"


def main() -> None:
    """Read the arguments, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000, help="scan rows, of which each is a row block")
    parser.add_argument("--columns", type=int, default=1024)
    parser.add_argument("--rate", type=float, default=Cluster.rate, help="patterns per second that a worker reduces")
    parser.add_argument("--disk", type=float, default=1.0, help="GB/s that one worker reads")
    parser.add_argument("--disks", type=float, default=1000.0, help="GB/s that all workers read together")
    parser.add_argument("--scheduling", type=float, default=1.0, help="ms of Dask's scheduler for a task")
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    cluster = Cluster(disk=asked.disk * 1e9, disks=asked.disks * 1e9, rate=asked.rate, scheduling=asked.scheduling / 1e3)
    found = table(asked.rows, asked.columns, cluster, tuple(asked.workers))
    if asked.json:
        asked.json.write_text(json.dumps({"cluster": asdict(cluster), "rows": found}, indent=1))


if __name__ == "__main__":
    main()
