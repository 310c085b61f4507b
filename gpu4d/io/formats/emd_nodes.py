"""Write EMD 1.0 nodes as emdfile and py4DSTEM do: metadata, arrays, point lists, a linked or copied cube."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from numbers import Number
from typing import Any

import h5py
import numpy as np

from gpu4d import arrays
from gpu4d.data.calibration import Calibration
from gpu4d.data.calibration_fields import FIELDS
from gpu4d.data.datacube import DataCube
from gpu4d.data.pointlist import PointList, PointListArray
from gpu4d.data.slices import DiffractionSlice, RealSlice, Slice
from gpu4d.data.source import check_whole
from gpu4d.errors import InputError
from gpu4d.io.formats.emd_reference import is_only_named, reference
from gpu4d.io.sources.hdf5_file import open_file
from gpu4d.io.sources.links import follow

# gpu4d's units as py4DSTEM spells them, and the reverse
UNITS = {"Å": "A", "1/Å": "A^-1", "px": "pixels", "": "1"}
STREAM_BYTES = 32 << 20
ALWAYS = ("energy", "semiangle", "convergence_semiangle_mrad")  # keys that py4DSTEM expects; written as None if the value is not known


def node(parent: h5py.Group, name: str, kind: str, python_class: str) -> h5py.Group:
    """Make a group with EMD's two tags."""
    group = parent.create_group(name)
    group.attrs["emd_group_type"], group.attrs["python_class"] = kind, python_class
    return group


# ---------------------------------------------------------------- metadata


def write_metadata(owner: h5py.Group, name: str, values: Mapping[str, Any], python_class: str = "Metadata") -> None:
    """Write a dictionary into the metadata bundle of a node."""
    if "metadatabundle" not in owner:
        owner.create_group("metadatabundle").attrs["emd_group_type"] = "metadatabundle"
    group = node(owner["metadatabundle"], name, "metadata", python_class)
    for key, value in values.items():
        _write_item(group, _key(key), value)


def _key(key: Any) -> str:
    return str(key).replace("/", "_").replace("\0", "") or "_"


def _write_item(group: h5py.Group, key: str, value: Any) -> None:
    """Write one value with emdfile's mark of its type. A value of another type is written as text."""
    if arrays.is_array(value) or isinstance(value, Slice):
        value = arrays.to_numpy(value) if arrays.is_array(value) else np.asarray(value)
        value = value.item() if value.ndim == 0 else value
    if isinstance(value, Mapping) or (isinstance(value, list | tuple) and any(isinstance(v, Mapping) for v in value)):
        inner = group.create_group(key)
        inner.attrs["type"] = "dict"
        for k, v in value.items() if isinstance(value, Mapping) else enumerate(value):
            _write_item(inner, _key(k), v)
    elif isinstance(value, list | tuple):
        _write_sequence(group, key, value)
    elif value is None:
        _write_value(group, key, b"_None", "None")
    elif isinstance(value, bool | np.bool_):
        _write_value(group, key, np.bool_(value), "bool")
    elif isinstance(value, Number):
        _write_value(group, key, value, "number")
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        _write_value(group, key, value, "array")
    else:
        _write_value(group, key, str(value).replace("\0", "").encode(errors="backslashreplace"), "string")


def _write_value(group: h5py.Group, key: str, value: Any, kind: str) -> None:
    group.create_dataset(key, data=value).attrs["type"] = kind.encode()


def _write_sequence(group: h5py.Group, key: str, values: Sequence[Any]) -> None:
    kind = "tuple" if isinstance(values, tuple) else "list"
    if all(isinstance(v, Number | np.bool_) for v in values):
        _write_value(group, key, np.asarray(values, dtype=None if values else np.float64), kind)
        return
    rows = all(isinstance(v, np.ndarray | list | tuple) and _is_numeric(v) for v in values)
    inner = group.create_group(key)
    inner.attrs["type"], inner.attrs["length"] = f"{kind}_of_{'arrays' if rows else 'strings'}", len(values)
    for i, v in enumerate(values):
        inner.create_dataset(str(i), data=np.asarray(v) if rows else str(v).replace("\0", "").encode())


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


