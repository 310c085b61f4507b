"""Define the interface between a sweep and its reductions. `gpu4d.streaming.sums` has base classes for reductions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from gpu4d.arrays import Array, DType
from gpu4d.data.calibration import Calibration
from gpu4d.data.events import Events
from gpu4d.data.source import Shape4
from gpu4d.operation import Operation

State = dict[str, Any]  # of a reduction, which alone reads it: arrays, numbers, lists of them
Join = Callable[[list[Any]], list[Any]]  # from reductions of kinds that it knows to what a sweep updates instead
Result = Any  # of a reduction: an array, a slice, lists of disks; each says what its `finish` returns


@dataclass(frozen=True)
class ScanInfo:
    """Properties of the scan that a reduction gets before the first frame.

    Attributes
    ----------
    shape : (Rx, Ry, Qx, Qy)
    dtype : dtype of the frames, native
    calibration : Calibration
        `origin_at(positions)` gives the per-position origin.
    detector_mask : (Qx, Qy) bool or None
        True where the detector counts.
    where : (Rx, Ry) bool or None
        Positions that are visited. Frames of others never arrive.
    block_rows : tuple of int
        First scan row of every row block, and at the end the number of rows. All frames of a block arrive in one thread. Those of a
        row arrive in the order of its columns.
    update_frames : int
        Largest number of frames in one `update`.
    open_blocks : int
        Number of sums that may have to wait for an earlier one. Memory plans use it.
    open_rows : int
        Number of scan rows that are begun at the same time, whose sums are kept apart where their order matters. Memory plans use it.
    sample : array or None
        An empty array of the frames' namespace and device. None if they are NumPy arrays read from a file.
    rows : (int, int) or None
        First scan row that arrives here, and the one after the last, where several machines share a scan. None for all.
    """

    shape: Shape4
    dtype: DType
    calibration: Calibration = field(default_factory=Calibration)
    detector_mask: np.ndarray | None = None
    where: np.ndarray | None = None
    block_rows: tuple[int, ...] = ()
    update_frames: int = 1
    open_blocks: int = 1
    open_rows: int = 1
    sample: Array | None = None
    rows: tuple[int, int] | None = None

    @property
    def own_rows(self) -> range:
        """Scan rows that arrive here: all, unless several machines share the scan."""
        return range(*self.rows) if self.rows is not None else range(self.shape[0])

    @property
    def blocks(self) -> int:
        return len(self.block_rows) - 1

    @property
    def on_host(self) -> bool:
        """Whether frames are NumPy arrays."""
        return self.sample is None or isinstance(self.sample, np.ndarray)

    def frames_in_rows(self) -> np.ndarray:
        """Return how many frames of each of its own scan rows are visited, (rows,) int64."""
        own = self.own_rows
        return np.full(len(own), self.shape[1], np.int64) if self.where is None else self.where[own.start : own.stop].sum(1, dtype=np.int64)

    def frames_in_block(self, block: int) -> int:
        """Return how many frames of a row block are visited."""
        first, last = self.block_rows[block], self.block_rows[block + 1]
        return (last - first) * self.shape[1] if self.where is None else int(self.where[first:last].sum())


@runtime_checkable
class Reduction(Protocol):
    """Turns all frames of a scan into one result, in one pass or more. It must be picklable before `start`.

    Several threads call `update` at the same time, each with frames of its own row blocks. Results per position may be written directly
    to their places. Sums over frames go through `BlockSums`.

    `update` must be all-or-nothing. If it raises MemoryError its state must be unchanged, because the sweep frees memory and calls it
    again with fewer frames. Allocate memory before you change state.

    With the base classes `PerPositionReduction` and `SumReduction`, three methods are left to write: `bytes_needed`, `update` and
    `finish`. Optional abilities have their own protocols. `TakesEvents` is checked before `start`, the others after it: `ChoosesTiles`,
    `Joinable`, `SparsePixels`, `LargeUpdates` and `Folds`.
    """

    def bytes_needed(self, scan: ScanInfo, n_frames: int) -> int:
        """Return the bytes it will hold, with `n_frames` frames in one update. Called before anything is allocated."""
        ...

    def passes(self, scan: ScanInfo, budget: int) -> int:
        """Return how many passes over the scan it needs within `budget` bytes."""
        ...

    def start(self, scan: ScanInfo, device: str, pass_: int = 0) -> None:
        """Prepare for a pass, before its first frame. Make arrays on the device in `update`, because here they are not counted."""
        ...

    def update(self, frames: Array, positions: np.ndarray) -> None:
        """Take frames (n, Qx, Qy) in native dtype, and their positions (n, 2) int64 in one row block.

        The memory of the frames belongs to the sweep. It changes as soon as `update` returns.
        """
        ...

    def state(self) -> State:
        """Return plain arrays from which `restore` continues. Where several machines share a scan, of the scan's own rows alone."""
        ...

    def restore(self, state: State) -> None: ...

    def merge(self, state: State) -> None:
        """Add the state of another worker, which had other row blocks. The result must not depend on the order of merging."""
        ...

    def finish(self) -> Result:
        """Return the result so far. May be called at any time, and changes nothing. Positions not visited are NaN."""
        ...


