"""Write EMD 1.0 nodes as emdfile and py4DSTEM do: metadata, arrays, point lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Number
from typing import Any

import h5py
import numpy as np

from gpu4d import arrays
from gpu4d.data.calibration import Calibration
from gpu4d.data.calibration_fields import FIELDS
from gpu4d.data.named_axes import Axis, slice_axes
from gpu4d.data.pointlist import PointList, PointListArray
from gpu4d.data.slices import DiffractionSlice, RealSlice, Slice
from gpu4d.errors import InputError

# gpu4d's units as py4DSTEM spells them, and the reverse
UNITS = {"Å": "A", "1/Å": "A^-1", "px": "pixels", "": "1"}
ALWAYS = ("energy", "semiangle", "convergence_semiangle_mrad")  # keys that py4DSTEM expects; written as None if the value is not known


KEY = "gpu4d_key"  # attribute: the key of a value whose dataset has another name
# How names begin of datasets that RosettaSciIO takes for arrays with axes, wherever they are
MISUNDERSTOOD = ("data", "counted_datacube", "realslice", "diffractionslice", "pointlist")
# py4DSTEM's classes, and what emdfile has instead: the kind of group if it is another, and the class
PLAIN_CLASSES = {
    "RealSlice": ("", "Array"),
    "DiffractionSlice": ("", "Array"),
    "DataCube": ("", "Array"),
    "Calibration": ("", "Metadata"),
    "BraggVectors": ("node", "Node"),
}


def node(parent: h5py.Group, name: str, kind: str, python_class: str) -> h5py.Group:
    """Make a group with EMD's two tags."""
    group = parent.create_group(name)
    group.attrs["emd_group_type"], group.attrs["python_class"] = kind, python_class
    return group


def use_plain_classes(root: h5py.Group) -> None:
    """Replace py4DSTEM's classes in a tree by those of emdfile, which does not read a tree with classes that it does not know."""

    def change(_: str, item: h5py.Group | h5py.Dataset) -> None:
        held = item.attrs.get("python_class")
        if held in PLAIN_CLASSES:
            kind, name = PLAIN_CLASSES[held]
            item.attrs["python_class"] = name
            if kind:
                item.attrs["emd_group_type"] = kind
        elif item.attrs.get("emd_group_type") == "custom_pointlistarray":
            item.attrs["emd_group_type"] = "pointlistarray"

    root.visititems(change)


# ---------------------------------------------------------------- metadata


def write_metadata(owner: h5py.Group, name: str, values: Mapping[str, Any], python_class: str = "Metadata") -> None:
    """Write a dictionary into the metadata bundle of a node."""
    if "metadatabundle" not in owner:
        owner.create_group("metadatabundle").attrs["emd_group_type"] = "metadatabundle"
    group = node(owner["metadatabundle"], name, "metadata", python_class)
    for key, value in values.items():
        _write_item(group, str(key), value)


def _write_item(group: h5py.Group, given: str, value: Any) -> None:
    """Write one value with emdfile's mark of its type. A value of another type is written as text.

    A key that cannot be the name of a dataset, or would be misunderstood, is written as attribute.
    """
    given = given.encode(errors="backslashreplace").decode()  # names from files may have bytes that are no text
    key = given.replace("/", "_").replace("\0", "") or "_"
    while key.startswith(MISUNDERSTOOD) or key in group:
        key = f"_{key}"
    _write_under(group, key, value)
    if key != given:
        group[key].attrs[KEY] = given.replace("\0", "")


def _write_under(group: h5py.Group, key: str, value: Any) -> None:
    if arrays.is_array(value) or isinstance(value, Slice):
        value = arrays.to_numpy(value) if arrays.is_array(value) else np.asarray(value)
        value = value.item() if value.ndim == 0 else value
    if isinstance(value, Mapping) or (isinstance(value, list | tuple) and any(isinstance(v, Mapping) for v in value)):
        inner = group.create_group(key)
        inner.attrs["type"] = "dict"
        for k, v in value.items() if isinstance(value, Mapping) else enumerate(value):
            _write_item(inner, str(k), v)
    elif isinstance(value, list | tuple):
        _write_sequence(group, key, value)
    elif value is None:
        _write_value(group, key, b"_None", "None")
    elif isinstance(value, bool | np.bool_):
        _write_value(group, key, np.bool_(value), "bool")
    elif isinstance(value, Number) and _is_stored(value):
        _write_value(group, key, value, "number")
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        _write_value(group, key, value, "array")
    else:
        _write_value(group, key, str(value).replace("\0", "").encode(errors="backslashreplace"), "string")


def _write_value(group: h5py.Group, key: str, value: Any, kind: str) -> None:
    group.create_dataset(key, data=value).attrs["type"] = kind.encode()


