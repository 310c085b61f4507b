"""Base classes for reductions: values per position, and sums whose bits do not depend on chunks.

A reduction with one of these bases has three short methods: `bytes_needed`, `update` and `finish`.
"""

from __future__ import annotations

import contextlib
import operator
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array
from gpu4d.streaming.reduction import ScanInfo, State

GROUPS = 64  # of scan rows, whose sums are added in order: enough for many threads, and few enough to hold a sum for each

STARTED = ("scan", "values", "kept")  # attributes that the `start` of these classes makes

Value = Any  # of a sum: an array of any library, or a number; None before anything came


class Store(Protocol):
    """Storage for the values of a reduction."""

    def put(self, positions: np.ndarray, values: Array) -> None:
        """Store the values of positions (n, 2)."""
        ...

    def state(self) -> State: ...

    def restore(self, state: State) -> None: ...

    def merge(self, state: State) -> None: ...

    def result(self) -> Value:
        """Return all values so far. Changes nothing."""
        ...


class OnePass:
    """Base of reductions that need one pass. Subclasses may extend `start`, and must call it first."""

    scan: ScanInfo

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what `start` makes: a copy in another process has not started."""
        return {name: held for name, held in self.__dict__.items() if name not in STARTED}

    def passes(self, scan: ScanInfo, budget: int) -> int:
        """Return the number of passes it needs: 1."""
        return 1

    def start(self, scan: ScanInfo, device: Any, pass_: int = 0) -> None:
        """Store the properties of the scan. Called before the first frame."""
        self.scan = scan


class PerPositionReduction(OnePass):
    """Base of reductions to values per scan position. A subclass has `bytes_needed`, `update` and `finish`.

    `update` gives its values (n, planes) to ``self.put(positions, values)``. `finish` makes the result from
    ``self.values.result()``, (planes, Rx, Ry) float64 with NaN at positions that were not visited.

    Attributes
    ----------
    planes : int
        Number of values per position. Set in the class or in its `__init__`.
    scan : ScanInfo
        The scan, from `start` on.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> class Total(PerPositionReduction):
    ...     def bytes_needed(self, scan, n_frames):
    ...         return self.held_bytes(scan, n_frames)
    ...     def update(self, frames, positions):
    ...         self.put(positions, frames.sum((1, 2))[:, None])
    ...     def finish(self):
    ...         return self.values.result()[0]
    >>> gpu4d.sweep(gpu4d.DataCube(np.ones((2, 3, 4, 4), "uint16")), Total()).tolist()
    [[16.0, 16.0, 16.0], [16.0, 16.0, 16.0]]
    """

    planes: int = 1
    values: Store

    def held_bytes(self, scan: ScanInfo, n_frames: int) -> int:
        """Return the bytes that the values take, including the result and the values of `n_frames` frames in an update."""
        return PerPosition.bytes_needed(scan, self.planes, n_frames)

    def store(self, scan: ScanInfo) -> Store:
        """Make the storage for the values. Override it to store them in another form than float64."""
        return PerPosition(scan, self.planes)

    def start(self, scan: ScanInfo, device: str, pass_: int = 0) -> None:
        """Begin with no values."""
        super().start(scan, device, pass_)
        self.values = self.store(scan)

    def put(self, positions: np.ndarray, values: Array) -> None:
        """Store the values (n, planes) of positions (n, 2)."""
        self.values.put(positions, values)

    def state(self) -> State:
        """Return plain arrays from which `restore` continues."""
        return self.values.state()

    def restore(self, state: State) -> None:
        """Continue from a state."""
        self.values.restore(state)

    def merge(self, state: State) -> None:
        """Add the values of another worker."""
        self.values.merge(state)


class SumReduction(OnePass):
    """Base of reductions to sums over frames. A subclass has `bytes_needed`, `update` and `finish`.

    `update` gives the sums over its frames to ``self.add(positions, name=value, …)``. `finish` makes the result from
    ``self.result(name)``, which is None if there was no frame. Updates bring a part of one scan row that follows from the shape alone,
    and sums are kept for each row and added in row order. So their bits do not depend on the chunks of the file, on memory, threads or
    devices.

    Attributes
    ----------
    sums : mapping of str to callable
        Names of the sums, and functions that combine two values: addition, or `numpy.maximum` for a running maximum.
    scan : ScanInfo
        The scan, from `start` on.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> class Brightest(SumReduction):
    ...     sums = {"top": max}
    ...     def bytes_needed(self, scan, n_frames):
    ...         return self.held_bytes(scan, 8)
    ...     def update(self, frames, positions):
    ...         self.add(positions, top=int(frames.max()))
    ...     def finish(self):
    ...         return self.result("top")
    >>> gpu4d.sweep(gpu4d.DataCube(np.arange(24, dtype="uint8").reshape(2, 3, 2, 2)), Brightest())
    23
    """

    sums: ClassVar[Mapping[str, Callable[[Value, Value], Value]]] = {"total": operator.add}

    @classmethod
    def held_bytes(cls, scan: ScanInfo, value_bytes: int, row_by_row: bool = True) -> int:
        """Return the bytes that the sums take, including the result. One value has `value_bytes`.

        `row_by_row` is False for a reduction whose `in_tiles` is False.
        """
        waiting = scan.open_blocks + scan.open_rows * row_by_row
        return len(cls.sums) * value_bytes * (4 + waiting)  # total, new value, combined value, result; and those that wait

    def start(self, scan: ScanInfo, device: str, pass_: int = 0) -> None:
        """Begin with empty sums."""
        super().start(scan, device, pass_)
        self.kept = {name: BlockSums(scan, combine) for name, combine in self.sums.items()}

    def add(self, positions: np.ndarray, **values: Value) -> None:
        """Add values of the frames at `positions` to the named sums: to all of them or, if memory runs out, to none."""
        add_together(positions, *((self.kept[name], value) for name, value in values.items()))

    def result(self, name: str = "total") -> Value:
        """Return one of the sums over all frames so far. None if there was no frame."""
        return self.kept[name].result()

    def state(self) -> State:
        """Return plain arrays from which `restore` continues."""
        return {name: one.state() for name, one in self.kept.items()}

    def restore(self, state: State) -> None:
        """Continue from a state."""
        for name, one in self.kept.items():
            one.restore(state[name])

    def folds(self) -> bool:
        """Say that sums of neighbouring rows become one."""
        return True

    def merge(self, state: State) -> None:
        """Add the sums of another worker, which had other row blocks."""
        for name, one in self.kept.items():
            one.merge(state[name])


class BlockSums:
    """Sums over frames whose bits depend on nothing but the frames: not on chunks of the file, memory, threads, or merge order.

    Sums are made for each scan row, in the order of its columns. Rows are added in order to the sum of their group, and groups to the
    total. Groups follow from the number of rows alone. A row is added as soon as it and all rows of its group before it are
    complete, and a group as soon as all before it are, so that few are held at a time.

    Parameters
    ----------
    scan : ScanInfo
    combine : callable
        Function of two arrays: addition by default, `xp.maximum` for a running maximum.
    """

    def __init__(self, scan: ScanInfo, combine: Callable[[Value, Value], Value] = operator.add):
        self.scan, self.combine = scan, combine
        self.whole: dict[int, int] = dict(zip(scan.own_rows, scan.frames_in_rows().tolist()))  # own row -> frames that will come
        self.missing = dict(self.whole)  # own row -> frames that have not come
        self.group_rows = group_rows(scan.shape[0])
        self.total: Any = None
        self.rows: dict[int, Any] = {}  # sums of rows that are not in their group yet
        self.groups: dict[int, Any] = {}  # sums of groups that are not in the total yet
        self.folded = 0  # rows 0 … folded - 1 are in `total`
        self.reached: dict[int, int] = {}  # group -> first of its rows that is not in its sum
        self._lock = threading.Lock()

    def add(self, positions: np.ndarray, value: Value) -> None:
        """Combine the sum of more frames, at `positions` (n, 2). If it raises MemoryError, nothing is changed."""
        add_together(positions, (self, value))

    def combined(self, row: int, value: Value) -> Value:
        """Return a value combined with the sum of its row so far."""
        have = self.rows.get(row)
        return value if have is None else self.combine(have, value)

    def put(self, row: int, combined: Value, frames: Iterable[tuple[int, int]]) -> None:
        """Store the sum of a row, which has got more frames. `frames` tells of which rows, and how many."""
        with self._lock:
            self.rows[row] = combined
            complete = set()
            for other, count in frames:
                self.missing[other] -= count
                if self.missing[other] == 0:
                    complete.add(other // self.group_rows)
            if complete:
                self._fold(sorted(complete))

    def _fold(self, groups: Iterable[int]) -> None:
        """Add the complete rows of some groups to them, and complete groups to the total. What memory does not allow is done later."""
        with contextlib.suppress(MemoryError):
            for group in groups:
                self._fold_rows(group)
            while self.folded < self.scan.shape[0]:
                group, last = self.folded // self.group_rows, min(self.folded + self.group_rows, self.scan.shape[0])
                if self._fold_rows(group) < last:
                    return
                value = self.groups.get(group)
                if value is not None:
                    self.total = value if self.total is None else self.combine(self.total, value)
                self.groups.pop(group, None)
                self.folded = last

    def _fold_rows(self, group: int) -> int:
        """Add rows of a group, in order, as far as they are complete. Return the first row that is not added."""
        first = group * self.group_rows
        row, last = self.reached.get(group, first), min(first + self.group_rows, self.scan.shape[0])
        while row < last and self.missing.get(row) == 0:  # rows of other machines are not complete here
            value = self.rows.get(row)
            if value is not None:
                have = self.groups.get(group)
                self.groups[group] = value if have is None else self.combine(have, value)
                del self.rows[row]
            row += 1
            self.reached[group] = row
        return row

    def result(self) -> Value:
        """Return the sum over all frames so far. None if there was no frame."""
        with self._lock:
            out = self.total
            for group in sorted({*self.groups, *(row // self.group_rows for row in self.rows)}):
                own = self.groups.get(group)
                for row in sorted(row for row in self.rows if row // self.group_rows == group):
                    own = self.rows[row] if own is None else self.combine(own, self.rows[row])
                out = own if out is None else self.combine(out, own)
            return out

    def state(self) -> State:
        """Return the sums on the host, so that another device or process can use them."""
        with self._lock:
            held = {name: {at: _to_host(value) for at, value in getattr(self, name).items()} for name in ("rows", "groups")}
            counts = {"folded": self.folded, "reached": dict(self.reached), "missing": dict(self.missing)}
            return {"total": _to_host(self.total), **counts, **held}

    def restore(self, state: State) -> None:
        """Continue from a state."""
        self.total, self.folded, self.reached = self._back(state["total"]), state["folded"], dict(state["reached"])
        self.rows, self.groups = ({at: self._back(value) for at, value in state[name].items()} for name in ("rows", "groups"))
        self.missing = dict(state["missing"])

    def merge(self, state: State) -> None:
        """Add the sums of another worker, which had other rows."""
        with self._lock:
            left = {row: self.missing[row] + count - self.whole[row] for row, count in state["missing"].items()}
            if min(left.values(), default=0) < 0:
                raise ValueError("both workers summed the same rows: give each its own rows")
            self.missing |= left
            if state["total"] is not None:
                self.total, self.folded = self._back(state["total"]), state["folded"]
            for group, value in state["groups"].items():
                self.groups[group], self.reached[group] = self._back(value), state["reached"][group]
            self.rows |= {row: self._back(value) for row, value in state["rows"].items()}
            self._fold(sorted({row // self.group_rows for row in left}))

    def _back(self, value: Any) -> Any:
        """Return a value of a state on the device of the frames."""
        return value if self.scan.on_host or not isinstance(value, np.ndarray) else arrays.from_numpy(value, self.scan.sample)


def group_rows(rows: int) -> int:
    """Return how many scan rows are added to one sum, before the sums of such groups are added."""
    return max(1, -(-rows // GROUPS))


def add_together(positions: np.ndarray, *sums: tuple[BlockSums, Any]) -> None:
    """Add values of the same frames, at `positions` (n, 2), to several sums: to all of them or, if memory runs out, to none.

    Frames of several rows count to the first of them. Sums whose order matters therefore come row by row. Only one thread works on a
    row. So the sum of the row does not change between combining and storing.
    """
    row = int(positions[0, 0])
    frames = [(row, len(positions))]
    if row != positions[-1, 0]:
        rows, counts = np.unique(positions[:, 0], return_counts=True)
        frames = list(zip(rows.tolist(), counts.tolist()))
    combined = [(one, one.combined(row, value)) for one, value in sums]
    for one, value in combined:
        one.put(row, value, frames)


def _to_host(value: Any) -> Any:
    return arrays.to_numpy(value) if arrays.is_array(value) else value


class PerPosition:
    """Values per scan position. Written in place on the host, and collected in pieces on a device.

    Parameters
    ----------
    scan : ScanInfo
    planes : int
        Number of values per position.
    """

    def __init__(self, scan: ScanInfo, planes: int):
        self.shape = (planes, *scan.shape[:2])
        self.columns, self.sample = scan.shape[1], scan.sample
        self.host, self.own = scan.on_host, scan.own_rows
        self.values = np.full((planes, len(self.own), scan.shape[1]), np.nan) if self.host else None
        self.pieces: list[tuple[np.ndarray, Any]] = []

    @staticmethod
    def bytes_needed(scan: ScanInfo, planes: int, n_frames: int) -> int:
        """Return the bytes it takes, including its result and the values of `n_frames` frames in an update."""
        copies = 2 if scan.on_host else 4  # on a device: pieces, joined, with a NaN, in scan order
        return 8 * planes * (copies * len(scan.own_rows) * scan.shape[1] + 3 * n_frames)

    def put(self, positions: np.ndarray, values: Array) -> None:
        """Store `values` (n, planes) of positions (n, 2)."""
        if self.values is not None:
            self.values[:, positions[:, 0] - self.own.start, positions[:, 1]] = np.asarray(values).T
        else:
            self.pieces.append((positions, values))

    def result(self) -> Value:
        """Return (planes, Rx, Ry) float64, in the namespace of the values. NaN at positions without values."""
        if self.values is not None and len(self.own) == self.shape[1]:
            return self.values.copy()
        if self.values is not None:
            whole = np.full(self.shape, np.nan)
            whole[:, self.own.start : self.own.stop] = self.values
            return whole
        if not self.pieces:
            return np.full(self.shape, np.nan)
        xp = arrays.namespace(self.pieces[0][1])
        n = self.shape[1] * self.shape[2]
        number = np.concatenate([p[:, 0] * self.columns + p[:, 1] for p, _ in self.pieces])
        source = np.full(n, len(number))  # the row after the last holds NaN, for positions without values
        source[number] = np.arange(len(number))
        values = xp.concat([arrays.as_float64(v) for _, v in self.pieces])
        empty = xp.full((1, self.shape[0]), float("nan"), dtype=values.dtype, device=arrays.device(values))
        index = arrays.from_numpy(source, values)
        return xp.reshape(xp.permute_dims(xp.take(xp.concat([values, empty]), index, axis=0), (1, 0)), self.shape)

    def state(self) -> State:
        """Return the values of its own rows, and the first of these rows."""
        if self.values is not None:
            return {"first": self.own.start, "values": self.values.copy()}
        values = arrays.to_numpy(self.result())
        return {"first": self.own.start, "values": values[:, self.own.start : self.own.stop]}

    def restore(self, state: State) -> None:
        self.pieces = []
        if self.values is not None:
            self.values[...] = np.nan
        self.merge(state)

    def merge(self, state: State) -> None:
        first, values = state["first"], state["values"]
        seen = ~np.isnan(values).all(0)
        if self.values is None:
            positions = np.argwhere(seen)
            chosen = values[:, positions[:, 0], positions[:, 1]].T
            self.put(positions + np.array([first, 0]), arrays.from_numpy(np.ascontiguousarray(chosen), self.sample))
            return
        at = first - self.own.start
        np.copyto(self.values[:, at : at + values.shape[1]], values, where=seen)
