"""Choose and read some patterns from all parts of a scan."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.data.datacube import DataCube


def spread_evenly(allowed: np.ndarray, most: int) -> np.ndarray:
    """Choose at most `most` of the allowed positions, evenly, without a fixed step that could follow the rows of the scan.

    Parameters
    ----------
    allowed : (n,) array
        For example row-major numbers of positions.
    most : int

    Returns
    -------
    (min(n, most),) array

    Examples
    --------
    >>> spread_evenly(np.arange(100), 4).tolist()
    [0, 40, 55, 96]
    """
    if len(allowed) <= most:
        return allowed
    k = np.arange(most)
    return allowed[((k + (k * (5**0.5 - 1) / 2) % 1) * len(allowed) / most).astype(int)]


def grid_positions(good: np.ndarray, most: int) -> np.ndarray:
    """Choose about `most` positions on a regular grid over the scan, and keep the good ones.

    Parameters
    ----------
    good : (Rx, Ry) bool
        Positions that may be taken.
    most : int

    Returns
    -------
    (n, 2) int
        If less than a quarter of the grid is good: positions chosen evenly from all good ones.

    Examples
    --------
    >>> grid_positions(np.ones((6, 6), bool), 4).tolist()
    [[1, 1], [1, 4], [4, 1], [4, 4]]
    """
    rx, ry = good.shape
    n = min(most, rx * ry)
    columns = int(np.clip(round(np.sqrt(n * ry / rx)), 1, ry))
    rows = int(np.clip(round(n / columns), 1, rx))
    x, y = (((np.arange(k) + 0.5) * size / k).astype(int) for k, size in ((rows, rx), (columns, ry)))
    grid = np.stack(np.meshgrid(x, y, indexing="ij"), -1).reshape(-1, 2)
    keep = grid[good[grid[:, 0], grid[:, 1]]]
    if len(keep) >= max(1, len(grid) // 4):
        return keep
    all_good = np.argwhere(good)
    return all_good[np.linspace(0, len(all_good) - 1, min(n, len(all_good))).astype(int)]


def patterns_at(given: Any, positions: Iterable[tuple[int, ...]]) -> np.ndarray:
    """Read the patterns of some positions, and no others.

    Parameters
    ----------
    given : DataCube or (..., Qx, Qy) array
    positions : iterable of tuple of int
        Indices of the axes before the detector's. For a single pattern (Qx, Qy) they are ignored.

    Returns
    -------
    (n, Qx, Qy) array
        An array on the host.

    Examples
    --------
    >>> cube = DataCube(np.arange(16).reshape(2, 2, 2, 2))
    >>> patterns_at(cube, [(1, 0)]).tolist()
    [[[8, 9], [10, 11]]]
    """
    found = []
    for position in positions:
        at = tuple(int(i) for i in position)
        if isinstance(given, DataCube):
            one = given.source.read(slice(at[0], at[0] + 1), slice(at[1], at[1] + 1))[0, 0, ...]
        else:
            one = given[(*at, ...)] if given.ndim > 2 else given
        found.append(arrays.to_numpy(one))
    return np.stack(found)
