"""Give results to xarray: named axes, coordinates in units, numbers and texts as attributes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from gpu4d.data.datacube import DataCube
from gpu4d.data.named_axes import Axis
from gpu4d.data.slices import Slice
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.interop.libraries import library
from gpu4d.interop.variables import Variable, Variables

if TYPE_CHECKING:
    from xarray import DataArray, Dataset

WHOLE = "gpu4d"  # attribute: a text with what has no other place, from which `from_xarray` makes the result again


def to_xarray(result: Storable) -> Dataset | DataArray:
    """Return a result with named axes, for xarray.

    Parameters
    ----------
    result : any result, slice, scan or lists of points
        Of every array library; arrays on a device are copied to the host.

    Returns
    -------
    xarray.DataArray or xarray.Dataset
        A DataArray for a slice, with axes Rx, Ry or Qx, Qy and "plane" for the labels of a stack, and for a scan. Patterns of a scan are
        read when they are needed, if Dask is installed; without it they are loaded. A Dataset for other results: arrays are variables,
        parts of parts are called "rings_value"; lists of points have the axis "point" with coordinates rx, ry. Coordinates are in Å
        and 1/Å where pixel sizes are known, else in pixels. Numbers and texts are attributes, True and False as 1 and 0, so that
        ``to_netcdf`` takes them. What is None is left out. The attribute "gpu4d" is a text for `gpu4d.interop.xarray.from_xarray`.

    Raises
    ------
    InputError
        xarray is not installed, or `result` is no result of gpu4d.

    Examples
    --------
    >>> import gpu4d, numpy as np
    >>> bf = gpu4d.RealSlice(np.ones((2, 3)), "bf", "counts", 5.0, "Å")
    >>> found = to_xarray(bf)
    >>> found.dims, found.sel(Rx=5.0, Ry=10.0).item(), found.Rx.attrs["units"]
    (('Rx', 'Ry'), 1.0, 'Å')
    """
    xarray = library("xarray", "to_xarray", "xarray", "'gpu4d[interop]'")
    if not isinstance(result, Storable):
        raise InputError(f"result is a {type(result).__name__}: need a result of gpu4d, for an array use gpu4d.RealSlice(array)")
    held = Variables(result, whole=True)
    coordinates = {axis.name: _coordinate(axis) for v in held.variables.values() for axis in v.axes if _says_something(axis)}
    variables = {name: _described(v) for name, v in held.variables.items()}
    if isinstance(result, Slice | DataCube):
        dims, values, about = variables.pop(held.name)
        own = {name: coordinate for name, coordinate in coordinates.items() if name in dims}
        beside = {name: v for name, v in variables.items() if set(v[0]) <= set(dims)}  # the mask of the detector
        if isinstance(result, DataCube):
            about = {**about, WHOLE: held.tree["cube"]}
        return xarray.DataArray(values, {**own, **beside}, dims, held.name or None, {**about, **held.attributes})
    places = {name: v for name, v in variables.items() if name.rpartition("_")[2] in ("rx", "ry") and v[0][0].endswith("point")}
    for name in [name for name, v in variables.items() if v[0] == (name,)]:
        coordinates[name] = variables.pop(name)  # a part that is its own axis
    rest = {name: v for name, v in variables.items() if name not in places}
    return xarray.Dataset(rest, {**coordinates, **places}, {"class": result.stored_name(), **held.attributes, WHOLE: json.dumps(held.tree)})


def _says_something(axis: Axis) -> bool:
    """Say whether an axis has values of its own, or belongs to the scan or the detector, and does not only count."""
    return axis.name in ("Rx", "Ry", "Qx", "Qy") or axis.unit != "px"


def _described(variable: Variable) -> tuple[tuple[str, ...], Any, dict[str, str]]:
    about = {"units": variable.unit, "long_name": variable.title}
    return tuple(axis.name for axis in variable.axes), variable.values, {key: text for key, text in about.items() if text}


def _coordinate(axis: Axis) -> tuple[tuple[str, ...], Any, dict[str, str]]:
    return (axis.name,), axis.values, {"units": axis.unit} if axis.unit else {}
