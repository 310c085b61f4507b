"""Divide a scan among the machines of a cluster: runs of scan rows that are tasks, and groups of tasks whose sums are added there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, lcm

from gpu4d.data.source import Shape4
from gpu4d.streaming.reduction import Folds, Reduction
from gpu4d.streaming.sums import group_rows

EACH = 8  # tasks for each thread of a cluster: they end at about the same time, and a machine that is lost loses little
LEAST_TASKS = 64  # of a sweep on few threads, whose last task would else be a large part of the work of each
MOST_TASKS = 2048  # of a sweep, if that leaves each thread `AT_LEAST`: Dask's scheduler takes a millisecond for each
LEAST_BYTES = 64 << 20  # of patterns in a task: some 50 ms of reading, beside 1 ms of scheduling
MOST_BYTES = 2 << 30  # of patterns in a task: what is repeated when a machine is lost
AT_LEAST = 2  # tasks for each thread, however small

Rows = tuple[int, int]  # first scan row, and the one after the last


@dataclass(frozen=True)
class Group:
    """Scan rows, and the tasks that reduce them, in order. If these are several, their states are merged on the cluster."""

    rows: Rows
    tasks: tuple[Rows, ...]


def folding(reductions: Mapping[str, Reduction]) -> list[str]:
    """Name the reductions whose states of neighbouring rows become smaller by merging."""
    return [name for name, one in reductions.items() if isinstance(one, Folds) and one.folds()]


def share_out(shape: Shape4, frame_bytes: int, natural_rows: int, threads: int, folding: bool) -> list[Group]:
    """Divide the rows of a scan.

    Parameters
    ----------
    shape : (Rx, Ry, Qx, Qy)
    frame_bytes : int
        Bytes of a raw pattern.
    natural_rows : int
        Rows of the file's own blocks, which are read once where tasks keep them whole.
    threads : int
        Threads of the cluster that work on tasks at the same time.
    folding : bool
        Whether sums are made. Their rows are added in groups, as in any sweep, so no task then goes over the end of a group unless it
        takes whole groups.

    Examples
    --------
    >>> [group.rows for group in share_out((8, 16, 512, 512), 1 << 19, 1, 2, folding=False)]
    [(0, 2), (2, 4), (4, 6), (6, 8)]
    """
    rows, group = shape[0], group_rows(shape[0])
    unit = natural_rows if natural_rows * AT_LEAST * threads <= rows else 1
    wanted = _rows_of_a_task(rows, max(1, shape[1] * frame_bytes), threads)
    step = unit * max(1, ceil(wanted / unit))
    if folding and step < group:
        return [Group(one, tuple(_runs(*one, step))) for one in _runs(0, rows, group)]
    if folding:
        whole = lcm(group, unit) if lcm(group, unit) <= 2 * step else group
        step = whole * max(1, round(step / whole))
    return [Group(one, (one,)) for one in _runs(0, rows, step)]


def _rows_of_a_task(rows: int, row_bytes: int, threads: int) -> float:
    """Return how many rows a task should have: equal shares, if these are neither too small nor too large."""
    few = rows / (AT_LEAST * threads)
    fair = min(few, rows / min(max(EACH * threads, LEAST_TASKS), MOST_TASKS))
    return max(1.0, min(max(fair, min(LEAST_BYTES / row_bytes, few)), MOST_BYTES / row_bytes))


def _runs(first: int, last: int, step: int) -> list[Rows]:
    """Cut rows into runs of `step` rows. The last may be shorter."""
    return [(at, min(at + step, last)) for at in range(first, last, step)]
