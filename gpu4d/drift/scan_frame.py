"""Say where a scan's positions would lie without drift, and in which order they were visited."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gpu4d.data.storable import Storable


@dataclass(frozen=True)
class ScanFrame(Storable, stored="angle: [rad]"):
    """Nominal positions of one scan.

    Attributes
    ----------
    shape : (int, int)
    step : float
        Distance of positions, in steps of the first scan.
    angle : float
        From the first scan's axes to this scan's axes, radians: a place (x, y) of this scan lies at R(angle) (x, y).
    fast : int
        The axis of the array along which positions follow each other in time: 1 or 0.
    """

    shape: tuple[int, int]
    step: float
    angle: float
    fast: int

    @property
    def rows(self) -> int:
        """Number of rows: lines that the beam runs along."""
        return self.shape[1 - self.fast]

    @property
    def direction(self) -> np.ndarray:
        """Unit vector along the rows."""
        return self.matrix[:, self.fast] / self.step

    @property
    def matrix(self) -> np.ndarray:
        """The matrix V (2, 2) of place = V (i, j), steps of the first scan."""
        c, s = math.cos(self.angle), math.sin(self.angle)
        return self.step * np.array([[c, -s], [s, c]])

    def nominal(self) -> np.ndarray:
        """Return places (N, 2) about the middle of the scan, in array order."""
        i, j = (np.arange(n) - (n - 1) / 2 for n in self.shape)
        return np.stack(np.meshgrid(i, j, indexing="ij"), -1).reshape(-1, 2) @ self.matrix.T

    def row_of(self) -> np.ndarray:
        """Return the number of the row (N,) of every position, in array order."""
        return np.indices(self.shape)[1 - self.fast].ravel()

    def within_row(self) -> np.ndarray:
        """Return when in its row a position is visited (N,): from -1/2 to 1/2 of the time of a row."""
        n = self.shape[self.fast]
        return ((np.indices(self.shape)[self.fast] + 0.5) / n - 0.5).ravel()


def slope(shifts: np.ndarray) -> np.ndarray:
    """Return the steady part of the shifts of rows (n, 2): the slope (2,) of the straight line through them, per row."""
    t = np.arange(len(shifts)) - (len(shifts) - 1) / 2
    return t @ shifts / max(float(t @ t), 1.0)
