"""Take a result apart for other libraries: arrays with named axes, and numbers and texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from gpu4d import arrays
from gpu4d.data.calibration import Calibration
from gpu4d.data.calibration_fields import FIELDS
from gpu4d.data.datacube import DataCube
from gpu4d.data.named_axes import Axis, array_axes, cube_axes, known_axes, slice_axes
from gpu4d.data.pointlist import PointList, PointListArray
from gpu4d.data.slices import Slice
from gpu4d.data.storable import Layout, Storable
from gpu4d.interop.lazy_patterns import patterns_of
from gpu4d.interop.stated import carried_text
from gpu4d.io.formats.carried import coded

Tree = dict[str, Any]  # as JSON has it


class Variable(NamedTuple):
    """An array of a result."""

    axes: tuple[Axis, ...]
    values: Any  # of NumPy, or of Dask for patterns of a scan
    unit: str
    title: str


class Variables:
    """Collects the arrays of a result with their axes, and its numbers and texts.

    Attributes
    ----------
    variables : dict of str to Variable
    attributes : dict
        Numbers, texts and lists of these. The unit of "angle" is "angle_units".
    tree : dict
        What the result is made of, as JSON has it: classes, parts, and the names of the variables that hold the arrays.
        `gpu4d.interop.xarray` makes the result from it again.

    Parameters
    ----------
    result : any result
    whole : bool
        Also parts that the result keeps only to compute others from, whose names begin with "_".
    """

    def __init__(self, result: Storable, *, whole: bool = False):
        self.whole = whole
        self.variables: dict[str, Variable] = {}
        self.attributes: dict[str, Any] = {}
        self._axes: dict[str, Axis] = {}
        self.name = result.name if isinstance(result, Slice | DataCube) else ""
        self.tree = self.add(self.name, result)

    def add(self, name: str, value: Any, stored: Layout | None = None, known: Mapping[str, Axis] | None = None) -> Tree:
        """Add a part of a result: an array, a number, a text, or something that has parts itself. Return what it is made of."""
        known = dict(known or {})
        unit = "" if stored is None else stored.unit
        if value is None:
            return {"value": None}
        if isinstance(value, Slice):
            axes = slice_axes(value, stored)
            if value.labels and value.ndim == 3:
                axes[0] = Axis(axes[0].name, np.array(value.labels, dtype=str), "")
            self._variable(name, arrays.to_numpy(value.data), axes, value.units, value.name)
            about = [value.name, value.units, value.pixel_size, value.pixel_units, list(value.labels)]
            return {"slice": value.stored_name(), "variable": name, "about": about}
        if isinstance(value, DataCube):
            self._scan(name, value)
            return {"cube": carried_text(value), "variable": name}
        if isinstance(value, PointListArray | PointList):
            return self._points(name, value)
        if isinstance(value, Calibration):
            self._calibration(name, value)
            return {"calibration": coded(value.to_parts())}
        if isinstance(value, Storable):
            parts = {}
            for part, held in value.to_parts().items():
                if self.whole or not part.startswith("_"):
                    own = {**known, **known_axes(value)}
                    parts[part] = self.add(f"{name}_{part}" if name else part, held, value.stored_as(part), own)
            return {"class": value.stored_name(), "parts": parts}
        if arrays.is_array(value) and len(value.shape):
            values = arrays.to_numpy(value)
            self._variable(name, values, array_axes(values, name, stored, known), unit)
            return {"variable": name}
        if isinstance(value, Mapping) or (isinstance(value, tuple | list) and not _is_plain(value)):
            members = [[coded(key), self.add(f"{name}_{key}", held, stored, known)] for key, held in _members(value)]
            return {"dictionary" if isinstance(value, Mapping) else "tuple" if isinstance(value, tuple) else "list": members}
        self.attributes[name] = _attribute(value)
        if unit:
            self.attributes[f"{name}_units"] = unit
        return {"value": coded(value)}

    def _variable(self, name: str, values: Any, axes: list[Axis], unit: str, title: str = "") -> None:
        """Keep an array. An axis that differs from the one of the same name gets the array's name, too."""
        own: list[Axis] = []
        for axis in axes:
            held = self._axes.setdefault(axis.name, axis)
            numbers = held.values.dtype.kind in "fc" and axis.values.dtype.kind in "fc"
            same = np.array_equal(held.values, axis.values, equal_nan=numbers)
            renamed = axis if same and axis.name not in [other.name for other in own] else axis._replace(name=f"{axis.name}_{name}")
            own.append(self._axes.setdefault(renamed.name, renamed))
        self.variables[name] = Variable(tuple(own), values, unit, title)

    def _scan(self, name: str, cube: DataCube) -> None:
        self._variable(name, patterns_of(cube), cube_axes(cube), "counts")
        self._calibration("", cube.calibration)
        if cube.detector_mask is not None:
            self._variable("detector_mask", cube.detector_mask, cube_axes(cube)[2:], "")

    def _calibration(self, name: str, calibration: Calibration) -> None:
        for field, value in calibration.known().items():
            axes = ("Rx", "Ry", "xy") if np.ndim(value) == 3 else ()
            self.add(f"{name}_{field}" if name else field, value, Layout(axes, FIELDS[field].units))

    def _points(self, name: str, points: PointListArray | PointList) -> Tree:
        axis = [Axis.even(f"{name}_point" if name else "point", len(points))]
        for field in points.fields:
            values = arrays.to_numpy(points.flat(field) if isinstance(points, PointListArray) else points[field])
            self._variable(f"{name}_{field}" if name else field, values, axis, points.units.get(field, ""))
        if isinstance(points, PointListArray):
            places = np.unravel_index(arrays.to_numpy(points.positions), points.shape)
            letters = ("rx", "ry") if len(points.shape) == 2 else tuple(f"position_{i}" for i in range(len(points.shape)))
            for letter, place in zip(letters, places):
                self._variable(f"{name}_{letter}" if name else letter, place, axis, "")
            scan = [Axis.even(f"R{letter[-1]}", n) for letter, n in zip(letters, points.shape)]
            self._variable(f"{name}_count" if name else "count", arrays.to_numpy(points.counts), scan, "")
        shape = list(points.shape) if isinstance(points, PointListArray) else None
        return {"points": name, "fields": list(points.fields), "shape": shape, "units": dict(points.units)}


def _members(value: Mapping[Any, Any] | list[Any] | tuple[Any, ...]) -> Iterator[tuple[Any, Any]]:
    yield from value.items() if isinstance(value, Mapping) else enumerate(value)


def _is_plain(value: tuple[Any, ...] | list[Any]) -> bool:
    """Say whether a tuple or list can be an attribute: all of it is numbers, or all is text."""
    return all(isinstance(v, str) for v in value) or all(isinstance(v, bool | int | float | np.number) for v in value)


def _attribute(value: Any) -> Any:
    """Return a number, a text, or a list of them, as files of netCDF can have it."""
    if isinstance(value, tuple | list):
        return [_attribute(v) for v in value]
    if arrays.is_array(value) or isinstance(value, np.generic):
        value = arrays.to_numpy(value).item() if arrays.is_array(value) else value.item()
    return int(value) if isinstance(value, bool) else str(value) if isinstance(value, complex) else value
