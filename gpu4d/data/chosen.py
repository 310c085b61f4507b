"""Choose positions of a scan, in any order and of any shape: every nth, those of a mask, frames without those of the fly-back.

Nothing is read or copied until the view is read. Positions whose patterns lie regularly in memory are a view of that memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array
from gpu4d.data.source import Shape4, Source, itemsize, read_run, rows_of_run, sample_of, scratch_bytes, will_read
from gpu4d.data.views import CorrectedSource


class ChosenSource:
    """Positions of another source, in a shape of their own.

    Parameters
    ----------
    source : Source
    index : (Rx, Ry) int64
        Number rx · Ry + ry, in the scan of `source`, of the pattern at each position.
    what : str
        Which positions, in a few words, for the description.
    """

    def __init__(self, source: Source, index: np.ndarray, what: str = "chosen positions"):
        below, numbers = source, index
        if isinstance(source, ChosenSource):  # of a choice: that of the source below
            below, numbers = source.source, source.index.ravel()[index]
        self.source: Source = below
        self.index: np.ndarray = np.ascontiguousarray(numbers, np.int64)
        self.what = what
        self.shape: Shape4 = (*self.index.shape, *below.shape[2:])  # type: ignore[assignment]
        self.dtype = below.dtype
        self.description = f"{below.description}, {what}"
        self._grid = _grid_of(self.index, below.shape[1])
        self._on_host = _is_on_host(below)
        in_one_row = self._on_host and below.shape[0] == 1 and self._is_regular()
        self.resident = bool(below.resident and (self._grid is not None or in_one_row))
        self.blocks = self._natural_blocks()
        block = min(below.blocks[0], below.shape[0]) * min(below.blocks[1], below.shape[1])
        frame = math.prod(below.shape[2:]) * itemsize(below.dtype)
        copied = self._on_host and not below.resident and below.blocks != (1, 1)
        self.scratch_bytes = scratch_bytes(below) + copied * block * frame

    def _is_regular(self) -> bool:
        """Say whether the numbers rise by one step along rows, and by another along columns."""
        index, (down, across) = self.index, _steps(self.index)
        regular = index[0, 0] + down * np.arange(index.shape[0])[:, None] + across * np.arange(index.shape[1])
        return bool(down > 0 and across > 0 and (index == regular).all())

    def _natural_blocks(self) -> tuple[int, int]:
        """Return blocks of positions that hold whole blocks of the source below, where the positions are a grid of it."""
        if self._grid is None or any(first % block for first, block in zip(self._grid, self.source.blocks)):
            return (1, 1)
        cut = [math.lcm(block, step) // step for block, step in zip(self.source.blocks, self._grid[2:])]
        return min(cut[0], self.shape[0]), min(cut[1], self.shape[1])

    def read(self, rows: slice, columns: slice, out: np.ndarray | None = None) -> Array:
        chosen = self.index[rows, columns]
        if self.resident or not self._on_host:
            return self._view(chosen)
        out = np.empty((*chosen.shape, *self.shape[2:]), self.dtype) if out is None else out
        if self.source.blocks == (1, 1) or self.source.resident:
            for i, line in enumerate(chosen):
                for start, stop, first, last in _runs(line):
                    read_run(self.source, start, stop, out[i, first:last])
        else:
            self._read_blocks(chosen, out)
        return out

    def will_read(self, rows: slice, columns: slice) -> None:
        for line in self.index[rows, columns]:
            for start, stop, _, _ in _runs(line):
                for below in rows_of_run(start, stop, self.source.shape[1]):
                    will_read(self.source, *below)

    def _view(self, chosen: np.ndarray) -> Any:
        """Return patterns of memory: a view of them where they are a grid of the scan or lie at equal distances, else a copy."""
        width = self.source.shape[1]
        if not chosen.size:
            return self.source.read(slice(0, 0), slice(0, 0))[:0, :0]
        if self._grid is not None:
            (x, y), (last_x, last_y) = divmod(int(chosen[0, 0]), width), divmod(int(chosen[-1, -1]), width)
            found: Any = self.source.read(slice(x, last_x + 1), slice(y, last_y + 1))
            return found[:: self._grid[2], :: self._grid[3], :, :]
        if self.resident:
            first, (down, across) = int(chosen[0, 0]), _steps(chosen)
            frames: Any = self.source.read(slice(0, 1), slice(first, int(chosen[-1, -1]) + 1))[0]
            strides = (down * frames.strides[0], across * frames.strides[0], *frames.strides[1:])
            return np.lib.stride_tricks.as_strided(frames, (*chosen.shape, *frames.shape[1:]), strides, writeable=False)
        low, high = int(chosen.min()) // width, int(chosen.max()) // width
        found = self.source.read(slice(low, high + 1), slice(0, width))
        xp = arrays.namespace(found)
        number = arrays.from_numpy(np.ascontiguousarray(chosen.ravel() - low * width), found)
        taken = xp.take(xp.reshape(found, ((high + 1 - low) * width, *self.shape[2:])), number, axis=0)
        return xp.reshape(taken, (*chosen.shape, *self.shape[2:]))

    def _read_blocks(self, chosen: np.ndarray, out: np.ndarray) -> None:
        """Read every block of the source below that holds a chosen position, once."""
        ny, (bx, by) = self.source.shape[1], self.source.blocks
        if not chosen.size:
            return
        x, y = np.divmod(chosen, ny)
        number = ((x // bx) * -(-ny // by) + y // by).ravel()
        order = np.argsort(number, kind="stable")
        for some in np.split(order, np.flatnonzero(np.diff(number[order])) + 1):
            here = np.unravel_index(some, chosen.shape)
            rows, columns = (slice(int(v[here].min()), int(v[here].max()) + 1) for v in (x, y))
            patterns = self.source.read(rows, columns)
            out[here] = patterns[x[here] - rows.start, y[here] - columns.start]


def chosen(source: Source, index: np.ndarray, what: str = "chosen positions") -> Source:
    """Return a view of chosen positions. Corrections stay on top of it, because each pattern is corrected by itself."""
    if isinstance(source, CorrectedSource):
        return CorrectedSource(ChosenSource(source.source, index, what), source.corrections)
    return ChosenSource(source, index, what)


def _steps(index: np.ndarray) -> tuple[int, int]:
    """Return by how much numbers rise from row to row and from column to column; 1 where there is one."""
    down = int(index[1, 0] - index[0, 0]) if index.shape[0] > 1 else 1
    return down, int(index[0, 1] - index[0, 0]) if index.shape[1] > 1 else 1


def _grid_of(index: np.ndarray, width: int) -> tuple[int, int, int, int] | None:
    """Return first row, first column and the steps of both, where the positions are a grid of the scan; else None."""
    if not index.size:
        return None
    x, y = np.divmod(index, width)
    (down, _), (_, across) = _steps(x), _steps(y)
    same = (x == x[0, 0] + down * np.arange(x.shape[0])[:, None]).all() and (y == y[0, 0] + across * np.arange(y.shape[1])).all()
    return (int(x[0, 0]), int(y[0, 0]), down, across) if same and down > 0 and across > 0 else None


def _runs(line: np.ndarray) -> Iterator[tuple[int, int, int, int]]:
    """Yield runs of successive numbers: first and last + 1 of the numbers, and of their places in the line."""
    edges = np.flatnonzero(np.diff(line) != 1) + 1
    for first, last in zip([0, *edges.tolist()], [*edges.tolist(), len(line)]):
        if last > first:
            yield int(line[first]), int(line[last - 1]) + 1, first, last


def _is_on_host(source: Source) -> bool:
    sample = sample_of(source)
    return sample is None or isinstance(sample, np.ndarray)
