"""Reductions of one sweep that ask for sums over the same frames, served by one reading of them.

Virtual images of fixed bool detectors, the plain mean, the maximum and centres of mass each read every frame once. Where a sweep
has several of them, `frame_reductions` reads each tile once for all. Integer frames only: their sums are exact, so that a result
does not depend on the company it is made in, to the last bit.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from gpu4d.device import tables
from gpu4d.imaging.frame_reductions import FrameReductions, frame_reductions
from gpu4d.operation import dtype_name
from gpu4d.streaming.reduction import Reduction, ScanInfo
from gpu4d.streaming.sums import BlockSums, Value, add_together

UPDATE_BYTES = 16 << 20  # beside which sums and maxima of a detector, 64 bits a pixel, are cheap to add up
LARGE = 4096  # pixels of a detector
_EXACT = ("uint8", "uint16", "uint32", "int8", "int16", "int32")


class Member(Reduction, Protocol):
    """A reduction that lives on sums over frames."""

    def frame_masks(self) -> list[np.ndarray]:
        """Bool masks (Qx, Qy) under which it wants the sums of every frame."""
        ...

    def moments_mask(self) -> tuple[np.ndarray | None] | None:
        """The mask of the first moments it wants, in a tuple; None where it wants none."""
        ...

    def take(self, sums: FrameReductions, positions: np.ndarray) -> list[tuple[BlockSums, Value]]:
        """Put values of positions to their places, and say what is to be added to which sums.

        `masked` holds the columns of its own masks.
        """
        ...


def exact(scan: ScanInfo) -> bool:
    """Whether sums over these frames are exact, whatever they are made with."""
    return dtype_name(scan.dtype) in _EXACT


def fused(members: list[Member]) -> list[Any]:
    """Members joined to one; those that cannot share its first moments, and a member without company, stay as they are."""
    asked = [(m, m.moments_mask()) for m in members]
    first = next((mask for _, mask in asked if mask is not None), None)
    shared = [m for m, mask in asked if mask is None or _same(mask[0], first[0])]  # type: ignore[index]
    if len(shared) < 2:
        return list(members)
    return [FusedFrames(shared, None if first is None else first[0]), *(m for m in members if m not in shared)]


def _same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(a, b))


class FusedFrames:
    """Feeds several members from one call of `frame_reductions` a tile."""

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
        return False  # integer frames: their sums are exact

    def update_bytes(self) -> int:
        narrow = np.dtype(dtype_name(self.scan.dtype)).itemsize <= 2  # others are read several times: from the cache
        large = self.scan.shape[2] * self.scan.shape[3] >= LARGE  # small ones have sums that cost little, and values that need memory
        return UPDATE_BYTES if narrow and large else 0

    def update(self, frames: Any, positions: np.ndarray) -> None:
        mask = None if self.mask is None else tables.beside(self.mask, frames)
        sums = frame_reductions(frames, tables.beside(self.masks, frames), mask=mask)
        taken = [member.take(sums._replace(masked=sums.masked[:, columns]), positions) for member, columns in self.members]
        if pairs := [pair for one in taken for pair in one]:
            add_together(self.scan.block_of(positions[0]), len(positions), *pairs)
