"""Lists of disks: what is kept of each, and the lists of tiles in the order of the scan."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.bragg.find_disks import Disks
from gpu4d.data import PointListArray

HELD = {"qx": "float64", "qy": "float64", "intensity": "float32", "sx": "float32", "sy": "float32"}
UNITS = {"qx": "px", "qy": "px", "intensity": "counts/px", "sx": "px", "sy": "px"}


def fields_of(disks: Disks) -> dict[str, Any]:
    xp = arrays.namespace(disks.qx)
    return {name: xp.astype(getattr(disks, name), getattr(xp, kind)) for name, kind in HELD.items()}


def in_scan_order(parts: list[tuple[np.ndarray, PointListArray]], shape: tuple[int, ...]) -> PointListArray:
    """One list per position of the scan, from tiles in any order; positions in no tile have no points."""
    counts = np.zeros(int(np.prod(shape)), dtype=np.int64)
    for number, points in parts:
        counts[number] = arrays.to_numpy(points.counts)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    if not parts:
        return PointListArray(offsets, {name: np.zeros(0, kind) for name, kind in HELD.items()}, shape, UNITS)
    places = [_places(number, arrays.to_numpy(points.offsets), offsets) for number, points in parts]
    like = parts[0][1].offsets
    flat = {}
    for name, kind in HELD.items():
        if isinstance(like, np.ndarray):  # tile by tile into place: no third copy of long lists
            flat[name] = np.empty(offsets[-1], kind)
            for (_, points), at in zip(parts, places):
                flat[name][at] = points.flat(name)
        else:
            xp = arrays.namespace(like)
            order = arrays.from_numpy(np.argsort(np.concatenate(places)), like)
            flat[name] = xp.take(xp.concat([points.flat(name) for _, points in parts]), order)
    return PointListArray(arrays.from_numpy(offsets, like), flat, shape, UNITS)


def _places(number: np.ndarray, inside: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Where the points of a tile go: `number` are its positions, `inside` its own offsets, `offsets` those of the scan."""
    return np.arange(inside[-1]) + np.repeat(offsets[number] - inside[:-1], np.diff(inside))
