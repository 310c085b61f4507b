"""Join reductions of a sweep that need sums over the same frames, so that each frame is read once for all.

Virtual images of fixed bool detectors, the plain mean, the maximum and centres of mass each read every frame once. If a sweep has
several of them, `frame_reductions` reads each tile once for all. This is done only for integer frames. Their sums are exact, so the
bits of a result do not depend on which other reductions are in the sweep.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from gpu4d.device import tables
from gpu4d.imaging.frame_reductions import FrameReductions, frame_reductions
from gpu4d.operation import dtype_name
from gpu4d.streaming.reduction import Reduction, ScanInfo
from gpu4d.streaming.sums import BlockSums, Value, add_together

UPDATE_BYTES = 16 << 20  # bytes of frames in an update; adding sums and maxima of 64 bits a pixel is then cheap in comparison
LARGE = 4096  # pixels of a detector: smaller ones have cheap sums
_EXACT = ("uint8", "uint16", "uint32", "int8", "int16", "int32")


class Member(Reduction, Protocol):
    """A reduction that needs only sums over frames."""

    def frame_masks(self) -> list[np.ndarray]:
        """Return bool masks (Qx, Qy) under which it needs the sums of every frame."""
        ...

    def moments_mask(self) -> tuple[np.ndarray | None] | None:
        """Return the mask of the first moments it needs, in a tuple. None if it needs no first moments."""
        ...

    def take(self, sums: FrameReductions, positions: np.ndarray) -> list[tuple[BlockSums, Value]]:
        """Store values of positions, and return which values are to be added to which sums.

        `masked` has the columns of its own masks.
        """
        ...


def exact(scan: ScanInfo) -> bool:
    """Return True if sums over these frames are exact in every implementation."""
    return dtype_name(scan.dtype) in _EXACT


def fused(members: list[Member]) -> list[Any]:
    """Join members into one object. Members with other first moments, and a single member, stay as they are."""
    asked = [(m, m.moments_mask()) for m in members]
    first = next((mask for _, mask in asked if mask is not None), None)
    shared = [m for m, mask in asked if mask is None or _same(mask[0], first[0])]  # type: ignore[index]
    if len(shared) < 2:
        return list(members)
    return [FusedFrames(shared, None if first is None else first[0]), *(m for m in members if m not in shared)]


def _same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(a, b))


class FusedFrames:
    """Feeds several members from one call of `frame_reductions` for each tile."""

    def __init__(self, members: list[Any], mask: np.ndarray | None):
        self.scan: ScanInfo = members[0].scan
        self.members: list[tuple[Member, slice]] = []
        masks: list[np.ndarray] = []
        for member in members:
            own = member.frame_masks()
            self.members.append((member, slice(len(masks), len(masks) + len(own))))
            masks += own
        self.masks = np.stack(masks) if masks else np.zeros((0, *self.scan.shape[2:]), dtype=bool)
        self.mask = mask

    def in_tiles(self) -> bool:
        return False  # sums of integer frames are exact

    def update_bytes(self) -> int:
        narrow = np.dtype(dtype_name(self.scan.dtype)).itemsize <= 2  # wider frames are read several times, and should stay in the cache
        large = self.scan.shape[2] * self.scan.shape[3] >= LARGE  # sums of small detectors cost little, but values per position need memory
        return UPDATE_BYTES if narrow and large else 0

    def update(self, frames: Any, positions: np.ndarray) -> None:
        mask = None if self.mask is None else tables.beside(self.mask, frames)
        sums = frame_reductions(frames, tables.beside(self.masks, frames), mask=mask)
        taken = [member.take(sums._replace(masked=sums.masked[:, columns]), positions) for member, columns in self.members]
        if pairs := [pair for one in taken for pair in one]:
            add_together(positions, *pairs)