def _write_dims(group: h5py.Group, shape: Sequence[int], names: Sequence[str], sizes: Sequence[float], units: Sequence[str]) -> None:
    # Write whole vectors: when emdfile extends a pair (0, step) itself, the vector can be one element too long.
    for n, (length, name, size, unit) in enumerate(zip(shape, names, sizes, units)):
        dim = group.create_dataset(f"dim{n}", data=np.arange(length) * float(size))
        dim.attrs["name"], dim.attrs["units"] = name, unit


def write_slice(parent: h5py.Group, name: str, item: Slice) -> None:
    """Write a slice or a stack of slices. As in emdfile, the planes are the first axis, and the last dimension vector has their labels."""
    data = np.asarray(item)
    letter = "R" if isinstance(item, RealSlice) else "Q" if isinstance(item, DiffractionSlice) else ""
    if data.ndim not in (2, 3):
        raise InputError(f"{name!r} has shape {data.shape}: a slice to be saved is (nx, ny), or a stack (n, nx, ny)")
    group = node(parent, name, "array", {"R": "RealSlice", "Q": "DiffractionSlice"}.get(letter, "Array"))
    group.create_dataset("data", data=data).attrs["units"] = item.units or "1"
    axes = [f"{letter}x", f"{letter}y"] if letter else ["dim0", "dim1"]
    units = UNITS.get(item.pixel_units, item.pixel_units)
    _write_dims(group, data.shape[-2:], axes, [item.pixel_size] * 2, [units] * 2)
    if data.ndim == 3:
        labels = [*item.labels, *(f"plane {i}" for i in range(len(item.labels), data.shape[0]))][: data.shape[0]]
        group.create_dataset("dim2", data=[label.encode() for label in labels]).attrs["name"] = "_labels_"


def write_array(parent: h5py.Group, name: str, data: np.ndarray) -> None:
    """Write an array without names or units, with one dimension or more."""
    if data.dtype.kind not in "biufc" or data.ndim == 0:
        raise InputError(f"{name!r} is an array of {data.dtype} with shape {data.shape}: need numbers, in at least one dimension")
    group = node(parent, name, "array", "Array")
    group.create_dataset("data", data=data).attrs["units"] = "1"
    n = data.ndim
    _write_dims(group, data.shape, [f"dim{i}" for i in range(n)], [1.0] * n, ["pixels"] * n)


# ---------------------------------------------------------------- point lists


def write_points(parent: h5py.Group, name: str, points: PointListArray, detector_shape: Sequence[int] | None) -> None:
    """Write Bragg disks as py4DSTEM's BraggVectors (first qx, qy, intensity, then further fields), and other points as they are."""
    fields = list(points.fields)
    bragg = len(points.shape) == 2 and {"qx", "qy", "intensity"} <= set(fields)
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
    dtype = np.dtype([(f, np.float64 if v.dtype.kind == "f" else v.dtype) for f, v in flat.items()])
    records = np.empty(len(points), dtype)
    for f, v in flat.items():
        records[f] = v
    offsets = arrays.to_numpy(points.offsets)
    lists = np.empty(len(offsets) - 1, object)
    for i in range(len(lists)):
        lists[i] = records[offsets[i] : offsets[i + 1]]
    data = group.create_dataset("data", points.shape, h5py.vlen_dtype(dtype))
    if lists.size:
        data[...] = lists.reshape(points.shape)
    for f, unit in points.units.items():
        group.attrs[f"units_{f}"] = unit


def write_pointlist(parent: h5py.Group, name: str, points: PointList) -> None:
    """Write one list of points, with a dataset for each field."""
    group = node(parent, name, "pointlist", "PointList")
    for field in points.fields:
        values = arrays.to_numpy(points[field])
        group.create_dataset(field, data=values).attrs["dtype"] = np.bytes_(values.dtype.str)


# ---------------------------------------------------------------- the cube