def _write_sequence(group: h5py.Group, key: str, values: Sequence[Any]) -> None:
    kind = "tuple" if isinstance(values, tuple) else "list"
    if all(isinstance(v, Number | np.bool_) for v in values) and _is_stored(values):
        _write_value(group, key, np.asarray(values, dtype=None if values else np.float64), kind)
        return
    rows = all(isinstance(v, np.ndarray | list | tuple) and _is_numeric(v) for v in values)
    inner = group.create_group(key)
    inner.attrs["type"], inner.attrs["length"] = f"{kind}_of_{'arrays' if rows else 'strings'}", len(values)
    for i, v in enumerate(values):
        inner.create_dataset(str(i), data=np.asarray(v) if rows else str(v).replace("\0", "").encode(errors="backslashreplace"))


def _is_stored(values: Any) -> bool:
    """Say whether HDF5 has a type for numbers: not for integers of more than 64 bits, or fractions."""
    return np.asarray(values).dtype.kind in "biufc"


def _is_numeric(values: Any) -> bool:
    try:
        return np.asarray(values).dtype.kind in "biuf"
    except ValueError:  # rows of different length
        return False


def calibration_keys(c: Calibration, targets: Sequence[str]) -> dict[str, Any]:
    """Return a Calibration in py4DSTEM's keys and in gpu4d's (energy in eV, semiangle in mrad, history)."""
    keys: dict[str, Any] = {
        "Q_pixel_size": c.q_pixel or 1.0,
        "Q_pixel_units": "A^-1" if c.q_pixel else "pixels",
        "R_pixel_size": c.r_pixel or 1.0,
        "R_pixel_units": "A" if c.r_pixel else "pixels",
        "QR_flip": bool(c.transpose),
    }
    for name, field in FIELDS.items():
        value = getattr(c, name)
        keys |= {key: value for key in field.emd if value is not None or key in ALWAYS}
    if c.rotation is not None:
        keys |= {"QR_rotation": c.rotation, "QR_rotation_degrees": float(np.rad2deg(c.rotation))}
    if c.ellipse is not None:
        keys |= dict(zip(("a", "b", "theta"), c.ellipse))
    if c.origin is not None:
        for axis, name in enumerate(("qx0", "qy0")):
            values = c.origin[..., axis]
            mean = float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
            keys |= {name: values if values.ndim else float(values), f"{name}_mean": mean}
            keys[f"{name}_shift"] = values - mean if values.ndim else 0.0
    if c.origin_measured is not None and c.origin_measured.ndim == 3:
        keys |= {"qx0_meas": c.origin_measured[..., 0], "qy0_meas": c.origin_measured[..., 1]}
    keys["history"] = [" | ".join((m.when, m.field, str(m.value), m.how)) for m in c.history]
    keys |= {"_root_treepath": "", "_target_paths": list(targets)}
    return keys


# ---------------------------------------------------------------- arrays


def write_axes(parent: h5py.Group, name: str, data: np.ndarray, axes: Sequence[Axis], units: str, kind: str = "Array") -> h5py.Group:
    """Write an array of the class `kind` with a vector for each axis. Return its group."""
    group = node(parent, name, "array", kind)
    group.create_dataset("data", data=data).attrs["units"] = units or "1"
    write_dims(group, axes)
    return group


def write_dims(group: h5py.Group, axes: Sequence[Axis]) -> None:
    # Write whole vectors: when emdfile extends a pair (0, step) itself, the vector can be one element too long.
    for n, axis in enumerate(axes):
        dim = group.create_dataset(f"dim{n}", data=axis.values)
        dim.attrs["name"], dim.attrs["units"] = axis.name, UNITS.get(axis.unit, axis.unit)


def write_slice(parent: h5py.Group, name: str, item: Slice) -> None:
    """Write a slice or a stack of slices. As in emdfile, the planes are the first axis, and the last dimension vector has their labels."""
    data = np.asarray(item)
    if data.ndim not in (2, 3):
        raise InputError(f"{name!r} has shape {data.shape}: a slice to be saved is (nx, ny), or a stack (n, nx, ny)")
    kind = "RealSlice" if isinstance(item, RealSlice) else "DiffractionSlice" if isinstance(item, DiffractionSlice) else "Array"
    group = write_axes(parent, name, data, slice_axes(item)[-2:], item.units, kind)
    # What vectors and names of groups do not say exactly: the kind if classes are emdfile's own, the size of a single pixel, the name.
    given = {"gpu4d_slice": type(item).__name__, "gpu4d_name": item.name, "gpu4d_units": item.units, "gpu4d_pixel_units": item.pixel_units}
    for key, value in {**given, "gpu4d_pixel_size": item.pixel_size}.items():
        group.attrs[key] = value
    if data.ndim == 3:
        labels = [*item.labels, *(f"plane {i}" for i in range(len(item.labels), data.shape[0]))][: data.shape[0]]
        group.create_dataset("dim2", data=[label.encode() for label in labels]).attrs["name"] = "_labels_"
        group.attrs["gpu4d_labels"] = len(item.labels)


