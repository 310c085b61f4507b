"""Load the patterns of a scan, and find those that can be used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import real_values, scan_mask
from gpu4d.data.datacube import DataCube
from gpu4d.errors import InputError
from gpu4d.streaming.load_cube import load_cube

BLOCK = 256  # patterns that are summed at once
FARTHEST = 1e7  # Å, a millimetre: no scan is so large, and object pixels are counted in whole numbers
UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
NARROW = ("uint16", "uint32", "uint64")  # types that torch holds, but does not index


@dataclass(frozen=True)
class Loaded:
    """Patterns on their device.

    Attributes
    ----------
    frames : (m, Qx, Qy)
    number : (n,) int
        Those of `frames` that can be used, in scan order.
    used : (Rx, Ry) bool
        Their positions.
    counts : (n,) float64
        Their sums over pixels that count.
    plain : bool
        True if no value is negative or NaN by its dtype.
    """

    frames: Any
    number: np.ndarray
    used: np.ndarray
    counts: np.ndarray
    plain: bool


def load_patterns(cube: DataCube, where: ArrayLike | None, pixels: np.ndarray | None, **options: Any) -> Loaded:
    """Load all patterns. Those without counts, and those with a value that is not finite, in `pixels` (Qx, Qy) bool are left out."""
    chosen = scan_mask(where, cube.scan_shape)
    options.pop("client", None)  # the patterns are needed here
    frames = load_cube(cube, where=chosen, **options)
    xp = arrays.namespace(frames)
    frames = xp.reshape(frames, (-1, *cube.detector_shape))
    name = str(frames.dtype).rpartition(".")[2]
    if arrays.is_torch(frames) and name in NARROW:
        frames = xp.astype(frames, xp.float32 if name == "uint16" else xp.float64)
    mask = None if pixels is None else arrays.from_numpy(pixels, frames)
    sums = []
    for first in range(0, frames.shape[0], BLOCK):
        block = frames[first : min(first + BLOCK, frames.shape[0]), ...]
        block = block if mask is None else arrays.zeroed(block, mask)
        sums.append(arrays.to_numpy(xp.sum(arrays.as_sum_dtype(block), axis=(1, 2))).astype(float))
    counts = np.concatenate(sums) if sums else np.zeros(0)
    good = np.isfinite(counts) & (counts > 0)
    if not good.any():
        raise InputError("no position has counts: every pattern is empty, or holds NaN where the detector counts")
    used = np.zeros(cube.scan_shape, bool)
    used[chosen if chosen is not None else np.ones(cube.scan_shape, bool)] = good
    return Loaded(frames, np.flatnonzero(good), used, counts[good], name in UNSIGNED)


def given_positions(positions: ArrayLike | None, shape: tuple[int, int], step: float) -> np.ndarray:
    """Return positions (Rx, Ry, 2) in Å and scan axes: as given, else those of a regular scan, with the first at (0, 0)."""
    if positions is None:
        return np.stack(np.meshgrid(*(np.arange(n) * step for n in shape), indexing="ij"), -1)
    found = real_values(positions, "positions", f"{(*shape, 2)} in Å, in scan axes").astype(float)
    if found.shape != (*shape, 2):
        raise InputError(f"positions is {found.shape}, need {(*shape, 2)}: x and y of every scan position in Å, in scan axes")
    farthest = np.abs(found[np.isfinite(found)]).max(initial=0.0)
    if farthest > FARTHEST:
        raise InputError(f"positions go to {farthest:.3g} Å: need places on the specimen in Å, below {FARTHEST:.0g}")
    return found
