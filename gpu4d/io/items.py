"""Read one node of an EMD 1.0 file: an array, a slice, lists of points, a scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from gpu4d.data.calibration import Calibration
from gpu4d.data.pointlist import PointList, PointListArray
from gpu4d.data.slices import DiffractionSlice, RealSlice, Slice
from gpu4d.errors import InputError
from gpu4d.io.foreign import shown
from gpu4d.io.formats import emd
from gpu4d.io.formats.emd_events import is_counted
from gpu4d.io.formats.emd_nodes import UNITS
from gpu4d.io.opening import open as open_scan
from gpu4d.io.sources.links import dataset_at, group_at, names, path_of

_OURS = {file: ours for ours, file in UNITS.items() if ours}
_DETECTOR = {"DiffractionSlice", "VirtualDiffraction", "Probe", "BraggVectorMap"}
_SCAN = {"RealSlice", "VirtualImage"}
_SLICES = {"RealSlice": RealSlice, "DiffractionSlice": DiffractionSlice, "Slice": Slice}


@dataclass(frozen=True)
class ItemReader:
    """Reads nodes of one file.

    Attributes
    ----------
    path : str
        The file, for scans, which stay in it.
    calibration : Calibration
        Of the file, for slices of other programs without units.
    """

    path: str
    calibration: Calibration

    def read(self, group: h5py.Group) -> Any:
        """Return what a node holds. None for a node without data of its own."""
        kind = emd.group_type(group).removeprefix("custom_")
        if kind == "array":
            return self._array(group)
        if kind == "pointlistarray" and is_counted(group):
            return self._scan(group, path_of(group))
        if kind == "pointlistarray":
            return _points(group)
        if has_bragg(group):
            return _points(emd.parent_of(group, "_v_uncal/data"))
        return _pointlist(group) if kind == "pointlist" else None

    def _array(self, group: h5py.Group) -> Any:
        data = dataset_at(group, "data")
        if data is None or data.ndim == 4:
            return self._scan(group, f"{path_of(group)}/data")
        values = data[()]
        kind = emd.label(group, "python_class")
        own = path_of(group).rsplit("/", 1)[-1]
        last = dataset_at(group, f"dim{data.ndim - 1}")
        stacked = last is not None and emd.label(last, "name") == "_labels_"
        labels = tuple(emd.text(label) for label in last[()]) if last is not None and stacked else ()
        ours = _SLICES.get(emd.label(group, "gpu4d_slice"))
        if ours is not None:
            return _as_it_was(ours, group, values, own, labels)
        if kind == "Array" and not (values.ndim == 2 or stacked):
            return values
        # in a stack the planes are the first axis, but the first two vectors belong to the two image axes
        first = dataset_at(group, "dim0")
        step = None if first is None else emd.step_of(first)
        units = "pixels" if first is None else emd.label(first, "units", "pixels")
        size, units = (1.0, "px") if step is None else (step, _OURS.get(units, units))
        made = DiffractionSlice if kind in _DETECTOR else RealSlice if kind in _SCAN else Slice
        known = {DiffractionSlice: self.calibration.q_pixel, RealSlice: self.calibration.r_pixel}.get(made)
        if units in ("px", "pixels"):
            size, units = (known, "1/Å" if made is DiffractionSlice else "Å") if known else (1.0, "px")
        value_units = emd.label(data, "units")
        return made(values, own, "" if value_units == "1" else value_units, size, units, labels)

    def _scan(self, group: h5py.Group, dataset: str) -> Any:
        cube = open_scan(self.path, dataset=dataset)
        cube.name = emd.label(group, "gpu4d_name", cube.name)
        return cube


def has_bragg(group: h5py.Group) -> bool:
    """Say whether a group is py4DSTEM's BraggVectors, whose parts are one item."""
    return group_at(group, "_v_uncal") is not None and emd.group_type(group) in ("custom", "node")


def _as_it_was(made: type[Slice], group: h5py.Group, values: np.ndarray, own: str, labels: tuple[str, ...]) -> Slice:
    """Return a slice that gpu4d wrote, with the attributes that say exactly what it was."""
    size = group.attrs.get("gpu4d_pixel_size", 1.0)
    given = group.attrs.get("gpu4d_labels", len(labels))
    numbers = all(isinstance(value, int | float | np.number) for value in (size, given))
    if not numbers:
        raise InputError(f"{shown(path_of(group))}: the size of a pixel or the number of labels is no number: it is damaged, copy it again")
    name = emd.label(group, "gpu4d_name", own) or own
    units, pixel_units = emd.label(group, "gpu4d_units"), emd.label(group, "gpu4d_pixel_units", "px")
    return made(values, name, units, float(size), pixel_units, labels[: int(given)])


def _points(group: h5py.Group) -> PointListArray:
    data = dataset_at(group, "data")
    dtype = None if data is None else h5py.check_vlen_dtype(data.dtype)
    if data is None or dtype is None or dtype.names is None:
        raise InputError(f"{shown(path_of(group))} in {shown(group.file.filename)}: points without named fields")
    lists = data[()].reshape(-1)
    counts = np.array([len(points) for points in lists], np.int64)
    flat = np.concatenate([points for points in lists if len(points)]) if counts.sum() else np.empty(0, dtype)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    units = {key.removeprefix("units_"): emd.label(group, key) for key in group.attrs if key.startswith("units_")}
    fields = {name: np.ascontiguousarray(flat[name]) for name in dtype.names}
    stored = [emd.text(field).rpartition(" ") for field in np.ravel(group.attrs.get("gpu4d_fields", ()))]
    if {name for name, _, _ in stored} == set(fields):
        fields = {name: fields[name].astype(np.dtype(kind), copy=False) for name, _, kind in stored}
    return PointListArray(offsets, fields, data.shape, units)


def _pointlist(group: h5py.Group) -> PointList:
    found = {field: held for field in names(group) if (held := dataset_at(group, field)) is not None}
    stored = [emd.text(field) for field in np.ravel(group.attrs.get("gpu4d_fields", ()))]
    order = stored if set(stored) == set(found) else list(found)
    units = {field: emd.label(held, "units") for field, held in found.items() if "units" in held.attrs}
    return PointList({field: found[field][()] for field in order}, units)
