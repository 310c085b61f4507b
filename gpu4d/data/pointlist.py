"""Hold ragged lists of points: Bragg disks, electron strikes. Stored as one flat array for each field and one offset for each position."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array, ReturnedArray
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.real_arrays import real_array


class PointList(Storable):
    """Points of one scan position. Each field is an array, available as attribute (`.qx`) or key (`["qx"]`).

    Examples
    --------
    >>> import numpy as np
    >>> disks = PointList({"qx": np.array([3.0, 7.5]), "qy": np.array([1.0, 2.0])}, {"qx": "px", "qy": "px"})
    >>> len(disks), disks.qx.tolist(), disks["qy"].tolist()
    (2, [3.0, 7.5], [1.0, 2.0])
    """

    def __init__(self, fields: Mapping[str, Array], units: Mapping[str, str] | None = None):
        self._fields: dict[str, Any] = _columns(fields)
        lengths = {name: len(values) for name, values in self._fields.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"fields of different length {lengths}: a point has one value in each")
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


class PointListArray(Storable):
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
        self.offsets = cast(ReturnedArray, _whole_column(offsets))
        self.shape = tuple(int(n) for n in shape)
        self.units = dict(units or {})
        self._fields: dict[str, Any] = _columns(fields)
        positions = math.prod(self.shape)
        if self.offsets.shape[0] != positions + 1:
            raise InputError(f"{self.offsets.shape[0]} offsets for a scan of shape {self.shape}, need {positions + 1}")
        for name, values in self._fields.items():
            if values.shape[0] != len(self):
                raise InputError(f"field {name!r} has {values.shape[0]} values, the offsets say {len(self)}")

    @classmethod
    def from_padded(
        cls, counts: Array, fields: Mapping[str, Array], shape: tuple[int, ...], units: Mapping[str, str] | None = None
    ) -> PointListArray:
        """Make lists from padded arrays (positions, max_points). The first `counts` values of each row are points."""
        xp = arrays.namespace(counts)
        first = next(iter(fields.values()))
        # The same with NumPy's own functions: for one pattern those of the array API take most of the time.
        if xp is arrays.numpy_namespace():
            keep = np.arange(first.shape[1]) < counts[:, None]
            sums = np.zeros(len(counts) + 1, np.int64)
            np.cumsum(counts, out=sums[1:])
            return cls(sums, {name: values[keep] for name, values in fields.items()}, shape, units)
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
        """Return counts (positions,) and padded arrays (positions, most) by field. Each row ends with `fill`.

        Whole numbers become float64 if `fill` is not a whole number.
        """
        xp = arrays.namespace(self.offsets)
        whole = float(fill).is_integer()
        fields = {n: v if whole or not arrays.is_integer(v) else arrays.as_float64(v) for n, v in self._fields.items()}
        counts = self.offsets[1:] - self.offsets[:-1]
        most = int(xp.max(counts)) if counts.shape[0] else 0
        column = xp.arange(most, dtype=self.offsets.dtype, device=arrays.device(self.offsets))
        inside = column[None, :] < counts[:, None]
        index = xp.where(inside, self.offsets[:-1, None] + column[None, :], xp.zeros_like(column)[None, :])
        if len(self) == 0:
            return counts, {n: xp.full((counts.shape[0], most), fill, dtype=v.dtype, device=arrays.device(v)) for n, v in fields.items()}
        pick: Callable[[Any], Any] = lambda v: xp.reshape(xp.take(v, xp.reshape(index, (-1,))), inside.shape)  # noqa: E731
        return counts, {n: xp.where(inside, pick(v), xp.asarray(fill, dtype=v.dtype, device=arrays.device(v))) for n, v in fields.items()}

    def __repr__(self) -> str:
        return f"PointListArray({'×'.join(map(str, self.shape))} positions, {len(self)} points: {', '.join(self._fields)})"


def _columns(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields as arrays of one axis."""
    if not isinstance(fields, Mapping):
        raise InputError(f"fields is a {type(fields).__name__}: need a mapping of names to arrays, as {{'qx': …, 'qy': …}}")
    columns = {name: real_array(values, f"field {name!r}", "one number for each point") for name, values in fields.items()}
    for name, values in columns.items():
        if len(values.shape) != 1:
            raise InputError(f"field {name!r} has shape {tuple(values.shape)}: need one number for each point, (n,)")
    return columns


def _whole_column(offsets: Any) -> Any:
    """Return offsets as an array of whole numbers with one axis."""
    column = real_array(offsets, "offsets", "whole numbers, one more than positions")
    if len(column.shape) != 1 or not arrays.is_integer(column):
        raise InputError(f"offsets are {tuple(column.shape)} {column.dtype}: need whole numbers, one more than positions")
    xp = arrays.namespace(column)
    column = column if column.dtype == xp.int64 else xp.astype(column, xp.int64)
    if column.shape[0] and not (int(column[0]) == 0 and bool(xp.all(column[1:] >= column[:-1]))):
        raise InputError(f"offsets run from {int(column[0])} to {int(column[-1])}: they must begin at 0 and must not fall")
    return column


def _values(fields: Mapping[str, Any], name: str) -> Any:
    """Return the values of a field by its name, or say which there are."""
    if name not in fields:
        raise InputError(f"no field {name!r}; there are {', '.join(fields)}")
    return fields[name]
