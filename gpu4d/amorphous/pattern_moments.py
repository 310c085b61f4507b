"""Add patterns and their squares over a scan: what the variance of every detector pixel over the positions is made of."""

from __future__ import annotations

import operator
from typing import ClassVar, NamedTuple

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array
from gpu4d.streaming.reduction import ScanInfo
from gpu4d.streaming.sums import SumReduction


class PixelSums(NamedTuple):
    """Sums over the positions of a scan, on the host.

    Attributes
    ----------
    total : (Qx, Qy) float64
        Σ I over the positions; NaN where any value of the pixel is not finite.
    squares : (Qx, Qy) float64
        Σ I².
    positions : int
    """

    total: np.ndarray
    squares: np.ndarray
    positions: int

    def __repr__(self) -> str:
        return f"PixelSums({'×'.join(map(str, self.total.shape))} pixels, {self.positions} positions)"


class PatternMoments(SumReduction):
    """Reduction: sums of all patterns and of their squares, pixel by pixel.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> found = gpu4d.sweep(gpu4d.DataCube(np.full((2, 3, 4, 4), 3, "uint16")), PatternMoments())
    >>> found.total[0, 0].item(), found.squares[0, 0].item(), found.positions
    (18.0, 54.0, 6)
    """

    sums: ClassVar = dict.fromkeys(("total", "squares", "seen"), operator.add)

    def bytes_needed(self, scan: ScanInfo, n_frames: int) -> int:
        pixels = 8 * scan.shape[2] * scan.shape[3]
        return self.held_bytes(scan, pixels) + 3 * pixels * n_frames

    def update(self, frames: Array, positions: np.ndarray) -> None:
        xp = arrays.namespace(frames)
        values = arrays.as_float64(frames)
        self.add(positions, total=xp.sum(values, axis=0), squares=xp.sum(values * values, axis=0), seen=len(positions))

    def finish(self) -> PixelSums:
        """Return the sums so far."""
        none = np.zeros(self.scan.shape[2:])
        total, squares = (none if (v := self.result(name)) is None else arrays.to_numpy(v) for name in ("total", "squares"))
        return PixelSums(total, squares, int(self.result("seen") or 0))
