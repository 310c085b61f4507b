"""Hold ragged lists of points: Bragg disks, electron strikes. Stored as one flat array for each field and one offset for each position."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array, ReturnedArray
from gpu4d.errors import InputError


class PointList:
    """Points of one scan position. Each field is an array, available as attribute (`.qx`) or key (`["qx"]`).

    Examples
    --------
    >>> import numpy as np
    >>> disks = PointList({"qx": np.array([3.0, 7.5]), "qy": np.array([1.0, 2.0])}, {"qx": "px", "qy": "px"})
    >>> len(disks), disks.qx.tolist(), disks["qy"].tolist()
    (2, [3.0, 7.5], [1.0, 2.0])
    """

    def __init__(self, fields: Mapping[str, Array], units: Mapping[str, str] | None = None):
        lengths = {name: len(values) for name, values in fields.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"fields of different length {lengths}: a point has one value in each")
        self._fields: dict[str, Any] = dict(fields)
        self.units = dict(units or {})

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(self._fields)

    def __len__(self) -> int:
        return len(next(iter(self._fields.values()))) if self._fields else 0

    def __getitem__(self, field: str) -> ReturnedArray:
        return _values(self._fields, field)

    def __getattr__(self, field: str) -> ReturnedArray:
        if field.startswith("_") or field not in self._fields:
            raise AttributeError(f"{type(self).__name__} has no field {field!r}; it has {', '.join(self.__dict__.get('_fields', {}))}")
        return self._fields[field]

    def __repr__(self) -> str:
        return f"PointList({len(self)} points: {', '.join(self._fields)})"


class PointListArray:
    """One list of points per scan position.

    Parameters
    ----------
    offsets : (Rx * Ry + 1,) int64
        Points of position i (row-major) are ``offsets[i]:offsets[i + 1]`` of every field.
    fields : mapping of str to (n,) array
        For Bragg disks: ``qx, qy`` (detector pixels), ``intensity`` and standard errors ``sx, sy`` (pixels).
    shape : tuple of int
        Shape of the scan, (Rx, Ry).
    units : mapping of str to str

    Examples
    --------
    >>> import numpy as np
    >>> p = PointListArray(np.array([0, 2, 3]), {"qx": np.array([1.0, 2.0, 5.0])}, shape=(1, 2))
    >>> p[0, 1].qx, p.counts.tolist()
    (array([5.]), [[2, 1]])
    """

    def __init__(self, offsets: Array, fields: Mapping[str, Array], shape: tuple[int, ...], units: Mapping[str, str] | None = None):
        self.offsets = cast(ReturnedArray, offsets)
        self.shape = tuple(int(n) for n in shape)
        self.units = dict(units or {})
        self._fields: dict[str, Any] = dict(fields)
        positions = int(np.prod(self.shape))
        if offsets.shape[0] != positions + 1:
            raise InputError(f"{offsets.shape[0]} offsets for a scan of shape {self.shape}, need {positions + 1}")
        for name, values in self._fields.items():
            if values.shape[0] != int(offsets[-1]):
                raise InputError(f"field {name!r} has {values.shape[0]} values, the offsets say {int(offsets[-1])}")

    @classmethod
    def from_padded(
        cls, counts: Array, fields: Mapping[str, Array], shape: tuple[int, ...], units: Mapping[str, str] | None = None
    ) -> PointListArray:
        """Make lists from padded arrays (positions, max_points). The first `counts` values of each row are points."""
        xp = arrays.namespace(counts)
        first = next(iter(fields.values()))
        column = xp.arange(first.shape[1], dtype=counts.dtype, device=arrays.device(counts))
        keep = xp.reshape(column[None, :] < counts[:, None], (-1,))
        index = xp.nonzero(keep)[0]
        offsets = xp.cumulative_sum(xp.astype(counts, xp.int64), include_initial=True)
        flat = {name: xp.take(xp.reshape(values, (-1,)), index) for name, values in fields.items()}
        return cls(offsets, flat, shape, units)

    def to_host(self) -> PointListArray:
        """Return the same points in NumPy arrays."""
        flat = {name: arrays.to_numpy(values) for name, values in self._fields.items()}
        return PointListArray(arrays.to_numpy(self.offsets), flat, self.shape, self.units)

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(self._fields)

    @property
    def counts(self) -> ReturnedArray:
        """Points per position, in the shape of the scan."""
        xp = arrays.namespace(self.offsets)
        return xp.reshape(self.offsets[1:] - self.offsets[:-1], self.shape)

    @property
    def positions(self) -> ReturnedArray:
        """Position of every point as row-major number, (n,) int64."""
        xp = arrays.namespace(self.offsets)
        index = xp.arange(len(self), dtype=xp.int64, device=arrays.device(self.offsets))
        return xp.searchsorted(self.offsets[1:], index, side="right")

    def flat(self, field: str) -> ReturnedArray:
        """Return all values of one field, position after position."""
        return _values(self._fields, field)

    def __len__(self) -> int:
        """Return the number of points in all positions together."""
        return int(self.offsets[-1])

    def __getitem__(self, position: int | tuple[int, ...]) -> PointList:
        key = position if isinstance(position, tuple) else (position,)
        if len(key) != len(self.shape) or not all(isinstance(i, int | np.integer) for i in key):
            raise InputError(f"position {position!r}: need {len(self.shape)} whole numbers inside {self.shape}")
        for i, n in zip(key, self.shape):
            if not -n <= i < n:
                raise IndexError(f"position {position!r} is outside the scan {self.shape}")
        number = int(np.ravel_multi_index(tuple(int(i) % n for i, n in zip(key, self.shape)), self.shape))
        start, stop = int(self.offsets[number]), int(self.offsets[number + 1])
        return PointList({name: values[start:stop] for name, values in self._fields.items()}, self.units)

    def __iter__(self) -> Iterator[PointList]:
        return (self[tuple(int(i) for i in np.unravel_index(n, self.shape))] for n in range(int(np.prod(self.shape))))

    def with_fields(self, fields: Mapping[str, Array], units: Mapping[str, str] | None = None) -> PointListArray:
        """Return the same points with further or replaced fields. The arrays are shared, not copied."""
        return PointListArray(self.offsets, {**self._fields, **fields}, self.shape, {**self.units, **(units or {})})

    def where(self, keep: Array) -> PointListArray:
        """Return only the points for which the flat bool array `keep` is True."""
        xp = arrays.namespace(self.offsets)
        ends = xp.cumulative_sum(xp.astype(keep, xp.int64), include_initial=True)
        index = xp.nonzero(keep)[0]
        return PointListArray(xp.take(ends, self.offsets), {n: xp.take(v, index) for n, v in self._fields.items()}, self.shape, self.units)

    def padded(self, fill: float = float("nan")) -> tuple[ReturnedArray, dict[str, ReturnedArray]]:
        """Return counts (positions,) and padded arrays (positions, most) by field. Each row ends with `fill`."""
        xp = arrays.namespace(self.offsets)
        counts = self.offsets[1:] - self.offsets[:-1]
        most = int(xp.max(counts)) if counts.shape[0] else 0
        column = xp.arange(most, dtype=self.offsets.dtype, device=arrays.device(self.offsets))
        inside = column[None, :] < counts[:, None]
        index = xp.where(inside, self.offsets[:-1, None] + column[None, :], xp.zeros_like(column)[None, :])
        if len(self) == 0:
            return counts, {
                n: xp.full((counts.shape[0], most), fill, dtype=v.dtype, device=arrays.device(v)) for n, v in self._fields.items()
            }
        pick: Callable[[Any], Any] = lambda v: xp.reshape(xp.take(v, xp.reshape(index, (-1,))), inside.shape)  # noqa: E731
        return counts, {
            n: xp.where(inside, pick(v), xp.asarray(fill, dtype=v.dtype, device=arrays.device(v))) for n, v in self._fields.items()
        }

    def __repr__(self) -> str:
        return f"PointListArray({'×'.join(map(str, self.shape))} positions, {len(self)} points: {', '.join(self._fields)})"


def _values(fields: Mapping[str, Any], name: str) -> Any:
    """Return the values of a field by its name, or say which there are."""
    if name not in fields:
        raise InputError(f"no field {name!r}; there are {', '.join(fields)}")
    return fields[name]
