"""Read frames that lie in several sources, one behind the other, as one scan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpu4d.data.source import Shape4, Source, check_whole, read_run, rows_of_run, scratch_bytes, will_read
from gpu4d.errors import InputError
from gpu4d.io.foreign import shown


class JoinedFrames:
    """The patterns of several sources, in their order, as one row: (1, frames, Qx, Qy). `ReshapedScan` makes a scan of it.

    Parameters
    ----------
    sources : sequence of Source
        All of the same detector and type. Their patterns are counted row by row. They may be of different length.
    description : str
        How they are stored. Their number is added.

    Raises
    ------
    InputError
        No source, or one of another detector or type.
    """

    resident = False

    def __init__(self, sources: Sequence[Source], description: str):
        if not sources:
            raise InputError(f"{description}: it has no patterns")
        first = sources[0]
        for other in sources:
            if tuple(other.shape[2:]) != tuple(first.shape[2:]) or other.dtype != first.dtype:
                name = shown(str(getattr(other, "path", "one of the files")))
                raise InputError(
                    f"{name}: its patterns are {other.shape[2]}×{other.shape[3]} {other.dtype}, those of the first file "
                    f"{first.shape[2]}×{first.shape[3]} {first.dtype}: it belongs to another scan"
                )
        self.sources, self.said = tuple(sources), description
        self._firsts = np.cumsum([0, *(s.shape[0] * s.shape[1] for s in sources)])  # number of the first pattern of every source
        self.shape: Shape4 = (1, int(self._firsts[-1]), *first.shape[2:])
        self.dtype = first.dtype
        together = first.blocks[1] if first.blocks[0] == 1 else first.blocks[0] * first.shape[1]
        # blocks of the sources are blocks of the row only where all but the last source hold whole ones
        self.blocks = (1, together if all(n % together == 0 for n in self._firsts[:-1]) else 1)
        self.scratch_bytes = max(scratch_bytes(source) for source in sources)
        self.path, self.dataset = getattr(first, "path", None), getattr(first, "dataset", None)
        self.description = f"{description}, {len(sources)} files" if len(sources) > 1 else description

    def _parts(self, start: int, stop: int) -> Iterator[tuple[int, Source, int, int]]:
        """Return where patterns start … stop − 1 lie: place behind `start`, source, first pattern of it and the one behind the last."""
        at = start
        while at < stop:
            i = int(np.searchsorted(self._firsts, at, side="right")) - 1
            end = min(stop, int(self._firsts[i + 1]))
            yield at - start, self.sources[i], at - int(self._firsts[i]), end - int(self._firsts[i])
            at = end

    def read(self, rows: slice, columns: slice, out: Any = None) -> Any:
        if out is None:
            out = np.empty((rows.stop - rows.start, columns.stop - columns.start, *self.shape[2:]), self.dtype)
        if len(out):  # there is one row
            for place, source, first, last in self._parts(columns.start, columns.stop):
                read_run(source, first, last, out[0, place : place + last - first])
        return out

    def will_read(self, rows: slice, columns: slice) -> None:
        for _, source, first, last in self._parts(columns.start, columns.stop):
            for within_rows, within_columns in rows_of_run(first, last, source.shape[1]):
                will_read(source, within_rows, within_columns)

    def check_whole(self) -> None:
        """Raise an error if one of the files was cut short since it was mapped."""
        for source in self.sources:
            check_whole(source)

    def __reduce__(self) -> Any:
        return JoinedFrames, (self.sources, self.said)
