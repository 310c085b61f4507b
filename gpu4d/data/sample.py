"""Choose and read some patterns from all parts of a scan."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array, ArrayLike
from gpu4d.data.arguments import positions_of
from gpu4d.data.datacube import DataCube, itemsize
from gpu4d.data.source import copied
from gpu4d.device.threads import in_threads

SIDE = 2  # patterns: a sample lies in squares of this side, because neighbours often share a chunk of a file


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


def end_to_end(items: np.ndarray, most: int) -> np.ndarray:
    """Take at most so many items, evenly, the first and the last among them.

    Parameters
    ----------
    items : (n, ...) array
    most : int
        With one, it is the first item.

    Returns
    -------
    (min(n, most), ...) array

    Examples
    --------
    >>> end_to_end(np.arange(10), 4).tolist()
    [0, 3, 6, 9]
    """
    return items[np.linspace(0, len(items) - 1, min(most, len(items))).astype(int)]


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
    return end_to_end(np.argwhere(good), n)


def patterns_at(given: DataCube | Array, positions: Iterable[tuple[int, ...]]) -> np.ndarray:
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
            one = copied(given.source, slice(at[0], at[0] + 1), slice(at[1], at[1] + 1))[0, 0, ...]
        else:
            one = given[(*at, ...)] if given.ndim > 2 else given
        found.append(arrays.to_numpy(one))
    return np.stack(found)


@dataclass(frozen=True)
class SampleSize:
    """How many patterns a sample of a scan has.

    Attributes
    ----------
    most : int
        Patterns.
    most_bytes : int
        Of all patterns together.
    part : int
        At most one pattern in so many is taken.
    least : int
        Patterns that are taken whatever `most_bytes` and `part` say, if the scan has so many.
    """

    most: int
    most_bytes: int
    part: int
    least: int


class Sample(NamedTuple):
    """Patterns from all over a scan.

    Attributes
    ----------
    places : list of (slice, slice)
        Rectangles of the scan that are read, row by row.
    shape : (rows, columns)
        Of all of them together.
    kept : (rows, columns) bool or None
        Those of them that may be used; None for all.
    """

    places: list[tuple[slice, slice]]
    shape: tuple[int, int]
    kept: np.ndarray | None


def sample_places(cube: DataCube, where: ArrayLike | None, size: SampleSize) -> Sample:
    """Choose patterns from all over a scan, in small squares, the same whatever the chunks of the file and the devices.

    Parameters
    ----------
    cube : DataCube
    where : (Rx, Ry) bool or None
        Positions that may be taken. Where it leaves out part of a square, the others of it are read too, and not kept.
    size : SampleSize

    Returns
    -------
    Sample

    Examples
    --------
    >>> cube = DataCube(np.zeros((9, 9, 2, 2)))
    >>> found = sample_places(cube, None, SampleSize(most=16, most_bytes=1000, part=4, least=4))
    >>> found.shape, found.places[0]
    ((4, 4), (slice(2, 4, None), slice(2, 4, None)))
    """
    allowed = positions_of(where, cube.scan_shape)
    n = int(allowed.sum())
    if n == 0:
        return Sample([], (0, 0), None)
    frame = int(np.prod(cube.detector_shape)) * itemsize(cube.dtype)
    most = int(np.clip(min(n // size.part, size.most_bytes // max(frame, 1)), size.least, size.most))
    starts = _squares(cube.scan_shape, most, size.least)
    lines = [np.concatenate([np.arange(b.start, b.stop) for b in s]) for s in starts]
    seen = allowed[np.ix_(*lines)]
    if not seen.all() and seen.sum() <= min(size.least, n):
        left = end_to_end(np.argwhere(allowed), max(seen.size, size.least))
        return Sample([(slice(i, i + 1), slice(j, j + 1)) for i, j in left.tolist()], (1, len(left)), None)
    return Sample([(rows, columns) for rows in starts[0] for columns in starts[1]], seen.shape, None if seen.all() else seen)


def _squares(shape: tuple[int, int], most: int, least: int) -> list[list[slice]]:
    """Return ranges of both axes that cross in up to `most` places, or in so many more that they are `least`."""
    rx, ry = shape
    while True:
        wide = int(np.clip(round((most * ry / rx) ** 0.5), min(ry, most // min(rx, most)), min(ry, most)))
        starts = [_ranges(n, some) for n, some in ((rx, most // wide), (ry, wide))]
        if np.prod([sum(b.stop - b.start for b in s) for s in starts]) >= min(least, rx * ry):
            return starts
        most += 1


def _ranges(n: int, most: int) -> list[slice]:
    """Return ranges of an axis that hold up to `most` of its n places together, evenly spread."""
    if n <= most:
        return [slice(i, min(i + SIDE, n)) for i in range(0, n, SIDE)]
    side = min(SIDE, most)
    count = most // side
    firsts = [min(side * int((i + 0.5) * n / count / side), n - side) for i in range(count)]
    return [slice(first, first + side) for first in firsts]


def read_sample(cube: DataCube, sample: Sample, share: Callable[..., Any] = in_threads) -> np.ndarray:
    """Read the patterns of a sample, and join them as they lie.

    Parameters
    ----------
    cube : DataCube
    sample : Sample
    share : callable
        `in_threads`, or `map` for one of them.

    Returns
    -------
    (rows, columns, Qx, Qy) array
        On the host; of one row where the sample keeps only some of what is read.

    Examples
    --------
    >>> cube = DataCube(np.arange(16).reshape(2, 2, 2, 2))
    >>> read_sample(cube, Sample([(slice(1, 2), slice(0, 1))], (1, 1), None)).tolist()
    [[[[8, 9], [10, 11]]]]
    """
    parts = (map if cube.source.resident else share)(cube.source.read, *zip(*sample.places)) if sample.places else ()
    patterns, row, column = None, 0, 0
    for part in parts:
        found = arrays.to_numpy(part)
        if patterns is None:
            patterns = np.empty((*sample.shape, *cube.detector_shape), found.dtype)
        patterns[row : row + found.shape[0], column : column + found.shape[1]] = found
        column += found.shape[1]
        if column == sample.shape[1]:
            row, column = row + found.shape[0], 0
    if patterns is None:
        return np.empty((0, 0, *cube.detector_shape), np.float32)
    return patterns if sample.kept is None else patterns[sample.kept][None]
