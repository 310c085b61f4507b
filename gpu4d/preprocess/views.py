"""Crop, bin and select: a cube as a lazy view, an array as an array. The methods of `gpu4d.DataCube` do the work."""

from __future__ import annotations

from typing import TypeVar, cast

from gpu4d.arrays import Array, ArrayLike
from gpu4d.data.datacube import DataCube, Range
from gpu4d.real_arrays import real_array

Scan = TypeVar("Scan", DataCube, Array)


def crop(data: Scan, rx: Range | None = None, ry: Range | None = None, qx: Range | None = None, qy: Range | None = None) -> Scan:
    """Take a part of the scan and of the detector.

    Parameters
    ----------
    data : DataCube or (Rx, Ry, Qx, Qy) array
    rx, ry, qx, qy : slice or (int, int), optional
        Half-open ranges in steps of one. None keeps the whole axis.

    Returns
    -------
    DataCube or array
        A lazy view of a cube, whose calibration fits it; of an array, an array of the same library on the same device.

    Raises
    ------
    InputError
        A range that is empty, has another step, or reaches outside.

    Examples
    --------
    >>> import numpy as np
    >>> crop(np.zeros((4, 5, 6, 7)), rx=(1, 3), qy=(0, 2)).shape
    (2, 5, 6, 2)
    """
    return like(data, _cube(data).crop(rx, ry, qx, qy))


def bin(data: Scan, detector: int = 1, scan: int = 1) -> Scan:
    """Sum pixels of the detector, or patterns of neighbouring positions, in squares. A remainder at the end of an axis is left out.

    Parameters
    ----------
    data : DataCube or (Rx, Ry, Qx, Qy) array
        A pattern with a NaN gives NaN in the sums that hold it.
    detector, scan : int
        Side of the squares.

    Returns
    -------
    DataCube or array
        A lazy view of a cube, or an array. Integers stay exact, in a type wide enough for the sum (uint16 becomes uint32). q_pixel,
        r_pixel, origins and the radius of the disk of a cube follow; a binned pixel counts if all its pixels count.

    Raises
    ------
    InputError
        No whole number from 1 to the size of the axis, or sums of 64-bit counts that do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> summed = bin(np.full((2, 2, 4, 6), 65535, "uint16"), detector=2)
    >>> summed.shape, str(summed.dtype), int(summed.max())
    ((2, 2, 2, 3), 'uint32', 262140)
    """
    return like(data, _cube(data).bin(detector=detector, scan=scan))


def select(data: Scan, where: ArrayLike | None = None, *, every: int = 1) -> Scan:
    """Take some positions of a scan: every nth along both axes, or those of a mask.

    Parameters
    ----------
    data : DataCube or (Rx, Ry, Qx, Qy) array
    where : (Rx, Ry) bool, optional
        Positions to keep. They come in one row, (1, n), in the order of the scan, unless they fill a rectangle.
    every : int
        Step along rx and ry, from the first position on.

    Returns
    -------
    DataCube or array
        A lazy view of a cube, as `gpu4d.DataCube.select` gives it; of an array, an array of the same library on the same device.

    Raises
    ------
    InputError
        Both or neither are given, a mask of another shape or without a position, or a step that is no whole number from 1 on.

    Examples
    --------
    >>> import numpy as np
    >>> select(np.zeros((5, 7, 2, 2)), every=2).shape, select(np.zeros((2, 2, 3, 3)), [[True, False], [False, True]]).shape
    ((3, 4, 2, 2), (1, 2, 3, 3))
    """
    return like(data, _cube(data).select(where, every=every))


def like(given: Scan, view: DataCube) -> Scan:
    """Return a view as what was given: a cube, or the array of all its patterns."""
    if isinstance(given, DataCube):
        return cast(Scan, view)
    return view.source.read(slice(0, view.shape[0]), slice(0, view.shape[1]))


def _cube(data: DataCube | Array) -> DataCube:
    return data if isinstance(data, DataCube) else DataCube(real_array(data, "data", "an array (Rx, Ry, Qx, Qy) or a DataCube"))
