"""The contract between a sweep and what it feeds, and the pieces reductions are built from."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from gpu4d import arrays
from gpu4d.data.calibration import Calibration
from gpu4d.data.source import Shape4
from gpu4d.operation import Operation


@dataclass(frozen=True)
class ScanInfo:
    """What a reduction is told of the scan before the first frame.

    Attributes
    ----------
    shape : (Rx, Ry, Qx, Qy)
    dtype : dtype of the frames, native
    calibration : Calibration
        `origin_at(positions)` gives the per-position origin.
    detector_mask : (Qx, Qy) bool or None
        True where the detector counts.
    where : (Rx, Ry) bool or None
        Positions that are visited; frames of others never arrive.
    block_rows : tuple of int
        First scan row of every row block, and the number of rows behind the last. All frames of a block arrive in one
        thread and in one order, whatever the memory and the number of workers.
    update_frames : int
        The most frames one `update` brings.
    open_blocks : int
        Row blocks whose sums may have to wait for one before them, for memory plans.
    sample : array or None
        An empty array of the frames' namespace and device; None where they are NumPy arrays read from a file.
    """

    shape: Shape4
    dtype: Any
    calibration: Calibration = field(default_factory=Calibration)
    detector_mask: np.ndarray | None = None
    where: np.ndarray | None = None
    block_rows: tuple[int, ...] = ()
    update_frames: int = 1
    open_blocks: int = 1
    sample: Any = None

    @property
    def blocks(self) -> int:
        return len(self.block_rows) - 1

    @property
    def on_host(self) -> bool:
        """Whether frames arrive as NumPy arrays."""
        return self.sample is None or isinstance(self.sample, np.ndarray)

    def block_of(self, position: Any) -> int:
        """Number of the row block a position (rx, ry) belongs to."""
        return int(np.searchsorted(self.block_rows, int(position[0]), side="right")) - 1

    def frames_in_block(self, block: int) -> int:
        """How many frames of a row block are visited."""
        first, last = self.block_rows[block], self.block_rows[block + 1]
        return (last - first) * self.shape[1] if self.where is None else int(self.where[first:last].sum())


@runtime_checkable
class Reduction(Protocol):
    """Something that frames are reduced to, in one pass or more. It must be picklable before `start`.

    `update` is called from several threads at once, each with frames of row blocks of its own. Per-position results
    may be written straight to their places; sums across frames go through `BlockSums`.

    `update` must be all-or-nothing. If it raises MemoryError its state must be unchanged, because the sweep frees memory and calls it
    again with fewer frames. Allocate memory before you change state.

    Optional methods, all asked after `start`:

    * ``in_tiles() -> bool``: whether results depend on how frames are grouped into updates, as sums of floats across frames do.
      Updates then bring one tile, which follows from the scan alone; else a chunk of several, as memory allows. True where the
      method is not there.
    * ``joins()``: reductions that return the same function have work in common: it is given the list of them and returns what a
      sweep updates in their place. None for a reduction that wants to stay alone.
    * ``wanted_pixels() -> (P,) int or None``: the only detector pixels (numbers qx · Qy + qy) it looks at. Where these are fewer than
      half, frames have to cross a link and it is the only reduction of a pass, they are gathered on the host, and
      ``update_pixels(values, positions)`` is called with values (n, P) in place of ``update``.
    * ``update_bytes() -> int``: bytes of frames in an update that are worth its cost. Where frames lie in memory already and it is all
      that a pass feeds, updates bring as many tiles as that is, also beyond ``update_frames``, for which it must need no memory.
    """

    def bytes_needed(self, scan: ScanInfo, n_frames: int) -> int:
        """Bytes of memory it will hold, with `n_frames` frames in one update; asked before anything is allocated."""
        ...

    def passes(self, scan: ScanInfo, budget: int) -> int:
        """How many times it must see the scan within `budget` bytes."""
        ...

    def start(self, scan: ScanInfo, device: Any, pass_: int = 0) -> None:
        """Before the first frame of a pass. Arrays on the device are made in `update`: here nobody counts them."""
        ...

    def update(self, frames: Any, positions: np.ndarray) -> None:
        """Frames (n, Qx, Qy) in native dtype, and their positions (n, 2) int64 in one row block.

        The frames are the sweep's: they change as soon as `update` returns.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Plain arrays from which `restore` continues."""
        ...

    def restore(self, state: dict[str, Any]) -> None: ...

    def merge(self, state: dict[str, Any]) -> None:
        """Take over another worker's state; its row blocks are others than ours."""
        ...

    def finish(self) -> Any:
        """The result so far; may be called at any time and consumes nothing. Unseen positions are NaN."""
        ...


def defined(operation: Operation, scan: ScanInfo) -> bool:
    """Whether an operation on the frames of a scan runs as its definition, whose copies in 64 bits belong into memory plans."""
    shape = (0, *scan.shape[2:])
    frames = np.empty(shape, scan.dtype) if scan.on_host else arrays.namespace(scan.sample).reshape(scan.sample, shape)
    return operation.choose(frames) == "definition"


def in_tiles(reduction: Any) -> bool:
    """Whether its updates must bring one tile each, whatever the memory."""
    return bool(reduction.in_tiles()) if hasattr(reduction, "in_tiles") else True


def joined(reductions: list[Reduction]) -> list[Any]:
    """What a sweep updates: reductions with work in common joined by the function they name, the others as they are."""
    alone: list[Any] = []
    together: dict[Callable[[list[Any]], list[Any]], list[Any]] = {}
    for reduction in reductions:
        how = reduction.joins() if hasattr(reduction, "joins") else None
        (alone if how is None else together.setdefault(how, [])).append(reduction)
    return alone + [one for how, members in together.items() for one in how(members)]


