"""Base classes for reductions: values per position, and sums whose bits do not depend on chunks.

A reduction with one of these bases has three short methods: `bytes_needed`, `update` and `finish`.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array
from gpu4d.streaming.reduction import ScanInfo, State

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
    ``self.result(name)``, which is None if there was no frame. Sums are kept for each row block and added in row order. So their bits do
    not depend on chunks, threads or devices.

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
    def held_bytes(cls, scan: ScanInfo, value_bytes: int) -> int:
        """Return the bytes that the sums take, including the result. One value has `value_bytes`."""
        return len(cls.sums) * value_bytes * (4 + scan.open_blocks)  # total, new value, combined value, result; and blocks that wait

    def start(self, scan: ScanInfo, device: str, pass_: int = 0) -> None:
        """Begin with empty sums."""
        super().start(scan, device, pass_)
        self.kept = {name: BlockSums(scan, combine) for name, combine in self.sums.items()}

    def add(self, positions: np.ndarray, **values: Value) -> None:
        """Add values of the frames at `positions` to the named sums: to all of them or, if memory runs out, to none."""
        add_together(self.scan.block_of(positions[0]), len(positions), *((self.kept[name], value) for name, value in values.items()))

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

    def merge(self, state: State) -> None:
        """Add the sums of another worker, which had other row blocks."""
        for name, one in self.kept.items():
            one.merge(state[name])


class BlockSums:
    """Sums over frames whose bits do not depend on chunking, threads or merge order.

    Sums are made for each row block, in the order in which its frames arrive. Then the blocks are added in row order. A block is added
    to the running total as soon as it and all blocks before it are complete, so that few are held at a time.

    Parameters
    ----------
    scan : ScanInfo
    combine : callable
        Function of two arrays: addition by default, `xp.maximum` for a running maximum.
    """

    def __init__(self, scan: ScanInfo, combine: Callable[[Value, Value], Value] = operator.add):
        self.scan, self.combine = scan, combine
        self.missing = [scan.frames_in_block(block) for block in range(scan.blocks)]
        self.total: Any = None
        self.folded = 0  # blocks 0 … folded - 1 are in `total`
        self.open: dict[int, Any] = {}
        self._lock = threading.Lock()

    def add(self, block: int, value: Value, frames: int) -> None:
        """Combine the sum of `frames` more frames of one block. If it raises MemoryError, nothing is changed."""
        add_together(block, frames, (self, value))

    def combined(self, block: int, value: Value) -> Value:
        """Return a value combined with the sum of its block so far."""
        have = self.open.get(block)
        return value if have is None else self.combine(have, value)

    def put(self, block: int, combined: Value, frames: int) -> None:
        with self._lock:
            self.open[block] = combined
            self.missing[block] -= frames
            self._fold()

    def _fold(self) -> None:
        while self.folded < len(self.missing) and self.missing[self.folded] == 0:
            value = self.open.get(self.folded)
            if value is not None:
                try:
                    self.total = value if self.total is None else self.combine(self.total, value)
                except MemoryError:
                    return  # the block is added later, when the next one comes or the result is asked for
                del self.open[self.folded]
            self.folded += 1

    def result(self) -> Value:
        """Return the sum over all frames so far, in row order. None if there was no frame."""
        with self._lock:
            out = self.total
            for block in sorted(self.open):
                out = self.open[block] if out is None else self.combine(out, self.open[block])
            return out

    def state(self) -> State:
        """Return the sums on the host, so that another device or process can use them."""
        with self._lock:
            still_open = {block: _to_host(value) for block, value in self.open.items()}
            return {"total": _to_host(self.total), "folded": self.folded, "open": still_open, "missing": list(self.missing)}

    def restore(self, state: State) -> None:
        self.total, self.folded = self._back(state["total"]), state["folded"]
        self.open, self.missing = {block: self._back(value) for block, value in state["open"].items()}, list(state["missing"])

    def merge(self, state: State) -> None:
        """Add the sums of another worker, which had other blocks."""
        with self._lock:
            if state["total"] is not None:
                if self.total is not None:
                    raise ValueError("both workers summed the first row blocks: give each its own rows")
                self.total, self.folded = self._back(state["total"]), state["folded"]
            for block, value in state["open"].items():
                self.open[block] = self.combined(block, self._back(value))
            whole = [self.scan.frames_in_block(block) for block in range(self.scan.blocks)]
            self.missing = [a + b - n for a, b, n in zip(self.missing, state["missing"], whole)]
            self._fold()

    def _back(self, value: Any) -> Any:
        """Return a value of a state on the device of the frames."""
        return value if self.scan.on_host or not isinstance(value, np.ndarray) else arrays.from_numpy(value, self.scan.sample)


def add_together(block: int, frames: int, *sums: tuple[BlockSums, Any]) -> None:
    """Add values of the same frames to several sums: to all of them or, if memory runs out, to none.

    Only one thread works on a block. So the sum of the block does not change between combining and storing.
    """
    combined = [(one, one.combined(block, value)) for one, value in sums]
    for one, value in combined:
        one.put(block, value, frames)


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
        self.host = scan.on_host
        self.values = np.full(self.shape, np.nan) if self.host else None
        self.pieces: list[tuple[np.ndarray, Any]] = []

    @staticmethod
    def bytes_needed(scan: ScanInfo, planes: int, n_frames: int) -> int:
        """Return the bytes it takes, including its result and the values of `n_frames` frames in an update."""
        copies = 2 if scan.on_host else 4  # on a device: pieces, joined, with a NaN, in scan order
        return 8 * planes * (copies * scan.shape[0] * scan.shape[1] + 3 * n_frames)

    def put(self, positions: np.ndarray, values: Array) -> None:
        """Store `values` (n, planes) of positions (n, 2)."""
        if self.values is not None:
            self.values[:, positions[:, 0], positions[:, 1]] = np.asarray(values).T
        else:
            self.pieces.append((positions, values))

    def result(self) -> Value:
        """Return (planes, Rx, Ry) float64, in the namespace of the values. NaN at positions without values."""
        if self.values is not None:
            return self.values.copy()
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
        return {"values": arrays.to_numpy(self.result())}

    def restore(self, state: State) -> None:
        seen = np.argwhere(~np.isnan(state["values"]).all(0))
        values = state["values"][:, seen[:, 0], seen[:, 1]].T
        if self.values is not None:
            self.values[...] = state["values"]
        else:
            self.pieces = [(seen, arrays.from_numpy(values, self.sample))]

    def merge(self, state: State) -> None:
        seen = np.argwhere(~np.isnan(state["values"]).all(0))
        values = state["values"][:, seen[:, 0], seen[:, 1]].T
        self.put(seen, values if self.values is not None else arrays.from_numpy(values, self.sample))
