"""Scans and results from xarray, and back: `from_xarray` is the inverse of `to_xarray`, and takes labelled arrays of others too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu4d.data.calibration import Calibration
from gpu4d.data.calibration_fields import Cut
from gpu4d.data.datacube import DataCube
from gpu4d.data.pointlist import PointList, PointListArray
from gpu4d.data.slices import Slice
from gpu4d.data.storable import Storable, class_named
from gpu4d.errors import InputError
from gpu4d.interop._to_xarray import WHOLE, to_xarray
from gpu4d.interop.libraries import is_of, refused
from gpu4d.interop.stated import (
    Carried,
    StatedAxis,
    carried,
    cube_of,
    invariant,
    is_detector,
    slice_of,
    stated_calibration,
    turned,
)
from gpu4d.io.foreign import FOREIGN, reason
from gpu4d.io.formats.carried import decoded
from gpu4d.io.units import log

if TYPE_CHECKING:
    from xarray import DataArray, Dataset

__all__ = ["from_xarray", "to_xarray"]

SCAN = ("Rx", "Ry", "Qx", "Qy")
NEAR = 1e-6  # of a step, between a coordinate and a whole pixel


def __dir__() -> list[str]:
    return list(__all__)


def from_xarray(labelled: DataArray | Dataset) -> Any:
    """Return a labelled array or data set of xarray as a scan or a result.

    Parameters
    ----------
    labelled : DataArray
        Of four dimensions, a scan: Rx, Ry, Qx, Qy in any order or, if they have other names, in this order. Of two or three, an image, a
        pattern, or a stack of them. Even coordinates with an attribute "units" give the pixel sizes; where coordinates of the detector
        are 0 is the origin. Arrays of Dask stay lazy.
    labelled : Dataset
        That `to_xarray` made of a result. Its variables may have other values since; a part that was taken out of it is an error.

    Returns
    -------
    DataCube, RealSlice, DiffractionSlice, or the result
        A scan that `to_xarray` made has its calibration, history and mask again, also if a rectangle of it was chosen. If it was
        binned or thinned out, energy, semi-angle and rotation are kept, and pixel sizes are those of the coordinates. Of one that was
        mirrored, the rotation is left out.

    Raises
    ------
    InputError
        Another object, another number of dimensions, or a Dataset that does not say what it is.

    Examples
    --------
    >>> import gpu4d
    >>> bf = gpu4d.RealSlice(np.ones((2, 3)), "bf", "counts", 5.0, "Å")
    >>> from_xarray(bf.to_xarray())
    RealSlice('bf', 2×3 float64, units 'counts', 5 Å/px)
    """
    if is_of(labelled, "xarray", "Dataset"):
        return _result(labelled)
    if not is_of(labelled, "xarray", "DataArray"):
        raise refused(labelled, "the object", "a DataArray or Dataset of xarray")
    if labelled.ndim == 4:
        return _scan(labelled)
    if labelled.ndim not in (2, 3):
        raise InputError(f"the DataArray has {labelled.ndim} dimensions: need four of a scan, or two or three of images")
    return _image(labelled)


# ---------------------------------------------------------------- labelled arrays


def _axis(array: Any, name: str) -> StatedAxis:
    """Return step, unit and first value of a dimension. Coordinates that are absent or not even count pixels."""
    if name not in array.coords:
        return StatedAxis(1.0, "px")
    values = np.asarray(array.coords[name].values)
    if values.dtype.kind not in "iuf" or not len(values):
        return StatedAxis(1.0, "px")
    steps = np.diff(values.astype(np.float64))
    if len(steps) and not (steps[0] and np.allclose(steps, steps[0], rtol=1e-6, atol=0)):
        return StatedAxis(1.0, "px")
    if len(steps) and steps[0] < 0:
        log.warning("the coordinates %s fall: directions follow the array, not the coordinates", name)
    return StatedAxis(float(steps[0]) if len(steps) else 0.0, str(array.coords[name].attrs.get("units", "px")), float(values[0]))


def _pair(array: Any, names: tuple[str, str]) -> list[StatedAxis]:
    """Return two dimensions. One of a single pixel has no step: it has that of the other."""
    both = [_axis(array, name) for name in names]
    step = max(abs(axis.step) for axis in both) or 1.0
    return [axis if axis.step else axis._replace(step=step) for axis in both]


def _scan(array: Any) -> DataCube:
    dims = tuple(map(str, array.dims))
    ordered = array.transpose(*SCAN) if set(dims) == set(SCAN) else array
    dims = tuple(map(str, ordered.dims))
    axes = _pair(ordered, dims[:2]) + _pair(ordered, dims[2:])  # type: ignore[arg-type]
    text = array.attrs.get(WHOLE)
    plain = {str(key): value for key, value in array.attrs.items() if key != WHOLE}
    mask = np.asarray(ordered.coords["detector_mask"].values, bool) if "detector_mask" in ordered.coords else None
    stated = stated_calibration(axes, plain.get("energy"), plain.get("semiangle"), "coordinates of the DataArray", ordered.shape[2:])
    name = str(array.name or "datacube")
    known = carried(text)
    if known is None:
        return cube_of(ordered.data, stated, {"xarray": plain}, mask, name)
    return cube_of(ordered.data, _of_part(known, stated, axes, ordered.shape), known.metadata, mask, name)


def _of_part(written: Carried, stated: Calibration, axes: list[StatedAxis], shape: tuple[int, ...]) -> Calibration:
    """Return the calibration of a scan from which a rectangle may have been chosen: its coordinates count from the first pixel."""
    known = written.calibration
    steps = [(known.r_pixel or 1.0)] * 2 + [(known.q_pixel or 1.0)] * 2
    starts = [axis.offset / step for axis, step in zip(axes, steps)]
    same = all(n == 1 or abs(axis.step - step) <= NEAR * step for axis, step, n in zip(axes, steps, shape))
    if same and all(abs(start - round(start)) < NEAR for start in starts):
        ranges = [slice(round(start), round(start) + n) for start, n in zip(starts, shape)]
        if all(part.start >= 0 and part.stop <= n for part, n in zip(ranges, written.shape)):
            whole = all(part == slice(0, n) for part, n in zip(ranges, written.shape))
            return known if whole else known.cropped(Cut(*ranges))
    kept = invariant(known, turned(axes))
    kept.override(stated.only(("q_pixel", "r_pixel")))
    return kept


def _image(array: Any) -> Slice:
    dims = tuple(map(str, array.dims))
    axes = _pair(array, dims[-2:])  # type: ignore[arg-type]
    labels: tuple[str, ...] = ()
    if array.ndim == 3 and dims[0] in array.coords and array.coords[dims[0]].dtype.kind in "UO":
        labels = tuple(map(str, array.coords[dims[0]].values))
    about = (str(array.attrs.get("long_name", array.name or "")), str(array.attrs.get("units", "")), labels)
    detector = dims[-2:] == SCAN[2:] or (dims[-2:] != SCAN[:2] and is_detector(axes[0].unit))
    return slice_of(np.asarray(array.values), axes, detector, about)


# ---------------------------------------------------------------- data sets


def _result(dataset: Any) -> Any:
    text = dataset.attrs.get(WHOLE)
    try:
        tree = json.loads(text)
    except (TypeError, ValueError):
        raise InputError("the Dataset does not say which result it is: need one that to_xarray() made, or a DataArray") from None
    try:
        return _made(dataset, tree)
    except InputError:
        raise
    except FOREIGN as error:
        kind = dataset.attrs.get("class", "result")
        raise InputError(f"the Dataset lacks parts of a {kind} ({reason(error)}): give it as to_xarray() made it") from None


def _made(dataset: Any, node: Mapping[str, Any]) -> Any:
    """Make a part of a result from what `Variables` said of it."""
    if "slice" in node:
        name, units, size, unit, labels = node["about"]
        return _slice(dataset[node["variable"]], class_named(node["slice"]), name, units, size, unit, tuple(labels))
    if "cube" in node:
        array = dataset[node["variable"]]
        whole = carried(node["cube"])
        if whole is None:
            raise ValueError("the text of the scan is damaged")
        return cube_of(array.data, whole.calibration, whole.metadata, whole.detector_mask, whole.name or "datacube")
    if "points" in node:
        return _points(dataset, node)
    if "calibration" in node:
        return Calibration.from_parts(decoded(node["calibration"]))
    if "class" in node:
        made: type[Storable] = class_named(node["class"])
        return made.from_parts({part: _made(dataset, held) for part, held in node["parts"].items()})
    if "dictionary" in node:
        return {decoded(key): _made(dataset, held) for key, held in node["dictionary"]}
    for kind in (tuple, list):
        if kind.__name__ in node:
            return kind(_made(dataset, held) for _, held in node[kind.__name__])
    return decoded(node["value"]) if "value" in node else np.asarray(dataset[node["variable"]].values)


def _slice(array: Any, kind: Any, name: str, units: str, size: float, unit: str, labels: tuple[str, ...]) -> Slice:
    step = _axis(array, str(array.dims[-1])) if array.ndim else StatedAxis(0.0, "px")
    changed = step.step and step.unit == unit and abs(abs(step.step) - size) > NEAR * size
    return kind(np.asarray(array.values), name, units, abs(step.step) if changed else size, unit, labels)


def _points(dataset: Any, node: Mapping[str, Any]) -> PointListArray | PointList:
    prefix = f"{node['points']}_" if node["points"] else ""
    fields = {field: np.asarray(dataset[f"{prefix}{field}"].values) for field in node["fields"]}
    if node["shape"] is None:
        return PointList(fields, node["units"])
    counts = np.asarray(dataset[f"{prefix}count"].values)
    return PointListArray(np.concatenate([[0], np.cumsum(counts.reshape(-1))]), fields, counts.shape, node["units"])
