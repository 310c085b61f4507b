"""Find the largest value of every pattern: hits of X-rays stand out in it."""

from __future__ import annotations

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array
from gpu4d.device import tables
from gpu4d.streaming.reduction import ScanInfo
from gpu4d.streaming.sums import PerPositionReduction


class Brightest(PerPositionReduction):
    """Reduction: the largest value of every pattern, (Rx, Ry) float64. Masked pixels do not count.

    It is NaN at positions that were not visited, and for patterns with a NaN.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> gpu4d.sweep(gpu4d.DataCube(np.arange(12.0).reshape(1, 2, 2, 3)), Brightest()).tolist()
    [[5.0, 11.0]]
    """

    def bytes_needed(self, scan: ScanInfo, n_frames: int) -> int:
        return self.held_bytes(scan, n_frames) + 16 * n_frames * scan.shape[2] * scan.shape[3]

    def update(self, frames: Array, positions: np.ndarray) -> None:
        xp, mask = arrays.namespace(frames), self.scan.detector_mask
        values = arrays.as_float64(frames if mask is None else arrays.zeroed(frames, tables.beside(mask, frames)))
        self.put(positions, xp.reshape(xp.max(values, axis=(-2, -1)), (-1, 1)))

    def finish(self) -> np.ndarray:
        return arrays.to_numpy(self.values.result()[0])