@runtime_checkable
class ChoosesTiles(Protocol):
    """Optional ability of a reduction: it says whether results depend on how frames are grouped into updates."""

    def in_tiles(self) -> bool:
        """Return whether each update must bring a part of one scan row that follows from the shape and the dtype alone.

        True, as for a reduction without this method: results depend on the grouping, as sums of floats across frames do. False:
        updates bring a chunk of one tile or more, as the file and the memory allow.
        """
        ...


@runtime_checkable
class Joinable(Protocol):
    """Optional ability of a reduction: it shares work with others of the same sweep."""

    def joins(self) -> Join | None:
        """Return the function that joins reductions with work in common, or None to stay alone.

        Reductions that return the same function are joined: it is given the list of them and returns what a sweep updates instead.
        """
        ...


@runtime_checkable
class SparsePixels(Protocol):
    """Optional ability of a reduction: it looks at some pixels of the detector only.

    The pixels are gathered on the host, and `update_pixels` is called in place of `update`, under three conditions: they are less than
    half of all pixels, frames must cross a link, and it is the only reduction of a pass.
    """

    def wanted_pixels(self) -> np.ndarray | None:
        """Return the pixels it needs, (P,) int numbers qx · Qy + qy. None for all."""
        ...

    def update_pixels(self, values: Any, positions: np.ndarray) -> None:
        """Take the values (n, P) of the wanted pixels, and their positions (n, 2)."""
        ...


@runtime_checkable
class LargeUpdates(Protocol):
    """Optional ability: updates may bring more frames than the plan has counted."""

    def update_bytes(self) -> int:
        """Return the bytes of frames in an update that are worth its cost.

        If frames are in memory already, and nothing else is updated in the pass, updates bring as many tiles as these bytes are. They
        may have more frames than ``update_frames``, so the memory it needs must not grow with them.
        """
        ...


@runtime_checkable
class Folds(Protocol):
    """Optional ability: states of neighbouring scan rows merge into one that is hardly larger than each, as sums do.

    Such states are merged on the machines of a cluster before they travel to the caller.
    """

    def folds(self) -> bool:
        """Return whether it does."""
        ...


@runtime_checkable
class TakesEvents(Protocol):
    """Optional ability of a reduction: it works on the events of a counted scan as they are.

    Where a source keeps events (`gpu4d.data.EventSource`), carries no corrections and is reduced on the CPU, such a reduction is given
    events in place of patterns. All others of the same sweep get patterns, which are made of the events once for each chunk. If the
    events of a tile do not fit into the memory of the sweep, all reductions get patterns.
    """

    def takes_events(self, scan: ScanInfo) -> bool:
        """Return whether it does, for this scan; asked before `start`. Its results must be those of the patterns, to the last bit."""
        ...

    def update_events(self, events: Events, positions: np.ndarray) -> None:
        """Take the events of n patterns, and their positions (n, 2) in one row block, as `Reduction.update` takes patterns.

        The plan leaves 96 bytes an event for its work.
        """
        ...


def takes_events(reduction: Any, scan: ScanInfo) -> bool:
    """Say whether a reduction works on events as they are."""
    return isinstance(reduction, TakesEvents) and bool(reduction.takes_events(scan))


def defined(operation: Operation, scan: ScanInfo) -> bool:
    """Return True if an operation on the frames of a scan runs as its definition. Memory plans count its copies in 64 bits."""
    return operation.kind_for(scan.dtype, scan.sample, scan.shape[2:]) == "definition"


def in_tiles(reduction: Any) -> bool:
    """Return True if each update of a reduction must bring a part of one scan row, the same for any file and memory."""
    return bool(reduction.in_tiles()) if isinstance(reduction, ChoosesTiles) else True


def joined(reductions: list[Reduction]) -> list[Any]:
    """Return the objects that a sweep updates: reductions joined by the function they name, and the others as they are."""
    alone: list[Any] = []
    together: dict[Callable[[list[Any]], list[Any]], list[Any]] = {}
    for reduction in reductions:
        how = reduction.joins() if isinstance(reduction, Joinable) else None
        (alone if how is None else together.setdefault(how, [])).append(reduction)
    return alone + [one for how, members in together.items() for one in how(members)]
