"""The contract between a sweep and what it feeds, and the pieces reductions are built from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from gpu4d.data.calibration import Calibration
from gpu4d.data.source import Shape4


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
    tile_frames : int
        The most frames one `update` brings.
    sample : array or None
        An empty array of the frames' namespace and device; None for frames of a file (NumPy).
    """

    shape: Shape4
    dtype: Any
    calibration: Calibration = field(default_factory=Calibration)
    detector_mask: np.ndarray | None = None
    where: np.ndarray | None = None
    block_rows: tuple[int, ...] = ()
    tile_frames: int = 1
    sample: Any = None

    @property
    def blocks(self) -> int:
        return len(self.block_rows) - 1

    def block_of(self, position: Any) -> int:
        """Number of the row block a position (rx, ry) belongs to."""
        return int(np.searchsorted(self.block_rows, int(position[0]), side="right")) - 1


@runtime_checkable
class Reduction(Protocol):
    """Something that frames are reduced to, in one pass or more. It must be picklable before `start`.

    `update` is called from several threads at once, each with frames of row blocks of its own. Per-position results
    may be written straight to their places; sums across frames go through `BlockSums`.
    """

    def bytes_needed(self, scan: ScanInfo, n_frames: int) -> int:
        """Bytes of memory it will hold, with `n_frames` frames in one update; asked before anything is allocated."""
        ...

    def passes(self, scan: ScanInfo, budget: int) -> int:
        """How many times it must see the scan within `budget` bytes."""
        ...

    def start(self, scan: ScanInfo, device: Any, pass_: int = 0) -> None: ...

    def update(self, frames: Any, positions: np.ndarray) -> None:
        """Frames (n, Qx, Qy) in native dtype, and their positions (n, 2) int64 in one row block."""
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


class BlockSums:
    """Sums over frames whose bits do not depend on chunking, threads or merge order.

    Floating sums are made per row block, in the order its frames arrive, and the blocks are added in row order. A block
    is folded into the running total as soon as all before it are in, so that few are held at once. Integer sums are
    exact in any order; they take the same road.

    Parameters
    ----------
    combine : callable
        Of two arrays: addition, or xp.maximum for a running maximum.
    """

    def __init__(self, combine: Any):
        self.combine = combine
        self.total: Any = None
        self.folded = 0  # blocks 0 … folded - 1 are in `total`
        self.waiting: dict[int, Any] = {}

    def add(self, block: int, value: Any) -> None:
        """Combine `value` into one block's sum. Blocks may be open at the same time, each fed by one thread."""
        have = self.waiting.get(block)
        self.waiting[block] = value if have is None else self.combine(have, value)

    def close(self, block_is_done: Any) -> None:
        """Fold all leading blocks for which `block_is_done(block)` holds."""
        while block_is_done(self.folded):
            value = self.waiting.pop(self.folded, None)
            if value is not None:
                self.total = value if self.total is None else self.combine(self.total, value)
            self.folded += 1

    def result(self) -> Any:
        """Everything so far, in row order; None where nothing arrived."""
        out = self.total
        for block in sorted(self.waiting):
            out = self.waiting[block] if out is None else self.combine(out, self.waiting[block])
        return out
