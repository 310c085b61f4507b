"""A scan in which a block of patterns is repeated: files and host arrays of any size are filled at the speed of a copy.

All sums over it follow from those of the block in whole numbers, so that every value of every reduction is checked at any size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from gpu4d.benchmarks.suite import data
from gpu4d.benchmarks.suite.workload import Check, Place, Size, relative_error
from gpu4d.benchmarks.suite.workloads.reductions import RINGS, TOLERANCE, disk_patterns

import gpu4d

COLUMNS = 64  # scan positions of a row
BLOCK = 1024  # different patterns, at most


@dataclass(frozen=True)
class RepeatedScan:
    """A block of patterns (n, Qx, Qy) uint16 on the host, and how often it is repeated along the scan."""

    block: np.ndarray
    times: int

    @classmethod
    def make(cls, place: Place, size: Size, seed: int) -> RepeatedScan:
        """Make the block where the place computes, and bring it to the host."""
        n = size["patterns"]
        block = place.host(disk_patterns(place, min(n, BLOCK), size["detector"], seed))
        if place.on_gpu:
            place.xp.get_default_memory_pool().free_all_blocks()
        return cls(block, n // len(block))

    @property
    def patterns(self) -> int:
        return len(self.block) * self.times

    @property
    def nbytes(self) -> int:
        return self.block.nbytes * self.times

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(Rx, Ry, Qx, Qy)."""
        return (self.patterns // COLUMNS, COLUMNS, self.block.shape[1], self.block.shape[2])

    def digest(self) -> str:
        return data.digest(np, self.block, np.asarray([self.times]))

    def rows(self) -> Iterator[np.ndarray]:
        """Yield the block as scan rows (r, Ry, Qx, Qy), as often as it is repeated."""
        for _ in range(self.times):
            yield self.block.reshape(-1, COLUMNS, *self.block.shape[1:])

    def whole(self) -> np.ndarray:
        """Return all patterns, (Rx, Ry, Qx, Qy)."""
        out = np.empty(self.shape, self.block.dtype)
        for first, rows in zip(range(0, self.shape[0], self.shape[0] // self.times), self.rows()):
            out[first : first + len(rows)] = rows
        return out

    def masks(self) -> np.ndarray:
        """Return a mask of all pixels and four rings about the middle, (5, Qx, Qy) bool."""
        side = self.block.shape[1]
        middle = ((side - 1) / 2,) * 2
        rings = [gpu4d.detectors.annulus(a, b, center=middle).mask((side, side)) for a, b in RINGS]
        return np.stack([np.ones((side, side), bool), *rings])

    def reductions(self) -> dict[str, Any]:
        """Return the reductions of one sweep: mean and maximum, the sum of every pattern, four annular images, centre of mass."""
        masks = {str(i): mask for i, mask in enumerate(self.masks())}
        return {
            "mean": gpu4d.MeanPattern(),
            "max": gpu4d.MaxPattern(),
            "images": gpu4d.VirtualImage(masks),
            "com": gpu4d.CenterOfMass(),
        }

    def check(self, found: dict[str, np.ndarray]) -> Check:
        """Compare all values of the reductions with sums in whole numbers."""
        n, side = len(self.block), self.block.shape[1]
        total = self.block.sum((1, 2), dtype=np.int64)
        along = [self.block.sum(axis, dtype=np.int64) @ np.arange(side) for axis in (2, 1)]
        flat = self.block.reshape(n, -1)
        images = [flat[:, mask.reshape(-1)].sum(1, dtype=np.int64) for mask in self.masks()]
        wanted = {
            "mean": self.block.sum(0, dtype=np.int64) / n,
            "max": self.block.max(0),
            "images": self._over_the_scan(np.stack(images)),
            "com": self._over_the_scan(np.stack(along) / total),
        }
        error = max(relative_error(found[name], want) for name, want in wanted.items())
        return Check(error, TOLERANCE, sum(v.size for v in wanted.values()), "sums of NumPy in whole numbers over all patterns")

    def _over_the_scan(self, values: np.ndarray) -> np.ndarray:
        """Return values (k, n) of the patterns of the block at all positions, (k, Rx, Ry)."""
        return np.tile(values, self.times).reshape(len(values), *self.shape[:2])

    def least_bytes_of_results(self) -> float:
        """Return the bytes of two images of the detector and seven of the scan, in float64."""
        return 8.0 * (2 * self.block[0].size + 7 * self.patterns)
