"""Place patterns and probe positions on the grid of the object."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gpu4d.data.scan_axes import scan_matrix
from gpu4d.ptychography.experiment import Experiment


@dataclass(frozen=True)
class Grid:
    """The grid of the object, in detector axes, and how detector pixels and positions lie on it.

    Attributes
    ----------
    patch : (int, int)
        Pixels of a pattern as it is reconstructed, and of the object's patch under a probe.
    pixel : (float, float)
        Å of the object: 1 / (N q_pixel).
    q_pixel : float
        1/Å.
    shape : (int, int)
        Of the object.
    zero : (int, int)
        The object's pixel at position (0, 0) Å.
    rows, columns : (N,) int
        Which detector row and column stands where, zero frequency first. Those outside of the detector are -1.
    offset : (float, float)
        Where the optical axis is, in pixels from the zero frequency: less than one half.
    matrix : (2, 2) float64
        v_scan = matrix v_det.
    """

    patch: tuple[int, int]
    pixel: tuple[float, float]
    q_pixel: float
    shape: tuple[int, int]
    zero: tuple[int, int]
    rows: np.ndarray
    columns: np.ndarray
    offset: tuple[float, float]
    matrix: np.ndarray

    @classmethod
    def of(cls, known: Experiment, detector: tuple[int, int], patch: tuple[int, int], positions: np.ndarray, reach: float) -> Grid:
        """Make the grid for positions (n, 2), Å in scan axes, that may move by `reach` Å."""
        matrix = scan_matrix(known.rotation, known.transpose)
        pixel = tuple(1 / (n * known.q_pixel) for n in patch)
        places = positions @ matrix
        low, high = places.min(axis=0) - reach, places.max(axis=0) + reach
        zero = tuple(math.ceil(-v / p) + n // 2 + 1 for v, p, n in zip(low, pixel, patch))
        shape = tuple(math.ceil(v / p) + z + (n + 1) // 2 + 1 for v, p, n, z in zip(high, pixel, patch, zero))
        nearest = [round(o) for o in known.origin]
        index = [np.rint(np.fft.fftfreq(n, 1 / n)).astype(int) + o for n, o in zip(patch, nearest)]
        rows, columns = (np.where((i >= 0) & (i < n), i, -1) for i, n in zip(index, detector))
        offset = tuple(o - n for o, n in zip(known.origin, nearest))
        return cls(patch, pixel, known.q_pixel, shape, zero, rows, columns, offset, matrix)  # type: ignore[arg-type]

    def places(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return corners (n, 2) int64 of the patches under probes, and the probes' places in them (n, 2) float64, pixels.

        Positions are in Å and scan axes. A probe is within half a pixel of the middle of its patch, unless it has left the object's grid.
        """
        at = positions @ self.matrix / self.pixel + self.zero
        corner = np.rint(at).astype(np.int64) - np.array(self.patch) // 2
        corner = np.clip(corner, 0, np.array(self.shape) - self.patch)
        return corner, at - corner

    def frequencies(self) -> tuple[np.ndarray, np.ndarray]:
        """Return true frequencies (N, 1) and (1, N) of the pattern's pixels, 1/Å in detector axes, zero frequency first."""
        kx, ky = ((np.fft.fftfreq(n, 1 / n) - o) * self.q_pixel for n, o in zip(self.patch, self.offset))
        return kx[:, None], ky[None, :]

    def measured(self, mask: np.ndarray | None) -> np.ndarray | None:
        """Return (N, N) float64: 1 where the detector counts, zero frequency first. None if it counts everywhere."""
        inside = (self.rows >= 0)[:, None] & (self.columns >= 0)[None, :]
        if mask is not None:
            inside &= mask[self.rows][:, self.columns]
        return None if inside.all() else inside.astype(float)

    def pixels(self, detector: tuple[int, int], mask: np.ndarray | None) -> np.ndarray | None:
        """Return (Qx, Qy) bool: detector pixels that are used. None if all are."""
        used = np.zeros(detector, bool)
        used[np.ix_(self.rows[self.rows >= 0], self.columns[self.columns >= 0])] = True
        if mask is not None:
            used &= mask
        return None if used.all() else used