class BlockSums:
    """Sums over frames whose bits do not depend on chunking, threads or merge order.

    Sums are made per row block, in the order its frames arrive, and the blocks are added in row order. A block is folded
    into the running total as soon as it and all before it are complete, so that few are held at once.

    Parameters
    ----------
    scan : ScanInfo
    combine : callable
        Of two arrays: addition by default; `xp.maximum` for a running maximum.
    """

    def __init__(self, scan: ScanInfo, combine: Callable[[Any, Any], Any] = operator.add):
        self.scan, self.combine = scan, combine
        self.missing = [scan.frames_in_block(block) for block in range(scan.blocks)]
        self.total: Any = None
        self.folded = 0  # blocks 0 … folded - 1 are in `total`
        self.open: dict[int, Any] = {}
        self._lock = threading.Lock()

    def add(self, block: int, value: Any, frames: int) -> None:
        """Combine the sum of `frames` more frames of one block; takes nothing where it raises MemoryError."""
        add_together(block, frames, (self, value))

    def combined(self, block: int, value: Any) -> Any:
        """A value with what its block holds so far."""
        have = self.open.get(block)
        return value if have is None else self.combine(have, value)

    def put(self, block: int, combined: Any, frames: int) -> None:
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
                    return  # the block stays open, until the next one comes or somebody asks for the result
                del self.open[self.folded]
            self.folded += 1

    def result(self) -> Any:
        """Everything so far, in row order; None where nothing arrived."""
        with self._lock:
            out = self.total
            for block in sorted(self.open):
                out = self.open[block] if out is None else self.combine(out, self.open[block])
            return out

    def state(self) -> dict[str, Any]:
        """On the host, so that it can go to another device or process."""
        with self._lock:
            still_open = {block: _to_host(value) for block, value in self.open.items()}
            return {"total": _to_host(self.total), "folded": self.folded, "open": still_open, "missing": list(self.missing)}

    def restore(self, state: dict[str, Any]) -> None:
        self.total, self.folded = self._back(state["total"]), state["folded"]
        self.open, self.missing = {block: self._back(value) for block, value in state["open"].items()}, list(state["missing"])

    def merge(self, state: dict[str, Any]) -> None:
        """Take over the sums of another worker, whose frames are of other blocks than ours."""
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
        """A value of a state beside the frames."""
        return value if self.scan.on_host or not isinstance(value, np.ndarray) else arrays.from_numpy(value, self.scan.sample)


def add_together(block: int, frames: int, *sums: tuple[BlockSums, Any]) -> None:
    """Add the values of the same frames to several sums: to all of them or, where memory runs out, to none.

    One thread works on a block, so that nobody changes what it holds between the two steps.
    """
    combined = [(one, one.combined(block, value)) for one, value in sums]
    for one, value in combined:
        one.put(block, value, frames)


def _to_host(value: Any) -> Any:
    return arrays.to_numpy(value) if arrays.is_array(value) else value


class PerPosition:
    """Values per scan position, written in place on the host and collected piece by piece elsewhere.

    Parameters
    ----------
    scan : ScanInfo
    planes : int
        Values per position.
    """

    def __init__(self, scan: ScanInfo, planes: int):
        self.shape = (planes, *scan.shape[:2])
        self.columns, self.sample = scan.shape[1], scan.sample
        self.host = scan.on_host
        self.values = np.full(self.shape, np.nan) if self.host else None
        self.pieces: list[tuple[np.ndarray, Any]] = []

    @staticmethod
    def bytes_needed(scan: ScanInfo, planes: int, n_frames: int) -> int:
        """What it holds up to its result, with the values of `n_frames` frames on their way."""
        copies = 2 if scan.on_host else 4  # elsewhere: pieces, joined, with a NaN, in scan order
        return 8 * planes * (copies * scan.shape[0] * scan.shape[1] + 3 * n_frames)

    def put(self, positions: np.ndarray, values: Any) -> None:
        """`values` (n, planes) of positions (n, 2)."""
        if self.values is not None:
            self.values[:, positions[:, 0], positions[:, 1]] = values.T
        else:
            self.pieces.append((positions, values))

    def result(self) -> Any:
        """(planes, Rx, Ry) float64, NaN where nothing was put; in the namespace of the values."""
        if self.values is not None:
            return self.values.copy()
        if not self.pieces:
            return np.full(self.shape, np.nan)
        xp = arrays.namespace(self.pieces[0][1])
        n = self.shape[1] * self.shape[2]
        number = np.concatenate([p[:, 0] * self.columns + p[:, 1] for p, _ in self.pieces])
        source = np.full(n, len(number))  # the row behind the last is the NaN of unseen positions
        source[number] = np.arange(len(number))
        values = xp.concat([arrays.as_float64(v) for _, v in self.pieces])
        empty = xp.full((1, self.shape[0]), float("nan"), dtype=values.dtype, device=arrays.device(values))
        index = arrays.from_numpy(source, values)
        return xp.reshape(xp.permute_dims(xp.take(xp.concat([values, empty]), index, axis=0), (1, 0)), self.shape)

    def state(self) -> dict[str, Any]:
        return {"values": arrays.to_numpy(self.result())}

    def restore(self, state: dict[str, Any]) -> None:
        seen = np.argwhere(~np.isnan(state["values"]).all(0))
        values = state["values"][:, seen[:, 0], seen[:, 1]].T
        if self.values is not None:
            self.values[...] = state["values"]
        else:
            self.pieces = [(seen, arrays.from_numpy(values, self.sample))]

    def merge(self, state: dict[str, Any]) -> None:
        seen = np.argwhere(~np.isnan(state["values"]).all(0))
        values = state["values"][:, seen[:, 0], seen[:, 1]].T
        self.put(seen, values if self.values is not None else arrays.from_numpy(values, self.sample))
