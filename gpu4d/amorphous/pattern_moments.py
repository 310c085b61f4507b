"""Add patterns and their squares over a scan: what the variance of every detector pixel over the positions is made of."""

from __future__ import annotations

import operator
from typing import ClassVar, NamedTuple

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array
from gpu4d.data.storable import Storable
from gpu4d.on_host import on_host
from gpu4d.streaming.reduction import ScanInfo
from gpu4d.streaming.sums import SumReduction


class _PixelSums(NamedTuple):
    total: np.ndarray
    squares: np.ndarray
    seen: np.ndarray
    positions: int


class PixelSums(_PixelSums, Storable, stored="total squares seen: Qx Qy"):
    """Sums over the positions of a scan, on the host.

    Attributes
    ----------
    total : (Qx, Qy) float64
        Σ I over the positions where the pixel is finite.
    squares : (Qx, Qy) float64
        Σ I² over them.
    seen : (Qx, Qy) float64
        Their number.
    positions : int
        Of the patterns.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"PixelSums({'×'.join(map(str, self.total.shape))} pixels, {self.positions} positions)"


@on_host("statistics")
class PatternMoments(SumReduction):
    """Reduction: sums of all patterns and of their squares, pixel by pixel. Values that are not finite are left out.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> found = gpu4d.sweep(gpu4d.DataCube(np.full((2, 3, 4, 4), 3, "uint16")), PatternMoments())
    >>> found.total[0, 0].item(), found.squares[0, 0].item(), found.positions
    (18.0, 54.0, 6)
    """

    sums: ClassVar = dict.fromkeys(("total", "squares", "seen", "patterns"), operator.add)

    def bytes_needed(self, scan: ScanInfo, n_frames: int) -> int:
        pixels = 8 * scan.shape[2] * scan.shape[3]
        return self.held_bytes(scan, pixels) + 4 * pixels * n_frames

    def update(self, frames: Array, positions: np.ndarray) -> None:
        xp = arrays.namespace(frames)
        values, n = arrays.as_float64(frames), len(positions)
        if arrays.is_integer(frames):
            seen = xp.full(values.shape[1:], float(n), dtype=xp.float64, device=arrays.device(values))
        else:
            known = xp.isfinite(values)
            values, seen = xp.where(known, values, xp.zeros_like(values)), xp.sum(xp.astype(known, xp.float64), axis=0)
        self.add(positions, total=xp.sum(values, axis=0), squares=xp.sum(values * values, axis=0), seen=seen, patterns=n)

    def finish(self) -> PixelSums:
        """Return the sums so far."""
        none = np.zeros(self.scan.shape[2:])
        found = [none if (v := self.result(name)) is None else np.asarray(arrays.to_numpy(v)) for name in ("total", "squares", "seen")]
        return PixelSums(found[0], found[1], found[2], int(self.result("patterns") or 0))
