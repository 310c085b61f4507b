"""Describe a scan whose patterns are still to come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from gpu4d.arrays import ArrayLike, DType
from gpu4d.data.arguments import real_values
from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.data.source import Shape4
from gpu4d.errors import InputError


class NoPatterns:
    """Source of a scan that is acquired now: its shape is known, and its patterns cannot be read."""

    blocks, resident, description = (1, 1), False, "live: patterns come as they are acquired"

    def __init__(self, shape: Shape4, dtype: DType):
        self.shape, self.dtype = shape, dtype

    def read(self, rows: slice, columns: slice, out: np.ndarray | None = None) -> NoReturn:
        raise InputError("the patterns of a live scan cannot be read: feed them to a gpu4d.streaming.LiveSweep as they come")


def live_scan(
    shape: Sequence[int], dtype: DType | str, calibration: Calibration | None = None, detector_mask: ArrayLike | None = None
) -> DataCube:
    """Describe a scan that is still to come, for `gpu4d.live` and `gpu4d.streaming.LiveSweep`.

    Parameters
    ----------
    shape : (Rx, Ry, Qx, Qy)
        An upper bound in the scan: a scan that ends early gives NaN for the rest.
    dtype : dtype
        Of the patterns as they come: bool, integers, or floats of at most 64 bits.
    calibration : Calibration, optional
    detector_mask : (Qx, Qy) bool, optional
        True where the detector counts.

    Returns
    -------
    DataCube
        Without patterns. ``live_scan(…).corrected(dark=dark)`` is a scan whose patterns are corrected as they come.

    Raises
    ------
    InputError
        Not four whole numbers from 1 on, or another dtype.

    Examples
    --------
    >>> live_scan((64, 64, 128, 128), "uint16", Calibration(energy=300e3)).shape
    (64, 64, 128, 128)
    """
    try:
        sizes = tuple(int(n) for n in shape)
        whole = len(sizes) == 4 and all(n == m and n > 0 for n, m in zip(sizes, shape))
    except (TypeError, ValueError):
        whole = False
    if not whole:
        raise InputError(f"the shape of a live scan is {shape!r}: need four whole numbers (Rx, Ry, Qx, Qy), each from 1 on")
    try:
        found = np.dtype(dtype).newbyteorder("=")  # type: ignore[arg-type]
    except TypeError:
        found = np.dtype(object)
    if found.kind not in "biuf" or found.itemsize > 8:
        raise InputError(f"the dtype of a live scan is {dtype!r}: need bool, integers, or floats of at most 64 bits")
    return DataCube(NoPatterns((sizes[0], sizes[1], sizes[2], sizes[3]), found), calibration, None, detector_mask, "live scan")


def live_positions(given: Any, n: int, scan_shape: tuple[int, int]) -> np.ndarray:
    """Return the positions of n patterns, (n, 2) int64. Nothing is rounded, and nothing outside the scan is taken."""
    rx, ry = scan_shape
    at = real_values(given, "positions", f"whole numbers ({n}, 2)")
    at = at[None] if at.ndim == 1 else at
    if at.shape != (n, 2) or at.dtype.kind not in "iu" or not ((at >= 0) & (at < np.array([rx, ry]))).all():
        raise InputError(f"positions are {at.shape} {at.dtype}: need whole numbers ({n}, 2) inside a scan of ({rx}, {ry})")
    return at.astype(np.int64)
