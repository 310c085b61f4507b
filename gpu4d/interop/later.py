"""Patterns that another library computes later, block by block: a source for a scan that is an array of Dask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.data.source import Shape4


class LaterSource:
    """Reads patterns of an array of Dask. Every read computes the chunks that it needs, in the thread that reads."""

    resident = False

    def __init__(self, array: Any):
        self.later = array
        self.shape: Shape4 = tuple(int(n) for n in array.shape)  # type: ignore[assignment]
        self.dtype = np.dtype(array.dtype).newbyteorder("=")
        self.blocks = (max(array.chunks[0], default=1) or 1, max(array.chunks[1], default=1) or 1)
        self.description = "Dask array"

    def read(self, rows: slice, columns: slice, out: np.ndarray | None = None) -> np.ndarray:
        found = np.asarray(self.later[rows, columns].compute(scheduler="synchronous"), self.dtype)
        if out is None:
            return found
        np.copyto(out, found)
        return out


def cube_of(array: Any, calibration: Calibration, metadata: Mapping[str, Any], mask: Any, name: str) -> DataCube:
    """Return a scan of an array (Rx, Ry, Qx, Qy) that is in memory, or is computed later by Dask."""
    data = LaterSource(array) if type(array).__module__.partition(".")[0] == "dask" else array
    return DataCube(data, calibration, metadata, mask, name)