def write_array(parent: h5py.Group, name: str, data: np.ndarray) -> None:
    """Write an array without names or units, with one dimension or more."""
    if data.dtype.kind not in "biufc" or data.ndim == 0:
        raise InputError(f"{name!r} is an array of {data.dtype} with shape {data.shape}: need numbers, in at least one dimension")
    write_axes(parent, name, data, [Axis.even(f"dim{i}", n, 1.0, "px") for i, n in enumerate(data.shape)], "1")


# ---------------------------------------------------------------- point lists


def is_bragg(item: object) -> bool:
    """Say whether lists of points are Bragg disks of a scan, which py4DSTEM has a class for."""
    return isinstance(item, PointListArray) and len(item.shape) == 2 and {"qx", "qy", "intensity"} <= set(item.fields)


def write_lists(dataset: h5py.Dataset, lists: np.ndarray, at: tuple[int, ...] | None = None) -> None:
    """Write an array of lists into a dataset of lists, from the position `at` on.

    The assignment of h5py takes lists of one point each for an array of points, and fails.
    """
    if not lists.size:
        return
    space = dataset.id.get_space()
    space.select_hyperslab(at or (0,) * lists.ndim, lists.shape)
    dataset.id.write(h5py.h5s.create_simple(lists.shape), space, lists, h5py.h5t.py_create(dataset.dtype))


def write_points(
    parent: h5py.Group, name: str, points: PointListArray, detector_shape: Sequence[int] | None, r_pixel: float | None = None
) -> None:
    """Write Bragg disks as py4DSTEM's BraggVectors (first qx, qy, intensity, then further fields), and other points as they are.

    Other programs find the positions along dimension vectors, in Å if `r_pixel` is known.
    """
    fields = list(points.fields)
    bragg = is_bragg(points)
    if bragg:
        fields = ["qx", "qy", "intensity", *(f for f in fields if f not in ("qx", "qy", "intensity"))]
        owner = node(parent, name, "custom", "BraggVectors")
        if detector_shape is None:
            detector_shape = [int(np.ceil(np.nanmax(arrays.to_numpy(points.flat(f)), initial=0.0))) + 1 for f in ("qx", "qy")]
        write_metadata(owner, "_braggvectors_shape", {"Rshape": points.shape, "Qshape": tuple(int(n) for n in detector_shape)})
        group = node(owner, "_v_uncal", "custom_pointlistarray", "PointListArray")
    else:
        group = node(parent, name, "pointlistarray", "PointListArray")
    flat = {f: arrays.to_numpy(points.flat(f)) for f in fields}
    dtype = np.dtype([(f, np.float64 if bragg and v.dtype.kind == "f" else v.dtype) for f, v in flat.items()])  # as py4DSTEM has them
    records = np.empty(len(points), dtype)
    for f, v in flat.items():
        records[f] = v
    offsets = arrays.to_numpy(points.offsets)
    lists = np.empty(len(offsets) - 1, object)
    for i in range(len(lists)):
        lists[i] = records[offsets[i] : offsets[i + 1]]
    data = group.create_dataset("data", points.shape, h5py.vlen_dtype(dtype))
    write_lists(data, lists.reshape(points.shape))
    even = ("Rx", "Ry") if len(points.shape) == 2 else tuple(f"dim{i}" for i in range(len(points.shape)))
    step, unit = (r_pixel, "Å") if r_pixel and len(points.shape) == 2 else (1.0, "px")
    write_dims(group, [Axis.even(axis, n, step, unit) for axis, n in zip(even, points.shape)])
    group.attrs["gpu4d_fields"] = [f"{f} {flat[f].dtype.str}" for f in points.fields]  # their order, and their types
    for f, unit in points.units.items():
        group.attrs[f"units_{f}"] = unit


def write_pointlist(parent: h5py.Group, name: str, points: PointList) -> None:
    """Write one list of points, with a dataset for each field."""
    group = node(parent, name, "pointlist", "PointList")
    for field in points.fields:
        values = arrays.to_numpy(points[field])
        dataset = group.create_dataset(field, data=values)
        dataset.attrs["dtype"] = np.bytes_(values.dtype.str)
        if field in points.units:
            dataset.attrs["units"] = points.units[field]
    group.attrs["gpu4d_fields"] = list(points.fields)