def write_cube(parent: h5py.Group, name: str, cube: DataCube, link: bool, target: str, check: Callable[[], None]) -> None:
    """Link the scan to its file, or write it a few rows at a time.

    The group of a linked cube is marked `custom_array`. emdfile and py4DSTEM then read it only if it is named by its path. So they
    do not load the whole raw scan together with the results.
    """
    if link and is_only_named(cube.source):
        write_metadata(parent, name, reference(cube, target))
        return
    linked = _write_link(parent, name, cube, target) if link else None
    group = linked if linked is not None else node(parent, name, "array", "DataCube")
    if linked is None:
        _write_patterns(group, cube, check)
    describe_cube(group, cube)


def describe_cube(group: h5py.Group, cube: DataCube) -> None:
    """Write units and axes of the patterns in a group, the detector mask, and what was corrected."""
    group["data"].attrs["units"] = "counts"
    c = cube.calibration
    sizes = [c.r_pixel or 1.0] * 2 + [c.q_pixel or 1.0] * 2
    units = ["A" if c.r_pixel else "pixels"] * 2 + ["A^-1" if c.q_pixel else "pixels"] * 2
    _write_dims(group, cube.shape, ["Rx", "Ry", "Qx", "Qy"], sizes, units)
    if cube.detector_mask is not None:
        write_metadata(group, "detector", {"mask": cube.detector_mask})
    applied = [text for text in (earlier_corrections(cube), cube.corrections.description) if text]
    if applied:  # the patterns written are corrected ones, now or when they were written before
        write_metadata(group, "corrections", {"applied": ", ".join(applied)})


def earlier_corrections(cube: DataCube) -> str:
    """Return what was corrected in the patterns of the file that a cube was opened from; empty if nothing was."""
    kept = cube.metadata.get("metadata")
    found = kept.get("corrections") if isinstance(kept, Mapping) else None
    return str(found.get("applied", "")) if isinstance(found, Mapping) else ""


def _write_link(parent: h5py.Group, name: str, cube: DataCube, target: str) -> h5py.Group | None:
    """Link by a virtual dataset (HDF5 file) or by external storage (mapped `.npy`). Return None for a cube that is in no file."""
    source: Any = cube.source
    path, dataset = getattr(source, "path", None), getattr(source, "dataset", None)
    if path is None:
        return None
    group = node(parent, name, "custom_array", "DataCube")
    if dataset is None:
        create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        create.set_external(os.fsencode(path), source.offset, source.nbytes)
        create.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space, kind = h5py.h5s.create_simple(cube.shape), h5py.h5t.py_create(source.stored, logical=True)
        h5py.h5d.create(group.id, b"data", kind, space, dcpl=create)
    else:
        with open_file(path) as raw:
            stored = follow(raw, dataset)
            shape, dtype = stored.shape, stored.dtype
        layout = h5py.VirtualLayout(cube.shape, dtype)
        layout[...] = h5py.VirtualSource(relative(path, target), dataset, shape)
        group.create_virtual_dataset("data", layout)
    write_metadata(group, "raw", {"file": path, "dataset": dataset, "layout": source.description})
    return group


def relative(path: str, target: str) -> str:
    """Return the path of the raw file relative to the folder of the results, so that both can be moved together."""
    try:
        return os.path.relpath(os.path.realpath(path), os.path.dirname(os.path.realpath(target)))
    except ValueError:  # it is on another drive
        return path


def _write_patterns(group: h5py.Group, cube: DataCube, check: Callable[[], None]) -> None:
    rx, ry = cube.scan_shape
    source = cube.source
    first = arrays.to_numpy(source.read(slice(0, 1), slice(0, 1)))
    data = group.create_dataset("data", cube.shape, first.dtype)
    block_rows, block_columns = source.blocks
    frame = first.nbytes
    columns = (
        ry if frame * ry * block_rows <= STREAM_BYTES else max(STREAM_BYTES // (frame * block_rows) // block_columns, 1) * block_columns
    )
    rows = max(STREAM_BYTES // (frame * min(columns, ry)) // block_rows, 1) * block_rows
    for x in range(0, rx, rows):
        for y in range(0, ry, columns):
            cut = slice(x, min(x + rows, rx)), slice(y, min(y + columns, ry))
            data[cut] = arrays.to_numpy(source.read(*cut))
            check_whole(source)
            check()
